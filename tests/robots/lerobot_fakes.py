"""What LeRobot's classes look like from outside, without hardware and without lerobot."""

import threading
import time
from types import SimpleNamespace

import numpy as np

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
NAMES = tuple(f"{joint}.pos" for joint in JOINTS)


class FakeCamera:
    def __init__(self):
        self.dark, self.open = False, False

    def connect(self):
        if self.dark:
            raise ConnectionError("Failed to open OpenCVCamera(0).")
        self.open = True

    def async_read(self, timeout_ms=200):
        time.sleep(0.005)
        if self.dark:
            raise TimeoutError("Timed out waiting for frame from camera OpenCVCamera(0)")
        return np.full((48, 64, 3), 200, np.uint8)

    def disconnect(self):
        self.open = False


class FakeRobot:
    """Of the interface of lerobot's SO101Follower, by degrees."""

    name = "so_follower"

    def __init__(self, cameras=("front", "wrist"), mode="degrees", calibrated=True):
        motors = {
            joint: SimpleNamespace(norm_mode="range_0_100" if joint == "gripper" else mode, model="sts3215")
            for joint in JOINTS
        }
        self.bus = SimpleNamespace(motors=motors, model_resolution_table={"sts3215": 4096})
        ends = SimpleNamespace(range_min=800, range_max=3200)
        self.calibration = dict.fromkeys(JOINTS, ends) if calibrated else {}
        self.cameras = {name: FakeCamera() for name in cameras}
        self.at = dict.fromkeys(NAMES, 0.0) | {"gripper.pos": 50.0}
        self.is_connected, self.is_calibrated = False, calibrated
        self.sent, self.connected, self.silent = [], 0, ""
        self.hang = threading.Event()
        self.hang.set()

    @property
    def observation_features(self):
        return dict.fromkeys(NAMES, float) | dict.fromkeys(self.cameras, (48, 64, 3))

    @property
    def action_features(self):
        return dict.fromkeys(NAMES, float)

    def connect(self, calibrate=True):
        assert not calibrate, "nobody sits there to answer its questions"
        self._answer()
        self.is_connected, self.connected = True, self.connected + 1

    def get_observation(self):
        self._answer(connected=True)
        return dict(self.at)

    def send_action(self, action):
        self._answer(connected=True)
        self.sent.append(action)
        self.at |= action

    def disconnect(self):
        self.is_connected = False

    def _answer(self, connected=False):
        self.hang.wait(60)
        if connected and not self.is_connected:
            raise ConnectionError("FakeRobot is not connected.")
        if self.silent:
            raise ConnectionError(self.silent)


class FakeLeader:
    name = "so_leader"
    is_calibrated = True

    def __init__(self, names=NAMES):
        self.action_features, self.is_connected = dict.fromkeys(names, float), False

    def connect(self, calibrate=True):
        self.is_connected = True

    def get_action(self):
        return dict.fromkeys(self.action_features, 7.0)

    def disconnect(self):
        self.is_connected = False
