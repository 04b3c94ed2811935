"""A run's figures also go to TensorBoard, Weights & Biases, MLflow or Trackio, where a lab has one.

    FLEETUI_METRICS=tensorboard,wandb python -m training sft RUN_DIR

The run directory stays the seam: each sink reads RUN/metrics.jsonl from where it was, in a thread of its own, and sends
the numbers of each line. So no method knows of it, a sink that is slow or broken holds up no update, and a restarted
run goes on where it was: RUN/sinks/NAME.json keeps how far it came, and the tool's own id of the run. A sink's package
is imported only where it is asked for; what it needs beyond that (keys, addresses) are its own environment variables.
"""

import contextlib
import importlib
import importlib.util
import json
import math
import os
import threading
import uuid
from collections.abc import Iterator
from typing import Any, Protocol

from robots import strict_json
from robots.atomic_files import write_atomically
from training.run_dir import RunDir

SETTING = "FLEETUI_METRICS"
PROJECT = "fleetui"  # as the tools call what belongs together; their own variables say another name
EVERY_S = 1.0
END_WITHIN_S = 20.0  # a run's end waits so long for what is not sent yet
# What a line is drawn over: the first of these that it has.
STEPS = ("step", "practice_episodes", "episodes", "done", "version")
NO_FIGURES = ("t", "kind", "seed")


def figures_of(line: dict[str, Any]) -> tuple[int, dict[str, float]]:
    """(step, figure by "KIND/NAME") of a line of metrics.jsonl; no figures where it has no number to draw."""
    step = next((name for name in STEPS if isinstance(line.get(name), int)), None)
    figures = {
        f"{line['kind']}/{name}": float(value)
        for name, value in line.items()
        if name not in (*NO_FIGURES, step)
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }
    if {"successes", "n"} <= line.keys() and line["n"]:
        figures[f"{line['kind']}/success"] = line["successes"] / line["n"]
    return (line[step] if step else 0), figures


class Sink(Protocol):
    """Where figures go. Made in the sink's own thread, with the run and the id that it had before ("": none)."""

    id: str  # by which the tool knows the run again

    def send(self, step: int, figures: dict[str, float], at: float) -> None:
        """Figures of one moment; `at` in seconds since 1970."""

    def close(self) -> None:
        """No more will come."""


class TensorBoard:
    """Event files in RUN/tensorboard: tensorboard --logdir RUN."""

    package, extra = "tensorboard", "tensorboard"

    def __init__(self, run: RunDir, known: str):
        self.id = ""
        self.writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(run.path / "tensorboard"))

    def send(self, step: int, figures: dict[str, float], at: float) -> None:
        """A point of each curve."""
        for name, value in figures.items():
            self.writer.add_scalar(name, value, step, walltime=at)
        self.writer.flush()

    def close(self) -> None:
        """Write the rest."""
        self.writer.close()


class WeightsAndBiases:
    """A run of wandb, with the recipe as its configuration. WANDB_MODE=offline keeps it in RUN/wandb."""

    package, extra = "wandb", "wandb"

    def __init__(self, run: RunDir, known: str):
        self.id = known or uuid.uuid4().hex
        project = os.environ.get("WANDB_PROJECT", PROJECT)
        self.run = importlib.import_module("wandb").init(
            project=project,
            name=f"run {run.path.name}",
            id=self.id,
            resume="allow",
            dir=str(run.path),
            config=recipe(run),
        )

    def send(self, step: int, figures: dict[str, float], at: float) -> None:
        """Kinds of lines have steps of their own, so each line says its own."""
        self.run.log(figures | {f"{kind}/at": step for kind in {name.partition("/")[0] for name in figures}})

    def close(self) -> None:
        """Send the rest."""
        self.run.finish()


class MLflow:
    """A run of MLflow at MLFLOW_TRACKING_URI, with the recipe as its parameters."""

    package, extra = "mlflow", "mlflow"

    def __init__(self, run: RunDir, known: str):
        mlflow = importlib.import_module("mlflow")
        self.client = mlflow.MlflowClient()
        if not known:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            experiment = self.client.get_experiment_by_name(name)
            number = experiment.experiment_id if experiment else self.client.create_experiment(name)
            known = self.client.create_run(number, run_name=f"run {run.path.name}").info.run_id
            for field, value in recipe(run).items():
                self.client.log_param(known, field, value)
        self.id = known

    def send(self, step: int, figures: dict[str, float], at: float) -> None:
        """A point of each curve."""
        for name, value in figures.items():
            self.client.log_metric(self.id, name, value, timestamp=int(at * 1000), step=step)

    def close(self) -> None:
        """A restart opens it again by its id."""
        self.client.set_terminated(self.id)


class Trackio:
    """A run of Trackio, on this machine or in the Space that TRACKIO_SPACE_ID names."""

    package, extra = "trackio", "trackio"

    def __init__(self, run: RunDir, known: str):
        self.id = known or f"run {run.path.name} {uuid.uuid4().hex[:8]}"
        space = os.environ.get("TRACKIO_SPACE_ID") or None
        self.run = importlib.import_module("trackio").init(
            project=PROJECT, name=self.id, resume="allow", space_id=space, config=recipe(run)
        )

    def send(self, step: int, figures: dict[str, float], at: float) -> None:
        """Kinds of lines have steps of their own, so each line says its own."""
        self.run.log(figures | {f"{kind}/at": step for kind in {name.partition("/")[0] for name in figures}})

    def close(self) -> None:
        """Send the rest."""
        self.run.finish()


SINKS: dict[str, Any] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": MLflow, "trackio": Trackio}


def recipe(run: RunDir) -> dict[str, Any]:
    """As RUN/recipe.json has it."""
    told: dict[str, Any] = json.loads((run.path / "recipe.json").read_text())
    return told


class Tail:
    """Sends what a run logs to one sink, in a thread, until it is ended. Whatever goes wrong there ends the sending, is
    said once on the run's page, and hurts nothing else.
    """

    def __init__(self, run: RunDir, name: str):
        self.run, self.name = run, name
        self.state = run.path / "sinks" / f"{name}.json"
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self._send_all, name=f"metrics to {name}", daemon=True)

    def _send_all(self) -> None:
        try:
            kept = json.loads(self.state.read_text()) if self.state.exists() else {}
            sink: Sink = SINKS[self.name](self.run, kept.get("id", ""))
            offset = kept.get("offset", 0)
            while True:
                last = self.ending.wait(EVERY_S)  # asked before it reads: what was logged until then is read
                lines, offset = self.run.read_metrics(offset)
                for line in lines:
                    step, figures = figures_of(line)
                    if figures:
                        sink.send(step, figures, line.get("t", 0.0))
                if lines:
                    self.state.parent.mkdir(exist_ok=True)
                    write_atomically(self.state, strict_json.dumps({"id": sink.id, "offset": offset}).encode())
                if last:
                    sink.close()
                    return
        except Exception as error:  # of somebody else's package: it may be anything
            self._say(f"{type(error).__name__}: {error}")

    def _say(self, why: str) -> None:
        with contextlib.suppress(OSError):
            self.run.note(
                f"Figures go to {self.name} no longer ({why[:300]}). The run itself goes on, with its own curves.",
                level="warning",
            )

    def end(self, seconds: float) -> None:
        """What is logged by now is sent, if that takes no longer."""
        self.ending.set()
        self.thread.join(seconds)
        if self.thread.is_alive():
            self._say(f"it did not take them within {seconds:g} s of the run's end")


def asked_for(run: RunDir) -> list[str]:
    """The sinks that the environment names and this machine has; of others the run's page says what to do."""
    names = [name.strip().lower() for name in os.environ.get(SETTING, "").split(",") if name.strip()]
    found = []
    for name in dict.fromkeys(names):
        if name not in SINKS:
            run.note(f"{SETTING} names {name!r}, which is none of {', '.join(SINKS)}; it is left out.", level="warning")
        elif importlib.util.find_spec(SINKS[name].package) is None:
            run.note(
                f"{SETTING} asks for {name}, which is not installed where runs are trained: "
                f'pip install "fleetui[{SINKS[name].extra}]". The run goes on without.',
                level="warning",
            )
        else:
            found.append(name)
    return found


@contextlib.contextmanager
def sending(run: RunDir) -> Iterator[None]:
    """Within, what the run logs goes to the sinks that FLEETUI_METRICS names, too."""
    tails = [Tail(run, name) for name in asked_for(run)] if run.path.is_dir() else []
    for tail in tails:
        tail.thread.start()
    try:
        yield
    finally:
        for tail in tails:
            tail.end(END_WITHIN_S)
