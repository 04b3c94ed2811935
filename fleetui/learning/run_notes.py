"""What people write on runs, and the views of the table that they keep. These are actions, like those in actions.py."""

from collections.abc import Iterable, Sequence

from django.db import IntegrityError, transaction
from django.http import QueryDict

from fleetui import access
from fleetui.access import Conflict, Invalid
from fleetui.fleet.actions.audit import record_act
from fleetui.fleet.models import Lab
from fleetui.fleet.names import checked_name, shown
from fleetui.learning.models import Run, RunView
from fleetui.learning.run_table import kept_query

MOST_TAGS = 20
LONGEST_NOTES = 20_000


@transaction.atomic
def tag_runs(
    *,
    lab: Lab,
    user: access.Acting,
    runs: Sequence[Run],
    add: Iterable[str] = (),
    remove: Iterable[str] = (),
    source: str = "server",
) -> int:
    """Give runs of one lab tags, take others from them. How many were changed."""
    access.check(user, lab, "note_run")
    given, taken = set(add), set(remove)
    if not given and not taken:
        raise Invalid("Type a tag first.", {"tags": "Type a tag first."})
    changed = []
    rows = Run.objects.select_for_update(of=("self",)).filter(lab=lab, pk__in=[run.pk for run in runs])
    for run in rows.order_by("pk"):
        tags = sorted((set(run.tags) | given) - taken)
        if len(tags) > MOST_TAGS:
            raise Invalid(f"{run} would have {len(tags)} tags; a run has at most {MOST_TAGS}. Remove some first.")
        if tags != run.tags:
            run.tags = tags
            changed.append(run)
    if changed:
        Run.objects.bulk_update(changed, ["tags"])
        details = {"runs": ", ".join(str(run.pk) for run in changed)}
        details |= {"added": ", ".join(sorted(given))} if given else {}
        details |= {"removed": ", ".join(sorted(taken))} if taken else {}
        record_act(lab=lab, kind="run_tagged", user=user, details=details, source=source)
    return len(changed)


@transaction.atomic
def note_run(*, run: Run, user: access.Acting, notes: str, source: str = "server") -> None:
    """Write down what is worth knowing of a run; what stood there before is in the audit log."""
    access.check(user, run.lab, "note_run")
    notes = notes.replace("\0", "").replace("\r\n", "\n").strip()
    if len(notes) > LONGEST_NOTES:
        raise Invalid(f"The notes have {len(notes)} characters; at most {LONGEST_NOTES} are kept. Shorten them.")
    row = Run.objects.select_for_update(of=("self",)).get(pk=run.pk)
    if row.notes != notes:
        Run.objects.filter(pk=run.pk).update(notes=notes)
        details = {"run": run.name, "number": run.pk, "before": row.notes}
        record_act(lab=run.lab, kind="run_noted", user=user, details=details, source=source)


def _checked(name: str) -> str:
    return checked_name(name, "view", 60)


def _taken(lab: Lab, name: str) -> Conflict:
    return Conflict(f"{lab.name} already has a view named {shown(name)}; choose another name.")


@transaction.atomic
def save_view(*, lab: Lab, user: access.Acting, name: str, query: str, source: str = "server") -> RunView:
    """Keep what the table of runs shows now, by a name, for everybody in the lab."""
    access.check(user, lab, "keep_view")
    name = _checked(name)
    kept = kept_query(QueryDict(query)).urlencode()
    if len(kept) > 2000:
        raise Invalid("This view has too many words to be kept; shorten its search.")
    try:
        with transaction.atomic():
            view = RunView.objects.create(lab=lab, name=name, query=kept, author=access.person_of(user))
    except IntegrityError:
        raise _taken(lab, name) from None
    record_act(lab=lab, kind="run_view_saved", user=user, details={"view": name, "query": kept}, source=source)
    return view


@transaction.atomic
def rename_view(*, view: RunView, user: access.Acting, name: str, source: str = "server") -> None:
    access.check(user, view.lab, "keep_view")
    name = _checked(name)
    try:
        with transaction.atomic():
            RunView.objects.filter(pk=view.pk).update(name=name)
    except IntegrityError:
        raise _taken(view.lab, name) from None
    details = {"view": name, "before": view.name}
    record_act(lab=view.lab, kind="run_view_renamed", user=user, details=details, source=source)


@transaction.atomic
def delete_view(*, view: RunView, user: access.Acting, source: str = "server") -> None:
    """What it showed stays; its address can be kept again, and the audit log has it."""
    access.check(user, view.lab, "keep_view")
    details = {"view": view.name, "query": view.query}
    record_act(lab=view.lab, kind="run_view_deleted", user=user, details=details, source=source)
    view.delete()
