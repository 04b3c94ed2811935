"""Which body a LeRobot dataset is of: as fleetui described it, or made from what the dataset declares and holds.

LeRobot says neither how far an action may go, nor whether it is a position or a change, nor in which units. The ranges
come from the data, with a margin; what the actions are is guessed by comparing them with the state, and that is said.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from robots.embodiments import (
    ACTION,
    ENVIRONMENT_STATE,
    IMAGES,
    LONGEST_NAME,
    MOST_CAMERAS,
    MOST_NUMBERS,
    STATE,
    Embodiment,
    Motion,
    picture,
    vector,
)
from robots.lerobot.contents import Declared, Info
from robots.lerobot.layout import INFO, NOTE, OWN, REFUSE, STANDARD, Code, LeRobotError, Problem, Recorded, shown
from robots.lerobot.videos import even

MARGIN = 0.05  # of the range that was seen, at each end
LEAST_REACH = 1e-3  # around a number that was always the same
# A number is a position where the state comes to it: how far off it is on average, as a share of the state's range.
FOLLOWED, POSITION_CORRELATION = 0.15, 0.8
CHANGE_CORRELATION = 0.5  # it is a change where the state's change goes with it
UNNAMED_BODY = "robot"


@dataclass(frozen=True)
class Plan:
    """What of a dataset becomes what of an episode."""

    action: str  # column
    vectors: dict[str, str]  # column, by the key of the observation
    cameras: dict[str, str]  # feature, by camera of the observation
    sizes: dict[str, tuple[int, int]]  # (width, height) of those cameras as the body sees, by camera
    recorded: dict[str, Recorded] = field(default_factory=dict)  # cameras that people watched by, by feature


def own_plan(info: Info) -> tuple[Plan, Embodiment]:
    """Of a dataset that fleetui wrote."""
    own = info.own or {}
    try:
        body = Embodiment.from_json(own["body"])
        recorded = {str(key): Recorded(**each) for key, each in own["recorded"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LeRobotError(
            Code.FIELD_WRONG,
            f"What it tells of the body is broken ({shown(str(error), 200)}). Copy the file again, or take this field "
            "out: then the body is made from what is declared.",
            file=INFO,
            field=OWN,
        ) from None
    pictures = {key: each for key, each in body.observation.items() if each.is_picture}
    wanted = {key: each.shape for key, each in body.observation.items() if key not in pictures} | {
        ACTION: body.action.shape
    }
    sizes = {key: (each.shape[1], each.shape[0]) for key, each in pictures.items()}
    for key, each in recorded.items():
        if not (isinstance(each.camera, str) and all(type(side) is int for side in (each.width, each.height))):
            raise LeRobotError(
                Code.FIELD_WRONG,
                "What it tells of a recorded camera is broken. Copy the file again.",
                file=INFO,
                field=OWN,
            )
        sizes[key] = each.width, each.height
    for key, shape in wanted.items():
        if key not in info.features or not info.features[key].is_numbers or info.features[key].shape != shape:
            raise _changed(key)
    for key, (width, height) in sizes.items():
        if key not in info.features or info.features[key].size != (even(width), even(height)):
            raise _changed(key)
    cameras = {key.removeprefix(IMAGES): key for key in pictures}
    plan = Plan(
        action=ACTION,
        vectors={key: key for key in wanted if key != ACTION},
        cameras=cameras,
        sizes={camera: sizes[key] for camera, key in cameras.items()},
        recorded=recorded,
    )
    return plan, body


def _changed(key: str) -> LeRobotError:
    return LeRobotError(
        Code.FEATURE_CHANGED,
        f"It is not declared as the body has it that {OWN} tells of. Where another program changed the dataset, take "
        f"the field {OWN} out of {INFO}: then the body is made from what is declared.",
        file=INFO,
        field=shown(key),
    )


def foreign_plan(info: Info, problems: list[Problem], picture_width: int | None) -> Plan:
    """Of anybody's dataset."""
    vectors = {}
    for key, names in ((STATE, (STATE, "state")), (ENVIRONMENT_STATE, (ENVIRONMENT_STATE,))):
        if found := _vector(info, names, problems):
            vectors[key] = found
    action = _vector(info, (ACTION, "actions"), problems)
    if action is None:
        raise LeRobotError(
            Code.FEATURE_MISSING,
            f"It declares no {ACTION}, a vector of numbers: there is nothing to imitate.",
            file=INFO,
            field="features",
        )
    cameras: dict[str, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for key, each in info.features.items():
        if not each.is_camera:
            continue
        if each.size is None:
            text = "Its pictures are no colour pictures (depth is not read yet): it is left out."
            problems.append(Problem(Code.DEPTH_SKIPPED, NOTE, text, INFO, field=shown(key)))
        elif len(cameras) == MOST_CAMERAS:
            text = f"There are more than {MOST_CAMERAS} cameras: this one is left out."
            problems.append(Problem(Code.FEATURE_UNUSED, NOTE, text, INFO, field=shown(key)))
        else:
            name = key.removeprefix(IMAGES) if key.startswith(IMAGES) else key.removeprefix("observation.")
            camera = _unlike(name[:LONGEST_NAME] or "camera", cameras)
            cameras[camera], sizes[camera] = key, _narrowed(each.size, picture_width)
    if not vectors and not cameras:
        raise LeRobotError(
            Code.FEATURE_MISSING,
            f"It declares neither {STATE} nor a camera: there is nothing to act by.",
            file=INFO,
            field="features",
        )
    used = {action, *vectors.values(), *cameras.values(), *STANDARD, "next.success"}
    unused = [key for key, each in info.features.items() if key not in used and not each.is_camera]
    if unused:
        text = f"These features have no place in an episode and are left out: {shown(', '.join(unused), 300)}."
        problems.append(Problem(Code.FEATURE_UNUSED, NOTE, text, INFO, field="features"))
    return Plan(action, vectors, cameras, sizes)


def _vector(info: Info, names: Sequence[str], problems: list[Problem]) -> str | None:
    """The first of these features that is declared, unless it can't be held."""
    for key in names:
        declared = info.features.get(key)
        if declared is None:
            continue
        if not declared.is_numbers or declared.shape[0] > MOST_NUMBERS:
            raise LeRobotError(
                Code.FEATURE_WRONG,
                f"It is {shown(declared.dtype)} {list(declared.shape)}; a vector of at most {MOST_NUMBERS} numbers is "
                "read.",
                file=INFO,
                field=key,
            )
        if declared.dtype != "float32":
            text = f"It is {declared.dtype}, and becomes float32."
            problems.append(Problem(Code.DTYPE_WRONG, NOTE, text, INFO, field=key))
        return key
    return None


def _narrowed(size: tuple[int, int], most: int | None) -> tuple[int, int]:
    width, height = size
    if most is None or width <= most:
        return size
    return most, max(1, round(height * most / width))


def _unlike(name: str, taken: Iterable[str]) -> str:
    """The name, or with a number behind it one that is not taken."""
    found, number = name, 2
    while found in taken:
        found = f"{name[: LONGEST_NAME - 8]}_{number}"
        number += 1
    return found


def _names(declared: Declared, what: str) -> tuple[str, ...]:
    """Of each number: as declared, where that can be used."""
    size = declared.shape[0]
    names = declared.names if len(declared.names) == size else [f"{what}_{i}" for i in range(size)]
    found: list[str] = []
    for i, name in enumerate(names):
        clean = "".join(each for each in name if each.isprintable())[:LONGEST_NAME].strip()
        found.append(_unlike(clean or f"{what}_{i}", found))
    return tuple(found)


def foreign_body(
    info: Info,
    plan: Plan,
    action_range: tuple[np.ndarray, np.ndarray],
    samples: Sequence[Mapping[str, np.ndarray]],
    problems: list[Problem],
) -> Embodiment:
    """The body of anybody's dataset. `action_range`: the lowest and highest of each number that was seen, [A] each;
    `samples`: state [n, D] and action [n, A] of some episodes, by their columns.
    """
    low, high = action_range
    margin = np.maximum(MARGIN * (high - low), np.where(high > low, 0, np.maximum(LEAST_REACH, MARGIN * np.abs(low))))
    action = vector(_names(info.features[plan.action], "action"), (low - margin).tolist(), (high + margin).tolist())
    observation = {key: vector(_names(info.features[column], "state"), ()) for key, column in plan.vectors.items()}
    observation |= {IMAGES + camera: picture(*size) for camera, size in plan.sizes.items()}
    name = "".join(each for each in info.robot_type if each.isprintable()).strip()[:LONGEST_NAME].strip()
    body = Embodiment(name or UNNAMED_BODY, info.fps, observation, action)
    try:
        body.check()
    except ValueError as error:
        raise LeRobotError(Code.FEATURE_WRONG, f"No body can be made of it: {error}", file=INFO) from None
    with np.errstate(invalid="ignore"):  # what is infinite is refused with its episode
        motions, said = _guessed(body, plan, samples)
    problems.append(Problem(Code.GUESSED, NOTE, said, INFO, field=plan.action))
    guessed = replace(body, motions=motions)
    try:
        guessed.check()
    except ValueError:  # such as one that moves by nothing
        return body
    return guessed


def _guessed(
    body: Embodiment, plan: Plan, samples: Sequence[Mapping[str, np.ndarray]]
) -> tuple[tuple[Motion, ...], str]:
    """What each number of an action does, and in words how that is known; nothing where it is not known of all."""
    ask = "Say what they are in the body's description before somebody drives by it."
    if STATE not in plan.vectors:
        return (), f"There is no {STATE} to compare the actions with: what they are is not known. {ask}"
    found: list[Motion | None] = []
    for number, name in enumerate(body.action_names):
        if name in body.state_names:
            sensed = body.state_names.index(name)
        elif len(body.state_names) == body.action_size:
            sensed = number
        else:
            found.append(None)
            continue
        pairs = [
            (each[plan.vectors[STATE]][:, sensed].astype(float), each[plan.action][:, number].astype(float))
            for each in samples
        ]
        found.append(_motion(body, number, sensed, [pair for pair in pairs if len(pair[0]) > 1]))
    unknown = [name for name, motion in zip(body.action_names, found, strict=True) if motion is None]
    if unknown:
        return (), (
            f"What the actions are is not known: {shown(', '.join(unknown), 200)} neither goes to where the state is "
            f"next nor is its change. {ask}"
        )
    motions = tuple(motion for motion in found if motion is not None)
    said = " and ".join(
        f"{kind}s ({shown(', '.join(names), 200)})"
        for kind in ("position", "delta")
        if (names := [name for name, each in zip(body.action_names, motions, strict=True) if each.kind == kind])
    )
    return (
        motions,
        f"The actions look like {said}, by comparison with the state of the next row. Look whether that is right.",
    )


def _motion(
    body: Embodiment, number: int, sensed: int, pairs: Sequence[tuple[np.ndarray, np.ndarray]]
) -> Motion | None:
    """Of one number of the action, from (state [n], action [n]) of some episodes."""
    if not pairs:
        return None
    now, told, after = (
        np.concatenate(parts) for parts in zip(*((s[:-1], a[:-1], s[1:]) for s, a in pairs), strict=True)
    )
    change, reach = after - now, max(float(np.ptp(np.concatenate([now, after]))), LEAST_REACH)
    most = float(np.abs(told).max())
    moves = told.std() > 0 and after.std() > 0
    follows = not moves or np.corrcoef(told, after)[0, 1] >= POSITION_CORRELATION
    if follows and np.abs(told - after).mean() <= FOLLOWED * reach:
        largest = (1 + MARGIN) * max(float(np.abs(told - now).max()), float(np.abs(change).max()), LEAST_REACH)
        return Motion("position", largest_change=largest, sensed_by=body.state_names[sensed])
    if told.std() > 0 and change.std() > 0 and np.corrcoef(told, change)[0, 1] >= CHANGE_CORRELATION:
        low, high = body.action.low[number], body.action.high[number]
        return Motion("delta", largest_change=max(most, abs(low), abs(high)))
    return None


def without(body: Embodiment, cameras: Iterable[str]) -> Embodiment:
    """The body as it is without some of its cameras."""
    left = {key: each for key, each in body.observation.items() if key.removeprefix(IMAGES) not in set(cameras)}
    overhead = body.overhead if body.overhead and IMAGES + body.overhead.camera in left else None
    return replace(body, observation=left, overhead=overhead)


def problem_of(error: LeRobotError, level: str = REFUSE, **place: Any) -> Problem:
    """What an error says, for a list of problems."""
    return replace(error.at(**place).problem, level=level)
