"""The API of datasets, for people's scripts: their versions and episodes, edits, imports and exports."""

from datetime import datetime
from typing import Any

from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from ninja import Path, Router, Schema
from ninja.pagination import paginate
from pydantic import Field

from fleetui import access
from fleetui.access import Conflict, Invalid, NotFound, PersonRequest
from fleetui.answers import answer_file
from fleetui.api.doors import DATA, PAGES, READ, SESSION
from fleetui.api.files import BINARY, FILE, FILE_EXTRA
from fleetui.api.shape import ONCE_EXTRA, ArchiveBody, Deleted, Moment, Pages, Rows, Uuid, once, or_problem, source_of
from fleetui.fleet.models import Lab
from fleetui.learning import actions, archive, datasets, joining, selectors, tables, transfers
from fleetui.learning.listing import summary_of
from fleetui.learning.models import IMPORTED, Dataset, DatasetEpisode, Export, Import

PIECE_EXTRA = {"requestBody": {"required": True, "content": BINARY}}
UPLOAD_EXTRA = ONCE_EXTRA | PIECE_EXTRA

router = Router(auth=SESSION, tags=["lab"])


class DatasetBody(Schema):
    name: str
    families: list[str]
    episodes: int
    seed: int = 0


class DatasetRow(Schema):
    id: int
    name: str
    families: list[str]
    embodiment: str = Field(description="The name of its body; empty: not known.")
    episodes: int = Field(description="While it is generated: how many are wanted.")
    steps: int
    state: str
    progress: float
    error: str
    seed: int
    version: int = Field(description="Counts those of one name.")
    current: bool = Field(description="Whether it is what its name shows.")
    parent: int | None = Field(description="The version, or the dataset, that it was made of.")
    origin: dict[str, Any] = Field(description="Where it came from, and what was done to it.")
    tags: list[str]
    notes: str
    listed: bool = Field(description="Whether its episodes are listed yet.")
    single: bool = Field(description="Whether it is one file of episodes, that can be fetched; others are exported.")
    archived_at: Moment | None
    created_at: Moment


class DatasetEpisodeRow(Schema):
    position: int
    uuid: Uuid
    source: int = Field(description="The dataset in whose files it lies.")
    source_index: int
    start: int = Field(description="Of the recorded episode the first step that counts.")
    stop: int
    steps: int
    task: str
    instruction: str
    purpose: str
    ending: str
    detected_success: bool
    true_success: bool | None
    flagged: bool
    tags: list[str]
    note: str
    weight: float = Field(description="As so many episodes it counts in learning.")
    quality: dict[str, Any]
    unusual: list[str] = Field(description="What stands out beside the others of the version.")


class Words(Schema):
    task: str
    instruction: str
    episodes: int


class Lengths(Schema):
    """A histogram of the episodes' lengths."""

    edges: list[int] = Field(description="In steps, one more than counts.")
    counts: list[int]


class Facts(Schema):
    episodes: int
    steps: int | None
    shortest: int | None
    longest: int | None
    mean: float | None
    flagged: int
    unusual: int
    detected: int
    true: int
    known: int = Field(description="Of so many somebody knows whether they were a true success.")
    trimmed: int
    weighed: int
    words: list[Words]
    tags: list[str] = Field(description="Of its episodes.")
    outliers: list[int] = Field(description="Positions of the first few unusual episodes.")
    lengths: Lengths


class DatasetDetail(DatasetRow):
    facts: Facts


class Edit(Schema):
    """One act and what it needs; the fields of other acts are left out."""

    act: str = Field(
        json_schema_extra={
            "enum": ["trim", "delete", "relabel", "flag", "unflag", "tag", "weigh", "tag_dataset", "note_dataset"]
        }
    )
    positions: list[int] = Field(default_factory=list, max_length=100_000)
    cuts: dict[int, tuple[int, int]] = Field(
        default_factory=dict, description="trim: position -> first step, and one after the last, as they are now."
    )
    idle: bool = Field(False, description="trim: what is idle at the beginnings and ends, in place of cuts.")
    instruction: str = ""
    note: str | None = None
    add: list[str] = Field(default_factory=list)
    remove: list[str] = Field(default_factory=list)
    weight: float = 1.0
    tags: list[str] = Field(default_factory=list)


class SplitBody(Schema):
    by: str = Field(json_schema_extra={"enum": ["tag", "task", "share", "step"]})
    tag: str = ""
    share: float = 0.8
    seed: int = 0
    step: int = 0


class Parts(Schema):
    datasets: list[DatasetRow]


class MergeBody(Schema):
    name: str
    datasets: list[int]


class FilterBody(Schema):
    """What must hold of stored episodes; what is left out asks nothing."""

    run: int | None = None
    stations: list[str] = Field(default_factory=list)
    tasks: list[str] = Field(default_factory=list)
    purpose: str = ""
    detected: bool | None = None
    true: bool | None = None
    known: bool | None = None
    audited: bool | None = None
    d_fell: bool = False
    human: bool | None = None
    since: datetime | None = None
    until: datetime | None = None


class JoinBody(FilterBody):
    name: str
    weight: float = 1.0
    correction_weight: float = 1.0


class Matching(Schema):
    episodes: int
    steps: int


class ImportBody(Schema):
    name: str
    place: str = Field(description="A folder of the server, below one of FLEETUI_IMPORT_ROOTS.")
    picture_width: int | None = Field(None, description="Pixels to which pictures are made smaller.")


class UploadBody(Schema):
    name: str = Field(description="May be empty for a model, which is called as its archive is then.")
    file_name: str
    size: int
    sha256: str = ""
    of: str = Field("dataset", description="What it holds.", json_schema_extra={"enum": list(IMPORTED)})
    picture_width: int | None = None


class Found(Schema):
    level: str
    code: str
    text: str
    file: str
    episode: int | None
    field: str


class Question(Schema):
    code: str
    text: str
    answer: bool | None


class ImportRow(Schema):
    id: int
    of: str = Field(description="What it will be: dataset or model.")
    name: str
    kind: str
    place: str
    state: str
    phase: str
    progress: float
    error: str
    problems: list[Found]
    questions: list[Question]
    size: int
    received: int = Field(description="Bytes of an upload that are there: go on after them.")
    sha256: str = Field(description="Of the archive, as it was announced.")
    dataset: int | None
    model: int | None
    created_at: Moment
    ended_at: Moment | None


class AnswersBody(Schema):
    answers: dict[str, bool]


class ExportBody(Schema):
    kind: str = Field("lerobot", json_schema_extra={"enum": ["lerobot", "mcap", "mp4"]})
    position: int | None = None
    camera: str = ""
    quality: str = "high"


class ExportRow(Schema):
    id: int
    dataset: int
    kind: str
    position: int | None
    camera: str
    quality: str
    state: str
    progress: float
    error: str
    size: int
    sha256: str
    created_at: Moment
    ended_at: Moment | None


def _dataset(request: PersonRequest, lab: str, number: int, action: str = "see") -> Dataset:
    return access.get_row(Dataset, request.user, lab, action, pk=number)


def _episode(dataset: Dataset, position: int) -> DatasetEpisode:
    found = dataset.rows.select_related("source").filter(position=position).first()
    if found is None:
        raise NotFound(f"{dataset} has no episode {position}.")
    return found


# What each name shows


@router.get("/datasets", auth=READ, response=or_problem(list[DatasetRow]))
@paginate(Pages)
def list_datasets(request: PersonRequest, lab: Path[str], archived: bool = False) -> Rows:
    """The newest first."""
    found = access.get_lab(request.user, lab)
    return Rows(selectors.list_datasets(found, archived), selectors.dataset_row)


@router.post("/datasets", auth=DATA, response=or_problem(DatasetRow), openapi_extra=ONCE_EXTRA)
@once
def generate_dataset(request: PersonRequest, lab: Path[str], body: DatasetBody) -> dict[str, Any]:
    """Let the scripted demonstrator make one."""
    found = access.get_lab(request.user, lab, "generate_dataset")
    return selectors.dataset_row(
        actions.generate_dataset(lab=found, user=request.user, **body.dict(), source=source_of(request))
    )


@router.post("/datasets/upload", auth=DATA, response=or_problem(DatasetRow), openapi_extra=UPLOAD_EXTRA)
@once
def upload_dataset(request: PersonRequest, lab: Path[str], name: str) -> dict[str, Any]:
    """The body is one file of episodes (robots/episodes.py), at most 64 MiB."""
    found = access.get_lab(request.user, lab, "upload_dataset")
    return selectors.dataset_row(
        actions.upload_dataset(lab=found, user=request.user, name=name, body=request.body, source=source_of(request))
    )


@router.get("/datasets/{int:number}/file", auth=READ, response=FILE, openapi_extra=FILE_EXTRA)
def download_dataset(request: PersonRequest, lab: Path[str], number: int) -> HttpResponseBase:
    """All episodes of one that is a single file, as upload takes it; any other version is exported, and comes so."""
    dataset = _dataset(request, lab, number)
    if dataset.state != "ready":
        raise Conflict(f"{dataset} is {dataset.state}; it can be downloaded once it is ready.")
    if not dataset.is_root or dataset.file.is_dir():
        raise Conflict(f"{dataset} is no single file; export it, then download what was made (POST exports).")
    return answer_file(request, dataset.file, f"{dataset.name}.safetensors")


@router.patch("/datasets/{int:number}", auth=DATA, response=or_problem(DatasetRow))
def archive_dataset(request: PersonRequest, lab: Path[str], number: int, body: ArchiveBody) -> dict[str, Any]:
    """archived: true hides it, and nothing can learn from it; false brings it back."""
    dataset = access.get_row(Dataset, request.user, lab, "archive_dataset", pk=number)
    change = archive.archive_dataset if body.archived else archive.restore_dataset
    change(dataset=dataset, user=request.user, source=source_of(request))
    return selectors.dataset_row(access.get_row(Dataset, request.user, lab, pk=number))


@router.delete("/datasets/{int:number}", auth=PAGES, response=or_problem(Deleted))
def delete_dataset(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """For good, with its file; only an archived one to which nothing refers."""
    dataset = access.get_row(Dataset, request.user, lab, "archive_dataset", pk=number)
    archive.delete_dataset(dataset=dataset, user=request.user, source=source_of(request))
    return {"deleted": number}


# Versions


@router.get("/datasets/{int:number}", auth=READ, response=or_problem(DatasetDetail))
def show_dataset(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """One version, with sums over its episodes."""
    found = _dataset(request, lab, number)
    return selectors.dataset_row(found) | {"facts": summary_of(found)}


@router.get("/datasets/{int:number}/versions", auth=READ, response=or_problem(list[DatasetRow]))
@paginate(Pages)
def list_versions(request: PersonRequest, lab: Path[str], number: int) -> Rows:
    """All versions of its name, the newest first."""
    return Rows(selectors.list_versions(_dataset(request, lab, number)), selectors.dataset_row)


@router.get("/datasets/{int:number}/episodes", auth=READ, response=or_problem(list[DatasetEpisodeRow]))
@paginate(Pages)
def list_dataset_episodes(
    request: PersonRequest,
    lab: Path[str],
    number: int,
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
) -> Rows:
    """Each filter that is given must hold."""
    found = _dataset(request, lab, number)
    rows = selectors.list_dataset_episodes(
        found,
        task=task,
        tag=tag,
        query=query,
        ending=ending,
        purpose=purpose,
        flagged=flagged,
        unusual=unusual,
        detected=detected,
        true=true,
        sort=sort,
    )
    return Rows(rows, selectors.dataset_episode_row)


@router.post("/datasets/{int:number}/edit", auth=DATA, response=or_problem(DatasetRow), openapi_extra=ONCE_EXTRA)
@once
def edit_dataset(request: PersonRequest, lab: Path[str], number: int, body: Edit) -> dict[str, Any]:
    """The next version, which its name shows from now on."""
    found = _dataset(request, lab, number, "edit_dataset")
    return selectors.dataset_row(_edited(found, request, body))


def _edited(found: Dataset, request: PersonRequest, body: Edit) -> Dataset:
    user, source = request.user, source_of(request)
    act, positions = body.act, body.positions
    if act == "trim":
        cuts = selectors.idle_cuts(found) if body.idle else body.cuts
        return datasets.trim_episodes(dataset=found, user=user, cuts=cuts, source=source)
    if act == "delete":
        return datasets.delete_episodes(dataset=found, user=user, positions=positions, source=source)
    if act == "relabel":
        return datasets.relabel_episodes(
            dataset=found, user=user, positions=positions, instruction=body.instruction, source=source
        )
    if act in ("flag", "unflag"):
        return datasets.flag_episodes(
            dataset=found, user=user, positions=positions, flagged=act == "flag", note=body.note, source=source
        )
    if act == "tag":
        return datasets.tag_episodes(
            dataset=found, user=user, positions=positions, add=body.add, remove=body.remove, source=source
        )
    if act == "weigh":
        return datasets.weigh_episodes(dataset=found, user=user, positions=positions, weight=body.weight, source=source)
    if act == "tag_dataset":
        return datasets.tag_dataset(dataset=found, user=user, tags=body.tags, source=source)
    if act == "note_dataset":
        return datasets.note_dataset(dataset=found, user=user, notes=body.note or "", source=source)
    raise Invalid("There is no such act; the reference lists them.", {"act": "There is no such act."})


@router.post("/datasets/{int:number}/undo", auth=DATA, response=or_problem(DatasetRow))
def undo_edit(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """Undo: the version that it was made of is what the name shows."""
    found = _dataset(request, lab, number, "edit_dataset")
    return selectors.dataset_row(datasets.undo_edit(dataset=found, user=request.user, source=source_of(request)))


@router.post("/datasets/{int:number}/current", auth=DATA, response=or_problem(DatasetRow))
def make_current(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """This version is what the name shows."""
    found = _dataset(request, lab, number, "edit_dataset")
    return selectors.dataset_row(datasets.make_current(dataset=found, user=request.user, source=source_of(request)))


@router.post("/datasets/{int:number}/split", auth=DATA, response=or_problem(Parts), openapi_extra=ONCE_EXTRA)
@once
def split_dataset(request: PersonRequest, lab: Path[str], number: int, body: SplitBody) -> dict[str, Any]:
    """Datasets of their own, one a part."""
    found = _dataset(request, lab, number, "edit_dataset")
    made = datasets.split_dataset(dataset=found, user=request.user, **body.dict(), source=source_of(request))
    return {"datasets": [selectors.dataset_row(each) for each in made]}


@router.post("/datasets/merge", auth=DATA, response=or_problem(DatasetRow), openapi_extra=ONCE_EXTRA)
@once
def merge_datasets(request: PersonRequest, lab: Path[str], body: MergeBody) -> dict[str, Any]:
    """One dataset of the episodes of several, of one body."""
    found = access.get_lab(request.user, lab, "edit_dataset")
    rows = [_dataset(request, lab, number) for number in body.datasets[: datasets.MOST_MERGED + 1]]
    made = datasets.merge_datasets(
        lab=found, user=request.user, datasets=rows, name=body.name, source=source_of(request)
    )
    return selectors.dataset_row(made)


# Of stored episodes


def _filter(lab: Lab, body: FilterBody) -> joining.EpisodeFilter:
    told = {name: getattr(body, name) for name in FilterBody.model_fields}
    for name in ("stations", "tasks"):
        told[name] = tuple(told[name])
    for name in ("since", "until"):
        if told[name] is not None and told[name].tzinfo is None:
            raise Invalid(f"{name}: say the time zone, such as 2026-11-28T08:00:00Z.", {name: "Say the time zone."})
    return joining.EpisodeFilter(**told)


@router.post("/datasets/matching", auth=READ, response=or_problem(Matching))
def count_matching(request: PersonRequest, lab: Path[str], body: FilterBody) -> dict[str, int]:
    """How many stored episodes match a filter."""
    found = access.get_lab(request.user, lab)
    rows, _ = joining.matching_episodes(found, _filter(found, body))
    return {"episodes": len(rows), "steps": sum(row.steps for row in rows)}


@router.post("/datasets/of_episodes", auth=DATA, response=or_problem(DatasetRow), openapi_extra=ONCE_EXTRA)
@once
def make_dataset_from_episodes(request: PersonRequest, lab: Path[str], body: JoinBody) -> dict[str, Any]:
    """A dataset of all stored episodes that match a filter."""
    found = access.get_lab(request.user, lab, "edit_dataset")
    made = joining.make_dataset_from_episodes(
        lab=found,
        user=request.user,
        name=body.name,
        wanted=_filter(found, body),
        weight=body.weight,
        correction_weight=body.correction_weight,
        source=source_of(request),
    )
    return selectors.dataset_row(made)


# Tables


@router.get("/datasets/{int:number}/table", auth=READ, response=FILE, openapi_extra=FILE_EXTRA)
def download_table(request: PersonRequest, lab: Path[str], number: int, kind: str = "csv") -> HttpResponseBase:
    """The table of its episodes, csv or parquet by `kind`."""
    found = _dataset(request, lab, number)
    return table_of_episodes(found, kind)


def table_of_episodes(found: Dataset, kind: str) -> HttpResponseBase:
    """As a file to be downloaded."""
    _check_kind(kind)
    response = StreamingHttpResponse(tables.episodes_table(found, kind), content_type=tables.FORMATS[kind])
    response["Content-Disposition"] = f'attachment; filename="dataset-{found.pk}-episodes.{kind}"'
    return response


@router.get(
    "/datasets/{int:number}/episodes/{int:position}/signals", auth=READ, response=FILE, openapi_extra=FILE_EXTRA
)
def download_signals(
    request: PersonRequest, lab: Path[str], number: int, position: int, kind: str = "csv"
) -> HttpResponseBase:
    """What was observed and done at each step of an episode, csv or parquet by `kind`."""
    found = _dataset(request, lab, number)
    _check_kind(kind)
    table = tables.signals_table(tables.read_episode(_episode(found, position)), kind)
    response = HttpResponse(table, content_type=tables.FORMATS[kind])
    response["Content-Disposition"] = f'attachment; filename="dataset-{found.pk}-episode-{position}.{kind}"'
    return response


def _check_kind(kind: str) -> None:
    if kind not in tables.FORMATS:
        raise NotFound(f"There are {' and '.join(tables.FORMATS)}.")


# Imports


@router.get("/imports", auth=READ, response=or_problem(list[ImportRow]))
@paginate(Pages)
def list_imports(request: PersonRequest, lab: Path[str], state: str = "") -> Rows:
    """The newest first; all, or those of one state."""
    rows = selectors.list_imports(access.get_lab(request.user, lab))
    return Rows(rows.filter(state=state) if state else rows, selectors.import_row)


@router.post("/imports", auth=DATA, response=or_problem(ImportRow), openapi_extra=ONCE_EXTRA)
@once
def import_folder(request: PersonRequest, lab: Path[str], body: ImportBody) -> dict[str, Any]:
    """A LeRobot dataset, v3.0 or v2.1, that lies in a folder of the server."""
    found = access.get_lab(request.user, lab, "upload_dataset")
    row = transfers.import_folder(lab=found, user=request.user, **body.dict(), source=source_of(request))
    return selectors.import_row(row)


@router.post("/imports/uploads", auth=DATA, response=or_problem(ImportRow), openapi_extra=ONCE_EXTRA)
@once
def begin_upload(request: PersonRequest, lab: Path[str], body: UploadBody) -> dict[str, Any]:
    """Announce an archive (.zip, .tar, .tar.gz) of one, or of a pretrained model, which then comes piece by piece."""
    if body.of not in IMPORTED:
        raise Invalid(f"There are {', '.join(IMPORTED)}.", {"of": f"There are {', '.join(IMPORTED)}."})
    found = access.get_lab(request.user, lab, IMPORTED[body.of])
    row = transfers.begin_upload(lab=found, user=request.user, **body.dict(), source=source_of(request))
    return selectors.import_row(row)


@router.get("/imports/{int:number}", auth=READ, response=or_problem(ImportRow))
def show_import(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    return selectors.import_row(access.get_row(Import, request.user, lab, pk=number))


@router.put("/imports/{int:number}/bytes", auth=DATA, response=or_problem(ImportRow), openapi_extra=PIECE_EXTRA)
def receive_piece(request: PersonRequest, lab: Path[str], number: int, offset: int, sha256: str = "") -> dict[str, Any]:
    """The next bytes, at most 16 MiB, as the body. After an interruption go on with the byte `received`."""
    row = access.get_row(Import, request.user, lab, "upload_dataset", pk=number)
    row = transfers.receive_piece(row=row, user=request.user, offset=offset, body=request.body, sha256=sha256)
    return selectors.import_row(row)


@router.post("/imports/{int:number}/answers", auth=DATA, response=or_problem(ImportRow))
def answer_import(request: PersonRequest, lab: Path[str], number: int, body: AnswersBody) -> dict[str, Any]:
    """Say yes or no to what it asks, by the questions' codes."""
    row = access.get_row(Import, request.user, lab, "upload_dataset", pk=number)
    row = transfers.answer_import(row=row, user=request.user, answers=body.answers, source=source_of(request))
    return selectors.import_row(row)


@router.delete("/imports/{int:number}", auth=DATA, response=or_problem(ImportRow))
def cancel_import(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """Nothing of it stays but the row, which says so."""
    row = access.get_row(Import, request.user, lab, "upload_dataset", pk=number)
    return selectors.import_row(transfers.cancel_import(row=row, user=request.user, source=source_of(request)))


# Exports


@router.get("/exports", auth=READ, response=or_problem(list[ExportRow]))
@paginate(Pages)
def list_exports(request: PersonRequest, lab: Path[str], dataset: int | None = None) -> Rows:
    """The newest first."""
    return Rows(selectors.list_exports(access.get_lab(request.user, lab), dataset), selectors.export_row)


@router.post("/datasets/{int:number}/exports", auth=DATA, response=or_problem(ExportRow), openapi_extra=ONCE_EXTRA)
@once
def export_dataset(request: PersonRequest, lab: Path[str], number: int, body: ExportBody) -> dict[str, Any]:
    """A file that is made in a job: ask exports/ID until its state is ready."""
    found = _dataset(request, lab, number, "export_dataset")
    row = transfers.export_dataset(dataset=found, user=request.user, **body.dict(), source=source_of(request))
    return selectors.export_row(row)


@router.get("/exports/{int:number}", auth=READ, response=or_problem(ExportRow))
def show_export(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    return selectors.export_row(access.get_row(Export, request.user, lab, pk=number))


@router.delete("/exports/{int:number}", auth=DATA, response=or_problem(Deleted))
def delete_export(request: PersonRequest, lab: Path[str], number: int) -> dict[str, Any]:
    """The file goes; the dataset stays."""
    row = access.get_row(Export, request.user, lab, "export_dataset", pk=number)
    transfers.delete_export(export=row, user=request.user, source=source_of(request))
    return {"deleted": number}


@router.get("/exports/{int:number}/file", auth=READ, response=FILE, openapi_extra=FILE_EXTRA)
def download_export(request: PersonRequest, lab: Path[str], number: int) -> HttpResponseBase:
    """The file itself; with a header Range a part of it, so that an interrupted download goes on."""
    row = access.get_row(Export, request.user, lab, pk=number)
    if row.state != "ready" or not row.file.is_file():
        raise Conflict(f"{row} is {row.state if row.state != 'ready' else 'gone'}; ask for it anew.")
    return answer_file(request, row.file, row.file_name, row.sha256)
