"""python -m robots dataset check | convert: LeRobot datasets from a terminal."""

import argparse
import sys
from collections.abc import Callable

from robots import strict_json
from robots.atomic_files import write_atomically
from robots.episodes import Episode, EpisodeError, read_episodes, write_episodes
from robots.lerobot.assembling import facts_of_folder
from robots.lerobot.checking import check as problems_of
from robots.lerobot.layout import REFUSE
from robots.lerobot.reading import open_dataset
from robots.lerobot.writing import write_dataset

Count = Callable[[int, int], None]


def check(arguments: argparse.Namespace) -> None:
    """Say everything that is wrong with a dataset; ValueError where some of it keeps it, or an episode, from use. With
    --report it is written down for the server, which judges it.
    """
    problems = problems_of(arguments.folder)
    if arguments.report is not None:
        told = {"problems": [vars(each) for each in problems], "facts": facts_of_folder(arguments.folder, problems)}
        write_atomically(arguments.report, strict_json.dumps(told).encode())
        return
    for problem in problems:
        print(f"{problem.level} [{problem.code}] {problem}")
    refused = sum(problem.level == REFUSE for problem in problems)
    if refused:
        raise ValueError(f"{refused} of {len(problems)} problems keep it, or the episodes that are named, from use.")
    dataset = open_dataset(arguments.folder)
    cameras = ", ".join(dataset.cameras) or "none"
    print(
        f"It can be used: {len(dataset.lengths)} episodes of {dataset.body.name}, {dataset.info.rows} rows at "
        f"{dataset.fps:g} Hz, cameras: {cameras}."
    )
    dataset.close()


def convert(arguments: argparse.Namespace, progress: Count | None = None) -> None:
    """A file of episodes -> a LeRobot dataset, or the other way round, by what there is."""
    if arguments.source.is_dir():
        _to_file(arguments, progress)
    else:
        _to_folder(arguments, progress)


def _to_folder(arguments: argparse.Namespace, progress: Count | None) -> None:
    episodes = read_episodes(arguments.source)
    body = episodes[0].body
    if body is None:
        raise EpisodeError(f"Nobody says what {episodes[0].embodiment} observes and does; the file needs its body.")

    def tell(done: int, total: int, _: str) -> None:
        if progress is not None:
            progress(done, total)

    written = write_dataset(
        arguments.target,
        episodes,
        body,
        cameras=sorted({camera for episode in episodes for camera in episode.frames}),
        quality=arguments.quality,
        progress=tell,
    )
    for note in written.notes:
        _say(note)
    _say(f"{written.episodes} episodes with {written.rows} rows are in {arguments.target}.")


def _to_file(arguments: argparse.Namespace, progress: Count | None) -> None:
    dataset = open_dataset(arguments.source, picture_width=arguments.picture_width)
    for problem in dataset.problems:
        _say(str(problem))
    episodes: list[Episode] = []
    for episode in dataset.episodes():
        episodes.append(episode)
        if progress is not None:
            progress(len(episodes), len(dataset.usable))
    dataset.close()
    write_episodes(arguments.target, episodes)
    _say(f"{len(episodes)} episodes of {dataset.body.name} are in {arguments.target}.")


def _say(text: str) -> None:
    """Beside stdout, where a line is progress."""
    print(text, file=sys.stderr)
