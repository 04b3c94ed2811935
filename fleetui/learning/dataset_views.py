"""The pages of datasets: the list with all that adds to it, a version with its episodes, one episode, and every edit.

Each edit makes a new version and leads to it; what was said of it has an Undo, which makes the parent current again.
"""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from fleetui import access
from fleetui.access import Conflict, NotFound, PersonRequest
from fleetui.answers import JsonAnswer
from fleetui.fleet import selectors as fleet
from fleetui.fleet.models import Lab
from fleetui.fleet.views.pages import LongListPaginator, add_refusal, page, render_page, row_number, saying_refusals
from fleetui.learning import actions, archive, dataset_selectors, datasets, joining, looks, selectors, transfers
from fleetui.learning.dataset_forms import (
    DatasetFilterForm,
    EditForm,
    EpisodesFilterForm,
    GatherForm,
    ImportForm,
    MergeForm,
    SplitForm,
)
from fleetui.learning.forms import GenerateForm, UploadForm
from fleetui.learning.listing import summary_of
from fleetui.learning.models import Dataset, DatasetEpisode, Import

UPLOAD_ID = "upload_%s"  # both forms of the page have a name: an id of its own keeps each label with its field
DATASETS_A_PAGE = 50
EPISODES_A_PAGE = 48
UNDO = "undo"  # a message that says so has a button which goes back to the parent


# The list


@page
@require_GET
def list_all(request: PersonRequest, lab_slug: str) -> HttpResponse:
    return render_datasets(request, access.get_lab(request.user, lab_slug))


def render_datasets(request: PersonRequest, lab: Lab, **refused: Any) -> HttpResponse:
    """The page, with whichever of its forms was refused."""
    imports = selectors.recent_imports(lab, "dataset")  # first: what is whole meanwhile is in both lists, not in none
    filter_form = DatasetFilterForm(request.GET, lab=lab)
    filter_form.is_valid()  # a filter with an error is named on the page and filters nothing
    found = LongListPaginator(dataset_selectors.find_datasets(lab, **filter_form.filters()), DATASETS_A_PAGE)
    shown = found.get_page(request.GET.get("page"))
    origins = dataset_selectors.say_origins(lab, shown.object_list)
    return render_page(
        request,
        "learning/datasets.html",
        lab,
        "datasets",
        422 if refused else 200,
        page_obj=shown,
        listed=[(row, origins[row.pk]) for row in shown.object_list],
        query=_query(request, "page"),
        filter_form=filter_form,
        titles=fleet.family_titles(lab),
        archived=selectors.list_datasets(lab, archived=True),
        imports=imports,
        generate_form=refused.get("generate") or GenerateForm(),
        upload_form=refused.get("upload") or UploadForm(auto_id=UPLOAD_ID),
        import_form=refused.get("import_") or ImportForm(),
    )


@page
@require_GET
def list_imports(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """The part of the list that shows what is on its way in; its script asks for it."""
    lab = access.get_lab(request.user, lab_slug)
    return render_page(
        request, "learning/_imports.html", lab, "datasets", imports=selectors.recent_imports(lab, "dataset")
    )


@page
@require_POST
def generate_dataset(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug, "generate_dataset")
    form = GenerateForm(request.POST)
    if form.is_valid():
        try:
            made = actions.generate_dataset(lab=lab, user=request.user, **form.cleaned_data, source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{made} is being generated; it can be trained on when it is ready.")
            return redirect("datasets", lab_slug)
    return render_datasets(request, lab, generate=form)


@page
@require_POST
def upload_dataset(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug, "upload_dataset")
    form = UploadForm(request.POST, request.FILES, auto_id=UPLOAD_ID)
    if form.is_valid():
        name, body = form.cleaned_data["name"], form.cleaned_data["file"].read()
        try:
            made = actions.upload_dataset(lab=lab, user=request.user, name=name, body=body, source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{made}: {made.episodes} episodes were accepted.")
            return redirect("datasets", lab_slug)
    return render_datasets(request, lab, upload=form)


@page
@require_POST
def import_dataset(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """Of a folder on the server. An archive comes in pieces, by the page's script."""
    lab = access.get_lab(request.user, lab_slug, "upload_dataset")
    form = ImportForm(request.POST)
    if form.is_valid():
        try:
            row = transfers.import_folder(lab=lab, user=request.user, **form.cleaned_data, source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{row.name} is being looked at; it says here what it finds.")
            return redirect("datasets", lab_slug)
    return render_datasets(request, lab, import_=form)


@page
@require_POST
def answer_import(request: PersonRequest, lab_slug: str, import_id: int) -> HttpResponse:
    row = access.get_row(Import, request.user, lab_slug, "upload_dataset", pk=import_id)
    with saying_refusals(request):
        code, yes = request.POST.get("code", ""), request.POST.get("answer") == "yes"
        row = transfers.answer_import(row=row, user=request.user, answers={code: yes}, source="page")
        messages.success(request, f"{row.name} is imported." if row.is_live else f"{row.name} is not imported.")
    return redirect("datasets", lab_slug)


@page
@require_POST
def cancel_import(request: PersonRequest, lab_slug: str, import_id: int) -> HttpResponse:
    row = access.get_row(Import, request.user, lab_slug, "upload_dataset", pk=import_id)
    with saying_refusals(request):
        transfers.cancel_import(row=row, user=request.user, source="page")
        messages.success(request, f"{row.name} is not imported; nothing of it stays.")
    return redirect("models" if row.of == "model" else "datasets", lab_slug)


# Of stored episodes


@page
@require_http_methods(["GET", "POST"])
def gather_dataset(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """A dataset of the stored episodes that a filter finds."""
    lab = access.get_lab(request.user, lab_slug, "edit_dataset")
    form = GatherForm(request.POST if request.method == "POST" else None, lab=lab, initial=request.GET.dict())
    if request.method == "POST" and form.is_valid():
        weights = {name: form.cleaned_data[name] for name in ("weight", "correction_weight")}
        name = form.cleaned_data["name"]
        try:
            made = joining.make_dataset_from_episodes(
                lab=lab, user=request.user, name=name, wanted=form.wanted(), **weights, source="page"
            )
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{made} is being written, with {made.episodes} episodes.")
            return redirect("dataset", lab_slug, made.pk)
    status = 422 if form.is_bound else 200
    return render_page(request, "learning/gather_dataset.html", lab, "datasets", status, form=form)


@page
@require_GET
def count_gathered(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """How many episodes the filter finds now, for the page's script."""
    lab = access.get_lab(request.user, lab_slug)
    form = GatherForm(request.GET, lab=lab)
    form.is_valid()
    if wrong := [str(error) for name in form.FINDS for error in form.errors.get(name, ())]:
        return JsonAnswer({"error": wrong[0]})
    try:
        rows, _ = joining.matching_episodes(lab, form.wanted())
    except access.Refused as refused:
        return JsonAnswer({"error": str(refused)})
    return JsonAnswer({"episodes": len(rows), "steps": sum(row.steps for row in rows)})


# One version


@page
@require_GET
def show(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    """One version, with its episodes."""
    return render_dataset(request, access.get_row(Dataset, request.user, lab_slug, pk=dataset_id))


def render_dataset(request: PersonRequest, found: Dataset, **refused: Any) -> HttpResponse:
    """The page, with whichever of its forms was refused."""
    filter_form = _filter_form(request, found)
    sort = request.GET.get("sort", "")
    rows, facts = _found_rows(found, filter_form, sort), summary_of(found)
    versions = list(selectors.list_versions(found))
    origins = dataset_selectors.say_origins(found.lab, [found, *versions])
    return render_page(
        request,
        "learning/dataset.html",
        found.lab,
        "datasets",
        422 if refused else 200,
        dataset=found,
        origin_parts=origins[found.pk],
        first_origin=origins[versions[-1].pk] if versions[-1] != found else None,
        facts=facts,
        versions=[(each, origins[each.pk]) for each in versions],
        uses=selectors.list_uses(found)[:50],
        exports=list(selectors.list_exports(found.lab, found.pk).filter(kind="lerobot")[:3]),
        lengths=facts["lengths"],
        outliers=found.rows.filter(position__in=facts["outliers"]).order_by("position"),
        page_obj=LongListPaginator(rows, EPISODES_A_PAGE).get_page(request.GET.get("page")),
        query=_query(request, "page"),
        unsorted=_query(request, "page", "sort"),
        unviewed=_query(request, "view"),
        sort=sort,
        view="grid" if request.GET.get("view") == "grid" else "table",
        filtered=any(request.GET.get(name) for name in filter_form.fields),
        filter_form=filter_form,
        titles=fleet.family_titles(found.lab),
        edit_form=refused.get("edit") or EditForm(),
        split_form=refused.get("split") or SplitForm(),
        merge_form=refused.get("merge") or MergeForm(dataset=found),
    )


def _filter_form(request: HttpRequest, found: Dataset) -> EpisodesFilterForm:
    form = EpisodesFilterForm(request.GET, dataset=found, tags=summary_of(found)["tags"])
    form.is_valid()  # a filter with an error is named on the page and filters nothing
    return form


def _found_rows(found: Dataset, form: EpisodesFilterForm, sort: str) -> Any:
    given = form.filters()
    unknown = given.pop("unknown", False)
    rows = selectors.list_dataset_episodes(found, **given, sort=sort or "position")
    return rows.filter(true_success=None) if unknown else rows


def _query(request: HttpRequest, *without: str) -> str:
    """What the address asks for, but for these; to be followed by more."""
    query = request.GET.copy()
    for name in without:
        query.pop(name, None)
    return query.urlencode() + "&" if query else ""


@page
@require_POST
def edit(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    """One act on the chosen episodes, or on all that the address's filter finds."""
    found = access.get_row(Dataset, request.user, lab_slug, "edit_dataset", pk=dataset_id)
    form = EditForm(request.POST)
    at = form.cleaned_data.get("at") if form.is_valid() else row_number(request.POST.get("at") or "none") or None
    if form.is_valid():
        given = form.cleaned_data
        positions = given["positions"]
        if given["everything"]:
            positions = list(_found_rows(found, _filter_form(request, found), "").values_list("position", flat=True))
        try:
            made = _edited(found, request, given, positions)
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            _say_new_version(request, made)
            if at is not None:
                return redirect("dataset_episode", lab_slug, made.pk, dataset_selectors.version_at_same_place(made, at))
            return redirect(f"{reverse('dataset', args=[lab_slug, made.pk])}?{request.GET.urlencode()}")
    if at is not None:
        return render_episode(request, found, _episode(found, at), edit_form=form)
    return render_dataset(request, found, edit=form)


def _edited(found: Dataset, request: PersonRequest, given: dict[str, Any], positions: list[int]) -> Dataset:
    act = given["act"]
    common: dict[str, Any] = {"dataset": found, "user": request.user, "source": "page"}
    if act in ("trim", "trim_idle", "cut"):
        return datasets.trim_episodes(cuts=_cuts(found, given, positions), **common)
    common["positions"] = positions
    if act == "relabel":
        return datasets.relabel_episodes(instruction=given["instruction"], **common)
    if act in ("flag", "unflag"):
        return datasets.flag_episodes(flagged=act == "flag", note=given["note"] or None, **common)
    if act == "note":
        return datasets.flag_episodes(flagged=given["flagged"], note=given["note"], **common)
    if act in ("tag", "untag"):
        tags = [each.strip() for each in given["tag"].split(",")]
        add, remove = (tags, []) if act == "tag" else ([], tags)
        return datasets.tag_episodes(add=add, remove=remove, **common)
    if act == "weigh":
        return datasets.weigh_episodes(weight=1.0 if given["weight"] is None else given["weight"], **common)
    return datasets.delete_episodes(**common)


def _cuts(found: Dataset, given: dict[str, Any], positions: list[int]) -> dict[int, tuple[int, int]]:
    """Position -> (first step, one after the last), as trim_episodes() takes it."""
    if given["act"] == "trim_idle":
        idle = selectors.idle_cuts(found)
        cuts = {position: idle[position] for position in positions if position in idle}
        if positions and not cuts:
            raise Conflict("None of these episodes is idle at its ends for long.")
        return cuts
    steps = dict(found.rows.filter(position__in=positions).values_list("position", "steps"))
    if given["act"] == "cut":
        return {
            position: (given["start"] or 0, length if given["stop"] is None else given["stop"])
            for position, length in steps.items()
        }
    off, late = given["from_start"] or 0, given["from_end"] or 0
    if not (off or late):
        raise access.Invalid(
            "Say how many steps to cut off.", {"from_start": "Say how many steps to cut off, here or at the end."}
        )
    return {position: (off, length - late) for position, length in steps.items()}


def _say_new_version(request: HttpRequest, made: Dataset) -> None:
    messages.success(
        request, f"This is version {made.version} of {made.name} now; the one before is kept.", extra_tags=UNDO
    )


@page
@require_POST
def describe(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    """Its tags, or its notes."""
    found = access.get_row(Dataset, request.user, lab_slug, "edit_dataset", pk=dataset_id)
    with saying_refusals(request):
        if "tags" in request.POST:
            tags = request.POST["tags"].split(",")
            made = datasets.tag_dataset(dataset=found, user=request.user, tags=tags, source="page")
        else:
            notes = request.POST.get("notes", "")
            made = datasets.note_dataset(dataset=found, user=request.user, notes=notes, source="page")
        _say_new_version(request, made)
        return redirect("dataset", lab_slug, made.pk)
    return redirect("dataset", lab_slug, dataset_id)


@page
@require_POST
def undo_edit(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    found = access.get_row(Dataset, request.user, lab_slug, "edit_dataset", pk=dataset_id)
    with saying_refusals(request):
        parent = datasets.undo_edit(dataset=found, user=request.user, source="page")
        messages.success(
            request, f"{parent.name} is back at version {parent.version}; version {found.version} is kept."
        )
        return redirect("dataset", lab_slug, parent.pk)
    return redirect("dataset", lab_slug, dataset_id)


@page
@require_POST
def make_current(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    found = access.get_row(Dataset, request.user, lab_slug, "edit_dataset", pk=dataset_id)
    with saying_refusals(request):
        datasets.make_current(dataset=found, user=request.user, source="page")
        messages.success(request, f"{found.name} shows version {found.version} from now on.")
    return redirect("dataset", lab_slug, dataset_id)


@page
@require_POST
def split(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    found = access.get_row(Dataset, request.user, lab_slug, "edit_dataset", pk=dataset_id)
    form = SplitForm(request.POST)
    if form.is_valid():
        try:
            made = datasets.split_dataset(dataset=found, user=request.user, **form.wishes(), source="page")
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            names = ", ".join(f"{each.name} ({each.episodes})" for each in made)
            messages.success(request, f"New datasets: {names}. {found} stays as it is.")
            return redirect("datasets", lab_slug)
    return render_dataset(request, found, split=form)


@page
@require_POST
def merge(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    found = access.get_row(Dataset, request.user, lab_slug, "edit_dataset", pk=dataset_id)
    form = MergeForm(request.POST, dataset=found)
    if form.is_valid():
        try:
            made = datasets.merge_datasets(
                lab=found.lab,
                user=request.user,
                datasets=[found, *form.cleaned_data["others"]],
                name=form.cleaned_data["name"],
                source="page",
            )
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{made} has {made.episodes} episodes; what it was made of stays as it is.")
            return redirect("dataset", lab_slug, made.pk)
    return render_dataset(request, found, merge=form)


@page
@require_POST
def export(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    """Have the LeRobot archive made; the page shows how far it is, and then the link."""
    found = access.get_row(Dataset, request.user, lab_slug, "export_dataset", pk=dataset_id)
    with saying_refusals(request):
        transfers.export_dataset(dataset=found, user=request.user, source="page")
        messages.success(request, "The archive is being made; it can be downloaded here when it is ready.")
    return redirect(f"{reverse('dataset', args=[lab_slug, dataset_id])}#export")


# One episode


@page
@require_GET
def show_episode(request: PersonRequest, lab_slug: str, dataset_id: int, position: int) -> HttpResponse:
    """All that was seen, observed and done in it, in step."""
    found = access.get_row(Dataset, request.user, lab_slug, pk=dataset_id)
    return render_episode(request, found, _episode(found, position))


def _episode(found: Dataset, position: int) -> DatasetEpisode:
    row = found.rows.select_related("source").filter(position=position).first()
    if row is None:
        raise NotFound(f"{found} has no episode {position}.")
    return row


def render_episode(
    request: PersonRequest, found: Dataset, row: DatasetEpisode, edit_form: EditForm | None = None
) -> HttpResponse:
    return render_page(
        request,
        "learning/dataset_episode.html",
        found.lab,
        "datasets",
        422 if edit_form else 200,
        dataset=found,
        episode=row,
        whole=row.quality.get("steps", row.stop),
        cameras=[each["name"] for each in _known_cameras(row) if not each["missing"]],
        exports=list(selectors.list_exports(found.lab, found.pk).filter(position=row.position)),
        before=row.position - 1 if row.position else None,
        after=row.position + 1 if row.position + 1 < found.episodes else None,
        edit_form=edit_form or EditForm(),
    )


def _known_cameras(row: DatasetEpisode) -> list[dict[str, str]]:
    """Those whose pictures are made already; the page's script asks for the others."""
    try:
        return looks.list_cameras(row) or []
    except access.Refused:
        return []  # the player says why


# Out of use, and back


@page
@require_POST
def archive_dataset(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    found = access.get_row(Dataset, request.user, lab_slug, "archive_dataset", pk=dataset_id)
    with saying_refusals(request):
        archive.archive_dataset(dataset=found, user=request.user, source="page")
        messages.success(request, f"{found} is archived.")
    return redirect("datasets", lab_slug)


@page
@require_POST
def restore_dataset(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    found = access.get_row(Dataset, request.user, lab_slug, "archive_dataset", pk=dataset_id)
    with saying_refusals(request):
        archive.restore_dataset(dataset=found, user=request.user, source="page")
        messages.success(request, f"{found} is back.")
    return redirect("datasets", lab_slug)


@page
@require_POST
def delete_dataset(request: PersonRequest, lab_slug: str, dataset_id: int) -> HttpResponse:
    found = access.get_row(Dataset, request.user, lab_slug, "archive_dataset", pk=dataset_id)
    with saying_refusals(request):
        archive.delete_dataset(dataset=found, user=request.user, source="page")
        messages.success(request, f"{found} is deleted.")
    return redirect("datasets", lab_slug)
