"""Two real processes train one network, on CPUs with gloo, as torchrun starts them."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.numpy import load_file

from robots.episodes import write_episodes
from tests.conftest import AT_LENGTH
from tests.training.conftest import SMALL_SFT
from tests.training.test_sft import both
from training.__main__ import train
from training.processes import Processes
from training.recipes import RecipeError, SFTRecipe
from training.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]

# Each process as it is, save that it leaves its weights beside the run, and that one thing happens at an update.
PROGRAM = """
import os, signal, sys
import torch
from safetensors.torch import save_file
from robots.embodiments import STATE
from training import __main__
from training.methods import sft

run, event, rank = sys.argv[2], os.environ["EVENT"], int(os.environ["RANK"])
train, descend, read, updates = sft.train, sft.descend, sft.read_demonstrations, []

def train_and_tell(run, losses, *others):
    done = train(run, losses, *others)
    save_file(losses.network.state_dict(), f"{run.path}/weights-{rank}")
    return done

def descend_until(loss, optimiser, parameters, *others, **more):
    if "processes" in more:
        updates.append(loss)
        if len(updates) == 15 and event == "stop" and rank == 0:
            os.kill(os.getppid(), signal.SIGTERM)  # torchrun, which the job tells to end
        if len(updates) == 15 and event == f"stop {rank}":
            os.kill(os.getpid(), signal.SIGTERM)  # one alone hears it
        if len(updates) == 15 and event == f"kill {rank}":
            os.kill(os.getpid(), signal.SIGKILL)
        if len(updates) == 15 and event == "kill torchrun" and rank == 0:
            os.kill(os.getppid(), signal.SIGKILL)
    return descend(loss, optimiser, parameters, *others, **more)

def read_with_one_bad(*arguments):
    demonstrations = read(*arguments)
    if event == "bad":
        demonstrations.observations[STATE][demonstrations.frames_of(torch.tensor([7]))] = torch.inf
    return demonstrations

sft.train, sft.descend, sft.read_demonstrations = train_and_tell, descend_until, read_with_one_bad
sys.exit(__main__.main())
"""


@pytest.fixture(scope="module")
def torchrun(tmp_path_factory):
    """Trains a run with two processes; returns how that ended."""
    program = tmp_path_factory.mktemp("program") / "program.py"
    program.write_text(PROGRAM)

    def start(run, event=""):
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        return subprocess.run(
            [*command, str(program), "sft", str(run.path)],
            env=os.environ | {"EVENT": event, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return start


@pytest.fixture(scope="module")
def whole(tmp_path_factory, demonstrations, torchrun):
    """A run that nothing interrupted."""
    recipe = SFTRecipe(**SMALL_SFT | {"processes": 2, "evaluation_episodes": 0})
    run = RunDir.create(tmp_path_factory.mktemp("processes") / "whole", recipe)
    write_episodes(run.data / "demonstrations.safetensors", demonstrations)
    done = torchrun(run)
    assert done.returncode == 0, done.stderr
    return run


@pytest.mark.parametrize("code", [0, 2])
def test_one_of_several_ends_before_threads_of_torch_could_abort_it(new_sft_run, monkeypatch, code):
    ends = []
    monkeypatch.setattr("training.__main__.carry_out", lambda kind, run: code)
    monkeypatch.setattr(os, "_exit", ends.append)
    arguments = argparse.Namespace(command="sft", run_dir=new_sft_run().path)
    assert train(arguments) == code and ends == [], "alone it ends as programs do"
    monkeypatch.setenv("RANK", "1")
    train(arguments)
    assert ends == [code]


def of_rank(run, rank):
    return {name: array.tobytes() for name, array in load_file(run.path / f"weights-{rank}").items()}


def left_of(run):
    return [each.pid for each in psutil.process_iter(["cmdline"]) if str(run.path) in (each.info["cmdline"] or [])]


def test_both_have_the_same_weights_and_the_first_alone_writes(whole):
    assert of_rank(whole, 0) == of_rank(whole, 1)
    lines = whole.read_metrics()[0]
    assert [line["step"] for line in lines if line["kind"] == "loss" and "bc" in line] == [10, 20, 30, 40]
    assert [line["role"] for line in lines if line["kind"] == "checkpoint"] == ["reward_model", "policy"]
    assert [line["kind"] for line in lines].count("done") == 1 and not left_of(whole)


@pytest.mark.parametrize("event", ["stop 1", "kill 1", *(["stop", "kill 0", "kill torchrun"] if AT_LENGTH else [])])
def test_one_that_is_stopped_or_killed_ends_all_and_goes_on_to_the_same_bits(new_sft_run, torchrun, whole, event):
    run = new_sft_run(processes=2, evaluation_episodes=0)
    ended = torchrun(run, event)
    assert (ended.returncode == 0) == (event == "stop 1") and not left_of(run)
    lines = run.read_metrics()[0]
    if event.startswith("stop"):
        assert lines[-1]["text"] == "canceled" and of_rank(run, 0) == of_rank(run, 1)
    else:
        assert "done" not in [line["kind"] for line in lines]
    if event in ("kill 0", "kill 1"):
        assert "Root Cause" in ended.stderr and f"rank      : {event[-1]} " in ended.stderr
        assert signal.Signals.SIGKILL.name in ended.stderr
    assert (run.path / "state.safetensors").exists()
    assert torchrun(run).returncode == 0
    assert both(run) == both(whole)


def test_a_demonstration_that_one_of_them_drew_is_left_out_by_all(new_sft_run, torchrun):
    run = new_sft_run(processes=2, evaluation_episodes=0)
    done = torchrun(run, "bad")
    assert done.returncode == 0, done.stderr
    said = [line["text"] for line in run.lines("note") if "left out" in line["text"]]
    assert len(set(said)) == 1 and of_rank(run, 0) == of_rank(run, 1)


def test_the_number_that_began_must_be_the_recipes(new_sft_run):
    run = new_sft_run(processes=2)
    done = subprocess.run(
        [sys.executable, "-m", "training", "sft", str(run.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "torchrun --standalone --nproc-per-node 2 -m training sft" in done.stderr


def test_a_batch_is_shared_evenly():
    assert SFTRecipe(processes=4, batch=256).processes == 4
    with pytest.raises(RecipeError, match="write a multiple of 6"):
        SFTRecipe(processes=3, batch=256)
    SFTRecipe(batch=257)  # one process may have any


def test_each_draws_its_own_and_the_same_again():
    drawn = {}
    for rank in (0, 1, 0):
        generator = torch.Generator().manual_seed(5)
        Processes(rank, 2).draw_apart(generator, seed=5, step=3)
        drawn.setdefault(rank, []).append(torch.rand(4, generator=generator).tolist())
    assert drawn[0][0] == drawn[0][1] != drawn[1][0]
    alone, untouched = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    Processes().draw_apart(alone, seed=5, step=3)
    assert alone.get_state().equal(untouched.get_state())
