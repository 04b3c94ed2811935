"""A LeRobot robot as a station of the fleet, by the arguments that every command of LeRobot takes.

    python -m training lerobot --server http://... --token ... --robot.type=so101_follower --robot.port=/dev/ttyACM0

The robot is connected when the station starts, and again at a reset where that failed: until then the station needs a
person and says why. The host is that of practice.py, with this one station.
"""

import argparse
import json
import logging
import os
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from robots.driver import Driver
from robots.embodiments import is_number
from robots.lerobot_robot import (
    LARGEST_CHANGE,
    PICTURE_WIDTH,
    Leader,
    LeaderDevice,
    LeRobotWorld,
    Robot,
    body_of,
    take_cameras,
)
from robots.station import Station
from robots.transfers import LinkError
from robots.worlds import on_demand
from training.practice import Entry, StationHost, prepare_process, run_until_told

log = logging.getLogger(__name__)

SOFTWARE = "lerobot station 1"
FASTEST_HZ = 200.0

make_devices = on_demand("robots.lerobot_devices:make_devices")
arm_of_file = on_demand("robots.cartesian:arm_of_file")


def keys_read(station: Station) -> Collection[str]:
    """The features of the observation that must not be missing now: what the networks read; all that is recorded while
    a person shows something that no policy does yet; nothing while the station only stands there.
    """
    if (loaded := station.orders.loaded) is not None:
        read: frozenset[str] = loaded.policy.network.reads
        return read | loaded.reward_model.network.reads if loaded.reward_model else read
    return station.embodiment.observation.keys() if station.recording is not None else ()


def host_of(
    robot: Robot, teleop: LeaderDevice | None, options: argparse.Namespace, named: Sequence[str] = ()
) -> tuple[StationHost, Leader | None]:
    """A host with this one station, its robot connected if it answers, and the station's device, if it has one.
    `named`: the arguments that name both.
    """
    body = body_of(
        robot,
        options.hz,
        largest_change=options.largest_change,
        picture_width=options.picture_width,
        ranges=options.ranges,
        cartesian=options.mjcf is not None,
    )
    arm = None
    if options.mjcf is not None:
        arm = arm_of_file(options.mjcf, body, options.frame)
    cameras = take_cameras(robot)
    leader = Leader(teleop, body, _calibration("teleop", named)) if teleop is not None else None
    host = StationHost(options.server, None, options.folder)

    def world() -> LeRobotWorld:
        return LeRobotWorld(robot, body, cameras, calibrate=_calibration("robot", named), reads=reads, arm=arm)

    def reads() -> Collection[str]:
        return [key for member in host.members.values() for key in keys_read(member.station)]

    driver = Driver(None, make=world, embodiment=body)
    if driver.missing:
        log.error("%s", driver.missing)
    host.join(Entry(options.name, options.token, world=body.name), driver, leader, SOFTWARE)
    return host, leader


def _calibration(device: str, named: Sequence[str]) -> str:
    """The command that calibrates it."""
    own = (each for each in named if each.startswith(f"--{device}.") and not each.startswith(f"--{device}.cameras"))
    return shlex.join(["lerobot-calibrate", *own])


def _ranges(text: str) -> Mapping[str, Any]:
    try:
        ranges = json.loads(text)
        if all(len(ends) == 2 and all(map(is_number, ends)) and ends[0] < ends[1] for ends in ranges.values()):
            return dict(ranges)
    except (ValueError, TypeError, AttributeError):
        pass
    raise argparse.ArgumentTypeError('it must be JSON such as {"x.vel": [-0.3, 0.3]}')


def _above_0_to(most: float) -> Any:
    def number(text: str) -> float:
        value = float(text)
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(f"it must be above 0, and {most:g} at most")
        return value

    return number


def read_arguments(arguments: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """Ours, and those of LeRobot."""
    parser = argparse.ArgumentParser(
        prog="lerobot",
        allow_abbrev=False,
        description="Run a LeRobot robot as a station of the fleet.",
        epilog="All of LeRobot's own arguments follow: --robot.type=so101_follower --robot.port=... --robot.id=... "
        "--robot.cameras='{...}', and --teleop.type=so101_leader ... for a leader at the station.",
    )
    server, token = os.environ.get("FLEET_SERVER"), os.environ.get("FLEET_TOKEN")
    parser.add_argument("--server", default=server, required=not server, help="address; default: $FLEET_SERVER")
    parser.add_argument(
        "--token", default=token, required=not token, help="the station's; default: $FLEET_TOKEN, which no ps shows"
    )
    parser.add_argument("--name", default="lerobot", help="of its folder and in its log")
    parser.add_argument(
        "--folder", type=Path, default=Path("stations"), help="where unsent episodes and checkpoints lie"
    )
    parser.add_argument("--hz", type=_above_0_to(FASTEST_HZ), default=30.0, help="control steps a second")
    parser.add_argument(
        "--largest-change",
        type=_above_0_to(100.0),
        default=LARGEST_CHANGE,
        help="how far a joint may be told to go in one step, in %% of its range (default: %(default)g)",
    )
    parser.add_argument(
        "--picture-width", type=int, default=PICTURE_WIDTH, help="pixels of the pictures that a policy sees"
    )
    parser.add_argument("--ranges", type=_ranges, help='low and high of numbers, as JSON: {"x.vel": [-0.3, 0.3]}')
    parser.add_argument("--mjcf", type=Path, help="a MuJoCo model of the arm, to drive its hand along x, y and z")
    parser.add_argument("--frame", default="gripperframe", help="the model's site or body that is the hand")
    options, named = parser.parse_known_args(arguments)
    if wrong := [each for each in named if each.startswith("--") and not each.startswith(("--robot.", "--teleop."))]:
        parser.error(f"unknown arguments: {' '.join(wrong)}")
    if not 16 <= options.picture_width <= 1920:
        parser.error("--picture-width must be from 16 to 1920.")
    return options, named


def main(arguments: list[str] | None = None) -> int:
    """Run the station until it is told to end; the process's exit code."""
    options, named = read_arguments(arguments)
    prepare_process()
    try:
        robot, teleop = make_devices(named)
        host, leader = host_of(robot, teleop, options, named)
    except (ImportError, LinkError, ValueError, OSError) as error:  # each with a sentence
        log.error("%s", error)
        return 2
    try:
        run_until_told(host)
    finally:
        if leader is not None:
            leader.close()
    return 0
