"""The table of runs: which columns there are, how each is found, said and sorted by, and what narrows the table.

A column is a setting of any registered method's recipe, a figure that a run summed itself up with, or a fact of its
row. The page asks the same number of queries however many runs there are.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from functools import cache
from typing import Any
from urllib.parse import urlencode

from django import forms
from django.contrib.auth.models import User
from django.db.models import (
    DateTimeField,
    ExpressionWrapper,
    F,
    FloatField,
    OuterRef,
    Q,
    QuerySet,
    Subquery,
    TextField,
)
from django.db.models.fields.json import KeyTextTransform, KeyTransform
from django.db.models.functions import Cast, Coalesce, Now
from django.http import QueryDict
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html, format_html_join

from fleetui.fleet.forms import ANY, offer
from fleetui.fleet.models import Lab
from fleetui.fleet.names import checked_name
from fleetui.fleet.templatetags.fleet_words import ago, percent, seconds, success
from fleetui.learning.forms import spell
from fleetui.learning.models import RUN_STATES, Metric, Run, choices
from training.methods.registry import methods

AT_FIRST = ("state", "kind", "progress", "practice_episodes", "success", "created")
MOST_COLUMNS = 20
A_PAGE = 50
LONGEST_TAG = 40
KEPT = ("q", "state", "kind", "author", "dataset", "tag", "sweep", "archived", "from", "to", "sort", "column")
IN_BYTES = ("rss_peak", "gpu_memory_peak")


@dataclass(frozen=True)
class Column:
    """One column: its name in addresses, its head, and how a run's cell and its place in the order are found."""

    name: str
    title: str
    group: str
    cell: Callable[[Run, Lab], str]
    order: Callable[[], Any]  # an expression to sort by
    number: bool = False


def _last(kind: str) -> QuerySet[Metric]:
    return Metric.objects.filter(run=OuterRef("pk"), kind=kind).order_by("-seq")


def _figure(kind: str, key: str) -> Any:
    """A figure of the run's last metric of the kind, as jsonb, whose numbers sort as numbers."""
    return Subquery(_last(kind).annotate(figure=KeyTransform(key, "data")).values("figure")[:1])


def _success() -> Any:
    data = _last("evaluation").annotate(
        rate=ExpressionWrapper(
            Cast(KeyTextTransform("successes", "data"), FloatField())
            / Cast(KeyTextTransform("n", "data"), FloatField()),
            output_field=FloatField(),
        )
    )
    return Subquery(data.filter(data__n__gt=0).values("rate")[:1])


def duration_of(run: Run) -> timedelta | None:
    """From its first start to its end, or to now."""
    return (run.ended_at or timezone.now()) - run.started_at if run.started_at else None


def say(value: Any) -> str:
    """A value of a recipe or a summary, in a cell."""
    if value is None or value == "":
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}"
    return spell(value)[:80]


def _say_progress(run: Run) -> str:
    if run.state == "failed":
        first = (run.error.splitlines() or [""])[0]
        return first if len(first) <= 70 else first[:69] + "…"
    if run.is_live and getattr(run, "stands", False):
        return f"{percent(run.progress)}, waiting for its stations"
    if run.is_live and run.eta_s:
        return f"{percent(run.progress)}, {seconds(run.eta_s)} left"
    return percent(run.progress)


def _link(name: str, lab: Lab, number: int, words: str) -> str:
    return format_html('<a href="{}">{}</a>', reverse(name, args=[lab.slug, number]), words)


def _say_dataset(run: Run, lab: Lab) -> str:
    if run.dataset is None:
        return "–"
    return format_html('<a href="{}">{}</a>', reverse("datasets", args=[lab.slug]), run.dataset.name)


def _say_tags(run: Run, lab: Lab) -> str:
    place = reverse("runs", args=[lab.slug])
    rows = ((place, urlencode({"tag": tag}), tag) for tag in run.tags)
    return format_html_join(" ", '<a class="tag-word" href="{}?{}">{}</a>', rows) or "–"


def _say_bytes(value: Any) -> str:
    return "–" if not value else f"{value / 2**30:.2f} GiB"


FACTS = (
    Column("id", "Number", "The run", lambda run, _: str(run.pk), lambda: F("pk"), number=True),
    Column("state", "State", "The run", lambda run, _: "", lambda: F("state")),
    Column("kind", "Kind", "The run", lambda run, _: run.method.words, lambda: F("kind")),
    Column("progress", "Progress", "The run", lambda run, _: _say_progress(run), lambda: F("progress")),
    Column(
        "practice_episodes",
        "Practice episodes",
        "The run",
        lambda run, _: f"{run.practice_episodes:,}" if run.method.practises else "–",
        lambda: F("practice_episodes"),
        number=True,
    ),
    Column(
        "success",
        "True success",
        "The run",
        lambda run, _: success(run.evaluation),  # type: ignore[attr-defined]  # annotated by list_table()
        _success,
    ),
    Column("dataset", "Dataset", "The run", _say_dataset, lambda: F("dataset__name")),
    Column(
        "parent",
        "Started from",
        "The run",
        lambda run, lab: _link("run", lab, run.parent.pk, run.parent.name) if run.parent else "–",
        lambda: F("parent__name"),
    ),
    Column(
        "sweep",
        "Sweep",
        "The run",
        lambda run, lab: _link("sweep", lab, run.sweep.pk, run.sweep.name) if run.sweep else "–",
        lambda: F("sweep__name"),
    ),
    Column(
        "author",
        "Launched by",
        "The run",
        lambda run, _: run.created_by.get_username() if run.created_by else "the server",
        lambda: F("created_by__username"),
    ),
    Column("tags", "Tags", "The run", _say_tags, lambda: KeyTextTransform("0", "tags")),
    Column(
        "notes",
        "Notes",
        "The run",
        lambda run, _: (run.notes[:90] + "…" if len(run.notes) > 90 else run.notes) or "–",
        lambda: F("notes"),
    ),
    Column(
        "duration",
        "Duration",
        "The run",
        lambda run, _: seconds(passed.total_seconds()) if (passed := duration_of(run)) else "–",
        lambda: Coalesce("ended_at", Now(), output_field=DateTimeField()) - F("started_at"),
        number=True,
    ),
    Column("worker", "Machine", "The run", lambda run, _: run.worker or "–", lambda: F("worker")),
    Column("created", "Launched", "The run", lambda run, _: ago(run.created_at), lambda: F("created_at")),
    Column(
        "ended", "Ended", "The run", lambda run, _: ago(run.ended_at) if run.ended_at else "–", lambda: F("ended_at")
    ),
)
RESOURCES = {
    "cpu_mean": "Mean CPU, cores",
    "rss_peak": "Peak memory",
    "gpu_mean": "Mean GPU, %",
    "gpu_memory_peak": "Peak GPU memory",
}


def _resource(key: str) -> Column:
    spoken = _say_bytes if key in IN_BYTES else say
    return Column(
        f"resource.{key}",
        RESOURCES[key],
        "What it took",
        lambda run, _: spoken(run.resources.get(key)),
        lambda: KeyTransform(key, "resources"),
        number=True,
    )


def _setting(name: str, label: str) -> Column:
    return Column(
        f"recipe.{name}",
        label,
        "Recipe",
        lambda run, _: say(run.recipe.get(name)),
        lambda: KeyTransform(name, "recipe"),
        number=True,
    )


def _summed_up(key: str) -> Column:
    return Column(
        f"figure.{key}",
        key.replace("_", " ").capitalize(),
        "Summary",
        lambda run, _: say((run.done or {}).get(key)),  # type: ignore[attr-defined]  # annotated by list_table()
        lambda: _figure("done", key),
        number=True,
    )


@cache
def _fixed_columns(kinds: tuple[str, ...]) -> dict[str, Column]:
    labels: dict[str, str] = {}
    for kind in kinds:
        for name, field in methods()[kind].recipe.FIELDS.items():
            labels.setdefault(name, field.label)
    columns = [*FACTS, *(_setting(*each) for each in labels.items()), *(_resource(key) for key in RESOURCES)]
    return {column.name: column for column in columns}


def all_columns(lab: Lab) -> dict[str, Column]:
    """Every column that a run of this lab may have something in. One query: what its runs summed themselves up with."""
    said = Metric.objects.filter(run__lab=lab, kind="done").order_by("-pk").values_list("data", flat=True)[:500]
    keys = sorted({key for data in said for key, value in data.items() if isinstance(value, (int, float))})
    return _fixed_columns(tuple(methods())) | {f"figure.{key}": _summed_up(key) for key in keys}


class RunFilterForm(forms.Form):
    """What narrows the table. It reads the address, so it is shared with it."""

    q = forms.CharField(
        label="Search",
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"type": "search", "placeholder": "name, number, tag, batch=64"}),
    )
    state = forms.ChoiceField(
        label="State",
        required=False,
        choices=[ANY, ("live", "any that goes on"), *choices(RUN_STATES)],
    )
    kind = forms.ChoiceField(label="Kind", required=False)
    author = forms.ChoiceField(label="Launched by", required=False)
    dataset = forms.ChoiceField(label="Dataset", required=False)
    tag = forms.ChoiceField(label="Tag", required=False)
    sweep = forms.ChoiceField(label="Sweep", required=False)
    archived = forms.ChoiceField(
        label="Archived", required=False, choices=[("", "not shown"), ("only", "only these"), ("all", "shown as well")]
    )
    to = forms.DateField(label="Until", required=False, widget=forms.DateInput(attrs={"type": "date"}))

    def __init__(self, data: QueryDict, *, lab: Lab):
        super().__init__(data)
        # "from" is a word of Python, and the right one in an address.
        self.fields["from"] = forms.DateField(
            label="Launched from", required=False, widget=forms.DateInput(attrs={"type": "date"})
        )
        self.order_fields(["q", "state", "kind", "author", "dataset", "tag", "sweep", "archived", "from", "to"])
        offer(self, "kind", [ANY, *((kind, method.words) for kind, method in methods().items())])
        authors = User.objects.filter(pk__in=lab.runs.values("created_by")).order_by("username")
        offer(self, "author", [ANY, *((str(pk), name) for pk, name in authors.values_list("pk", "username"))])
        datasets = lab.datasets.filter(pk__in=lab.runs.values("dataset")).values_list("pk", "name")
        offer(self, "dataset", [ANY, *((str(pk), name) for pk, name in datasets)])
        offer(self, "tag", [ANY, *((tag, tag) for tag in list_tags(lab))])
        sweeps = lab.sweeps.values_list("pk", "name")
        offer(self, "sweep", [ANY, *((str(pk), name) for pk, name in sweeps)])

    def narrowed(self, rows: QuerySet[Run]) -> QuerySet[Run]:
        """A value that no choice offers filters nothing, and the page says so."""
        self.is_valid()  # a filter with an error is named on the page and filters nothing
        given = self.cleaned_data
        archived = given.get("archived") or ""
        if archived != "all":
            rows = rows.filter(archived_at__isnull=archived != "only")
        if state := given.get("state"):
            rows = rows.filter(state__in=Run.LIVE if state == "live" else [state])
        for name, field in (("kind", "kind"), ("author", "created_by"), ("dataset", "dataset"), ("sweep", "sweep")):
            if value := given.get(name):
                rows = rows.filter(**{field: value})
        if tag := given.get("tag"):
            rows = rows.filter(tags__contains=[tag])
        if start := given.get("from"):
            rows = rows.filter(created_at__gte=_midnight(start))
        if end := given.get("to"):
            rows = rows.filter(created_at__lt=_midnight(end) + timedelta(days=1))
        return searched(rows, given.get("q") or "")


def _midnight(day: Any) -> datetime:
    """In the person's own zone. At either end of the calendar there is no day beside it to be in."""
    day = max(min(day, datetime.max.date() - timedelta(days=3)), datetime.min.date() + timedelta(days=3))
    return timezone.make_aware(datetime.combine(day, time.min))


def searched(rows: QuerySet[Run], query: str) -> QuerySet[Run]:
    """Those that have every word in the name, number, tags, notes or recipe. A number alone stands in too many recipes
    to be looked for there: batch=64 finds it.
    """
    for word in query.replace("\0", "").split():
        found = Q(name__icontains=word) | Q(notes__icontains=word) | Q(tags_text__icontains=word)
        number = word.removeprefix("#")
        setting, equals, value = word.partition("=")
        if number.isascii() and number.isdecimal():
            found |= Q(pk=int(number)) if len(number) < 18 else Q()
        elif equals:
            found |= Q(recipe__contains={setting: _as_number(value)}) | Q(recipe__contains={setting: value})
        else:
            found |= Q(recipe_text__icontains=word)
        rows = rows.filter(found)
    return rows


def _as_number(text: str) -> float | str:
    try:
        return value if math.isfinite(value := float(text)) else text
    except ValueError:
        return text


def read_tags(given: str) -> list[str]:
    """Tags as people type them, with commas between."""
    tags = [checked_name(word, "tag", LONGEST_TAG) for word in given.split(",") if word.strip()]
    return sorted(set(tags))


def list_tags(lab: Lab) -> list[str]:
    """Every tag of the lab's runs."""
    return sorted({tag for tags in lab.runs.exclude(tags=[]).values_list("tags", flat=True) for tag in tags})


def list_table(lab: Lab, form: RunFilterForm, order: str, columns: dict[str, Column]) -> QuerySet[Run]:
    """The runs of the table, with what its cells say. `order`: a column's name, with - in front from large to small."""
    rows: QuerySet[Any] = lab.runs.select_related("dataset", "parent", "created_by", "sweep").annotate(
        evaluation=Subquery(_last("evaluation").values("data")[:1]),
        done=Subquery(_last("done").values("data")[:1]),
        tags_text=Cast("tags", TextField()),
        recipe_text=Cast("recipe", TextField()),
    )
    rows = form.narrowed(rows)
    column = columns.get(order.removeprefix("-"))
    if order.removeprefix("-") == "name":
        rows = rows.order_by(F("name").desc() if order.startswith("-") else F("name").asc(), "-pk")
    elif column is None:
        rows = rows.order_by("-pk")
    else:
        rows = rows.annotate(place=column.order())
        place = F("place")
        down = order.startswith("-")
        rows = rows.order_by(place.desc(nulls_last=True) if down else place.asc(nulls_last=True), "-pk")
    return rows


def chosen_columns(wanted: Iterable[str], columns: dict[str, Column]) -> list[Column]:
    """Those asked for, in the table's own order; what the page begins with where none is."""
    names = [name for name in dict.fromkeys(wanted) if name in columns][:MOST_COLUMNS] or list(AT_FIRST)
    return [column for name, column in columns.items() if name in names]


def kept_query(query: QueryDict) -> QueryDict:
    """Of an address what the view of the table is: neither the page nor what stands empty."""
    kept = QueryDict(mutable=True)
    for name in KEPT:
        values = [value[:200] for value in query.getlist(name) if value]
        if values:
            kept.setlist(name, values[: MOST_COLUMNS if name == "column" else 1])
    return kept
