"""Methods that learn off-policy: each in a small run of its own, killed, canceled, and twice with the same seed."""

import functools
import json
import os
import signal
import subprocess
import sys
import uuid
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from robots.demonstrators import collect_demonstrations
from robots.embodiments import STATE
from robots.episodes import label, write_episodes
from training import off_policy
from training.checkpoints import Policy, RewardModel
from training.local_practice import LocalStations
from training.methods.registry import methods
from training.methods.sft import sft
from training.recipes import SFTRecipe
from training.run_dir import RunDir, RunError

TASKS = ["place", "bring_back"]
RULES = {"success_by": "sensor", "after_failure": "bring_back", "alternates": True}
SMALL = {
    "max_steps": 150,
    "publish_every": 60,
    "evaluate_every": 2,
    "evaluation_episodes": 2,
    "time_limit": 10,
}
ACTOR_CRITIC = {"updates_per_step": 0.1, "batch": 16, "tasks": "place"}
FURTHER = {
    "sac": {"warm_up": 4, **ACTOR_CRITIC},
    "kagi": {"warm_up": 4, **ACTOR_CRITIC},
    "scvla": {"head_updates": 4, "width": 8, "ramp_steps": 100, **ACTOR_CRITIC},
    "robofume": {"warm_up": 4, "classifier_updates": 4, **ACTOR_CRITIC},
    "medal": {"warm_up": 4, "forward_every": 20, "backward_every": 10, **ACTOR_CRITIC},
    "afm": {"model_updates": 5, "flow_updates": 5, "members": 2, "width": 8, "flow_width": 8, "candidates": 8}
    | {"max_steps": 900, "publish_every": 200},
    "musel": {"max_steps": 12, "publish_every": 4, "pool": 20, "evaluation_episodes": 0},
    "explore": {"updates": 3, "members": 2, "width": 8, "candidates": 8, "horizon": 3},
    "mili": {"embedding_updates": 3, "updates": 3, "hidden": 16, "only_shown": "hidden_place_new"},
}
METHODS = list(FURTHER)
FROM_A_POLICY = [kind for kind in METHODS if "parent" in methods()[kind].needs]
# The families that are demonstrated and the rules that are practised by, where they are not the gripper table's.
SHOWN = {"afm": ["drive_course"], "musel": ["push_effects"], "explore": ["push_right", "push_up"]}
SHOWN |= {"mili": ["hidden_place", "hidden_place_new"]}
LONGEST_S = 60  # that a starved machine may need for what takes a moment


@pytest.fixture(scope="session")
def gripper_sft(tmp_path_factory):
    """A policy of both families with a gaussian action head, chunks of 4 of which 2 are followed, barely trained."""
    few = {"steps": 60, "hidden": 16, "validate_every": 30, "batch": 32, "evaluation_episodes": 0}
    recipe = SFTRecipe(action_head="gaussian", chunk=4, executed=2, largest_threshold=0.0, **few)
    run = RunDir.create(tmp_path_factory.mktemp("gripper") / "sft", recipe)
    write_episodes(run.data / "demonstrations.safetensors", collect_demonstrations(TASKS, 8, 5))
    sft(run)
    return run


@pytest.fixture(scope="session")
def shown():
    """Demonstrations for a method that begins with them alone, in its own world."""

    @functools.cache
    def demonstrations(kind: str) -> list:
        count = 70 if kind == "mili" else 6
        return [each for task in SHOWN[kind] for each in collect_demonstrations([task], count, 5)]

    return demonstrations


@pytest.fixture
def new_run(tmp_path, gripper_sft, shown):
    def make(kind: str, name: str = "run", **settings) -> RunDir:
        recipe = methods()[kind].recipe(**SMALL | FURTHER[kind] | settings)
        run = RunDir.create(tmp_path / name, recipe)
        if kind not in FROM_A_POLICY:
            write_episodes(run.data / "demonstrations.safetensors", shown(kind))
            return run
        for role in ("policy", "reward_model"):
            (run.start / f"{role}.safetensors").symlink_to(gripper_sft.checkpoints / f"{role}.safetensors")
        (run.data / "demonstrations.safetensors").symlink_to(gripper_sft.data / "demonstrations.safetensors")
        return run

    return make


def stations_of(kind):
    """Three of the method's world, that practise its first family."""
    if kind in FROM_A_POLICY:
        return LocalStations(["place"], 3, 1, 25, RULES)
    return LocalStations(SHOWN[kind][:1], 3, 1, 25)


def start(run, practise):
    """The method in this process, with stations that are given."""
    kind = json.loads((run.path / "recipe.json").read_text())["kind"]
    module, _, function = methods()[kind].entry.partition(":")
    return getattr(sys.modules.get(module) or __import__(module, fromlist=["*"]), function)(run, practise)


@pytest.fixture(scope="session")
def of_grippers(gripper_sft):
    """What stations with the gripper's policy hand in, and one success."""
    stations = LocalStations(["place"], 3, 1, 25, RULES)
    run = RunDir(gripper_sft.path.parent / "practised")
    for folder in (run.episodes, run.rounds):
        folder.mkdir(parents=True)
    policy = Policy.load(gripper_sft.checkpoints / "policy.safetensors")
    judge = RewardModel.load(gripper_sft.checkpoints / "reward_model.safetensors")
    stations(run, policy, judge, 200)
    stations.close()
    succeeded = replace(stations.episodes[0], detected_success=True, ending="detected_success")
    assert {each.task for each in stations.episodes} == set(TASKS), "the families alternate"
    return [replace(succeeded, labels={"success": label(1.0, "sensor", succeeded.steps)}), *stations.episodes[1:]]


@pytest.fixture(scope="session")
def practice(of_grippers, shown):
    """What stations would hand in, whatever the version: so a run has one outcome only."""

    def episodes(kind):
        if kind in FROM_A_POLICY:
            return of_grippers
        told = {"useful": label(1.0, "sensor"), "reached": label(0.5, "sensor")}
        changes = {"purpose": "practice", "ending": "time_limit", "true_success": None, "labels": told}
        return [replace(each, actors=0 * each.actors, **changes) for each in shown(kind)[:40]]

    return episodes


def scripted(episodes):
    def practise(run, policy, reward_model, steps):
        chosen, first = [], 2 * policy.version
        while sum(each.steps for each in chosen) < steps:
            one = episodes[(first + len(chosen)) % len(episodes)]
            name = uuid.uuid5(uuid.NAMESPACE_OID, f"{policy.version} {steps} {len(chosen)}")
            chosen.append(replace(one, uuid=str(name), policy=policy.id))
        before = len(list(run.episodes.glob(f"{policy.version:06d}-*")))
        write_episodes(run.episodes / f"{policy.version:06d}-{before}.safetensors", chosen)

    return practise


def lines(run, kind):
    return [line for line in run.read_metrics()[0] if line["kind"] == kind]


def newest_weights(run):
    path = sorted(run.checkpoints.glob("policy-*.safetensors"))[-1]
    return path.name, {name: array.tobytes() for name, array in load_file(path).items()}


@pytest.mark.parametrize("kind", METHODS)
def test_it_practises_on_stations_and_says_how_it_goes(kind, new_run):
    run, stations = new_run(kind), stations_of(kind)
    summary = start(run, stations)
    stations.close()
    recipe = run.recipe(methods()[kind].recipe)
    assert summary["steps"] >= recipe.max_steps and summary["updates"] == recipe.updates_due(summary["steps"])
    published = [line for line in lines(run, "checkpoint") if line["publish"]]
    assert [line["version"] for line in published] == list(range(summary["version"] + 1))
    updates = lines(run, "update")
    assert all(np.isfinite(value) for line in updates for value in line.values() if isinstance(value, float))
    shown = {line.key for curve in methods()[kind].curves if curve.metric == "update" for line in curve.lines}
    assert shown <= {name for line in updates for name in line}, "each line of its curves has figures"
    assert bool(lines(run, "evaluation")) == ("kept_success" in summary) == bool(recipe.evaluation_episodes)
    last = Policy.load(run.checkpoints / f"policy-{summary['version']:06d}.safetensors")
    seen = {key: array[:1] for key, array in stations.episodes[-1].observations.items()}
    memory = {"step": 0, "purpose": "practice", "instruction": "", "look": no_picture}
    answer = last.answer(seen, [stations.episodes[-1].instruction], memories=[memory])
    assert answer.actions.shape[0] == 1 and np.isfinite(answer.actions).all()
    declared = {signal.key for signal in methods()[kind].signals}
    assert set(answer.signals) == declared, "what its policies say is what the pages know of"


def no_picture():
    return None, None


@pytest.mark.parametrize("kind", METHODS)
def test_the_same_seed_gives_the_same_bits_and_another_does_not(kind, new_run, practice):
    ends = []
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        run = new_run(kind, name, seed=seed, evaluation_episodes=0)
        start(run, scripted(practice(kind)))
        ends.append(newest_weights(run))
    # What pushes taught is fitted without chance; there the seed decides what stations ask for next.
    assert ends[0] == ends[1] and (kind == "musel" or ends[0] != ends[2])


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("moment", ["before the state is saved", "after the state is saved"])
def test_a_killed_run_goes_on_and_ends_in_the_same_bits(kind, moment, new_run, practice, monkeypatch):
    whole, killed = new_run(kind, "whole"), new_run(kind, "killed")
    start(whole, scripted(practice(kind)))

    class Killed(Exception):
        pass

    save = off_policy.save_state

    def save_until_killed(path, progress, *rest, **networks):
        if progress["version"] == 2 and moment.startswith("before"):
            raise Killed
        save(path, progress, *rest, **networks)
        if progress["version"] == 2:
            raise Killed

    monkeypatch.setattr(off_policy, "save_state", save_until_killed)
    with pytest.raises(Killed):
        start(killed, scripted(practice(kind)))
    monkeypatch.undo()
    start(killed, scripted(practice(kind)))
    assert newest_weights(killed) == newest_weights(whole)
    # Nothing is said twice and nothing is left out.
    for said in ("checkpoint", "evaluation", "update", "kept"):
        assert [line["version"] for line in lines(killed, said)] == [line["version"] for line in lines(whole, said)]


@pytest.mark.parametrize("kind", METHODS)
def test_a_canceled_process_ends_by_itself_and_what_is_saved_goes_on(kind, new_run):
    run = new_run(kind, evaluation_episodes=0)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    child = subprocess.Popen([sys.executable, "-m", "training", kind, str(run.path)], env=environment)
    try:
        for _ in range(20 * LONGEST_S):
            if lines(run, "checkpoint") or child.poll() is not None:
                break
            with_patience(child)
        assert lines(run, "checkpoint"), "it waits for episodes now"
        child.send_signal(signal.SIGTERM)
        assert child.wait(LONGEST_S) == 0
    finally:
        child.kill()
        child.wait()
    assert [line["text"] for line in lines(run, "note")][-1] == "canceled" and not run.summary()
    stations = stations_of(kind)
    assert start(RunDir(run.path), stations)["steps"] >= run.recipe(methods()[kind].recipe).max_steps
    stations.close()


def with_patience(child):
    try:
        child.wait(0.05)
    except subprocess.TimeoutExpired:
        return


@pytest.mark.parametrize("kind", FROM_A_POLICY)
def test_an_episode_that_teaches_no_number_is_left_out(kind, new_run, practice):
    first, one, *others = practice(kind)
    bad = replace(one, observations={key: each.copy() for key, each in one.observations.items()})
    bad.observations[STATE][:] = 0.9e9
    run = new_run(kind, evaluation_episodes=0)
    start(run, scripted([first, bad, *others]))
    weights = load_file(run.checkpoints / newest_weights(run)[0])
    assert all(np.isfinite(array).all() for array in weights.values() if array.dtype.kind == "f")


def test_no_gradient_sees_true_success(new_run, practice):
    ends = []
    for name, flipped in (("true", False), ("false", True)):
        told = [replace(each, true_success=each.true_success != flipped) for each in practice("robofume")]
        run = new_run("robofume", name, evaluation_episodes=0)
        start(run, scripted(told))
        ends.append(newest_weights(run))
    assert ends[0] == ends[1]


def test_whose_word_on_success_counts_is_the_recipes(new_run, practice):
    ends = []
    for source in ("sensor", "classifier"):
        run = new_run("sac", source, evaluation_episodes=0, label_source=source)
        start(run, scripted(practice("sac")))
        ends.append(newest_weights(run))
    assert ends[0] != ends[1], "the one success is the sensor's word"


# What can't be


@pytest.mark.parametrize(
    ("kind", "family", "says"),
    [
        ("afm", "place", "can't be driven by action flow matching"),
        ("musel", "place", "can't be probed for the effects of pushes"),
    ],
)
def test_a_body_that_a_method_can_not_drive_is_refused_by_name(kind, family, says, new_run):
    run = new_run(kind)
    write_episodes(run.data / "demonstrations.safetensors", collect_demonstrations([family], 3, 5))
    with pytest.raises(RunError, match=says):
        start(run, scripted([]))


@pytest.mark.parametrize("kind", [kind for kind in METHODS if kind not in FROM_A_POLICY])
def test_a_method_without_demonstrations_says_so(kind, new_run):
    run = new_run(kind)
    (run.data / "demonstrations.safetensors").unlink()
    with pytest.raises(RunError, match="no demonstrations to begin with; give the run a dataset"):
        start(run, scripted([]))


def test_a_policy_of_tokens_is_refused_with_what_to_do(new_run, finished_sft, demonstrations):
    run = new_run("sac")
    for role in ("policy", "reward_model"):
        (run.start / f"{role}.safetensors").unlink()
        (run.start / f"{role}.safetensors").symlink_to(finished_sft.checkpoints / f"{role}.safetensors")
    with pytest.raises(RunError, match="needs a policy with a gaussian action head; train one"):
        start(run, scripted([]))


def test_medal_without_backward_demonstrations_is_refused_with_what_to_do(new_run):
    run = new_run("medal")
    (run.data / "demonstrations.safetensors").unlink()
    write_episodes(run.data / "demonstrations.safetensors", collect_demonstrations(["place"], 3, 5))
    with pytest.raises(RunError, match="None of the demonstrations brings things back"):
        start(run, scripted([]))


def test_robofume_without_a_success_is_refused_with_what_to_do(new_run):
    run = new_run("robofume")
    (run.data / "demonstrations.safetensors").unlink()
    failed = [replace(each, true_success=False, ending="time_limit") for each in collect_demonstrations(TASKS, 2, 5)]
    write_episodes(run.data / "demonstrations.safetensors", failed)
    with pytest.raises(RunError, match="No demonstration ended in success"):
        start(run, scripted([]))


def test_torch_is_the_only_source_of_chance(new_run, practice):
    """Whatever else draws numbers in this process changes nothing."""
    ends = []
    for number, name in enumerate(("one", "two")):
        torch.manual_seed(number)
        np.random.seed(number)
        run = new_run("medal", name, evaluation_episodes=0)
        start(run, scripted(practice("medal")))
        ends.append(newest_weights(run))
    assert ends[0] == ends[1]
