"""What is shown where there is no OpenGL: the table from straight above, the arm as two bars."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from robots.worlds.rendering import circle, draw_top_view
from robots.worlds.so101_pick import BASE, BIN_HALF, BINS, CUBE, TABLE_SIZE
from robots.worlds.so101_pick.model import (
    BIN_COLOUR,
    COLOURS,
    JAW_COLOUR,
    LINK_COLOUR,
    MOTOR_COLOUR,
    TABLE_COLOUR,
    WALL,
    WALL_COLOUR,
)

if TYPE_CHECKING:
    from robots.worlds.so101_pick.physics import Layout

WRIST_HALF = (0.08, 0.06)  # metres that the wrist's view shows to each side of the hand


def _rgb(colour: tuple[float, float, float]) -> tuple[int, ...]:
    return tuple(round(255 * c) for c in colour)


def _box(x: float, y: float, half_x: float, half_y: float, yaw: float = 0.0) -> np.ndarray:
    """A turned rectangle's corners [4, 2]."""
    corners = np.array([(-half_x, -half_y), (half_x, -half_y), (half_x, half_y), (-half_x, half_y)])
    turn = np.array([(math.cos(yaw), math.sin(yaw)), (-math.sin(yaw), math.cos(yaw))])
    box: np.ndarray = corners @ turn + (x, y)
    return box


def drawn(layout: "Layout", colours: Mapping[str, str], camera: str, width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3]; the wrist's view shows the table around the hand, without the arm."""
    half_x, half_y = TABLE_SIZE[0] / 2, TABLE_SIZE[1] / 2
    polygons = [(_box(0, 0, half_x, half_y), _rgb(TABLE_COLOUR))]
    for x, y in BINS.values():
        polygons.append((_box(x, y, BIN_HALF + 2 * WALL, BIN_HALF + 2 * WALL), _rgb(WALL_COLOUR)))
        polygons.append((_box(x, y, BIN_HALF, BIN_HALF), _rgb(BIN_COLOUR)))
    for name, cube in sorted(layout.cubes.items(), key=lambda item: item[1].z):
        polygons.append((_box(cube.x, cube.y, CUBE / 2, CUBE / 2, cube.yaw), _rgb(COLOURS[colours[name]])))
    x, y, _, yaw = layout.hand
    bounds = (x - WRIST_HALF[0], y - WRIST_HALF[1], x + WRIST_HALF[0], y + WRIST_HALF[1])
    if camera != "wrist":
        bounds = (-half_x - 0.01, -half_y - 0.01, half_x + 0.01, half_y + 0.01)
        along = math.atan2(y - BASE[1], x - BASE[0])
        middle, length = ((x + BASE[0]) / 2, (y + BASE[1]) / 2), math.dist((x, y), BASE) / 2
        polygons.append((_box(*BASE, 0.045, 0.045), _rgb(MOTOR_COLOUR)))
        polygons.append((_box(*middle, length, 0.007, along), _rgb(LINK_COLOUR)))
        polygons.append((circle(x, y, 0.009), _rgb(MOTOR_COLOUR)))
    cos, sin = math.cos(yaw), math.sin(yaw)
    for away in (-0.0165, -0.0085 + 0.065 * layout.opening / 100):
        polygons.append((_box(x + away * cos, y + away * sin, 0.004, 0.009, yaw), _rgb(JAW_COLOUR)))
    return draw_top_view(polygons, bounds, width, height)
