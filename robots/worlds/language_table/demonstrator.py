"""A scripted expert with human failings, for all tables.

The pusher walks around its block, gets behind it and pushes it to the goal. Like a person it does so by its own habits,
drawn anew for each episode: speed, an eye that is a little off, a hand that wavers, pauses, wrong turns, moments of
looking elsewhere. It always corrects itself, so it nearly always succeeds, but slowly: cloning its actions copies the
detours, and practice can do better.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robots.demonstrators import STEPS_AFTER_SUCCESS, PersonsHabits, drawn, recorded, wavered
from robots.episodes import Episode
from robots.fence import Point
from robots.tasks import Instruction
from robots.worlds.language_table import PLACES, distance_left
from robots.worlds.language_table.physics import REACH, LanguageTable

TIME_LIMIT_STEPS = 160  # a demonstrator may take longer than a station in practice


@dataclass(frozen=True)
class Habits(PersonsHabits):
    """How one episode is acted. Distances in metres, per control step."""

    speed: float = drawn("uniform", 0.012, 0.024)  # of free movement
    pushing_speed: float = drawn("uniform", 0.009, 0.017)
    standoff: float = drawn("uniform", 0.040, 0.055)  # between the block's centre and where the push begins
    clearance: float = drawn("uniform", 0.050, 0.065)  # from blocks' centres while it walks
    aim_error: float = drawn("normal", 0, 0.22)  # radians, of the line behind the block
    tremble: float = drawn("uniform", 0.003, 0.008)  # standard deviation of the hand's slow wavering
    pause_chance: float = drawn("uniform", 0.0, 0.03)  # of beginning a pause, per step
    lapse_chance: float = drawn("uniform", 0.0, 0.05)  # of beginning a wrong turn, per step


class Pusher:
    """Acts one instruction; one instance an episode."""

    def __init__(self, instruction: Instruction, habits: Habits, rng: np.random.Generator, steps: int):
        """`steps`: how often it will be asked at most."""
        self.target = instruction.target
        self.habits = habits
        # Drawn in one go: single draws would cost more than the physics.
        self.noise = rng.normal(0, 1, (steps, 2)).tolist()
        self.chances = rng.random((steps, 4)).tolist()
        self.step = 0
        self.waver: Sequence[float] = (0.0, 0.0)
        self.pausing = 0
        self.lapsing = 0
        self.lapse = (0.0, 0.0)
        self.pushing = False
        self.searching = 0  # steps since it last pushed
        self.side = 1 if self.chances[0][2] < 0.5 else -1

    def act(self, end_effector: Point, positions: Mapping[str, Point]) -> Point:
        """The next delta of the end effector. `positions` are the blocks' centres."""
        habits, chances = self.habits, self.chances[self.step]
        noise = self.noise[self.step]
        self.step += 1
        self.waver = wavered(self.waver, habits.tremble, noise)
        if self.pausing:
            self.pausing -= 1
            return self.waver[0] * 0.3, self.waver[1] * 0.3
        if chances[0] < habits.pause_chance:
            self.pausing = 1 + int(4 * chances[2])
        if self.lapsing:
            self.lapsing -= 1
        elif chances[1] < habits.lapse_chance:
            self.lapsing = 2 + int(5 * chances[2])
            angle = 2 * math.pi * chances[3]
            self.lapse = (habits.speed * math.cos(angle), habits.speed * math.sin(angle))
        if self.lapsing:
            return self.lapse[0] + self.waver[0], self.lapse[1] + self.waver[1]
        x, y = self._intended(end_effector, positions)
        return x + self.waver[0], y + self.waver[1]

    def _intended(self, end_effector: Point, positions: Mapping[str, Point]) -> Point:
        habits = self.habits
        block = positions[self.target["block"]]
        goal = positions[self.target["to_block"]] if "to_block" in self.target else PLACES[self.target["place"]]
        to_goal = math.atan2(goal[1] - block[1], goal[0] - block[0]) + self._bypass(block, goal, positions)
        offset = (end_effector[0] - block[0], end_effector[1] - block[1])
        radius = math.hypot(*offset)
        behind = to_goal + math.pi + habits.aim_error * min(1.0, math.dist(goal, block) / 0.15)
        off_line = _wrapped(math.atan2(offset[1], offset[0]) - behind)
        # Once it pushes it goes on until the block has slipped well aside.
        self.pushing = radius < habits.standoff + 0.02 and abs(off_line) < (0.75 if self.pushing else 0.3)
        if self.pushing:
            self.searching = 0
            # Towards the block, and sideways to get back on the line behind it.
            side = -off_line * radius * 0.9
            speed = min(habits.pushing_speed, math.dist(goal, block))
            heading = behind + math.pi
            return (
                speed * math.cos(heading) - side * math.sin(behind),
                speed * math.sin(heading) + side * math.cos(behind),
            )
        ahead = (block[0] + habits.standoff * math.cos(behind), block[1] + habits.standoff * math.sin(behind))
        return self._walk(
            end_effector, tuple(min(max(v, -r), r) for v, r in zip(ahead, _REACH, strict=True)), positions
        )

    def _bypass(self, block: Point, goal: Point, positions: Mapping[str, Point]) -> float:
        """Radians by which to push past the first block that lies between, lest it shoves the goal off the table."""
        distance = math.dist(block, goal)
        if distance < 1e-6:
            return 0.0
        x, y = (goal[0] - block[0]) / distance, (goal[1] - block[1]) / distance
        nearest, turn = distance, 0.0
        for name, (other_x, other_y) in positions.items():
            if name == self.target["block"] or name == self.target.get("to_block"):
                continue
            along = (other_x - block[0]) * x + (other_y - block[1]) * y
            across = (other_y - block[1]) * x - (other_x - block[0]) * y
            if 0.01 < along < nearest and abs(across) < 0.045:
                nearest = along
                turn = -math.copysign(math.atan2(0.055 - abs(across), along), across)
        return turn

    def _walk(self, end_effector: Point, ahead: Point, positions: Mapping[str, Point]) -> Point:
        """A free step towards `ahead`, turned away from blocks in the way, always to the same side of them."""
        x, y = end_effector
        distance = math.dist(end_effector, ahead)
        straight = math.atan2(ahead[1] - y, ahead[0] - x)
        look = min(distance, 0.05)
        # The longer it has searched, the closer it dares to pass; in the end it shoves others aside.
        clearance = self.habits.clearance * max(0.0, 1 - self.searching / 60)
        self.searching += 1
        near = []
        for block_x, block_y in positions.values():
            gap = math.hypot(block_x - x, block_y - y)
            if gap < look + clearance:
                # A block it stands beside already, or that it must get close to, may be passed as near as that.
                near.append(
                    (
                        block_x - x,
                        block_y - y,
                        min(clearance, gap - 0.001, 0.9 * math.hypot(block_x - ahead[0], block_y - ahead[1])) ** 2,
                    )
                )
        for turn in _TURNS:
            heading = straight + self.side * turn
            along_x, along_y = math.cos(heading), math.sin(heading)
            if abs(x + look * along_x) > _REACH[0] or abs(y + look * along_y) > _REACH[1]:
                continue
            for block_x, block_y, square in near:
                t = min(max(block_x * along_x + block_y * along_y, 0.0), look)
                if (block_x - t * along_x) ** 2 + (block_y - t * along_y) ** 2 < square:
                    break
            else:
                if turn < 0:
                    self.side = -self.side
                break
        else:
            along_x, along_y = math.cos(straight), math.sin(straight)
        speed = min(self.habits.speed, distance)
        return speed * along_x, speed * along_y


_REACH = tuple(REACH.tolist())
# Headings to try, in radians from the straight way: the chosen side first, far turns to the other side last.
_TURNS = tuple(
    math.radians(turn) for turn in (0, 20, 40, -20, 60, -40, 80, 100, -60, 120, -80, 140, -100, 160, -120, 180)
)


def _wrapped(angle: float) -> float:
    return (angle + math.pi) % (2 * math.pi) - math.pi


def demonstrate(
    world: LanguageTable,
    instruction: Instruction,
    rng: np.random.Generator,
    seed: int | None = None,
    time_limit: int = TIME_LIMIT_STEPS,
) -> Episode:
    """One attempt from where the table stands; it may fail, then the episode ends by time_limit or needs_reset."""
    pusher = Pusher(instruction, Habits.sample(rng), rng, time_limit)
    limit = world.embodiment.action.high[0]
    observations, actions = [world.observation()], []
    succeeded_at, ending = None, "time_limit"
    for step in range(time_limit):
        x, y = pusher.act(*world.layout())
        action = np.array([min(max(x, -limit), limit), min(max(y, -limit), limit)], np.float32)
        actions.append(action)
        observations.append(world.step(action))
        missing = distance_left(instruction.target, world.layout()[1])
        if math.isinf(missing):  # a block that the instruction names has fallen
            ending = "needs_reset"
            break
        if succeeded_at is None and missing <= 0:
            succeeded_at = step
        if succeeded_at is not None and step >= succeeded_at + STEPS_AFTER_SUCCESS:
            break
    success = ending != "needs_reset" and world.true_success(instruction)
    return recorded(world, instruction, observations, actions, success, ending, rng, seed)
