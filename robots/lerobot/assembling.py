"""Episodes of files and folders, some of them cut or under other words, put together anew: for training, as a LeRobot
dataset, as one archive, or only looked at. A plan in JSON says what, so that the server has it done by a child process.

{"into": "parts" | "folder" | "zip" | "mcap" | "mp4" (both of one episode) | "nothing",
 "target": a folder that is made, or an archive; "facts": a file of JSON lines, the body and then each episode, or null,
 "sources": [{"path": a file of episodes or a folder, "cameras": true, "leave_out": [camera], "picture_width": null}],
 "episodes": [{"source": index, "index": n, "start", "stop", ...fields of Episode in place of its own}] | null: all,
 "body": Embodiment.to_json() | null, "quality": of video, "camera": of an MP4}

Memory holds one part (PART_BYTES) or one episode, whichever is larger.
"""

import argparse
import os
import shutil
import uuid as uuids
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from robots import strict_json
from robots.atomic_files import replacing
from robots.embodiments import IMAGES, Embodiment
from robots.episodes import Episode, EpisodeError, EpisodeFile, cut, write_episodes
from robots.lerobot.layout import NOTE, REFUSE, Problem
from robots.lerobot.pictures import from_file, resized
from robots.lerobot.reading import Dataset, open_dataset
from robots.lerobot.videos import VideoWriter
from robots.lerobot.writing import write_dataset
from robots.mcap_files import write_mcap
from robots.quality import quality_of

PART_BYTES = 256 * 2**20  # of a file of episodes that is learned from
CUTS = uuids.UUID("0d6cf2a5-1f3a-4f0e-8a74-2b9f4a6c3e11")  # the ids of parts of episodes are made from the whole's
FIELDS = ("task", "instruction", "ending", "detected_success", "true_success", "purpose", "weight")

Progress = Callable[[int, int], None]


class Source:
    """A file of episodes, or the folder of a LeRobot dataset: episodes by their number."""

    def __init__(
        self,
        path: Path,
        *,
        cameras: bool = True,
        leave_out: Sequence[str] = (),
        picture_width: int | None = None,
    ):
        self._file: EpisodeFile | None = None
        self._dataset: Dataset | None = None
        if path.is_dir():
            self._dataset = open_dataset(path, picture_width=picture_width)
            self._cameras = [each for each in self._dataset.cameras if cameras and each not in leave_out]
            self.numbers = self._dataset.usable
        else:
            self._file = EpisodeFile(path)
            self.numbers = list(range(len(self._file)))

    @property
    def recorded(self) -> list[str]:
        """Cameras whose pictures are kept beside the observation."""
        if self._file is not None:
            return self._file.cameras
        assert self._dataset is not None
        held = {each.camera for each in self._dataset.plan.recorded.values()}
        return [camera for camera in self._cameras if camera in held]

    def episode(self, number: int, *, frames: bool = True, pictures: bool = True) -> Episode:
        """One of them. `frames`: with the pictures by which people watch; `pictures`: with those that were observed."""
        if self._file is not None:
            return self._file.episode(number, frames)
        assert self._dataset is not None
        wanted = self._cameras if frames else [each for each in self._cameras if each in self._dataset.plan.cameras]
        return self._dataset.episode(number, wanted if pictures else False)

    def close(self) -> None:
        """Let go of files that are open."""
        if self._dataset is not None:
            self._dataset.close()


def assemble(plan: dict[str, Any], progress: Progress | None = None) -> None:
    """Carry out a plan. What is there at the target before is taken away; what is there after is whole."""
    sources = [Source(Path(each.pop("path")), **each) for each in plan["sources"]]
    entries = plan.get("episodes")
    if entries is None:
        entries = [{"source": i, "index": n} for i, source in enumerate(sources) for n in source.numbers]
    if not entries:
        raise EpisodeError("There is no episode to take.")
    into, target = plan["into"], Path(plan["target"])
    frames = into != "parts"  # nobody learns from them
    facts = Path(plan["facts"]) if plan.get("facts") else None
    target.parent.mkdir(parents=True, exist_ok=True)
    episodes = _Counted(_taken(sources, entries, frames, facts), len(entries), progress)
    try:
        if into == "nothing":
            for _ in episodes:
                pass
        elif into == "mcap":
            with replacing(target) as path:
                write_mcap(path, next(iter(episodes)))
        elif into == "mp4":
            with replacing(target) as path:
                write_mp4(path, next(iter(episodes)), plan["camera"], plan.get("quality") or "high")
        elif into == "parts":
            _write_parts(target, episodes)
        else:
            cameras = sorted({camera for source in sources for camera in source.recorded})
            _write_folder(target, episodes, plan, cameras)
    finally:
        for source in sources:
            source.close()


class _Counted:
    """Episodes, of which it is known how many there are."""

    def __init__(self, episodes: Iterator[Episode], count: int, progress: Progress | None):
        self._episodes, self._count, self._progress = episodes, count, progress

    def __length_hint__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Episode]:
        for done, episode in enumerate(self._episodes, 1):
            yield episode
            if self._progress is not None:
                self._progress(done, self._count)


def _taken(
    sources: Sequence[Source], entries: Sequence[dict[str, Any]], frames: bool, facts: Path | None
) -> Iterator[Episode]:
    told = facts.open("wb") if facts is not None else None
    try:
        for entry in entries:
            episode = taken(sources[entry["source"]], entry, frames=frames)
            if told is not None:
                if not told.tell() and episode.body is not None:
                    told.write(strict_json.dumps({"body": episode.body.to_json()}).encode() + b"\n")
                told.write(strict_json.dumps(facts_of(episode, entry["index"])).encode() + b"\n")
            yield episode
    finally:
        if told is not None:
            told.close()


def taken(source: Source, entry: dict[str, Any], *, frames: bool = True, pictures: bool = True) -> Episode:
    """An episode as an entry of a plan wants it. What is a part of the recorded one has an id of its own, which is
    always the same.
    """
    whole = source.episode(entry["index"], frames=frames, pictures=pictures)
    start, stop = entry.get("start", 0), entry.get("stop", whole.steps)
    fields = {name: entry[name] for name in FIELDS if name in entry}
    if (start, stop) != (0, whole.steps):
        fields["uuid"] = str(uuids.uuid5(CUTS, f"{whole.uuid} {start} {stop}"))
    episode = replace(cut(whole, start, stop), **fields)
    episode.validate()
    return episode


def facts_of(episode: Episode, index: int) -> dict[str, Any]:
    """What the server keeps of an episode as a row; `index` is its number in the source."""
    return {
        "index": index,
        "uuid": episode.uuid,
        "steps": episode.steps,
        **{name: getattr(episode, name) for name in FIELDS},
        "quality": quality_of(episode),
    }


def _write_parts(target: Path, episodes: _Counted) -> None:
    """Files of episodes, in the order of their names, of bounded size each. The folder appears when it is whole."""
    making = _making(target)
    making.mkdir(parents=True)
    part: list[Episode] = []
    size = number = 0
    for episode in episodes:
        more = sum(array.nbytes for array in (*episode.observations.values(), episode.actions))
        if part and size + more > PART_BYTES:
            write_episodes(making / f"{number:05d}.safetensors", part)
            part, size, number = [], 0, number + 1
        part.append(episode)
        size += more
    write_episodes(making / f"{number:05d}.safetensors", part)
    put_in_place(making, target)


def _write_folder(target: Path, episodes: _Counted, plan: dict[str, Any], cameras: Sequence[str]) -> None:
    making = _making(target)
    body = Embodiment.from_json(plan["body"])
    write_dataset(making, episodes, body, cameras=cameras, quality=plan.get("quality") or "high")
    if plan["into"] == "folder":
        put_in_place(making, target)
        return
    with replacing(target) as path:
        zip_folder(making, path)
    shutil.rmtree(making)


def write_mp4(path: Path, episode: Episode, camera: str, quality: str) -> None:
    """What one camera showed at each observation, T+1 pictures."""
    shown = pictures_of(episode, camera)
    video: VideoWriter | None = None
    try:
        for number, picture in enumerate(shown):
            if video is None:
                height, width = picture.shape[:2]
                video = VideoWriter(path, width, height, episode.fps, quality)
            video.write(picture, first=number == 0)
    except BaseException:
        if video is not None:
            video.abandon()
        raise
    if video is None:
        raise EpisodeError(f"Episode {episode.uuid} has no pictures of the camera {camera}.")
    video.close()


def cameras_of(episode: Episode) -> list[str]:
    """Of which it has pictures."""
    seen = [key.removeprefix(IMAGES) for key in episode.observations if key.startswith(IMAGES)]
    return list(dict.fromkeys([*seen, *episode.frames]))


def pictures_of(episode: Episode, camera: str) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] of each observation: as the policy saw it, or as it was recorded. None where there are none."""
    if IMAGES + camera in episode.observations:
        yield from episode.observations[IMAGES + camera]
        return
    size: tuple[int, int] | None = None
    for jpeg in episode.frames.get(camera, ()):
        picture = from_file(jpeg)
        size = size or (picture.shape[1], picture.shape[0])
        yield picture if (picture.shape[1], picture.shape[0]) == size else resized(picture, size)


def zip_folder(folder: Path, path: Path) -> None:
    """Its files, uncompressed since they are already, under their names within it."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in sorted(each for each in folder.rglob("*") if each.is_file() and each.suffix != ".tmp"):
            archive.write(file, file.relative_to(folder).as_posix())


def _making(target: Path) -> Path:
    """Where it is made: beside its place, under this process' own name."""
    making = target.with_name(f".{target.name}.{os.getpid()}.making")
    shutil.rmtree(making, ignore_errors=True)
    return making


def put_in_place(making: Path, target: Path) -> None:
    """Rename a folder that is whole. Where another was there before, that one goes."""
    if target.exists():
        gone = making.with_name(f"{making.name}.old")
        os.replace(target, gone)
        os.replace(making, target)
        shutil.rmtree(gone, ignore_errors=True)
    else:
        os.replace(making, target)


# Commands


def assemble_command(arguments: argparse.Namespace, progress: Progress | None = None) -> None:
    """python -m robots dataset assemble PLAN."""
    assemble(strict_json.loads(arguments.plan.read_bytes()), progress)


def facts_of_folder(folder: Path, problems: Sequence[Problem]) -> dict[str, Any]:
    """What a folder says of itself, where it can be opened at all."""
    if any(each.level == REFUSE and each.episode is None for each in problems):
        return {}
    dataset = open_dataset(folder)
    try:
        return {
            "version": dataset.version,
            "ours": dataset.ours,
            "body": dataset.body.to_json(),
            "episodes": len(dataset.lengths),
            "rows": dataset.info.rows,
            "fps": dataset.fps,
            "cameras": dataset.cameras,
            "sizes": {camera: list(size) for camera, size in dataset.plan.sizes.items()},
            "vectors": list(dataset.plan.vectors),
            "features": dataset.plan.cameras | {each.camera: key for key, each in dataset.plan.recorded.items()},
            "tasks": list(dataset.tasks.values())[:50],
            "guessed": [each.text for each in problems if each.level == NOTE and each.code == "guessed"],
        }
    finally:
        dataset.close()
