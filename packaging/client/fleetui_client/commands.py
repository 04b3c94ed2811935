"""fleet: the command line of a fleet.

Exit codes: 0 it is done; 1 the fleet refused it, or the run that was watched did not complete; 2 the command was typed
wrong; 3 no fleet can be reached; 4 the token does not open this, or there is none.
"""

import json
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.progress import Progress

from fleetui_client.answers import Comparison, Level, MetricRow, RunRow
from fleetui_client.checkpoint_commands import checkpoints, checks
from fleetui_client.dataset_commands import datasets
from fleetui_client.errors import FleetError, NotAuthorised, NotLoggedIn, Unreachable
from fleetui_client.login import LOCAL, Login, forget_login, write_login
from fleetui_client.model_commands import models
from fleetui_client.reading import plain
from fleetui_client.sweep_commands import sweeps
from fleetui_client.synchronous import Fleet
from fleetui_client.terminal import (
    AsJson,
    Most,
    OfLab,
    RecipeFile,
    Settings,
    age,
    err,
    first,
    out,
    read_recipe,
    share_bar,
    show,
    table,
)

DONE, FAILED, WRONG_USE, NOT_REACHED, NOT_ALLOWED, INTERRUPTED = 0, 1, 2, 3, 4, 130

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
runs = typer.Typer(no_args_is_help=True, help="Runs: list, launch, watch, cancel, compare and describe them.")
episodes = typer.Typer(no_args_is_help=True, help="Episodes that stations recorded.")
stations = typer.Typer(no_args_is_help=True, help="Stations: list and stop them.")
for name, group in (
    ("runs", runs),
    ("sweeps", sweeps),
    ("models", models),
    ("datasets", datasets),
    ("episodes", episodes),
    ("checkpoints", checkpoints),
    ("checks", checks),
    ("stations", stations),
):
    app.add_typer(group, name=name)


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
    recipe: RecipeFile = None,
    setting: Settings = None,
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


@runs.command("watch")
def watch_run(number: int, lab: OfLab = "", as_json: AsJson = False) -> None:
    """Follow a run until it has ended; 1 is the exit code of a run that did not complete. With --json each line is an
    object: {"run": ...} or {"metric": ...}.
    """
    with Fleet(lab=lab) as fleet:
        follow(fleet, number, as_json)


def follow(fleet: Fleet, number: int, as_json: bool) -> None:
    """Print what a run says until it has ended; raise where it failed."""
    last: RunRow | None = None
    with share_bar("waiting", as_json) as tell:
        for said in fleet.watch_run(number):
            if as_json:
                print(json.dumps({"run" if isinstance(said, RunRow) else "metric": plain(said)}), flush=True)
            if isinstance(said, RunRow):
                last = said
                tell(said.progress, said.phase or said.state)
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


@runs.command("tag")
def tag_runs(
    numbers: Annotated[list[int], typer.Argument()],
    add: Annotated[list[str] | None, typer.Option(help="A tag to give; may be said again.")] = None,
    remove: Annotated[list[str] | None, typer.Option(help="A tag to take away; may be said again.")] = None,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Give runs tags, by which the table of runs is filtered."""
    with Fleet(lab=lab) as fleet:
        changed = fleet.tag_runs(numbers, add=add or [], remove=remove or [])
    show({"changed": changed}) if as_json else out.print(f"{changed} of {len(numbers)} runs changed.")


@runs.command("note")
def note_run(number: int, text: str, lab: OfLab = "", as_json: AsJson = False) -> None:
    """Write down what is worth knowing of a run, in place of what stands there."""
    with Fleet(lab=lab) as fleet:
        run = fleet.note_run(number, text)
    show(run) if as_json else out.print(f"Kept with run {run.id}, {run.name}.")


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
