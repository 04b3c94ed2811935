"""Made from asynchronous.py by ../generate.py."""

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from fleetui_client.answers import (
    AssignmentRow,
    Bound,
    Card,
    Changed,
    CheckpointDetail,
    CheckpointRow,
    CommandAnswer,
    Comparison,
    DatasetDetail,
    DatasetEpisodeRow,
    DatasetRow,
    EpisodeRow,
    ExportRow,
    ImportRow,
    Me,
    MetricRow,
    ModelRow,
    PolicyComparison,
    PromotionRow,
    RunRow,
    SpotCheckRow,
    StopAnswer,
    SweepDetail,
    SweepRow,
    TaskRow,
)
from fleetui_client.errors import FleetError, Refused, Unreachable
from fleetui_client.login import find_login
from fleetui_client.packing import Packed, packed
from fleetui_client.reading import read
from fleetui_client.transfers import (
    AGAIN,
    ENDED,
    IMPORT_RESTS,
    PIECE,
    SENT_AT_ONCE,
    Download,
    Progress,
    away,
    body_of,
    new_key,
    refusal,
    wait_of,
    waits,
)

T = TypeVar("T")


class Fleet:
    """A fleet, as one person's access token opens it. Every method raises a FleetError that says what is wrong.

    What only asks is asked again where the network fails; what makes something carries a key by which the server does
    it once, and is said again likewise. Other acts are said once.
    """

    def __init__(
        self,
        url: str = "",
        token: str = "",
        lab: str = "",
        *,
        timeout_s: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ):
        """`lab`: its slug; left out, the only one that the token opens. `transport`: httpx's, for tests and proxies."""
        login = find_login(url, token, lab)
        self.url = login.url
        self._lab = login.lab
        self._http = httpx.Client(
            base_url=f"{login.url}/api/",
            headers={"Authorization": f"Bearer {login.token}", "User-Agent": "fleetui-client"},
            timeout=timeout_s,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    # Who

    def me(self) -> Me:
        """Whose token it is, what it was made for, and the labs that it opens."""
        return self._ask(Me, "GET", "me")

    def lab(self) -> str:
        """The slug of the lab that all is asked of."""
        if not self._lab:
            labs = [each.slug for each in (self.me()).labs]
            if len(labs) != 1:
                which = f"Say which: {', '.join(labs)}." if labs else "Ask a manager of a lab to invite you."
                raise FleetError(f"This token opens {len(labs)} labs. {which}")
            self._lab = labs[0]
        return self._lab

    # Runs

    def list_runs(self, *, kind: str = "", archived: bool = False) -> Iterator[RunRow]:
        """The newest first."""
        return self._each(RunRow, "runs", {"kind": kind, "archived": archived})

    def show_run(self, number: int) -> RunRow:
        """As it is now."""
        return self._ask(RunRow, "GET", self._path("runs", number))

    def launch_run(
        self,
        kind: str,
        *,
        name: str = "",
        recipe: dict[str, Any] | None = None,
        dataset: int | None = None,
        corrections: int | None = None,
        parent: int | None = None,
        assignment: int | None = None,
        task: str | None = None,
        stations: Iterable[str] = (),
        queue: str = "cpu",
    ) -> RunRow:
        """`kind` of its method, such as sft or improve. Fields that the recipe leaves out take their defaults. `queue`
        gpu: on a machine with a graphics card.
        """
        body: dict[str, Any] = {"kind": kind, "name": name, "recipe": recipe or {}, "dataset": dataset, "queue": queue}
        body |= {"corrections": corrections}
        body |= {"parent": parent, "assignment": assignment, "task": task, "stations": list(stations)}
        return self._ask(RunRow, "POST", self._path("runs"), body=body, key=new_key())

    def cancel_run(self, number: int) -> RunRow:
        """It ends, and keeps its checkpoints."""
        return self._ask(RunRow, "POST", self._path("runs", number, "cancel"))

    def pause_run(self, number: int) -> RunRow:
        """After the update under way."""
        return self._ask(RunRow, "POST", self._path("runs", number, "pause"))

    def resume_run(self, number: int) -> RunRow:
        """A paused one goes on."""
        return self._ask(RunRow, "POST", self._path("runs", number, "resume"))

    def metrics(self, number: int, *, after: int = 0, kind: str = "") -> list[MetricRow]:
        """What the run has said after a sequence number, in order; at most 5000 of them."""
        path = self._path("runs", number, "metrics")
        told = self._ask(dict[str, Any], "GET", path, params={"after": after, "kind": kind})
        return read(list[MetricRow], told["items"])

    def watch_run(self, number: int, *, after: int = 0, every_s: float = 1.0) -> Iterator[RunRow | MetricRow]:
        """The run whenever it has changed, and each metric that it says; the run as it ended comes last."""
        before: RunRow | None = None
        while True:
            run = self.show_run(number)
            fresh = self.metrics(number, after=after)
            ended = run.state in ENDED
            if run != before and not ended:
                yield run
            for metric in fresh:
                after = metric.seq
                yield metric
            if ended and not fresh:
                yield run
                return
            before = run
            if not fresh:
                time.sleep(every_s)

    def tag_runs(self, numbers: Iterable[int], *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> int:
        """Give runs tags, or take others from them; how many were changed."""
        body = {"runs": list(numbers), "add": list(add), "remove": list(remove)}
        return (self._ask(Changed, "PATCH", self._path("runs"), body=body)).changed

    def note_run(self, number: int, notes: str) -> RunRow:
        """What is worth knowing of it, in place of what stands there."""
        return self._ask(RunRow, "PUT", self._path("runs", number, "notes"), body={"notes": notes})

    def compare_runs(self, numbers: Iterable[int]) -> Comparison:
        """Their newest figures side by side, and the fields in which their recipes differ."""
        params = {"runs": ",".join(str(each) for each in numbers)}
        return self._ask(Comparison, "GET", self._path("comparison"), params=params)

    # Checkpoints

    def list_checkpoints(self, run: int) -> list[CheckpointRow]:
        """Of a run, the oldest first."""
        return (self.show_run(run)).checkpoints

    def pull_checkpoint(
        self, uuid: str, target: str | os.PathLike[str], *, overwrite: bool = False, progress: Progress | None = None
    ) -> Path:
        """Its weights, a safetensors file, whose digest is checked."""
        return self._download(self._path("checkpoints", uuid, "file"), target, overwrite, progress)

    def show_checkpoint(self, uuid: str) -> CheckpointDetail:
        """With its run, its digest, and whether it is in force."""
        return self._ask(CheckpointDetail, "GET", self._path("checkpoints", uuid))

    def promote_checkpoint(self, uuid: str, reason: str = "") -> PromotionRow:
        """A policy becomes the lab's default for its body; a reward model judges what begins from now on."""
        path = self._path("checkpoints", uuid, "promote")
        return self._ask(PromotionRow, "POST", path, body={"reason": reason}, key=new_key())

    def publish_threshold(self, uuid: str, threshold: float, consecutive: int, reason: str) -> CheckpointDetail:
        """A new version of a reward model, in force at once: the same weights, and success where d is at or below
        `threshold` steps for so many frames in a row.
        """
        body = {"threshold": threshold, "consecutive": consecutive, "reason": reason}
        path = self._path("checkpoints", uuid, "threshold")
        return self._ask(CheckpointDetail, "POST", path, body=body, key=new_key())

    def list_promotions(self) -> Iterator[PromotionRow]:
        """The newest first."""
        return self._each(PromotionRow, "promotions", {})

    def undo_promotion(self, number: int) -> PromotionRow:
        """What was in force before is in force again; only the newest of its kind can be undone."""
        return self._ask(PromotionRow, "POST", self._path("promotions", number, "undo"), key=new_key())

    def compare_checkpoints(
        self, first: str, second: str | None, *, task: str, episodes: int = 200, seed: int = 2_000_000
    ) -> PolicyComparison:
        """Two policies make the same attempts in simulation, or one alone; watch_comparison() says what came of it."""
        body = {"first": first, "second": second, "task": task, "episodes": episodes, "seed": seed}
        return self._ask(PolicyComparison, "POST", self._path("comparisons"), body=body, key=new_key())

    def show_comparison(self, number: int) -> PolicyComparison:
        """As it is now."""
        return self._ask(PolicyComparison, "GET", self._path("comparisons", number))

    def cancel_comparison(self, number: int) -> PolicyComparison:
        """Nothing is kept of it but the row."""
        return self._ask(PolicyComparison, "DELETE", self._path("comparisons", number))

    def watch_comparison(self, number: int, *, every_s: float = 1.0) -> Iterator[PolicyComparison]:
        """Whenever it has changed; as it ended comes last."""
        before: PolicyComparison | None = None
        while True:
            found = self.show_comparison(number)
            if found != before:
                yield found
            if found.state in ENDED:
                return
            before = found
            time.sleep(every_s)

    # Spot checks

    def list_spot_checks(self) -> Iterator[SpotCheckRow]:
        """Detected successes that were drawn at random and wait for a person's look, the newest first."""
        return self._each(SpotCheckRow, "spot_checks", {})

    def list_bounds(self) -> Iterator[Bound]:
        """What the answers say of the detector, by task and policy."""
        return self._each(Bound, "spot_checks/bounds", {})

    def answer_spot_check(self, number: int, success: bool | None) -> SpotCheckRow:
        """Whether it was a success; None: nobody can tell."""
        path = self._path("spot_checks", number, "answer")
        return self._ask(SpotCheckRow, "POST", path, body={"success": success}, key=new_key())

    def undo_spot_check(self) -> SpotCheckRow:
        """Your own last answer is taken back."""
        return self._ask(SpotCheckRow, "POST", self._path("spot_checks", "undo"), key=new_key())

    # Sweeps

    def list_sweeps(self) -> Iterator[SweepRow]:
        """The newest first."""
        return self._each(SweepRow, "sweeps", {})

    def show_sweep(self, number: int) -> SweepDetail:
        """With its runs and what each reached."""
        return self._ask(SweepDetail, "GET", self._path("sweeps", number))

    def launch_sweep(self, kind: str, space: dict[str, str], **wishes: Any) -> SweepRow:
        """`space`: setting to values, as in {"batch": "64, 128", "learning_rate": "1e-4 to 1e-2, log"}. `wishes`: name,
        recipe, dataset, corrections, parent, objective, maximize, sampler, pruner, runs, hours, at_once.
        """
        body = {"kind": kind, "space": space, **wishes}
        return self._ask(SweepRow, "POST", self._path("sweeps"), body=body, key=new_key())

    def stop_sweep(self, number: int) -> SweepRow:
        """No further run is launched, those under way are cancelled."""
        return self._ask(SweepRow, "POST", self._path("sweeps", number, "stop"))

    # Pretrained models

    def list_models(self, *, archived: bool = False) -> Iterator[ModelRow]:
        """The newest first; a recipe of SFT names one by its sha256."""
        return self._each(ModelRow, "models", {"archived": archived})

    def add_model(self, place: str, name: str = "") -> ImportRow:
        """A model folder that lies on the server, below one of its FLEETUI_IMPORT_ROOTS. What follows says
        watch_import().
        """
        body = {"name": name, "place": place}
        return self._ask(ImportRow, "POST", self._path("models"), body=body, key=new_key())

    # Datasets

    def list_datasets(self, *, archived: bool = False) -> Iterator[DatasetRow]:
        """The newest first."""
        return self._each(DatasetRow, "datasets", {"archived": archived})

    def show_dataset(self, number: int) -> DatasetDetail:
        """One version as it is now, with sums over its episodes."""
        return self._ask(DatasetDetail, "GET", self._path("datasets", number))

    def list_versions(self, number: int) -> Iterator[DatasetRow]:
        """All versions of its name, the newest first."""
        return self._each(DatasetRow, f"datasets/{number}/versions", {})

    def list_dataset_episodes(self, number: int, **filters: Any) -> Iterator[DatasetEpisodeRow]:
        """Of a version. Filters: task, tag, query, ending, purpose, flagged, unusual, detected, true; sort."""
        return self._each(DatasetEpisodeRow, f"datasets/{number}/episodes", filters)

    def edit_dataset(self, number: int, act: str, **how: Any) -> DatasetRow:
        """The next version, which the name shows from now on; the one before is kept.

        trim (cuts={position: [first, one after the last]} or idle=True), delete, relabel (instruction=), flag and
        unflag (note=), tag (add=, remove=), weigh (weight=), each of these with positions=[...]; tag_dataset (tags=),
        note_dataset (note=).
        """
        path = self._path("datasets", number, "edit")
        return self._ask(DatasetRow, "POST", path, body={"act": act, **how}, key=new_key())

    def undo_edit(self, number: int) -> DatasetRow:
        """The version that this one was made of is what the name shows again."""
        return self._ask(DatasetRow, "POST", self._path("datasets", number, "undo"))

    def push_dataset(
        self, source: str | os.PathLike[str], name: str, *, progress: Progress | None = None
    ) -> DatasetRow:
        """A file of episodes becomes a dataset of this name."""
        source = Path(source)
        size = source.stat().st_size
        path, key, wait = self._path("datasets", "upload"), new_key(), waits()
        headers = {"Content-Length": str(size), "Content-Type": "application/octet-stream", "Idempotency-Key": key}
        while True:
            answer: httpx.Response | None = None
            try:
                content = self._pieces(source, size, progress)
                answer = self._http.post(path, params={"name": name}, content=content, headers=headers)
            except httpx.TransportError as error:
                if (seconds := next(wait, None)) is None:
                    raise away(self.url, error) from None
            else:
                if answer.status_code not in AGAIN or (seconds := next(wait, None)) is None:
                    return read(DatasetRow, body_of(answer))
            time.sleep(wait_of(answer, seconds))

    def pull_dataset(
        self, number: int, target: str | os.PathLike[str], *, overwrite: bool = False, progress: Progress | None = None
    ) -> Path:
        """All its episodes in one file, where it is `single`; others are exported."""
        return self._download(self._path("datasets", number, "file"), target, overwrite, progress)

    # LeRobot datasets come in

    def list_imports(self, *, state: str = "") -> Iterator[ImportRow]:
        """The newest first; all, or those of one state."""
        return self._each(ImportRow, "imports", {"state": state})

    def show_import(self, number: int) -> ImportRow:
        """As it is now."""
        return self._ask(ImportRow, "GET", self._path("imports", number))

    def import_server_folder(self, place: str, name: str, *, picture_width: int | None = None) -> ImportRow:
        """A dataset that lies on the server, below one of its FLEETUI_IMPORT_ROOTS."""
        body = {"name": name, "place": place, "picture_width": picture_width}
        return self._ask(ImportRow, "POST", self._path("imports"), body=body, key=new_key())

    def import_dataset(
        self,
        source: str | os.PathLike[str],
        name: str,
        *,
        picture_width: int | None = None,
        progress: Progress | None = None,
    ) -> ImportRow:
        """Send a LeRobot dataset: its folder, or an archive of it. An upload of the same that broke off, in this
        process or in another, goes on with the byte that the server has not got. What follows says watch_import().
        """
        content = packed(Path(source))
        digest = content.sha256()
        row: ImportRow | None = None
        for each in self.list_imports(state="uploading"):
            if (each.of, each.name, each.sha256, each.size) == ("dataset", name, digest, content.size):
                row = each
        if row is None:
            body = {"name": name, "file_name": content.name, "size": content.size, "sha256": digest}
            body |= {"picture_width": picture_width}
            path = self._path("imports", "uploads")
            row = self._ask(ImportRow, "POST", path, body=body, key=new_key())
        return self._send(content, row, progress)

    def _send(self, content: Packed, row: ImportRow, progress: Progress | None) -> ImportRow:
        """Piece by piece. After a failure the server says how many bytes it has; what came twice harms nothing."""
        path, wait = self._path("imports", row.id, "bytes"), waits()
        headers = {"Content-Type": "application/octet-stream"}
        while row.state == "uploading":
            if progress is not None:
                progress(row.received, content.size)
            offset, body = row.received, content.read(row.received, SENT_AT_ONCE)
            params: dict[str, Any] = {"offset": offset, "sha256": hashlib.sha256(body).hexdigest()}
            answer: httpx.Response | None = None
            problem: FleetError
            try:
                answer = self._http.put(path, params=params, content=body, headers=headers)
                if answer.is_success:
                    row, wait = read(ImportRow, body_of(answer)), waits()
                    continue
                problem = refusal(answer)
            except httpx.TransportError as error:
                problem = away(self.url, error)
            if answer is not None and answer.status_code not in (*AGAIN, 409):
                raise problem
            row = self.show_import(row.id)
            if row.received > offset:
                wait = waits()
            elif row.state == "uploading":
                if (seconds := next(wait, None)) is None:
                    raise problem
                time.sleep(wait_of(answer, seconds))
        if progress is not None:
            progress(row.received, content.size)
        return row

    def watch_import(self, number: int, *, every_s: float = 0.5) -> Iterator[ImportRow]:
        """Whenever it has changed; the last is as it ended, or asks something."""
        before: ImportRow | None = None
        while True:
            row = self.show_import(number)
            if row != before:
                yield row
            if row.state in IMPORT_RESTS:
                return
            before = row
            time.sleep(every_s)

    def answer_import(self, number: int, answers: dict[str, bool]) -> ImportRow:
        """What it asks, by the codes of its questions. It goes on once all are answered with yes; a no ends it."""
        path = self._path("imports", number, "answers")
        return self._ask(ImportRow, "POST", path, body={"answers": answers})

    def cancel_import(self, number: int) -> ImportRow:
        """Nothing of it stays."""
        return self._ask(ImportRow, "DELETE", self._path("imports", number))

    # and go out

    def export_dataset(
        self,
        number: int,
        kind: str = "lerobot",
        *,
        position: int | None = None,
        camera: str = "",
        quality: str = "high",
    ) -> ExportRow:
        """A file that the server makes of a version: lerobot, an archive of it; mcap or mp4, one episode."""
        body = {"kind": kind, "position": position, "camera": camera, "quality": quality}
        path = self._path("datasets", number, "exports")
        return self._ask(ExportRow, "POST", path, body=body, key=new_key())

    def show_export(self, number: int) -> ExportRow:
        """As it is now."""
        return self._ask(ExportRow, "GET", self._path("exports", number))

    def watch_export(self, number: int, *, every_s: float = 0.5) -> Iterator[ExportRow]:
        """Whenever it has changed; as it ended comes last."""
        before: ExportRow | None = None
        while True:
            row = self.show_export(number)
            if row != before:
                yield row
            if row.state != "making":
                return
            before = row
            time.sleep(every_s)

    def pull_export(
        self, number: int, target: str | os.PathLike[str], *, overwrite: bool = False, progress: Progress | None = None
    ) -> Path:
        """The file that was made, whose digest is checked. A download that broke off goes on where it was."""
        return self._download(self._path("exports", number, "file"), target, overwrite, progress)

    # Episodes

    def list_episodes(
        self,
        *,
        station: str = "",
        task: str = "",
        run: int | None = None,
        purpose: str = "",
        detected: bool | None = None,
        true: bool | None = None,
    ) -> Iterator[EpisodeRow]:
        """Newest first; each filter that is given must hold. `true`: the true success, `detected`: the detected one."""
        filters = {"station": station, "task": task, "run": run, "purpose": purpose}
        return self._each(EpisodeRow, "episodes", filters | {"detected": detected, "true": true})

    def pull_episode(
        self, uuid: str, target: str | os.PathLike[str], *, overwrite: bool = False, progress: Progress | None = None
    ) -> Path:
        """As it was recorded, in a file of its own."""
        return self._download(self._path("episodes", uuid, "file"), target, overwrite, progress)

    # Stations and what they do

    def list_stations(self) -> Iterator[Card]:
        """By number, with the newest telemetry."""
        return self._each(Card, "stations", {})

    def stop_stations(self, station: str = "") -> StopAnswer:
        """The software stop of one station, or of all of the lab. Said again until an answer comes: it is one stop."""
        path = self._path("stations", station, "stop") if station else self._path("stop")
        body = {"id": new_key()}
        return self._ask(StopAnswer, "POST", path, body=body, key=body["id"])

    def command_station(self, station: str, name: str, **args: Any) -> CommandAnswer:
        """pause, resume, clear_stop (reason=), reset, end_episode, speed (value=), settings."""
        body = {"name": name, "args": args}
        return self._ask(CommandAnswer, "POST", self._path("stations", station, "command"), body=body)

    def list_tasks(self) -> Iterator[TaskRow]:
        """By name."""
        return self._each(TaskRow, "tasks", {})

    def list_assignments(self, *, state: str = "") -> Iterator[AssignmentRow]:
        """Those at work, those that wait in the queue's order, then those that have ended."""
        return self._each(AssignmentRow, "assignments", {"state": state})

    # How

    def _path(self, *parts: object) -> str:
        return "/".join(["labs", self.lab(), *map(str, parts)])

    def _ask(
        self,
        kind: type[T],
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: dict[str, Any] | None = None,
        key: str = "",
    ) -> T:
        """One call. What has a key, or only asks, may be said again; an act without one only where it was not sent."""
        given = {name: value for name, value in (params or {}).items() if value is not None and value != ""}
        headers = {"Idempotency-Key": key} if key else {}
        may_repeat = bool(key) or method == "GET"
        wait = waits()
        while True:
            answer = None
            try:
                answer = self._http.request(method, path, params=given, json=body, headers=headers)
            except httpx.TransportError as error:
                was_sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
                seconds = next(wait, None)
                if seconds is None or (was_sent and not may_repeat):
                    raise away(self.url, error) from None
            except httpx.InvalidURL as error:
                raise away(self.url, error) from None
            else:
                seconds = next(wait, None)
                if answer.status_code not in AGAIN or not may_repeat or seconds is None:
                    return read(kind, body_of(answer))
            time.sleep(wait_of(answer, seconds))

    def _each(self, kind: type[T], name: str, params: dict[str, Any]) -> Iterator[T]:
        """Of a list, page by page."""
        path, seen, size = self._path(name), 0, 100
        while True:
            told = self._ask(dict[str, Any], "GET", path, params=params | {"limit": size, "offset": seen})
            for row in told["items"]:
                yield read(kind, row)
            seen += len(told["items"])
            if not told["items"] or seen >= told["count"]:
                return

    def _pieces(self, source: Path, size: int, progress: Progress | None) -> Iterator[bytes]:
        done = 0
        with open(source, "rb") as file:
            while piece := file.read(PIECE):
                yield piece
                done += len(piece)
                if progress is not None:
                    progress(done, size)

    def _download(self, path: str, target: str | os.PathLike[str], overwrite: bool, progress: Progress | None) -> Path:
        coming = Download(Path(target), overwrite, progress)
        wait = waits()
        while True:
            problem: FleetError = Unreachable(f"The download of {coming.target.name} broke off.")
            try:
                with self._http.stream("GET", path, headers=coming.headers()) as answer:
                    if answer.status_code == 416:
                        coming.start_anew()
                    elif not answer.is_success:
                        answer.read()
                        problem = refusal(answer)
                        if isinstance(problem, Refused) or answer.status_code not in AGAIN:
                            raise problem
                    else:
                        coming.begin(answer)
                        for piece in answer.iter_bytes(PIECE):
                            coming.add(piece)
            except httpx.TransportError as error:
                problem = away(self.url, error)
            finally:
                coming.end()
            if coming.is_whole:
                return coming.keep()
            if (seconds := next(wait, None)) is None:
                raise problem
            time.sleep(seconds)
