"""The job that makes what people look at of a dataset (looks.py), by a child process."""

import logging
from pathlib import Path
from typing import Any

from celery import shared_task
from django.conf import settings
from django.db import close_old_connections

from fleetui.learning import looks
from fleetui.learning.jobs import (
    DATABASE_AWAY,
    ChildFailed,
    Interrupted,
    first_line,
    owns_folder,
    plan_of,
    run_robots,
    stopping,
)
from fleetui.learning.models import Dataset, DatasetEpisode
from robots import strict_json
from robots.atomic_files import write_atomically
from robots.lerobot.looking import TILE

log = logging.getLogger(__name__)


@shared_task(name="learning.look")
def look_job(wanted: str) -> None:
    """`wanted`: what, of which dataset, and the number of the episode or block, as looks.py asks for it."""
    if stopping.is_set() or not owns_folder():
        return  # whoever looks asks again
    kind, *numbers = wanted.split("/")
    dataset_id, number = map(int, numbers)
    failure = ""
    try:
        dataset = Dataset.objects.filter(pk=dataset_id).first()
        if dataset is not None:
            _make(kind, dataset, number)
    except Interrupted:
        pass
    except DATABASE_AWAY as error:
        log.error("%s of dataset %s are made later, the database is away: %s", kind, dataset_id, first_line(error))
    except ChildFailed as error:
        failure = f"They could not be made. {error}"
    except Exception as error:
        log.exception("%s of dataset %s", kind, dataset_id)
        failure = f"They could not be made ({type(error).__name__}: {error})."
    finally:
        looks.end_asking(kind, dataset_id, number, failure)
        close_old_connections()


def _make(kind: str, dataset: Dataset, number: int) -> None:
    rows = dataset.rows.select_related("source").order_by("position")
    if kind == "statistics":
        plan = plan_of(dataset, rows) | {"statistics": str(looks.statistics_file(dataset))}
    else:
        plan = _plan_of_root(kind, dataset, number)
    if not plan["episodes"]:
        return
    path = settings.DATA / "plans" / f"look-{kind}-{dataset.pk}-{number}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, strict_json.dumps(plan).encode(), durable=False)
    try:
        run_robots(["dataset", "look", str(path), "--progress"], lambda _: looks.keep_asking(kind, dataset.pk, number))
    finally:
        path.unlink(missing_ok=True)


def _plan_of_root(kind: str, root: Dataset, number: int) -> dict[str, Any]:
    """Of its episodes as they were recorded, whatever versions made of them, so also of those that none has now."""
    source = {"path": str(root.file), **root.origin.get("reading", {})}
    if kind == "pictures":
        indexes = [number]
    else:
        # Pictures are read no larger than they are shown; frames of a file have the size that they have.
        source["picture_width"] = min(TILE[0], source.get("picture_width") or TILE[0])
        low = number * looks.BLOCK
        held = DatasetEpisode.objects.filter(source=root, source_index__range=(low, low + looks.BLOCK - 1))
        indexes = sorted(set(held.values_list("source_index", flat=True)))
        indexes = [index for index in indexes if not _is_made(looks.strip_file(root, index))]
    told = {
        "pictures": lambda index: {"pictures": str(looks.pictures_folder(root, index))},
        "strips": lambda index: {"strip": str(looks.strip_file(root, index))},
    }[kind]
    for place in (looks.pictures_folder(root, 0), looks.strip_file(root, 0)):
        place.parent.mkdir(parents=True, exist_ok=True)
    return {"sources": [source], "episodes": [{"source": 0, "index": index, **told(index)} for index in indexes]}


def _is_made(strip: Path) -> bool:
    return strip.exists() or strip.with_suffix(".none").exists()
