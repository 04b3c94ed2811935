"""The camera table: LanguageTable whose observation is a picture from straight above, and nothing else.

What the picture shows has to be learned (training/perception.py). The simulator's own knowledge of where blocks lie
serves the demonstrator, the drawing of instructions, the fence and the true success only.
"""

import numpy as np
from PIL import Image

from robots.embodiments import IMAGES, Observation
from robots.worlds import WorldError, part_of
from robots.worlds.language_table import CAMERA_TABLE, OVERHEAD, OVERHEAD_SIZE
from robots.worlds.language_table.physics import BLOCK_SHAPES, LanguageTable, TableSetup

CAMERA_TABLE_SETUP = TableSetup(CAMERA_TABLE, BLOCK_SHAPES)
KEY = f"{IMAGES}{OVERHEAD.camera}"


class CameraTable(LanguageTable):
    """A table that is seen by one camera only."""

    def __init__(self, seed: int):
        self._recorded: np.ndarray | None = None  # a picture of the past that is to be shown instead of what is now
        super().__init__(seed, CAMERA_TABLE_SETUP)

    def reset(self, rng: np.random.Generator) -> Observation:
        self._recorded = None
        return super().reset(rng)

    def step(self, action: np.ndarray) -> Observation:
        self._recorded = None
        return super().step(action)

    def observation(self) -> Observation:
        if self._recorded is not None:
            return {KEY: self._recorded}
        width, height = OVERHEAD_SIZE
        if self.renderer == "drawn":
            half = np.array(OVERHEAD_SIZE) * OVERHEAD.metres_per_pixel / 2
            return {KEY: self._drawn(half, width, height)}
        return {KEY: self._seen_by(OVERHEAD.camera, width, height)}

    def set_observation(self, observation: Observation) -> None:
        """A picture can be shown again, but not stepped on from: where its blocks lay nobody recorded."""
        picture = np.asarray(part_of(observation, KEY))
        if picture.shape != self.embodiment.observation[KEY].shape:
            raise WorldError(f"The observation's {KEY} has the shape {picture.shape}, which is no picture of it.")
        self._recorded = picture.astype(np.uint8)

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        if self._recorded is None:
            return super().render(camera, width, height)
        return np.asarray(Image.fromarray(self._recorded).resize((width, height), Image.Resampling.NEAREST))
