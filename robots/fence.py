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
SLACK = 5e-4  # metres by which an object may go nearer to the edge in one step: the discs are no exact shapes
# What is left of an action, tried in this order, best first; at last it stays where it is.
LEFT = ((1, 1), (1, 0), (0, 1), (0.4, 0.4), (0.4, 0), (0, 0.4))


def fenced(
    action: Point,
    effector: Point,
    objects: Sequence[Point],
    half_table: Point,
    margin: float,
    effector_radius: float,
    object_radius: float,
) -> Point:
    """The action (metres to go, x and y), or what is left of it where it would push an object that lies within reach
    nearer than `margin` to an edge of the table, which is centred at the origin.
    """
    inner = half_table[0] - margin, half_table[1] - margin
    # An object moves no farther than the action, so far from the edge there is nothing to foresee.
    close = math.hypot(*action) + SLACK
    if all(abs(x) < inner[0] - close and abs(y) < inner[1] - close for x, y in objects):
        return action
    for share_x, share_y in LEFT:
        tried = action[0] * share_x, action[1] * share_y
        moved = foresee(tried, effector, objects, effector_radius, object_radius)
        if not any(_leaves(objects[i], there, inner) for i, there in moved.items()):
            return tried
    return 0.0, 0.0


def _leaves(here: Point, there: Point, inner: Point) -> bool:
    return any(abs(b) > max(limit, abs(a)) + SLACK for a, b, limit in zip(here, there, inner, strict=True))


def foresee(
    action: Point, effector: Point, objects: Sequence[Point], effector_radius: float, object_radius: float
) -> dict[int, Point]:
    """Where the action pushes objects: by index, of those that it moves.

    What lies closer together than two discs could (they are no discs) keeps its distance, and pushes nobody by lying
    there.
    """
    x, y = effector
    near = effector_radius + 3 * object_radius + math.hypot(*action)
    around = {i: (ox, oy) for i, (ox, oy) in enumerate(objects) if math.hypot(ox - x, oy - y) < near}
    reach = {i: min(effector_radius + object_radius, math.hypot(ox - x, oy - y)) for i, (ox, oy) in around.items()}
    moved: dict[int, Point] = {}
    for _ in range(PARTS):
        x, y = x + action[0] / PARTS, y + action[1] / PARTS
        pushed = []
        for i in around:
            there = _given_way(moved.get(i, objects[i]), (x, y), reach[i])
            if there is not None:
                moved[i] = there
                pushed.append(i)
        seen = set(pushed)
        while pushed:
            i = pushed.pop()
            for j, (ox, oy) in enumerate(objects):
                if j in seen:
                    continue
                apart = min(2 * object_radius, math.dist((ox, oy), objects[i]))
                there = _given_way(moved.get(j, (ox, oy)), moved[i], apart)
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
