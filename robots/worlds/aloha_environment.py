"""gym-aloha's insertion as a policy that is told where things are needs it (aloha.toml).

The package's own environment gives pictures alone, draws three large ones each step, says that actions go from -1 to 1
where they are radians, and ends at success. Here is the same model, task and reward with what a station's world takes:
joints and poses as numbers, pictures only where they are asked for, the actuators' true ranges, 10 Hz in place of 50,
no end at success (no robot is told), and in words when a person has to help. Needs the extra [aloha].
"""

import warnings
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dm_control looks for a screen as it is imported, and says that there is none
        from dm_control import mujoco as dm_mujoco
    from dm_control.rl import control
    from gym_aloha.constants import ASSETS_DIR, DT, JOINTS
    from gym_aloha.env import AlohaEnv
    from gym_aloha.tasks.sim import InsertionTask
except ImportError as error:
    raise ImportError('The Aloha insertion needs gym-aloha: pip install "fleetui[aloha]".') from error

SUCCESS = 4  # of the reward's stages: the peg touches the pin inside of the socket
THINGS = {"peg": 16, "socket": 23}  # the first of the seven numbers of each one's pose in qpos
BASES = {"peg": (0.469, 0.5), "socket": (-0.469, 0.5)}  # metres: of the arm that takes it
NEAREST, FARTHEST = 0.15, 0.52  # metres from that base within which an arm can take it
REPEAT = 5  # steps of the package's environment in one of ours; on the way the joints are told evenly
LIFTED, DROPPED = 0.08, 0.065  # metres above the table: once higher than this, and then lower than that


class _Told(InsertionTask):
    """The task without its pictures."""

    def get_observation(self, physics: Any) -> dict[str, np.ndarray]:
        """Joints [14], the grippers from 0 (closed) to 1; poses [7] each: metres, and a quaternion."""
        q = physics.data.qpos
        poses = {name: np.array(q[at : at + 7]) for name, at in THINGS.items()}
        return {"agent_pos": np.array(self.get_qpos(physics)), **poses}


class AlohaInsertion(AlohaEnv):
    """The left arm takes the socket, the right arm the peg, and inserts it; 10 Hz, 14 joint positions."""

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (as Gymnasium has it)
    dt = REPEAT * DT

    def __init__(self, render_mode: str | None = "rgb_array"):
        super().__init__("insertion", obs_type="pixels_agent_pos", render_mode=render_mode)
        shapes = {"agent_pos": len(JOINTS), **dict.fromkeys(THINGS, 7)}
        self.observation_space = spaces.Dict(
            {name: spaces.Box(-np.inf, np.inf, (size,), np.float64) for name, size in shapes.items()}
        )
        low, high = self.model.actuator_ctrlrange.T
        arms = np.r_[0:6, 8:14]  # behind each arm's joints come the two fingers, which one number moves
        low, high = (np.insert(each[arms], [6, 12], gripper) for each, gripper in ((low, 0.0), (high, 1.0)))
        self.action_space = spaces.Box(low.astype(np.float32), high.astype(np.float32))
        self._highest = dict.fromkeys(THINGS, 0.0)
        self._told = np.zeros(len(JOINTS))

    def _make_env_task(self, task_name: str) -> control.Environment:
        physics = dm_mujoco.Physics.from_xml_path(str(ASSETS_DIR / f"bimanual_viperx_{task_name}.xml"))
        physics.model.light_castshadow[:] = False  # where it is drawn by a processor they take most of the time
        return control.Environment(physics, _Told(), float("inf"), control_timestep=DT, flat_observation=False)

    @property
    def model(self) -> mujoco.MjModel:
        """MuJoCo's own, by which cameras draw."""
        return self._env.physics.model.ptr

    @property
    def data(self) -> mujoco.MjData:
        """MuJoCo's own, by which cameras draw."""
        return self._env.physics.data.ptr

    def _format_raw_obs(self, raw_obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(raw_obs)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Both things somewhere else, the arms at their start."""
        self._highest = dict.fromkeys(THINGS, 0.0)
        seen, info = super().reset(seed=seed, options=options)
        self._told = seen["agent_pos"]
        return seen, info | {"needs_reset": ""}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Joint positions [14], as observed. info: is_success, and needs_reset in words."""
        goal = np.clip(np.asarray(action, np.float64), self.action_space.low, self.action_space.high)
        for share in np.arange(1, REPEAT + 1) / REPEAT:
            seen, reward, _, _, info = super().step(self._told + share * (goal - self._told))
        self._told = goal
        return seen, float(reward), False, False, info | {"needs_reset": self._lost(seen)}

    def _lost(self, seen: dict[str, np.ndarray]) -> str:
        """Why a person has to help, or nothing."""
        for name, (x, y) in BASES.items():
            place = seen[name][:3]
            self._highest[name] = max(self._highest[name], float(place[2]))
            if self._highest[name] > LIFTED and place[2] < DROPPED:
                return f"the {name} was dropped"
            if not NEAREST < np.hypot(place[0] - x, place[1] - y) < FARTHEST and place[2] < LIFTED:
                return f"the {name} lies out of reach"
        return ""


gymnasium.register("FleetUI/AlohaInsertion-v0", entry_point=f"{__name__}:AlohaInsertion")
