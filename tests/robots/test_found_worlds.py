"""A world is one folder: what a newcomer writes into robots/worlds/, and nothing else, makes it a station's world."""

import sys
from textwrap import dedent

import numpy as np
import pytest

import robots.worlds
from robots.demonstrators import DemonstrationError, collect_demonstrations
from robots.embodiments import EMBODIMENTS, ENVIRONMENT_STATE, STATE, get_embodiment
from robots.station import Station
from robots.tasks import TASKS, get_task
from robots.worlds import WORLDS, WorldError, find_worlds, make_world, register
from tests.robots.station_fakes import Clock, FakePolicy, loaded_policy, told

FOLDER = {
    "__init__.py": """
        from robots.embodiments import (
            ENVIRONMENT_STATE,
            STATE,
            Camera,
            DriveAxis,
            Embodiment,
            Motion,
            ObjectKind,
            vector,
        )
        from robots.tasks import Grammar, TaskFamily
        from robots.worlds import WorldSpec, on_demand

        BODY = Embodiment(
            name="rail",
            fps=10.0,
            observation={STATE: vector(("x",)), ENVIRONMENT_STATE: vector(("red cup.x", "blue cup.x"))},
            action=vector(("velocity",), (-0.1,), (0.1,)),
            motions=(Motion("delta", largest_change=0.1),),
            drive=(DriveAxis("x", "velocity"),),
            objects=(ObjectKind("red cup", "red", "cup"), ObjectKind("blue cup", "blue", "cup")),
            views=(Camera("front", 32, 24),),
        )
        SIDES = {"left": -1.0, "right": 1.0}


        def missing(target, places):
            return abs(places[target["cup"]][0] - SIDES[target["side"]]) - 0.1


        FAMILY = TaskFamily(
            name="cup_to_side",
            title="Cup to a side",
            embodiment="rail",
            world="rail",
            time_limit_steps=40,
            description="Bring a cup to a side.",
            grammar=Grammar(
                verbs=("bring",), templates=("{verb} the {cup} to the {side}",), named={"side": tuple(SIDES)}
            ),
            missing=missing,
        )
        WORLDS = (
            WorldSpec(
                BODY,
                (FAMILY,),
                make=on_demand(f"{__name__}.physics:Rail"),
                demonstrate=on_demand(f"{__name__}.demonstrator:demonstrate"),
            ),
        )
        """,
    "physics.py": """
        import numpy as np

        from robots.embodiments import ENVIRONMENT_STATE, STATE
        from robots.worlds.rail import BODY, missing


        class Rail:
            \"\"\"Both cups stand on a cart.\"\"\"

            embodiment, renderer, resets_itself = BODY, "drawn", True

            def __init__(self, seed):
                self.reset(np.random.default_rng(seed))

            def reset(self, rng):
                self.x = rng.uniform(-0.5, 0.5)
                return self.observation()

            def step(self, action):
                self.x += float(np.clip(action[0], -0.1, 0.1))
                return self.observation()

            def observation(self):
                return {STATE: np.full(1, self.x, np.float32), ENVIRONMENT_STATE: np.full(2, self.x, np.float32)}

            def true_success(self, instruction):
                return missing(instruction.target, self.objects_in_play()) <= 0

            def needs_reset(self, fewest_objects=None):
                return ""

            def fenced(self, action, margin):
                return action

            def objects_in_play(self):
                return {"red cup": (self.x, 0.0), "blue cup": (self.x, 0.0)}

            def render(self, camera, width, height):
                return np.zeros((height, width, 3), np.uint8)

            def close(self):
                pass
        """,
    "demonstrator.py": """
        import numpy as np

        from robots.demonstrators import recorded
        from robots.worlds.rail import SIDES


        def demonstrate(world, instruction, rng, seed):
            observations, actions = [world.observation()], []
            while not world.true_success(instruction):
                actions.append(np.array([np.sign(SIDES[instruction.target["side"]]) * 0.05], np.float32))
                observations.append(world.step(actions[-1]))
            return recorded(world, instruction, observations, actions, True, "time_limit", rng, seed)
        """,
}


@pytest.fixture
def found(tmp_path, monkeypatch):
    """The folder, found where the built-in ones are, and forgotten again."""
    (tmp_path / "rail").mkdir()
    for name, text in FOLDER.items():
        (tmp_path / "rail" / name).write_text(dedent(text).lstrip())
    (tmp_path / "no_folder.py").write_text("WORLDS = 3")
    monkeypatch.setattr(robots.worlds, "__path__", [str(tmp_path)])
    before = [(registry, dict(registry)) for registry in (WORLDS, EMBODIMENTS, TASKS)]
    for spec in find_worlds():
        register(spec)
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)
    for name in [name for name in sys.modules if name.startswith("robots.worlds.rail")]:
        del sys.modules[name]
    monkeypatch.delattr(robots.worlds, "rail")


def test_the_folder_names_its_body_and_its_task_before_its_physics_is_imported(found):
    sizes = {key: feature.size for key, feature in get_embodiment("rail").observation.items()}
    assert sizes == {STATE: 1, ENVIRONMENT_STATE: 2} and set(EMBODIMENTS) == set(WORLDS)
    family = get_task("cup_to_side")
    assert family.parse("Bring the red cup to the left.").target == {"cup": "red cup", "side": "left"}
    asked = {family.sample(np.random.default_rng(seed), {"red cup": (-1.0, 0.0)}).text for seed in range(20)}
    assert asked == {"bring the red cup to the right"}, "what is fulfilled already is not asked"
    assert "robots.worlds.rail.physics" not in sys.modules
    assert make_world("rail", 0).embodiment is get_embodiment("rail")


def test_a_station_practises_in_it(found):
    clock, sent, episodes = Clock(), [], []
    station = Station(make_world("rail", 3), seed=3, emit=sent.append, store=episodes.append, clock=clock)
    order = {
        "type": "assignment",
        "assignment": 1,
        "run": 1,
        "task": {"name": "cup_to_side", "time_limit_steps": 5},
        "purpose": "practice",
    }
    station.receive(told(order))
    station.offer_policy(loaded_policy(policy=FakePolicy([0.05])))
    while not episodes:
        clock.pass_(0.1)
        if station.observe() is not None:
            station.act(np.array([0.05], np.float32), 9.0, None)
        assert clock.now < 1100, sent
    (episode,) = episodes
    episode.check_against(get_embodiment("rail"))
    assert (episode.task, episode.ending, episode.steps) == ("cup_to_side", "time_limit", 5)


def test_it_can_be_demonstrated(found):
    episodes = collect_demonstrations(["cup_to_side"], 4, seed=1)
    assert [episode.true_success for episode in episodes] == [True] * 4
    for episode in episodes:
        episode.validate()
        episode.check_against(get_embodiment("rail"))


def test_a_name_that_is_taken_is_refused_and_nothing_is_changed(found):
    (spec,) = find_worlds()
    before = [dict(registry) for registry in (WORLDS, EMBODIMENTS, TASKS)]
    with pytest.raises(WorldError, match="a world 'rail' already"):
        register(spec)
    del WORLDS["rail"]
    with pytest.raises(WorldError, match="a task 'cup_to_side' already"):
        register(spec)
    WORLDS["rail"] = spec
    assert before == [WORLDS, EMBODIMENTS, TASKS]


def test_without_a_demonstrator_a_person_is_asked_for_demonstrations(found):
    WORLDS["rail"] = robots.worlds.WorldSpec(get_embodiment("rail"), (), make=lambda seed: None)
    with pytest.raises(DemonstrationError, match="no scripted demonstrator for cup_to_side"):
        collect_demonstrations(["cup_to_side"], 1, seed=1)
