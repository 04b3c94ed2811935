"""Codes of attempts, the policy that acts on them, and MILI, which groups trials by them."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from robots.embodiments import ENVIRONMENT_STATE, STATE, picture
from robots.episodes import label
from robots.worlds.gripper_table import GRIPPER_HIDDEN
from robots.worlds.gripper_table.physics import GripperHidden
from training.benchmarks import mili as benchmark
from training.methods.mili import STEPS_AFTER_MOVING, Mili
from training.networks.embedded import EmbeddedNetwork
from training.recipes import GROUPINGS, MiliRecipe, RecipeError
from training.task_embedding import FRAMES, TrajectoryEncoder, embed, groups, info_nce, neighbours
from training.vocabulary import Vocabulary

SMALL = {"embedding_updates": 60, "updates": 30, "batch": 32, "hidden": 32, "only_shown": "hidden_place_new"}


@pytest.fixture(scope="module")
def shown():
    """Three of each known task, one of each new one."""
    torch.set_num_threads(1)
    return benchmark.demonstrations(GripperHidden(0), 5)


def new_method(shown, **settings):
    return Mili(GRIPPER_HIDDEN, shown, MiliRecipe(**SMALL | settings))


@pytest.fixture(scope="module")
def begun(shown):
    method = new_method(shown)
    return method, method.begin(torch.Generator().manual_seed(0))


def trial(episode, useful=1.0, **changes):
    labels = {"useful": label(useful, "sensor", episode.steps)}
    return dataclasses.replace(
        episode, purpose="practice", true_success=None, ending="time_limit", labels=labels, **changes
    )


# The embedding


def test_the_loss_is_the_logarithm_of_finding_ones_own():
    codes = torch.nn.functional.normalize(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), dim=1)
    others = torch.roll(codes, 1, 1)
    by_hand = 0.0
    for i in range(4):
        each = [math.exp(float(codes[i] @ others[j]) / 0.1) for j in range(4)]
        by_hand -= math.log(each[i] / sum(each)) / 4
    assert float(info_nce(codes, others)) == pytest.approx(by_hand, rel=1e-5)


def test_codes_lie_by_where_the_puck_came_to_for_tasks_that_were_never_embedded_too(shown):
    encoder, known = TrajectoryEncoder(GRIPPER_HIDDEN, 16), [each for each in shown if each.task == "hidden_place"]
    frames = torch.stack([encoder.frames(each, each.steps) for each in known])
    tasks = [each.instruction for each in known]
    first = embed(encoder, frames, tasks, 20, 3e-3, torch.Generator().manual_seed(1))
    assert embed(encoder, frames, tasks, 300, 3e-3, torch.Generator().manual_seed(1)) < 0.5 * first
    new = [each for each in shown if each.task == "hidden_place_new"] + known[::3]
    with torch.no_grad():
        codes = encoder(torch.stack([encoder.frames(each, each.steps) for each in new]))
    ends = np.array([each.observations[ENVIRONMENT_STATE][-1] for each in new])
    apart = np.linalg.norm(ends[:, None] - ends[None], axis=2)
    nearest = (codes @ codes.T - 9 * torch.eye(len(new))).argmax(1).numpy()
    assert apart[np.arange(len(new)), nearest].mean() < 0.4 * apart.mean()
    np.testing.assert_allclose(codes.norm(dim=1), 1, atol=1e-5)


def test_an_attempt_of_any_length_has_as_many_frames(shown):
    encoder, episode = TrajectoryEncoder(GRIPPER_HIDDEN, 4), shown[0]
    frames = encoder.frames(episode, episode.steps)
    assert frames.shape == (FRAMES, 5)
    for row, step in ((0, 0), (-1, -1)):
        seen = [episode.observations[key][step] for key in (STATE, ENVIRONMENT_STATE)]
        np.testing.assert_array_equal(frames[row], np.concatenate(seen))
    seen = dataclasses.replace(GRIPPER_HIDDEN, observation={"observation.images.front": picture(8, 8)})
    with pytest.raises(ValueError, match="by pictures alone"):
        TrajectoryEncoder(seen, 4)


def test_trials_are_paired_with_the_nearest_and_only_if_alike():
    angles = torch.tensor([0.0, 0.05, 0.1, 0.15, 1.5, 1.6, 3.0])
    codes = torch.stack([angles.cos(), angles.sin()], 1)
    pairs = neighbours(codes)
    assert [sorted(each) for each in pairs] == [[1, 2], [0, 2], [1, 3], [1, 2], [5], [4], []]
    assert groups(pairs) == 2 and groups([[], []]) == 0
    assert neighbours(codes[:1]) == [[]] and neighbours(codes[:0]) == []


# The policy


def network(**settings):
    sizes = {"texts": ["one", "two", "new"], "imitated": 2, "code": 4, "hidden": 16, "layers": 1}
    torch.manual_seed(0)
    made = EmbeddedNetwork(GRIPPER_HIDDEN, Vocabulary([]), **sizes, action_bins=5, bins=2, **settings)
    made.words.codes[1:] = torch.nn.functional.normalize(torch.randn(3, 4), dim=1)
    return made


def test_the_code_of_a_sentence_is_looked_up_and_saved_with_the_weights():
    made, again = network(), network()
    again.words.codes.zero_()
    again.load_state_dict(made.state_dict())
    goal = again.goal(again.encode(["two", "one", "never said"]))
    assert torch.equal(goal, made.words.codes[[2, 1, 0]]) and not goal[2].any()
    json.dumps(made.texts)


def test_each_attempt_in_practice_tries_another_code_and_keeps_it():
    made = network(exploration=0.5)
    goal, memories = (
        made.goal(made.encode(["one", "one"])),
        [{"step": 0, "purpose": "practice"}, {"step": 0, "purpose": "practice"}],
    )
    generator = torch.Generator().manual_seed(1)
    perceived = torch.zeros(2, 5)
    actions, prediction, signals = made.answer(perceived, goal, generator, False, memories)
    assert actions.shape == (2, 1, 3) and prediction is None and signals["off_code"].shape == (2,)
    first = [memory["code"] for memory in memories]
    assert first[0] != first[1] and (signals["off_code"] >= -1e-6).all() and signals["off_code"].max() > 1e-3
    for memory in memories:
        memory["step"] = 5
    made.answer(perceived, goal, generator, False, memories)
    assert [memory["code"] for memory in memories] == first
    memories[0]["step"] = 0
    made.answer(perceived, goal, generator, False, memories)
    assert memories[0]["code"] != first[0] and memories[1]["code"] == first[1]


def test_what_is_tried_lies_between_tasks_that_it_learned_to_do():
    made = network(exploration=1.0)
    goal, generator = made.goal(made.encode(["one"])), torch.Generator().manual_seed(1)
    one, two, _ = made.words.codes[1:]
    for _ in range(50):
        tried = made.tried(goal, generator, [{"step": 0, "purpose": "practice"}])[0]
        across = torch.linalg.lstsq(torch.stack([one, two], 1), tried[:, None]).solution
        assert torch.allclose(torch.stack([one, two], 1) @ across, tried[:, None], atol=1e-5), "never towards the new"


def test_who_does_not_practise_gets_what_it_asks_for():
    made = network(exploration=1.0)
    goal = made.goal(made.encode(["one"]))
    assert torch.equal(made.tried(goal, torch.Generator(), [{}]), goal)
    assert torch.equal(network().tried(goal, None, [{"step": 0, "purpose": "practice"}]), goal)


# MILI


def test_what_is_only_shown_is_looked_up_and_not_imitated(begun, shown):
    method, figures = begun
    assert method.sizes["imitated"] == 30 and len(method.sizes["texts"]) == 42
    assert len(method.imitated) == 90 and len(method.shown) == 12
    assert (method.network.words.codes[1:].norm(dim=1) - 1).abs().max() < 1e-5
    assert all("1" not in text or text in {e.instruction for e in shown} for text in method.sizes["texts"])
    assert figures["tried"] == figures["groups"] == 0 and figures["loss"] > 0
    assert method.network.exploration == 0.5


def test_useful_trials_alone_are_kept_and_without_what_came_after_the_last_move(begun, shown):
    method = new_method(shown)
    episode = shown[0]
    rest = 20
    observations = {
        key: np.concatenate([each, np.repeat(each[-1:], rest, 0)]) for key, each in episode.observations.items()
    }
    long = trial(
        episode,
        observations=observations,
        actions=np.concatenate([episode.actions, np.zeros((rest, 3), np.float32)]),
        actors=np.zeros(episode.steps + rest, np.uint8),
        steps_to_go=np.full(episode.steps + rest + 1, np.nan, np.float32),
        fenced=np.zeros(episode.steps + rest, np.uint8),
    )
    long.validate()
    assert method.remember(long, long.steps) and not method.remember(trial(episode, useful=0.0), episode.steps)
    assert not method.remember(dataclasses.replace(trial(episode), labels={}), episode.steps)
    assert method.tried == 3 and len(method.trials) == 1
    kept = len(method.trials[0].perceived)
    moved = np.abs(np.diff(observations[ENVIRONMENT_STATE], axis=0)).max(1) > 1e-3
    assert kept == int(np.flatnonzero(moved).max()) + 1 + STEPS_AFTER_MOVING < long.steps
    by_person = new_method(shown, label_source="human")
    assert not by_person.remember(long, long.steps), "a sensor said so"


def test_trials_are_partners_of_trials_and_never_of_what_they_were_asked_for(begun, shown):
    method, _ = begun
    by_command = new_method(shown, grouping="command")
    by_command.encoder.load_state_dict(method.encoder.state_dict())
    done = [each for each in shown if each.instruction.endswith("task 4")]
    for each in (method, by_command):
        each.trials.clear()
        for episode in done:  # whoever asked for something else
            each.remember(trial(episode, instruction=shown[0].instruction), episode.steps)
        attempts = each.imitated + each.trials
        partners = each.partners(each.codes(attempts))
        assert all(0 <= j < 90 and each.imitated[j].row == each.imitated[i].row for i in range(90) for j in partners[i])
        mine = partners[90:]
        if each is method:
            assert len(mine) == 3 and all(others and min(others) >= 90 for others in mine)
        else:
            asked = [i for i in range(90) if each.imitated[i].row == each.trials[0].row]
            assert mine == [asked] * 3
    method.trials.clear()


def test_a_round_learns_and_goes_on_to_the_same_bits_after_a_restart(shown):
    def rounds(interrupted):
        method, generator = new_method(shown), torch.Generator().manual_seed(3)
        method.begin(generator)
        for number in range(2):
            if number and interrupted:
                states = {name: module.state_dict() for name, module in method.modules.items()}
                states = {name: {key: value.clone() for key, value in each.items()} for name, each in states.items()}
                drawn, method = generator.get_state(), new_method(shown)
                generator = torch.Generator()
                generator.set_state(drawn)
                for name, module in method.modules.items():
                    module.load_state_dict(states[name])
                for episode in shown[:20]:
                    method.remember(trial(episode), episode.steps)
            for episode in shown[20 * number : 20 * number + 20]:
                method.remember(trial(episode), episode.steps)
            figures = method.learn(generator)
        return method.network.state_dict(), figures

    (straight, figures), (resumed, again) = rounds(False), rounds(True)
    assert all(torch.equal(straight[name], resumed[name]) for name in straight) and figures == again
    assert figures["tried"] == 40 and figures["useful_share"] == 1 and figures["paired"] > 0


def test_each_round_begins_from_the_first_weights(begun):
    method, _ = begun
    ends = []
    for _ in range(2):
        method.learn(torch.Generator().manual_seed(8))
        ends.append({name: value.clone() for name, value in method.network.state_dict().items()})
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_demonstrations_that_make_no_embedding_are_refused_in_words(shown):
    with pytest.raises(ValueError, match="demonstrated at least twice"):
        new_method(shown[::3])
    with pytest.raises(RecipeError, match=f"write one of {GROUPINGS[0]}"):
        MiliRecipe(grouping="luck")


def test_a_trial_of_the_benchmark_is_as_a_station_hands_it_in(begun, monkeypatch):
    method, _ = begun
    monkeypatch.setattr(benchmark, "TRIALS", 4)
    monkeypatch.setattr(benchmark, "TIME_LIMIT_STEPS", 6)
    worlds = [GripperHidden(i) for i in range(4)]
    once, again = (benchmark.trials(method, 1, 7, worlds) for _ in range(2))
    for episode, same in zip(once, again, strict=True):
        episode.validate()
        episode.check_against(GRIPPER_HIDDEN)
        assert episode.purpose == "practice" and episode.true_success is None and set(episode.labels) == {"useful"}
        assert np.array_equal(episode.actions, same.actions) and episode.steps == 6 and not episode.actors.any()
