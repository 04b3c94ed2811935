"""The pages of runs: the list, the launch form, a run as it goes. Curves grow over the live socket."""

from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.views.decorators.http import require_GET, require_http_methods

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet.models import Lab
from fleetui.fleet.views.pages import LongListPaginator, add_refusal, page, render_page, row_number
from fleetui.learning import estimates, run_table
from fleetui.learning import selectors as learning
from fleetui.learning.checkpoint_pages import bounds_of_run
from fleetui.learning.checkpoints import in_force
from fleetui.learning.forms import recipe_rows
from fleetui.learning.models import Dataset, Run
from fleetui.practice.actions import assignments, launching
from fleetui.practice.actions.publishing import uuid_or_none
from fleetui.practice.forms import EvaluateForm, launch_form
from fleetui.practice.queue import read_queue
from fleetui.practice.views.tasks import say_assigned
from robots.worlds import WORLDS
from training.methods.registry import Method, methods, methods_that_need

LAUNCH_FROM = ("dataset", "parent", "assignment", "like")  # what a link to the launch form may choose
STARTS_WITH = {"dataset": "dataset", "parent": "parent", "assignment": "stations"}  # what a method must need for it
CHECKPOINTS_SHOWN = 12  # as static/js/run.js shows


@page
@require_GET
def runs(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """The table: what it shows, in which order and which columns, is all in the address."""
    lab = access.get_lab(request.user, lab_slug)
    columns = run_table.all_columns(lab)
    form, order = run_table.RunFilterForm(request.GET, lab=lab), request.GET.get("sort", "")
    shown = run_table.chosen_columns(request.GET.getlist("column"), columns)
    rows = run_table.list_table(lab, form, order, columns)
    found = LongListPaginator(rows, run_table.A_PAGE).get_page(request.GET.get("page"))
    standing = standing_runs(lab)
    for row in found:
        row.stands = row.pk in standing  # for its cell, as what the query annotates
    query = run_table.kept_query(request.GET)
    views = list(lab.run_views.select_related("author"))
    return render_page(
        request,
        "learning/runs.html",
        lab,
        "runs",
        page_obj=found,
        rows=[{"run": row, "cells": [(each, each.cell(row, lab)) for each in shown]} for row in found],
        heads=[head_of(column, order, query) for column in [NAME, *shown]],
        groups=columns_by_group(columns, shown),
        filter_form=form,
        query=query.urlencode(),
        narrowed=any(name not in ("sort", "column") for name in query),
        sort=order,
        views=views,
        view=next((each for each in views if each.query == query.urlencode()), None),
        any_archived=lab.runs.filter(archived_at__isnull=False).exists(),
    )


NAME = run_table.Column("name", "Run", "The run", lambda run, _: run.name, lambda: None)


def head_of(column: run_table.Column, order: str, query: QueryDict) -> dict[str, Any]:
    """A column's head: the link sorts by it, and turns the order round where that is so already."""
    sorts, turned = query.copy(), order == f"-{column.name}"
    sorts["sort"] = column.name if turned else f"-{column.name}"
    way = {column.name: "ascending", f"-{column.name}": "descending"}.get(order)
    return {"column": column, "query": sorts.urlencode(), "way": way}


def columns_by_group(
    columns: dict[str, run_table.Column], shown: list[run_table.Column]
) -> list[tuple[str, list[tuple[run_table.Column, bool]]]]:
    groups: dict[str, list[tuple[run_table.Column, bool]]] = {}
    for column in columns.values():
        groups.setdefault(column.group, []).append((column, column in shown))
    return list(groups.items())


def standing_runs(lab: Lab) -> set[int]:
    """Ids of the runs that nobody can practise for now: how long they will take, nobody knows."""
    delayed = [verdict.assignment.run_id for verdict in read_queue(lab) if verdict.state == "delayed"]
    return {run_id for run_id in delayed if run_id is not None}


@page
@require_http_methods(["GET", "POST"])
def new_run(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """A form for a run of the method that the address names; else of the one that needs what it names and nothing
    more, if there is one alone; else, or where a list is wanted (`any`), those that can start from that.
    """
    lab = access.get_lab(request.user, lab_slug, "launch_run")
    kind = request.GET.get("kind", "")
    if kind and kind not in methods():
        raise Http404(f"There is no kind of run {kind!r}; known are {', '.join(methods())}.")
    asked = {name: row_number(request.GET.get(name, "")) for name in LAUNCH_FROM}
    chosen = {name: number for name, number in asked.items() if number}
    needed = {STARTS_WITH[name] for name in chosen if name in STARTS_WITH}
    fitting = [methods()[kind]] if kind else methods_that_need(*needed)
    enough = [method for method in fitting if set(method.needs) == needed]
    if len(enough) == 1 and "any" not in request.GET:
        fitting = enough
    query = "".join(f"&{name}={number}" for name, number in chosen.items())
    if len(fitting) != 1:
        return render_page(request, "learning/methods.html", lab, "runs", methods=fitting, query=query)
    method = fitting[0]
    like = access.get_row(Run, request.user, lab_slug, pk=chosen.pop("like")) if "like" in chosen else None
    if like is not None and like.kind != method.kind:
        raise Http404(f"{like} is no run of the kind {method.kind!r}.")
    form = launch_form(method)(request.POST or None, lab=lab, method=method, like=like, initial=chosen)
    if request.method == "POST" and form.is_valid():
        try:
            run = launching.launch_run(
                lab=lab, user=request.user, kind=method.kind, recipe=form.recipe, **form.sources(), source="page"
            )
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{run} is launched. It starts as soon as the server has a free worker for it.")
            return redirect("run", lab_slug, run.pk)
    trainers = methods_that_need("dataset")  # what to begin with where there is nothing to start from
    status = 422 if form.errors else 200
    return render_page(
        request,
        "learning/new_run.html",
        lab,
        "runs",
        status,
        form=form,
        method=method,
        trainers=trainers,
        like=like,
        query=query,
        **expectations(lab, method, form.typed(), form.typed_dataset(), form.typed_queue()),
    )


@page
@require_GET
def estimate_run(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """How long a run would take with what stands in the form now: a part of its page, asked for as one types."""
    lab = access.get_lab(request.user, lab_slug, "launch_run")
    kind = request.GET.get("kind", "")
    if not kind:
        return redirect("new_run", lab_slug)  # which offers the kinds
    method = methods().get(kind)
    if method is None:
        raise Http404(f"There is no such kind of run; known are {', '.join(methods())}.")
    form = launch_form(method)(request.GET, lab=lab, method=method)
    expected = expectations(lab, method, form.typed(), form.typed_dataset(), form.typed_queue())
    return render_page(request, "learning/_estimate.html", lab, "runs", method=method, **expected)


def expectations(
    lab: Lab, method: Method, recipe: dict[str, Any], dataset: Dataset | None, queue: str
) -> dict[str, Any]:
    """What is known beforehand of a launch: how long it takes, of what, and how many are before it."""
    able, (before, turns) = learning.workers_for(queue), learning.trainings_before(queue)
    return {
        "estimate": estimates.estimate(lab, method, recipe, dataset),
        "nobody": "" if able else learning.NO_WORKER[queue],
        "before": 0 if method.practises or not able else max(0, len(before) - turns + 1),
        "at_once": turns,
        "workers": able,
    }


@page
@require_GET
def run(request: PersonRequest, lab_slug: str, run_id: int) -> HttpResponse:
    found = access.get_row(Run, request.user, lab_slug, pk=run_id)
    recipe, policy = recipe_rows(found), found.best_checkpoint("policy")
    return render_page(
        request,
        "learning/run.html",
        found.lab,
        "runs",
        run=found,
        recipe=recipe,
        recipe_changed=sum(row["changed"] for row in recipe),
        checkpoints=found.checkpoints.order_by("-version", "role")[:CHECKPOINTS_SHOWN],
        policy=policy,
        judge=found.best_checkpoint("reward_model"),
        practice_can_start=not learning.parent_problem(found),
        stations=learning.run_stations(found),
        stands=found.pk in standing_runs(found.lab),
        log="\n".join(learning.log_tail(found)),
        place=learning.say_place(found),
        **station_evaluations(found),
        can_be_evaluated=policy is not None and not learning.evaluation_problem(policy),
        simulated=found.body.get("name") in WORLDS,
        is_default=policy is not None and in_force(policy) == policy,
        bounds=bounds_of_run(found.pk, found.lab),
        reward_model=found.best_checkpoint("reward_model"),
    )


@page
@require_GET
def run_evaluations(request: PersonRequest, lab_slug: str, run_id: int) -> HttpResponse:
    """What stations showed of its policies, alone: the page asks anew every few seconds, since labels move it."""
    found = access.get_row(Run, request.user, lab_slug, pk=run_id)
    return render_page(request, "learning/_evaluations.html", found.lab, "runs", **station_evaluations(found))


def station_evaluations(run: Run) -> dict[str, Any]:
    """A row each, and the points of the curve."""
    found = learning.evaluations_on_stations(run)
    return {"evaluations": found, "points": [learning.evaluation_row(each) for each in found]}


@page
@require_http_methods(["GET", "POST"])
def evaluate_run(request: PersonRequest, lab_slug: str, run_id: int) -> HttpResponse:
    """A form for an evaluation of one of its policies on stations."""
    found = access.get_row(Run, request.user, lab_slug, "assign", pk=run_id)
    asked = uuid_or_none(request.GET.get("checkpoint", ""))
    chosen = {"checkpoint": asked} if asked and learning.evaluated_policies(found).filter(pk=asked).exists() else {}
    form = EvaluateForm(request.POST or None, lab=found.lab, run=found, auto_id="assign_%s", initial=chosen)
    if request.method == "POST" and form.is_valid():
        try:
            made = assignments.assign_task(lab=found.lab, user=request.user, **form.wishes(), source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, say_assigned(found.lab, made))
            return redirect("run", lab_slug, run_id)
    status = 422 if form.errors else 200
    return render_page(request, "learning/evaluate.html", found.lab, "runs", status, run=found, assign_form=form)
