"""The fence: an action that would push an object over the table's edge is turned aside, or dropped.

Stands between a policy and its body, where a task asks for it (`edge_margin`), as the virtual fence of an arm's
workspace does: in reset-free practice each object that falls off waits for a person. Only the push is refused, not the
place: the effector may go behind an object at the edge, and bring it back.

Objects are discs here and pushing is quasi-static: what is touched gives way, along the line from the centre that
touches it, and so does what it touches in turn; or, caught by a corner or a hollow, it is carried along. What would
bring an object out in either way is refused. So an action's outcome is predicted from tracked places alone, without a
simulator.
"""

import math
from collections.abc import Sequence

Point = tuple[float, float]

PARTS = 4  # in which an action is predicted: 3 cm at once could jump over an object's middle
LEAVING = -0.7  # cosine between the effector's way and the way to an object's centre
# Two objects rarely meet corner to corner: at full distance, what is at the edge could never be touched by another.
MET = 0.95
SLACK = 5e-4  # metres beyond the margin that are no push outward yet: the discs are no exact shapes
# How an action is turned until it pushes nothing out, in this order; at last it stays where it is. Always first to the
# same side: an effector that an object stops goes round it then, and not to and fro.
TURNS = [
    (math.cos(math.radians(angle)), math.sin(math.radians(angle)))
    for angle in (0, 30, -30, 60, -60, 90, -90, 120, -120, 150, -150)
]


def fenced(
    action: Point,
    effector: Point,
    effector_radius: float,
    objects: Sequence[Point],
    radii: Sequence[float],
    half_table: Point,
    margin: float,
    limit: Point,
) -> Point:
    """The action (metres to go, x and y, of which `limit` is the most), turned aside where it would push the centre of
    an object that lies within reach nearer than `margin` to an edge of the table, which is centred at the origin;
    (0, 0) where no turn helps.
    """
    inner = half_table[0] - margin, half_table[1] - margin
    # An object moves no farther than the action, so far from the edge there is nothing to predict.
    close = math.hypot(*action) + SLACK
    if all(abs(x) < inner[0] - close and abs(y) < inner[1] - close for x, y in objects):
        return action
    for cos, sin in TURNS:
        x, y = action[0] * cos - action[1] * sin, action[0] * sin + action[1] * cos
        share = min([1.0] + [most / abs(way) for most, way in zip(limit, (x, y), strict=True) if way])
        tried = (x * share, y * share) if share < 1 else (x, y)
        outcomes = predict_push(tried, effector, effector_radius, objects, radii)
        if not any(_leaves(objects[i], there, inner) for i, places in outcomes.items() for there in places):
            return tried
    return 0.0, 0.0


def _leaves(here: Point, there: Point, inner: Point) -> bool:
    return any(abs(b) > max(limit + SLACK, abs(a)) for a, b, limit in zip(here, there, inner, strict=True))


def predict_push(
    action: Point, effector: Point, effector_radius: float, objects: Sequence[Point], radii: Sequence[float]
) -> dict[int, tuple[Point, Point]]:
    """Where the action may bring objects: by index, of those that it moves, where it ends when it gives way and where
    when it is carried along.

    What lies closer together than two discs could (they are no discs) keeps its distance, and pushes nobody by lying
    there. But an effector that is within a disc, and does not leave it, may carry that object.
    """
    x, y = effector
    way = math.hypot(*action)
    part = action[0] / PARTS, action[1] / PARTS
    reach = {}  # how near the effector comes to each without pushing it
    for i, (place, radius) in enumerate(zip(objects, radii, strict=True)):
        distance, touching = math.dist(place, effector), effector_radius + radius
        if distance < touching + way:
            reach[i] = min(touching, distance)
    moved: dict[int, Point] = {}
    carried: dict[int, int] = {}  # for how many parts of the action
    for _ in range(PARTS):
        pushed = []
        for i in reach:
            here = moved.get(i, objects[i])
            there = _given_way(here, (x + part[0], y + part[1]), reach[i])
            if there is not None:
                moved[i] = there
                pushed.append(i)
            elif _caught(here, (x, y), part, effector_radius + radii[i]):
                pushed.append(i)
        x, y = x + part[0], y + part[1]
        seen = set(pushed)
        while pushed:
            i = pushed.pop()
            carried[i] = carried.get(i, 0) + 1
            if i not in moved:
                continue
            for j, place in enumerate(objects):
                if j in seen:
                    continue
                apart = min(MET * (radii[i] + radii[j]), math.dist(place, objects[i]))
                there = _given_way(moved.get(j, place), moved[i], apart)
                if there is not None:
                    moved[j] = there
                    seen.add(j)
                    pushed.append(j)
    return {
        i: (moved.get(i, objects[i]), (objects[i][0] + parts * part[0], objects[i][1] + parts * part[1]))
        for i, parts in carried.items()
    }


def _caught(here: Point, effector: Point, part: Point, touching: float) -> bool:
    """Whether the effector is within the disc of what lies here, in a hollow of it, and does not leave it."""
    dx, dy = here[0] - effector[0], here[1] - effector[1]
    distance = math.hypot(dx, dy)
    return distance < touching and dx * part[0] + dy * part[1] > LEAVING * distance * math.hypot(*part)


def _given_way(here: Point, pusher: Point, apart: float) -> Point | None:
    dx, dy = here[0] - pusher[0], here[1] - pusher[1]
    distance = math.hypot(dx, dy)
    if distance >= apart - 1e-9:
        return None
    if distance == 0:
        return here
    return pusher[0] + dx / distance * apart, pusher[1] + dy / distance * apart
