"""Two controllers of a point mass: a slow one, to be cloned, and the quickest that there is, to be compared with."""

import math

import numpy as np

from robots.demonstrators import DemonstrationError, recorded
from robots.embodiments import STATE
from robots.episodes import Episode
from robots.tasks import Instruction
from robots.worlds.point_mass.physics import FARTHEST, GOAL_RADIUS, HALF_PLANE, PointMass, coasting_and_thrust

DETOURS = 5
PASSED = 0.15  # metres from a waypoint at which the next one is headed for
CLEAR_OF_GOAL = 0.25  # metres by which the straight ways between waypoints miss the goal
STIFFNESS, BRAKE = (4.0, 12.0), (0.5, 1.5)  # N/m and N s/m of the PD control, drawn for each episode


def demonstrate_detours(
    world: PointMass, instruction: Instruction, rng: np.random.Generator, seed: int | None = None
) -> Episode:
    """PD control through random waypoints to the goal: success is certain, and no clone of it will ever be quick."""
    observations, actions = [world.observation()], []
    stiffness, brake = rng.uniform(*STIFFNESS), rng.uniform(*BRAKE)
    waypoints = [*_detours(observations[0][STATE][:2], world.goal, rng), world.goal]
    while waypoints:
        position, velocity = observations[-1][STATE][:2], observations[-1][STATE][2:4]
        action = np.clip(stiffness * (waypoints[0] - position) - brake * velocity, -1, 1).astype(np.float32)
        actions.append(action)
        observations.append(world.step(action))
        if math.dist(observations[-1][STATE][:2], waypoints[0]) <= (PASSED if len(waypoints) > 1 else GOAL_RADIUS):
            waypoints.pop(0)
    return recorded(world, instruction, observations, actions, True, "true_success", rng, seed)


def _detours(start: np.ndarray, goal: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Waypoints on ways that keep clear of the goal: who comes past it has arrived, and goes nowhere else."""
    points = [start]
    while len(points) <= DETOURS:
        point = rng.uniform(-FARTHEST * HALF_PLANE, FARTHEST * HALF_PLANE, 2)
        way = point - points[-1]
        along = np.clip((goal - points[-1]) @ way / (way @ way), 0, 1)
        if math.dist(points[-1] + along * way, goal) > CLEAR_OF_GOAL:
            points.append(point)
    return points[1:]


def fastest_force(state: np.ndarray) -> np.ndarray:
    """The first force of a quickest way to the goal of a point mass: no controller needs fewer steps.

    Position after T steps is linear in the forces, so what can be reached is a box about where the point would coast
    to; the first T whose box meets the goal's disc is the least possible, and a constant force leads there.
    """
    _, velocity, goal = np.asarray(state, np.float64).reshape(3, 2)  # seen from the point
    for coasting, thrust in zip(*coasting_and_thrust(), strict=True):
        middle = coasting * velocity
        nearest = np.clip(goal, middle - thrust, middle + thrust)
        if math.dist(nearest, goal) <= GOAL_RADIUS:
            # Into the disc rather than onto its rim, as far as the forces allow.
            force: np.ndarray = np.clip((goal - middle) / thrust, -1, 1)
            return force
    raise DemonstrationError("The goal is farther away than the point can come.")
