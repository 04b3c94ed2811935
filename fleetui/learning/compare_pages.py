"""The page that sets runs side by side, and the same as files. Its chart is a Dash app (charts/compare_app.py)."""

import csv
from typing import Any

from django import forms
from django.http import HttpResponse
from django.views.decorators.http import require_GET

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.answers import JsonAnswer
from fleetui.fleet.views.pages import page, render_page
from fleetui.learning import comparing
from fleetui.learning.comparing import BANDS, LOGS, SMOOTHINGS, XS, Wish

OFFERED = 200  # runs to add, the newest


class CompareForm(forms.Form):
    """How the curves are drawn."""

    curve = forms.ChoiceField(label="Curve")
    x = forms.ChoiceField(label="Over", choices=list(XS.items()))
    smooth = forms.ChoiceField(label="Smoothing", choices=list(SMOOTHINGS.items()))
    log = forms.ChoiceField(label="Logarithmic", choices=list(LOGS.items()))
    band = forms.ChoiceField(label="Bands", choices=list(BANDS.items()))
    seeds = forms.ChoiceField(
        label="Seeds", choices=[("", "together: one line, the mean"), ("apart", "each a line of its own")]
    )
    recipe = forms.ChoiceField(label="Recipe", choices=[("", "only what differs"), ("all", "all settings")])
    baseline = forms.ChoiceField(label="Differences from")


@page
@require_GET
def compare_runs(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug)
    wish = Wish.of(request.GET)
    found = comparing.compare(lab, wish)
    runs = found["runs"]
    form = CompareForm(
        initial={
            "curve": found["choice"].key,
            "x": wish.x,
            "smooth": f"{wish.smooth:g}",
            "log": wish.log,
            "band": wish.band,
            "seeds": "" if wish.grouped else "apart",
            "recipe": "all" if wish.everything else "",
            "baseline": wish.baseline,
        }
    )
    for name, choices in (
        ("curve", [(key, each.title) for key, each in found["choices"].items()]),
        ("baseline", [(str(run.pk), f"{run.name} #{run.pk}") for run in runs]),
    ):
        field = form.fields[name]
        assert isinstance(field, forms.ChoiceField)
        field.choices = choices
    shown = {run.pk for run in runs}
    others = lab.runs.filter(archived_at=None).exclude(pk__in=shown).order_by("-pk")[:OFFERED]
    return render_page(
        request,
        "learning/compare.html",
        lab,
        "runs",
        runs=[{"run": run, "without": _without(request, run.pk)} for run in runs],
        form=form,
        rows=comparing.config_rows(runs, wish.everything),
        found=found,
        others=others if len(runs) < comparing.MOST_RUNS else [],
        too_many=len(wish.numbers) > comparing.MOST_RUNS,
        missing=len(wish.numbers[: comparing.MOST_RUNS]) - len(runs),
        most=comparing.MOST_RUNS,
        query=request.GET.urlencode(),
        thinned=[line for line in found["lines"] if line["points"] > len(line["x"])],
    )


def _without(request: PersonRequest, number: int) -> str:
    query = request.GET.copy()
    query.setlist("run", [each for each in query.getlist("run") if each != str(number)])
    return query.urlencode()


@page
@require_GET
def compare_csv(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """A row each point of a line, as it is drawn."""
    lab = access.get_lab(request.user, lab_slug)
    found = comparing.compare(lab, Wish.of(request.GET))
    answer = HttpResponse(content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = 'attachment; filename="comparison.csv"'
    writer = csv.writer(answer)
    writer.writerow(["line", "runs", "seeds", found["x_title"], found["choice"].title, "low", "high", "band"])
    for line in found["lines"]:
        runs = " ".join(map(str, line["runs"]))
        lows, highs = line["low"] or [""] * len(line["x"]), line["high"] or [""] * len(line["x"])
        for x, y, low, high in zip(line["x"], line["y"], lows, highs, strict=True):
            writer.writerow([_as_text(line["name"]), runs, line["seeds"], x, y, low, high, line["band"]])
    return answer


def _as_text(name: str) -> str:
    """A spreadsheet takes what begins so for a formula, and somebody else may have typed the name."""
    return f"'{name}" if name[:1] in "=+-@\t\r" else name


@page
@require_GET
def compare_json(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """Lines, differences and recipes."""
    lab = access.get_lab(request.user, lab_slug)
    found = comparing.compare(lab, Wish.of(request.GET))
    content: dict[str, Any] = {
        "curve": found["choice"].key,
        "x": found["x_title"],
        "lines": found["lines"],
        "differences": found["differences"],
        "runs": [{"id": run.pk, "name": run.name, "kind": run.kind, "recipe": run.recipe} for run in found["runs"]],
    }
    answer = JsonAnswer(content)
    answer["Content-Disposition"] = 'attachment; filename="comparison.json"'
    return answer
