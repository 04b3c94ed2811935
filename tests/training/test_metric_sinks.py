"""Where the figures of a run go besides: each sink with a made-up package; missing, broken, slow, restarted ones."""

import json
import sys
import threading
import time
from types import ModuleType, SimpleNamespace

import pytest

from training import metric_sinks
from training.__main__ import main
from training.metric_sinks import SINKS, figures_of, sending
from training.recipes import SFTRecipe
from training.run_dir import RunDir


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(metric_sinks, "EVERY_S", 0.01)
    monkeypatch.setattr(metric_sinks, "END_WITHIN_S", 120)
    return RunDir.create(tmp_path / "7", SFTRecipe())


class Taken:
    """What a made-up package was told, as each of the four tools is called."""

    def __init__(self):
        self.points, self.begun, self.closed = [], [], 0

    def begin(self, **given):
        self.begun.append(given)
        return SimpleNamespace(log=self.points.append, finish=self.close)

    def close(self, *_):
        self.closed += 1

    def modules(self):
        def add_scalar(name, value, step, walltime):
            self.points.append((name, value, step, walltime))

        def writer(folder):
            self.begun.append({"folder": folder})
            return SimpleNamespace(add_scalar=add_scalar, flush=lambda: None, close=self.close)

        def log_metric(run_id, name, value, timestamp, step):
            self.points.append((name, value, step, timestamp / 1000))

        def create_run(experiment, run_name):
            self.begun.append({"name": run_name, "experiment": experiment})
            return SimpleNamespace(info=SimpleNamespace(run_id="mlflow-1"))

        client = SimpleNamespace(
            get_experiment_by_name=lambda name: None,
            create_experiment=lambda name: name,
            create_run=create_run,
            log_param=lambda *given: None,
            log_metric=log_metric,
            set_terminated=self.close,
        )
        return {
            "tensorboard": {},
            "torch.utils.tensorboard": {"SummaryWriter": writer},
            "wandb": {"init": self.begin},
            "trackio": {"init": self.begin},
            "mlflow": {"MlflowClient": lambda: client},
        }


@pytest.fixture
def taken(monkeypatch):
    taken = Taken()
    for name, parts in taken.modules().items():
        module = ModuleType(name)
        module.__spec__ = SimpleNamespace(name=name)
        vars(module).update(parts)
        monkeypatch.setitem(sys.modules, name, module)
    return taken


def notes(run):
    return [line["text"] for line in run.lines("note")]


def test_the_figures_of_a_line():
    loss = {"t": 1.0, "kind": "loss", "step": 50, "actions": 0.5, "d": None, "is_last": True, "words": "x"}
    assert figures_of(loss) == (50, {"loss/actions": 0.5})
    level = {"kind": "evaluation", "version": 3, "practice_episodes": 40, "successes": 9, "n": 10, "mean": float("inf")}
    step, figures = figures_of(level)
    assert step == 40 and figures["evaluation/success"] == 0.9 and "evaluation/mean" not in figures
    assert figures_of({"kind": "note", "text": "hello", "level": "info"}) == (0, {})


@pytest.mark.parametrize("name", SINKS)
def test_each_takes_every_figure_once_also_of_a_restarted_run(run, taken, monkeypatch, name):
    monkeypatch.setenv("FLEETUI_METRICS", name.upper())
    with sending(run):
        run.log("loss", step=1, actions=0.5)
        run.note("no figure")
    assert len(taken.points) == 1 and taken.closed == 1 and notes(run) == ["no figure"]
    run.log("loss", step=2, actions=0.25)  # logged while nobody sent
    with sending(run):
        run.log("loss", step=3, actions=0.125)
    assert len(taken.points) == 3 and taken.closed == 2
    shown = json.dumps(taken.points)
    assert all(shown.count(figure) == 1 for figure in ("0.5", "0.25", "0.125"))
    names = [point[0] if isinstance(point, tuple) else min(point) for point in taken.points]
    assert set(names) == {"loss/actions"}
    if name in ("wandb", "trackio"):
        key = "id" if name == "wandb" else "name"
        assert taken.begun[0][key] == taken.begun[1][key] and taken.begun[0]["config"]["kind"] == "sft"
        assert taken.points[2] == {"loss/actions": 0.125, "loss/at": 3}
    else:
        assert taken.points[2][2] == 3 and abs(taken.points[2][3] - time.time()) < 60
    if name == "mlflow":
        assert len(taken.begun) == 1, "a restart goes on with the same run"


def test_without_the_setting_nothing_is_imported_or_written(run, taken):
    before = set(threading.enumerate())
    with sending(run):
        run.log("loss", step=1, actions=0.5)
        assert set(threading.enumerate()) <= before
    assert not taken.begun and not (run.path / "sinks").exists()


def test_what_is_missing_or_unknown_is_said_at_the_start(run, monkeypatch):
    monkeypatch.setenv("FLEETUI_METRICS", "wandb, excel,wandb")
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setattr(metric_sinks.importlib.util, "find_spec", lambda name: None)
    with sending(run):
        run.log("loss", step=1, actions=0.5)
    missing, unknown = notes(run)
    assert 'pip install "fleetui[wandb]"' in missing and "'excel'" in unknown and "tensorboard" in unknown


def test_a_sink_that_fails_is_said_once_and_kills_nothing(run, taken, monkeypatch):
    monkeypatch.setenv("FLEETUI_METRICS", "wandb,tensorboard")

    def broken(**given):
        raise RuntimeError("no key")

    monkeypatch.setattr(sys.modules["wandb"], "init", broken)
    with sending(run):
        for step in range(5):
            run.log("loss", step=step, actions=0.5)
    assert notes(run) == [
        "Figures go to wandb no longer (RuntimeError: no key). The run itself goes on, with its own curves."
    ]
    assert len(taken.points) == 5, "the other one goes on"


def test_a_sink_that_hangs_holds_up_neither_the_run_nor_for_long_its_end(run, taken, monkeypatch):
    monkeypatch.setenv("FLEETUI_METRICS", "wandb")
    monkeypatch.setattr(metric_sinks, "END_WITHIN_S", 0.2)
    begun, over, answered = threading.Event(), threading.Event(), []

    def hang(**given):
        begun.set()
        over.wait(60)
        answered.append("in the end")

    monkeypatch.setattr(sys.modules["wandb"], "init", hang)
    with sending(run):
        assert begun.wait(60)
        run.log("loss", step=1, actions=0.5)
        assert not answered, "the run waited for it"
    assert not answered and "within 0.2 s" in notes(run)[0], "the run's end waited for it"
    over.set()


def test_a_run_that_fails_still_ends_its_sinks(tmp_path, taken, monkeypatch):
    run = RunDir.create(tmp_path / "8", SFTRecipe())
    monkeypatch.setenv("FLEETUI_METRICS", "tensorboard")
    monkeypatch.setattr(sys, "argv", ["training", "sft", str(run.path)])
    monkeypatch.setattr(RunDir, "listen_for_cancel", lambda self: None)
    assert main() == 2, "it has no demonstrations"
    assert run.lines("failed") and taken.closed == 1
