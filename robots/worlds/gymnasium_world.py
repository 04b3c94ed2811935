"""The two bridges to Gymnasium: a third-party MuJoCo environment as a station's world, and LanguageTable as an
environment.

The first needs a few lines of TOML in the file that FLEETUI_WORLDS names (docs/worlds.md); the second is registered by
importing this module: gymnasium.make("robots.worlds.gymnasium_world:FleetUI/LanguageTable-v0").
"""

import string
from typing import Any, cast

import gymnasium
import mujoco
import numpy as np

from robots.embodiments import STATE, Observation
from robots.tasks import Instruction, get_task
from robots.worlds import WorldError, checked
from robots.worlds.language_table import LANGUAGE_TABLE, TIME_LIMIT_STEPS, block_positions, distance_left
from robots.worlds.language_table.physics import LanguageTable
from robots.worlds.rendering import circle, draw_top_view, forget, render, renderer_name
from robots.worlds.third_party import WorldDescription


class GymnasiumWorld:
    """A Gymnasium MuJoCo environment, run at the control rate that its description states."""

    resets_itself = True

    def __init__(self, description: WorldDescription, seed: int):
        self.description = description
        self.embodiment = description.embodiment
        try:
            # No time limit of Gymnasium's own: a station's episodes end by its rules.
            self._env = gymnasium.make(
                self.description.env_id, max_episode_steps=10**9, disable_env_checker=True, **self.description.options
            )
        except Exception as error:  # anybody's code runs here
            raise self._error(f"Gymnasium cannot make {self.description.env_id} ({error}).") from error
        self._mujoco = cast(Any, self._env.unwrapped)  # with model, data and dt: that is checked next
        self._repeat = self._check_sizes()
        self._camera = mujoco.MjvCamera()
        mujoco.mjv_defaultFreeCamera(self._mujoco.model, self._camera)
        self.reset(np.random.default_rng(seed))
        self.step(np.zeros(self.embodiment.action_size))
        if self.description.success_info not in self._info:
            raise self._error(
                f"success names the info key {self.description.success_info!r}, but a step's info holds "
                f"{', '.join(sorted(self._info)) or 'nothing'}."
            )
        self.reset(np.random.default_rng(seed))

    def _error(self, sentence: str) -> WorldError:
        return WorldError(f"World {self.description.name!r}: {sentence}")

    def _check_sizes(self) -> int:
        """How many steps of the environment are one control step."""
        observations, actions = self._env.observation_space, self._env.action_space
        if not isinstance(getattr(self._mujoco, "model", None), mujoco.MjModel) or not hasattr(self._mujoco, "dt"):
            raise self._error(f"{self.description.env_id} is not one of Gymnasium's MuJoCo environments.")
        if not isinstance(actions, gymnasium.spaces.Box) or actions.shape != (self.embodiment.action_size,):
            raise self._error(f"actions says {self.embodiment.action_size}, but the environment's are {actions}.")
        for (low, high), lowest, highest in zip(self.embodiment.action_range, actions.low, actions.high, strict=True):
            if low < lowest - 1e-6 or high > highest + 1e-6:
                raise self._error(
                    f"its actions may be {low:g} to {high:g}, but the environment takes {lowest:g} to {highest:g}; "
                    f"say action_kind, action_low = {lowest:g} and action_high = {highest:g}."
                )
        size = gymnasium.spaces.flatdim(observations)
        if size != len(self.embodiment.state_names):
            raise self._error(
                f"observations says {len(self.embodiment.state_names)} numbers, but the environment gives {size}."
            )
        rate = 1 / self._mujoco.dt
        repeat: int = max(1, round(rate / self.embodiment.fps))
        if abs(rate / repeat - self.embodiment.fps) > 0.01 * self.embodiment.fps:
            raise self._error(
                f"control_hz is {self.embodiment.fps:g}, but the environment runs at {rate:g} Hz; "
                f"choose {rate:g} divided by a whole number, such as {rate / repeat:g}."
            )
        return repeat

    @property
    def renderer(self) -> str:
        return renderer_name()

    def reset(self, rng: np.random.Generator) -> Observation:
        observation, self._info = self._env.reset(seed=int(rng.integers(2**31)))
        self._terminated, self._steps = False, 0
        return self._take(observation)

    def step(self, action: np.ndarray) -> Observation:
        low, high = np.array(self.embodiment.action_range).T
        action = np.clip(checked("action", action, len(low)), low, high)
        kind = np.dtype(self._env.action_space.dtype)
        action = (np.rint(action) if kind.kind in "iu" else action).astype(kind)
        for _ in range(self._repeat):
            observation, _, terminated, _, self._info = self._env.step(action)
            self._terminated |= bool(terminated)
        self._steps += 1
        return self._take(observation)

    def _take(self, observation: Any) -> Observation:
        flat = gymnasium.spaces.flatten(self._env.observation_space, observation)
        self._observation = np.asarray(flat, np.float32)
        return self.observation()

    def observation(self) -> Observation:
        return {STATE: self._observation.copy()}

    def set_observation(self, observation: Observation) -> None:
        raise self._error(
            "its state cannot be set from an observation, so episodes are replayed from recorded frames only."
        )

    def true_success(self, instruction: Instruction) -> bool | None:
        value = self._info.get(self.description.success_info)
        if value is None or np.isnan(value):  # right after a reset, or where the environment can't tell
            return None
        low, high = self.description.success_at_least, self.description.success_at_most
        return bool((low is None or value >= low) and (high is None or value <= high))

    def needs_reset(self, fewest_objects: int | None = None) -> str:
        if self._terminated:
            return "the environment has ended"
        if self.description.reset_every_steps and self._steps >= self.description.reset_every_steps:
            return f"a fresh start is due after {self.description.reset_every_steps} steps"
        return ""

    def fenced(self, action: np.ndarray, margin: float) -> np.ndarray:
        return action

    def objects_in_play(self) -> dict[str, tuple[float, float]]:
        return {}

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        model, data = self._mujoco.model, self._mujoco.data
        if self.renderer != "drawn":
            return render(model, data, self._camera, width, height)
        # Discs around the moving parts: not pretty, but one sees what moves.
        places = [(geom, *data.geom_xpos[geom][:2]) for geom in range(model.ngeom) if model.geom_bodyid[geom] > 0]
        discs = [
            (
                circle(x, y, min(model.geom_rbound[geom], 0.05 * model.stat.extent)),
                tuple(int(255 * c) for c in model.geom_rgba[geom][:3]),
            )
            for geom, x, y in places
        ]
        (x, y), reach = model.stat.center[:2], 0.6 * model.stat.extent
        return draw_top_view(discs, (x - reach, y - reach, x + reach, y + reach), width, height)

    def close(self) -> None:
        forget(self._mujoco.model)
        self._env.close()


class LanguageTableEnv(gymnasium.Env):
    """LanguageTable for any reinforcement learner: reward 1 and the end when the instruction is fulfilled."""

    # Gymnasium reads it of the class, and declares it as no class variable.
    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["rgb_array"],
        "render_fps": int(LANGUAGE_TABLE.fps),
    }

    def __init__(self, task: str = "block2block", render_mode: str | None = None):
        self.family = get_task(task)
        self.render_mode = render_mode
        limit = np.array(LANGUAGE_TABLE.action.high, np.float32)
        self.action_space = gymnasium.spaces.Box(-limit, limit, dtype=np.float32)
        self.observation_space = gymnasium.spaces.Dict(
            {
                **{
                    key: gymnasium.spaces.Box(-1, 1, feature.shape, np.float32)
                    for key, feature in LANGUAGE_TABLE.observation.items()
                },
                "instruction": gymnasium.spaces.Text(200, min_length=1, charset=string.ascii_lowercase + " ,"),
            }
        )
        self._world = LanguageTable(0)
        self._instruction = self.family.sample(np.random.default_rng(0), self._world.objects_in_play())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        seen = self._world.reset(self.np_random)
        self._instruction = self.family.sample(self.np_random, self._world.objects_in_play())
        return self._with_words(seen), {}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        seen = self._world.step(action)
        missing = distance_left(self._instruction.target, block_positions(seen))
        success = missing <= 0
        fallen = bool(np.isinf(missing))  # a block that the instruction names is off the table
        return self._with_words(seen), float(success), success or fallen, False, {"success": success}

    def _with_words(self, seen: Observation) -> dict[str, Any]:
        return {**seen, "instruction": self._instruction.text}

    def render(self) -> np.ndarray | None:
        if self.render_mode == "rgb_array":
            camera = LANGUAGE_TABLE.cameras[0]
            return self._world.render(camera.name, camera.width, camera.height)
        return None


gymnasium.register(
    "FleetUI/LanguageTable-v0", entry_point=f"{__name__}:LanguageTableEnv", max_episode_steps=TIME_LIMIT_STEPS
)
