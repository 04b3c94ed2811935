"""The episodes of a root, as rows: made once, when its content is there."""

import uuid as uuids
from collections.abc import Iterable, Sequence
from typing import Any

from django.db import transaction

from fleetui.learning.models import Dataset, DatasetEpisode
from robots.quality import unusual

BATCH = 2000  # rows written at once


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
