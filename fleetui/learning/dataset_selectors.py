"""What the pages of datasets read beyond selectors.py: the list with its search, where each came from in words, what an
episode's neighbours are, how long the episodes are.
"""

from collections.abc import Iterable
from typing import Any

from django.db.models import Count, IntegerField, OuterRef, QuerySet, Subquery
from django.urls import reverse

from fleetui.fleet.models import Lab
from fleetui.learning import selectors
from fleetui.learning.listing import distinct_tags
from fleetui.learning.models import Dataset, Run

# What made a dataset, or its version, in words; {of} and {filter} are put in by say_origins().
ORIGINS = {
    "script": "made by a script",
    "upload": "uploaded as a file",
    "corrections": "what people drove, episode by episode",
    "episodes": "stored episodes found by a filter",
    "import": "imported",
    "split": "split off",
    "merge": "merged",
    "trimmed": "trimmed",
    "deleted": "episodes deleted",
    "relabeled": "other words",
    "flagged": "episodes flagged",
    "unflagged": "flags taken away",
    "tagged": "tagged",
    "noted": "notes written",
    "weighed": "weighed",
}
CHOICES = ("script", "upload", "corrections", "episodes", "import", "split", "merge")  # by which the list is filtered

Part = tuple[str, str]  # words, and the address that they lead to or ""


def find_datasets(lab: Lab, *, query: str = "", tag: str = "", state: str = "", origin: str = "") -> QuerySet[Dataset]:
    """What each name in use shows, with how many versions there are of it (`versions`), the newest first."""
    same = Dataset.objects.filter(lab=OuterRef("lab"), name=OuterRef("name")).order_by().values("name")
    first = Dataset.objects.filter(lab=OuterRef("lab"), name=OuterRef("name")).order_by("version")
    rows = selectors.list_datasets(lab).annotate(
        versions=Subquery(same.annotate(count=Count("pk")).values("count"), output_field=IntegerField()),
        first_origin=Subquery(first.values("origin")[:1]),
    )
    if query:
        rows = rows.filter(name__icontains=query)
    if tag:
        rows = rows.filter(tags__contains=[tag])
    if state:
        rows = rows.filter(state=state)
    if origin:
        rows = rows.filter(first_origin__by=origin)
    return rows


def dataset_tags(lab: Lab) -> list[str]:
    """Of all that are in use."""
    return distinct_tags(lab.datasets.filter(archived_at=None, current=True))


def say_origins(lab: Lab, datasets: Iterable[Dataset]) -> dict[int, list[Part]]:
    """By the dataset's number what made it, as words with links: two queries, however many there are."""
    datasets = list(datasets)
    numbers = {number for each in datasets for number in _named(each.origin)}
    known = dict(lab.datasets.filter(pk__in=numbers).values_list("pk", "name")) if numbers else {}
    runs = {each.origin["filter"]["run"] for each in datasets if each.origin.get("filter", {}).get("run")}
    names = dict(Run.objects.filter(lab=lab, pk__in=runs).values_list("pk", "name")) if runs else {}
    return {each.pk: _say_origin(lab, each.origin, known, names) for each in datasets}


def _named(origin: dict[str, Any]) -> list[int]:
    of = origin.get("of", [])
    return [number for number in (of if isinstance(of, list) else [of]) if isinstance(number, int)]


def _say_origin(lab: Lab, origin: dict[str, Any], known: dict[int, str], runs: dict[int, str]) -> list[Part]:
    by = str(origin.get("by", ""))
    parts: list[Part] = [(ORIGINS.get(by, by or "made before versions were kept"), "")]
    numbers = [number for number in _named(origin) if number in known]
    if numbers:
        parts.append((" from " if by == "split" else " of ", ""))
        for place, number in enumerate(numbers):
            parts += [(", ", "")] * bool(place) + [(known[number], reverse("dataset", args=[lab.slug, number]))]
    if by == "split":
        parts.append((f" ({origin.get('part', '')})", ""))
    if by == "import":
        kind = "a folder of the server" if origin.get("kind") == "folder" else "an archive"
        parts.append((f" from {kind}, {str(origin.get('place', '')).rpartition('/')[2]}", ""))
        if origin.get("version"):
            parts.append((f" (LeRobot {origin['version']})", ""))
        if origin.get("reading", {}).get("cameras") is False:
            parts.append((", without its cameras", ""))
    if by == "episodes":
        wanted = origin.get("filter", {})
        run = wanted.get("run")
        told = [name for name in wanted if name != "run"]
        if run in runs:
            parts += [(" of ", ""), (runs[run], reverse("run", args=[lab.slug, run]))]
        if told:
            parts.append((f", by {', '.join(told)}", ""))
    if by not in CHOICES and origin.get("episodes"):
        parts.append((f" ({origin['episodes']})", ""))
    if by == "relabeled":
        parts.append((f": “{origin.get('instruction', '')}”", ""))
    return parts


def version_at_same_place(dataset: Dataset, position: int) -> int:
    """The position, or the last where this version is shorter."""
    return max(0, min(position, dataset.episodes - 1))
