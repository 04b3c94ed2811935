"""A LeRobot dataset -> episodes: those that fleetui wrote as they were, anybody else's as demonstrations of a body made
from what the dataset declares.

    dataset = open_dataset(folder)
    dataset.body, dataset.lengths, dataset.tasks, dataset.problems
    for episode in dataset.episodes(): ...          one at a time, its video decoded
    dataset.rows(3, ["action"])                     without any video
    for picture in dataset.frames(3, "wrist"): ...  one at a time
"""

import hashlib
import uuid as uuids
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from robots import strict_json
from robots.embodiments import IMAGES, Embodiment
from robots.episodes import ACTORS, LONGEST_EPISODE, LONGEST_TEXT, Episode, EpisodeError
from robots.lerobot.bodies import Plan, foreign_body, foreign_plan, own_plan, without
from robots.lerobot.contents import (
    Index,
    Info,
    data_file,
    read_index,
    read_info,
    read_range,
    read_tasks,
    reading,
    video_file,
)
from robots.lerobot.layout import (
    ASK,
    LABELS,
    LARGEST_READ,
    MISSING,
    NOTE,
    OWN,
    OWN_EPISODE,
    TASKS,
    Code,
    LeRobotError,
    Problem,
    place_of,
    shown,
)
from robots.lerobot.pictures import PictureError, from_file, resized, to_file
from robots.lerobot.rows import StoredRows
from robots.lerobot.videos import VideoError, even, pictures
from robots.wordings import BY_HAND

SAMPLED_EPISODES = 20  # by which it is guessed what the actions are
JPEG_QUALITY = 90  # of recorded pictures, which were JPEGs before they became video
IDS = uuids.UUID("6f6a1f5e-3c1b-4a9e-9a3e-0d6c5f0f7b52")  # the ids of anybody's episodes are made from their rows


def open_dataset(folder: Path, *, picture_width: int | None = None) -> "Dataset":
    """LeRobotError where it can't be read. `picture_width`: pictures of anybody's dataset are made so small, in pixels;
    what fleetui wrote comes back in its own size.
    """
    return Dataset(Path(folder), picture_width)


class Dataset:
    """One dataset. Nothing of it is in memory but the list of its episodes."""

    def __init__(self, folder: Path, picture_width: int | None = None):
        self.folder = folder
        self.problems: list[Problem] = []  # that don't keep it from being read
        self.info: Info = read_info(folder)
        self.index: Index = read_index(folder, self.info, self.problems)
        self._stored = StoredRows(folder, self.info, self.index)
        self.tasks = self._tasks()
        self.plan, self._own_body = self._planned(picture_width)
        self.body: Embodiment = self._own_body or self._foreign_body()
        self._note_several_tasks()

    # What it is

    @property
    def ours(self) -> bool:
        """Whether fleetui wrote it and nobody changed that: then nothing of an episode is lost."""
        return self.index.own is not None

    @property
    def version(self) -> str:
        """Of the format."""
        return "v{}.{}".format(*self.info.version)

    @property
    def fps(self) -> float:
        """Rows a second."""
        return self.info.fps

    @property
    def lengths(self) -> np.ndarray:
        """int64 [E]: how often somebody acted in each episode. Of anybody's n rows the last action is dropped: nobody
        recorded what came of it.
        """
        return self.index.lengths if self.ours else self.index.lengths - 1

    @property
    def usable(self) -> list[int]:
        """The episodes in which somebody acted at all."""
        return np.flatnonzero(self.lengths > 0).tolist()

    @property
    def cameras(self) -> list[str]:
        """Of the observation, and those that people watched by."""
        return [*self.plan.cameras, *(each.camera for each in self.plan.recorded.values())]

    def _planned(self, picture_width: int | None) -> tuple[Plan, Embodiment | None]:
        if self.ours:
            return own_plan(self.info)
        return foreign_plan(self.info, self.problems, picture_width), None

    def _tasks(self) -> dict[int, str]:
        """The sentences by their numbers; what the episodes themselves tell is enough."""
        try:
            return read_tasks(self.folder, self.info)
        except LeRobotError as error:
            if not all(self.index.tasks):
                raise
            self.problems.append(replace(error.problem, level=ASK))
            return dict(enumerate(dict.fromkeys(task for tasks in self.index.tasks for task in tasks)))

    def _note_several_tasks(self) -> None:
        several = [number for number, tasks in enumerate(self.index.tasks) if len(tasks) > 1]
        if several:
            text = (
                f"{len(several)} episodes have several sentences (such as episode {several[0]}); the first of each is "
                "its instruction."
            )
            self.problems.append(Problem(Code.SEVERAL_TASKS, NOTE, text, TASKS))

    def _foreign_body(self) -> Embodiment:
        plan = self.plan
        columns = [plan.action, *plan.vectors.values()]
        some = np.unique(np.linspace(0, len(self.lengths) - 1, SAMPLED_EPISODES).astype(int)).tolist()
        samples = [*self._readable(some, columns)]
        seen = read_range(self.folder, self.info, plan.action) or self._range(plan.action)
        # An episode that the statistics don't know of must still be within it.
        ends = [seen, *(_ends(each[plan.action]) for each in samples)]
        low, high = np.min([each[0] for each in ends], axis=0), np.max([each[1] for each in ends], axis=0)
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            raise LeRobotError(
                Code.NOT_FINITE,
                "One of its numbers is never finite. Record or convert the dataset anew.",
                file=data_file(self.info, self.index, 0),
                field=plan.action,
            )
        return foreign_body(self.info, plan, (low, high), samples, self.problems)

    def _range(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """(lowest, highest) of each number in all rows."""
        ends = [_ends(rows[column]) for rows in self._readable(range(len(self.lengths)), [column])]
        return np.min([low for low, _ in ends], axis=0), np.max([high for _, high in ends], axis=0)

    def _readable(self, episodes: Iterable[int], columns: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
        """The rows of those that can be read; what is wrong with others check() says. LeRobotError where none can."""
        found, fault = False, None
        for number in episodes:
            try:
                rows = self.rows(number, columns)
            except LeRobotError as error:
                fault = fault or error
                continue
            found = True
            yield rows
        if fault is not None and not found:
            raise fault

    # Rows

    @property
    def columns(self) -> list[str]:
        """Those that hold numbers."""
        return self._stored.columns

    def rows(self, episode: int, columns: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """[n, D] of each vector and [n] of each single number, of the episode's n rows; no video is looked at."""
        vectors = (self.plan.action, *self.plan.vectors.values())
        return self._stored.numbers(episode, self.columns if columns is None else list(columns), vectors)

    def close(self) -> None:
        """Let go of the file that is open."""
        self._stored.close()

    # Pictures

    def frames(self, episode: int, camera: str) -> Iterator[np.ndarray]:
        """uint8 [H, W, 3] of each observation of an episode, one at a time. LeRobotError where the camera has none."""
        recorded = {each.camera: key for key, each in self.plan.recorded.items()}
        key = self.plan.cameras.get(camera) or recorded.get(camera)
        if key is None:
            raise LeRobotError(Code.VIDEO_MISSING, f"There is no camera {shown(camera)}.", episode=episode)
        return self.pictures(episode, key)

    def pictures(self, episode: int, key: str) -> Iterator[np.ndarray]:
        """The same by the feature's key: one camera may be seen by the policy and recorded as well."""
        recorded = self.plan.recorded.get(key)
        if recorded is None:
            width, height = next(self.plan.sizes[camera] for camera, each in self.plan.cameras.items() if each == key)
        else:
            width, height = recorded.width, recorded.height
            if recorded.camera in self.missing(episode):
                text = f"There are no pictures of {shown(recorded.camera)}."
                raise LeRobotError(Code.VIDEO_MISSING, text, episode=episode)
        picture = np.zeros((height, width, 3), np.uint8)
        if self.info.features[key].dtype == "video":
            for whole in self._video(episode, key, (width, height)):
                picture = whole[:height, :width]
                yield picture
        else:
            yield from self._images(episode, key, (width, height))
        if self.ours:
            last = self.picture_of_end(episode, key)
            if last is not None:
                picture = last if last.shape == picture.shape else resized(last, (width, height))
            yield picture

    def picture_of_end(self, episode: int, key: str) -> np.ndarray | None:
        """uint8 [H, W, 3] of what an episode of ours saw after its last action, of a camera by its feature's key. None
        where a recorded one can't be read: then it was recorded so, and the one before stands for it.
        """
        name, told = self._stored.at_end(episode, key)
        try:
            return from_file(told)
        except PictureError as error:
            if key in self.plan.recorded:
                return None
            raise _picture_broken(error, "of the end", name, episode, key) from None

    def missing(self, episode: int) -> list[str]:
        """Cameras of which black pictures stand in the video."""
        told = self.index.own[MISSING][episode] if self.index.own else None
        return told if isinstance(told, list) else []

    def _video(self, episode: int, key: str, size: tuple[int, int]) -> Iterator[np.ndarray]:
        name = video_file(self.info, self.index, episode, key)
        full = self.info.features[key].size
        path = place_of(self.folder, name)
        if full is None or not path.is_file():
            text = "The video is missing. Copy the whole dataset again."
            raise LeRobotError(Code.VIDEO_MISSING, text, file=name, episode=episode, field=key)
        shrunk = None if full in (size, (even(size[0]), even(size[1]))) else size
        start, count = float(self.index.videos[key][2][episode]), int(self.index.lengths[episode])
        try:
            yield from pictures(path, start_s=start, count=count, fps=self.fps, size=full, shrunk=shrunk)
        except VideoError as error:
            text = f"The video can't be used: {error}. Copy or convert it again."
            raise LeRobotError(Code.VIDEO_BROKEN, text, file=name, episode=episode, field=key) from None

    def _images(self, episode: int, key: str, size: tuple[int, int]) -> Iterator[np.ndarray]:
        """Pictures that lie in the rows, each a file in itself."""
        name = data_file(self.info, self.index, episode)
        column = self._stored.table(episode, [key])[key]
        full = self.info.features[key].size
        for number in range(len(column)):
            told = column[number].as_py()
            file = told.get("bytes") if isinstance(told, dict) else told
            try:
                picture = from_file(file, full)
            except PictureError as error:
                raise _picture_broken(error, str(number), name, episode, key) from None
            yield picture if size == full else resized(picture, size)

    # Episodes

    def episodes(
        self, indices: Collection[int] | None = None, cameras: bool | Collection[str] = True
    ) -> Iterator[Episode]:
        """One after the other, each when it is asked for; all in which somebody acted, unless indices are given."""
        for number in self.usable if indices is None else indices:
            yield self.episode(number, cameras)

    def episode(self, number: int, cameras: bool | Collection[str] = True) -> Episode:
        """One episode, with the pictures of all its cameras, of none or of some of them: then its body is one without
        the others. LeRobotError where it can't be used.
        """
        wanted = set(self.cameras if cameras is True else cameras or ())
        seen = [camera for camera in self.plan.cameras if camera in wanted]
        watched = {
            each.camera: key
            for key, each in self.plan.recorded.items()
            if each.camera in wanted and each.camera not in self.missing(number)
        }
        steps = self._steps(number)
        most = max(1, len(seen)) * max((w * h * 3 for w, h in self.plan.sizes.values()), default=0) * (steps + 1)
        if seen and most > LARGEST_READ:
            raise LeRobotError(
                Code.TOO_LARGE,
                f"Its pictures would take {most >> 20} MiB. Open the dataset with smaller ones (picture_width).",
                episode=number,
            )
        images = {}
        for camera in seen:
            width, height = self.plan.sizes[camera]
            images[camera] = np.empty((steps + 1, height, width, 3), np.uint8)
            for i, picture in enumerate(self.pictures(number, self.plan.cameras[camera])):
                images[camera][i] = picture
        frames = {camera: self._jpegs(number, key) for camera, key in watched.items()}
        return self.assembled(number, images, frames)

    def _jpegs(self, number: int, key: str) -> list[bytes]:
        """What was recorded of a camera that people watch by: JPEGs made anew, but the last as it was."""
        found: list[bytes] = []
        before = None
        for picture in self.pictures(number, key):
            if before is not None and np.array_equal(picture, before):
                found.append(found[-1])  # which then takes no room
            else:
                found.append(to_file(picture, JPEG_QUALITY))
            before = picture
        return [*found[:-1], self._stored.at_end(number, key)[1]]

    def _steps(self, number: int) -> int:
        steps = int(self.lengths[number]) if 0 <= number < len(self.lengths) else 0
        if not 0 < steps <= LONGEST_EPISODE:
            raise LeRobotError(
                Code.EPISODE_WRONG,
                f"It has {steps} steps, and 1 to {LONGEST_EPISODE} are needed. Leave it out, or cut it.",
                episode=number,
            )
        return steps

    def assembled(self, number: int, images: Mapping[str, np.ndarray], frames: Mapping[str, list[bytes]]) -> Episode:
        """The episode with these pictures, uint8 [T+1, H, W, 3] by camera, and these JPEGs; checked."""
        steps, plan = self._steps(number), self.plan
        body = without(self.body, set(plan.cameras) - set(images))
        make = self._own_episode if self.ours else self._foreign_episode
        episode = make(number, steps, body)
        episode.observations |= {IMAGES + camera: array for camera, array in images.items()}
        episode.frames = dict(frames)
        # In the body's order, as whoever recorded it had it.
        episode.observations = {key: episode.observations[key] for key in body.observation}
        try:
            episode.validate()
            episode.check_shapes(body)
        except EpisodeError as error:
            raise LeRobotError(Code.EPISODE_WRONG, str(error), episode=number) from None
        return episode

    def _own_episode(self, number: int, steps: int, body: Embodiment) -> Episode:
        plan, own = self.plan, self.index.own or {}
        rows = self.rows(number, [plan.action, *plan.vectors.values(), "actor", "fenced", "steps_to_go"])
        file, last_d = self._stored.at_end(number, "steps_to_go")
        told = {name: own[f"{OWN}/{name}"][number] for name in OWN_EPISODE}
        labels = own[LABELS][number]
        with reading(file, episode=number), np.errstate(invalid="ignore"):
            observations = {
                key: np.concatenate(
                    [rows[column], np.array(self._stored.at_end(number, key)[1], np.float32).reshape(1, -1)]
                ).astype(np.float32)
                for key, column in plan.vectors.items()
            }
            return Episode(
                **told,
                labels=strict_json.loads(labels) if labels else {},
                embodiment=body.name,
                body=body,
                instruction=self._instruction(number),
                observations=observations,
                actions=rows[plan.action].astype(np.float32),
                actors=np.clip(rows["actor"], 0, 255).astype(np.uint8),
                steps_to_go=np.append(rows["steps_to_go"], np.float32(np.nan if last_d is None else last_d)).astype(
                    np.float32
                ),
                fenced=rows["fenced"].astype(np.uint8),
            )

    def _foreign_episode(self, number: int, steps: int, body: Embodiment) -> Episode:
        plan = self.plan
        success = ["next.success"] if "next.success" in self.columns else []
        rows = self.rows(number, [plan.action, *plan.vectors.values(), *success])
        actions = _singles(rows[plan.action])[:-1]
        observations = {key: _singles(rows[column]) for key, column in plan.vectors.items()}
        content = hashlib.sha256(b"".join(array.tobytes() for array in (actions, *observations.values())))
        succeeded = bool((rows["next.success"] > 0).any()) if success else None
        return Episode(
            uuid=str(uuids.uuid5(IDS, f"{number} {content.hexdigest()}")),  # the same whenever it is read
            embodiment=body.name,
            body=body,
            task=BY_HAND.name,
            instruction=self._instruction(number),
            observations=observations,
            actions=actions,
            actors=np.full(steps, ACTORS.index("human"), np.uint8),
            steps_to_go=np.full(steps + 1, np.nan, np.float32),
            # A person ended it, having shown the whole of it; unless the dataset says that it failed.
            ending="time_limit" if succeeded is False else "operator",
            detected_success=False,
            true_success=succeeded,
            purpose="demonstration",
            fps=self.fps,
        )

    def _instruction(self, number: int) -> str:
        """The first of its sentences, as an episode can hold it."""
        said = next((task for task in self.index.tasks[number] if task.strip()), "")
        if not said:
            numbers = self.rows(number, ["task_index"])["task_index"] if "task_index" in self.columns else np.zeros(1)
            said = self.tasks.get(int(numbers[0]), "")
        if self.ours:
            return said
        words = " ".join(said.split()).replace("\0", "") or BY_HAND.grammar.templates[0]
        return words if len(words) <= LONGEST_TEXT else words[: LONGEST_TEXT - 3] + "..."


def _picture_broken(error: BaseException, which: str, file: str, episode: int, key: str) -> LeRobotError:
    text = f"Its picture {which} can't be read ({shown(str(error))}). Convert the dataset anew."
    return LeRobotError(Code.PICTURE_BROKEN, text, file=file, episode=episode, field=key)


def _ends(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(lowest, highest) of each number [D] that is one; of what never is, infinity and minus infinity."""
    rows = rows.astype(float)
    known = np.isfinite(rows)
    return rows.min(axis=0, initial=np.inf, where=known), rows.max(axis=0, initial=-np.inf, where=known)


def _singles(rows: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is refused
        return np.ascontiguousarray(rows, np.float32)
