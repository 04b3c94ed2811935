"""fleet datasets: look at them, send and fetch them, edit their versions."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from fleetui_client.answers import DatasetDetail, DatasetRow, ImportRow
from fleetui_client.errors import FleetError
from fleetui_client.packing import is_dataset
from fleetui_client.reading import plain
from fleetui_client.synchronous import Fleet
from fleetui_client.terminal import (
    AsJson,
    Most,
    OfLab,
    Overwrite,
    age,
    bar_of,
    err,
    file_name,
    first,
    out,
    share_bar,
    show,
    table,
)

CONVERTER = "robots.lerobot"  # by python -m robots dataset convert, where the project itself is installed
SUFFIXES = {"episodes": ".safetensors", "lerobot": ".zip", "mcap": ".mcap", "mp4": ".mp4"}
SHOWN_PROBLEMS = 10

datasets = typer.Typer(no_args_is_help=True, help="Datasets: look at, send, fetch, edit and convert them.")
Which = Annotated[str, typer.Option("--episodes", help="By their positions, as in 0,2,5-9.")]
Yes = Annotated[bool, typer.Option("--yes", help="Answer what it asks with yes.")]
Width = Annotated[int | None, typer.Option("--picture-width", help="Make pictures so many pixels wide.")]


# Look


@datasets.command("list")
def list_datasets(limit: Most = 50, lab: OfLab = "", as_json: AsJson = False) -> None:
    """The newest first."""
    with Fleet(lab=lab) as fleet:
        found = first(fleet.list_datasets(), limit)
    show(found) if as_json else table_of_datasets(found)


@datasets.command("versions")
def list_versions(number: int, limit: Most = 50, lab: OfLab = "", as_json: AsJson = False) -> None:
    """All versions of a dataset's name, the newest first."""
    with Fleet(lab=lab) as fleet:
        found = first(fleet.list_versions(number), limit)
    show(found) if as_json else table_of_datasets(found)


def table_of_datasets(found: list[DatasetRow]) -> None:
    """A line each; the one that its name shows has a star."""
    rows = [
        (
            each.id,
            each.name,
            f"{each.version}{' *' if each.current else ''}",
            each.embodiment,
            each.episodes,
            each.steps,
            each.state,
            ", ".join(each.tags),
        )
        for each in found
    ]
    heads = ("id", "name", "version", "body", "episodes", "steps", "state", "tags")
    table(heads, rows, "There are none: fleet datasets push PATH")


@datasets.command("show")
def show_dataset(number: int, lab: OfLab = "", as_json: AsJson = False) -> None:
    """One version: what it holds, and what was said of it."""
    with Fleet(lab=lab) as fleet:
        found = fleet.show_dataset(number)
    show(found) if as_json else table(("", ""), facts_of(found), "")


def facts_of(found: DatasetDetail) -> list[tuple[object, ...]]:
    """Of a version, a line each."""
    facts = found.facts
    rows: list[tuple[object, ...]] = [
        ("name", f"{found.name}, version {found.version}{' (current)' if found.current else ''}"),
        ("body", found.embodiment),
        ("state", found.state),
        ("from", ", ".join(f"{name}: {value}" for name, value in found.origin.items() if value not in (None, "", []))),
        ("episodes", facts.episodes),
        ("steps", f"{found.steps} ({facts.shortest} to {facts.longest} an episode)"),
        ("flagged", facts.flagged),
        ("stand out", facts.unusual),
        ("cut", facts.trimmed),
        ("tags", ", ".join(found.tags)),
        ("notes", found.notes),
    ]
    return rows + [("words", f"{each.instruction} ({each.episodes})") for each in facts.words]


@datasets.command("episodes")
def list_dataset_episodes(
    number: int,
    flagged: Annotated[bool | None, typer.Option("--flagged/--not-flagged", help="By the flag.")] = None,
    unusual: Annotated[bool | None, typer.Option("--unusual/--usual", help="By what stands out.")] = None,
    tag: Annotated[str, typer.Option(help="With this tag.")] = "",
    query: Annotated[str, typer.Option(help="With these words.")] = "",
    sort: Annotated[str, typer.Option(help="position, steps, instruction, ending, weight or jerk; -steps: down.")] = "",
    limit: Most = 200,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Episodes of a version, and what stands out."""
    with Fleet(lab=lab) as fleet:
        rows = fleet.list_dataset_episodes(number, flagged=flagged, unusual=unusual, tag=tag, query=query, sort=sort)
        found = first(rows, limit)
    if as_json:
        return show(found)
    lines = [
        (
            each.position,
            each.instruction,
            each.steps,
            each.ending,
            "flagged" if each.flagged else "",
            ", ".join(each.tags),
            " ".join(each.unusual),
        )
        for each in found
    ]
    return table(("episode", "words", "steps", "ended", "flag", "tags", "stands out"), lines, "None fits.")


# Send


@datasets.command("push")
def push_dataset(
    path: Annotated[Path, typer.Argument(exists=True, help="A LeRobot dataset or a file of episodes.")],
    name: Annotated[str, typer.Option(help="Left out: the file's or the folder's.")] = "",
    yes: Yes = False,
    picture_width: Width = None,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Send a LeRobot dataset (its folder, or a .zip or .tar of it), or one file of episodes (.safetensors).

    All of a LeRobot dataset is looked at first; where something is doubtful you are asked. An upload that broke off
    goes on where it was when the same is pushed again.
    """
    name = name or (path.resolve().name if path.is_dir() else path.stem.removesuffix(".tar"))
    with Fleet(lab=lab) as fleet:
        if is_dataset(path):
            with bar_of(path.name, as_json) as tell:
                row = fleet.import_dataset(path, name, picture_width=picture_width, progress=tell)
            return end_import(fleet, row, yes, as_json)
        with bar_of(path.name, as_json) as tell:
            made = fleet.push_dataset(path, name, progress=tell)
    return say_made(made, as_json)


@datasets.command("import")
def import_dataset(
    place: Annotated[str, typer.Argument(help="A folder of the server, below one of its FLEETUI_IMPORT_ROOTS.")],
    name: Annotated[str, typer.Option(help="Left out: the folder's.")] = "",
    yes: Yes = False,
    picture_width: Width = None,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """A LeRobot dataset that lies on the server already; nothing is sent."""
    with Fleet(lab=lab) as fleet:
        row = fleet.import_server_folder(place, name or Path(place).name, picture_width=picture_width)
        end_import(fleet, row, yes, as_json)


@datasets.command("imports")
def list_imports(limit: Most = 20, lab: OfLab = "", as_json: AsJson = False) -> None:
    """What is on its way in, and what came of it; the newest first."""
    with Fleet(lab=lab) as fleet:
        found = first(fleet.list_imports(), limit)
    if as_json:
        return show(found)
    rows = [
        (
            each.id,
            each.name,
            each.place,
            each.state,
            f"{each.progress:.0%}",
            each.dataset,
            age(each.created_at),
            each.error,
        )
        for each in found
    ]
    heads = ("id", "name", "from", "state", "done", "dataset", "begun", "error")
    return table(heads, rows, "There are none: fleet datasets push PATH")


@datasets.command("answer")
def answer_import(
    number: int,
    yes: Annotated[bool | None, typer.Option("--yes/--no", help="Go on, or don't import it.")] = None,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Answer what an import asks, and stay until it has ended. Without --yes or --no each question is put to you."""
    with Fleet(lab=lab) as fleet:
        row = fleet.show_import(number)
        if row.state == "asking" and yes is False:
            row = fleet.answer_import(number, {each.code: False for each in row.questions})
        end_import(fleet, row, bool(yes), as_json)


@datasets.command("cancel")
def cancel_import(number: int, lab: OfLab = "", as_json: AsJson = False) -> None:
    """Give an import up, by its number; nothing of it stays."""
    with Fleet(lab=lab) as fleet:
        row = fleet.cancel_import(number)
    show(row) if as_json else out.print(f"Import {row.id} of {row.name} is {row.state}.")


def end_import(fleet: Fleet, row: ImportRow, yes: bool, as_json: bool) -> None:
    """Follow an import, with answers to what it asks, until its dataset is there; raise where none comes of it."""
    while row.state != "ready":
        with share_bar("waiting", as_json) as tell:
            for said in fleet.watch_import(row.id):
                row = said
                tell(said.progress, said.phase or said.state)
        if row.state == "asking":
            row = fleet.answer_import(row.id, answers_to(row, yes, may_ask=not as_json and sys.stdin.isatty()))
        elif row.state != "ready":
            raise FleetError("\n".join([f"Import {row.id} is {row.state}. {row.error}".strip(), *problems_of(row)]))
    assert row.dataset is not None  # one that is ready has made it
    for line in () if as_json else problems_of(row):
        err.print(line, style="yellow")
    say_made(fleet.show_dataset(row.dataset), as_json)


def answers_to(row: ImportRow, yes: bool, may_ask: bool) -> dict[str, bool]:
    """By the codes of what is not answered yet."""
    open_questions = [each for each in row.questions if each.answer is None]
    if yes:
        return {each.code: True for each in open_questions}
    if not may_ask:
        asked = " ".join(each.text for each in open_questions)
        raise FleetError(f"Import {row.id} asks: {asked} Answer with: fleet datasets answer {row.id} --yes (or --no)")
    return {each.code: typer.confirm(each.text, err=True) for each in open_questions}


def problems_of(row: ImportRow) -> Iterator[str]:
    """What was found, a line each; the first ones."""
    for each in row.problems[:SHOWN_PROBLEMS]:
        where = [each.file, f"episode {each.episode}" if each.episode is not None else "", each.field]
        yield f"{' '.join(filter(None, where))}: {each.text}".removeprefix(": ")
    if len(row.problems) > SHOWN_PROBLEMS:
        yield f"and {len(row.problems) - SHOWN_PROBLEMS} more: fleet datasets imports --json"


def say_made(made: DatasetRow | DatasetDetail, as_json: bool) -> None:
    """What came of it."""
    if as_json:
        return show(made)
    return out.print(f"Dataset {made.id}, {made.name}, version {made.version}: {made.episodes} episodes.")


# Fetch


@datasets.command("pull")
def pull_dataset(
    number: int,
    to: Annotated[Path | None, typer.Option(help="The file; left out: the dataset's name, here.")] = None,
    kind: Annotated[
        str,
        typer.Option(
            "--as",
            help="episodes: one file of episodes, as it was pushed; lerobot: a .zip; of one --episode mcap, or mp4 of "
            "a --camera. Left out: episodes where it is one such file, else lerobot.",
        ),
    ] = "",
    episode: Annotated[int | None, typer.Option(help="By its position; for mcap and mp4.")] = None,
    camera: Annotated[str, typer.Option(help="For mp4.")] = "",
    quality: Annotated[str, typer.Option(help="Of videos: high, small or lossless.")] = "high",
    overwrite: Overwrite = False,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Fetch a version of a dataset, or one episode of it. A fetch that broke off goes on where it was."""
    if kind and kind not in SUFFIXES:
        raise typer.BadParameter(f"There are {', '.join(SUFFIXES)}.", param_hint="--as")
    with Fleet(lab=lab) as fleet:
        found = fleet.show_dataset(number)
        kind = kind or ("episodes" if found.single else "lerobot")
        target = to or Path(file_name(name_of(found, episode, camera), SUFFIXES[kind]))
        if kind == "episodes":
            with bar_of(target.name, as_json) as tell:
                path = fleet.pull_dataset(number, target, overwrite=overwrite, progress=tell)
        else:
            row = fleet.export_dataset(number, kind, position=episode, camera=camera, quality=quality)
            with share_bar("the server makes it", as_json) as tell:
                for said in fleet.watch_export(row.id):
                    row = said
                    tell(row.progress, f"the server makes {target.name}")
            if row.state != "ready":
                raise FleetError(f"Export {row.id} is {row.state}. {row.error}".strip())
            with bar_of(target.name, as_json) as tell:
                path = fleet.pull_export(row.id, target, overwrite=overwrite, progress=tell)
    show({"file": str(path), "as": kind}) if as_json else out.print(str(path))


def name_of(found: DatasetDetail, episode: int | None, camera: str) -> str:
    """Of the file in which it is kept."""
    version = f" v{found.version}" if found.version > 1 else ""
    return f"{found.name}{version}{'' if episode is None else f' episode {episode}'}{f' {camera}' if camera else ''}"


@datasets.command("convert")
def convert_dataset(
    source: Annotated[Path, typer.Argument(exists=True)], target: Annotated[Path, typer.Argument()]
) -> None:
    """A LeRobot dataset becomes a file of episodes, or a file of episodes a LeRobot dataset. Nothing is sent."""
    try:
        found = importlib.util.find_spec(CONVERTER)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise FleetError(
            f"Converting takes the project itself, and {CONVERTER} is not installed here. Convert where the fleet is "
            "installed, or push a file of episodes."
        )
    command = [sys.executable, "-m", "robots", "dataset", "convert", str(source), str(target)]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise FleetError(done.stderr.strip() or f"The converter ended with {done.returncode}.")
    err.print(done.stderr.strip())
    out.print(str(target))


# Edit: each makes the next version


@datasets.command("trim")
def trim_episodes(
    number: int,
    cut: Annotated[
        list[str] | None,
        typer.Option(help="EPISODE:FIRST:STOP, the steps that stay; STOP is one after the last. May be said again."),
    ] = None,
    idle: Annotated[bool, typer.Option("--idle", help="Cut what is idle at the beginnings and ends.")] = False,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Cut episodes at their ends; what lies on disk stays whole."""
    if bool(cut) == idle:
        raise typer.BadParameter("Say --idle, or what stays of which episode, as in --cut 0:5:40.")
    edit(number, "trim", lab, as_json, **({"idle": True} if idle else {"cuts": read_cuts(cut or [])}))


def read_cuts(given: list[str]) -> dict[str, list[int]]:
    """Position to the first step and one after the last."""
    cuts = {}
    for each in given:
        parts = each.split(":")
        if len(parts) != 3 or not all(part.isdecimal() for part in parts):
            raise typer.BadParameter(f"{each!r} is not as in 0:5:40.", param_hint="--cut")
        cuts[parts[0]] = [int(parts[1]), int(parts[2])]
    return cuts


@datasets.command("relabel")
def relabel_episodes(number: int, words: str, which: Which, lab: OfLab = "", as_json: AsJson = False) -> None:
    """Say anew what episodes do."""
    edit(number, "relabel", lab, as_json, positions=read_positions(which), instruction=words)


@datasets.command("flag")
def flag_episodes(
    number: int,
    which: Which,
    off: Annotated[bool, typer.Option("--off", help="Take the flag away.")] = False,
    note: Annotated[str | None, typer.Option(help="In place of their notes.")] = None,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Mark episodes to be looked at."""
    edit(number, "unflag" if off else "flag", lab, as_json, positions=read_positions(which), note=note)


@datasets.command("leave-out")
def leave_out(number: int, which: Which, lab: OfLab = "", as_json: AsJson = False) -> None:
    """A version without these episodes."""
    edit(number, "delete", lab, as_json, positions=read_positions(which))


@datasets.command("tag")
def tag(
    number: int,
    add: Annotated[list[str] | None, typer.Option(help="A tag to give; may be said again.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="A tag to take away; may be said again.")] = None,
    which: Which = "",
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Give a dataset tags, or with --episodes some of its episodes."""
    if not (add or remove):
        raise typer.BadParameter("Say which, as in --add clean.")
    if which:
        positions = read_positions(which)
        return edit(number, "tag", lab, as_json, positions=positions, add=add or [], remove=remove or [])
    with Fleet(lab=lab) as fleet:
        tags = [each for each in fleet.show_dataset(number).tags if each not in (remove or [])]
        made = fleet.edit_dataset(number, "tag_dataset", tags=[*tags, *(add or [])])
    return say_made(made, as_json)


@datasets.command("note")
def note_dataset(number: int, text: str, lab: OfLab = "", as_json: AsJson = False) -> None:
    """Write down what people should know of it, in place of what stands there."""
    edit(number, "note_dataset", lab, as_json, note=text)


@datasets.command("undo")
def undo_edit(number: int, lab: OfLab = "", as_json: AsJson = False) -> None:
    """Go back to the version that this one was made of; this one is kept."""
    with Fleet(lab=lab) as fleet:
        made = fleet.undo_edit(number)
    say_made(made, as_json)


def edit(number: int, act: str, lab: str, as_json: bool, **how: Any) -> None:
    """Make the next version, and say which."""
    with Fleet(lab=lab) as fleet:
        made = fleet.edit_dataset(number, act, **plain(how))
    say_made(made, as_json)


def read_positions(which: str) -> list[int]:
    """0,2,5-9"""
    found: list[int] = []
    for part in which.split(","):
        low, dash, high = part.strip().partition("-")
        if not low.isdecimal() or (dash and not high.isdecimal()):
            raise typer.BadParameter(f"{part!r} is not as in 0,2,5-9.", param_hint="--episodes")
        found += range(int(low), int(high or low) + 1)
    return list(dict.fromkeys(found))
