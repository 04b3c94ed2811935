"""Reading many rows of learning: runs with their checkpoints, metrics for curves, what a run's page starts from."""

from collections import deque
from collections.abc import Sequence
from typing import Any

from django.db.models import Count, Prefetch, Q, QuerySet
from django.utils import timezone

from fleetui.fleet.models import Assignment, Lab, Station
from fleetui.learning.listing import quality_now
from fleetui.learning.models import QUEUES, Checkpoint, Dataset, DatasetEpisode, Export, Import, Metric, Run, Worker
from training.intervals import wilson
from training.methods.registry import ROLES, methods_that_need

SNAPSHOT_METRICS = 4000
RECENT_IMPORTS = 8  # on a list: those under way, and the last that failed
MOMENTS = ("created_at", "started_at", "ended_at")  # of an evaluation on stations


def list_datasets(lab: Lab, archived: bool = False) -> QuerySet[Dataset]:
    """What each name shows of those in use, or of those that no longer are."""
    rows = lab.datasets.filter(archived_at__isnull=not archived, current=True)
    return rows.select_related("created_by").order_by("-id")


def list_versions(dataset: Dataset) -> QuerySet[Dataset]:
    """All versions of its name, the newest first."""
    rows = Dataset.objects.filter(lab=dataset.lab_id, name=dataset.name)
    return rows.select_related("created_by", "parent").order_by("-version")


def list_uses(dataset: Dataset) -> QuerySet[Run]:
    """Runs that learned from this version, as demonstrations or as corrections, the newest first."""
    return dataset.lab.runs.filter(Q(dataset=dataset) | Q(corrections=dataset)).order_by("-id")


def list_derived(dataset: Dataset) -> QuerySet[Dataset]:
    """Versions and datasets that were made of it."""
    return dataset.children.select_related("created_by").order_by("-id")


EPISODE_SORTS = ("position", "steps", "task", "instruction", "ending", "weight", "jerk", "idle_start", "idle_end")


def list_dataset_episodes(
    dataset: Dataset,
    *,
    task: str = "",
    tag: str = "",
    query: str = "",
    ending: str = "",
    purpose: str = "",
    flagged: bool | None = None,
    unusual: bool | None = None,
    detected: bool | None = None,
    true: bool | None = None,
    sort: str = "position",
) -> QuerySet[DatasetEpisode]:
    """Each filter that is given must hold. `query`: words of the instruction; `sort`: one of EPISODE_SORTS, with "-"
    before it the other way round.
    """
    rows = dataset.rows.select_related("source")
    exact = {
        "task": task,
        "instruction__icontains": query,
        "ending": ending,
        "purpose": purpose,
        "tags__contains": [tag] if tag else None,
        "flagged": flagged,
        "detected_success": detected,
        "true_success": true,
    }
    rows = rows.filter(**{name: value for name, value in exact.items() if value not in ("", None)})
    if unusual is not None:
        rows = rows.exclude(unusual=[]) if unusual else rows.filter(unusual=[])
    name = sort.removeprefix("-")
    if name not in EPISODE_SORTS:
        name, sort = "position", "position"
    column = f"quality__{name}" if name in ("jerk", "idle_start", "idle_end") else name
    return rows.order_by(f"-{column}" if sort.startswith("-") else column, "position")


def dataset_episode_row(row: DatasetEpisode) -> dict[str, Any]:
    return {
        "position": row.position,
        "uuid": str(row.uuid),
        "source": row.source_id,
        "source_index": row.source_index,
        "start": row.start,
        "stop": row.stop,
        "steps": row.steps,
        "task": row.task,
        "instruction": row.instruction,
        "purpose": row.purpose,
        "ending": row.ending,
        "detected_success": row.detected_success,
        "true_success": row.true_success,
        "flagged": row.flagged,
        "tags": row.tags,
        "note": row.note,
        "weight": row.weight,
        "quality": row.quality,
        "unusual": row.unusual,
    }


def idle_cuts(dataset: Dataset, *, leave: int = 2, least: int = 5) -> dict[int, tuple[int, int]]:
    """What trim_episodes() would cut where an episode's beginning or end is idle for at least so many steps; of each
    so many are left.
    """
    cuts = {}
    for row in dataset.rows.order_by("position"):
        now = quality_now(row)
        start = now["idle_start"] - leave if now["idle_start"] >= least else 0
        stop = row.steps - (now["idle_end"] - leave if now["idle_end"] >= least else 0)
        if (start, stop) != (0, row.steps) and start < stop:
            cuts[row.position] = (start, stop)
    return cuts


def dataset_row(dataset: Dataset) -> dict[str, Any]:
    return {
        "id": dataset.pk,
        "name": dataset.name,
        "families": dataset.families,
        "embodiment": dataset.body.get("name", ""),
        "episodes": dataset.episodes,
        "steps": dataset.steps,
        "state": dataset.state,
        "progress": dataset.progress,
        "error": dataset.error,
        "seed": dataset.seed,
        "version": dataset.version,
        "current": dataset.current,
        "parent": dataset.parent_id,
        "origin": dataset.origin,
        "tags": dataset.tags,
        "notes": dataset.notes,
        "listed": dataset.listed,
        "single": dataset.is_root and dataset.state == "ready" and dataset.file.is_file(),
        "archived_at": dataset.archived_at.isoformat() if dataset.archived_at else None,
        "created_at": dataset.created_at.isoformat(),
    }


def list_imports(lab: Lab) -> QuerySet[Import]:
    """The newest first."""
    return lab.imports.select_related("created_by").order_by("-id")


def recent_imports(lab: Lab, of: str) -> list[Import]:
    """Those under way or that failed; what has become a dataset or a model stands in the list of those."""
    return list(list_imports(lab).filter(of=of, state__in=(*Import.LIVE, "failed"))[:RECENT_IMPORTS])


def import_row(row: Import) -> dict[str, Any]:
    return {
        "id": row.pk,
        "of": row.of,
        "name": row.name,
        "kind": row.kind,
        "place": row.place,
        "state": row.state,
        "phase": row.phase,
        "progress": row.progress,
        "error": row.error,
        "problems": row.problems,
        "questions": row.questions,
        "size": row.size,
        "received": row.received,
        "sha256": row.sha256,
        "dataset": row.dataset_id,
        "model": row.model_id,
        "created_at": row.created_at.isoformat(),
        "ended_at": row.ended_at.isoformat() if row.ended_at else None,
    }


def list_exports(lab: Lab, dataset: int | None = None) -> QuerySet[Export]:
    """The newest first."""
    rows = lab.exports.select_related("created_by", "dataset").order_by("-id")
    return rows if dataset is None else rows.filter(dataset_id=dataset)


def export_row(row: Export) -> dict[str, Any]:
    return {
        "id": row.pk,
        "dataset": row.dataset_id,
        "kind": row.kind,
        "position": row.position,
        "camera": row.camera,
        "quality": row.quality,
        "state": row.state,
        "progress": row.progress,
        "error": row.error,
        "size": row.size,
        "sha256": row.sha256,
        "created_at": row.created_at.isoformat(),
        "ended_at": row.ended_at.isoformat() if row.ended_at else None,
    }


def list_runs(lab: Lab, kind: str = "", archived: bool = False) -> QuerySet[Run]:
    """Those in use, or those that no longer are."""
    rows = (
        lab.runs.filter(archived_at__isnull=not archived)
        .select_related("dataset", "parent", "created_by")
        .order_by("-id")
    )
    return rows.filter(kind=kind) if kind else rows


def list_runs_with_parts(lab: Lab, kind: str = "", archived: bool = False) -> QuerySet[Run]:
    """The same with all that run_row() says of them."""
    checkpoints = Prefetch("checkpoints", queryset=Checkpoint.objects.order_by("version", "created_at"))
    runs = list_runs(lab, kind, archived)
    return runs.prefetch_related(checkpoints, "assignments__task", "assignments__stations")


def list_parents(lab: Lab) -> QuerySet[Run]:
    """What another run can start from, the newest first: training that left a policy and a reward model, and practice
    that has ended well and left a policy.
    """
    policies, judges = (Checkpoint.objects.filter(role=role).values("run") for role in ROLES)
    judged = Q(pk__in=judges) | Q(parent__isnull=False)
    ended = Q(state="completed") | Q(state="canceled", kind__in=practising_kinds())
    return lab.runs.filter(judged, ended, pk__in=policies, archived_at=None).order_by("-id")


def practising_kinds() -> list[str]:
    """Kinds of runs that practise on stations."""
    return [method.kind for method in methods_that_need("stations")]


TAKES_A_TURN = ("starting", "running", "pausing", "canceling")


def heard_workers() -> list[Worker]:
    """Those that live, of the whole fleet."""
    rows = Worker.objects.filter(ended_at=None, heard_at__gt=timezone.now() - Worker.HEARD_WITHIN)
    return list(rows.order_by("name"))


def workers_for(queue: str) -> list[Worker]:
    """Those that live and take runs of this queue."""
    return [worker for worker in heard_workers() if queue in worker.queues]


def queue_problem(queue: str) -> str:
    """Why a run can't be launched for such a machine now, or nothing. What any worker takes may wait for one."""
    if queue not in QUEUES:
        return f"There is no queue {queue!r}; choose one of {', '.join(QUEUES)}."
    return NO_WORKER["gpu"] if queue == "gpu" and not workers_for("gpu") else ""


NO_WORKER = {"cpu": "No worker is connected.", "gpu": "No worker with a GPU is connected."}


def list_machines(lab: Lab) -> list[dict[str, Any]]:
    """{"worker", "runs": the lab's own that it has under way, "others": how many of other labs}, those that live
    first, of these the main one.
    """
    workers = sorted(Worker.objects.order_by("name"), key=lambda worker: (not worker.is_heard, not worker.main))
    under_way: dict[str, list[Run]] = {worker.name: [] for worker in workers}
    for run in Run.objects.filter(state__in=Run.SUPERVISED, worker__in=under_way).order_by("pk"):
        under_way[run.worker].append(run)
    found = []
    for worker in workers:
        own = [run for run in under_way[worker.name] if run.lab_id == lab.pk]
        found.append({"worker": worker, "runs": own, "others": len(under_way[worker.name]) - len(own)})
    return found


def trainings_under_way() -> QuerySet[Run]:
    """Of all labs: runs that train without stations, and take a turn of their worker's."""
    return Run.objects.filter(state__in=TAKES_A_TURN).exclude(kind__in=practising_kinds()).order_by("started_at", "pk")


def waiting_trainings() -> QuerySet[Run]:
    """Of all labs, in the order in which their turns come."""
    return Run.objects.filter(state="queued").exclude(kind__in=practising_kinds()).order_by("pk")


def runs_for(worker: Worker) -> list[Run]:
    """Those that it may begin now: all that practise, and as many trainings as it has turns free, the first ones."""
    practising = Run.objects.filter(state="queued", queue__in=worker.queues, kind__in=practising_kinds())
    free = worker.trainings - trainings_under_way().filter(worker=worker.name).count()
    trainings = waiting_trainings().filter(queue__in=worker.queues)[: max(0, free)]
    return [*practising.order_by("pk"), *trainings]


def trainings_before(queue: str) -> tuple[list[Run], int]:
    """What a training launched now for such a machine would wait for, those under way first; and how many its workers
    do at a time.
    """
    able = workers_for(queue)
    taken = {name for worker in able for name in worker.queues}
    under_way = trainings_under_way().filter(worker__in=[worker.name for worker in able])
    waiting = waiting_trainings().filter(queue__in=taken or {queue})
    return [*under_way, *waiting], sum(worker.trainings for worker in able)


def say_place(run: Run) -> str:
    """Of a queued run: where it stands in the queue and what it waits for. Of other labs' runs no name is said."""
    if run.state != "queued":
        return ""
    able = workers_for(run.queue)
    if not able:
        return f"{NO_WORKER[run.queue]} It waits for one."
    if run.method.practises:
        return "It starts as soon as a worker of the server is free."
    found, turns = trainings_before(run.queue)
    before = [each for each in found if each.state != "queued" or each.pk < run.pk]
    if len(before) < turns:
        return "It is next: it starts as soon as a worker of the server is free."
    place = 1 + sum(each.state == "queued" for each in before)
    own = [f"{each.name} ({each.state})" for each in before if each.lab_id == run.lab_id]
    others = len(before) - len(own)
    if others:
        own.append(f"{others} run{'s' if others > 1 else ''} of another lab")
    at_once = f"{turns} training{'s' if turns > 1 else ''} at a time"
    at_once += f" on {len(able)} workers" if len(able) > 1 else f" on {able[0].name}"
    return f"{ordinal(place)} in the queue: {at_once}; before it: {', '.join(own)}."


def ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def parent_problem(run: Run) -> str:
    """Why practice can't start from this run, or nothing."""
    if list_parents(run.lab).filter(pk=run.pk).exists():
        return ""
    if run.is_live:
        return f"{run} is still {run.state}; wait until it has ended or choose another run."
    if run.archived_at:
        return f"{run} is archived; bring it back first or choose another run."
    if run.state != "completed":
        return f"{run} is {run.state}; choose a run that has ended and has a policy."
    return f"{run} has no policy or no reward model; choose another run."


def evaluation_problem(checkpoint: Checkpoint) -> str:
    """Why stations can't be evaluated with this checkpoint, or nothing. Its run may be under way."""
    if checkpoint.role != "policy":
        return f"The {checkpoint} acts on no station; choose a policy."
    if problem := _judge_problem(checkpoint.run):
        return problem
    if not checkpoint.file.is_file():
        return f"The file of {checkpoint} of {checkpoint.run} is no longer there; choose a newer policy."
    return ""


def _judge_problem(run: Run) -> str:
    if run.archived_at:
        return f"{run} is archived; bring it back first or choose another run."
    judge = run.best_checkpoint("reward_model")
    if judge is None or judge.threshold is None:
        return f"{run} has no reward model yet, by which a station ends its attempts; choose another run."
    return ""


def evaluated_policies(run: Run) -> QuerySet[Checkpoint]:
    """What can be evaluated of it, the newest first: of a long run the learner removes files in between."""
    policies = run.checkpoints.filter(role="policy").select_related("run").order_by("-version", "-created_at")
    if _judge_problem(run):
        return policies.none()
    return policies.filter(pk__in=[each.pk for each in policies if each.file.is_file()])


def find_parent(lab: Lab, number: int) -> tuple[Run | None, str]:
    """The run that a link names as the start of practice, or why it can't be that."""
    run = lab.runs.filter(pk=number).first()
    problem = parent_problem(run) if run else f"There is no run {number} in {lab.name}; choose one of the list."
    return (None, problem) if problem else (run, "")


def run_row(run: Run) -> dict[str, Any]:
    """A run as the API answers it."""
    return run_head(run) | {
        "recipe": run.recipe,
        "checkpoints": [checkpoint.row() for checkpoint in run.checkpoints.all()],
        "stations": sorted({station.slug for row in run.assignments.all() for station in row.stations.all()}),
        "task": next((row.task.slug for row in run.assignments.all()), None),
        "sweep": run.sweep_id,
        "tags": run.tags,
        "notes": run.notes,
    }


def run_head(run: Run) -> dict[str, Any]:
    """The part of a run that changes as it goes."""
    return {
        "id": run.pk,
        "name": run.name,
        "kind": run.kind,
        "queue": run.queue,
        "worker": run.worker,
        "state": run.state,
        "phase": run.phase,
        "progress": run.progress,
        "eta_s": run.eta_s,
        "error": run.error,
        "attempt": run.attempt,
        "dataset": run.dataset_id,
        "corrections": run.corrections_id,
        "parent": run.parent_id,
        "practice_episodes": run.practice_episodes,
        "kept_version": run.kept_version,
        "open_version": run.open_version,
        "round_steps": run.round_steps,
        "round_target": run.round_target,
        "holding": run.holding,
        "created_at": run.created_at.isoformat(),
        "started_at": run.started_at.isoformat() if run.started_at else None,
        "ended_at": run.ended_at.isoformat() if run.ended_at else None,
        "archived_at": run.archived_at.isoformat() if run.archived_at else None,
    }


def compare_runs(runs: list[Run]) -> dict[str, Any]:
    """The newest figures of runs side by side, in the given order, and the fields in which their recipes differ."""
    newest = Metric.objects.filter(run__in=runs, kind="evaluation").order_by("run_id", "-seq").distinct("run_id")
    levels = {row.run_id: row.data for row in newest}
    fields = sorted({name for run in runs for name in run.recipe})
    values = {name: [run.recipe.get(name) for run in runs] for name in fields}
    return {
        "runs": [compared_row(run, levels.get(run.pk)) for run in runs],
        "differences": {name: each for name, each in values.items() if any(value != each[0] for value in each)},
    }


def compared_row(run: Run, level: dict[str, Any] | None) -> dict[str, Any]:
    names = ("id", "name", "kind", "state", "dataset", "parent", "practice_episodes", "kept_version")
    head = run_head(run)
    ended = run.ended_at or timezone.now()
    evaluation = None
    if level is not None and level["n"]:
        figures = ("version", "practice_episodes", "successes", "n", "steps_to_success")
        low, high = wilson(level["successes"], level["n"])
        rate = level["successes"] / level["n"]
        evaluation = {name: level.get(name) for name in figures} | {"rate": rate, "low": low, "high": high}
    return {
        **{name: head[name] for name in names},
        "duration_s": (ended - run.started_at).total_seconds() if run.started_at else None,
        "evaluation": evaluation,
    }


def metric_row(metric: Metric) -> dict[str, Any]:
    return {"seq": metric.seq, "kind": metric.kind, "data": metric.data, "at": metric.at.isoformat()}


def list_metrics(run: Run, *, after: int = 0, kind: str = "") -> QuerySet[Metric]:
    """In the order they were written, after a sequence number."""
    rows = run.metrics.filter(seq__gt=after)
    if kind:
        rows = rows.filter(kind=kind)
    return rows.order_by("seq")


def run_snapshot(run: Run) -> dict[str, Any]:
    """What the live page of a run starts from; deltas of the topic `run:LAB/ID` keep it true."""
    run = Run.objects.select_related("lab").get(pk=run.pk)
    newest = run.metrics.exclude(kind="progress").order_by("-seq")[:SNAPSHOT_METRICS]
    return {
        "run": run_head(run) | {"log": log_tail(run)},
        "metrics": [metric_row(row) for row in reversed(newest)],
        "checkpoints": [checkpoint.row() for checkpoint in run.checkpoints.order_by("version", "created_at")],
        "stations": run_stations(run),
    }


def run_stations(run: Run) -> list[dict[str, Any]]:
    """The stations that its assignment holds, or held when it ended."""
    rows = Station.objects.filter(places__assignment__run=run).select_related("loaded_checkpoint").distinct()
    return [
        {
            "slug": row.slug,
            "name": row.name,
            "number": row.number,
            "state": row.state,
            "reason": row.reason,
            "connected": row.connected,
            "version": row.loaded_checkpoint.version if row.loaded_checkpoint else None,
            "episodes": row.episodes_count,
        }
        for row in rows.order_by("number")
    ]


def log_tail(run: Run, lines: int = 40) -> list[str]:
    """The last lines of the training process' output."""
    try:
        with open(run.dir / "log.txt", "rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16_384))
            return [line.decode(errors="replace").rstrip() for line in deque(file, maxlen=lines)]
    except FileNotFoundError:
        return []


LONGEST_LINE = 2000
SHOWN_LINES = 400


def search_log(run: Run, query: str) -> tuple[list[tuple[int, str]], int, int]:
    """The last lines of the whole log that hold all words of the query, each with its number; how many do, and how
    many lines there are.
    """
    words = [word.casefold() for word in query.split()]
    found: deque[tuple[int, str]] = deque(maxlen=SHOWN_LINES)
    matching = number = 0
    try:
        with open(run.dir / "log.txt", "rb") as file:
            for number, line in enumerate(file, 1):
                text = line[: 4 * LONGEST_LINE].decode(errors="replace").rstrip()
                folded = text.casefold()
                if all(word in folded for word in words):
                    matching += 1
                    found.append((number, text[:LONGEST_LINE]))
    except FileNotFoundError:
        pass
    return list(found), matching, number


def last_notes(run: Run) -> list[str]:
    """What its training said last of itself, and how far it was."""
    notes = [row.data.get("text", "") for row in run.metrics.filter(kind="note").order_by("-seq")[:3]]
    place = run.metrics.filter(kind="progress").order_by("-seq").first()
    if place is None:
        return [*reversed(notes), "It had not begun to train."]
    return [*reversed(notes), "It was at {done} of {total} of {phase}.".format_map({"phase": "?"} | place.data)]


def evaluations_on_stations(run: Run) -> list[dict[str, Any]]:
    """What stations were asked to show of its policies, the oldest version first. True success is what a sensor or a
    person said of an attempt: of `made` attempts it is known of `known`, and `low` to `high` is Wilson's 95 % band of
    the `successes` among these. What the detector said stands apart.
    """
    rows = Assignment.objects.filter(checkpoint__run=run).select_related("task", "checkpoint", "created_by")
    rows = (
        rows.prefetch_related("places__station")
        .order_by("checkpoint__version", "pk")
        .annotate(
            made=Count("episodes"),
            known=Count("episodes", filter=Q(episodes__true_success__isnull=False)),
            successes=Count("episodes", filter=Q(episodes__true_success=True)),
            detected=Count("episodes", filter=Q(episodes__detected_success=True)),
        )
    )
    if not rows:
        return []
    learned: dict[int | None, int] = {}  # practice episodes by version
    for kind, key in (("update", "episodes"), ("evaluation", "practice_episodes")):
        lines = run.metrics.filter(kind=kind).values_list("data__version", f"data__{key}")
        learned |= {version: episodes or 0 for version, episodes in lines}
    found = []
    for row in rows:
        assert row.checkpoint is not None  # by it they were found
        low, high = wilson(row.successes, row.known)
        found.append(
            {
                "id": row.pk,
                "task": row.task.name,
                "version": row.checkpoint.version,
                "checkpoint": str(row.checkpoint_id),
                "practice_episodes": learned.get(row.checkpoint.version, 0),
                "attempts": row.budget_episodes,
                "made": row.made,
                "known": row.known,
                "unknown": row.made - row.known,
                "successes": row.successes,
                "rate": row.successes / row.known if row.known else None,
                "low": low,
                "high": high,
                "detected": row.detected,
                "stations": sorted((place.station for place in row.places.all()), key=lambda each: each.number),
                "state": row.state,
                "by": row.created_by.get_username() if row.created_by else "",
                "created_at": row.created_at,
                "started_at": row.started_at,
                "ended_at": row.ended_at,
            }
        )
    return found


def evaluation_row(found: dict[str, Any]) -> dict[str, Any]:
    """One of them as the API and the charts have it."""
    moments = {name: found[name].isoformat() if found[name] else None for name in MOMENTS}
    return found | moments | {"stations": [station.slug for station in found["stations"]]}


def success_curves(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Of each run true success on fixed seeds against practice episodes, and the SFT level it started from.

    {"run", "name", "points": [{version, practice_episodes, successes, n, low, high, steps_to_success, falls}],
    "stations": what evaluations_on_stations() says, "sft": {...} | None, "kept_version"}; older evaluations lack the
    last two of a point.
    """
    numbers = {run.pk for run in runs} | {run.parent_id for run in runs if run.parent_id}
    points: dict[int, list[dict[str, Any]]] = {number: [] for number in numbers}
    rows = Metric.objects.filter(run__in=numbers, kind="evaluation").order_by("run", "seq")
    for number, data in rows.values_list("run", "data"):
        points[number].append(data)
    asked = set(Assignment.objects.filter(checkpoint__run__in=numbers).values_list("checkpoint__run", flat=True))
    return [_curve(run, points, run.pk in asked) for run in runs]


def _curve(run: Run, points: dict[int, list[dict[str, Any]]], on_stations: bool) -> dict[str, Any]:
    before = points[run.parent_id or run.pk]
    return {
        "run": run.pk,
        "name": run.name,
        "points": points[run.pk],
        "stations": [evaluation_row(each) for each in evaluations_on_stations(run)] if on_stations else [],
        "sft": before[-1] if before else None,
        "kept_version": run.kept_version,
    }
