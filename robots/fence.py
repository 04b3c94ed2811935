"""The fence: an action that would push an object over the table's edge is shortened, turned or dropped.

Stands between a policy and its body, where a task asks for it (`edge_margin`), as the virtual fence of an arm's
workspace does: in reset-free practice each object that falls off waits for a person. Only the push is refused, not the
place: the effector may go behind an object at the edge, and bring it back.

Objects are discs here and pushing is quasi-static: what is touched gives way, along the line from the centre that
touches it, and so does what it touches in turn. So an action's outcome is foreseen from tracked places alone, without a
simulator.
"""

import math
from collections.abc import Sequence

Point = tuple[float, float]

PARTS = 4  # in which an action is foreseen: 3 cm at once could jump over an object's middle
SLACK = 5e-4  # metres beyond the margin that are no push outward yet: the discs are no exact shapes
# What is left of an action, tried in this order, best first; at last it stays where it is.
LEFT = ((1, 1), (1, 0), (0, 1), (0.4, 0.4), (0.4, 0), (0, 0.4))


def fenced(
    action: Point,
    effector: Point,
    effector_radius: float,
    objects: Sequence[Point],
    radii: Sequence[float],
    half_table: Point,
    margin: float,
) -> Point:
    """The action (metres to go, x and y), or what is left of it where it would push the centre of an object that lies
    within reach nearer than `margin` to an edge of the table, which is centred at the origin.
    """
    inner = half_table[0] - margin, half_table[1] - margin
    # An object moves no farther than the action, so far from the edge there is nothing to foresee.
    close = math.hypot(*action) + SLACK
    if all(abs(x) < inner[0] - close and abs(y) < inner[1] - close for x, y in objects):
        return action
    for share_x, share_y in LEFT:
        tried = action[0] * share_x, action[1] * share_y
        moved = foresee(tried, effector, effector_radius, objects, radii)
        if not any(_leaves(objects[i], there, inner) for i, there in moved.items()):
            return tried
    return 0.0, 0.0


def _leaves(here: Point, there: Point, inner: Point) -> bool:
    return any(abs(b) > max(limit + SLACK, abs(a)) for a, b, limit in zip(here, there, inner, strict=True))


def foresee(
    action: Point, effector: Point, effector_radius: float, objects: Sequence[Point], radii: Sequence[float]
) -> dict[int, Point]:
    """Where the action pushes objects: by index, of those that it moves.

    What lies closer together than two discs could (they are no discs) keeps its distance, and pushes nobody by lying
    there.
    """
    x, y = effector
    way = math.hypot(*action)
    reach = {}  # how near the effector comes to each without pushing it
    for i, (place, radius) in enumerate(zip(objects, radii, strict=True)):
        distance, touching = math.dist(place, effector), effector_radius + radius
        if distance < touching + way:
            reach[i] = min(touching, distance)
    moved: dict[int, Point] = {}
    for _ in range(PARTS):
        x, y = x + action[0] / PARTS, y + action[1] / PARTS
        pushed = []
        for i in reach:
            there = _given_way(moved.get(i, objects[i]), (x, y), reach[i])
            if there is not None:
                moved[i] = there
                pushed.append(i)
        seen = set(pushed)
        while pushed:
            i = pushed.pop()
            for j, place in enumerate(objects):
                if j in seen:
                    continue
                apart = min(radii[i] + radii[j], math.dist(place, objects[i]))
                there = _given_way(moved.get(j, place), moved[i], apart)
                if there is not None:
                    moved[j] = there
                    seen.add(j)
                    pushed.append(j)
    return moved


def _given_way(here: Point, pusher: Point, apart: float) -> Point | None:
    dx, dy = here[0] - pusher[0], here[1] - pusher[1]
    distance = math.hypot(dx, dy)
    if distance >= apart - 1e-9:
        return None
    if distance == 0:
        return here
    return pusher[0] + dx / distance * apart, pusher[1] + dy / distance * apart
