"""Whether a folder is a dataset that can be used: every problem that is found, with its mend, and no exception."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from robots.embodiments import ACTION
from robots.episodes import LARGEST_NUMBER
from robots.lerobot.bodies import problem_of
from robots.lerobot.contents import data_file, parquet, read_range, video_file
from robots.lerobot.layout import (
    ASK,
    INFO,
    MOST_OF_A_KIND,
    NOTE,
    REFUSE,
    STANDARD,
    STATISTICS,
    Code,
    LeRobotError,
    Problem,
    place_of,
    shown,
)
from robots.lerobot.reading import Dataset, open_dataset
from robots.lerobot.videos import TOLERANCE_S, VideoError, VideoFacts, look_at

STATISTICS_TOLERANCE = 1e-3  # of the range, by which rows may lie outside what the statistics tell


def check(folder: Path) -> list[Problem]:
    """What is wrong with a dataset, the worst first. `refuse` is what can't be used: the whole, or the episode that is
    named; `ask` can be used without what is named; `note` is good to know. All rows are read, and of each video its
    times and the first picture of each episode.
    """
    try:
        dataset = open_dataset(folder)
    except LeRobotError as error:
        return [error.problem]
    try:
        found = [*dataset.problems, *_bounded(_problems(dataset))]
    finally:
        dataset.close()
    return sorted(found, key=lambda problem: (REFUSE, ASK, NOTE).index(problem.level))


def _bounded(problems: Iterator[Problem]) -> Iterator[Problem]:
    """Of each kind the first ones, and how many more there are."""
    counts: Counter[tuple[Code, str]] = Counter()
    for problem in problems:
        kind = problem.code, problem.level
        counts[kind] += 1
        if counts[kind] <= MOST_OF_A_KIND:
            yield problem
    for (code, level), count in counts.items():
        if count > MOST_OF_A_KIND:
            yield Problem(code, level, f"{count - MOST_OF_A_KIND} more of this kind ({code}) are not listed.")


def _problems(dataset: Dataset) -> Iterator[Problem]:
    yield from _left_over(dataset)
    yield from _columns(dataset)
    yield from _rows(dataset)
    yield from _pictures(dataset)


def _left_over(dataset: Dataset) -> Iterator[Problem]:
    """Files that no episode is in."""
    count = len(dataset.lengths)
    known = {data_file(dataset.info, dataset.index, number) for number in range(count)}
    for key in dataset.index.videos:
        known |= {video_file(dataset.info, dataset.index, number, key) for number in range(count)}
    for top, suffix in (("data", ".parquet"), ("videos", ".mp4")):
        for path in sorted((dataset.folder / top).rglob("*")):
            name = path.relative_to(dataset.folder).as_posix()
            if path.suffix == ".tmp" or (path.suffix == suffix and name not in known):
                text = "No episode lies in it: whoever wrote it may have been broken off. It can be deleted."
                yield Problem(Code.LEFT_OVER, NOTE, text, shown(name, 200))


def _columns(dataset: Dataset) -> Iterator[Problem]:
    """What the data files hold, beside what is declared."""
    info, index = dataset.info, dataset.index
    declared = {key: each for key, each in info.features.items() if each.dtype != "video"}
    needed = {dataset.plan.action, *dataset.plan.vectors.values(), "episode_index"}
    ends: dict[str, int] = {}
    for number in range(len(index.lengths)):
        name = data_file(info, index, number)
        ends[name] = max(ends.get(name, 0), int(index.offset[number] + index.lengths[number]))
    said: set[tuple[Code, str]] = set()
    for name, rows in ends.items():
        try:
            with parquet(dataset.folder, name) as file:
                held, found = file.schema_arrow, file.metadata.num_rows
        except LeRobotError as error:
            yield error.problem
            continue
        if found > rows:
            text = f"It holds {found} rows, and its episodes have {rows}: the others are left out."
            yield Problem(Code.ROWS_DISAGREE, ASK, text, name)
        for key in held.names:
            if key not in declared and (Code.UNDECLARED, key) not in said:
                said.add((Code.UNDECLARED, key))
                text = (
                    f"{INFO} doesn't declare this column: LeRobot doesn't open such a dataset, and here it is left out."
                )
                yield Problem(Code.UNDECLARED, ASK, text, name, field=shown(key))
        for key, each in declared.items():
            if key not in held.names and key not in needed and (Code.FEATURE_MISSING, key) not in said:
                said.add((Code.FEATURE_MISSING, key))
                text = f"{INFO} declares this column, and it is missing: LeRobot reads nothing there."
                yield Problem(Code.FEATURE_MISSING, ASK if key in STANDARD else NOTE, text, name, field=shown(key))
            elif key in held.names and each.is_numbers and (Code.DTYPE_WRONG, key) not in said:
                kind = held.field(key).type
                while hasattr(kind, "value_type"):
                    kind = kind.value_type
                if str(kind) != _ARROW.get(each.dtype, each.dtype):
                    said.add((Code.DTYPE_WRONG, key))
                    text = f"It holds {shown(str(kind))}, and {each.dtype} is declared; what can be converted is."
                    yield Problem(Code.DTYPE_WRONG, NOTE, text, name, field=shown(key))


_ARROW = {"float32": "float", "float64": "double", "float16": "halffloat"}  # where Arrow says it otherwise


def _rows(dataset: Dataset) -> Iterator[Problem]:
    """The numbers of each episode."""
    plan, info = dataset.plan, dataset.info
    vectors = [plan.action, *plan.vectors.values()]
    told = read_range(dataset.folder, info, plan.action)
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    for number in range(len(dataset.lengths)):
        name = data_file(info, dataset.index, number)
        try:
            rows = dataset.rows(number, vectors)
        except LeRobotError as error:
            if error.problem.code not in (Code.FILE_MISSING, Code.FILE_BROKEN):  # which was said of the file
                yield problem_of(error, file=name, episode=number)
            continue
        whole = True
        for key in vectors:
            with np.errstate(invalid="ignore"):
                bad = ~(np.abs(rows[key].astype(float)) <= LARGEST_NUMBER).all(axis=1)
            if bad.any():
                whole = False
                row = int(bad.argmax())
                text = f"A number of row {row} is NaN, infinite or above 1e9. Leave the episode out, or mend it."
                yield Problem(Code.NOT_FINITE, REFUSE, text, name, number, key)
        if whole:
            seen.append((rows[plan.action].min(axis=0), rows[plan.action].max(axis=0)))
        yield from _standard(dataset, number, name)
        if dataset.lengths[number] < 1:
            text = "It has one row, and so no action of which is known what came of it. It is left out."
            yield Problem(Code.NO_ROWS, ASK, text, name, number)
        elif whole:
            yield from _assembled(dataset, number)
    if told is not None and seen:
        low, high = np.min([each[0] for each in seen], axis=0), np.max([each[1] for each in seen], axis=0)
        slack = STATISTICS_TOLERANCE * (told[1] - told[0]) + 1e-6
        if ((low < told[0] - slack) | (high > told[1] + slack)).any():
            text = (
                "Actions lie outside of what the statistics tell: policies would normalise wrongly. Delete the file, "
                "or compute it anew with LeRobot."
            )
            yield Problem(Code.STATISTICS_WRONG, ASK, text, STATISTICS, field=ACTION)


def _standard(dataset: Dataset, number: int, name: str) -> Iterator[Problem]:
    """The columns that count rows and time."""
    count, first = int(dataset.index.lengths[number]), int(dataset.index.first[number])
    steps = np.arange(count)
    seconds = steps / dataset.fps
    wanted = {"frame_index": steps, "index": first + steps, "timestamp": seconds}
    # A float32 of many seconds has few digits after the point.
    slack = {"timestamp": np.maximum(TOLERANCE_S, seconds * 1e-6)}
    for key in (*wanted, "task_index"):
        if key not in dataset.columns:
            continue
        try:
            values = dataset.rows(number, [key])[key].reshape(-1)
        except LeRobotError as error:
            if error.problem.code != Code.FEATURE_MISSING:  # which was said of the file
                yield problem_of(error, ASK, file=name, episode=number)
            continue
        if key == "task_index":
            if unknown := set(values.tolist()) - set(dataset.tasks):
                text = f"The task {shown(min(unknown, key=str))} is not listed; the episode's own sentence is taken."
                yield Problem(Code.ROWS_DISAGREE, ASK, text, name, number, key)
            continue
        with np.errstate(invalid="ignore"):
            off = ~(np.abs(values - wanted[key]) <= slack.get(key, 0))
        if off.any():
            row = int(off.argmax())
            code, what = (
                (Code.TIME_WRONG, f"one row each 1/{dataset.fps:g} s")
                if key == "timestamp"
                else (Code.ROWS_DISAGREE, "1 more a row")
            )
            text = (
                f"Row {row} says {values[row]:g} where {wanted[key][row]:g} was expected ({what}); here the row's "
                "number counts."
            )
            yield Problem(code, ASK, text, name, number, key)


def _assembled(dataset: Dataset, number: int) -> Iterator[Problem]:
    """Whether an episode can be made of it, its pictures apart: black ones stand for them, which take no memory."""
    steps = int(dataset.lengths[number])
    images = {
        camera: np.broadcast_to(np.uint8(0), (steps + 1, height, width, 3))
        for camera, (width, height) in dataset.plan.sizes.items()
    }
    try:
        dataset.assembled(number, images, {})
    except LeRobotError as error:
        yield error.problem


def _pictures(dataset: Dataset) -> Iterator[Problem]:
    """Of each camera: whether its files are there, and hold the pictures of their episodes at their times."""
    recorded = dataset.plan.recorded
    for key in (*dataset.plan.cameras.values(), *recorded):
        facts: dict[str, VideoFacts | None] = {}  # None: said already that it can't be used
        for number in range(len(dataset.lengths)):
            if dataset.info.features[key].dtype == "video":
                name = video_file(dataset.info, dataset.index, number, key)
                if name not in facts:
                    facts[name] = None
                    try:
                        facts[name] = _looked_at(dataset, name, key)
                    except LeRobotError as error:
                        yield problem_of(error, ASK, file=name, field=key)
                known = facts[name]
                if known is None:
                    continue
                if (problem := _times_problem(dataset, number, key, known)) is not None:
                    yield replace(problem, file=name)
                    if problem.level != NOTE:
                        continue
            if key in recorded and recorded[key].camera in dataset.missing(number):
                continue
            try:
                next(dataset.pictures(number, key))
                if dataset.ours:
                    dataset.picture_of_end(number, key)
            except LeRobotError as error:
                if error.problem.code not in (Code.FILE_MISSING, Code.FILE_BROKEN):
                    yield problem_of(error, ASK)


def _looked_at(dataset: Dataset, name: str, key: str) -> VideoFacts:
    path = place_of(dataset.folder, name)
    if not path.is_file():
        raise LeRobotError(Code.VIDEO_MISSING, "The video is missing. Copy it, or go on without this camera.")
    try:
        facts = look_at(path)
    except VideoError as error:
        text = f"The video can't be used: {error}. Copy or convert it again, or go on without this camera."
        raise LeRobotError(Code.VIDEO_BROKEN, text) from None
    size = dataset.info.features[key].size
    if (facts.width, facts.height) != size:
        text = f"Its pictures are {facts.width}x{facts.height}, and {INFO} declares {size}. Go on without this camera."
        raise LeRobotError(Code.VIDEO_BROKEN, text)
    return facts


def _times_problem(dataset: Dataset, number: int, key: str, facts: VideoFacts) -> Problem | None:
    """Whether there is a picture at the time of each row."""
    wanted = float(dataset.index.videos[key][2][number]) + np.arange(int(dataset.index.lengths[number])) / dataset.fps
    if not len(facts.times):
        return Problem(Code.VIDEO_BROKEN, ASK, "It holds no picture.", episode=number, field=key)
    after = np.clip(np.searchsorted(facts.times, wanted), 1, max(1, len(facts.times) - 1))
    near = np.minimum(
        np.abs(facts.times[np.minimum(after, len(facts.times) - 1)] - wanted), np.abs(facts.times[after - 1] - wanted)
    )
    worst = float(near.max())
    if worst > 0.5 / dataset.fps:
        text = (
            f"It has no picture at {wanted[int(near.argmax())]:g} s, where one belongs to a row. Copy or convert it "
            "again, or go on without this camera."
        )
        return Problem(Code.VIDEO_BROKEN, ASK, text, episode=number, field=key)
    if worst > TOLERANCE_S:
        text = f"A picture is {worst:.4f} s off its row; LeRobot takes {TOLERANCE_S:g} s unless told (tolerance_s)."
        return Problem(Code.VIDEO_TIMES, NOTE, text, episode=number, field=key)
    return None
