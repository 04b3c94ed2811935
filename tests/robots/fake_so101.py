import numpy as np

from robots.embodiments import IMAGES, STATE, DriveAxis, Embodiment, Motion, picture, vector
from robots.real_robot import RealRobot
from training.practice import run_station

NAMES = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
JOINTS = tuple(f"{name}.pos" for name in NAMES)
POSITIONS = vector(JOINTS, (-110.0,) * 5 + (0.0,), (110.0,) * 5 + (100.0,), ("deg",) * 5 + ("%",))


class FakeSO101(RealRobot):
    embodiment = Embodiment(
        name="so101",
        fps=30.0,
        observation={STATE: POSITIONS, IMAGES + "front": picture(96, 72), IMAGES + "wrist": picture(96, 72)},
        action=POSITIONS,
        motions=tuple(Motion("position", largest_change=4.0, sensed_by=name) for name in JOINTS),
        drive=(*(DriveAxis(name, name) for name in JOINTS[:5]), DriveAxis("gripper", "gripper.pos")),
    )
    joints = np.array([0, 0, 0, 0, 0, 50])  # in the place of its motors

    def observation(self):
        return {STATE: self.joints, **{IMAGES + name: self.render(name, 96, 72) for name in ("front", "wrist")}}

    def send(self, action):
        self.joints = action

    def render(self, camera, width, height):  # in the place of its cameras
        image = np.full((height, width, 3), (60, 70, 80) if camera == "front" else (120, 90, 60), np.uint8)
        seen = self.joints[0] / 220 + 0.5 if camera == "front" else self.joints[5] / 100
        image[height // 3 : height // 2, int(0.9 * width * seen) :][:, : width // 10] = (220, 60, 50)
        return image


if __name__ == "__main__":
    run_station(FakeSO101())
