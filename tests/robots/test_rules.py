"""A task's rules and a station's settings: declared once, and obeyed by a station that is told of them."""

import dataclasses
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
from training.practice import step_together


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
    resets = {"hidden_place", "hidden_place_new", "point_mass", "push_effects"}
    resets |= {"push_right", "push_up", "drive_course"}
    assert {name for name, family in TASKS.items() if family.reset_each_attempt} == resets
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


# Two families in turn, and success by a sensor


def test_two_families_alternate_whatever_came_of_an_attempt():
    bench = Bench().practise(after_failure="block_to_place", alternates=True)
    episodes = bench.until_episodes(4)
    assert [each.task for each in episodes] == ["block2block", "block_to_place"] * 2
    assert bench.world.resets == 1, "nothing was reset for it"


def test_a_success_is_the_sensors_word_where_the_task_says_so():
    bench = Bench()
    steps = lambda: bench.station.recording.steps if bench.station.recording else 0  # noqa: E731
    bench.world.sensed = lambda instruction: {"success": float(steps() >= 3), "grip": 0.5}
    bench.practise(success_by="sensor")
    (episode,) = bench.until_episodes(1)
    assert (episode.ending, episode.steps) == ("detected_success", 3)
    assert episode.labels == {
        "grip": {"value": 0.5, "step": 3, "source": "sensor"},
        "success": {"value": 1.0, "step": 3, "source": "sensor"},
    }
    bench.station.receive(told(ASSIGNMENT))
    *_, episode = bench.until_episodes(2)
    assert episode.labels["success"]["source"] == "classifier", "the detector's word, as before"
    assert episode.labels["grip"]["source"] == "sensor"


def test_a_task_that_goes_by_a_sensor_asks_for_a_person_where_there_is_none():
    bench = Bench().practise(success_by="sensor")
    bench.tick()
    assert bench.state == "needs_person" and "this station has none" in bench.station.control.reason


@pytest.mark.parametrize("given", [[1], {"success": "yes"}, {"success": math.nan}, {3: 1.0}])
def test_a_sensor_that_tells_nonsense_is_a_fault_with_a_sentence(given):
    bench = Bench()
    bench.world.sensed = lambda instruction: given
    bench.practise(success_by="sensor")
    bench.tick()
    assert bench.state == "needs_person" and "reading its sensors failed" in bench.station.control.reason


# What a policy keeps of a station, says of itself, and shows


def test_what_a_policy_says_of_itself_reaches_the_server_and_what_is_no_number_does_not():
    loaded = loaded_policy()
    bench = Bench().practise(loaded)
    bench.station.observe()
    bench.station.act(np.zeros(2), 5.0, None, None, {"doubt": 0.25, "way": math.nan})
    assert bench.station.telemetry().signals == {"doubt": 0.25}
    bench.station.receive(told({**ASSIGNMENT, "run": 2}))
    assert bench.station.telemetry().signals == {}, "another run's policies say something else"


def test_keypoints_are_shown_moved_by_a_person_and_kept_with_the_attempt():
    bench = Bench().practise()
    bench.tick()
    assert "no such keypoint" in bench.command("move_keypoint", number=0, x=0.1, y=0.2)["error"]
    bench.station.memory["marks"] = {"points": [[0.0, 0.0], [0.1, 0.1]], "source": "classifier"}
    assert bench.station.telemetry().marks == [[0.0, 0.0], [0.1, 0.1]]
    assert "no such keypoint" in bench.command("move_keypoint", number=2, x=0.1, y=0.2)["error"]
    assert "metres" in bench.command("move_keypoint", number=1, x=1e9, y=0.2)["error"]
    assert bench.command("move_keypoint", number=1, x=0.3, y=-0.2)["ok"]
    telemetry = bench.station.telemetry()
    assert (telemetry.marks[1], telemetry.marks_by) == ([0.3, -0.2], "human")
    (episode,) = bench.until_episodes(1)
    assert episode.labels["keypoints"] == {"value": [[0.0, 0.0], [0.3, -0.2]], "step": 0, "source": "human"}


def test_a_station_acts_where_nothing_judges_it():
    loaded = dataclasses.replace(
        loaded_policy(), reward_model=None, reward_model_checkpoint="", threshold=None, bin_width=None
    )
    bench = Bench()
    bench.station.receive(told({**ASSIGNMENT, "task": {**ASSIGNMENT["task"], "time_limit_steps": 5}}))
    bench.station.offer_policy(loaded)
    for _ in range(20):
        step_together([bench.station])
        bench.clock.pass_(0.2)
    first = bench.episodes[0]
    assert (first.ending, first.reward_model, first.threshold) == ("time_limit", "", None)
    assert np.isnan(first.steps_to_go).all() and first.labels == {}
