"""What checkpoints say of one observation; files that say something else of the same weights."""

import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from robots.episodes import write_episodes
from tests.conftest import ROOT
from training import inspecting
from training.checkpoint_files import FileError, read_description, write_described
from training.checkpoints import Policy, RewardModel, load_checkpoint


@pytest.fixture
def question(tmp_path, demonstrations, finished_sft):
    episode = demonstrations[0]
    write_episodes(tmp_path / "one.safetensors", [episode])
    paths = [str(finished_sft.checkpoints / f"{role}.safetensors") for role in ("policy", "reward_model")]
    return {
        "checkpoints": paths,
        "episode": str(tmp_path / "one.safetensors"),
        "step": 3,
        "words": episode.instruction,
    }


def test_it_says_what_stations_would_hear(question, demonstrations, finished_sft):
    policy, judge = inspecting.inspect(question, {})["answers"]
    observation = {key: each[3:4] for key, each in demonstrations[0].observations.items()}
    reward_model = RewardModel.load(finished_sft.checkpoints / "reward_model.safetensors")
    d, distribution = reward_model.steps_to_go(observation, [question["words"]])
    assert judge["d"] == pytest.approx(float(d[0])) and judge["threshold"] == reward_model.threshold
    np.testing.assert_allclose(judge["distribution"], distribution[0], atol=1e-5)
    assert sum(policy["prediction"]) == pytest.approx(1, abs=1e-3)
    assert policy["unknown_words"] == []


def test_the_tokens_shares_are_those_of_sampled_actions(question, demonstrations, finished_sft):
    (answer,) = inspecting.inspect(question | {"checkpoints": question["checkpoints"][:1]}, {})["answers"]
    assert answer["exact"]
    policy = Policy.load(question["checkpoints"][0])
    count = 4000
    observations = {key: each[3:4].repeat(count, 0) for key, each in demonstrations[0].observations.items()}
    drawn = policy.act(observations, [question["words"]] * count, torch.Generator().manual_seed(1))[:, 0]
    for i, each in enumerate(answer["actions"]):
        assert sum(each["p"]) == pytest.approx(1, abs=1e-3)
        seen = [float(np.isclose(drawn[:, i], value, atol=1e-4).mean()) for value in each["values"]]
        np.testing.assert_allclose(seen, each["p"], atol=0.03)


def test_what_cannot_be_looked_at_is_said_and_the_next_question_is_answered(question):
    lines = [
        json.dumps(question | {"episode": "/nowhere"}),
        "{",
        json.dumps(question | {"checkpoints": ["/nowhere.safetensors", question["checkpoints"][1]]}),
        json.dumps(question | {"words": "frobnicate the moon", "step": 10**6}),
    ]
    out = io.StringIO()
    inspecting.main(io.StringIO("\n".join(lines)), out)
    first, second, third, fourth = (json.loads(line) for line in out.getvalue().splitlines())
    assert "can't be read" in first["error"] and "can't be looked at" in second["error"]
    assert "There is no checkpoint" in third["answers"][0]["error"] and third["answers"][1]["d"] > 0
    assert fourth["answers"][0]["unknown_words"] == ["frobnicate"]


def test_a_frame_that_no_body_observes_is_said(question, demonstrations, tmp_path):
    odd = dataclasses.replace(demonstrations[0])
    rng = np.random.default_rng(3)  # no angle has such a sine and cosine
    odd.observations = {
        key: rng.uniform(-0.2, 0.2, array.shape).astype(np.float32) for key, array in odd.observations.items()
    }
    write_episodes(tmp_path / "odd.safetensors", [odd])
    answers = inspecting.inspect(question | {"episode": str(tmp_path / "odd.safetensors")}, {})["answers"]
    assert all("makes nothing of this frame" in each["error"] for each in answers)


def test_a_process_answers_a_line_with_a_line(question):
    child = subprocess.run(
        [sys.executable, "-m", "training", "inspect"],
        input=json.dumps(question) + "\n",
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    assert len(json.loads(child.stdout)["answers"]) == 2


def test_two_policies_are_compared_on_the_same_attempts(question):
    policy = question["checkpoints"][0]
    command = [sys.executable, "-m", "training", "compare", "--task", "block2block", "--episodes", "4"]
    command += ["--time-limit", "8", "--checkpoint", policy, "--checkpoint", policy]
    child = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    *progress, last = (json.loads(line) for line in child.stdout.splitlines())
    assert progress[-1] == {"done": 8, "total": 8}
    results = last["results"]
    assert results["first"] == results["second"] and results["first"]["n"] == 4
    assert results["difference"]["difference"] == 0 and results["difference"]["n"] == 4


def test_another_threshold_is_another_file_with_the_same_weights(question, tmp_path):
    source = tmp_path / "old.safetensors"
    source.write_bytes(Path(question["checkpoints"][1]).read_bytes())
    before = source.read_bytes()
    write_described(source, tmp_path / "new.safetensors", {"threshold": 7.25, "consecutive": 4, "version": 9})
    assert source.read_bytes() == before
    old, said = load_checkpoint(source)
    new, changed = load_checkpoint(tmp_path / "new.safetensors")
    assert (changed.threshold, changed.consecutive, changed.version) == (7.25, 4, 9)
    assert changed.vocabulary == said.vocabulary and changed.embodiment == said.embodiment
    assert all(torch.equal(a, b) for a, b in zip(old.state_dict().values(), new.state_dict().values(), strict=True))
    assert read_description(tmp_path / "new.safetensors")["threshold"] == 7.25
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        assert len(list(file.keys())) == len(old.state_dict())


@pytest.mark.parametrize("content", (b"", b"x" * 40, b"\x08" + b"\0" * 7 + b"[1,2,3] ", b"\xff" * 16))
def test_what_is_no_checkpoint_is_refused(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FileError):
        write_described(tmp_path / "a", tmp_path / "b", {})
    assert not (tmp_path / "b").exists()
    with pytest.raises(FileError, match="missing"):
        read_description(tmp_path / "c")
