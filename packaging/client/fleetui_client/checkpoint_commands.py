"""fleet checkpoints: fetch, promote and compare them; fleet checks: what the detector called a success, looked at."""

from pathlib import Path
from typing import Annotated

import typer

from fleetui_client.answers import Attempts, CheckpointRow, PolicyComparison
from fleetui_client.errors import FleetError
from fleetui_client.reading import plain
from fleetui_client.synchronous import Fleet
from fleetui_client.terminal import AsJson, Most, OfLab, Overwrite, age, bar_of, first, out, share_bar, show, table

checkpoints = typer.Typer(no_args_is_help=True, help="Checkpoints: list, fetch, promote and compare them.")
checks = typer.Typer(no_args_is_help=True, help="Spot checks: detected successes that people look at.")
OfRole = Annotated[str, typer.Option(help="policy or reward_model.")]
OfVersion = Annotated[int | None, typer.Option(help="Left out: the one that was kept, else the newest.")]
Policy = Annotated[str, typer.Argument(help="A checkpoint's id, or a run: 12 for the kept policy, 12:3 for version 3.")]
ANSWERS = {"yes": True, "no": False, "skip": None}


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
    role: OfRole = "policy",
    version: OfVersion = None,
    overwrite: Overwrite = False,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Fetch weights of a run, whose digest is checked. A fetch that broke off goes on where it was."""
    with Fleet(lab=lab) as fleet:
        chosen = choose(fleet, run, role, version)
        target = to or Path(f"run-{run}-{role}-{chosen.version}.safetensors")
        with bar_of(target.name, as_json) as tell:
            path = fleet.pull_checkpoint(chosen.id, target, overwrite=overwrite, progress=tell)
    show({"file": str(path), "checkpoint": plain(chosen)}) if as_json else out.print(str(path))


def choose(fleet: Fleet, run: int, role: str, version: int | None) -> CheckpointRow:
    """Of a run: of this version, else the kept one, else the newest."""
    row = fleet.show_run(run)
    kept = row.kept_version if version is None and role == "policy" else version
    found = [each for each in row.checkpoints if each.role == role and kept in (None, each.version)]
    if not found:
        which = f" of version {kept}" if kept is not None else ""
        raise FleetError(f"Run {run} has no {role}{which}; fleet checkpoints list {run}")
    return max(found, key=lambda each: (each.version, each.created_at))


def id_of(fleet: Fleet, which: str) -> str:
    """Of a policy, as a person names it."""
    run, colon, version = which.partition(":")
    if not run.isdecimal() or (colon and not version.isdecimal()):
        return which
    return choose(fleet, int(run), "policy", int(version) if colon else None).id


# What is in force


@checkpoints.command("promote")
def promote_checkpoint(
    run: int,
    role: OfRole = "policy",
    version: OfVersion = None,
    why: Annotated[str, typer.Option(help="Others read it.")] = "",
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Make a run's policy the lab's default for its body, or put a version of its reward model in force."""
    with Fleet(lab=lab) as fleet:
        chosen = choose(fleet, run, role, version)
        made = fleet.promote_checkpoint(chosen.id, why)
    if as_json:
        return show(made)
    said = f"{role.replace('_', ' ')} v{chosen.version} of run {run} is in force from now on."
    return out.print(f"{said} To go back: fleet checkpoints rollback {made.id}")


@checkpoints.command("threshold")
def publish_threshold(
    run: int,
    steps: Annotated[float, typer.Option("--s", help="d at or below so many steps is success.")],
    frames: Annotated[int, typer.Option("--k", help="For so many frames in a row.")],
    why: Annotated[str, typer.Option(help="Others read it.")],
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Publish another threshold for a run's reward model, as a new version that is in force at once."""
    with Fleet(lab=lab) as fleet:
        made = fleet.publish_threshold(choose(fleet, run, "reward_model", None).id, steps, frames, why)
    if as_json:
        return show(made)
    return out.print(f"reward model v{made.version} of run {run}, s = {steps:g} and k = {frames}, is in force.")


@checkpoints.command("promotions")
def list_promotions(limit: Most = 20, lab: OfLab = "", as_json: AsJson = False) -> None:
    """What was put in force, the newest first."""
    with Fleet(lab=lab) as fleet:
        found = first(fleet.list_promotions(), limit)
    if as_json:
        return show(found)
    rows = [
        (
            each.id,
            each.role,
            each.body or f"run {each.run}",
            each.checkpoint or "none",
            each.by,
            age(each.at),
            each.reason,
        )
        for each in found
    ]
    return table(("id", "role", "of", "checkpoint", "by", "when", "why"), rows, "Nothing was promoted yet.")


@checkpoints.command("rollback")
def undo_promotion(number: int, lab: OfLab = "", as_json: AsJson = False) -> None:
    """Undo a promotion, by its number: what was in force before is in force again."""
    with Fleet(lab=lab) as fleet:
        made = fleet.undo_promotion(number)
    if as_json:
        return show(made)
    return out.print(f"In force again: {made.checkpoint}." if made.checkpoint else "Nothing is in force any more.")


# Two on the same attempts


@checkpoints.command("compare")
def compare_checkpoints(
    policy: Policy,
    task: Annotated[str, typer.Option(help="Slug of a task that a simulated world judges.")],
    other: Annotated[str, typer.Argument(help="Another one; left out, the first is evaluated alone.")] = "",
    attempts: Annotated[int, typer.Option(help="That each makes.")] = 200,
    seed: Annotated[int, typer.Option(help="Decides the starts and words: both make the same ones.")] = 2_000_000,
    watch: Annotated[bool, typer.Option("--watch/--no-watch", help="Stay until it has ended.")] = True,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Let two policies make the same attempts in simulation; 1 is the exit code where that did not complete."""
    with Fleet(lab=lab) as fleet:
        second = id_of(fleet, other) if other else None
        found = fleet.compare_checkpoints(id_of(fleet, policy), second, task=task, episodes=attempts, seed=seed)
        number = found.id
        if watch:
            with share_bar("waiting", as_json) as tell:
                for found in fleet.watch_comparison(number):
                    tell(found.progress, found.state)
    if watch and found.state != "completed":
        raise FleetError(f"Comparison {number} is {found.state}. {found.error}".strip())
    show(found) if as_json else say_comparison(found, policy, other)


def say_comparison(found: PolicyComparison, policy: str, other: str) -> None:
    """What each did, then what differs."""
    if found.of_first is None:
        return out.print(f"Comparison {found.id} is {found.state}.")

    def row(name: str, did: Attempts) -> tuple[object, ...]:
        steps = "" if did.steps_to_success is None else f"{did.steps_to_success:.1f}"
        return name, f"{did.successes} of {did.n}", f"{did.low:.3f} to {did.high:.3f}", steps, did.falls

    rows = [row(policy, found.of_first)] + ([row(other, found.of_second)] if found.of_second else [])
    table(("policy", "successes", "true success, 95 %", "steps to success", "falls"), rows, "")
    if (told := found.difference) is not None:
        out.print(
            f"{other} less {policy}: {told.difference:+.3f} ({told.low:+.3f} to {told.high:+.3f}), p = {told.p:.3f}; "
            f"only {policy} succeeded in {told.only_first}, only {other} in {told.only_second}"
        )
    return None


# Spot checks


@checks.command("list")
def list_spot_checks(limit: Most = 50, lab: OfLab = "", as_json: AsJson = False) -> None:
    """Those that wait for a look, the newest first; fleet episodes export fetches what they are about."""
    with Fleet(lab=lab) as fleet:
        found = first(fleet.list_spot_checks(), limit)
    if as_json:
        return show(found)
    rows = [(each.id, each.station, each.task, each.instruction, each.episode, age(each.created_at)) for each in found]
    return table(("id", "station", "task", "words", "episode", "when"), rows, "Nothing waits for a look.")


@checks.command("answer")
def answer_spot_check(
    number: int,
    answer: Annotated[str, typer.Argument(help="Was it a success? yes, no, or skip where nobody can tell.")],
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Say whether a detected success was one; that is the episode's label too."""
    if answer not in ANSWERS:
        raise typer.BadParameter("Answer yes, no or skip.", param_hint="ANSWER")
    with Fleet(lab=lab) as fleet:
        row = fleet.answer_spot_check(number, ANSWERS[answer])
    show(row) if as_json else out.print(f"Kept: {answer}. To take it back: fleet checks undo")


@checks.command("undo")
def undo_spot_check(lab: OfLab = "", as_json: AsJson = False) -> None:
    """Take your own last answer back."""
    with Fleet(lab=lab) as fleet:
        row = fleet.undo_spot_check()
    show(row) if as_json else out.print(f"Spot check {row.id} waits again.")


@checks.command("bounds")
def list_bounds(lab: OfLab = "", as_json: AsJson = False) -> None:
    """How often the detector errs at most, by task and policy, as the answers say."""
    with Fleet(lab=lab) as fleet:
        found = list(fleet.list_bounds())
    if as_json:
        return show(found)
    rows = [
        (each.task, each.run, each.version, each.n, each.wrong, each.waiting, f"{each.bound:.3f}") for each in found
    ]
    heads = ("task", "run", "version", "answered", "wrong", "waiting", "wrong at most, 95 %")
    return table(heads, rows, "Nothing was drawn yet.")
