import dataclasses

import numpy as np
import pytest
import torch

from robots.demonstrators import collect_demonstrations
from robots.embodiments import IMAGES
from robots.episodes import write_episodes
from robots.worlds import make_world
from robots.worlds.language_table import CAMERA_TABLE, LANGUAGE_TABLE, OVERHEAD, OVERHEAD_SIZE
from robots.worlds.language_table.physics import LanguageTable
from training import perception
from training.checkpoints import Policy, RewardModel
from training.datasets import DatasetError, demonstrations_of
from training.local_practice import LocalStations
from training.methods.self_improvement import improve
from training.methods.sft import sft
from training.recipes import ImproveRecipe, SFTRecipe
from training.run_dir import RunDir

TASKS = ["camera_block2block", "camera_block_to_place"]
KEY = f"{IMAGES}{OVERHEAD.camera}"


@pytest.fixture(scope="module", autouse=True)
def drawn():
    """Pictures as on a machine without OpenGL: the same everywhere, and quick."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LanguageTable, "renderer", "drawn")
        yield


@pytest.fixture(scope="module")
def episodes():
    torch.set_num_threads(1)
    return collect_demonstrations(TASKS, 60, seed=8)


def picture_of(*squares) -> torch.Tensor:
    """A grey scene with squares of 4 x 4 cells: (x, y in metres of the middle, colour)."""
    width, height = OVERHEAD_SIZE
    picture = np.full((height, width, 3), 200, np.uint8)
    for x, y, colour in squares:
        row = round(height / 2 - y / OVERHEAD.metres_per_pixel)
        column = round(width / 2 + x / OVERHEAD.metres_per_pixel)
        picture[row - 4 : row + 4, column - 4 : column + 4] = colour
    return torch.from_numpy(picture)[None]


@pytest.fixture
def eye():
    torch.manual_seed(0)
    eye = perception.Perception(CAMERA_TABLE)
    eye.scene.fill_(200)
    return eye


def test_things_are_found_where_they_lie(eye):
    places = [(-0.12, 0.06), (0.12, 0.06), (0.06, -0.12)]
    colours = [(220, 30, 30), (30, 60, 220), (20, 20, 20)]
    things = eye.things(picture_of(*((*place, colour) for place, colour in zip(places, colours, strict=True))))
    assert things.number.tolist() == [0, 0, 0]
    found = things.place[things.place[:, 0].argsort()]
    np.testing.assert_allclose(found, sorted(places), atol=0.002)


def test_touching_things_of_two_colours_are_two_and_neither_sees_the_other(eye):
    red, blue = (220, 30, 30), (30, 60, 220)
    alone = eye.things(picture_of((0.0, 0.0, red)))
    both = eye.things(picture_of((0.0, 0.0, red), (0.048, 0.0, blue)))
    assert len(alone.place) == 1 and len(both.place) == 2
    first = both.place[:, 0].argmin()
    np.testing.assert_allclose(both.place[first], alone.place[0], atol=0.003)
    assert (both.look[first] - alone.look[0]).abs().max() < 0.1


def test_what_is_seen_does_not_hang_on_a_float_s_last_bits(eye, monkeypatch):
    """Which processors round differently. Even things are the hard ones: several of their cells are as heavy, and their
    middle lies between two pixels.
    """
    red, blue, black = (220, 30, 30), (30, 60, 220), (20, 20, 20)
    places = [(0.0, 0.0), (0.012, -0.012), (0.006, 0.024), (-0.1, 0.13)]
    world = make_world("camera_table", 0)
    drawn = [torch.from_numpy(world.reset(np.random.default_rng(seed))[KEY])[None] for seed in range(40)]
    even = [picture_of((x, y, red), (x + 0.048, y, blue), (x, y - 0.048, black)) for x, y in places]
    # Each cell of its second thing differs by (3 * 51) / (4 * 255): by 0.15, on the border of what shows something.
    faint = picture_of((0.1, 0.1, red), (0.0, 0.0, (149, 200, 200))).clone()
    faint[:, ::2, ::2] = 200
    without_scene, generator = eye.without_scene, torch.Generator().manual_seed(0)

    def rounded_otherwise(pictures):
        difference, cells = without_scene(pictures)
        return difference, cells * (1 + 1e-6 * torch.randn(cells.shape, generator=generator))

    grey, drawn = torch.full_like(eye.scene, 200), torch.cat(drawn)
    median = drawn.float().median(0).values
    for scene, pictures in ((median, drawn), (grey, torch.cat(even)), (grey, faint)):
        eye.scene.copy_(scene)
        monkeypatch.setattr(eye, "without_scene", without_scene)
        here = eye.things(pictures)
        monkeypatch.setattr(eye, "without_scene", rounded_otherwise)
        for _ in range(4):
            there = eye.things(pictures)
            assert torch.equal(there.number, here.number)
            # A picture's things may come in another order.
            apart = (there.place - here.place[:, None]).abs().sum(-1)
            apart, same = apart.masked_fill(there.number != here.number[:, None], torch.inf).min(1)
            assert (apart < 1e-5).all()
            np.testing.assert_allclose(there.look[same], here.look, atol=0.01)


def test_an_empty_scene_holds_nothing_and_is_told_so(eye):
    features = eye(picture_of())
    assert len(eye.things(picture_of()).place) == 0
    assert features.shape == (1, eye.size)
    assert (features[:, 4:].unflatten(1, (8, 5))[..., 4] == 0).all()


def test_what_has_left_its_place_is_known_by_the_other_picture(eye):
    red = (220, 30, 30)
    here = eye.things(torch.cat([picture_of((0.0, 0.0, red)), picture_of((0.1, 0.1, red))]))
    others = torch.cat([picture_of((0.1, 0.1, red)), picture_of((0.1, 0.1, red))])
    assert eye.left_behind(here, others).tolist() == [True, False]


def test_it_learns_from_words_and_movement_alone_which_thing_bears_which_name(episodes):
    demonstrations = demonstrations_of(episodes)
    eye, generator = perception.Perception(CAMERA_TABLE), torch.Generator().manual_seed(1)
    assert perception.train_perception(eye, demonstrations, 150, generator, lambda step, losses: True)
    world, hits, hands = make_world("camera_table", 0), [], []
    for seed in range(40):
        with torch.no_grad():
            features = eye(torch.from_numpy(world.reset(np.random.default_rng(1000 + seed))[KEY])[None])[0].numpy()
        (x, y), places = world.layout()
        hands.append(np.hypot(features[0] - x, features[1] - y) < 0.01)
        for name, place in places.items():
            hits.append(np.hypot(*(features[4:][LANGUAGE_TABLE.object_slice(name)][:2] - np.array(place))) < 0.01)
    assert np.mean(hands) > 0.9 and np.mean(hits) > 0.8  # chance: 1 of 8


def test_pictures_in_which_nothing_moves_are_refused_with_a_sentence(episodes):
    still = dataclasses.replace(episodes[0], observations={KEY: np.repeat(episodes[0].observations[KEY][:1], 31, 0)})
    still = dataclasses.replace(
        still, actions=np.zeros((30, 2), np.float32), actors=np.full(30, 2, np.uint8), fenced=None
    )
    still = dataclasses.replace(still, steps_to_go=np.full(31, np.nan, np.float32))
    eye, generator = perception.Perception(CAMERA_TABLE), torch.Generator().manual_seed(1)
    with pytest.raises(DatasetError, match="nothing is seen to leave its place"):
        perception.train_perception(eye, demonstrations_of([still] * 12), 5, generator, lambda step, losses: True)


def new_run(path, episodes, **settings) -> RunDir:
    small = {
        "steps": 20,
        "validate_every": 10,
        "perception_steps": 10,
        "grounding_steps": 10,
        "batch": 32,
        "hidden": 32,
    }
    small |= {"evaluation_episodes": 0, "largest_threshold": 0.0, "seed": 2}
    run = RunDir.create(path, SFTRecipe(**small | settings))
    write_episodes(run.data / "demonstrations.safetensors", episodes[:12])
    return run


def test_both_stages_run_on_pictures_and_perception_stays_frozen(episodes, tmp_path):
    run = new_run(tmp_path / "sft", episodes, evaluation_episodes=2)
    sft(run)
    policy, judge = (loaded.load(run.checkpoints / f"{loaded.role}.safetensors") for loaded in (Policy, RewardModel))
    for one, other in zip(policy.network.perception.parameters(), judge.network.perception.parameters(), strict=True):
        assert torch.equal(one, other)
    practice = RunDir.create(
        tmp_path / "improve",
        ImproveRecipe(max_episodes=4, updates_per_round=1, batch=32, evaluation_episodes=0, tasks=",".join(TASKS)),
    )
    for role in ("policy", "reward_model"):
        (practice.start / f"{role}.safetensors").symlink_to(run.checkpoints / f"{role}.safetensors")
    stations = LocalStations(TASKS, 2, seed=1, time_limit=10)
    improve(practice, stations)
    stations.close()
    last = Policy.load(max(practice.checkpoints.glob("policy-*.safetensors")))
    assert last.version > 0
    changed = [
        name
        for (name, one), other in zip(policy.network.named_parameters(), last.network.parameters(), strict=True)
        if not torch.equal(one, other)
    ]
    assert changed and all(name.startswith(("trunk.", "action_head.", "steps_to_go_head.")) for name in changed)


def test_a_run_that_died_after_learning_to_see_ends_in_the_same_bits(episodes, tmp_path, monkeypatch):
    whole, killed = new_run(tmp_path / "whole", episodes), new_run(tmp_path / "killed", episodes)
    sft(whole)
    log = killed.log

    def log_until_killed(kind, **values):
        if kind == "loss" and values.get("bc") and values["step"] == 20:
            raise KeyboardInterrupt
        log(kind, **values)

    monkeypatch.setattr(killed, "log", log_until_killed)
    with pytest.raises(KeyboardInterrupt):
        sft(killed)
    monkeypatch.undo()
    monkeypatch.setattr(LanguageTable, "renderer", "drawn")
    sft(killed)
    for role in (Policy.role, RewardModel.role):
        ours, theirs = (
            (Policy if role == Policy.role else RewardModel).load(run.checkpoints / f"{role}.safetensors")
            for run in (whole, killed)
        )
        for one, other in zip(ours.network.state_dict().values(), theirs.network.state_dict().values(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("step", [100, 150])  # in the first round of learning to see, and in the second
def test_a_run_killed_while_it_learns_to_see_goes_on_there(episodes, tmp_path, monkeypatch, step):
    settings = {"perception_steps": 80}
    whole, killed = (new_run(tmp_path / name, episodes, **settings) for name in ("whole", "killed"))
    sft(whole)
    log = killed.log

    def log_until_killed(kind, **values):
        if kind == "loss" and values["step"] == step:
            raise KeyboardInterrupt
        log(kind, **values)

    monkeypatch.setattr(killed, "log", log_until_killed)
    with pytest.raises(KeyboardInterrupt):
        sft(killed)
    monkeypatch.undo()
    monkeypatch.setattr(LanguageTable, "renderer", "drawn")
    updates, whole_perception = [], perception.train_perception

    def train_perception(eye, shown, steps, generator, step_done, **state):
        return whole_perception(
            eye, shown, steps, generator, lambda *said: updates.append(1) or step_done(*said), **state
        )

    monkeypatch.setattr(perception, "train_perception", train_perception)
    sft(killed)
    assert len(updates) == 3 * 80 - (step - 50)  # at most since the last saved state
    for role in (Policy, RewardModel):
        ours, theirs = (role.load(run.checkpoints / f"{role.role}.safetensors").network for run in (whole, killed))
        for one, other in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True):
            assert torch.equal(one, other)
    steps = [[(*line, line["step"]) for line in run.lines("loss")] for run in (whole, killed)]
    assert steps[0] == steps[1]
    done = [line["done"] for line in killed.lines("progress") if line["phase"] == "perception"]
    assert done == sorted(done)
