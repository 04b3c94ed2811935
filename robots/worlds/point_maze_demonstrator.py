"""A scripted policy for PointMaze (point_maze.toml): from cell to cell on a shortest way, gently, not quite straight.

It knows the goal and the walls, which the policy that learns from it does not.
"""

from collections import deque
from typing import Any

import numpy as np

PUSH, BRAKE = 1.2, 0.7  # of an action, for each metre that is missing, and for each metre a second
NOISE = 0.25  # of an action: what makes attempts differ


class PointMaze:
    """One attempt."""

    def reset(self) -> None:
        """An attempt begins; it remembers nothing."""

    def act(self, env: Any, observation: dict[str, np.ndarray]) -> np.ndarray:
        """The next action [2], forces."""
        maze, rng = env.unwrapped.maze, env.unwrapped.np_random
        position, velocity = observation["observation"][:2], observation["observation"][2:4]
        goal = observation["desired_goal"]
        start, end = (tuple(int(i) for i in maze.cell_xy_to_rowcol(place)) for place in (position, goal))
        way = _way(np.array(maze.maze_map) == 1, start, end)
        target = goal if len(way) < 2 else maze.cell_rowcol_to_xy(np.array(way[1]))
        force: np.ndarray = PUSH * (target - position) - BRAKE * velocity + rng.normal(0, NOISE, 2)
        return force.clip(-1, 1)


Cell = tuple[int, ...]


def _way(walls: np.ndarray, start: Cell, end: Cell) -> list[Cell]:
    """The cells of a shortest way, the first of them the start."""
    next_of: dict[Cell, Cell] = {end: end}
    queue = deque([end])
    while queue:
        row, column = cell = queue.popleft()
        for before in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            if before not in next_of and not walls[before]:
                next_of[before] = cell
                queue.append(before)
    way = [start]
    while way[-1] != end:
        way.append(next_of[way[-1]])
    return way
