"""Where Ctrl+K leads: the lab's pages and acts, and whatever has a page of its own, by the words of its name."""

from collections.abc import Callable
from typing import Any

from django.db.models import Manager, Q, QuerySet
from django.urls import reverse

from fleetui.access import may
from fleetui.fleet.glossary import TERMS, Term
from fleetui.fleet.models import Lab
from training.methods.registry import methods

# title, name of the address, and what a role must be allowed to do for it to be offered
PAGES = (
    ("Wall", "wall", "see"),
    ("Attention: who needs a person", "attention", "see"),
    ("Effort and planner", "effort", "see"),
    ("Stations", "stations", "see"),
    ("Runs", "runs", "see"),
    ("Checkpoints", "checkpoints", "see"),
    ("Models: pretrained ones to build on", "models", "see"),
    ("Machines: workers that take runs", "machines", "see"),
    ("Spot checks of detected successes", "spot_checks", "see"),
    ("Playground: a frame, words and two checkpoints", "playground", "see"),
    ("Episodes", "episodes", "see"),
    ("Datasets", "datasets", "see"),
    ("Tasks and assignments", "tasks", "see"),
    ("Charts", "charts", "see"),
    ("Glossary: what words and letters mean", "glossary", "see"),
    ("People", "people", "manage_people"),
    ("Audit log", "audit", "see_audit"),
)
# title, name of the address: of the person, the same in every lab
OWN = (
    ("Your password", "password"),
    ("Your access tokens, for programs", "access_tokens"),
    ("Your time zone", "time_zone"),
)
# title, name of the address, what follows it, and what a role must be allowed to do
ACTS = (
    ("Add a station", "new_station", "", "create_station"),
    ("Generate a dataset", "datasets", "#generate", "generate_dataset"),
    ("Upload a dataset", "datasets", "#upload", "upload_dataset"),
    ("Import a LeRobot dataset", "datasets", "#import", "upload_dataset"),
    ("Add a pretrained model", "models", "#add", "add_model"),
    ("Assign a task", "tasks", "#assign", "assign"),
    ("Make a task", "tasks", "#task", "create_task"),
    ("Invite someone", "people", "#invite", "manage_people"),
    ("Say who is told of help requests", "attention", "#contacts", "add_contact"),
)
STOP_ALL = "Software stop of all stations"  # the one act that is done at once: a stop never asks


def jump_targets(lab: Lab, query: str, limit: int = 6) -> list[dict[str, Any]]:
    """[{kind, title, url}], at most so many of a kind; an act that is done at once has {kind, title, act} instead."""

    def found(
        kind: str, rows: QuerySet[Any] | list[Term], name: Callable[[Any], str], url: Callable[[Any], str]
    ) -> list[dict[str, str]]:
        return [{"kind": kind, "title": name(row), "url": url(row)} for row in rows[:limit]]

    def address(name: str, *args: object) -> str:
        return reverse(name, args=[lab.slug, *args])

    def named(rows: Manager[Any]) -> QuerySet[Any]:
        return rows.filter(name__icontains=query, archived_at=None)

    targets = found(
        "station",
        lab.stations.filter(archived_at=None).filter(Q(name__icontains=query) | Q(slug__icontains=query)),
        str,
        lambda row: address("station", row.slug),
    )
    if may(lab.role, "command") and _matches(query, STOP_ALL):
        targets.append({"kind": "act", "title": STOP_ALL, "act": "stop_all"})
    targets += [
        {"kind": "page", "title": title, "url": address(name)}
        for title, name, action in PAGES
        if may(lab.role, action) and _matches(query, title)
    ]
    targets += [{"kind": "page", "title": title, "url": reverse(name)} for title, name in OWN if _matches(query, title)]
    targets += found("run", named(lab.runs), str, lambda row: address("run", row.pk))
    tasks = lab.tasks.filter(archived_at=None).filter(Q(name__icontains=query) | Q(family__icontains=query))
    targets += found("task", tasks, str, lambda row: f"{address('tasks')}#{row.slug}")
    targets += found("dataset", named(lab.datasets).filter(current=True), str, lambda row: address("dataset", row.pk))
    members = lab.memberships.select_related("user").filter(user__username__icontains=query).order_by("user__username")
    if may(lab.role, "manage_people"):
        targets += found(
            "person", members, lambda row: row.user.get_username(), lambda row: f"{address('people')}#member-{row.pk}"
        )
    launches = [(each.title, "new_run", f"?kind={each.kind}", "launch_run") for each in methods().values()]
    targets += [
        {"kind": "act", "title": title, "url": address(name) + rest}
        for title, name, rest, action in (ACTS[0], *launches, *ACTS[1:])
        if may(lab.role, action) and _matches(query, title)
    ]
    if query:
        terms = [term for term in TERMS.values() if _matches(query, term.name)]
        targets += found("glossary", terms, lambda row: row.name, lambda row: f"{address('glossary')}#{row.slug}")
        targets += found(
            "episode",
            lab.episodes.filter(Q(instruction__icontains=query) | Q(uuid__startswith=query)),
            lambda row: f"{str(row.uuid)[:8]} {row.instruction}",
            lambda row: address("episode", row.uuid),
        )
    return targets


def _matches(query: str, title: str) -> bool:
    """Whether the title has all of the words, or their beginnings."""
    return all(word in title.lower() for word in query.lower().split())
