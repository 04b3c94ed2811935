import itertools
import json
import math

import numpy as np
import pytest

from robots.attempts import MOST_PASSED_OVER
from robots.attention import need_of
from robots.embodiments import STATE
from robots.episodes import ACTORS, episodes_to_bytes, rows_of, stacked
from robots.protocol import to_json
from robots.rules import RULES
from robots.station import Station
from robots.termination import chance_of_success
from tests.robots.station_fakes import ASSIGNMENT, Clock, FakePolicy, FakeRewardModel, FakeWorld, loaded_policy, told

_ids = itertools.count()


class Bench:
    """One station, a hand-turned clock, and everything that the station said."""

    def __init__(self, **settings):
        self.clock, self.world, self.epoch = Clock(), FakeWorld(), 1
        self.sent, self.shown, self.episodes = [], [], []
        self.station = Station(
            self.world,
            seed=3,
            emit=lambda message: self.sent.append(to_json(message)),
            show=lambda message: self.shown.append(to_json(message)),
            store=self.keep,
            clock=self.clock,
        )
        self.station.receive(told({"type": "welcome", "settings": settings}))

    def keep(self, episode):
        self.episodes.append(episode)
        if episode.detected_success:  # what is asked next is still to be done
            self.world.state[0] = 0.001

    def practise(self, loaded=None, **task):
        self.station.receive(told({**ASSIGNMENT, "task": {**ASSIGNMENT["task"], **task}}))
        self.station.offer_policy(loaded or loaded_policy())
        return self

    def command(self, name, ttl_ms=1000, id=None, epoch=None, by="ada", **args):
        """As the server sends it: an override begins the next epoch, everything else names the newest."""
        if epoch is None:
            self.epoch += name == "override"
            epoch = self.epoch
        message = {"type": "command", "id": id or f"c{next(_ids)}", "name": name, "args": args, "ttl_ms": ttl_ms}
        self.station.receive(told({**message, "epoch": epoch, "by": by}))
        return self.sent_of("command_done")[-1]

    def heartbeat(self, epoch=None):
        self.station.receive(told({"type": "control_heartbeat", "epoch": self.epoch if epoch is None else epoch}))

    def sent_of(self, kind):
        return [message for message in self.sent if message["type"] == kind]

    def tick(self, seconds=0.2):
        """What a host does, once; True when the station acted."""
        self.clock.pass_(seconds)
        seen = self.station.observe()
        if seen is None:
            return False
        loaded = self.station.orders.loaded
        if loaded is None:
            self.station.act(None, np.nan, None)
        else:
            observations = stacked([seen[0]])
            d, distribution = loaded.reward_model.steps_to_go(observations, [seen[1]])
            answer = loaded.policy.answer(observations, [seen[1]])
            self.station.act(answer.actions[0], d[0], distribution[0], answer.prediction[0])
        return True

    def until_episodes(self, count, ticks=500):
        for _ in range(ticks):
            if len(self.episodes) >= count:
                return self.episodes
            self.tick()
        raise AssertionError(f"{len(self.episodes)} episodes after {ticks} ticks, state {self.state}")

    @property
    def state(self):
        return self.station.control.state


def same(a, b):
    """Whether two observations hold the same arrays by the same keys."""
    return a.keys() == b.keys() and all(np.array_equal(a[key], b[key]) for key in a)


def test_without_an_assignment_the_world_stands_still():
    bench = Bench()
    before = bench.world.observation()
    bench.station.offer_policy(loaded_policy())
    assert not any(bench.tick() for _ in range(10))
    assert bench.state == "idle" and same(bench.world.observation(), before)


def test_the_detector_ends_an_episode_that_is_recorded_in_full():
    bench = Bench().practise()
    (episode,) = bench.until_episodes(1)
    # d = 10 - 100 x, one centimetre a step from x = 0.001: at or below 1.5 after 9 steps
    assert episode.ending == "detected_success" and episode.detected_success and episode.steps == 9
    assert episode.steps_to_go[-1] <= 1.5 < episode.steps_to_go[-2]
    assert np.isfinite(episode.steps_to_go).all() and len(episode.steps_to_go) == 10
    assert (episode.actors == ACTORS.index("policy")).all() and episode.purpose == "practice"
    assert (episode.policy, episode.reward_model, episode.threshold) == ("policy-1", "reward-model-1", 1.5)
    assert episode.true_success is False, "the detector's word and the truth are two things"
    episodes_to_bytes([episode])  # valid


def test_the_detector_wants_its_frames_in_a_row():
    bench = Bench().practise(loaded_policy(consecutive=3))
    (episode,) = bench.until_episodes(1)
    assert episode.steps == 11


def test_a_goal_fulfilled_before_the_first_step_is_passed_over():
    reward_model = FakeRewardModel(distance=0)
    bench = Bench().practise(loaded_policy(reward_model=reward_model))
    before = bench.world.observation()
    for _ in range(MOST_PASSED_OVER - 1):
        bench.tick()
    assert bench.station.attempts.number == MOST_PASSED_OVER - 1 and not bench.episodes
    assert same(bench.world.observation(), before), "nothing moves"
    reward_model.distance = 10.0  # what is asked next is still to be done
    assert bench.until_episodes(1)[0].ending == "detected_success"


def test_a_detector_that_takes_everything_for_done_is_not_believed_about_it():
    bench = Bench().practise(loaded_policy(reward_model=FakeRewardModel(distance=0)))
    (episode,) = bench.until_episodes(1)
    assert episode.steps == 1 and bench.station.attempts.number == MOST_PASSED_OVER + 1
    assert bench.state == "practising"


def test_a_time_limit_is_not_a_success():
    bench = Bench().practise(time_limit_steps=5)
    (episode,) = bench.until_episodes(1)
    assert episode.ending == "time_limit" and episode.steps == 5 and not episode.detected_success
    assert np.isfinite(episode.steps_to_go).all()


def test_true_success_is_written_down_and_ends_nothing():
    bench = Bench().practise(time_limit_steps=5)
    bench.world.success = True
    (episode,) = bench.until_episodes(1)
    assert episode.true_success is True and episode.ending == "time_limit" and not episode.detected_success


def test_practice_is_reset_free_and_no_observation_of_the_next_episode_is_in_the_last():
    bench = Bench().practise(loaded_policy(reward_model=FakeRewardModel(distance=50)), time_limit_steps=5)
    first, second = bench.until_episodes(2)
    assert bench.world.resets == 1, "only the very first one"
    assert same(rows_of(first.observations, -1), rows_of(second.observations, 0)), (
        "the next starts from what is on the table"
    )
    ee_x = first.observations[STATE][:, 0]
    assert ee_x[-1] == pytest.approx(ee_x[0] + 5 * 0.01)
    assert {len(array) for array in first.observations.values()} == {6}


def test_a_reset_between_episodes_is_seen_by_the_next_one_only():
    bench = Bench(self_reset_after_s=1).practise(time_limit_steps=5)
    for _ in range(3):
        bench.tick()
    bench.world.off_table = "the blue cube is off the table"
    first, second = bench.until_episodes(2)
    assert first.ending == "needs_reset"
    ee_x = first.observations[STATE][:, 0]
    assert ee_x.max() > 0.02 and ee_x[-1] != pytest.approx(0.002)
    assert second.observations[STATE][0, 0] == pytest.approx(0.002), "the reset scene (the second reset)"


def test_steps_keep_real_time_and_four_times_it_and_no_time_at_all():
    for speed, expected in ((1, 10), (4, 40)):
        bench = Bench(speed=speed).practise(
            loaded_policy(reward_model=FakeRewardModel(distance=1e9)), time_limit_steps=10_000
        )
        for _ in range(400):
            bench.tick(0.005)
        assert bench.station.attempts.steps_taken == pytest.approx(expected, abs=2)
    bench = Bench(speed=0).practise(loaded_policy(reward_model=FakeRewardModel(distance=1e9)), time_limit_steps=10_000)
    assert all(bench.tick(0) for _ in range(50))
    assert bench.station.attempts.steps_taken == 50
    assert bench.command("speed", value=1)["ok"] and bench.station.settings.speed == 1
    refused = bench.command("speed", value=3)
    assert not refused["ok"] and "1 (1×), 4 (4×), 0 (max)" in refused["error"]


def test_telemetry_says_how_the_episode_goes_at_most_ten_times_a_second():
    bench = Bench(speed=0).practise(loaded_policy(reward_model=FakeRewardModel(distance=40)), time_limit_steps=10_000)
    for _ in range(35):
        bench.tick(0.01)
    assert len(bench.shown) <= 4
    newest = bench.shown[-1]
    assert newest["state"] == "practising" and newest["d"] < newest["d_start"] and 0 < newest["progress"] < 1
    assert newest["p_success"] == 1.0 and len(newest["distribution"]) == 50 and newest["version"] == 1
    assert newest["uuid"] == bench.station.recording.uuid


def test_an_idle_station_gives_a_sign_of_life():
    bench = Bench()
    for _ in range(30):
        bench.tick(0.1)
    assert 2 <= len(bench.shown) <= 4 and bench.shown[-1]["state"] == "idle"


# Policies and rounds


def test_a_policy_is_loaded_at_the_episode_boundary_only():
    bench = Bench().practise(loaded_policy(1))
    bench.tick(), bench.tick()
    bench.station.offer_policy(loaded_policy(2))
    assert [message["checkpoint"] for message in bench.sent_of("policy_loaded")] == ["policy-1"]
    bench.tick()
    bench.until_episodes(1)
    assert bench.episodes[0].policy == "policy-1"
    assert [message["checkpoint"] for message in bench.sent_of("policy_loaded")] == ["policy-1", "policy-2"]
    bench.world.reset(None)
    assert bench.until_episodes(2)[1].policy == "policy-2"


def test_a_hold_lets_the_episode_end_then_waits_for_a_newer_policy():
    bench = Bench().practise(loaded_policy(4))
    bench.tick(), bench.tick()
    bench.station.receive(told({"type": "hold", "version": 4}))
    assert bench.state == "practising", "the episode under way goes on"
    bench.until_episodes(1)
    assert bench.state == "waiting" and not any(bench.tick() for _ in range(20))
    bench.station.offer_policy(loaded_policy(4))
    assert bench.state == "waiting", "the same policy, sent again after a reconnection, lifts no hold"
    bench.station.offer_policy(loaded_policy(5))
    assert bench.state == "practising" and bench.tick()


def test_the_answer_to_an_old_upload_does_not_hold_a_station_that_has_the_next_policy():
    bench = Bench().practise(loaded_policy(5))
    bench.station.receive(told({"type": "hold", "policies": ["policy-4"]}))
    bench.tick()
    assert bench.state == "practising"
    bench.station.receive(told({"type": "hold", "policies": ["policy-5"]}))
    bench.until_episodes(1)
    assert bench.state == "waiting"


def test_a_new_run_counts_its_versions_anew():
    bench = Bench().practise(loaded_policy(9))
    bench.station.receive(told({"type": "hold", "version": 9}))
    bench.station.offer_policy(loaded_policy(10))
    bench.station.receive(told({"type": "hold", "version": 10}))
    bench.station.receive(told({**ASSIGNMENT, "assignment": 2, "run": 2}))
    assert bench.state == "waiting", "the last run's policy acts no episode of the next"
    bench.station.offer_policy(loaded_policy(0, checkpoint="of-another-run"))
    assert bench.state == "practising"


EVALUATION = {**ASSIGNMENT, "purpose": "evaluation", "assignment": 7, "run": "evaluation 7", "attempts": 2}


def test_an_evaluation_is_over_after_its_attempts():
    bench = Bench()
    bench.station.receive(told(EVALUATION))
    bench.station.offer_policy(loaded_policy())
    assert bench.state == "evaluating"
    bench.until_episodes(2)
    assert bench.state == "waiting" and "has made its attempts" in bench.station.control.reason
    told_of = {"state": "waiting", "reason": bench.station.control.reason, "state_for_s": 600.0}
    assert need_of(**told_of, code=bench.station.control.code) is None, "it wants nobody"
    assert need_of(**told_of) is not None
    bench.tick()
    assert len(bench.episodes) == 2 and {each.purpose for each in bench.episodes} == {"evaluation"}
    bench.station.receive(told({**EVALUATION, "attempts": 3, "made": 1}))  # one upload is on its way
    assert bench.state == "evaluating"
    bench.until_episodes(3)
    assert bench.state == "waiting"


def test_another_evaluation_counts_anew_and_not_what_is_of_the_last():
    bench = Bench()
    bench.station.receive(told(EVALUATION))
    bench.station.offer_policy(loaded_policy())
    bench.tick()
    bench.station.receive(told({**EVALUATION, "assignment": 8, "run": "evaluation 8", "attempts": 1}))
    bench.until_episodes(1)  # the one under way ends, with the last one's policy
    assert bench.state == "waiting" and "no policy" in bench.station.control.reason
    bench.station.offer_policy(loaded_policy(0, checkpoint="of-the-next"))
    assert bench.state == "evaluating"
    bench.until_episodes(2)
    assert bench.state == "waiting" and bench.episodes[1].policy == "of-the-next"


def test_a_process_that_began_anew_hears_how_many_attempts_it_has_made():
    bench = Bench()
    bench.station.receive(told({**EVALUATION, "made": 2}))
    bench.station.offer_policy(loaded_policy())
    assert bench.state == "waiting"


def test_another_run_lets_the_episode_under_way_end_with_its_policy():
    bench = Bench().practise(loaded_policy(9))
    bench.tick()
    bench.station.receive(told({**ASSIGNMENT, "assignment": 2, "run": 2}))
    bench.until_episodes(1)
    assert bench.episodes[0].policy == "policy-9" and bench.episodes[0].steps == 9 and bench.state == "waiting"


def test_a_hold_that_overtakes_its_policy_holds_it_all_the_same():
    """The policy comes late, since its file is fetched first."""
    bench = Bench()
    bench.station.receive(told(ASSIGNMENT))
    bench.station.receive(told({"type": "hold", "version": 3}))
    bench.station.offer_policy(loaded_policy(3))
    assert bench.state == "waiting"
    bench.station.offer_policy(loaded_policy(4))
    assert bench.state == "practising"


def test_without_a_policy_the_station_waits_and_says_why():
    bench = Bench()
    bench.station.receive(told(ASSIGNMENT))
    assert bench.state == "waiting" and "no policy" in bench.station.control.reason
    bench.station.policy_failed("the policy cannot be loaded: it is for another body")
    assert "another body" in bench.station.control.reason


def test_an_assignment_that_ends_lets_the_episode_end():
    bench = Bench().practise()
    bench.tick()
    bench.station.receive(told({"type": "assignment", "assignment": None, "run": None, "task": None}))
    bench.tick()
    assert bench.state == "practising"
    bench.until_episodes(1)
    assert bench.state == "idle"


@pytest.mark.parametrize("name", ["juggle", ""])
def test_an_unknown_task_is_said_and_not_tried(name):
    bench = Bench()
    bench.station.receive(told({**ASSIGNMENT, "task": {"name": name}}))
    assert bench.state == "idle" and "known are" in bench.station.control.reason


# A person is needed


def test_a_fallen_block_ends_the_episode_and_asks_for_a_person_until_the_reset():
    bench = Bench().practise()
    bench.tick(), bench.tick()
    bench.world.off_table = "the blue cube is off the table"
    (episode,) = bench.until_episodes(1)
    assert episode.ending == "needs_reset" and not episode.detected_success
    assert (bench.state, bench.station.control.reason) == ("needs_person", "the blue cube is off the table")
    assert not any(bench.tick() for _ in range(100))
    assert bench.command("reset")["ok"]
    assert bench.state == "practising" and bench.world.resets == 2 and not bench.sent_of("touch")


def test_practice_goes_on_with_what_is_left_where_the_task_says_so():
    bench = Bench().practise(fewest_objects=7)
    bench.tick(), bench.tick()
    bench.world.off_table, bench.world.in_play = "the blue cube is off the table", 7
    (first,) = bench.until_episodes(1)
    assert first.ending == "needs_reset", "the attempt in which it fell ends, and learns that"
    bench.tick()
    assert bench.state == "practising"
    first, second = bench.until_episodes(2)
    assert second.ending != "needs_reset", "what lay off the table before is not held against it"
    bench.tick()
    bench.world.off_table, bench.world.in_play = "the blue cube and the red moon are off the table", 6
    bench.until_episodes(3)
    assert (bench.state, bench.station.control.reason) == ("needs_person", bench.world.off_table)


def test_the_fence_limits_what_the_policy_pushes_and_nobody_else():
    bench = Bench().practise(edge_margin=0.006)  # of the fake world: no action is larger
    before = bench.world.state[0]
    bench.tick(), bench.tick()
    moved = bench.world.state[0] - before
    (episode,) = bench.until_episodes(1)
    assert moved == pytest.approx(2 * 0.006), "the policy's 0.01 is cut down"
    np.testing.assert_allclose(episode.actions[:, 0], 0.01, err_msg="what it asked for is kept")
    assert bench.command("override")["ok"]
    before = bench.world.state[0]
    bench.command("drive", axes={"x": 1.0, "y": 0.0})
    bench.tick()
    assert bench.world.state[0] - before > 0.006, "a person's push is a person's"


class ScriptedRewardModel:
    """d is what the list says for each step, whatever is seen."""

    def __init__(self, *d):
        self.d, self.step = [float(each) for each in d], 0

    def steps_to_go(self, observations, instructions):
        d = self.d[min(self.step, len(self.d) - 1)]
        self.step += 1
        return np.array([d], np.float32), np.full((1, 20), 0.05, np.float32)


def test_an_attempt_without_progress_ends_by_itself_and_says_so():
    d = [30, 28, 26, 25.5, 25.4, 25.3, 25.2, 27, 26, 26]
    bench = Bench().practise(loaded_policy(reward_model=ScriptedRewardModel(*d)), stall_steps=5)
    (episode,) = bench.until_episodes(1)
    # 26 at step 2 is the last new low: what follows is less than a step below it.
    assert (episode.ending, episode.steps) == ("stall", 7) and not episode.detected_success
    patient = Bench().practise(loaded_policy(reward_model=ScriptedRewardModel(*d)))
    assert patient.until_episodes(1)[0].ending == "time_limit", "never, where the task has no such rule"


def test_an_attempt_that_fell_back_ends_by_itself_but_not_for_one_high_frame():
    d = [30, 20, 10, 28, 10, 28, 28, 28, 28]
    bench = Bench().practise(loaded_policy(reward_model=ScriptedRewardModel(*d)), regression=15)
    (episode,) = bench.until_episodes(1)
    assert (episode.ending, episode.steps) == ("regression", 7)


def test_an_attempt_of_low_success_probability_ends_by_itself_but_one_in_ten_is_a_probe():
    bench = Bench().practise(
        loaded_policy(policy=FakePolicy((0.0, 0.0), p_success=0.04), value_updates=8), low_success_probability=0.05
    )
    episodes = bench.until_episodes(200, ticks=5000)
    ended = [episode for episode in episodes if episode.ending == "low_success_probability"]
    assert {episode.steps for episode in ended} == {2}, "at the third doubtful frame in a row"
    probes = [episode for episode in episodes if episode.ending == "time_limit"]
    assert len(ended) + len(probes) == len(episodes) and 0.04 < len(probes) / len(episodes) < 0.2
    # Hopeful; hardly anything learned yet.
    for value_updates, p_success in ((8, 0.06), (7, 0.04)):
        policy = loaded_policy(policy=FakePolicy((0.0, 0.0), p_success=p_success), value_updates=value_updates)
        episodes = Bench().practise(policy, low_success_probability=0.05).until_episodes(20, ticks=5000)
        assert {episode.ending for episode in episodes} == {"time_limit"}


def asked(bench):
    return bench.station.recording.task.name


def test_after_a_failure_another_family_is_asked_until_one_succeeds():
    still, right = FakePolicy((0.0, 0.0)), FakePolicy((0.01, 0.0))
    bench = Bench().practise(loaded_policy(policy=still), after_failure="block_to_place")
    bench.tick()
    assert asked(bench) == "block2block"
    bench.until_episodes(2)
    bench.tick()
    assert [episode.task for episode in bench.episodes] == ["block2block", "block_to_place"]
    assert asked(bench) == "block_to_place"
    bench.station.offer_policy(loaded_policy(2, policy=right))
    bench.until_episodes(4)
    bench.tick()
    assert bench.episodes[-1].detected_success and asked(bench) == "block2block"


def test_where_the_other_family_fails_too_the_tasks_own_is_asked_again():
    bench = Bench().practise(loaded_policy(policy=FakePolicy((0.0, 0.0))), after_failure="block_to_place")
    bench.until_episodes(6, ticks=1000)
    own, other = "block2block", "block_to_place"
    assert [episode.task for episode in bench.episodes] == [own, other, other, other, own, other]


def test_a_persons_end_is_no_success():
    bench = Bench().practise(loaded_policy(policy=FakePolicy((0.0, 0.0))), after_failure="block_to_place")
    bench.until_episodes(1)
    bench.tick(), bench.tick()
    assert bench.command("end_episode")["ok"]
    bench.tick()
    assert asked(bench) == "block_to_place"


def test_the_other_family_is_no_business_of_a_reset_or_of_an_evaluation():
    bench = Bench().practise(loaded_policy(policy=FakePolicy((0.0, 0.0))), after_failure="block_to_place")
    bench.until_episodes(1)
    bench.world.off_table = "the blue cube is off the table"
    bench.tick()
    assert bench.command("reset")["ok"]
    bench.tick()
    assert asked(bench) == "block2block", "a fresh table has nothing to be put right"
    bench.until_episodes(2)
    bench.tick()
    bench.station.receive(told({**ASSIGNMENT, "task": bench.station.orders.assignment.task, "purpose": "evaluation"}))
    bench.until_episodes(4)
    assert [episode.task for episode in bench.episodes] == ["block2block"] * 2 + ["block_to_place", "block2block"]


def all_at_one_place(bench):
    for block in bench.world.embodiment.objects:
        bench.world.tracked[bench.world.embodiment.object_slice(block.name)][:2] = 0.0
    bench.station.workspace.observation = bench.world.observation()


def test_where_all_is_fulfilled_the_other_family_is_asked_or_a_person():
    bench = Bench().practise()
    all_at_one_place(bench)
    assert not bench.tick() and bench.state == "needs_person"
    assert "fulfilled already" in bench.station.control.reason
    assert bench.command("override")["ok"], "whoever drives is given other words"
    assert bench.station.recording.task.name == "block_to_place"
    bench = Bench().practise(after_failure="block_to_place")
    all_at_one_place(bench)
    assert bench.tick() and asked(bench) == "block_to_place"


@pytest.mark.parametrize("rule", [{"stall_steps": 0}, {"regression": "far"}, {"fewest_objects": float("nan")}])
def test_a_rule_that_makes_no_sense_is_said_and_not_tried(rule):
    bench = Bench().practise(**rule)
    assert not any(bench.tick() for _ in range(3))
    assert RULES[next(iter(rule))].label in bench.station.control.reason


@pytest.mark.parametrize(("other", "said"), [("sing", "There is no task 'sing'"), ("point_mass", "is for point_mass")])
def test_another_family_that_can_not_be_asked_is_said_and_not_tried(other, said):
    bench = Bench().practise(after_failure=other)
    assert not any(bench.tick() for _ in range(3))
    assert said in bench.station.control.reason


def test_a_table_not_shuffled_for_long_asks_at_the_end_of_an_episode():
    bench = Bench(shuffle_every_s=2.0).practise(
        loaded_policy(reward_model=FakeRewardModel(distance=1e9)), time_limit_steps=7
    )
    bench.until_episodes(2)  # 14 steps of 0.2 s
    assert bench.state == "needs_person" and bench.station.control.reason == "not shuffled for 2 s of practice"
    bench.command("reset")
    bench.until_episodes(3)
    assert bench.state == "practising", "the count begins anew"


def test_a_station_left_alone_resets_itself_after_its_delay_and_says_so():
    bench = Bench(self_reset_after_s=30).practise()
    bench.tick()
    bench.world.off_table = "the red moon is off the table"
    bench.until_episodes(1)
    for _ in range(140):
        bench.tick()
    assert bench.state == "needs_person" and not bench.sent_of("touch")
    for _ in range(15):
        bench.tick()
    (touch,) = bench.sent_of("touch")
    assert (
        touch["kind"] == "self_reset" and touch["reason"] == "the red moon is off the table" and touch["seconds"] >= 30
    )
    assert bench.state == "practising"


def test_the_wait_for_a_policy_does_not_hide_that_a_person_is_needed():
    bench = Bench().practise(loaded_policy(1))
    bench.tick(), bench.tick()
    bench.station.receive(told({"type": "hold", "version": 1}))
    bench.world.off_table = "the red moon is off the table"
    bench.until_episodes(1)
    assert bench.state == "needs_person"


# Commands


def test_a_command_id_is_executed_once_and_answered_each_time():
    bench = Bench().practise()
    bench.command("reset", id="same")
    answer = bench.command("reset", id="same")
    assert answer["ok"] and len(bench.sent_of("command_done")) == 2
    assert bench.world.resets == 2, "one at the start, one by the command"


def test_an_expired_command_is_refused_and_an_expired_stop_is_not():
    bench = Bench().practise()
    command = {"type": "command", "id": "late", "name": "pause", "args": {}, "ttl_ms": 300}
    bench.station.receive(told(command), received_at=bench.clock.now - 0.4)
    assert not bench.sent[-1]["ok"] and "400 ms old" in bench.sent[-1]["error"] and bench.state == "practising"
    bench.station.receive(told({**command, "id": "late on the way", "age_s": 0.5}))
    assert not bench.sent[-1]["ok"] and bench.state == "practising"
    bench.station.receive(told({**command, "id": "stop", "name": "stop", "age_s": 60}))
    assert bench.state == "stopped"


def test_a_stop_is_latched_until_it_is_cleared_and_then_waits_for_resume():
    bench = Bench().practise()
    bench.tick(), bench.tick()
    assert bench.command("stop")["ok"]
    assert bench.state == "stopped" and bench.episodes[0].ending == "stop" and bench.episodes[0].interventions == 1
    for name in ("resume", "override", "pause", "hand_back"):
        assert not bench.command(name)["ok"]
    bench.station.receive(told(ASSIGNMENT))
    bench.station.offer_policy(loaded_policy(2))
    bench.station.receive(told({"type": "welcome", "settings": {"speed": 0}}))
    bench.command("reset")
    assert bench.state == "stopped" and not any(bench.tick() for _ in range(10))
    assert bench.command("clear_stop")["ok"]
    assert bench.state == "paused" and "resume" in bench.station.control.reason and not bench.tick()
    assert bench.command("resume")["ok"]
    assert bench.state == "practising" and bench.tick()


def test_a_host_that_starts_anew_is_reminded_of_a_stop_and_a_pause():
    assert Bench(stop_latched=True).practise().state == "stopped"
    assert Bench(paused=True).practise().state == "paused"


def test_what_people_ordered_while_the_link_was_down_is_done_at_the_welcome():
    bench = Bench().practise()
    bench.command("stop", id="s1")
    bench.station.receive(told({"type": "welcome", "settings": {"stop_latched": False, "stop": "s1", "paused": True}}))
    assert bench.state == "paused", "its stop is on record, and was cleared"
    bench.station.receive(told({"type": "welcome", "settings": {"stop_latched": False, "paused": False}}))
    assert bench.state == "practising"
    bench.tick()
    bench.station.receive(told({"type": "welcome", "settings": {"stop_latched": False, "paused": True}}))
    assert bench.state == "paused" and bench.episodes[-1].ending == "operator"


def test_a_stop_that_the_server_has_no_record_of_outlives_the_welcome():
    """It was told first, and the server died before it could write it down: only a person clears it."""
    bench = Bench().practise()
    bench.command("stop", id="s2")
    bench.station.receive(told({"type": "welcome", "settings": {"stop_latched": False, "stop": "s1", "paused": False}}))
    assert bench.state == "stopped" and bench.station.telemetry().stop == "s2"
    assert bench.command("clear_stop")["ok"] and bench.state == "paused" and bench.station.telemetry().stop == ""


def test_a_heartbeat_says_a_missed_stop_and_never_clears_one():
    bench = Bench().practise()
    bench.station.receive(told({"type": "heartbeat", "stop": ""}))
    assert bench.state == "practising" and bench.tick()
    bench.station.receive(told({"type": "heartbeat", "stop": "s3"}))
    assert bench.state == "stopped" and bench.station.control.stop == "s3" and not bench.tick()
    bench.station.receive(told({"type": "heartbeat", "stop": ""}))
    assert bench.state == "stopped"
    for odd in (None, 7, ["s3"]):
        bench.station.receive(told({"type": "heartbeat", "stop": odd}))


def test_pause_ends_the_episode_and_resume_draws_a_new_instruction():
    bench = Bench().practise()
    bench.tick(), bench.tick()
    bench.command("pause")
    assert bench.state == "paused" and bench.episodes[0].ending == "operator" and bench.episodes[0].steps == 2
    assert not any(bench.tick() for _ in range(10))
    bench.command("resume")
    assert bench.tick() and bench.station.recording.steps == 1


def test_the_operator_can_end_an_episode():
    bench = Bench().practise()
    bench.tick()
    bench.command("end_episode")
    (episode,) = bench.episodes
    assert episode.ending == "operator" and episode.steps == 1 and not episode.detected_success
    assert bench.state == "practising"


def test_wrong_settings_are_refused_and_change_nothing():
    bench = Bench(self_reset_after_s=30)
    answer = bench.command("settings", speed=4, shuffle_every_s="often")
    assert not answer["ok"] and "Ask for a shuffle" in answer["error"] and bench.station.settings.speed == 1
    assert (
        bench.command("settings", self_reset_after_s=None)["ok"] and bench.station.settings.self_reset_after_s is None
    )


# Override


def test_an_override_keeps_the_policys_steps_and_records_the_persons_apart():
    bench = Bench().practise()
    for _ in range(3):
        bench.tick()
    words = bench.station.attempts.instruction.text
    assert bench.command("override")["ok"] and bench.state == "overridden"
    (cut,) = bench.episodes
    assert cut.ending == "override" and cut.steps == 3 and not cut.detected_success and cut.interventions == 1
    assert (cut.actors == ACTORS.index("policy")).all() and cut.purpose == "practice"
    for _ in range(4):
        bench.command("drive", axes={"x": -1, "y": 0.5})
        assert bench.tick()
    assert bench.shown[-1]["human"] and bench.shown[-1]["instruction"] == words
    assert bench.command("hand_back")["ok"] and bench.state == "practising"
    correction = bench.episodes[1]
    assert correction.purpose == "correction" and correction.steps == 4 and correction.instruction == words
    assert (correction.actors == ACTORS.index("human")).all() and not correction.detected_success
    np.testing.assert_allclose(correction.actions, np.tile([-0.03, 0.015], (4, 1)), rtol=1e-6)
    assert same(rows_of(correction.observations, 0), rows_of(cut.observations, -1))
    assert correction.actions.sum() != 0 and np.isfinite(correction.steps_to_go[:-1]).all(), (
        "the strip goes on while a person drives"
    )
    episodes_to_bytes(bench.episodes)


def test_no_policy_step_is_in_a_correction_and_no_human_step_elsewhere():
    bench = Bench().practise()
    for _ in range(3):
        for _ in range(2):
            bench.tick()
        bench.command("override")
        bench.command("drive", axes={"x": -1})
        bench.tick()
        bench.command("hand_back")
    bench.until_episodes(8)
    for episode in bench.episodes:
        expected = "human" if episode.purpose == "correction" else "policy"
        assert (episode.actors == ACTORS.index(expected)).all()


def test_the_body_holds_still_when_the_drive_commands_end():
    bench = Bench().practise()
    bench.tick()
    bench.command("override")
    bench.command("drive", axes={"x": 1})
    assert bench.tick(0.2)
    there = bench.world.observation()
    assert not bench.tick(0.2), "held for 300 ms only"
    bench.tick(0.05)
    assert bench.station.control.reason == ""
    bench.tick(0.1)
    assert "holds still" in bench.station.telemetry().reason
    for _ in range(20):
        bench.heartbeat()
        bench.tick(0.1)
    assert same(bench.world.observation(), there) and bench.state == "overridden"
    bench.command("drive", axes={"x": 1})
    assert bench.station.telemetry().reason == ""
    assert bench.tick()


def test_an_override_ends_with_the_link_and_with_a_pause():
    bench = Bench().practise()
    bench.tick()
    bench.command("override")
    bench.station.receive(told({"type": "welcome", "settings": {"paused": True}}))
    assert bench.state == "paused"
    bench.command("override")
    assert bench.state == "overridden"
    bench.command("pause")  # it was paused before it was taken over
    assert bench.state == "paused"


def test_telemetry_of_a_reward_model_that_broke_is_still_json():
    bench = Bench().practise()
    bench.station.observe()
    bench.station.act(np.zeros(2), math.nan, np.full(50, math.nan), np.full(50, math.nan))
    json.dumps(to_json(bench.station.telemetry()), allow_nan=False)


def test_a_person_drives_at_the_control_rate_even_at_full_speed():
    bench = Bench(speed=0).practise()
    bench.tick()
    bench.command("override")
    before = bench.station.attempts.steps_taken
    for _ in range(100):
        bench.command("drive", axes={"x": 0.1})
        bench.tick(0.01)
    assert bench.station.attempts.steps_taken - before == pytest.approx(5, abs=1)


def test_an_override_works_from_idle_and_without_a_policy():
    bench = Bench()
    assert bench.command("override")["ok"] and bench.station.attempts.instruction.text
    bench.command("drive", axes={"y": 1})
    assert bench.tick()
    bench.command("hand_back")
    (correction,) = bench.episodes
    assert correction.purpose == "correction" and correction.policy == "" and np.isnan(correction.steps_to_go).all()
    assert bench.state == "idle"
    episodes_to_bytes([correction])


def test_an_override_without_a_step_leaves_no_episode():
    bench = Bench()
    bench.command("override")
    bench.tick()
    bench.command("hand_back")
    assert not bench.episodes


def test_a_stop_ends_an_override_and_keeps_what_was_driven():
    bench = Bench()
    bench.command("override")
    bench.command("drive", axes={"y": 1})
    bench.tick()
    bench.command("stop")
    assert bench.state == "stopped" and bench.episodes[0].ending == "stop" and bench.episodes[0].purpose == "correction"
    assert not bench.command("drive", axes={"y": 1})["ok"] and not bench.tick()


# Trouble


def test_a_server_gone_for_long_holds_the_body_still_and_the_episode_goes_on_afterwards():
    bench = Bench().practise()
    bench.tick(), bench.tick()
    bench.station.server_gone(2.4)
    assert bench.tick()
    bench.station.server_gone(2.6)
    assert bench.state == "offline" and not any(bench.tick() for _ in range(20))
    bench.station.server_gone(0.1)
    (episode,) = bench.until_episodes(1)
    assert bench.state == "practising" and episode.ending == "detected_success" and episode.steps == 9


def test_an_attempt_begins_with_what_is_there_now_and_not_with_what_was_there_before_it_stood_idle():
    bench = Bench()
    bench.world.state[1] = 0.03  # somebody moved it by hand
    bench.practise()
    (episode,) = bench.until_episodes(1)
    assert episode.observations[STATE][0, 1] == np.float32(0.03)
    bench.world.state[1] = 0.05  # between two attempts too, however little time lies between
    assert bench.until_episodes(2)[1].observations[STATE][0, 1] == np.float32(0.05)


def test_what_a_person_drives_begins_with_what_was_seen_at_the_first_push():
    bench = Bench()
    filmed = []
    bench.station.attempts.film = lambda recording: filmed.append(recording.observations[-1][STATE][1])
    bench.world.state[1] = 0.03
    bench.command("override")
    assert bench.station.recording.observations[0][STATE][1] == np.float32(0.03)
    for _ in range(8):
        bench.heartbeat()
        bench.tick()
    bench.world.state[1] = 0.05
    for _ in range(2):
        bench.command("drive", axes={"x": 1})
        assert bench.tick()
    bench.command("hand_back")
    (episode,) = bench.episodes
    assert episode.steps == 2 and (episode.observations[STATE][:, 1] == np.float32(0.05)).all()
    assert filmed == [np.float32(0.03)] + 3 * [np.float32(0.05)], "the picture beside it is a new one too"


def test_after_a_silence_of_the_server_the_policy_sees_what_is_there_then():
    bench = Bench().practise()
    bench.tick(), bench.tick()
    bench.station.server_gone(2.6)
    bench.world.state[1] = 0.04
    assert not any(bench.tick() for _ in range(20))
    bench.station.server_gone(0.1)
    (episode,) = bench.until_episodes(1)
    assert (
        episode.observations[STATE][2:4, 1].tolist() == 2 * [np.float32(0.04)] and not episode.observations[STATE][1, 1]
    )


@pytest.mark.parametrize("when", ["at the beginning", "in the middle"])
def test_an_observation_that_can_not_be_had_any_more_asks_for_a_person(when):
    bench = Bench()
    if when == "in the middle":
        bench.practise()
        bench.tick(), bench.tick()
        bench.station.server_gone(2.6)
        bench.clock.pass_(2)
        bench.station.server_gone(0.1)
    bench.world.state = np.array([np.nan, 0, 0, 0], np.float32)
    if when == "at the beginning":
        bench.practise()
    assert not bench.tick() and bench.state == "needs_person"
    assert bench.station.control.reason == f"a look failed: its {STATE} holds NaN or infinity"
    assert [episode.ending for episode in bench.episodes] == (["fault"] if when == "in the middle" else [])


@pytest.mark.parametrize("trouble", ["silent server", "new link", "no sign of life", "the server says so", "fault"])
def test_after_an_override_that_nobody_ended_the_policy_waits_for_a_person(trouble):
    bench = Bench().practise()
    bench.tick()
    bench.command("override")
    bench.command("drive", axes={"x": 1})
    assert bench.tick()
    if trouble == "silent server":
        bench.station.server_gone(3)
        assert bench.state == "offline" and not bench.tick()
        bench.station.server_gone(0)
    elif trouble == "new link":
        bench.station.receive(told({"type": "welcome", "settings": {"overridden": True}}))
    elif trouble == "the server says so":
        bench.station.receive(told({"type": "lapse", "epoch": bench.epoch - 1}))
        assert bench.station.recording is not None, "the lapse of an older lease is nobody's business"
        bench.station.receive(told({"type": "lapse", "epoch": bench.epoch}))
    elif trouble == "fault":
        bench.world.broken = True
        bench.command("drive", axes={"x": 1})
        bench.tick()
        bench.world.broken = False
    else:
        assert not any(bench.tick(0.1) for _ in range(26))
        assert "ada is gone" in bench.station.control.reason
    correction = bench.episodes[-1]
    assert correction.purpose == "correction" and correction.steps == 1 and correction.ending == "fault"
    assert not any(bench.tick() for _ in range(50)) and bench.state == "overridden"
    assert "holds still: take over or hand back" in bench.station.control.reason
    assert not bench.command("drive", axes={"x": 1})["ok"] and not bench.command("reset")["ok"]
    assert bench.command("hand_back", by="grace")["ok"]
    assert bench.state == ("needs_person" if trouble == "fault" else "practising")


def test_another_person_may_take_over_once_the_first_is_gone_and_the_first_may_not_drive_any_more():
    bench = Bench().practise()
    bench.command("override")
    first = bench.epoch
    for name in ("pause", "hand_back", "speed", "reset"):
        assert "ada is in control" in bench.command(name, by="grace", value=4)["error"]
    bench.tick(2.6)
    bench.heartbeat()
    assert "ada is gone" in bench.station.control.reason, "a lease that has ended isn't revived by a heartbeat"
    assert bench.command("override", by="grace")["ok"]
    for name in ("drive", "hand_back", "override", "pause"):
        assert (
            f"epoch {first}, and control has passed to epoch {bench.epoch}" in bench.command(name, epoch=first)["error"]
        )
    assert bench.command("drive", by="grace", axes={"x": 1})["ok"] and bench.tick()
    assert bench.command("stop", epoch=first, by="somebody else")["ok"] and bench.state == "stopped"


def test_an_epoch_counts_even_where_its_own_command_never_came():
    bench = Bench().practise()
    bench.command("override")
    newer = bench.epoch + 1
    assert not bench.command("drive", epoch=newer, axes={"x": 1})["ok"], "that override was lost on the way"
    assert not bench.command("drive", axes={"x": 1})["ok"] and not bench.tick(), "but who held it before has lost it"
    bench.station.receive(told({"type": "welcome", "settings": {}, "epoch": 90}))
    assert not bench.command("override")["ok"], "and a host that begins anew is told the newest epoch"
    for strange in (0, -1, True, "7", 2.5):
        assert not bench.command("override", epoch=strange)["ok"]
    message = {"type": "command", "id": "bare", "name": "override", "args": {}}
    bench.station.receive(told(message))
    assert "names no epoch" in bench.sent_of("command_done")[-1]["error"]


def test_a_host_that_begins_anew_does_not_practise_where_a_person_had_taken_over():
    bench = Bench(overridden=True).practise()
    assert bench.state == "overridden" and not any(bench.tick() for _ in range(10))
    assert bench.command("override", by="grace")["ok"] and bench.command("hand_back", by="grace")["ok"]
    assert bench.state == "practising"


def test_beats_keep_a_lease_and_their_absence_is_said():
    bench = Bench().practise()
    bench.command("override")
    for _ in range(20):
        bench.tick(0.4)
        bench.heartbeat()
        assert bench.state == "overridden" and bench.station.control.reason == ""
    bench.tick(1.1)
    assert "no sign of life from the browser of ada" in bench.station.control.reason
    bench.station.receive(told({"type": "control_heartbeat", "epoch": bench.epoch, "age_s": 0.6}))
    assert "no sign of life" in bench.station.control.reason, "that one tells of a life long ago"
    bench.heartbeat(bench.epoch - 1)
    assert "no sign of life" in bench.station.control.reason
    bench.heartbeat()
    assert bench.station.control.reason == ""


def test_no_override_begins_while_the_server_is_silent():
    bench = Bench().practise()
    bench.tick()
    bench.station.server_gone(3)
    assert not bench.command("override")["ok"]
    bench.station.server_gone(0)
    bench.until_episodes(1)
    assert (bench.episodes[0].actors == ACTORS.index("policy")).all()


def test_an_undriven_override_gives_the_host_nothing_to_wait_for():
    bench = Bench().practise()
    assert bench.station.next_step_at() <= bench.clock()
    bench.command("override")
    assert bench.station.next_step_at() == np.inf
    bench.command("drive", axes={"x": 1})
    assert bench.station.next_step_at() <= bench.clock()


def test_a_stop_outlives_the_servers_absence():
    bench = Bench().practise()
    bench.command("stop")
    bench.station.server_gone(3)
    bench.station.server_gone(0)
    assert bench.state == "stopped"


def test_a_fault_of_the_body_ends_the_episode_and_asks_for_a_person():
    bench = Bench().practise()
    bench.tick(), bench.tick()
    bench.world.broken = True
    bench.tick()
    assert bench.episodes[0].ending == "fault" and bench.state == "needs_person"
    assert "the motor is hot" in bench.station.control.reason


def test_a_policy_that_gives_no_number_moves_nothing():
    bench = Bench().practise()
    bench.tick()
    before = bench.world.observation()
    bench.clock.pass_(0.2)
    bench.station.observe()
    bench.station.act(np.array([np.nan, 0.0], np.float32), 5.0, None)
    assert same(bench.world.observation(), before) and bench.state == "needs_person"


def test_a_host_that_ends_keeps_what_is_under_way():
    bench = Bench().practise()
    bench.tick()
    bench.station.close()
    assert bench.episodes[0].steps == 1 and bench.world.closed


@pytest.mark.parametrize("left, chance", [(0, 0.1), (1, 0.1), (3, 0.3), (4, 0.3), (5, 0.6), (500, 0.6)])
def test_p_success_is_the_mass_within_the_steps_that_are_left(left, chance):
    distribution = np.array([0.1, 0.2, 0.3, 0.4])  # two steps a bin; the last one holds all that is farther away
    assert chance_of_success(distribution, left, 2.0) == pytest.approx(chance)
