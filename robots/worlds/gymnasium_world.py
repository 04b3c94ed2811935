"""The two bridges to Gymnasium: a third-party environment as a station's world, and LanguageTable as an environment.

The first needs a few lines of TOML in the file that FLEETUI_WORLDS names (docs/worlds.md); the second is registered by
importing this module: gymnasium.make("robots.worlds.gymnasium_world:FleetUI/LanguageTable-v0").
"""

import os
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import load_env_creator
from PIL import Image, ImageDraw

from robots.driver import DriverError, as_picture, guarded
from robots.embodiments import IMAGES, Observation
from robots.tasks import Instruction, get_task
from robots.worlds import WorldError, checked
from robots.worlds.language_table import LANGUAGE_TABLE, TIME_LIMIT_STEPS, block_positions, distance_left
from robots.worlds.language_table.physics import LanguageTable
from robots.worlds.rendering import circle, draw_top_view, forget, render, renderer_name
from robots.worlds.third_party import Sight, WorldDescription

FREE = "free"  # the camera that looks at the whole of a MuJoCo model
Path = tuple[Any, ...]  # the keys that lead to a part of an observation
Answer = TypeVar("Answer")


class EnvironmentFault(WorldError, DriverError):
    """What an environment did wrong, in words: whoever guards the world has nothing to add to them."""


class GymnasiumWorld:
    """A Gymnasium environment, run at the control rate that its description states. Nothing is required of it but
    reset and step: where it has no MuJoCo model, people watch by its own render().
    """

    resets_itself = True

    def __init__(self, description: WorldDescription, seed: int):
        self.description = description
        self.embodiment = description.embodiment
        self.env = self._made()
        self._model, self._data = (getattr(self.env.unwrapped, name, None) for name in ("model", "data"))
        if not (isinstance(self._model, mujoco.MjModel) and isinstance(self._data, mujoco.MjData)):
            self._model = self._data = None
        self._free_camera = mujoco.MjvCamera()
        if self._model is not None:
            mujoco.mjv_defaultFreeCamera(self._model, self._free_camera)
        self._check_actions()
        self._parts = {
            key: [self._part(path, len(names)) for path, names in parts] for key, parts in description.parts.items()
        }
        self._keys = {sight.name: self._path(sight.key) for sight in description.sights if sight.key}
        self._check_cameras()
        self._repeat = description.repeat or self._steps_of_its_rate()
        self.reset(np.random.default_rng(seed))
        low, high = np.array(self.embodiment.action_range).T
        self.step(np.clip(0.0, low, high))
        if description.success_info not in self._info:
            raise self._error(
                f"success names the info key {description.success_info!r}, but a step's info holds "
                f"{', '.join(sorted(map(str, self._info)))}."
            )
        told = description.needs_reset_info
        if told and not isinstance(self._info.get(told), str):
            raise self._error(f"needs_reset_info names {told!r}, but a step's info holds no text there.")
        self.reset(np.random.default_rng(seed))

    def _error(self, sentence: str) -> EnvironmentFault:
        return EnvironmentFault(f"World {self.description.name!r}: {sentence}")

    def _call(self, what: str, call: Callable[..., Answer], *arguments: Any) -> Answer:
        """What the environment answers; whatever else comes of anybody's code is an EnvironmentFault."""
        try:
            return guarded(what, call, *arguments)
        except DriverError as error:
            raise self._error(str(error)) from error

    def _made(self) -> gymnasium.Env[Any, Any]:
        env_id, options = self.description.env_id, dict(self.description.options)
        try:
            if "rgb_array" in guarded("looking it up", _render_modes, env_id):
                options.setdefault("render_mode", "rgb_array")
            # No time limit of Gymnasium's own: a station's episodes end by its rules.
            return guarded(
                "making it",
                lambda: gymnasium.make(env_id, max_episode_steps=10**9, disable_env_checker=True, **options),
            )
        except DriverError as error:
            raise self._error(f"Gymnasium cannot make {env_id} ({error}).") from error

    def _check_actions(self) -> None:
        actions = self.env.action_space
        if not isinstance(actions, spaces.Box) or actions.shape != (self.embodiment.action_size,):
            raise self._error(f"actions says {self.embodiment.action_size}, but the environment's are {actions}.")
        for (low, high), lowest, highest in zip(self.embodiment.action_range, actions.low, actions.high, strict=True):
            if low < lowest - 1e-6 or high > highest + 1e-6:
                raise self._error(
                    f"its actions may be {low:g} to {high:g}, but the environment takes {lowest:g} to {highest:g}; "
                    f"say action_kind, action_low = {lowest:g} and action_high = {highest:g}."
                )

    def _path(self, path: str) -> Path:
        try:
            return path_in(self.env.observation_space, path)
        except KeyError:
            known = ", ".join(f"{name} {shape}" for name, shape in _paths(self.env.observation_space))
            raise self._error(
                f"the environment's observation has no part {path!r}; it holds {known or 'one array, and no parts'}."
            ) from None

    def _part(self, path: str, count: int) -> tuple[Path, spaces.Space[Any]]:
        """How to get at a part of the observation, and its space, which says how it becomes numbers."""
        keys = self._path(path) if path else ()
        space = _at(self.env.observation_space, keys)
        size = self._call(f"reading the space of {path or 'observations'}", spaces.flatdim, space)
        if size != count:
            raise self._error(f"{path or 'observations'} says {count} numbers, but the environment gives {size}.")
        return keys, space

    def _check_cameras(self) -> None:
        for sight in (*self.description.sights, *self.description.views):
            if sight.render and self.env.render_mode != "rgb_array":
                raise self._error(
                    f"{sight.name} is drawn by render, but the environment has no render_mode rgb_array; name "
                    "another source of its pictures."
                )
            if not sight.camera:
                continue
            if self._model is None:
                raise self._error(f"{sight.name} names a camera, but the environment has no MuJoCo model: use render.")
            names = [FREE, *(self._model.camera(i).name for i in range(self._model.ncam))]
            if sight.camera not in names:
                raise self._error(f"its model has no camera {sight.camera!r}; known are {', '.join(names)}.")

    def _steps_of_its_rate(self) -> int:
        """How many steps of the environment are one control step, where it says how long one is; else one is."""
        dt = getattr(self.env.unwrapped, "dt", None)
        if self._model is None or not isinstance(dt, (int, float)) or not dt > 0:
            return 1
        rate = 1 / dt
        repeat: int = max(1, round(rate / self.embodiment.fps))
        if abs(rate / repeat - self.embodiment.fps) > 0.01 * self.embodiment.fps:
            raise self._error(
                f"control_hz is {self.embodiment.fps:g}, but the environment runs at {rate:g} Hz; "
                f"choose {rate:g} divided by a whole number, such as {rate / repeat:g}, or say repeat."
            )
        return repeat

    @property
    def renderer(self) -> str:
        if self._model is not None:
            return renderer_name()
        return "environment" if self.env.render_mode == "rgb_array" else "card"

    def reset(self, rng: np.random.Generator) -> Observation:
        seed = int(rng.integers(2**31))
        raw, self._info = self._two(self._call("a reset", lambda: self.env.reset(seed=seed)))
        self._words = self._own_words(raw)
        self._terminated, self._steps = False, 0
        return self._take(raw)

    def _two(self, answer: Any) -> tuple[Any, dict[str, Any]]:
        if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[1], Mapping):
            raise self._error("a reset must give an observation and an info, as Gymnasium's do.")
        return answer[0], dict(answer[1])

    def _own_words(self, raw: Any) -> str:
        """What the environment asks for, where the description says that it does."""
        path = self.description.instruction_info
        if not path:
            return ""
        for held in (self._info, raw):
            try:
                text = _at(held, path_in(held, path))
            except KeyError:
                continue
            if isinstance(text, str):
                return text
        raise self._error(f"instruction_info names {path!r}, but neither info nor observation holds a text there.")

    def instruction(self) -> str:
        """What the environment itself asks for since the last reset; empty: it asks for nothing of its own."""
        return self._words

    def step(self, action: np.ndarray) -> Observation:
        low, high = np.array(self.embodiment.action_range).T
        action = np.clip(checked("action", action, len(low)), low, high)
        kind = np.dtype(self.env.action_space.dtype)
        action = (np.rint(action) if kind.kind in "iu" else action).astype(kind)
        raw: Any = None
        for _ in range(self._repeat):
            answer = self._call("a step", self.env.step, action)
            if not isinstance(answer, tuple) or len(answer) != 5 or not isinstance(answer[4], Mapping):
                raise self._error("a step must give an observation, a reward, two ends and an info.")
            raw, reward, terminated, _, info = answer
            # What info says itself comes first.
            self._info = {"reward": reward, "terminated": terminated, **info}
            self._terminated |= bool(terminated)
        self._steps += 1
        return self._take(raw)

    def _take(self, raw: Any) -> Observation:
        self.raw = raw
        sensed = {
            key: self._call(f"reading {key}", lambda parts=parts: _numbers(raw, parts))
            for key, parts in self._parts.items()
        }
        pictures = {f"{IMAGES}{sight.name}": self._seen(sight) for sight in self.description.sights}
        self._observation = {**sensed, **pictures}
        return self.observation()

    def _seen(self, sight: Sight) -> np.ndarray:
        """A picture of the policy's, uint8 [H, W, 3]"""
        if not sight.key:
            return self._picture(sight, sight.width, sight.height)
        found = self._call(f"its camera {sight.name}", lambda: as_picture(_at(self.raw, self._keys[sight.name])))
        if found.shape[:2] != (sight.height, sight.width):
            raise self._error(
                f"the pictures of {sight.name} are {found.shape[1]} x {found.shape[0]} pixels, and the description "
                f"says {sight.width} x {sight.height}."
            )
        return found

    def _picture(self, sight: Sight, width: int, height: int) -> np.ndarray:
        if self._model is not None and not sight.render:
            return self._call(f"its camera {sight.name}", self._of_model, sight.camera or FREE, width, height)
        if self.env.render_mode == "rgb_array":
            found = self._call(f"its camera {sight.name}", lambda: as_picture(_drawn(self.env)))
            if found.shape[:2] == (height, width):
                return found
            return np.asarray(Image.fromarray(found).resize((width, height), Image.Resampling.BILINEAR))
        return _card(self.description.title, width, height)

    def observation(self) -> Observation:
        return {key: value.copy() for key, value in self._observation.items()}

    def script_view(self) -> tuple[Any, Any]:
        """What a scripted policy sees: the environment, and its own observation."""
        return self.env, self.raw

    def set_observation(self, observation: Observation) -> None:
        raise self._error(
            "its state cannot be set from an observation, so episodes are replayed from recorded frames only."
        )

    def true_success(self, instruction: Instruction) -> bool | None:
        value = self._info.get(self.description.success_info)
        if value is None:  # right after a reset, or where the environment can't tell
            return None
        value = self._call(f"reading {self.description.success_info}", float, value)
        if np.isnan(value):
            return None
        low, high = self.description.success_at_least, self.description.success_at_most
        return bool((low is None or value >= low) and (high is None or value <= high))

    def needs_reset(self, fewest_objects: int | None = None) -> str:
        if self._terminated:
            return "the environment has ended"
        if why := self._info.get(self.description.needs_reset_info):
            return str(why)
        if self.description.reset_every_steps and self._steps >= self.description.reset_every_steps:
            return f"a fresh start is due after {self.description.reset_every_steps} steps"
        return ""

    def fenced(self, action: np.ndarray, margin: float) -> np.ndarray:
        return action

    def objects_in_play(self) -> dict[str, tuple[float, float]]:
        return {}

    def render(self, camera: str, width: int, height: int) -> np.ndarray:
        known = {sight.name: sight for sight in (*self.description.sights, *self.description.views)}  # views come first
        if camera not in known:
            raise self._error(f"there is no camera {camera!r}; known are {', '.join(known)}.")
        sight = known[camera]
        if sight.key:
            return self._observation[f"{IMAGES}{camera}"].copy()
        return self._picture(sight, width, height)

    def _of_model(self, camera: str, width: int, height: int) -> np.ndarray:
        model, data = self._model, self._data
        if model is None or data is None:
            raise RuntimeError("There is no MuJoCo model.")
        if renderer_name() != "drawn":
            return render(model, data, self._free_camera if camera == FREE else camera, width, height)
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
        if self._model is not None:
            forget(self._model)
        self._call("closing it", self.env.close)


def _drawn(env: gymnasium.Env[Any, Any]) -> Any:
    """What the environment draws. Gymnasium's own renderer of MuJoCo models takes a screen that isn't there, where the
    variable doesn't say better; it is taken back, since programs that this process starts would obey it, too.
    """
    if "MUJOCO_GL" in os.environ or renderer_name() == "drawn":
        return env.render()
    os.environ["MUJOCO_GL"] = renderer_name()
    try:
        return env.render()
    finally:
        del os.environ["MUJOCO_GL"]


def _render_modes(env_id: str) -> Sequence[str]:
    """In which ways the environment says that it can be drawn, before it is made."""
    module, _, name = env_id.rpartition(":")
    if module:
        import_module(module)
    spec = gymnasium.registry.get(name)
    made_by = spec.entry_point if spec else None
    maker = load_env_creator(made_by) if isinstance(made_by, str) else made_by
    modes: Sequence[str] = (getattr(maker, "metadata", None) or {}).get("render_modes") or ()
    return modes


def _inside(value: Any) -> Mapping[Any, Any]:
    """The parts of an observation, or of the space of one, by key; empty where it has none."""
    inner = value.spaces if isinstance(value, (spaces.Dict, spaces.Tuple)) else value
    if isinstance(inner, (tuple, list)):
        return {str(i): each for i, each in enumerate(inner)}
    return inner if isinstance(inner, Mapping) else {}


def path_in(value: Any, path: str) -> Path:
    """The keys that lead to a part of an observation, whose names may hold a "/" themselves; KeyError where none do."""
    parts = _inside(value)
    if path in parts:
        return (path,)
    for at, letter in enumerate(path):
        if letter == "/" and path[:at] in parts:
            try:
                return (path[:at], *path_in(parts[path[:at]], path[at + 1 :]))
            except KeyError:
                continue
    raise KeyError(path)


def _at(value: Any, keys: Path) -> Any:
    for key in keys:
        value = _inside(value)[key]
    return value


def _paths(space: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    for name, part in _inside(space).items():
        inner = _inside(part)
        if inner:
            yield from _paths(part, f"{before}{name}/")
        else:
            yield f"{before}{name}", list(getattr(part, "shape", None) or ())


def _numbers(raw: Any, parts: Sequence[tuple[Path, spaces.Space[Any]]]) -> np.ndarray:
    """The parts of an observation as one vector, float32 [n]"""
    found = [np.asarray(spaces.flatten(space, _at(raw, keys)), np.float32) for keys, space in parts]
    return np.concatenate(found) if len(found) > 1 else found[0]


def _card(title: str, width: int, height: int) -> np.ndarray:
    """Says that there is nothing to be seen, uint8 [H, W, 3]"""
    card = Image.new("RGB", (width, height), (86, 94, 102))
    words = f"{title}\ndraws no picture"
    ImageDraw.Draw(card).multiline_text(
        (width / 2, height / 2), words, fill=(235, 238, 240), anchor="mm", align="center", font_size=max(8, width // 16)
    )
    return np.array(card)


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
