"""The camera table: LanguageTable whose observation is a picture from straight above, and nothing else.

What the picture shows has to be learned (training/perception.py). The simulator's own knowledge of where blocks lie
serves the demonstrator, the drawing of instructions, the fence and the true success only.
"""

import numpy as np
from PIL import Image

from robots.worlds import checked
from robots.worlds.language_table import CAMERA_TABLE, TOP_PICTURE
from robots.worlds.language_table.physics import BLOCK_SHAPES, LanguageTable, TableSetup

CAMERA_TABLE_SETUP = TableSetup(CAMERA_TABLE, BLOCK_SHAPES)


class CameraTable(LanguageTable):
    """A table that is seen by one camera only."""

    def __init__(self, seed: int):
        self._recorded: np.ndarray | None = None  # a picture of the past that is to be shown instead of what is now
        super().__init__(seed, CAMERA_TABLE_SETUP)

    def reset(self, rng: np.random.Generator) -> np.ndarray:
        self._recorded = None
        return super().reset(rng)

    def step(self, action: np.ndarray) -> np.ndarray:
        self._recorded = None
        return super().step(action)

    def observation(self) -> np.ndarray:
        """uint8 [H * W * 3]"""
        picture = TOP_PICTURE
        if self._recorded is not None:
            return self._recorded
        if self.renderer == "drawn":
            half = np.array([picture.width, picture.height]) * picture.metres_per_pixel / 2
            return self._drawn(half, picture.width, picture.height).ravel()
        return self._seen_by(picture.camera, picture.width, picture.height).ravel()

    def set_observation(self, observation: np.ndarray) -> None:
        """A picture can be shown again, but not stepped on from: where its blocks lay nobody recorded."""
        self._recorded = checked("observation", observation, CAMERA_TABLE.observation_size).astype(np.uint8)

    def render(self, width: int, height: int) -> np.ndarray:
        if self._recorded is None:
            return super().render(width, height)
        picture = self._recorded.reshape(TOP_PICTURE.height, TOP_PICTURE.width, 3)
        return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST))
