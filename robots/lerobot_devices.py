"""What a person names on the command line in LeRobot's way, `--robot.type=so101_follower --robot.port=...`, made by
LeRobot. The only module that imports lerobot (0.4.4 to 0.6), which lies in an environment of its own on the robot's
machine; imported when a command asks for it.
"""

import contextlib
import importlib
import io
import logging
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

try:
    import draccus
    import lerobot.cameras
    import lerobot.robots
    import lerobot.teleoperators
    from lerobot.utils.import_utils import register_third_party_plugins
except ImportError as error:
    raise ImportError(
        f'LeRobot is not in this environment ({error}): pip install "lerobot[feetech]" with the extra of your motors, '
        "on Python 3.12 or newer for its present release."
    ) from error

log = logging.getLogger(__name__)


@dataclass
class Devices:
    """What is parsed."""

    robot: lerobot.robots.RobotConfig
    teleop: lerobot.teleoperators.TeleoperatorConfig | None = None


def make_devices(arguments: Sequence[str]) -> tuple[Any, Any]:
    """A Robot, and a Teleoperator or None, neither connected; ValueError where the arguments can't be used."""
    for package in (lerobot.cameras, lerobot.robots, lerobot.teleoperators):
        _register(package)
    register_third_party_plugins()
    said = io.StringIO()  # argparse's usage, with hundreds of arguments, and then its error
    try:
        with contextlib.redirect_stderr(said):
            told = draccus.parse(Devices, args=list(arguments))
    except (draccus.utils.DraccusException, TypeError) as error:
        raise ValueError(f"LeRobot can't use these arguments: {error}") from None
    except SystemExit:
        reason = said.getvalue().rpartition("error: ")[2].strip()
        raise ValueError(f"LeRobot can't use these arguments: {reason}") from None
    robot = lerobot.robots.make_robot_from_config(told.robot)
    teleop = told.teleop and lerobot.teleoperators.make_teleoperator_from_config(told.teleop)
    return robot, teleop


def _register(package: ModuleType) -> None:
    """A type is known once its module is imported; one whose own libraries are missing stays unknown."""
    for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if found.ispkg:
            try:
                importlib.import_module(found.name)
            except Exception as error:
                log.debug("%s is left out: %s", found.name, error)
