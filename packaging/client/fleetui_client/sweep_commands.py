"""fleet sweeps: searches over settings of a recipe."""

from typing import Annotated, Any

import typer

from fleetui_client.answers import SweepDetail
from fleetui_client.synchronous import Fleet
from fleetui_client.terminal import (
    AsJson,
    Most,
    OfLab,
    RecipeFile,
    Settings,
    age,
    first,
    out,
    read_pairs,
    read_recipe,
    show,
    table,
)

sweeps = typer.Typer(no_args_is_help=True, help="Sweeps: search over settings, run by run, under a budget.")


@sweeps.command("list")
def list_sweeps(limit: Most = 50, lab: OfLab = "", as_json: AsJson = False) -> None:
    """The newest first."""
    with Fleet(lab=lab) as fleet:
        found = first(fleet.list_sweeps(), limit)
    if as_json:
        return show(found)
    rows = [(each.id, each.name, each.kind, each.state, ", ".join(each.space), age(each.created_at)) for each in found]
    return table(("id", "name", "kind", "state", "settings", "launched"), rows, "There are none: fleet sweeps launch")


@sweeps.command("show")
def show_sweep(number: int, lab: OfLab = "", as_json: AsJson = False) -> None:
    """Its runs, and what each reached; the best has a star."""
    with Fleet(lab=lab) as fleet:
        found = fleet.show_sweep(number)
    show(found) if as_json else say_sweep(found)


def say_sweep(found: SweepDetail) -> None:
    """A line a run."""
    limit = f" of {found.hours:g}" if found.hours else ""
    out.print(
        f"{found.name} is {found.state}: {len(found.launched)} of {found.runs} runs, {found.hours_spent:.2f}{limit} h. "
        f"{found.error}".strip()
    )
    rows = [
        (
            f"{each.run}{' *' if each.run == found.best else ''}",
            each.state,
            *each.values.values(),
            "" if each.reached is None else f"{each.reached:.5g}",
        )
        for each in found.launched
    ]
    table(("run", "state", *found.space, found.objective), rows, "No run was launched yet.")


@sweeps.command("launch")
def launch_sweep(
    kind: Annotated[str, typer.Argument(help="The method, such as sft.")],
    tried: Annotated[
        list[str],
        typer.Option("--try", help="SETTING=VALUES, as in “batch=64, 128” or “learning_rate=1e-4 to 1e-2, log”."),
    ],
    name: Annotated[str, typer.Option(help="How pages call it.")] = "",
    dataset: Annotated[int | None, typer.Option(help="Number of the demonstrations.")] = None,
    corrections: Annotated[int | None, typer.Option(help="Number of the dataset of corrections.")] = None,
    parent: Annotated[int | None, typer.Option(help="Number of the run to start from.")] = None,
    recipe: RecipeFile = None,
    setting: Settings = None,
    objective: Annotated[str, typer.Option(help="METRIC.FIGURE by which runs are compared.")] = "evaluation.success",
    maximize: Annotated[bool | None, typer.Option("--maximize/--minimize", help="Left out: as usual for it.")] = None,
    sampler: Annotated[str, typer.Option(help="grid, random or tpe.")] = "tpe",
    pruner: Annotated[str, typer.Option(help="Early stopping: median or halving; left out: none.")] = "",
    budget_runs: Annotated[int, typer.Option("--runs", help="At most so many.")] = 20,
    hours: Annotated[float | None, typer.Option(help="Of all runs together.")] = None,
    at_once: Annotated[int, typer.Option(help="Runs at the same time.")] = 1,
    lab: OfLab = "",
    as_json: AsJson = False,
) -> None:
    """Launch a sweep. What its runs have in common is said as for a run, by --recipe and --set."""
    wishes: dict[str, Any] = {"name": name, "recipe": read_recipe(recipe, setting or []), "dataset": dataset}
    wishes |= {"corrections": corrections, "parent": parent, "objective": objective, "maximize": maximize}
    wishes |= {"sampler": sampler, "pruner": pruner, "runs": budget_runs, "hours": hours, "at_once": at_once}
    space = read_pairs(tried, "--try", "batch=64, 128")
    with Fleet(lab=lab) as fleet:
        made = fleet.launch_sweep(kind, space, **wishes)
    show(made) if as_json else out.print(f"Sweep {made.id}, {made.name}, is {made.state}. fleet sweeps show {made.id}")


@sweeps.command("stop")
def stop_sweep(number: int, lab: OfLab = "", as_json: AsJson = False) -> None:
    """No further run is launched, those under way are cancelled; all that they made is kept."""
    with Fleet(lab=lab) as fleet:
        made = fleet.stop_sweep(number)
    show(made) if as_json else out.print(f"Sweep {made.id}, {made.name}, is {made.state}.")
