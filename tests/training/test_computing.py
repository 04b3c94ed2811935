"""Where networks compute, and in which numbers: on a card as on the processor, in bfloat16 as well."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from robots.demonstrators import collect_demonstrations
from robots.embodiments import Motion
from robots.episodes import write_episodes
from robots.worlds.language_table.physics import LanguageTable
from tests.training import on_a_card
from tests.training.test_backbones import BLIND, BODY, looking
from training import computing, practice
from training.__main__ import carry_out
from training.computing import ComputingError, compute_with
from training.methods.sft import sft
from training.networks.heads import drawn

# One number of an action says where a joint shall go, from where it is.
JOINTS = dataclasses.replace(
    BODY, motions=(Motion("position", 2.0, "passed", relative=True), Motion("position", 2.0, "passed"))
)


@pytest.fixture(autouse=True)
def as_before(monkeypatch):
    """What a run sets for its process is over with the test."""
    monkeypatch.setattr(computing, "_NOW", computing.now())


@pytest.fixture(scope="module")
def shown(tmp_path_factory, demonstrations):
    """A folder with a few demonstrations of each kind of body."""
    folder = tmp_path_factory.mktemp("shown")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageTable, "renderer", "drawn")
        episodes = {
            "table": demonstrations[:8],
            "arm": collect_demonstrations(["so101_pick"], 4, seed=0),
            "overhead": collect_demonstrations(["camera_block2block"], 12, seed=8),
            "looking": looking(6),
            "reading": looking(6, body=BLIND),
            "joints": looking(6, body=JOINTS),
        }
    for name, each in episodes.items():
        write_episodes(folder / f"{name}.safetensors", each)
    return folder


@pytest.fixture(scope="module")
def apart(tmp_path_factory, shown):
    """How far the weights of each kind of network lie apart when they learn on the processor and on a card."""
    folder = tmp_path_factory.mktemp("card")
    (folder / "demonstrations").symlink_to(shown)
    done = subprocess.run(
        [sys.executable, on_a_card.__file__, str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {kind: found for line in done.stdout.splitlines() for kind, found in json.loads(line).items()}


@pytest.mark.parametrize("kind", on_a_card.KINDS)
def test_all_of_a_network_computes_on_the_card(apart, kind):
    """In SFT, practice and evaluation. What mixes the two devices is refused there as by a real one; what is left to
    round differently is far less than an update changes.
    """
    assert isinstance(apart[kind], float), apart[kind]
    assert apart[kind] < 2e-4


@pytest.mark.parametrize(("rows", "choices"), [(1, 7), (64, 21), (5, 256)])
def test_chance_draws_as_torch_would_on_the_processor(rows, choices):
    ours, torchs = (torch.Generator().manual_seed(3) for _ in range(2))
    shares = torch.rand(rows, choices).softmax(1)
    for _ in range(3):
        assert drawn(shares, ours).equal(torch.multinomial(shares, 1, generator=torchs)[:, 0])
    assert ours.get_state().equal(torchs.get_state())


@pytest.mark.skipif(torch.cuda.is_available(), reason="it has one")
@pytest.mark.parametrize("kind", ["sft", "improve"])
def test_a_device_that_is_not_there_is_said_before_anything_starts(new_sft_run, new_improve_run, tmp_path, kind):
    run = {"sft": new_sft_run, "improve": new_improve_run}[kind](device="cuda")
    assert carry_out(kind, run) == 2
    (said,) = run.read_metrics()[0]
    assert said["reason"] == "torch finds no cuda device on this machine; set the device to one of: cpu."
    assert practice.main(["--server", "http://x", "--tokens", str(tmp_path / "t"), "--device", "cuda"]) == 2


def test_each_process_takes_a_card_of_its_own(monkeypatch):
    taken = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    compute_with("cuda", "bf16")
    assert computing.now() == computing.Computing(torch.device("cuda", 1), bf16=True) and taken == [1]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ComputingError, match="this machine has 2; set the processes to 2 or fewer"):
        compute_with("cuda", "fp32")


@pytest.mark.parametrize("kind", ["table", "cameras"])
def test_bfloat16_learns_and_weights_stay_float32(new_sft_run, kind):
    losses = {}
    for precision in ("fp32", "bf16"):
        run = new_sft_run(precision, precision=precision, evaluation_episodes=0, steps=200, validate_every=20)
        if kind == "cameras":
            write_episodes(run.data / "demonstrations.safetensors", looking(12))
        sft(run)
        losses[precision] = [line["bc"] + line["steps_to_go"] for line in run.lines("loss") if "bc" in line]
        state = on_a_card.load_file(run.path / "state.safetensors")
        assert {each.dtype for name, each in state.items() if name != "generator"} <= {torch.float32, torch.int64}
    assert losses["bf16"] != losses["fp32"], "it computed in float32"
    fallen = {precision: each[0] - each[-1] for precision, each in losses.items()}
    assert fallen["bf16"] > 0.5 and fallen["bf16"] == pytest.approx(fallen["fp32"], rel=0.2)
