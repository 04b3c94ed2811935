"""A scripted expert with human failings: it grasps a cube, carries it and lets it go.

Like a person it does so by its own habits, drawn anew for each episode: speed, height, how far it opens the gripper, a
hand that wavers, pauses. Now and then it grasps beside the cube or closes too early, sees that its hand is empty and
tries again, so demonstrations show recovery, too. A failed attempt ends at the time limit.

Picker decides by what there is to see (Layout) and knows no simulator; demonstrate() records.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from robots.demonstrators import STEPS_AFTER_SUCCESS, PersonsHabits, drawn, recorded, wavered
from robots.episodes import Episode
from robots.tasks import Instruction
from robots.worlds.so101_pick import (
    BIN_HALF,
    BINS,
    CUBE,
    LARGEST_MOVE,
    LARGEST_TURN,
    MIDDLE,
    TIME_LIMIT_STEPS,
    WALL_HEIGHT,
    bin_at,
)
from robots.worlds.so101_pick.arm import reached, within
from robots.worlds.so101_pick.physics import APART, APART_IN_BIN, CubePose, Layout, So101Pick

EMPTY = 30.0  # per cent: a gripper that closes further holds no cube
LOW = 0.045  # metres of the tips above the table: below it they may hit a cube on their way
CLOSING_STEPS = 4  # until the jaws have met, or met a cube
# Of the opened jaws, metres from the hand's middle along the closing axis; and half their width across it.
_STILL, _MOVING, _ACROSS = -0.0225, 0.026, 0.009
_QUARTER = math.pi / 2

Action = tuple[float, float, float, float, float]
Phase = Callable[[Layout, CubePose], Action]


@dataclass(frozen=True)
class Habits(PersonsHabits):
    """How one episode is acted. Metres, radians and per cent, per control step where they move."""

    speed: float = drawn("uniform", 0.015, 0.028)  # of free movement
    care: float = drawn("uniform", 0.010, 0.020)  # of the last centimetres down
    turn: float = drawn("uniform", 0.15, 0.30)
    hover: float = drawn("uniform", 0.055, 0.085)  # height of the tips while it travels
    depth: float = drawn("uniform", 0.0, 0.005)  # of the tips below a cube's middle when it grasps
    open: float = drawn("uniform", 56, 72)  # per cent, before a grasp
    aim: float = drawn("uniform", 0.0, 0.0022)  # standard deviation of where it grasps
    drop: float = drawn("uniform", 0.001, 0.010)  # height above the table at which it lets go
    tremble: float = drawn("uniform", 0.0003, 0.0016)  # standard deviation of the hand's slow wavering
    pause_chance: float = drawn("uniform", 0.0, 0.02)  # of beginning a pause, per step
    miss_chance: float = drawn("choice", [0.0, 0.0, 0.15, 0.3])  # of a grasp that goes wrong


class Picker:
    """Acts one instruction; one instance an episode."""

    def __init__(self, instruction: Instruction, habits: Habits, rng: np.random.Generator):
        self.target = instruction.target
        self.takes_out = instruction.family.endswith("take_out")
        self.habits = habits
        self.rng = rng
        self.phase: Phase = self._reach
        self.since = 0  # steps in this phase
        self.waver: Sequence[float] = (0.0, 0.0, 0.0)
        self.pausing = 0
        self.grip = habits.open
        self.yaw: float | None = None
        self.goal: tuple[float, float] | None = None
        self._aim()

    def act(self, layout: Layout) -> Action:
        """The next action, in the order of the body's."""
        self.waver = wavered(self.waver, self.habits.tremble, self.rng.normal(0, 1, 3).tolist())
        if self.pausing:
            self.pausing -= 1
            return 0.0, 0.0, 0.0, 0.0, self.grip
        if self.rng.random() < self.habits.pause_chance:
            self.pausing = int(self.rng.integers(1, 5))
        self.since += 1
        return self.phase(layout, layout.cubes[self.target["cube"]])

    def _enter(self, phase: Phase) -> None:
        self.phase, self.since = phase, 0

    def _aim(self) -> None:
        """Where the next grasp goes, against where it should: mostly a little off, at times so far that it misses."""
        self.off = self.rng.normal(0, self.habits.aim, 2)
        self.too_high = 0.0
        self.yaw = None
        if self.rng.random() < self.habits.miss_chance:
            if self.rng.random() < 0.5:
                self.too_high = self.rng.uniform(0.018, 0.028)
            else:
                self.off = np.array(
                    [self.rng.normal(0, 0.003), self.rng.choice([-1, 1]) * self.rng.uniform(0.02, 0.03)]
                )

    def _move(self, layout: Layout, x: float, y: float, z: float, speed: float) -> Action:
        """Towards a place, at most so fast, the hand turning meanwhile to where it should."""
        hand = layout.hand
        way = np.array([x - hand[0], y - hand[1], z - hand[2]])
        length = float(np.linalg.norm(way))
        dx, dy, dz = way * min(1.0, speed / max(length, 1e-9)) + self.waver
        turn = 0.0 if self.yaw is None else within(self.yaw - hand[3], -self.habits.turn, self.habits.turn)
        return dx, dy, dz, turn, self.grip

    def _travel(self, layout: Layout, x: float, y: float, height: float) -> Action:
        """As _move, but first up, out of the cubes' way; and level with what is on the way."""
        hand = layout.hand
        if hand[2] < LOW and math.dist((x, y), hand[:2]) > 0.01:
            return self._move(layout, hand[0], hand[1], height, self.habits.speed)
        return self._move(layout, x, y, height, self.habits.speed)

    def _reach(self, layout: Layout, cube: CubePose) -> Action:
        """Above the cube, the jaws open and along its edges."""
        self.grip = self.habits.open
        if self.yaw is None:
            self.yaw = self._grasp_yaw(layout, cube)
        x, y = self._grasp_place(cube)
        # Far out the arm can't be as high.
        above = reached(x, y, self.habits.hover + max(0.0, cube.z - CUBE / 2))
        hand = layout.hand
        close_by = math.dist(above[:2], hand[:2]) < 0.005 and abs(self.yaw - hand[3]) < 0.06
        if close_by and layout.opening > self.habits.open - 8:
            self._enter(self._descend)
            return self._descend(layout, cube)
        return self._travel(layout, *above)

    def _descend(self, layout: Layout, cube: CubePose) -> Action:
        x, y = self._grasp_place(cube)
        walled = any(math.dist((x, y), at) < BIN_HALF + 0.05 for at in BINS.values())
        z = cube.z - (0.0 if walled else self.habits.depth) + self.too_high
        z = max(z, WALL_HEIGHT + 0.002 if walled else 0.006)
        if layout.hand[2] < z + 0.003:
            self._enter(self._close)
            return self._close(layout, cube)
        if self.since > 12:  # something is in the way
            self._aim()
            self._enter(self._reach)
        return self._move(layout, x, y, z, self.habits.care)

    def _close(self, layout: Layout, cube: CubePose) -> Action:
        self.grip = 0.0
        if self.since > CLOSING_STEPS:
            self._enter(self._lift)
        return 0.0, 0.0, 0.0, 0.0, self.grip

    def _lift(self, layout: Layout, cube: CubePose) -> Action:
        hand = layout.hand
        if layout.opening < EMPTY or (hand[2] > LOW and not _held(layout, cube)):
            self._try_again()
        elif hand[2] > self.habits.hover - 0.01:
            self.goal = self._goal(layout)
            self._enter(self._carry)
        return self._move(layout, hand[0], hand[1], self.habits.hover, self.habits.speed)

    def _try_again(self) -> None:
        self.grip = self.habits.open
        self._aim()
        self._enter(self._reach)

    def _carry(self, layout: Layout, cube: CubePose) -> Action:
        assert self.goal is not None
        if not _held(layout, cube):
            self._try_again()
        x, y = self._release_place(layout, cube)
        above = reached(x, y, self.habits.hover)
        if math.dist(above[:2], layout.hand[:2]) < 0.006:
            self._enter(self._lower)
        return self._travel(layout, *above)

    def _lower(self, layout: Layout, cube: CubePose) -> Action:
        x, y = self._release_place(layout, cube)
        below = cube.z - CUBE / 2 - self.habits.drop
        if not _held(layout, cube):
            self._try_again()
        elif below < 0.003 or self.since > 12:
            self._enter(self._release)
            return self._release(layout, cube)
        return self._move(layout, x, y, layout.hand[2] - below, self.habits.care)

    def _release(self, layout: Layout, cube: CubePose) -> Action:
        self.grip = self.habits.open
        if layout.opening > self.habits.open - 10:
            self._enter(self._retreat)
        return 0.0, 0.0, 0.0, 0.0, self.grip

    def _retreat(self, layout: Layout, cube: CubePose) -> Action:
        """Up and out of the way. A cube that then lies elsewhere than it should is grasped anew."""
        hand = layout.hand
        if self.since > 6 and not self._there(cube):
            self._try_again()
        return self._move(layout, hand[0], hand[1], self.habits.hover, self.habits.speed)

    def _there(self, cube: CubePose) -> bool:
        inside = bin_at((cube.x, cube.y))
        if not self.takes_out:
            return inside == self.target["bin"]
        return not inside and all(low <= at <= high for at, (low, high) in zip(cube[:2], MIDDLE, strict=True))

    def _grasp_place(self, cube: CubePose) -> tuple[float, float]:
        """Over the cube's middle, but for where it aims wrongly."""
        along, across = self.off
        yaw = self.yaw or 0.0
        cos, sin = math.cos(yaw), math.sin(yaw)
        return cube.x + along * cos - across * sin, cube.y + along * sin + across * cos

    def _release_place(self, layout: Layout, cube: CubePose) -> tuple[float, float]:
        """Where the hand has to be for the held cube to be over the goal."""
        assert self.goal is not None
        return self.goal[0] + layout.hand[0] - cube.x, self.goal[1] + layout.hand[1] - cube.y

    def _grasp_yaw(self, layout: Layout, cube: CubePose) -> float:
        """Of the ways to hold a cube by two of its sides the nearest one for which both jaws find room."""
        others = [each for name, each in layout.cubes.items() if name != self.target["cube"]]

        def cost(yaw: float) -> float:
            cos, sin = math.cos(yaw), math.sin(yaw)
            crowded = 0.0
            for other in others:
                x, y = other.x - cube.x, other.y - cube.y
                along, across = x * cos + y * sin, y * cos - x * sin
                for jaw in (_STILL, _MOVING):
                    gap = math.hypot(max(abs(along - jaw) - 0.005, 0), max(abs(across) - _ACROSS, 0))
                    crowded += max(0.0, 0.017 - gap)
            return abs(yaw - layout.hand[3]) + 0.3 * abs(yaw) + 500 * crowded

        return min((yaw for k in range(-3, 4) if abs(yaw := cube.yaw + k * _QUARTER) < 1.65), key=cost)

    def _goal(self, layout: Layout) -> tuple[float, float]:
        """A free place for the cube: in the bin, or between the bins."""
        others = [each[:2] for name, each in layout.cubes.items() if name != self.target["cube"]]
        if self.takes_out:
            (x0, x1), (y0, y1), apart = *MIDDLE, APART
            low, high = (x0 + 0.012, y0 + 0.012), (x1 - 0.012, y1 - 0.012)
        else:
            (x, y), room, apart = BINS[self.target["bin"]], BIN_HALF - CUBE * 0.8, APART_IN_BIN
            low, high = (x - room, y - room), (x + room, y + room)
        places = [tuple(self.rng.uniform(low, high).tolist()) for _ in range(30)]
        gaps = [min((math.dist(place, other) for other in others), default=1.0) for place in places]
        free = [place for place, gap in zip(places, gaps, strict=True) if gap > apart]
        return free[0] if free else places[int(np.argmax(gaps))]


def _held(layout: Layout, cube: CubePose) -> bool:
    """Whether the cube hangs between the jaws."""
    x, y, z, _ = layout.hand
    return math.dist((x, y, z), cube[:3]) < 0.03


def _limited(action: Action) -> np.ndarray:
    """float32 [5], within what the body allows."""
    *moves, turn, grip = action
    limited = [within(move, -LARGEST_MOVE, LARGEST_MOVE) for move in moves]
    return np.array([*limited, within(turn, -LARGEST_TURN, LARGEST_TURN), within(grip, 0.0, 100.0)], np.float32)


class Attempt(NamedTuple):
    """T + 1 observations, T actions float32 [5], whether it succeeded, and what ended it if not."""

    observations: list[dict[str, np.ndarray]]
    actions: list[np.ndarray]
    success: bool
    ending: str


def attempt(
    world: So101Pick, instruction: Instruction, rng: np.random.Generator, time_limit: int = TIME_LIMIT_STEPS
) -> Attempt:
    """One attempt from where the table stands; it may fail, then it ends by time_limit or needs_reset."""
    picker = Picker(instruction, Habits.sample(rng), rng)
    observations = [world.observation()]
    actions: list[np.ndarray] = []
    successes = 0  # in a row: a jaw may touch the cube again while it leaves
    while len(actions) < time_limit and successes <= STEPS_AFTER_SUCCESS:
        action = _limited(picker.act(world.layout()))
        actions.append(action)
        observations.append(world.step(action))
        if instruction.target["cube"] not in world.objects_in_play():
            return Attempt(observations, actions, False, "needs_reset")
        successes = successes + 1 if world.true_success(instruction) else 0
    return Attempt(observations, actions, world.true_success(instruction), "time_limit")


def demonstrate(
    world: So101Pick,
    instruction: Instruction,
    rng: np.random.Generator,
    seed: int | None = None,
    time_limit: int = TIME_LIMIT_STEPS,
) -> Episode:
    """One attempt as an episode."""
    done = attempt(world, instruction, rng, time_limit)
    return recorded(world, instruction, done.observations, done.actions, done.success, done.ending, rng, seed)
