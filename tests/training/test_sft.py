import dataclasses
import resource
import signal
import subprocess
import sys
import time
import uuid

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from robots.embodiments import ENVIRONMENT_STATE, STATE, Embodiment, Motion, vector
from robots.episodes import Episode, rows_of, write_episodes
from robots.tasks import TASKS
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.robots.test_episodes import episode_of
from training.checkpoints import CheckpointError, Policy, RewardModel, load_checkpoint
from training.datasets import demonstrations_of, read_demonstrations, split
from training.evaluation import evaluate, evaluate_for
from training.methods import sft as sft_module
from training.methods.sft import among_strangers, begin_from, fewest_bins, refuse_blind_detector, sft
from training.networks.network import Network
from training.networks.table import SYMMETRIES, random_frames
from training.networks.words import Grounding
from training.recipes import SFTRecipe
from training.run_dir import Countdown, RunDir, RunError
from training.vocabulary import Vocabulary


def weights(path):
    return {name: array.tobytes() for name, array in load_file(path).items()}


def both(run):
    return [weights(run.checkpoints / f"{role}.safetensors") for role in ("policy", "reward_model")]


class Killed(Exception):
    pass


def test_sft_leaves_two_checkpoints_losses_and_an_evaluation(new_sft_run):
    run = new_sft_run()
    summary = sft(run)
    lines = run.read_metrics()[0]
    losses = [line for line in lines if line["kind"] == "loss"]
    assert [line["step"] for line in losses if "bc" in line] == [10, 20, 30, 40]
    assert any("grounding" in line for line in losses)
    checkpoints = {line["role"]: line for line in lines if line["kind"] == "checkpoint"}
    policy = Policy.load(run.path / checkpoints["policy"]["path"])
    reward_model = RewardModel.load(run.path / checkpoints["reward_model"]["path"])
    assert policy.id == checkpoints["policy"]["id"] == summary["policy"]
    assert reward_model.threshold == checkpoints["reward_model"]["threshold"] == summary["threshold"]
    (evaluation,) = [line for line in lines if line["kind"] == "evaluation"]
    assert evaluation["n"] == 6 and evaluation["low"] <= evaluation["successes"] / 6 <= evaluation["high"]
    assert lines[-1]["kind"] == "done"
    assert sft(run) == summary  # what is done is not done again
    assert len(run.read_metrics()[0]) == len(lines)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(new_sft_run):
    runs = [new_sft_run(name, seed=seed, evaluation_episodes=0) for name, seed in (("a", 1), ("b", 1), ("c", 2))]
    for run in runs:
        sft(run)
    assert both(runs[0]) == both(runs[1]) != both(runs[2])


@torch.no_grad()
def test_an_episode_counts_as_much_as_its_weight(demonstrations):
    """In the loss that is learned from, and not in the one by which it is judged."""
    plain = demonstrations_of(demonstrations[:4])
    weighed = demonstrations_of([dataclasses.replace(demonstrations[0], weight=3.0), *demonstrations[1:4]])
    torch.manual_seed(0)
    vocabulary = Vocabulary.of(plain.instructions, plain.embodiment)
    network = Network(plain.embodiment, vocabulary, **sft_module.sizes_of(SFTRecipe(hidden=16, layers=1)))
    words = vocabulary.encode(plain.instructions)
    perceived = torch.cat([*sft_module.perceive_all(network, plain)])
    frames = plain.frames_of(torch.arange(4))
    frames = frames[plain.imitable[frames]]
    first = plain.episodes_of(frames) == 0

    def loss(data, rows, of_training):
        seeded = torch.Generator().manual_seed(3)
        losses = sft_module.Losses(network, data, perceived, words, SFTRecipe(), seeded)
        return float(losses.cloning(rows, of_training)), float(losses.steps_to_go(rows, of_training))

    assert loss(plain, frames, False) == loss(weighed, frames, False)
    counts = weighed.weights[frames]
    for own in (frames[first], frames[~first]):  # each alone: the weight is a factor
        factor = float(weighed.weights[own[0]])
        expected = [factor * each for each in loss(plain, own, True)]
        assert loss(weighed, own, True) == pytest.approx(expected, rel=1e-5)
    assert float(counts[first][0] / counts[~first][0]) == pytest.approx(3)


@pytest.mark.parametrize(
    ("figure", "step"),
    [("grounding", 20), ("bc", 30)],  # while it learns what words mean; after the weights of update 30, not yet saved
)
def test_a_killed_run_goes_on_and_ends_in_the_same_bits(new_sft_run, monkeypatch, figure, step):
    whole, killed = new_sft_run("whole", evaluation_episodes=0), new_sft_run("killed", evaluation_episodes=0)
    sft(whole)
    log, seen = killed.log, []

    def log_until_killed(kind, **values):
        if kind == "loss" and values.get(figure) and values["step"] == step:
            seen.append(values)
            raise Killed
        log(kind, **values)

    monkeypatch.setattr(killed, "log", log_until_killed)
    with pytest.raises(Killed):
        sft(killed)
    monkeypatch.undo()
    sft(killed)
    assert seen and both(killed) == both(whole)
    assert points(killed) == points(whole)


def points(run):
    """Every figure of every curve, in the order of the file."""
    losses = run.lines("loss")
    return [(name, line["step"]) for line in losses for name in line if name not in ("t", "kind", "step")]


def assert_progress_never_ran_back(run):
    for phase in {line["phase"] for line in run.lines("progress")}:
        done = [line["done"] for line in run.lines("progress") if line["phase"] == phase]
        assert done == sorted(done), phase


def test_a_run_killed_in_grounding_goes_on_there(new_sft_run, monkeypatch):
    """By a real SIGKILL: the bits are those of a run that was left alone, and each curve holds each step once."""
    settings = {"grounding_steps": 250, "evaluation_episodes": 0}
    whole, killed = new_sft_run("whole", **settings), new_sft_run("killed", **settings)
    sft(whole)
    child = subprocess.Popen([sys.executable, "-m", "training", "sft", str(killed.path)])
    try:
        deadline = time.monotonic() + 60
        while not any(line["step"] >= 100 for line in killed.lines("loss")):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        child.kill()
        child.wait()
    assert max(line["step"] for line in killed.lines("loss")) < 250, "it was too quick to be killed in grounding"
    repeated = []
    monkeypatch.setattr(sft_module, "among_strangers", lambda *rest: repeated.append(1) or among_strangers(*rest))
    sft(killed)
    assert both(killed) == both(whole)
    assert len(repeated) <= 250 - 50  # at most since the last saved state
    assert points(killed) == points(whole)
    assert_progress_never_ran_back(killed)


def test_a_run_killed_while_it_is_evaluated_names_the_same_two_checkpoints(new_sft_run, monkeypatch):
    run = new_sft_run()
    log = run.log

    def log_until_killed(kind, **values):
        if kind == "done":
            raise Killed
        log(kind, **values)

    monkeypatch.setattr(run, "log", log_until_killed)
    with pytest.raises(Killed):
        sft(run)
    before = [line["id"] for line in run.lines("checkpoint")]
    monkeypatch.undo()
    summary = sft(run)
    assert [line["id"] for line in run.lines("checkpoint")] == before == [summary["reward_model"], summary["policy"]]
    assert Policy.load(run.checkpoints / "policy.safetensors").id == summary["policy"]
    assert len(run.lines("evaluation")) == 1 and summary["success"] is not None
    assert_progress_never_ran_back(run)


def test_progress_is_silent_until_it_is_further_than_before(tmp_path):
    run = RunDir.create(tmp_path / "run", SFTRecipe())
    for done in (1, 150):
        Countdown(run, "grounding", 300).tell(done)
    again = Countdown(run, "grounding", 300, 100, every_s=0.0)
    for done in (101, 150, 151):
        again.tell(done)
    assert [line["done"] for line in run.lines("progress")] == [1, 150, 151]


def test_sigterm_saves_and_exits_0(new_sft_run):
    run = new_sft_run(steps=100_000, validate_every=100_000)
    child = subprocess.Popen([sys.executable, "-m", "training", "sft", str(run.path)])
    try:
        deadline = time.monotonic() + 60
        while not any(line.get("phase") == "training" for line in run.read_metrics()[0]):
            assert child.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 0
    finally:
        child.kill()
    lines = run.read_metrics()[0]
    assert lines[-1]["kind"] == "note" and lines[-1]["text"] == "canceled"
    assert (run.path / "state.safetensors").exists()


def test_a_bad_dataset_ends_the_process_with_a_sentence(new_sft_run, demonstrations):
    run = new_sft_run()
    (run.data / "demonstrations.safetensors").write_bytes(b"not a dataset")
    child = subprocess.run(
        [sys.executable, "-m", "training", "sft", str(run.path)], capture_output=True, text=True, check=False
    )
    assert child.returncode == 2 and "Traceback" not in child.stderr
    assert "demonstrations.safetensors" in run.read_metrics()[0][-1]["reason"]


@pytest.mark.parametrize("room", [0, 4000])  # bytes in a file: for no line at all; for lines, but for no state
def test_a_disk_without_room_ends_the_process_with_a_sentence(new_sft_run, room):
    run = new_sft_run()
    child = subprocess.run(
        [sys.executable, "-m", "training", "sft", str(run.path)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (room, room)),
    )
    assert child.returncode == 2 and "Traceback" not in child.stderr
    assert "A file can't be read or written" in child.stderr and "make room" in child.stderr
    if room:
        assert "make room" in run.lines("failed")[-1]["reason"]
    assert not list(run.path.glob("**/.*.tmp"))


def test_policy_and_reward_model_answer_in_the_shapes_of_the_contract(finished_sft, demonstrations):
    policy = Policy.load(finished_sft.checkpoints / "policy.safetensors")
    reward_model = RewardModel.load(finished_sft.checkpoints / "reward_model.safetensors")
    observations = rows_of(demonstrations[0].observations, slice(5))
    texts = [
        "push the red moon to the blue cube",
        "a sentence of unknown words",
        *["slide the green star to the left"] * 3,
    ]
    actions = policy.act(observations, texts, torch.Generator().manual_seed(1))
    again = policy.act(observations, texts, torch.Generator().manual_seed(1))
    assert actions.shape == (5, 1, 2) and np.abs(actions).max() <= 0.03 + 1e-6
    np.testing.assert_array_equal(actions, again)
    d, distribution = reward_model.steps_to_go(observations, texts)
    assert d.shape == (5,) and distribution.shape == (5, 50)
    np.testing.assert_allclose(distribution.sum(1), 1, rtol=1e-5)
    with pytest.raises(CheckpointError, match=r"environment_state of shape \(5, 10\) don't fit.*has \[40\]"):
        policy.act(observations | {ENVIRONMENT_STATE: observations[ENVIRONMENT_STATE][:, :10]}, texts)
    with pytest.raises(CheckpointError, match="environment_state"):
        policy.act({STATE: observations[STATE]}, texts)
    with pytest.raises(CheckpointError, match="a policy is needed"):
        Policy.load(finished_sft.checkpoints / "reward_model.safetensors")


def test_a_truncated_or_foreign_checkpoint_is_refused_with_a_sentence(finished_sft, tmp_path, demonstrations):
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes((finished_sft.checkpoints / "policy.safetensors").read_bytes()[:-50])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(cut)
    foreign = tmp_path / "foreign.safetensors"
    write_episodes(foreign, demonstrations[:1])
    with pytest.raises(CheckpointError, match="no checkpoint of this system"):
        load_checkpoint(foreign)
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        load_checkpoint(tmp_path / "missing.safetensors")


def test_actions_become_the_nearest_token_and_back():
    network = Network(LANGUAGE_TABLE, Vocabulary([]), hidden=8, layers=1, action_bins=7, bins=10)
    head = network.action_head
    actions = torch.tensor([[-0.03, 0.03], [0.004, -0.006], [1.0, -1.0]])
    assert head.tokens(actions).tolist() == [[0, 6], [3, 2], [6, 0]]
    torch.testing.assert_close(head.actions(torch.tensor([[0, 3]])), torch.tensor([[-0.03, 0.0]]))


def test_a_turned_table_is_seen_the_same_but_for_directions(demonstrations):
    network = Network(LANGUAGE_TABLE, Vocabulary([]), hidden=8, layers=1, action_bins=7, bins=10)
    frame = random_frames(4, torch.Generator().manual_seed(2))
    torch.testing.assert_close(frame @ frame.transpose(1, 2), torch.eye(2).expand(4, 2, 2))
    observations = perceived(network, demonstrations[0])[:4]
    goal = torch.zeros(4, 19)
    goal[:, 0] = goal[:, 8 + 3] = 1  # the first block to the fourth
    plain, turned = network.features(observations, goal, None), network.features(observations, goal, frame)
    distances = [2, 9, 16]
    torch.testing.assert_close(plain[:, distances], turned[:, distances])
    torch.testing.assert_close((frame @ plain[:, :2, None])[..., 0], turned[:, :2])


def perceived(network, episode):
    """What the network reads of an episode. [T + 1, P]"""
    return network.perceive({key: torch.from_numpy(array) for key, array in episode.observations.items()})


def seen_from(frame, observations):
    """A table's observations as another side's camera would have them. Of quarter turns the half one alone maps an
    oblong table on itself, and the mirrors do.
    """
    seen = observations.clone()
    for x in (0, 2, *range(4, seen.shape[1], 5)):
        seen[:, x : x + 2] = observations[:, x : x + 2] @ frame.T
    return seen


def test_what_acts_and_judges_is_exactly_equivariant(loaded, demonstrations):
    policy, _ = loaded
    attempt = demonstrations[0]
    observations, actions = perceived(policy.network, attempt)[:-1], torch.from_numpy(attempt.actions)[:, None]
    goals = torch.zeros(attempt.steps, 19)
    goals[:, 0] = goals[:, 8 + 3] = 1  # one block to another: a place would have to be turned as well
    network = policy.network
    plain, d = network.log_probability(observations, goals, actions), network.steps_to_go(observations, goals)
    assert len(SYMMETRIES.unique(dim=0)) == 8 and SYMMETRIES[0].equal(torch.eye(2))
    oblong = [frame for frame in SYMMETRIES if frame[0, 1] == 0]
    assert len(oblong) == 4
    for frame in oblong[1:]:
        seen = seen_from(frame, observations)
        torch.testing.assert_close(network.log_probability(seen, goals, actions @ frame.T), plain, atol=1e-4, rtol=0)
        assert (network.log_probability(seen, goals, actions) - plain).abs().max() > 0.1
        torch.testing.assert_close(network.steps_to_go(seen, goals), d, atol=1e-5, rtol=0)


def test_actions_are_sampled_as_likely_as_the_update_believes(loaded, demonstrations):
    policy, _ = loaded
    attempt, n = demonstrations[0], 40_000
    for row in (0, attempt.steps // 2):
        observations = perceived(policy.network, attempt)[row].repeat(n, 1)
        goals = policy.goals([attempt.instruction]).repeat(n, 1)
        actions, _ = policy.network.act(observations, goals, torch.Generator().manual_seed(1), greedy=False)
        head = policy.network.action_head
        often, count = head.tokens(actions).unique(dim=0, return_counts=True)
        k = len(often)
        said = policy.network.log_probability(observations[:k], goals[:k], head.actions(often)).exp()
        torch.testing.assert_close(count / n, said, atol=0.01, rtol=0)
        assert said.sum() > 0.99


def test_the_grounding_loss_prefers_what_happened():
    # Block 0 of 3 moved and rests beside block 2.
    others = torch.tensor([[[0.1, 0.0], [-0.2, 0.1], [0.14, 0.0]]])
    happened = {"moved": torch.tensor([0]), "resting": others[:, 0], "others": others, "present": torch.ones(1, 3) > 0}

    def loss(source, target, place=(0.0, 0.0), named=()):
        goal = torch.cat([torch.eye(3)[source], torch.eye(4)[target], torch.tensor(place)])[None]
        return float(Grounding.loss(goal, **happened, named=torch.tensor([[i in named for i in range(3)]])))

    assert loss(0, 2) < loss(0, 1) < loss(1, 1)
    # A block can't explain its own end, or every sentence would mean "push it to where it is"; a place named there can.
    assert loss(0, 0) > loss(0, 2)
    assert loss(0, 3, (0.1, 0.0)) < loss(0, 2)
    # Unless the sentence names another block, even if that lies farther away: then this one is the target.
    assert loss(0, 1, named=(0, 1)) < loss(0, 2, named=(0, 1))
    assert loss(0, 1, named=(0, 1)) < loss(0, 3, (0.1, 0.0), named=(0, 1))


def test_a_place_that_nothing_speaks_for_yet_is_still_pulled_to_where_blocks_came_to_rest():
    """The target is wholly another block, and the place lies metres away: without a pull it would never be found."""
    others = torch.tensor([[[0.1, 0.0], [-0.2, 0.1], [0.14, 0.0]]])
    happened = {"moved": torch.tensor([0]), "resting": others[:, 0], "others": others, "present": torch.ones(1, 3) > 0}
    place = torch.tensor([2.0, -1.0], requires_grad=True)
    goal = torch.cat([torch.eye(3)[0], torch.tensor([0.0, 0, 1, 0]), place])[None]
    Grounding.loss(goal, **happened, named=torch.zeros(1, 3) > 0).backward()
    assert place.grad[0] > 0.1 and place.grad[1] < -0.1


def test_sentences_of_renamed_objects_name_the_same_objects():
    vocabulary = Vocabulary.of(["push the to please"], LANGUAGE_TABLE)
    words = Grounding(vocabulary, LANGUAGE_TABLE)
    texts = ["please push the red moon to the blue cube", "push green star to yellow pentagon", "push the star"]
    text = vocabulary.encode(texts)
    names = [kind.name for kind in LANGUAGE_TABLE.objects]
    said = [[names[i] for i in row.nonzero()[:, 0]] for row in words.named(text)]
    assert said == [["red moon", "blue cube"], ["green star", "yellow pentagon"], []]

    renamed, called = words.renamed(text, torch.Generator().manual_seed(1))
    part_of_a_name = torch.isin(text, words.names)
    assert renamed[~part_of_a_name].equal(text[~part_of_a_name]) and not renamed.equal(text)
    for row in range(3):
        words.names = called[row]
        assert words.named(renamed[row : row + 1]).equal(
            Grounding(vocabulary, LANGUAGE_TABLE).named(text[row : row + 1])
        )
        # A colour stays a colour, and the four stay four.
        for column, kinds in ((0, {"red", "blue", "green", "yellow"}), (1, {"moon", "pentagon", "cube", "star"})):
            assert {vocabulary.words[i - 2] for i in called[row, :, column].tolist()} == kinds


def test_a_goal_is_decided():
    goal = torch.tensor([[0.6, 0.4, 0.2, 0.3, 0.5, 0.1, 0.2], [0.1, 0.9, 0.45, 0.15, 0.4, 0.1, 0.2]])
    decided = torch.tensor([[1, 0, 0, 0, 1, 0.1, 0.2], [0, 1, 1, 0, 0, 0.1, 0.2]])
    assert Grounding.decided(goal).equal(decided)


def test_padding_does_not_change_a_sentence():
    vocabulary = Vocabulary(["push", "the", "red", "moon", "to", "blue", "cube"])
    words = Grounding(vocabulary, LANGUAGE_TABLE)
    short, long = "push the red moon", "push the red moon to the blue cube now please"
    with torch.no_grad():
        torch.testing.assert_close(words(vocabulary.encode([short, long]))[:1], words(vocabulary.encode([short])))


def slides(steps=5):
    """Demonstrations on a body that nobody simulates. The words say whether to go to the goal or away from it, so that
    a policy deaf to words can't be right.
    """
    body = Embodiment("slider", 5.0, {STATE: vector(("x", "goal"))}, vector(("push",), (-1.0,), (1.0,)))
    rng = np.random.default_rng(0)
    episodes = []
    for i in range(40):
        x, goal = rng.uniform(-3, 3, 2)
        sign, text = (1, "go to the goal") if i % 2 else (-1, "flee from the goal")
        observations, actions = [(x, goal)], []
        for _ in range(steps):
            actions.append([sign * np.sign(goal - observations[-1][0]) * 0.5])
            observations.append((observations[-1][0] + actions[-1][0], goal))
        episodes.append(
            Episode(
                uuid=str(uuid.UUID(int=i)),
                embodiment="slider",
                task="slide",
                instruction=text,
                observations={STATE: np.array(observations, np.float32)},
                body=body,
                actions=np.array(actions, np.float32),
                actors=np.full(steps, 2, np.uint8),
                steps_to_go=np.full(steps + 1, np.nan, np.float32),
                ending="true_success",
                detected_success=False,
                true_success=True,
                purpose="demonstration",
            )
        )
    return episodes


SLIDE = {"steps": 300, "passes": 1000, "hidden": 32, "action_bins": 5, "largest_threshold": 0.0}


def test_a_body_without_objects_learns_from_its_flat_observation(tmp_path):
    run = RunDir.create(tmp_path / "run", SFTRecipe(**SLIDE | {"evaluation_episodes": 0}))
    write_episodes(run.data / "d.safetensors", slides())
    sft(run)
    policy = Policy.load(run.checkpoints / "policy.safetensors")
    observations = {STATE: np.array([[-1, 1], [-1, 1]], np.float32)}
    actions = policy.act(observations, ["go to the goal", "flee from the goal"], greedy=True)
    assert actions.tolist() == [[[0.5]], [[-0.5]]]


@pytest.mark.parametrize("registered", [False, True])
def test_a_body_without_a_simulator_is_trained_and_its_evaluation_left_out_with_a_note(
    tmp_path, monkeypatch, registered
):
    if registered:  # its task is known here, and its world is the real one
        family = dataclasses.replace(TASKS["point_mass"], name="slide", embodiment="slider", world="slider")
        monkeypatch.setitem(TASKS, "slide", family)
    run = RunDir.create(tmp_path / "run", SFTRecipe(**SLIDE))
    write_episodes(run.data / "d.safetensors", slides())
    summary = sft(run)
    assert run.summary() == summary and "success" not in summary and not run.lines("evaluation")
    assert {line["role"] for line in run.lines("checkpoint")} == {"policy", "reward_model"}
    (note,) = [line for line in run.lines("note") if line["level"] == "warning"]
    said = "There is no " if registered else "no world here judges slide."
    assert note["text"].startswith(f"Not evaluated in simulation: {said}")


def test_a_task_in_words_is_left_out_of_an_evaluation_with_a_note(new_sft_run, finished_sft):
    run, policy = new_sft_run(), Policy.load(finished_sft.checkpoints / "policy.safetensors")
    result = evaluate_for(run, policy, ["tidy-up-1a2b", "block2block"], 2, 0)
    assert result == evaluate(policy, ["block2block"], 2, 0)
    (note,) = run.lines("note")
    assert note["text"] == "Evaluated in simulation on block2block alone: no world here judges tidy-up-1a2b."
    assert evaluate_for(run, policy, ["tidy-up-1a2b"], 2, 0) is None


def test_a_world_that_breaks_while_it_is_evaluated_costs_nothing_but_the_evaluation(new_sft_run, monkeypatch):
    def broken(*rest):
        raise RuntimeError("the simulator's own trouble")

    monkeypatch.setattr("training.evaluation.Worlds.step", broken)
    run = new_sft_run()
    assert sft(run) == run.summary() and not run.lines("evaluation")
    assert "the simulator's own trouble" in run.lines("note")[-1]["text"]


def test_a_threshold_above_a_fifth_of_the_median_demonstration_ends_the_run_with_a_sentence(new_sft_run):
    """40 updates tell nothing of the steps-to-go; practice would take each first step for a success."""
    run = new_sft_run(largest_threshold=SFTRecipe().largest_threshold)
    with pytest.raises(RunError, match=r"its threshold came out as .* more than 20% of the median demonstration"):
        sft(run)
    assert not run.lines("checkpoint") and not run.lines("done")


def test_bins_that_do_not_reach_over_a_demonstration_are_named(tmp_path):
    """All steps of a long demonstration lie in the last bin but the last ones: as it went with 372 real steps."""
    settings = {"steps": 60, "hidden": 16, "evaluation_episodes": 0, "bins": 4, "bin_width": 2.0}
    run = RunDir.create(tmp_path / "run", SFTRecipe(**settings))
    write_episodes(run.data / "d.safetensors", slides(steps=30))
    with pytest.raises(RunError, match=r"let bins x bin width \(8 steps\) reach over .* \(median 30 steps\)"):
        sft(run)


@pytest.mark.parametrize(
    ("d", "refused"),
    [
        (np.linspace(40, 0, 41), False),  # as it should be
        (np.full(41, 3.0), True),  # it says "nearly there" of everything
        (np.linspace(3, 0, 4), False),  # so short a demonstration is near its goal at once
    ],
)
def test_a_detector_that_fires_on_first_frames_ends_the_run_with_a_sentence(demonstrations, d, refused):
    known = demonstrations_of(demonstrations)
    judged = [d.astype(np.float32)] * 10
    if refused:
        with pytest.raises(RunError, match="in 10 of 10 demonstrations it fires within the first 2 steps"):
            refuse_blind_detector(judged, known, 4.0, 1, SFTRecipe())
    else:
        refuse_blind_detector(judged, known, 4.0, 1, SFTRecipe())


def test_sentences_keep_their_order_among_strangers(monkeypatch):
    monkeypatch.setattr("training.methods.sft.WORD_DROPOUT", 0.0)
    words = torch.tensor([[5, 6, 7, 8], [9, 4, 0, 0]]).repeat(50, 1)
    noisy = among_strangers(words, torch.Generator().manual_seed(0))
    assert noisy.shape == (100, 10)
    starts = set()
    for row, sentence in zip(noisy.tolist(), [[5, 6, 7, 8], [9, 4]] * 50, strict=True):
        length = len(row) - row.count(0)
        assert row[length:] == [0] * (10 - length)
        start = row.index(sentence[0])
        assert row[start : start + len(sentence)] == sentence
        strangers = row[:start] + row[start + len(sentence) : length]
        assert set(strangers) <= {1} and start <= 3 and length - start - len(sentence) <= 3
        starts.add(start)
    assert starts == {0, 1, 2, 3}
    monkeypatch.setattr("training.methods.sft.WORD_DROPOUT", 1.0)
    assert set(among_strangers(words, torch.Generator().manual_seed(0)).flatten().tolist()) == {0, 1}


def test_a_run_begins_with_an_earlier_ones_weights_if_they_lie_in_start(new_sft_run, finished_sft):
    """Words that both know bring their embeddings; a word that is new keeps its own."""
    source = finished_sft.checkpoints / "reward_model.safetensors"
    older, metadata = load_checkpoint(source)
    old = Vocabulary(metadata.vocabulary)
    new = Vocabulary([*metadata.vocabulary[5:], "aardvark"])
    network = Network(Embodiment.from_json(metadata.embodiment), new, **metadata.sizes)
    own = network.words.sentence.embedding.weight.detach().clone()
    begin_from(source, network, new)
    embedding, theirs = network.words.sentence.embedding.weight, older.words.sentence.embedding.weight
    for word in metadata.vocabulary[5:]:
        assert embedding[new.encode([word])[0, 0]].equal(theirs[old.encode([word])[0, 0]])
    at = new.encode(["aardvark"])[0, 0]
    assert embedding[at].equal(own[at])
    assert network.steps_to_go_head.weight.equal(older.steps_to_go_head.weight)
    run = new_sft_run(hidden=16)
    (run.start / "reward_model.safetensors").symlink_to(source)
    with pytest.raises(RunError, match="can't be the beginning"):
        sft(run)


@pytest.mark.parametrize("who", ["learned from", "held out"])
def test_a_demonstration_that_makes_the_loss_no_number_is_left_out_by_name(new_sft_run, monkeypatch, who):
    run, read, bad = new_sft_run(evaluation_episodes=0), sft_module.read_demonstrations, []

    def read_with_one_bad(paths, observe):
        demonstrations = read(paths, observe)
        recipe = run.recipe(SFTRecipe)
        generator = torch.Generator().manual_seed(recipe.seed)
        parts = split(demonstrations, recipe.validation_fraction, generator)
        episode = int(parts[who == "held out"][0])
        bad.append(demonstrations.uuids[episode])
        demonstrations.observations[STATE][demonstrations.frames_of(torch.tensor([episode]))] = torch.inf
        return demonstrations

    monkeypatch.setattr(sft_module, "read_demonstrations", read_with_one_bad)
    sft(run)
    lines = run.read_metrics()[0]
    said = [line["text"] for line in lines if line["kind"] == "note" and "left out" in line["text"]]
    assert set(said) == {f"Episode {bad[0]} is left out: what it teaches is no number."}
    losses = [line for line in lines if line["kind"] == "loss" and "bc" in line]
    assert all(line[name] is not None for line in losses for name in ("validation_bc", "validation_steps_to_go"))
    for role in ("policy", "reward_model"):
        arrays = load_file(run.checkpoints / f"{role}.safetensors").values()
        assert all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f")


def test_a_run_whose_every_loss_is_no_number_ends_with_a_sentence(new_sft_run, monkeypatch):
    monkeypatch.setattr(sft_module, "read_demonstrations", lambda paths, _: all_bad(read_demonstrations(paths)))
    with pytest.raises(RunError, match=r"What every demonstration teaches is no number|lower the learning rate"):
        sft(new_sft_run(evaluation_episodes=0))


def all_bad(demonstrations):
    demonstrations.observations[STATE][:] = torch.inf
    return demonstrations


def test_too_few_values_for_a_joints_absolute_positions_are_warned_of(tmp_path):
    names = ("pan.pos", "jaw.pos")
    positions = vector(names, (-110.0, 0.0), (110.0, 100.0))
    motions = tuple(Motion("position", largest_change=4.0, sensed_by=name) for name in names)
    arm = Embodiment("two_joints", 30.0, {STATE: positions}, positions, motions)
    assert (
        fewest_bins(arm) == 56 and fewest_bins(LANGUAGE_TABLE) == fewest_bins(dataclasses.replace(arm, motions=())) == 1
    )
    for bins, warned in ((55, True), (56, False)):
        recipe = {"steps": 1, "validate_every": 1, "batch": 4, "hidden": 8, "evaluation_episodes": 0}
        run = RunDir.create(tmp_path / str(bins), SFTRecipe(**recipe, largest_threshold=0.0, action_bins=bins))
        shown = [dataclasses.replace(episode_of(arm, 9, seed), body=arm) for seed in range(4)]
        write_episodes(run.data / "shown.safetensors", shown)
        sft(run)
        said = [line["text"] for line in run.lines("note") if "Train with at least 56 action bins" in line["text"]]
        assert bool(said) == warned
