"""Whatever a driver raises or returns, its station asks for a person with the reason, and nothing recorded is lost."""

import sys
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from robots.driver import Driver, DriverError, as_picture
from robots.embodiments import ENVIRONMENT_STATE, STATE, picture
from robots.protocol import to_json
from robots.station import Station
from robots.worlds.language_table import CAMERA_TABLE, LANGUAGE_TABLE
from robots.worlds.point_mass import POINT_MASS
from tests.robots.station_fakes import FakeRewardModel, FakeWorld, loaded_policy, told
from tests.robots.test_station import Bench

TOP = "observation.images.top"


def raises(error):
    def fail(*_):
        raise error

    return fail


class Hostile(Exception):
    def __str__(self):
        raise RuntimeError("not even that")


ERRORS = [RuntimeError("the bus is down"), KeyError("joint"), SystemExit(1), Hostile(), OSError("\0\ud800 bytes")]
HAND, SIZE = np.zeros(4, np.float32), LANGUAGE_TABLE.observation[ENVIRONMENT_STATE].size
GOOD = {STATE: HAND, ENVIRONMENT_STATE: np.zeros(SIZE, np.float32)}


class HostileMapping(Mapping):
    def __getitem__(self, key):
        raise RuntimeError("not even that")

    __iter__ = __len__ = __getitem__


OBSERVATIONS = [
    None,
    "an observation",
    np.zeros(4 + SIZE, np.float32),  # as it was before features had names
    [*GOOD.items()],
    {},
    {STATE: HAND},
    HostileMapping(),
    *(
        GOOD | {ENVIRONMENT_STATE: wrong}
        for wrong in (
            None,
            "far away",
            np.zeros(SIZE - 1, np.float32),
            np.zeros((1, SIZE), np.float32),
            np.full(SIZE, np.nan),
            np.full(SIZE, 1e300),
            np.zeros(SIZE, bool),
            np.array(["1"] * SIZE),
            [[1.0], [2.0, 3.0]],
        )
    ),
]
TRUTHS = [np.array([True, False]), np.array(True), np.nan, 1, "yes", [], FakeWorld]
NEEDS = [None, False, 3, np.array(["a"]), b"off the table"]
PLACES = [None, 3, ["red moon"], {"red moon": None}, {"red moon": (0.1,)}, {"red moon": (np.nan, 0)}, {1: (0, 0)}]
FENCED = [None, "no", np.zeros(3), np.array([np.nan, 0])]
RETURNED = {
    "step": OBSERVATIONS,
    "reset": OBSERVATIONS,
    "true_success": TRUTHS,
    "needs_reset": NEEDS,
    "objects_in_play": PLACES,
    "fenced": FENCED,
}
FAULTS = [
    pytest.param(name, make(value), id=f"{name} {word} {number}")
    for name, values in RETURNED.items()
    for word, make, several in (
        ("raises", raises, ERRORS),
        ("returns", lambda value: lambda *_: value, values),
    )
    for number, value in enumerate(several)
]


@pytest.mark.parametrize(("name", "fault"), FAULTS)
def test_a_driver_that_fails_keeps_its_episode_and_asks_for_a_person_with_the_reason(name, fault):
    far = loaded_policy(reward_model=FakeRewardModel(distance=500))
    bench = Bench().practise(far, time_limit_steps=4, edge_margin=0.05)
    assert bench.tick() and bench.tick()
    setattr(bench.world, name, fault)
    if name == "reset":
        assert not bench.command("reset")["ok"]
    for _ in range(8):
        bench.tick()
    assert bench.state == "needs_person" and "failed" in bench.station.control.reason
    assert bench.station.control.reason.isprintable()
    assert bench.episodes[0].steps >= 2
    assert bench.episodes[0].true_success is (None if name == "true_success" else False)
    assert not any(bench.tick() for _ in range(5)), "nobody moves it meanwhile"
    delattr(bench.world, name)
    assert bench.command("reset")["ok"] and bench.tick() and bench.state == "practising"


@pytest.mark.parametrize("truth, written", [(None, None), (True, True), (np.bool_(False), False), (False, False)])
def test_what_nobody_knows_of_an_attempt_is_written_as_unknown(truth, written):
    bench = Bench().practise(time_limit_steps=3)
    bench.world.success = truth
    (episode,) = bench.until_episodes(1)
    assert episode.true_success is written and bench.state == "practising"


def test_a_success_sensor_that_fails_takes_no_correction_from_a_person_and_no_stop():
    bench = Bench().practise()
    bench.tick()
    bench.world.true_success = raises(RuntimeError("no light barrier"))
    assert bench.command("override")["ok"] and bench.command("drive", axes={"x": 1})["ok"] and bench.tick()
    assert bench.command("stop")["ok"] and bench.state == "stopped"
    assert [(each.purpose, each.true_success) for each in bench.episodes] == [("practice", None), ("correction", None)]


def test_a_stop_holds_though_what_was_under_way_can_not_be_kept():
    bench = Bench().practise()
    bench.tick()
    bench.station.attempts.store = raises(OSError("no space left on device"))
    with pytest.raises(OSError):
        bench.command("stop")
    assert bench.state == "stopped" and not any(bench.tick() for _ in range(5))


def test_ctrl_c_within_a_driver_is_still_ctrl_c():
    bench = Bench().practise()
    bench.tick()
    bench.world.step = raises(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        bench.tick()


def test_a_fault_is_said_whatever_is_assigned_and_a_reset_that_fails_is_not_tried_again_by_itself():
    bench = Bench(self_reset_after_s=0)
    bench.world.reset = raises(RuntimeError("no motor answers"))
    assert not bench.command("reset")["ok"]
    resets = bench.world.resets
    assert bench.state == "needs_person" and "no motor answers" in bench.station.control.reason
    for _ in range(20):
        bench.tick()
    assert bench.world.resets == resets and not bench.sent_of("touch")
    assert "no motor answers" in bench.command("override")["error"], "nobody knows where it is"
    del bench.world.reset
    assert bench.command("reset")["ok"] and bench.state == "idle"


@pytest.mark.parametrize("broken", ["reset", "needs_reset"])
def test_a_driver_that_is_broken_from_the_start_makes_a_station_all_the_same(broken):
    world, said = FakeWorld(), []
    setattr(world, broken, raises(RuntimeError("no power")))
    station = Station(world, emit=lambda message: said.append(to_json(message)))
    station.receive(told({"type": "welcome", "settings": {}}))
    assert station.control.state == "needs_person" and "no power" in said[-1]["reason"]


def test_a_world_that_can_not_be_made_is_a_station_with_the_reason_and_made_at_a_reset():
    tries = [raises(SystemExit("no licence")), raises(ZeroDivisionError()), FakeWorld]
    driver = Driver(None, make=lambda: tries.pop(0)(), embodiment=LANGUAGE_TABLE)
    station = Station(driver)
    assert station.control.state == "needs_person" and "no licence" in station.control.reason and len(tries) == 2
    reset = {"type": "command", "name": "reset", "args": {}}
    station.receive(told({**reset, "id": "a"}))
    assert "ZeroDivisionError" in station.control.reason
    station.receive(told({**reset, "id": "b"}))
    assert station.control.state == "idle" and station.workspace.observation is not None
    station.close()


def test_a_world_of_another_body_than_its_name_says_is_not_used():
    class Other(FakeWorld):
        embodiment = POINT_MASS

    assert "not the language_table wanted" in Driver(None, make=Other, embodiment=LANGUAGE_TABLE).missing


@pytest.mark.parametrize("body", [None, "language_table", LANGUAGE_TABLE.to_json()])
def test_a_driver_that_is_no_body_is_said(body):
    world = FakeWorld()
    world.embodiment = body
    with pytest.raises(DriverError, match="not an Embodiment"):
        Driver(world)


def test_a_driver_may_use_its_buffers_again_and_change_what_it_is_given():
    class Lean(FakeWorld):
        def step(self, action):
            super().step(action)
            action[:] = 9
            return {STATE: self.state, ENVIRONMENT_STATE: self.tracked}

    bench = Bench()
    bench.station.driver.world = bench.world = Lean()
    bench.practise(time_limit_steps=4)
    (episode,) = bench.until_episodes(1)
    assert len({tuple(row) for row in episode.observations[STATE]}) == 5
    np.testing.assert_allclose(episode.actions, np.tile([0.01, 0], (4, 1)), rtol=1e-6)


def test_a_picture_that_is_observed_must_be_of_bytes():
    class Camera(FakeWorld):
        embodiment = CAMERA_TABLE
        given = np.zeros((88, 124, 3), np.uint8)

        def _place(self):
            pass

        def observation(self):
            return {TOP: self.given}

    driver = Driver(Camera())
    seen = driver.observation()
    assert seen[TOP].dtype == np.uint8 and not np.shares_memory(seen[TOP], driver.world.given)
    for wrong, words in (
        (driver.world.given / 255.0, "is float64, not uint8"),
        (driver.world.given.ravel(), r"of uint8 and shape \(32736,\), not \[88, 124, 3\]"),
        (driver.world.given.transpose(1, 0, 2), r"shape \(124, 88, 3\), not \[88, 124, 3\]"),
    ):
        driver.world.given = wrong
        with pytest.raises(DriverError, match=rf"^a look failed: its observation\.images\.top .*{words}"):
            driver.observation()


TWO_EYES = replace(
    LANGUAGE_TABLE, name="two_eyes", observation={STATE: LANGUAGE_TABLE.observation[STATE], TOP: picture(6, 4)}
)


class TwoEyes(FakeWorld):
    """It senses its hand, and has a camera."""

    embodiment = TWO_EYES

    def __init__(self, **given):
        self.given = {STATE: [1, 2, 3, 4], TOP: np.zeros((4, 6, 3), np.uint8)} | given

    def observation(self):
        return self.given


def test_each_feature_has_the_type_that_the_body_declares_and_what_it_does_not_declare_is_dropped():
    seen = Driver(TwoEyes(reward=3.0, **{"observation.images.wrist": "?"})).observation()
    assert list(seen) == [STATE, TOP]
    assert seen[STATE].dtype == np.float32 and seen[STATE].tolist() == [1, 2, 3, 4] and seen[TOP].shape == (4, 6, 3)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({TOP: None}, "the camera top sent no picture (observation.images.top is not in"),
        ({STATE: None}, "its observation has no observation.state; did that sensor send anything?"),
        ({STATE: np.zeros(3)}, "its observation.state is an array of float64 and shape (3,), not [4]"),
        ({STATE: np.array(["a"] * 4)}, "its observation.state is of <U1, not of numbers"),
        ({STATE: [0, 0, 0, np.nan]}, "its observation.state holds NaN or infinity"),
        ({STATE: [0, 0, 0, 1e39]}, "its observation.state holds NaN or infinity"),
        ({TOP: np.zeros((4, 6, 4), np.uint8)}, "an array of uint8 and shape (4, 6, 4), not [4, 6, 3]"),
        ({TOP: np.zeros((4, 6, 3), np.int64)}, "its observation.images.top is int64, not uint8"),
    ],
)
def test_what_a_feature_lacks_is_said_with_its_name(given, says):
    driver = Driver(TwoEyes(**given))
    with pytest.raises(DriverError) as failed:
        driver.observation()
    assert str(failed.value).startswith("a look failed: ") and says in str(failed.value)


def test_a_camera_that_never_sends_is_said_like_one_that_sends_nothing():
    world = TwoEyes()
    del world.given[TOP]
    with pytest.raises(DriverError, match="the camera top sent no picture"):
        Driver(world).observation()


def test_an_array_as_drivers_of_before_gave_it_is_refused_with_what_is_wanted():
    world = TwoEyes()
    world.given = np.zeros(44, np.float32)
    with pytest.raises(DriverError, match=r"shape \(44,\), not an array for each feature, by key"):
        Driver(world).observation()


def test_a_camera_is_asked_for_by_its_name_and_its_failure_names_it():
    class Seeing(TwoEyes):
        def render(self, camera, width, height):
            if camera != "top":
                raise KeyError(camera)
            return np.full((height, width, 3), 9, np.uint8)

    driver = Driver(Seeing())
    assert (driver.render("top", 6, 4) == 9).all()
    with pytest.raises(DriverError, match="its camera wrist failed: 'wrist'"):
        driver.render("wrist", 6, 4)


def test_what_a_driver_makes_of_a_persons_push_is_checked():
    """More of it, by a station: test_actions.py."""
    driver = Driver(TwoEyes())
    driver.world.driven = lambda axes: [axes["x"], axes["y"]]
    action = driver.driven({"y": 1})
    assert action.dtype == np.float32 and action.tolist() == [0, 1]
    for wrong in (None, "left", np.zeros(3), np.zeros((1, 2)), [np.nan, 0], [np.inf, 0]):
        driver.world.driven = lambda axes, wrong=wrong: wrong
        with pytest.raises(DriverError, match=r"^driving it failed"):
            driver.driven({"x": 1.0})


def test_closing_and_naming_its_renderer_never_fail():
    class Bad(FakeWorld):
        renderer = property(raises(RuntimeError("no display")))
        close = raises(SystemExit())

    driver = Driver(Bad())
    assert driver.renderer == ""
    driver.close()


# Pictures

RED = np.zeros((4, 6, 3), np.uint8)
RED[..., 0] = 255
HALF = np.full((4, 6), 128, np.uint8)
DEPTH = np.full((4, 6), np.nan)  # of a camera that sees one pixel
DEPTH[0, 0] = 0


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (RED, RED),
        (RED.tolist(), RED),
        (RED / 255, RED),
        (RED.astype(np.float16), RED),
        (RED.astype(np.float32), RED),
        (RED.astype(np.uint16) * 257, RED),
        (RED.astype(np.int64), RED),
        (RED.astype(bool), RED),
        (np.dstack([RED, HALF]), RED),
        (RED.transpose(2, 0, 1), RED),
        (RED.transpose(2, 0, 1) / 255, RED),
        (RED[None], RED),
        (HALF, np.dstack([HALF] * 3)),
        (HALF[:, :, None], np.dstack([HALF] * 3)),
        (HALF[None], np.dstack([HALF] * 3)),
        (DEPTH, RED * 0),
        (RED[::-1, ::-1], RED),
        (RED * -1.0, RED * 0),
    ],
)
def test_what_a_camera_gives_is_shown(given, shown):
    picture = as_picture(given)
    assert picture.dtype == np.uint8 and picture.flags.c_contiguous and not np.shares_memory(picture, given)
    np.testing.assert_array_equal(picture, shown)


@pytest.mark.parametrize(
    "given",
    [
        None,
        np.zeros((0, 0, 3), np.uint8),
        np.zeros(12),
        np.zeros((5, 6, 2)),
        np.zeros((2, 4, 6, 3)),
        np.full((4, 6), np.nan),
        np.array([["a"]]),
        np.zeros((4, 6, 3), complex),
        [[1], [2, 3]],
        "picture.jpg",
        7,
        {},
        sys,
    ],
)
def test_what_no_picture_can_be_made_of_is_said(given):
    with pytest.raises(DriverError, match=r"picture|camera"):
        as_picture(given)
