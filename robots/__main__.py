"""python -m robots demonstrate | render: the commands by which the server makes demonstrations and pictures; and
protocol, which writes the reference of the link's messages.

A job of the server starts them as child processes, since the server itself never loads a simulator. With --progress
each line on stdout is JSON: {"done": 12, "total": 400}. What a user can put right is said in one sentence on stderr,
with exit code 2.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from robots import protocol, strict_json
from robots.atomic_files import write_atomically
from robots.demonstrators import collect_demonstrations
from robots.episodes import Episode, EpisodeError, read_episodes, write_episodes
from robots.worlds import make_world


class _Progress:
    """At most ten lines a second, and always the last one."""

    def __init__(self) -> None:
        self.written_at = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if done == total or now - self.written_at > 0.1:
            print(strict_json.dumps({"done": done, "total": total}), flush=True)
            self.written_at = now


def demonstrate(arguments: argparse.Namespace) -> None:
    """Write a file of demonstrations."""
    if not arguments.out.parent.is_dir():
        raise ValueError(f"The folder {arguments.out.parent} does not exist; make it first.")
    progress = _Progress() if arguments.progress else None
    write_episodes(arguments.out, collect_demonstrations(arguments.task, arguments.episodes, arguments.seed, progress))


def render(arguments: argparse.Namespace) -> None:
    """Write a picture for every observation of one episode of a file."""
    episodes = read_episodes(arguments.episode)
    wanted = [episode for episode in episodes if arguments.uuid in (None, episode.uuid)]
    if not wanted:
        raise EpisodeError(f"There is no episode {arguments.uuid} in {arguments.episode}.")
    episode = wanted[0]
    if not (16 <= arguments.width <= 1920 and 16 <= arguments.height <= 1080):
        raise ValueError("Pictures can be 16x16 to 1920x1080 pixels.")
    arguments.out.mkdir(parents=True, exist_ok=True)
    progress = _Progress() if arguments.progress else None
    for step, jpeg in enumerate(_pictures(episode, arguments.width, arguments.height)):
        write_atomically(arguments.out / f"{step:05d}.jpg", jpeg, durable=False)
        if progress is not None:
            progress(step + 1, episode.steps + 1)


def _pictures(episode: Episode, width: int, height: int) -> Iterator[bytes]:
    """A JPEG for each observation of one camera: those that the station recorded, else as its world is drawn."""
    if episode.frames:
        yield from next(iter(episode.frames.values()))
        return
    world = make_world(episode.embodiment, seed=0)
    camera = world.embodiment.cameras[0].name
    for step in range(episode.steps + 1):
        world.set_observation({key: array[step] for key, array in episode.observations.items()})
        yield to_jpeg(world.render(camera, width, height))
    world.close()


def show_protocol(arguments: argparse.Namespace) -> None:
    """Print the reference of the messages, or write it into a document."""
    if arguments.into is None:
        print(protocol.reference(), end="")
    else:
        text = protocol.with_reference(arguments.into.read_text(encoding="utf-8"))
        arguments.into.write_text(text, encoding="utf-8")


def to_jpeg(picture: np.ndarray) -> bytes:
    """A picture, uint8 [H, W, 3], as JPEG."""
    buffer = BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def main(argv: list[str] | None = None) -> int:
    """Carry out one command; the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m robots", description="Make demonstrations; render episodes; say the protocol."
    )
    commands = parser.add_subparsers(required=True)

    command = commands.add_parser("demonstrate", help="write demonstrations by the scripted demonstrator")
    command.add_argument(
        "--task", required=True, type=lambda text: text.split(","), help="families, separated by commas"
    )
    command.add_argument("--episodes", required=True, type=int)
    command.add_argument("--seed", required=True, type=int)
    command.add_argument("--out", required=True, type=Path, help="a .safetensors file of episodes")
    command.add_argument("--progress", action="store_true")
    command.set_defaults(run=demonstrate)

    command = commands.add_parser("render", help="write a picture for every observation of an episode")
    command.add_argument("--episode", required=True, type=Path, help="a file of episodes")
    command.add_argument("--uuid", help="which episode of the file; the first unless told")
    command.add_argument("--out", required=True, type=Path, help="a folder for 00000.jpg, 00001.jpg, ...")
    command.add_argument("--width", type=int, default=320)
    command.add_argument("--height", type=int, default=240)
    command.add_argument("--progress", action="store_true")
    command.set_defaults(run=render)

    command = commands.add_parser("protocol", help="every message between a station and the server, in Markdown")
    command.add_argument("--into", type=Path, help="a document to write it into, between its two marks")
    command.set_defaults(run=show_protocol)

    arguments = parser.parse_args(argv)
    try:
        arguments.run(arguments)
    except (ValueError, OSError) as error:  # every error class of this package is a ValueError with a sentence
        print(f"{error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
