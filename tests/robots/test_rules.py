"""A task's rules and a station's settings: declared once, and obeyed by a station that is told of them."""

import json
import math

import numpy as np
import pytest

from robots.protocol import to_json
from robots.rules import RULES, SETTINGS, TASK_RULES, RuleError, Rules, Settings
from robots.station import Station
from robots.tasks import TASKS, get_task
from robots.worlds import make_world
from robots.worlds.point_mass import POINT_MASS
from robots.worlds.third_party import read_worlds_file
from tests.robots.station_fakes import Clock, loaded_policy, told
from tests.robots.test_embodiments import WORLD
from tests.robots.test_station import ASSIGNMENT, Bench


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "12", [1], {}, 10**400, -1])
@pytest.mark.parametrize("name", [name for name, rule in TASK_RULES.items() if rule.minimum is not None])
def test_what_is_no_number_within_the_bounds_is_refused_in_one_sentence(name, value):
    with pytest.raises(RuleError) as refusal:
        TASK_RULES[name].check(value)
    sentence = str(refusal.value)
    assert TASK_RULES[name].label in sentence and f"{TASK_RULES[name].maximum:g}" in sentence and len(sentence) < 200


def test_a_whole_number_stays_whole_and_a_part_of_a_step_is_refused():
    assert RULES["stall_steps"].check(12.0) == 12 and type(RULES["stall_steps"].check(12.0)) is int
    with pytest.raises(RuleError, match="whole number"):
        RULES["stall_steps"].check(12.5)


def test_wrong_settings_change_none_of_them():
    settings = Settings()
    with pytest.raises(RuleError, match="Ask for a shuffle every"):
        settings.update({"speed": 4, "shuffle_every_s": 0.1})
    assert settings == Settings()


def test_every_rule_says_what_it_is_in_the_schema_of_an_api():
    for rule in (*TASK_RULES.values(), *SETTINGS.values()):
        schema = json.loads(json.dumps(rule.json_schema()))
        assert schema["title"] and schema["description"] and schema["type"]


# What the server itself orders comes with an assignment: it is no person's command, and no person can be in its way


def test_settings_of_a_task_reach_a_station_that_a_person_holds():
    bench = Bench().practise()
    bench.tick()
    bench.command("override")
    bench.command("drive", axes={"x": 1, "y": 0})
    settings = {"self_reset_after_s": 5.0, "shuffle_every_s": 60.0}
    bench.station.receive(told({**ASSIGNMENT, "task": {**ASSIGNMENT["task"], "stall_steps": 3}, "settings": settings}))
    assert bench.state == "overridden" and bench.station.recording.rules.stall_steps is None, "the correction goes on"
    assert bench.station.settings == Settings(5.0, 60.0, speed=1)
    bench.command("hand_back")
    bench.tick()
    assert bench.station.recording.rules.stall_steps == 3


def test_wrong_settings_of_an_assignment_leave_the_old_ones_and_the_practice():
    bench = Bench().practise()
    bench.station.receive(told({**ASSIGNMENT, "settings": {"shuffle_every_s": -1}}))
    assert bench.tick() and bench.station.settings == Settings()


def test_a_killed_assignment_ends_the_policys_attempt_and_no_persons():
    ended = {"type": "assignment", "assignment": None, "run": None, "task": None, "at_once": True}
    bench = Bench().practise()
    bench.tick()
    bench.station.receive(told(ended))
    assert bench.state == "idle" and [episode.ending for episode in bench.episodes] == ["operator"]
    bench.practise()
    bench.tick(), bench.command("override"), bench.command("drive", axes={"x": 1, "y": 0}), bench.tick()
    bench.station.receive(told(ended))
    assert bench.state == "overridden" and bench.station.recording.purpose == "correction"
    bench.command("hand_back")
    assert bench.state == "idle" and bench.episodes[-1].purpose == "correction"


# Goals that change by a reset only


def of_point_mass(world=None, **rules):
    clock, sent = Clock(), []
    station = Station(
        world or make_world("point_mass", 5), seed=5, emit=lambda message: sent.append(to_json(message)), clock=clock
    )
    task = {"name": "point_mass", "time_limit_steps": 4, **rules}
    station.receive(told({"type": "assignment", "assignment": 1, "run": 1, "task": task, "purpose": "practice"}))
    station.offer_policy(loaded_policy())
    return station, clock, sent


def goals_of(station, clock, attempts):
    goals = []
    for _ in range(100 * attempts):
        clock.pass_(0.1)
        if station.observe() is None:
            continue
        if not station.recording.steps:
            goals.append(tuple(station.driver.world.goal))
        if len(goals) == attempts:
            break
        station.act(np.zeros(2, np.float32), 1e9, None)
    return goals


def test_each_attempt_at_the_point_mass_has_a_goal_of_its_own_and_nobody_is_asked():
    station, clock, sent = of_point_mass()
    goals = goals_of(station, clock, 5)
    assert len(set(goals)) == 5
    assert not [message for message in sent if message["type"] == "touch"]
    assert {message["state"] for message in sent if message["type"] == "telemetry"} <= {"waiting", "practising", "idle"}


class RealPointMass:
    """A body whose driver was written before worlds said whether they reset themselves."""

    def __init__(self):
        self.world = make_world("point_mass", 5)

    def __getattr__(self, name):
        if name == "resets_itself":
            raise AttributeError(name)
        return getattr(self.world, name)


def test_a_real_world_asks_for_a_person_before_each_attempt():
    station, clock, _ = of_point_mass(RealPointMass())
    assert len(goals_of(station, clock, 2)) == 1, "the first is fresh, and the second waits"
    assert station.control.state == "needs_person" and "before each attempt" in station.control.reason
    before = tuple(station.driver.world.goal)
    station.receive(told({"type": "command", "id": "r", "name": "reset", "args": {}, "epoch": 1, "by": "ada"}))
    assert station.control.state == "practising" and tuple(station.driver.world.goal) != before
    assert len(goals_of(station, clock, 2)) == 1


def test_a_task_may_ask_for_a_reset_before_each_attempt_and_take_it_back():
    bench = Bench().practise(reset_each_attempt=True)
    bench.until_episodes(2)
    bench.tick()
    assert bench.world.resets == 3, "one by its maker, one before each attempt but the first"
    bench.world.resets_itself = False
    bench.until_episodes(3)
    bench.tick()
    assert bench.state == "needs_person"
    bench.station.receive(told(ASSIGNMENT))
    assert bench.state == "practising" and bench.tick()


def test_a_world_that_ended_is_reset_before_the_next_attempt_and_asks_nobody():
    bench = Bench().practise(reset_each_attempt=True)
    bench.tick(), bench.tick()
    bench.world.off_table = "the environment has ended"
    (episode,) = bench.until_episodes(1)
    assert episode.ending == "needs_reset" and bench.state == "practising"
    assert bench.tick() and bench.world.resets == 2 and not bench.world.off_table


def test_a_reset_that_does_not_help_asks_for_a_person():
    bench = Bench().practise(reset_each_attempt=True)
    bench.until_episodes(1)
    reset = bench.world.reset

    def broken(rng):
        observation = reset(rng)
        bench.world.off_table = "the red moon is off the table"
        return observation

    bench.world.reset = broken
    bench.tick()
    assert bench.state == "needs_person" and bench.station.control.reason == "the red moon is off the table"


def test_only_worlds_that_need_it_say_so(tmp_path):
    assert [name for name, family in TASKS.items() if family.reset_each_attempt] == [
        "push_right",
        "push_up",
        "point_mass",
        "drive_course",
    ]
    assert get_task("point_mass").embodiment == POINT_MASS.name
    path = tmp_path / "worlds.toml"
    path.write_text(WORLD)
    assert read_worlds_file(path)[0].reset_each_attempt is False
    path.write_text(WORLD + "reset_each_attempt = true\n")
    assert read_worlds_file(path)[0].reset_each_attempt is True


@pytest.mark.parametrize("line", ['reset_each_attempt = "yes"', "reset_each_attempt = 1"])
def test_a_worlds_file_that_says_it_wrongly_is_refused_in_words(tmp_path, line):
    path = tmp_path / "worlds.toml"
    path.write_text(f"{WORLD}{line}\n")
    with pytest.raises(ValueError, match=r"reset_each_attempt is wrong: .* must be true or false"):
        read_worlds_file(path)


def test_a_rule_that_the_station_does_not_know_is_passed_over():
    """A newer server may say more."""
    assert Rules.from_json({"name": "block2block", "sing": 3, "low_success_probability": None}) == Rules()
