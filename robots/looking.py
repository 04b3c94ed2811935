"""Pictures of an episode, by which people look at it afterwards: those that were recorded, those that the policy saw,
or its simulated world drawn again.
"""

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from robots import strict_json
from robots.atomic_files import write_atomically
from robots.cameras import LARGEST_FRAME, to_jpeg
from robots.driver import DriverError, guarded
from robots.embodiments import IMAGES
from robots.episodes import CAMERAS_FILE, Episode, EpisodeError, rows_of
from robots.worlds import WORLDS, make_world

SIZE = 320, 240  # pixels, of pictures that are drawn


def write_pictures(
    episode: Episode, out: Path, width: int, height: int, progress: Callable[[int, int], None] | None = None
) -> None:
    """Write what each camera saw at every observation into a folder, OUT/0/00000.jpg, ..., and which cameras there are.
    EpisodeError where there is not one picture.
    """
    cameras = cameras_of(episode)
    if not cameras:
        raise EpisodeError("Its body has no camera, and no pictures were recorded with it.")
    total = episode.steps + 1
    told = []
    for number, camera in enumerate(cameras):
        folder = out / str(number)  # a camera's name comes from elsewhere, and never becomes a path
        folder.mkdir(parents=True, exist_ok=True)
        missing = ""
        try:
            for step in _written(folder, pictures_at(episode, camera, range(total), (width, height))):
                if progress is not None:
                    progress(number * total + step + 1, len(cameras) * total)
        except DriverError as error:
            missing = str(error)
        told.append({"name": camera, "missing": missing})
    if all(each["missing"] for each in told):
        raise EpisodeError(told[0]["missing"])
    write_atomically(out / CAMERAS_FILE, strict_json.dumps(told).encode(), durable=False)


def _written(folder: Path, pictures: Iterable[bytes]) -> Iterator[int]:
    """Write the JPEGs into the folder, and say after each which one it was. Equal ones share their room on disk."""
    before, last = b"", folder
    for step, jpeg in enumerate(pictures):
        path = folder / f"{step:05d}.jpg"
        path.unlink(missing_ok=True)  # of a job that died
        if jpeg is before:
            with contextlib.suppress(OSError):  # on a disk that knows no links it is written again
                os.link(last, path)
        if not path.exists():
            write_atomically(path, jpeg, durable=False)
        before, last = jpeg, path
        yield step


def cameras_of(episode: Episode) -> list[str]:
    """The names of the cameras by which it may be looked at: the body's, and any other that was recorded."""
    body = episode.body.cameras if episode.body else ()
    names = [camera.name for camera in body]
    seen = [key.removeprefix(IMAGES) for key in episode.observations if key.startswith(IMAGES)]
    return list(dict.fromkeys([*names, *seen, *sorted(episode.frames)]))


def pictures_at(episode: Episode, camera: str, steps: Sequence[int], size: tuple[int, int] = SIZE) -> Iterator[bytes]:
    """A JPEG of the camera for each of these observations: as the station recorded it, as the policy saw it, or as its
    world is drawn, of that size. DriverError where there is none.
    """
    if camera in episode.frames:
        yield from (episode.frames[camera][step] for step in steps)
    elif IMAGES + camera in episode.observations:
        for step in steps:
            yield to_jpeg(episode.observations[IMAGES + camera][step], LARGEST_FRAME)
    else:
        yield from _drawn(episode, camera, steps, size)


def _drawn(episode: Episode, camera: str, steps: Sequence[int], size: tuple[int, int]) -> Iterator[bytes]:
    nothing = f"The camera {camera} has no pictures of this episode: none were recorded"
    on = "“Keep the cameras' pictures” on the station's page keeps those of the next ones"
    if episode.embodiment not in WORLDS:
        raise DriverError(f"{nothing}, and a real robot can't be put back to draw them. {on}.")
    if any(key.startswith(IMAGES) for key in episode.observations):
        raise DriverError(f"{nothing}, and its world can't be put back by what another camera saw. {on}.")
    world = guarded("making its world", make_world, episode.embodiment, 0)
    try:
        for step in steps:
            guarded("drawing it again", world.set_observation, rows_of(episode.observations, step))
            yield to_jpeg(guarded("drawing it again", world.render, camera, *size), size)
    finally:
        world.close()
