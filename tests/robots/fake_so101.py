"""A real SO-101 as docs/stations.md has it, with arrays in the place of its motors and cameras."""

import numpy as np

from robots.embodiments import STATE, Camera, DriveAxis, Embodiment, Motion, vector
from robots.tasks import TASKS, Grammar, TaskFamily

JOINTS = tuple(
    f"{name}.pos" for name in ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
)
POSITIONS = vector(JOINTS, (-110.0,) * 5 + (0.0,), (110.0,) * 5 + (100.0,), ("deg",) * 5 + ("%",))
SO101 = Embodiment(
    name="so101",
    fps=30.0,
    observation={STATE: POSITIONS},
    action=POSITIONS,
    motions=tuple(Motion("position", largest_change=4.0, sensed_by=name) for name in JOINTS),
    drive=(*(DriveAxis(name, name) for name in JOINTS[:5]), DriveAxis("gripper", "gripper.pos")),
    views=(Camera("front", 640, 480), Camera("wrist", 640, 480)),
)
TASKS["lego"] = TaskFamily("lego", "Lego", "so101", "so101", 60, "", Grammar(("pick",), ("{verb} up the brick",)))


class FakeSO101:
    embodiment, renderer, resets_itself = SO101, "camera", False

    def __init__(self):
        self.joints = np.array([0, 0, 0, 0, 0, 50], np.float32)

    def observation(self):
        return {STATE: self.joints.copy()}

    def reset(self, rng):
        return self.observation()

    def step(self, action):
        self.joints = np.array(action, np.float32)
        return self.observation()

    def render(self, camera, width, height):
        picture = np.full((480, 640, 3), (60, 70, 80) if camera == "front" else (120, 90, 60), np.uint8)
        at = int(320 + 2.8 * self.joints[0]) if camera == "front" else int(6 * self.joints[5])
        picture[180:300, max(0, at - 40) : at + 40] = (220, 60, 50)
        return picture

    def true_success(self, instruction):
        return None

    def needs_reset(self, fewest_objects=None):
        return ""

    def fenced(self, action, margin):
        return action

    def objects_in_play(self):
        return {}

    def close(self):
        pass
