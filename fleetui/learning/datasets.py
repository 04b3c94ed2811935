"""What people do to datasets: trim, split, merge, delete, say other words, flag, tag, note, weigh, and go back.

Each edit makes a new version and leaves what it was made of as it is; a version is rows alone, so nothing is copied.
Undo makes the parent what the name shows; the newer version stays in the list and can be made current again. These are
actions, like those in actions.py.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from django.db import IntegrityError, transaction
from django.db.models import Max

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.bodies import what_changed
from fleetui.fleet.models import Lab
from fleetui.fleet.names import checked_name, shown
from fleetui.learning.listing import say_unusual
from fleetui.learning.models import Dataset, DatasetEpisode
from robots.episodes import LONGEST_TEXT
from robots.strict_json import text_fault

MOST_TAGS, LONGEST_TAG, LONGEST_NOTE = 20, 40, 2000
WEIGHTS = (0.01, 100.0)
MOST_MERGED = 20
BATCH = 2000  # rows written at once
CUT_ENDING = "time_limit"  # of an episode whose end was cut away: nobody knows how far its goal still was

Change = Callable[[DatasetEpisode], DatasetEpisode | None]  # None: it is left out


# Edits of episodes; `positions` are those of the version that is edited


@transaction.atomic
def trim_episodes(
    *, dataset: Dataset, user: access.Acting, cuts: Mapping[int, tuple[int, int]], source: str = "server"
) -> Dataset:
    """Keep of each episode, by its position, the steps from start (0 is the first that it has now) up to stop.

    An episode that reached its goal still does so only where its frames say it: where all that is cut from its end is
    idle, or the reward model called each frame from there on success. Else it ends at the time limit, undetected, and
    nobody knows its true success: no steps-to-go are learned from it.
    """
    access.check(user, dataset.lab, "edit_dataset")
    problems = []
    for row in _rows_at(dataset, cuts):
        start, stop = cuts[row.position]
        if not 0 <= start < stop <= row.steps:
            problems.append(f"Episode {row.position} has {row.steps} steps; it can't be cut to {start} to {stop}.")
    if problems:
        raise _invalid("cuts", problems)

    def trim(row: DatasetEpisode) -> DatasetEpisode:
        if row.position in cuts:
            start, stop = cuts[row.position]
            cut_row(row, row.start + start, row.start + stop)
        return row

    return _edited(dataset, user, "trimmed", trim, source=source, episodes=len(cuts))


@transaction.atomic
def delete_episodes(
    *, dataset: Dataset, user: access.Acting, positions: Sequence[int], source: str = "server"
) -> Dataset:
    """Without these; the versions before still have them."""
    access.check(user, dataset.lab, "edit_dataset")
    wanted = {row.position for row in _rows_at(dataset, positions)}
    if len(wanted) == dataset.rows.count():
        raise _invalid("positions", ["A dataset needs an episode; to be rid of all, archive the dataset."])
    return _edited(
        dataset,
        user,
        "deleted",
        lambda row: None if row.position in wanted else row,
        source=source,
        episodes=len(wanted),
    )


@transaction.atomic
def relabel_episodes(
    *, dataset: Dataset, user: access.Acting, positions: Sequence[int], instruction: str, source: str = "server"
) -> Dataset:
    """Other words for what these episodes do."""
    access.check(user, dataset.lab, "edit_dataset")
    words = _checked_text(instruction, "instruction", LONGEST_TEXT)
    if not words:
        raise _invalid("instruction", ["Say what the episodes do."])
    return _changed(
        dataset, user, "relabeled", positions, {"instruction": words}, source=source, details={"instruction": words}
    )


@transaction.atomic
def flag_episodes(
    *,
    dataset: Dataset,
    user: access.Acting,
    positions: Sequence[int],
    flagged: bool = True,
    note: str | None = None,
    source: str = "server",
) -> Dataset:
    """Mark them to be looked at, or take the mark away; with a note on each, unless it is None."""
    access.check(user, dataset.lab, "edit_dataset")
    fields: dict[str, Any] = {"flagged": flagged}
    if note is not None:
        fields["note"] = _checked_text(note, "note", LONGEST_NOTE)
    what = "flagged" if flagged else "unflagged"
    return _changed(dataset, user, what, positions, fields, source=source)


@transaction.atomic
def tag_episodes(
    *,
    dataset: Dataset,
    user: access.Acting,
    positions: Sequence[int],
    add: Sequence[str] = (),
    remove: Sequence[str] = (),
    source: str = "server",
) -> Dataset:
    """By a tag a dataset can be filtered and split."""
    access.check(user, dataset.lab, "edit_dataset")
    wanted = {row.position for row in _rows_at(dataset, positions)}
    fresh, gone = _checked_tags(add), set(remove)
    if not (fresh or gone):
        raise _invalid("tags", ["Name a tag to add or to remove."])

    def tag(row: DatasetEpisode) -> DatasetEpisode:
        if row.position in wanted:
            row.tags = _checked_tags([each for each in [*row.tags, *fresh] if each not in gone])
        return row

    details = {"add": fresh, "remove": sorted(gone)}
    return _edited(dataset, user, "tagged", tag, source=source, episodes=len(wanted), details=details)


@transaction.atomic
def weigh_episodes(
    *, dataset: Dataset, user: access.Acting, positions: Sequence[int], weight: float, source: str = "server"
) -> Dataset:
    """How much each counts in learning, as a number of episodes: what people corrected may count for more."""
    access.check(user, dataset.lab, "edit_dataset")
    low, high = WEIGHTS
    if not low <= weight <= high:
        raise _invalid("weight", [f"A weight is a number from {low:g} to {high:g}, not {weight:g}; 1 is the usual."])
    return _changed(dataset, user, "weighed", positions, {"weight": float(weight)}, source=source)


# Edits of the whole


@transaction.atomic
def tag_dataset(*, dataset: Dataset, user: access.Acting, tags: Sequence[str], source: str = "server") -> Dataset:
    """All tags of it, in place of those that it has."""
    access.check(user, dataset.lab, "edit_dataset")
    checked = _checked_tags(tags)
    return _edited(dataset, user, "tagged", source=source, details={"tags": checked}, tags=checked)


@transaction.atomic
def note_dataset(*, dataset: Dataset, user: access.Acting, notes: str, source: str = "server") -> Dataset:
    """What people should know of it, in place of what stands there."""
    access.check(user, dataset.lab, "edit_dataset")
    return _edited(dataset, user, "noted", source=source, notes=_checked_text(notes, "notes", LONGEST_NOTE))


@transaction.atomic
def make_current(*, dataset: Dataset, user: access.Acting, source: str = "server") -> Dataset:
    """This version is what its name shows from now on. No other is lost: so undo is making the parent current, and redo
    is making the child so.
    """
    access.check(user, dataset.lab, "edit_dataset")
    shown_now = _lock_versions(dataset).filter(current=True).first()
    if shown_now is not None and shown_now.archived_at is not None:
        raise Conflict(f"{shown_now} is archived; bring it back first.")
    if dataset == shown_now:
        raise Conflict(f"{dataset} is what its name shows already.")
    _lock_versions(dataset).update(current=False)
    Dataset.objects.filter(pk=dataset.pk).update(current=True)
    dataset.refresh_from_db()
    _record(dataset, "dataset_current", user, source=source, before=shown_now.version if shown_now else None)
    return dataset


def undo_edit(*, dataset: Dataset, user: access.Acting, source: str = "server") -> Dataset:
    """Undo: the version that this one was made of is what the name shows again."""
    access.check(user, dataset.lab, "edit_dataset")
    parent = dataset.parent
    if parent is None or parent.name != dataset.name:
        raise Conflict(f"{dataset} is the first of its name; there is nothing to go back to.")
    return make_current(dataset=parent, user=user, source=source)


@transaction.atomic
def split_dataset(
    *,
    dataset: Dataset,
    user: access.Acting,
    by: str,
    tag: str = "",
    share: float = 0.8,
    seed: int = 0,
    step: int = 0,
    source: str = "server",
) -> list[Dataset]:
    """Datasets of their own, whose parent this is. `by` is

    tag     those with the tag, and the others
    task    those of each task
    share   a share of the episodes, drawn by the seed, and the others
    step    of each episode what comes before the step, and what comes after; a shorter one is in the first wholly
    """
    access.check(user, dataset.lab, "edit_dataset")
    rows = list(_listed(dataset))
    if by == "tag":
        parts = {f"with {tag}": [row for row in rows if tag in row.tags]}
        parts[f"without {tag}"] = [row for row in rows if tag not in row.tags]
    elif by == "task":
        parts = {task: [row for row in rows if row.task == task] for task in sorted({row.task for row in rows})}
    elif by == "share":
        if not 0 < share < 1:
            raise _invalid("share", ["The share must lie between 0 and 1."])
        first = set(np.random.default_rng(seed).permutation(len(rows))[: round(share * len(rows))].tolist())
        parts = {
            f"drawn {share:.0%}": [row for i, row in enumerate(rows) if i in first],
            f"other {1 - share:.0%}": [row for i, row in enumerate(rows) if i not in first],
        }
    elif by == "step":
        if step < 1:
            raise _invalid("step", ["Cut at step 1 or later."])
        late = [copy.copy(row) for row in rows if row.steps > step]
        for row in late:
            cut_row(row, row.start + step, row.stop)
        for row in rows:
            if row.steps > step:
                cut_row(row, row.start, row.start + step)
        parts = {f"before step {step}": rows, f"from step {step}": late}
    else:
        raise _invalid("by", ["Split by tag, task, share or step."])
    if len(parts) < 2 or not all(parts.values()):
        raise _invalid(by, ["All episodes would be in one part; there is nothing to split."])
    asked: dict[str, dict[str, Any]] = {
        "tag": {"tag": tag},
        "task": {},
        "share": {"share": share, "seed": seed},
        "step": {"step": step},
    }
    told = asked[by]
    made = []
    for label, kept in parts.items():
        origin = {"by": "split", "of": dataset.pk, "split_by": by, "part": label, **told}
        made.append(_new_line(dataset, f"{dataset.name}, {label}", user, kept, origin))
    _record(dataset, "dataset_split", user, source=source, split_by=by, into=[each.name for each in made], **told)
    return made


@transaction.atomic
def merge_datasets(
    *, lab: Lab, user: access.Acting, datasets: Sequence[Dataset], name: str, source: str = "server"
) -> Dataset:
    """One dataset of the episodes of several, of one body: one after the other, each episode once."""
    access.check(user, lab, "edit_dataset")
    datasets = list(dict.fromkeys(datasets))
    if not 2 <= len(datasets) <= MOST_MERGED or any(each.lab_id != lab.pk for each in datasets):
        raise _invalid("datasets", [f"Choose 2 to {MOST_MERGED} datasets of {lab.name}."])
    first = datasets[0]
    for each in datasets[1:]:
        if each.body.get("name") != first.body.get("name"):
            told = f"{each.body.get('name') or 'an unknown body'}, and {first} of {first.body.get('name') or 'one too'}"
            raise _invalid("datasets", [f"{each} is of {told}; only datasets of one body can be merged."])
        if changed := what_changed(each.body, first.body):
            raise _invalid("datasets", [f"The body of {each} is not as that of {first}: {changed}."])
    rows, seen = [], set()
    for each in datasets:
        for row in _listed(each):
            key = (row.source_id, row.source_index, row.start, row.stop)
            if key not in seen:
                seen.add(key)
                rows.append(row)
    origin = {"by": "merge", "of": [each.pk for each in datasets]}
    made = _new_line(first, name, user, rows, origin)
    _record(made, "dataset_merged", user, source=source, of=[str(each) for each in datasets])
    return made


# How a version is made


def cut_row(row: DatasetEpisode, start: int, stop: int) -> None:
    """Keep of the recorded episode the steps from start to stop; see trim_episodes() for what becomes of its end."""
    if stop < min(row.stop, row.quality.get("reached_from", row.stop)):
        row.ending, row.detected_success, row.true_success = CUT_ENDING, False, None
    row.start, row.stop, row.steps = start, stop, stop - start


def _listed(dataset: Dataset) -> Iterable[DatasetEpisode]:
    """Its rows, by position, where all are there."""
    if dataset.state != "ready":
        raise Conflict(f"{dataset} is {dataset.state}; wait until it is ready.")
    if not dataset.listed:
        raise Conflict(f"The episodes of {dataset} are still being listed; try again in a moment.")
    return dataset.rows.order_by("position")


def _rows_at(dataset: Dataset, positions: Iterable[int]) -> list[DatasetEpisode]:
    """Those of these positions; Invalid where one is missing or none is asked for."""
    wanted = set(positions)
    _listed(dataset)
    if not wanted:
        raise _invalid("positions", ["Choose at least one episode."])
    found = list(dataset.rows.filter(position__in=wanted).order_by("position"))
    if missing := wanted - {row.position for row in found}:
        raise _invalid("positions", [f"{dataset} has no episode {min(missing)}."])
    return found


def _changed(
    dataset: Dataset,
    user: access.Acting,
    what: str,
    positions: Iterable[int],
    fields: Mapping[str, Any],
    *,
    source: str,
    details: Mapping[str, Any] | None = None,
) -> Dataset:
    wanted = {row.position for row in _rows_at(dataset, positions)}

    def change(row: DatasetEpisode) -> DatasetEpisode:
        if row.position in wanted:
            for name, value in fields.items():
                setattr(row, name, value)
        return row

    return _edited(dataset, user, what, change, source=source, episodes=len(wanted), details=dict(details or fields))


def _edited(
    dataset: Dataset,
    user: access.Acting,
    what: str,
    change: Change | None = None,
    *,
    source: str,
    episodes: int = 0,
    details: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Dataset:
    """The next version of the dataset, with its rows as they are after the change."""
    if dataset.archived_at is not None:
        raise Conflict(f"{dataset} is archived; bring it back first.")
    versions = _lock_versions(dataset)
    highest = versions.aggregate(highest=Max("version"))["highest"]
    told = {"episodes": episodes, **(details or {})}
    rows = _listed(dataset)
    kept = [row for row in (change(row) if change else row for row in rows) if row is not None]
    versions.update(current=False)
    made = Dataset.objects.create(
        **{
            "lab": dataset.lab,
            "name": dataset.name,
            "version": highest + 1,
            "parent": dataset,
            "origin": {"by": what, **told},
            "tags": dataset.tags,
            "notes": dataset.notes,
            "families": dataset.families,
            "body": dataset.body,
            "created_by": access.person_of(user),
            "state": "ready",
            "progress": 1.0,
            **fields,
        }
    )
    fill(made, kept)
    _record(made, "dataset_edited", user, source=source, what=what, **told)
    return made


def _new_line(
    parent: Dataset, name: str, user: access.Acting, rows: Sequence[DatasetEpisode], origin: dict[str, Any]
) -> Dataset:
    """The first version of another name."""
    name = checked_name(name[:80], "dataset")
    try:
        with transaction.atomic():
            made = Dataset.objects.create(
                lab=parent.lab,
                name=name,
                parent=parent,
                origin=origin,
                body=parent.body,
                created_by=access.person_of(user),
                state="ready",
                progress=1.0,
            )
    except IntegrityError:
        raise Conflict(f"{parent.lab.name} already has a dataset named {shown(name)}; choose another name.") from None
    fill(made, rows)
    return made


def fill(dataset: Dataset, rows: Sequence[DatasetEpisode]) -> None:
    """Give a new version its rows, in this order, and the sums of them."""
    for position, row in enumerate(rows):
        row.pk, row._state.adding = None, True
        row.dataset, row.position = dataset, position
    say_unusual(rows)
    DatasetEpisode.objects.bulk_create(rows, batch_size=BATCH)
    Dataset.objects.filter(pk=dataset.pk).update(
        listed=True,
        episodes=len(rows),
        steps=sum(row.steps for row in rows),
        families=sorted({row.task for row in rows}),
    )
    dataset.refresh_from_db()


def _lock_versions(dataset: Dataset) -> Any:
    """All versions of its name, so that two edits at once come one after the other."""
    versions = Dataset.objects.filter(lab=dataset.lab_id, name=dataset.name)
    list(versions.order_by("pk").select_for_update().values_list("pk", flat=True))
    return versions


def _record(dataset: Dataset, kind: str, user: access.Acting, *, source: str, **details: Any) -> None:
    details = {"dataset": dataset.name, "number": dataset.pk, "version": dataset.version, **details}
    record_act(lab=dataset.lab, kind=kind, user=user, details=details, source=source)


def _invalid(field: str, problems: Sequence[str]) -> Invalid:
    text = " ".join(problems[:5]) + (f" And {len(problems) - 5} more." if len(problems) > 5 else "")
    return Invalid(text, {field: text})


def _checked_text(text: str, field: str, longest: int) -> str:
    text = text.strip()
    if len(text) > longest:
        raise _invalid(field, [f"At most {longest} characters are kept, and these are {len(text)}."])
    if fault := text_fault(text):
        raise _invalid(field, [f"The text {fault}."])
    return text


def _checked_tags(tags: Iterable[str]) -> list[str]:
    """Each once, in the order of the alphabet."""
    found = sorted({_checked_text(tag, "tags", LONGEST_TAG) for tag in tags} - {""})
    if len(found) > MOST_TAGS:
        raise _invalid("tags", [f"At most {MOST_TAGS} tags are kept."])
    return found
