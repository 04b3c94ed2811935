"""python -m robots demonstrate | render: the commands by which the server makes demonstrations and pictures; dataset,
which checks and converts LeRobot datasets; and protocol, which writes the reference of the link's messages.

A job of the server starts them as child processes, since the server itself never loads a simulator. With --progress
each line on stdout is JSON: {"done": 12, "total": 400}. What a user can put right is said in one sentence on stderr,
with exit code 2.
"""

import argparse
import sys
import time
from pathlib import Path

from robots import protocol, strict_json
from robots.demonstrators import collect_demonstrations
from robots.episodes import EpisodeError, read_episodes, write_episodes
from robots.looking import write_pictures
from robots.worlds import on_demand


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
    """Write what each camera saw at every observation of one episode of a file, and which cameras there are."""
    episodes = read_episodes(arguments.episode)
    wanted = [episode for episode in episodes if arguments.uuid in (None, episode.uuid)]
    if not wanted:
        raise EpisodeError(f"There is no episode {arguments.uuid} in {arguments.episode}.")
    episode = wanted[0]
    if not (16 <= arguments.width <= 1920 and 16 <= arguments.height <= 1080):
        raise ValueError("Pictures can be 16x16 to 1920x1080 pixels.")
    write_pictures(
        episode, arguments.out, arguments.width, arguments.height, _Progress() if arguments.progress else None
    )


# What they need, pyarrow and FFmpeg, no other command has to load.
_check_dataset = on_demand("robots.lerobot.commands:check")
_convert_dataset = on_demand("robots.lerobot.commands:convert")
_assemble_dataset = on_demand("robots.lerobot.assembling:assemble_command")
_look_at_dataset = on_demand("robots.lerobot.looking:look_command")


def convert_dataset(arguments: argparse.Namespace) -> None:
    """A file of episodes -> a LeRobot dataset, or back."""
    _convert_dataset(arguments, _Progress() if arguments.progress else None)


def assemble_dataset(arguments: argparse.Namespace) -> None:
    """What robots/lerobot/assembling.py says of plans."""
    _assemble_dataset(arguments, _Progress() if arguments.progress else None)


def look_at_dataset(arguments: argparse.Namespace) -> None:
    """What robots/lerobot/looking.py says of plans."""
    _look_at_dataset(arguments, _Progress() if arguments.progress else None)


def show_protocol(arguments: argparse.Namespace) -> None:
    """Print the reference of the messages, or write it into a document."""
    if arguments.into is None:
        print(protocol.reference(), end="")
    else:
        text = protocol.with_reference(arguments.into.read_text(encoding="utf-8"))
        arguments.into.write_text(text, encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Carry out one command; the process's exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m robots",
        description="Make demonstrations; render episodes; check and convert LeRobot datasets; say the protocol.",
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

    command = commands.add_parser("render", help="write each camera's picture for every observation of an episode")
    command.add_argument("--episode", required=True, type=Path, help="a file of episodes")
    command.add_argument("--uuid", help="which episode of the file; the first unless told")
    command.add_argument(
        "--out", required=True, type=Path, help="a folder for 0/00000.jpg, ..., 1/..., and cameras.json"
    )
    command.add_argument("--width", type=int, default=320)
    command.add_argument("--height", type=int, default=240)
    command.add_argument("--progress", action="store_true")
    command.set_defaults(run=render)

    command = commands.add_parser("dataset", help="LeRobot datasets: check one, convert from and to files of episodes")
    parts = command.add_subparsers(required=True)
    part = parts.add_parser("check", help="say all that is wrong with a LeRobot dataset")
    part.add_argument("folder", type=Path)
    part.add_argument("--report", type=Path, help="a file of JSON to write it into, for programs")
    part.set_defaults(run=_check_dataset)
    part = parts.add_parser("assemble", help="put episodes together anew, as a plan in JSON says")
    part.add_argument("plan", type=Path)
    part.add_argument("--progress", action="store_true")
    part.set_defaults(run=assemble_dataset)
    part = parts.add_parser("look", help="make what people look at: pictures, strips of them, sums of all numbers")
    part.add_argument("plan", type=Path)
    part.add_argument("--progress", action="store_true")
    part.set_defaults(run=look_at_dataset)
    part = parts.add_parser("convert", help="a .safetensors file of episodes -> a LeRobot dataset, or back")
    part.add_argument("source", type=Path, help="a file of episodes, or the folder of a LeRobot dataset")
    part.add_argument("target", type=Path, help="an empty folder, or a .safetensors file")
    part.add_argument("--quality", default="high", help="of video: high, small, or lossless, which browsers don't show")
    part.add_argument("--picture-width", type=int, help="pixels, to which pictures of somebody else's are made smaller")
    part.add_argument("--progress", action="store_true")
    part.set_defaults(run=convert_dataset)

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
