"""Sweeps: values as people type them, one run after the other under a budget, early ends, and what was found."""

import re
from datetime import timedelta

import pytest
from django.utils import timezone

from fleetui import access
from fleetui.fleet.models import Act
from fleetui.learning import searching, sweeps
from fleetui.learning.models import Metric, Run, Sweep
from tests.fleetui.lab import Lab, make_dataset
from training.methods.registry import method_of
from training.recipes import SFTRecipe

SFT = method_of("sft")
VALIDATION = "loss.validation_bc"


@pytest.fixture
def lab(db, settings, tmp_path):
    settings.DATA = tmp_path
    return Lab("north")


@pytest.fixture
def dataset(lab):
    return make_dataset(lab)


def launch(lab, dataset, *space, **wishes):
    given = {
        "lab": lab.row,
        "user": lab.users["researcher"],
        "kind": "sft",
        "recipe": {"seed": 3},
        "space": searching.read_space(SFT, space),
        "objective": VALIDATION,
        "dataset": dataset,
    }
    return sweeps.launch_sweep(**(given | wishes))


def end(run, value, state="completed", minutes=10):
    """Its losses fall to the value at the last of three validations."""
    for seq, step in enumerate((250, 500, 750), 1):
        say_loss(run, seq, step, value + (750 - step) / 250)
    now = timezone.now()
    Run.objects.filter(pk=run.pk).update(state=state, started_at=now - timedelta(minutes=minutes), ended_at=now)


def say_loss(run, seq, step, value):
    Metric.objects.create(run=run, seq=seq, kind="loss", data={"step": step, "validation_bc": value}, at=timezone.now())


def go_on(sweep, value_of=lambda run: 1.0, most=40):
    """The sweep with runs that end as soon as they are asked for."""
    for _ in range(most):
        sweeps.advance_sweep(sweep_id=sweep.pk)
        live = list(sweep.runs.filter(state="queued"))
        if not live:
            break
        for run in live:
            end(run, value_of(run))
    sweep.refresh_from_db()
    return list(sweep.runs.order_by("pk"))


def test_values_are_read_as_people_type_them():
    given = [("batch", "64, 128,256"), ("learning_rate", "1e-4 to 1e-2, log"), ("hidden", "8 to 64")]
    space = searching.read_space(SFT, given)
    assert space == {
        "batch": {"choices": [64, 128, 256]},
        "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "hidden": {"low": 8, "high": 64, "log": False},
    }


@pytest.mark.parametrize(
    "name, words, said",
    [
        ("batch", "64", "two values or more"),
        ("batch", "", "two values or more"),
        ("batch", "64, many", "must be a whole number"),
        ("batch", "64, 1", "at least 2"),
        ("learning_rate", "1e-2 to 1e-4", "not below"),
        ("weight_decay", "0 to 1, log", "begins above 0"),
        ("speed", "1, 2", "no setting of this recipe"),
    ],
)
def test_values_that_make_no_sense_are_refused_in_words(name, words, said):
    with pytest.raises(access.Invalid, match=said):
        searching.read_space(SFT, [(name, words)])
    with pytest.raises(access.Invalid, match="at least one setting"):
        searching.read_space(SFT, [])


def test_a_grid_tries_every_combination_once_and_ends(lab, dataset):
    sweep = launch(lab, dataset, ("batch", "64, 128"), ("hidden", "32, 64"), sampler="grid", budget_runs=20)
    runs = go_on(sweep)
    tried = [(run.recipe["batch"], run.recipe["hidden"]) for run in runs]
    assert tried == [(64, 32), (64, 64), (128, 32), (128, 64)] and sweep.state == "completed"
    assert all(run.recipe["seed"] == 3 and run.dataset == dataset for run in runs)
    assert Act.objects.filter(kind="run_launched").count() == 4
    with pytest.raises(access.Invalid, match="A grid needs single values"):
        launch(lab, dataset, ("hidden", "8 to 64"), sampler="grid")


def test_it_never_asks_for_more_than_its_budget_or_at_once(lab, dataset):
    sweep = launch(lab, dataset, ("hidden", "8 to 64"), budget_runs=7, at_once=3)
    for _ in range(3):  # asked again and again: the message may come twice
        sweeps.advance_sweep(sweep_id=sweep.pk)
    assert sweep.runs.count() == 3
    assert len(go_on(sweep)) == 7 and sweep.state == "completed" and sweep.ended_at
    hours = launch(lab, dataset, ("hidden", "8 to 64"), budget_runs=50, budget_hours=0.5)
    assert len(go_on(hours)) == 3, "Three runs of ten minutes are half an hour"


def test_tpe_finds_the_better_values_and_a_random_search_the_same_ones_each_time(lab, dataset):
    def loss(run):
        return abs(run.recipe["hidden"] - 700) / 100

    best = launch(lab, dataset, ("hidden", "8 to 1024"), sampler="tpe", budget_runs=30)
    late = [loss(run) for run in go_on(best, loss)[20:]]
    assert sum(late) / len(late) < 1.8, "At random it is 2.9 on average"
    chance = launch(lab, dataset, ("hidden", "8 to 1024"), sampler="random", budget_runs=4)
    values = [run.recipe["hidden"] for run in go_on(chance, loss)]
    assert len(set(values)) > 2
    study, _ = searching.tell_study(chance, list(chance.runs.order_by("pk"))[:2])
    assert study.ask(searching.distributions_of(chance)).params["hidden"] == values[2], "It is rebuilt from its runs"


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_a_run_that_promises_little_is_ended_early(lab, dataset, pruner):
    sweep = launch(lab, dataset, ("hidden", "8 to 1024"), pruner=pruner, budget_runs=6)
    for _ in range(4):
        sweeps.advance_sweep(sweep_id=sweep.pk)
        end(sweep.runs.get(state="queued"), 1.0)
    sweeps.advance_sweep(sweep_id=sweep.pk)
    run = sweep.runs.get(state="queued")
    Run.objects.filter(pk=run.pk).update(state="running")
    say_loss(run, 1, 250, 2.9)
    sweeps.advance_sweep(sweep_id=sweep.pk)
    run.refresh_from_db()
    assert run.state == "running", "As good as the others at that point"
    say_loss(run, 2, 500, 9.0)
    say_loss(run, 3, 750, 9.0)  # a rung of halving, which looks ever more rarely
    sweeps.advance_sweep(sweep_id=sweep.pk)
    run.refresh_from_db()
    assert (run.state, run.stopped_early) == ("canceling", True)
    assert "stopped early by" in Act.objects.get(kind="run_canceled").reason


def test_a_sweep_whose_runs_all_fail_gives_up_and_says_why(lab, dataset):
    sweep = launch(lab, dataset, ("hidden", "8 to 1024"), budget_runs=50)
    for _ in range(3):
        sweeps.advance_sweep(sweep_id=sweep.pk)
        sweep.runs.filter(state="queued").update(state="failed", error="There is no room.\nmore")
    sweeps.advance_sweep(sweep_id=sweep.pk)
    sweep.refresh_from_db()
    assert sweep.state == "failed" and "There is no room." in sweep.error and sweep.runs.count() == 3


def test_stopping_cancels_what_goes_on_and_launches_nothing_more(lab, dataset):
    sweep = launch(lab, dataset, ("hidden", "8 to 1024"), at_once=2)
    sweeps.advance_sweep(sweep_id=sweep.pk)
    first = sweep.runs.order_by("pk")[0]
    Run.objects.filter(pk=first.pk).update(state="running")
    answer = lab.as_("researcher").post(f"/labs/north/sweeps/{sweep.pk}/stop", follow=True)
    assert "is stopped" in answer.content.decode()
    assert [run.state for run in sweep.runs.order_by("pk")] == ["canceling", "canceled"]
    sweeps.advance_sweep(sweep_id=sweep.pk)
    assert sweep.runs.count() == 2
    with pytest.raises(access.Conflict, match="nothing to stop"):
        sweeps.stop_sweep(sweep=sweep, user=lab.users["researcher"])
    assert lab.as_("viewer").post(f"/labs/north/sweeps/{sweep.pk}/stop").status_code == 403


def test_what_practises_is_not_swept(lab, dataset):
    with pytest.raises(access.Invalid, match="hold stations"):
        launch(lab, None, ("hidden", "8, 16"), kind="improve", recipe={}, objective="update.detected_rate")
    assert lab.as_("researcher").get("/labs/north/sweeps/new", {"kind": "improve"}).status_code == 404


def form(page):
    return dict(re.findall(r'<input type="(?:text|number)" name="(\w+)"(?: value="([^"]*)")?', page))


def test_it_is_launched_by_its_form_and_its_page_shows_what_was_found(lab, dataset):
    assert "No sweeps yet" in lab.as_("viewer").get("/labs/north/sweeps/").content.decode()
    page = lab.as_("researcher").get("/labs/north/sweeps/new", {"kind": "sft"}).content.decode()
    given = form(page) | {"dataset": dataset.pk, "sampler": "tpe", "objective": VALIDATION, "pruner": "median"}
    answer = lab.as_("researcher").post("/labs/north/sweeps/new?kind=sft", given | {"budget_runs": "0"})
    page = answer.content.decode()
    assert answer.status_code == 422 and "Choose at least one setting" in page and not Sweep.objects.exists()
    given |= {"setting_1": "batch", "values_1": "64", "budget_runs": "8", "hidden": "99"}
    answer = lab.as_("researcher").post("/labs/north/sweeps/new?kind=sft", given)
    assert "two values or more" in answer.content.decode() and 'value="99"' in answer.content.decode()
    given |= {"values_1": "64, 128", "setting_3": "learning_rate", "values_3": "1e-4 to 1e-2 log"}
    answer = lab.as_("researcher").post("/labs/north/sweeps/new?kind=sft", given)
    sweep = Sweep.objects.get()
    assert answer["Location"] == f"/labs/north/sweeps/{sweep.pk}"
    assert (sweep.recipe["hidden"], list(sweep.space), sweep.maximize, sweep.pruner) == (
        99,
        ["batch", "learning_rate"],
        False,
        "median",
    )
    assert "first run is launched in a moment" in lab.as_("viewer").get(answer["Location"]).content.decode()
    go_on(sweep, lambda run: run.recipe["batch"] / 100)
    page = lab.as_("researcher").get(answer["Location"]).content.decode()
    assert "Best so far" in page and "0.64" in page and "Clone it" in page and "of them)" not in page
    assert re.search(r"Batch size</td>\s*<td class=\"number\">\d+ %", page), "Which setting matters"
    assert Lab("south").as_("manager").get(answer["Location"]).status_code == 404
    runs = lab.as_("viewer").get("/labs/north/runs/", {"sweep": sweep.pk, "column": ["sweep"]}).content.decode()
    assert runs.count(f'/labs/north/sweeps/{sweep.pk}"') == sweep.runs.count() == 8


def test_the_recipe_of_its_runs_is_whole(lab, dataset):
    sweep = launch(lab, dataset, ("hidden", "8, 16"), sampler="grid")
    (first, *_) = go_on(sweep)
    assert first.recipe == SFTRecipe(seed=3, hidden=8).to_json()
