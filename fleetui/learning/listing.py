"""The episodes of a root, as rows: made once, when its content is there; and what the rows of any version come to,
which is reckoned once, since they never change.
"""

import uuid as uuids
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import transaction
from django.db.models import Avg, CharField, Count, F, FloatField, Func, IntegerField, Max, Min, Q, Sum, Value
from django.db.models.expressions import CombinedExpression
from django.db.models.functions import Cast

from fleetui.learning.models import Dataset, DatasetEpisode
from robots.quality import unusual

BATCH = 2000  # rows written at once
MOST_WORDS = 50  # sentences of a version that are named
MOST_OUTLIERS = 12
BINS = 24  # of the histogram of lengths


@transaction.atomic
def list_root(*, dataset: Dataset, facts: Iterable[dict[str, Any]]) -> None:
    """Its rows, in place of those that it has: a root that nothing refers to may have been made again. `facts` tells of
    each episode, as robots/lerobot/assembling.py does.
    """
    rows = [
        DatasetEpisode(
            **{name: value for name, value in each.items() if name not in ("index", "uuid")},
            uuid=uuids.UUID(each["uuid"]),
            dataset=dataset,
            position=position,
            source=dataset,
            source_index=each["index"],
            start=0,
            stop=each["steps"],
        )
        for position, each in enumerate(facts)
    ]
    say_unusual(rows)
    DatasetEpisode.objects.filter(dataset=dataset).delete()
    DatasetEpisode.objects.bulk_create(rows, batch_size=BATCH)
    Dataset.objects.filter(pk=dataset.pk).update(
        listed=True,
        summary=None,
        episodes=len(rows),
        steps=sum(row.steps for row in rows),
        families=sorted({row.task for row in rows}),
    )


def say_unusual(rows: Sequence[DatasetEpisode]) -> None:
    """What stands out of each beside the others, with what was cut from it left out of account."""
    for row, reasons in zip(rows, unusual([quality_now(row) for row in rows]), strict=True):
        row.unusual = reasons


def quality_now(row: DatasetEpisode) -> dict[str, Any]:
    """As it was recorded, but for what a cut changes for certain."""
    whole = row.quality.get("steps", row.stop)
    quality: dict[str, Any] = row.quality
    return quality | {
        "steps": row.steps,
        "idle_start": max(0, row.quality.get("idle_start", 0) - row.start),
        "idle_end": max(0, row.quality.get("idle_end", 0) - (whole - row.stop)),
    }


def summary_of(dataset: Dataset) -> dict[str, Any]:
    """What a version's rows come to: {episodes, steps, shortest, longest, mean (steps), flagged, unusual, detected,
    true, known, trimmed, weighed (episodes), words [{task, instruction, episodes}], tags, outliers [position],
    lengths {edges [n + 1] (steps), counts [n]}}. The first that asks has it kept.
    """
    if dataset.summary is None:
        dataset.summary = _sum_up(dataset)
        if dataset.listed:
            # Unless they were made again meanwhile: a dataset of corrections grows.
            same = Dataset.objects.filter(pk=dataset.pk, listed=True, episodes=dataset.episodes)
            same.update(summary=dataset.summary)
    found: dict[str, Any] = dataset.summary
    return found


def _sum_up(dataset: Dataset) -> dict[str, Any]:
    rows = dataset.rows.order_by()
    counted = rows.aggregate(
        episodes=Count("pk"),
        all_steps=Sum("steps"),
        shortest=Min("steps"),
        longest=Max("steps"),
        mean=Cast(Avg("steps"), FloatField()),
        flagged=Count("pk", filter=Q(flagged=True)),
        unusual=Count("pk", filter=~Q(unusual=[])),
        detected=Count("pk", filter=Q(detected_success=True)),
        true=Count("pk", filter=Q(true_success=True)),
        known=Count("pk", filter=Q(true_success__isnull=False)),
        trimmed=Count("pk", filter=Q(start__gt=0) | Q(stop__lt=Cast("quality__steps", IntegerField()))),
        weighed=Count("pk", filter=~Q(weight=1.0)),
    )
    words = rows.values("task", "instruction").annotate(episodes=Count("pk")).order_by("-episodes", "instruction")
    outliers = rows.exclude(unusual=[]).order_by("position").values_list("position", flat=True)
    return counted | {
        "steps": counted.pop("all_steps"),
        "words": list(words[:MOST_WORDS]),
        "tags": distinct_tags(rows),
        "outliers": list(outliers[:MOST_OUTLIERS]),
        "lengths": _length_histogram(dataset, counted["shortest"], counted["longest"]),
    }


def _length_histogram(dataset: Dataset, least: int | None, most: int | None) -> dict[str, list[int]]:
    if least is None or most is None:
        return {"edges": [], "counts": []}
    width = max(1, -(-(most - least + 1) // BINS))
    bucket = CombinedExpression(F("steps") - Value(least), "/", Value(width), output_field=IntegerField())
    found = dict(dataset.rows.order_by().annotate(bucket=bucket).values_list("bucket").annotate(count=Count("pk")))
    bins = (most - least) // width + 1
    return {
        "edges": [least + i * width for i in range(bins + 1)],
        "counts": [found.get(i, 0) for i in range(bins)],
    }


def distinct_tags(rows: Any) -> list[str]:
    """Of rows that have tags."""
    each = Func(F("tags"), function="jsonb_array_elements_text", output_field=CharField())
    return sorted(rows.order_by().annotate(tag_of=each).values_list("tag_of", flat=True).distinct())
