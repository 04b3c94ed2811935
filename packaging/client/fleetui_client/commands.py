"""fleet: the command line of a fleet.

Exit codes: 0 it is done; 1 the fleet refused it, or the run that was watched did not complete; 2 the command was typed
wrong; 3 no fleet can be reached; 4 the token does not open this, or there is none.
"""

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from fleetui_client.answers import Comparison, Level, MetricRow, RunRow
from fleetui_client.errors import FleetError, NotAuthorised, NotLoggedIn, Unreachable
from fleetui_client.login import LOCAL, Login, forget_login, write_login
from fleetui_client.reading import plain
from fleetui_client.synchronous import Fleet

DONE, FAILED, WRONG_USE, NOT_REACHED, NOT_ALLOWED, INTERRUPTED = 0, 1, 2, 3, 4, 130
CONVERTER = "robots.lerobot"  # by python -m robots dataset convert, where the project itself is installed

# Names of the fleet may look like rich's markup, and mean none.
out = Console(highlight=False, soft_wrap=True, markup=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)
app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
runs = typer.Typer(no_args_is_help=True, help="Runs: list, launch, watch, cancel and compare them.")
datasets = typer.Typer(no_args_is_help=True, help="Datasets: list, fetch, send and convert them.")
episodes = typer.Typer(no_args_is_help=True, help="Episodes that stations recorded.")
checkpoints = typer.Typer(no_args_is_help=True, help="Checkpoints of a run.")
stations = typer.Typer(no_args_is_help=True, help="Stations: list and stop them.")
for name, group in (
    ("runs", runs),
    ("datasets", datasets),
    ("episodes", episodes),
    ("checkpoints", checkpoints),
    ("stations", stations),
):
    app.add_typer(group, name=name)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
OfLab = Annotated[str, typer.Option("--lab", help="The lab's slug, where the token opens several.")]
Most = Annotated[int, typer.Option("--limit", min=1, help="How many at most.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Where the file is there already.")]


# Who


@app.command()
def login(
    url: Annotated[str, typer.Argument(help="Such as https://fleet.example; asked for where it is left out.")] = "",
    lab: OfLab = "",
) -> None:
    """Keep a fleet's address and an access token for the commands to come, readable by you alone.

    The token comes from the page Access tokens. It is asked for, or read from what is piped in: never an argument,
    which others on this machine could read.
    """
    url = (url or typer.prompt("Address of the fleet")).rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise typer.BadParameter(f"{url!r} is no address such as https://fleet.example.")
    if parts.scheme == "http" and parts.hostname not in LOCAL:
        err.print("This address is not encrypted: whoever listens on the way can read the token.", style="yellow")
    piped = not sys.stdin.isatty()
    token = (sys.stdin.readline() if piped else typer.prompt("Access token", hide_input=True)).strip()
    with Fleet(url, token or "none", lab) as fleet:
        me = fleet.me()
    known = [each.slug for each in me.labs]
    if lab and lab not in known:
        raise FleetError(f"This token opens {', '.join(known) or 'no lab'}, not {lab}.")
    path = write_login(Login(url, token, lab))
    scopes = ", ".join(me.token.scopes) if me.token else ""
    out.print(f"You are {me.name} at {url}; this token may {scopes}, in {', '.join(known) or 'no lab yet'}.")
    err.print(f"Kept in {path}")


@app.command()
def logout() -> None:
    """Forget the address and the token. The token itself stays good until you revoke it on its page."""
    out.print("Forgotten." if forget_login() else "There was none.")


@app.command()
def whoami(as_json: AsJson = False) -> None:
    """Whose token it is, what it may do, and in which labs."""
    with Fleet() as fleet:
        me = fleet.me()
        if as_json:
            return show(me)
        out.print(f"{me.name} at {fleet.url}")
    if me.token:
        out.print(f"token “{me.token.name}”: {', '.join(me.token.scopes)}, until {me.token.expires_at:%Y-%m-%d}")
    for lab in me.labs:
        out.print(f"{lab.slug}: {lab.role}")
    return None


# Runs


@runs.command("list")
def list_runs(
    kind: Annotated[str, typer.Option(help="Of this method alone.")] = "",
    limit: Most = 50,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """The newest first."""
    with Fleet(lab=lab) as fleet:
        found = first(fleet.list_runs(kind=kind), limit)
    if as_json:
        return show(found)
    rows = [(run.id, run.name, run.kind, run.state, f"{run.progress:.0%}", age(run.created_at)) for run in found]
    return table(("id", "name", "kind", "state", "done", "launched"), rows, "There are no runs: fleet runs launch")


@runs.command("launch")
def launch_run(
    kind: Annotated[str, typer.Argument(help="The method: sft, improve, or another one of the server's.")],
    name: Annotated[str, typer.Option(help="How pages call it.")] = "",
    dataset: Annotated[int | None, typer.Option(help="Number of the demonstrations.")] = None,
    corrections: Annotated[int | None, typer.Option(help="Number of the dataset of corrections.")] = None,
    parent: Annotated[int | None, typer.Option(help="Number of the run to start from.")] = None,
    task: Annotated[str | None, typer.Option(help="Slug of the task to practise.")] = None,
    station: Annotated[list[str] | None, typer.Option(help="A station to practise on; may be said again.")] = None,
    on: Annotated[str, typer.Option(help="cpu, or gpu: a machine with a graphics card.")] = "cpu",
    recipe: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="A JSON file of the recipe.")] = None,
    setting: Annotated[
        list[str] | None, typer.Option("--set", help="A field of the recipe, as in steps=2000; may be said again.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Stay until it has ended.")] = False,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Launch a run. Fields that no recipe sets take the server's defaults."""
    wanted = read_recipe(recipe, setting or [])
    with Fleet(lab=lab) as fleet:
        run = fleet.launch_run(
            kind,
            name=name,
            recipe=wanted,
            dataset=dataset,
            corrections=corrections,
            parent=parent,
            task=task,
            stations=station or [],
            queue=on,
        )
        if watch:
            follow(fleet, run.id, as_json)
        elif as_json:
            show(run)
        else:
            out.print(f"Run {run.id}, {run.name}, is {run.state}. fleet runs watch {run.id}")


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
    for each in settings:
        field, equals, value = each.partition("=")
        if not equals or not field:
            raise typer.BadParameter(f"{each!r} is not as in steps=2000.", param_hint="--set")
        try:
            wanted[field] = json.loads(value)
        except ValueError:
            wanted[field] = value
    return dict(wanted)


@runs.command("watch")
def watch_run(number: int, lab: OfLab = "", as_json: AsJson = False) -> None:
    """Follow a run until it has ended; 1 is the exit code of a run that did not complete. With --json each line is an
    object: {"run": ...} or {"metric": ...}.
    """
    with Fleet(lab=lab) as fleet:
        follow(fleet, number, as_json)


def follow(fleet: Fleet, number: int, as_json: bool) -> None:
    """Print what a run says until it has ended; raise where it failed."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f} %"))
    last: RunRow | None = None
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True, disable=as_json) as progress:
        bar = progress.add_task("waiting", total=1.0)
        for said in fleet.watch_run(number):
            if as_json:
                print(json.dumps({"run" if isinstance(said, RunRow) else "metric": plain(said)}), flush=True)
            if isinstance(said, RunRow):
                last = said
                progress.update(bar, completed=said.progress, description=said.phase or said.state)
            elif not as_json and (line := line_of(said)):
                (err if out.is_terminal and err.is_terminal else out).print(line)
    assert last is not None  # a run that is watched is shown first
    if last.state != "completed":
        raise FleetError(f"Run {number} is {last.state}. {last.error}".strip())
    if not as_json:
        out.print(f"Run {number} is completed.")


def line_of(metric: MetricRow) -> str:
    """What is worth a line of what a run says; the curves are for the pages."""
    data = metric.data
    if metric.kind == "note":
        return str(data.get("text", ""))
    if metric.kind == "evaluation":
        return f"version {data.get('version')}: {data.get('successes')} of {data.get('n')} evaluation episodes succeed"
    return f"failed: {data.get('reason')}" if metric.kind == "failed" else ""


@runs.command("cancel")
def cancel_run(number: int, lab: OfLab = "", as_json: AsJson = False) -> None:
    """It ends, and keeps its checkpoints."""
    with Fleet(lab=lab) as fleet:
        run = fleet.cancel_run(number)
    show(run) if as_json else out.print(f"Run {run.id} is {run.state}.")


@runs.command("compare")
def compare_runs(numbers: Annotated[list[int], typer.Argument()], lab: OfLab = "", as_json: AsJson = False) -> None:
    """Newest figures of up to 20 runs side by side, and the fields in which their recipes differ."""
    with Fleet(lab=lab) as fleet:
        found = fleet.compare_runs(numbers)
    show(found) if as_json else table_of_comparison(found)


def table_of_comparison(found: Comparison) -> None:
    """A column a run."""

    def rate(level: Level | None) -> str:
        return f"{level.rate:.3f} ({level.low:.3f} to {level.high:.3f})" if level else "none"

    rows: list[tuple[object, ...]] = [
        ("name", *(run.name for run in found.runs)),
        ("kind", *(run.kind for run in found.runs)),
        ("state", *(run.state for run in found.runs)),
        ("true success, 95 %", *(rate(run.evaluation) for run in found.runs)),
        ("evaluation episodes", *(run.evaluation.n if run.evaluation else 0 for run in found.runs)),
        ("practice episodes", *(run.practice_episodes for run in found.runs)),
        ("minutes", *(f"{run.duration_s / 60:.1f}" if run.duration_s else "" for run in found.runs)),
    ]
    rows += [(f"recipe: {field}", *values) for field, values in found.differences.items()]
    table(("", *(f"run {run.id}" for run in found.runs)), rows, "")


# Datasets


@datasets.command("list")
def list_datasets(limit: Most = 50, lab: OfLab = "", as_json: AsJson = False) -> None:
    """The newest first."""
    with Fleet(lab=lab) as fleet:
        found = first(fleet.list_datasets(), limit)
    if as_json:
        return show(found)
    rows = [(each.id, each.name, each.embodiment, each.episodes, each.steps, each.state) for each in found]
    return table(("id", "name", "body", "episodes", "steps", "state"), rows, "There are none: fleet datasets push FILE")


@datasets.command("push")
def push_dataset(
    file: Annotated[Path, typer.Argument(exists=True, dir_okay=False)],
    name: Annotated[str, typer.Option(help="Left out: the file's.")] = "",
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Send a file of episodes (safetensors), which becomes a dataset."""
    with Fleet(lab=lab) as fleet, bar_of(file.name, as_json) as tell:
        made = fleet.push_dataset(file, name or file.stem, progress=tell)
    show(made) if as_json else out.print(f"Dataset {made.id}, {made.name}: {made.episodes} episodes.")


@datasets.command("pull")
def pull_dataset(
    number: int,
    to: Annotated[Path | None, typer.Option(help="The file; left out: the dataset's name, here.")] = None,
    overwrite: Overwrite = False,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Fetch a dataset as one file. A fetch that broke off goes on where it was."""
    with Fleet(lab=lab) as fleet:
        target = to or Path(file_name(fleet.show_dataset(number).name))
        with bar_of(target.name, as_json) as tell:
            path = fleet.pull_dataset(number, target, overwrite=overwrite, progress=tell)
    show({"file": str(path)}) if as_json else out.print(str(path))


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


# Episodes


@episodes.command("export")
def export_episodes(
    to: Annotated[Path, typer.Argument(help="A folder: one file an episode, named by its uuid.")],
    run: Annotated[int | None, typer.Option(help="Of this run.")] = None,
    station: Annotated[str, typer.Option(help="Of this station.")] = "",
    task: Annotated[str, typer.Option(help="Of this task.")] = "",
    purpose: Annotated[str, typer.Option(help="demonstration, practice, evaluation or correction.")] = "",
    detected: Annotated[bool | None, typer.Option("--detected/--not-detected", help="By detected success.")] = None,
    true: Annotated[bool | None, typer.Option("--true/--not-true", help="By true success.")] = None,
    limit: Most = 1000,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Fetch episodes, the newest first, each as it was recorded. What lies in the folder already is not fetched again;
    index.jsonl there says what each is.
    """
    to.mkdir(parents=True, exist_ok=True)
    fetched = 0
    with Fleet(lab=lab) as fleet:
        found = first(
            fleet.list_episodes(run=run, station=station, task=task, purpose=purpose, detected=detected, true=true),
            limit,
        )
        with Progress(console=err, transient=True, disable=as_json) as progress:
            for row in progress.track(found, description="episodes"):
                target = to / f"{row.uuid}.safetensors"
                if not target.exists():
                    fleet.pull_episode(row.uuid, target)
                    fetched += 1
    known = read_index(to / "index.jsonl") | {row.uuid: plain(row) for row in found}
    (to / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in known.values()))
    if as_json:
        show({"folder": str(to), "episodes": len(found), "fetched": fetched})
    else:
        out.print(f"{len(found)} episodes in {to}, {fetched} of them new.")


def read_index(path: Path) -> dict[str, Any]:
    """What earlier exports into the folder said, by uuid."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["uuid"]: row for row in map(json.loads, lines)}


# Checkpoints


@checkpoints.command("list")
def list_checkpoints(run: int, lab: OfLab = "", as_json: AsJson = False) -> None:
    """Of a run, the oldest first."""
    with Fleet(lab=lab) as fleet:
        found = fleet.list_checkpoints(run)
    if as_json:
        return show(found)
    rows = [(each.id, each.role, each.version, age(each.created_at)) for each in found]
    return table(("id", "role", "version", "made"), rows, f"Run {run} has none yet.")


@checkpoints.command("pull")
def pull_checkpoint(
    run: int,
    to: Annotated[Path | None, typer.Option(help="The file; left out: named by run, role and version, here.")] = None,
    role: Annotated[str, typer.Option(help="policy or reward_model.")] = "policy",
    version: Annotated[int | None, typer.Option(help="Left out: the one that was kept, else the newest.")] = None,
    overwrite: Overwrite = False,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Fetch weights of a run, whose digest is checked. A fetch that broke off goes on where it was."""
    with Fleet(lab=lab) as fleet:
        row = fleet.show_run(run)
        kept = row.kept_version if version is None and role == "policy" else version
        found = [each for each in row.checkpoints if each.role == role and kept in (None, each.version)]
        if not found:
            which = f" of version {kept}" if kept is not None else ""
            raise FleetError(f"Run {run} has no {role}{which}; fleet checkpoints list {run}")
        newest = max(found, key=lambda each: (each.version, each.created_at))
        target = to or Path(f"run-{run}-{role}-{newest.version}.safetensors")
        with bar_of(target.name, as_json) as tell:
            path = fleet.pull_checkpoint(newest.id, target, overwrite=overwrite, progress=tell)
    show({"file": str(path), "checkpoint": plain(newest)}) if as_json else out.print(str(path))


# Stations


@stations.command("list")
def list_stations(lab: OfLab = "", as_json: AsJson = False) -> None:
    """By number."""
    with Fleet(lab=lab) as fleet:
        found = list(fleet.list_stations())
    if as_json:
        return show(found)
    rows = [(each.slug, each.name, each.state, each.task, each.run, each.reason) for each in found]
    return table(("station", "name", "state", "task", "run", "why"), rows, "The lab has no stations.")


@stations.command("stop")
def stop_stations(
    station: Annotated[list[str] | None, typer.Argument(help="Which; left out: say --all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Every station of the lab.")] = False,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """The software stop, at once and without a question. 1 is the exit code where a station has not confirmed it."""
    if bool(station) == every:
        raise typer.BadParameter("Name the stations, or say --all.")
    with Fleet(lab=lab) as fleet:
        said = [fleet.stop_stations(each) for each in station or [""]]
    rows = [row for answer in said for row in answer.stations]
    if as_json:
        show(said)
    else:
        table(("station", "name", "outcome"), [(row.station, row.name, row.outcome) for row in rows], "None to stop.")
    problems = [answer.detail for answer in said if answer.detail]
    if missed := [row.station for row in rows if row.outcome != "confirmed"]:
        problems.append(f"Not confirmed by {', '.join(missed)}: go there, or use the robot's own emergency stop.")
    if problems:
        raise FleetError(" ".join(problems))


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


def file_name(name: str) -> str:
    """Of a dataset: a name may hold what no file's name can."""
    return "".join(each if each.isalnum() or each in "-_ ." else "-" for each in name).strip(" .") + ".safetensors"


@contextmanager
def bar_of(name: str, silent: bool) -> Iterator[Any]:
    """A bar of bytes; gives what is told how far it is."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=silent) as progress:
        bar = progress.add_task(name, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def main() -> int:
    """Carry out one command; the process's exit code."""
    try:
        app()
    except FleetError as error:
        err.print(str(error), style="red")
        if isinstance(error, Unreachable):
            return NOT_REACHED
        return NOT_ALLOWED if isinstance(error, NotAuthorised | NotLoggedIn) else FAILED
    except OSError as error:
        err.print(f"A file can't be read or written: {error}", style="red")
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE
