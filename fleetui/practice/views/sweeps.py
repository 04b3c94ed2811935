"""The pages of sweeps: the list, the form that launches one, and a sweep as it goes."""

from typing import Any
from urllib.parse import quote

from django import forms
from django.contrib import messages
from django.http import Http404, HttpResponse, QueryDict
from django.shortcuts import redirect
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet.views.pages import add_refusal, page, render_page, row_number, saying_refusals
from fleetui.learning import comparing, searching, sweeps
from fleetui.learning.forms import spell
from fleetui.learning.models import PRUNERS, SAMPLERS, Run, Sweep
from fleetui.learning.run_table import duration_of
from fleetui.practice.forms import launch_form
from training.methods.registry import Method, methods

ROWS = 6  # settings that one sweep may search


class SweepForm(forms.Form):
    """What is searched, how, and for how long; the recipe that the runs have in common is a form of its own."""

    sampler = forms.ChoiceField(label="Values", choices=list(SAMPLERS.items()), initial="tpe")
    objective = forms.ChoiceField(label="Compared by", help_text="Its last value counts.")
    better = forms.ChoiceField(
        label="Better is",
        required=False,
        choices=[("", "as usual for that curve"), ("larger", "larger"), ("smaller", "smaller")],
    )
    pruner = forms.ChoiceField(
        label="Early stopping",
        required=False,
        choices=list(PRUNERS.items()),
        help_text="By the same curve, while a run goes on. It keeps what it made.",
    )
    budget_runs = forms.IntegerField(
        label="Runs", initial=20, min_value=1, max_value=sweeps.MOST_RUNS, help_text="At most so many."
    )
    budget_hours = forms.FloatField(
        label="Hours",
        required=False,
        min_value=0.01,
        help_text="Of all runs together: after them no further run begins. Empty: no limit.",
    )
    at_once = forms.IntegerField(label="At once", initial=1, min_value=1, max_value=sweeps.MOST_AT_ONCE)

    def __init__(self, *args: Any, method: Method, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.method = method
        objective = self.fields["objective"]
        assert isinstance(objective, forms.ChoiceField)
        objective.choices = [(key, each.title) for key, each in comparing.curve_choices([method]).items()]
        named = [("", "nothing")] + [(name, each.label) for name, each in method.recipe.FIELDS.items()]
        for number in range(1, ROWS + 1):
            self.fields[f"setting_{number}"] = forms.ChoiceField(label="Setting", required=False, choices=named)
            self.fields[f"values_{number}"] = forms.CharField(
                label="Values", required=False, max_length=300, help_text="64, 128, 256 or 1e-4 to 1e-2, log"
            )

    @property
    def space_fields(self) -> list[Any]:
        return [(self[f"setting_{number}"], self[f"values_{number}"]) for number in range(1, ROWS + 1)]

    @property
    def budget_fields(self) -> list[Any]:
        names = ("sampler", "objective", "better", "pruner", "budget_runs", "budget_hours", "at_once")
        return [self[name] for name in names]

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        numbers = [number for number in range(1, ROWS + 1) if given.get(f"setting_{number}")]
        for number in range(1, ROWS + 1):
            if given.get(f"values_{number}") and number not in numbers and f"setting_{number}" not in self.errors:
                self.add_error(f"setting_{number}", "Choose the setting that these are values of.")
        pairs = [(given[f"setting_{number}"], given.get(f"values_{number}") or "") for number in numbers]
        self.space: searching.Space = {}
        try:
            self.space = searching.read_space(self.method, pairs)
        except access.Invalid as error:
            for name, problem in error.problems.items():
                kind, _, place = name.partition("_")
                number = numbers[int(place) - 1] if kind == "values" else 1
                self.add_error(f"{kind}_{number}", problem)
        return given


@page
@require_GET
def sweep_list(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug)
    rows = list(lab.sweeps.select_related("created_by").prefetch_related("runs"))
    able = [method for method in methods().values() if not method.practises]
    return render_page(request, "learning/sweeps.html", lab, "runs", sweeps=rows, methods=able)


@page
@require_http_methods(["GET", "POST"])
def new_sweep(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """The method's own form says what the runs have in common; `like` begins with a run's recipe and sources."""
    lab = access.get_lab(request.user, lab_slug, "launch_run")
    kind = request.GET.get("kind", "")
    if not kind:
        return redirect("sweeps", lab_slug)  # which offers the kinds
    method = methods().get(kind)
    if method is None or method.practises:
        known = ", ".join(each.kind for each in methods().values() if not each.practises)
        raise Http404(f"There is no kind of run {kind!r} that can be swept; these can: {known}.")
    like = None
    if number := row_number(request.GET.get("like", "")):
        like = access.get_row(Run, request.user, lab_slug, pk=number)
        if like.kind != method.kind:
            raise Http404(f"{like} is no run of the kind {method.kind!r}.")
    form = launch_form(method)(request.POST or None, lab=lab, method=method, like=like)
    sweep_form = SweepForm(request.POST or None, method=method)
    if request.method == "POST" and form.is_valid() & sweep_form.is_valid():
        given, sources = sweep_form.cleaned_data, form.sources()
        wishes = {name: given[name] for name in ("sampler", "objective", "pruner", "budget_runs", "budget_hours")}
        try:
            sweep = sweeps.launch_sweep(
                lab=lab,
                user=request.user,
                kind=method.kind,
                recipe=form.recipe,
                space=sweep_form.space,
                maximize={"larger": True, "smaller": False}.get(given["better"]),
                at_once=given["at_once"],
                **wishes,
                **sources,
                source="page",
            )
        except access.Refused as refused:
            add_refusal(sweep_form if set(getattr(refused, "problems", {})) & set(sweep_form.fields) else form, refused)
        else:
            messages.success(request, f"{sweep} is launched; its first run begins in a moment.")
            return redirect("sweep", lab_slug, sweep.pk)
    status = 422 if form.errors or sweep_form.errors else 200
    return render_page(
        request, "learning/new_sweep.html", lab, "runs", status, form=form, sweep_form=sweep_form, method=method
    )


@page
@require_GET
def sweep(request: PersonRequest, lab_slug: str, sweep_id: int) -> HttpResponse:
    found = access.get_row(Sweep, request.user, lab_slug, pk=sweep_id)
    runs = list(found.runs.order_by("pk"))
    for run in runs:
        run.lab = found.lab
    reached, best = searching.reached_by(found, runs)
    ended = [run for run in runs if run.state == "completed" and run.pk in reached]
    fields = found.method.recipe.FIELDS
    names = [(name, fields[name].label if name in fields else name) for name in found.space]
    rows: list[dict[str, Any]] = [
        {
            "run": run,
            "values": [(label, spell(run.recipe.get(name))) for name, label in names],
            "reached": reached.get(run.pk),
            "best": run == best,
            "took_s": passed.total_seconds() if (passed := duration_of(run)) else None,
        }
        for run in runs
    ]
    order = [row for row in rows if row["reached"] is not None]
    order.sort(key=lambda row: row["reached"], reverse=found.maximize)
    choice = comparing.curve_choices([found.method]).get(found.objective)
    shown = order + [row for row in rows if row["reached"] is None]
    comparison = QueryDict(f"curve={quote(found.objective)}&x=own", mutable=True)
    comparison.setlist("run", [str(row["run"].pk) for row in shown[: comparing.MOST_RUNS]])
    return render_page(
        request,
        "learning/sweep.html",
        found.lab,
        "runs",
        sweep=found,
        rows=shown,
        comparison=comparison.urlencode(),
        names=[label for _, label in names],
        best=next((row for row in rows if row["best"]), None),
        objective=choice.title if choice else found.objective,
        hours=searching.hours_of(runs),
        points=searching.size_of(found),
        space=[(label, _say_values(found.space[name])) for name, label in names],
        sampler=SAMPLERS[found.sampler],
        pruner=PRUNERS[found.pruner],
        chart={
            "settings": [_axis(name, label, found.space[name]) for name, label in names],
            "objective": choice.title if choice else found.objective,
            "share": bool(choice and choice.share),
            "maximize": found.maximize,
            "runs": [
                {
                    "name": run.name,
                    "values": [run.recipe.get(name) for name, _ in names],
                    "reached": reached[run.pk],
                    "early": run.stopped_early,
                }
                for run in runs
                if run.pk in reached
            ],
        },
        importances=[
            (dict(names)[name], value)
            for name, value in (searching.importances(found, runs) if len(ended) >= 4 else {}).items()
        ],
    )


def _say_values(values: dict[str, Any]) -> str:
    if "choices" in values:
        return ", ".join(spell(value) for value in values["choices"])
    return f"{spell(values['low'])} to {spell(values['high'])}{', logarithmic' if values['log'] else ''}"


def _axis(name: str, label: str, values: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "label": label, "log": bool(values.get("log")), "choices": values.get("choices")}


@page
@require_POST
def stop_sweep(request: PersonRequest, lab_slug: str, sweep_id: int) -> HttpResponse:
    found = access.get_row(Sweep, request.user, lab_slug, "control_run", pk=sweep_id)
    with saying_refusals(request):
        sweeps.stop_sweep(sweep=found, user=request.user, source="page")
        messages.success(request, f"{found} is stopped; what its runs made is kept.")
    return redirect("sweep", lab_slug, sweep_id)
