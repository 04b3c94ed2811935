"""A LeRobot robot as a world: the body its features make, its rate, and what becomes of a bus or camera that fails."""

import time

import numpy as np
import pytest

from robots import lerobot_robot, real_robot
from robots.driver import Driver, DriverError
from robots.embodiments import IMAGES, STATE, Embodiment
from robots.lerobot_robot import Leader, LeRobotWorld, body_of, take_cameras
from tests.robots.lerobot_fakes import NAMES, FakeLeader, FakeRobot
from tests.robots.station_fakes import FakeTime


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """On a busy machine an answer may take long, and is one all the same; tests of a limit set it."""
    for name, seconds in {"CALL_S": 60, "STALE_S": 60, "AGAIN_S": 0.05, "FIRST_PICTURE_S": 60}.items():
        monkeypatch.setattr(lerobot_robot, name, seconds)


@pytest.fixture
def clock(monkeypatch):
    clock = FakeTime()
    for module in (lerobot_robot, real_robot):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def worlds():
    made = []
    yield lambda robot, **more: made.append(world_of(robot, **more)) or made[-1]
    for world in made:
        world.close()


def world_of(robot, fps=50.0, **more):
    body = body_of(robot, fps, picture_width=32)
    return LeRobotWorld(robot, body, take_cameras(robot), **more)


def eventually(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    assert condition()


def looks(world):
    try:
        return world.observation()
    except DriverError:
        return None


def test_the_body_is_described_while_the_robot_is_disconnected():
    robot = FakeRobot()
    body = body_of(robot, 30.0)
    assert not robot.connected
    assert body.observation[STATE].names == body.action_names == NAMES
    # 2400 of 4095 ticks are 211 degrees, so 105.5 to each side, rounded up.
    assert body.action_range == ((-110.0, 110.0),) * 5 + ((0.0, 100.0),)
    assert body.action.units == ("deg",) * 5 + ("%",)
    assert [motion.largest_change for motion in body.motions] == [pytest.approx(11)] * 5 + [pytest.approx(5)]
    assert [motion.sensed_by for motion in body.motions] == list(NAMES)
    assert body.observation[IMAGES + "wrist"].shape == (48, 64, 3)
    assert [each.axis for each in body.drive] == ["gripper", *NAMES[:5]]
    assert Embodiment.from_json(body.to_json()) == body


def test_parts_of_the_range_small_pictures_and_cartesian_axes():
    body = body_of(FakeRobot(mode="range_m100_100"), 30.0, largest_change=2, picture_width=32, cartesian=True)
    assert body.action_range[0] == (-100.0, 100.0) and body.motions[0].largest_change == pytest.approx(4)
    assert body.observation[IMAGES + "front"].shape == (24, 32, 3)
    assert [(camera.name, camera.width) for camera in body.cameras] == [("front", 64), ("wrist", 64)]
    assert [each.axis for each in body.drive][:6] == ["x", "y", "z", "pitch", "roll", "gripper"]


def test_what_nobody_says_of_a_number_is_asked_for():
    robot = FakeRobot(cameras=())
    base = type("Base", (FakeRobot,), {"action_features": {"x.vel": float}, "observation_features": {"x.vel": float}})
    with pytest.raises(ValueError, match=r"doesn't say how far x.vel may go; add --ranges '\{\"x.vel\": \[LOW, HIGH"):
        body_of(base(), 30.0)
    body = body_of(base(), 30.0, ranges={"x.vel": [-0.3, 0.3]})
    assert body.motions[0].kind == "velocity" and body.action_range == ((-0.3, 0.3),)
    robot.bus.motors.clear()
    with pytest.raises(ValueError, match="how far shoulder_pan"):
        body_of(robot, 30.0)


def test_it_steps_at_its_rate_with_the_newest_pictures(worlds, clock):
    class Bus(FakeRobot):
        """To send takes 4 ms, to look takes 6."""

        def send_action(self, action):
            clock.now += 0.004
            super().send_action(action)

        def get_observation(self):
            clock.now += 0.006
            return super().get_observation()

    robot = Bus()
    driver = Driver(worlds(robot))
    for _ in range(25):
        seen = driver.step(np.full(6, 3.0, np.float32))
    assert clock.slept == pytest.approx([0.02] + 24 * [0.01]), "20 ms from look to look"
    assert robot.sent[-1] == dict.fromkeys(NAMES, 3.0) and (seen[STATE] == 3).all()
    assert seen[IMAGES + "front"].shape == (24, 32, 3) and (seen[IMAGES + "wrist"] == 200).all()
    assert driver.render("front", 320, 240).shape == (48, 64, 3)
    assert driver.true_success(None) is None and driver.needs_reset() == "" and not driver.resets_itself
    assert driver.renderer == "camera"
    driver.close()
    assert not robot.is_connected


def test_one_that_is_not_calibrated_says_what_to_run():
    robot = FakeRobot(calibrated=False)
    with pytest.raises(DriverError, match=r"not calibrated: run lerobot-calibrate --robot\.type=x on its machine"):
        world_of(robot, calibrate="lerobot-calibrate --robot.type=x")
    assert not robot.is_connected


def test_a_bus_that_fails_is_a_sentence_and_a_reset_connects_anew(worlds):
    robot = FakeRobot()
    driver = Driver(worlds(robot))
    robot.silent = "There is no status packet!"
    with pytest.raises(DriverError, match="sending an action failed: There is no status packet!"):
        driver.step(np.zeros(6, np.float32))
    with pytest.raises(DriverError, match="connecting failed"):
        driver.reset(np.random.default_rng(0))
    robot.silent = ""
    driver.reset(np.random.default_rng(0))
    assert robot.connected == 2 and robot.is_connected
    driver.step(np.zeros(6, np.float32))


def test_a_bus_that_hangs_holds_nobody_up_for_longer_than_its_limit(worlds, monkeypatch):
    robot = FakeRobot()
    world = worlds(robot)
    robot.hang.clear()
    began = time.monotonic()
    with monkeypatch.context() as patch:
        patch.setattr(lerobot_robot, "CALL_S", 0.3)
        with pytest.raises(DriverError, match=r"did not answer within 0\.3 s"):
            world.observation()
    with pytest.raises(DriverError, match="still does not answer"):
        world.observation()
    assert time.monotonic() - began < 20, "it waited for the answer, or by another limit: CONNECT_S is 30 s"
    robot.hang.set()
    eventually(lambda: looks(world) is not None)


def test_a_lost_camera_stops_only_what_reads_it(worlds, clock):
    robot, read = FakeRobot(), set[str]()
    cameras = robot.cameras
    world = worlds(robot, reads=lambda: read)
    cameras["wrist"].dark = True
    eventually(lambda: not cameras["wrist"].open)
    read |= {STATE, IMAGES + "front"}
    assert world.observation()[IMAGES + "wrist"].any(), "not lost yet"
    clock.now += lerobot_robot.STALE_S + 1
    eventually(lambda: looks(world) is not None)  # the other one has sent since
    assert not world.observation()[IMAGES + "wrist"].any()
    assert (world.step(np.zeros(6))[IMAGES + "front"] == 200).all()
    with pytest.raises(DriverError, match=r"the camera wrist is lost: .+"):
        world.render("wrist", 64, 48)
    read.add(IMAGES + "wrist")
    with pytest.raises(DriverError, match="the camera wrist is lost"):
        world.step(np.zeros(6))
    cameras["wrist"].dark = False
    eventually(lambda: looks(world) is not None)
    assert (world.observation()[IMAGES + "wrist"] == 200).all()


def test_pictures_that_the_robot_itself_brings(worlds):
    features = FakeRobot().observation_features
    robot = type("Client", (FakeRobot,), {"observation_features": features})(cameras=())
    robot.at |= {"front": np.full((48, 64, 3), 9, np.uint8), "wrist": None}
    assert not take_cameras(robot)
    world = worlds(robot, reads=lambda: {IMAGES + "front"})
    seen = world.observation()
    assert (seen[IMAGES + "front"] == 9).all() and not seen[IMAGES + "wrist"].any()
    assert world.render("front", 1, 1).shape == (48, 64, 3)


def test_a_leader_arm_drives_by_the_same_names():
    body = body_of(FakeRobot(), 30.0)
    device = FakeLeader()
    leader = Leader(device, body)
    assert leader.name == "so leader" and not device.is_connected
    assert (leader.action({}) == 7).all() and device.is_connected
    leader.close()
    assert not device.is_connected
    device.is_calibrated = False
    with pytest.raises(DriverError, match="it is not calibrated: run lerobot-calibrate"):
        leader.action({})
    with pytest.raises(ValueError, match=r"tells delta_x, but so_follower is also to be told shoulder_pan\.pos"):
        Leader(FakeLeader(("delta_x",)), body)
