"""Reading checkpoints for their pages: the list, what was measured of one, and where it came from and went."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import Count, F, Q, QuerySet
from django.urls import reverse
from django.utils import timezone

from fleetui.fleet.models import Lab
from fleetui.learning import selectors, studio
from fleetui.learning.models import Checkpoint, Comparison, Metric, Promotion, Run, SpotCheck

# Of a node of the graph, in units of its drawing.
WIDTH, HEIGHT, GAP_X, GAP_Y = 180, 46, 34, 12
MOST_IN_COLUMN = 8
LONGEST_TITLE = 22  # letters, so that it fits its node


def promoted_ids(lab: Lab) -> set[Any]:
    """The checkpoints that are in force because somebody promoted them."""
    newest = Promotion.objects.filter(lab=lab).order_by("role", "body", "run_id", "-id")
    newest = newest.distinct("role", "body", "run_id")
    return {each for each in newest.values_list("checkpoint", flat=True) if each is not None}


def list_checkpoints(lab: Lab, *, role: str = "", run: int | None = None, only: str = "") -> QuerySet[Checkpoint]:
    """The newest first; `only`: "kept" by their runs as the best, or "promoted"."""
    rows = Checkpoint.objects.filter(run__lab=lab).select_related("run").order_by("-created_at", "-version")
    if role:
        rows = rows.filter(role=role)
    if run is not None:
        rows = rows.filter(run_id=run)
    if only == "kept":
        rows = rows.filter(role="policy", version=F("run__kept_version"))
    elif only == "promoted":
        rows = rows.filter(pk__in=promoted_ids(lab))
    return rows


def add_evaluations(checkpoints: Sequence[Checkpoint]) -> dict[Any, dict[str, Any]]:
    """By checkpoint: the newest evaluation of its version in its run's own curve. One query for all of them."""
    wanted = {(each.run_id, each.version): each.pk for each in checkpoints if each.role == "policy"}
    rows = Metric.objects.filter(
        run__in={run for run, _ in wanted}, kind="evaluation", data__version__in=sorted({v for _, v in wanted})
    )
    found = {}
    for run_id, data in rows.order_by("seq").values_list("run_id", "data"):
        if (key := wanted.get((run_id, data.get("version")))) is not None:
            found[key] = data
    return found


def size_of(checkpoint: Checkpoint) -> int | None:
    """Bytes; None where its file is gone."""
    try:
        return checkpoint.file.stat().st_size
    except OSError:
        return None


def checkpoint_row(checkpoint: Checkpoint) -> dict[str, Any]:
    """As the API answers it."""
    return checkpoint.row() | {
        "run": checkpoint.run_id,
        "consecutive": checkpoint.consecutive,
        "derived_from": str(checkpoint.derived_from_id) if checkpoint.derived_from_id else None,
        "sha256": checkpoint.sha256,
        "pretrained": checkpoint.pretrained,
        "size": size_of(checkpoint),
    }


def checkpoint_detail(checkpoint: Checkpoint) -> dict[str, Any]:
    return checkpoint_row(checkpoint) | {
        "in_force": in_force(checkpoint) == checkpoint,
        "problem": promotion_problem(checkpoint),
    }


def promotion_row(promotion: Promotion) -> dict[str, Any]:
    return {
        "id": promotion.pk,
        "role": promotion.role,
        "body": promotion.body,
        "run": promotion.run_id,
        "checkpoint": str(promotion.checkpoint_id) if promotion.checkpoint_id else None,
        "reason": promotion.reason,
        "by": promotion.user.get_username() if promotion.user else "",
        "at": promotion.at.isoformat(),
    }


def comparison_row(row: Comparison) -> dict[str, Any]:
    return {
        "id": row.pk,
        "first": str(row.first_id),
        "second": str(row.second_id) if row.second_id else None,
        "task": row.task.slug,
        "time_limit": row.time_limit,
        "edge_margin": row.edge_margin,
        "episodes": row.episodes,
        "seed": row.seed,
        "state": row.state,
        "progress": row.progress,
        "error": row.error,
        "of_first": row.results.get("first"),
        "of_second": row.results.get("second"),
        "difference": row.results.get("difference"),
        "by": row.created_by.get_username() if row.created_by else "",
        "created_at": row.created_at.isoformat(),
        "ended_at": row.ended_at.isoformat() if row.ended_at else None,
    }


def comparisons_with(checkpoint: Checkpoint) -> QuerySet[Comparison]:
    rows = Comparison.objects.filter(Q(first=checkpoint) | Q(second=checkpoint))
    return rows.select_related("first__run", "second__run", "task", "created_by").order_by("-id")


def evaluations_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """What was measured of a policy: "curve" by its own run in simulation, "stations" by stations."""
    if checkpoint.role != "policy":
        return {"curve": None, "stations": []}
    stations = [
        each for each in selectors.evaluations_on_stations(checkpoint.run) if each["checkpoint"] == str(checkpoint.pk)
    ]
    return {"curve": add_evaluations([checkpoint]).get(checkpoint.pk), "stations": stations}


def checks_of(checkpoint: Checkpoint) -> QuerySet[SpotCheck]:
    """Of a policy those of its attempts; of a reward model those of what it detected with this threshold."""
    name = "policy" if checkpoint.role == "policy" else "reward_model"
    return SpotCheck.objects.filter(**{name: checkpoint})


# What is in force


def scope_of(checkpoint: Checkpoint) -> dict[str, Any]:
    """Of what its promotion would be the newest."""
    if checkpoint.role == "reward_model":
        return {"role": "reward_model", "body": "", "run": checkpoint.run}
    return {"role": "policy", "body": checkpoint.run.body.get("name", ""), "run": None}


def promotions_of(checkpoint: Checkpoint) -> list[Promotion]:
    """All of its scope, the newest first."""
    scope = scope_of(checkpoint)
    rows = Promotion.objects.filter(lab=checkpoint.run.lab_id, role=scope["role"], body=scope["body"])
    return list(rows.filter(run=scope["run"]).select_related("checkpoint__run", "user"))


def in_force(checkpoint: Checkpoint) -> Checkpoint | None:
    """Of its scope."""
    if checkpoint.role == "reward_model":
        return checkpoint.run.reward_model_at(None)
    newest = Promotion.newest(checkpoint.run.lab, checkpoint.run.body.get("name", ""))
    return newest.checkpoint if newest else None


def former_of(promotions: list[Promotion]) -> Checkpoint | None:
    """What was in force before the newest of them; None: nothing was."""
    if len(promotions) > 1:
        return promotions[1].checkpoint
    run = promotions[0].run if promotions else None
    return run.checkpoints.filter(role="reward_model", derived_from=None).last() if run else None


def promotion_problem(checkpoint: Checkpoint) -> str:
    """Why it can't be promoted, or nothing."""
    if checkpoint.role == "policy":
        if problem := selectors.evaluation_problem(checkpoint):
            return problem
        if not checkpoint.run.body.get("name"):
            return f"Nobody knows for which body {checkpoint} was trained, so it can be no body's default."
    elif not checkpoint.file.is_file():
        return f"The file of {checkpoint} of {checkpoint.run} is no longer there; choose another one."
    return ""


def under_way_with(run: Run) -> list[Run]:
    """Runs that practise now, judged by a reward model of this run: they keep the version that they began with."""
    judge = run.judge
    live = run.lab.runs.filter(state__in=Run.LIVE, kind__in=selectors.practising_kinds(), started_at__isnull=False)
    return [each for each in live.select_related("parent", "lab") if each.judge == judge]


# Where it came from and went


@dataclass
class Node:
    """Something in the graph, with the address of its page."""

    kind: str  # dataset | run | checkpoint | station | more
    title: str
    note: str
    url: str
    current: bool = False
    x: int = 0
    y: int = 0

    @property
    def short(self) -> str:
        return self.title if len(self.title) <= LONGEST_TITLE else f"{self.title[: LONGEST_TITLE - 1]}…"


@dataclass
class Lineage:
    """Nodes in columns, what came first on the left; each edge leads from one node to another."""

    columns: list[list[Node]] = field(default_factory=list)
    edges: list[tuple[Node, Node]] = field(default_factory=list)
    width: int = 0
    height: int = 0

    def place(self) -> "Lineage":
        tallest = max(len(column) for column in self.columns)
        self.width = len(self.columns) * (WIDTH + GAP_X) - GAP_X + 2
        self.height = tallest * (HEIGHT + GAP_Y) - GAP_Y + 2
        for number, column in enumerate(self.columns):
            above = (tallest - len(column)) * (HEIGHT + GAP_Y) // 2
            for place, node in enumerate(column):
                node.x, node.y = 1 + number * (WIDTH + GAP_X), 1 + above + place * (HEIGHT + GAP_Y)
        return self

    @property
    def paths(self) -> list[str]:
        """Of each edge, as an SVG draws it."""
        found = []
        for first, last in self.edges:
            x, y, to_x, to_y = first.x + WIDTH, first.y + HEIGHT // 2, last.x, last.y + HEIGHT // 2
            middle = (x + to_x) // 2
            found.append(f"M{x} {y} C{middle} {y} {middle} {to_y} {to_x} {to_y}")
        return found


def lineage_of(checkpoint: Checkpoint) -> Lineage:
    """Dataset versions -> runs -> this checkpoint -> runs that began with its run's, stations where it acted."""
    lab, found = checkpoint.run.lab, Lineage()
    chain = [checkpoint.run]
    while (parent := chain[0].parent) is not None:
        chain.insert(0, parent)
    datasets = [
        Node("dataset", str(each), f"{each.episodes} episodes", reverse("dataset", args=[lab.slug, each.pk]))
        for each in chain[0].demonstrations
    ]
    if datasets:
        found.columns.append(datasets)
    before = datasets
    for run in chain:
        node = _run_node(lab, run)
        found.columns.append([node])
        found.edges += [(each, node) for each in before]
        before = [node]
    here = _checkpoint_node(lab, checkpoint, current=True)
    if checkpoint.derived_from is not None:
        other = _checkpoint_node(lab, checkpoint.derived_from)
        found.columns.append([other])
        found.edges += [(each, other) for each in before]
        before = [other]
    found.columns.append([here])
    found.edges += [(each, here) for each in before]
    after = _limited(_after(lab, checkpoint), checkpoint)
    if after:
        found.columns.append(after)
        found.edges += [(here, each) for each in after]
    return found.place()


def _run_node(lab: Lab, run: Run) -> Node:
    return Node("run", run.name, run.method.words, reverse("run", args=[lab.slug, run.pk]))


def _checkpoint_node(lab: Lab, checkpoint: Checkpoint, current: bool = False) -> Node:
    note = f"{timezone.localtime(checkpoint.created_at):%Y-%m-%d}"
    if checkpoint.role == "reward_model" and checkpoint.threshold is not None:
        note = f"s = {checkpoint.threshold:.4g}"
    url = reverse("checkpoint", args=[lab.slug, checkpoint.pk])
    return Node("checkpoint", str(checkpoint), note, url, current)


def _after(lab: Lab, checkpoint: Checkpoint) -> list[Node]:
    """What came of it: other thresholds of the same weights, runs that began with it, stations where it was used."""
    nodes = [_checkpoint_node(lab, each) for each in checkpoint.derived.all()]
    run = checkpoint.run
    is_start = checkpoint.role == "reward_model" or checkpoint == run.best_checkpoint("policy")
    if is_start:
        nodes += [_run_node(lab, each) for each in run.children.select_related("lab").order_by("pk")]
    name = "policy" if checkpoint.role == "policy" else "reward_model"
    used = lab.episodes.filter(**{name: checkpoint}).order_by()
    rows = used.values("station__name", "station__slug", "station__number").annotate(n=Count("pk"))
    for row in rows.order_by("station__number"):
        url = f"{reverse('episodes', args=[lab.slug])}?station={row['station__slug']}&run={run.pk}"
        plural = "" if row["n"] == 1 else "s"
        nodes.append(Node("station", row["station__name"], f"{row['n']} attempt{plural}", url))
    return nodes


def _limited(nodes: list[Node], checkpoint: Checkpoint) -> list[Node]:
    if len(nodes) <= MOST_IN_COLUMN:
        return nodes
    url = f"{reverse('episodes', args=[checkpoint.run.lab.slug])}?run={checkpoint.run_id}"
    more = len(nodes) - MOST_IN_COLUMN + 1
    return [*nodes[: MOST_IN_COLUMN - 1], Node("more", f"{more} more", "runs and stations", url)]


def bound_of(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    return studio.bounds(checks_of(checkpoint))
