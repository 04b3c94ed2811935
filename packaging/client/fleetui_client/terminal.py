"""What all commands of `fleet` share: options, how things are printed, bars, and what a person types for a recipe."""

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fleetui_client.reading import plain

# Names of the fleet may look like rich's markup, and mean none.
out = Console(highlight=False, soft_wrap=True, markup=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
OfLab = Annotated[str, typer.Option("--lab", help="The lab's slug, where the token opens several.")]
Most = Annotated[int, typer.Option("--limit", min=1, help="How many at most.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Where the file is there already.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", exists=True, dir_okay=False, help="A JSON file of it.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="A field of the recipe, as in steps=2000; may be said again.")
]


def read_pairs(given: list[str], option: str, example: str) -> dict[str, str]:
    """NAME=TEXT, each."""
    found = {}
    for each in given:
        name, equals, text = each.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{each!r} is not as in {example}.", param_hint=option)
        found[name] = text
    return found


def read_recipe(path: Path | None, settings: list[str]) -> dict[str, Any]:
    """Of a file and of what is said beside it; a value is JSON, or a text."""
    wanted: Any = {}
    if path is not None:
        try:
            wanted = json.loads(path.read_text())
        except ValueError as error:
            raise typer.BadParameter(f"{path} is no JSON: {error}", param_hint="--recipe") from None
        if not isinstance(wanted, dict):
            raise typer.BadParameter(f"{path} must hold an object of fields.", param_hint="--recipe")
    for field, value in read_pairs(settings, "--set", "steps=2000").items():
        try:
            wanted[field] = json.loads(value)
        except ValueError:
            wanted[field] = value
    return dict(wanted)


# How it is printed


def first(rows: Iterable[Any], limit: int) -> list[Any]:
    """Not more than so many."""
    return [row for _, row in zip(range(limit), rows, strict=False)]


def show(value: Any) -> None:
    """As JSON, for programs."""
    print(json.dumps(plain(value), indent=1))


def table(heads: tuple[str, ...], rows: Sequence[tuple[object, ...]], if_none: str) -> None:
    """For people; a row a line where it goes into a pipe."""
    if not rows:
        return err.print(if_none)
    if not out.is_terminal:
        return print("\n".join("\t".join("" if cell is None else str(cell) for cell in row) for row in rows))
    shown = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        shown.add_row(*("" if cell is None else str(cell) for cell in row))
    return out.print(shown)


def age(moment: datetime) -> str:
    """How long ago, in one word."""
    seconds = max(0.0, (datetime.now(UTC) - moment).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return "now"


def file_name(name: str, suffix: str) -> str:
    """Of a dataset: a name may hold what no file's name can."""
    return "".join(each if each.isalnum() or each in "-_ ." else "-" for each in name).strip(" .") + suffix


@contextmanager
def bar_of(name: str, silent: bool) -> Iterator[Any]:
    """A bar of bytes; gives what is told how far it is."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=silent) as progress:
        bar = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


@contextmanager
def share_bar(name: str, silent: bool) -> Iterator[Any]:
    """A bar of a share; gives what is told how far it is, from 0 to 1, and of what."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=silent) as progress:
        bar = progress.add_task(name, total=1.0)
        yield lambda share, what: progress.update(bar, completed=share, description=what)
