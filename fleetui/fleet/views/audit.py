"""The audit log: who moved, stopped, reset or changed what, filtered, by pages or as a file."""

import csv
from collections.abc import AsyncIterator
from typing import Any

from asgiref.sync import sync_to_async
from django.db.models import QuerySet
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from django.views.decorators.http import require_GET

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet import selectors
from fleetui.fleet.forms import AuditFilterForm
from fleetui.fleet.models import Act
from fleetui.fleet.views.pages import LongListPaginator, page, render_page
from robots import strict_json

ACTS_A_PAGE = 50
ROWS_A_READ = 1000  # an export is never held whole
# A spreadsheet takes a cell that begins so for a formula, which could run on the machine of whoever opens the file.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


@page
@require_GET
def audit(request: PersonRequest, lab_slug: str) -> HttpResponse:
    lab = access.get_lab(request.user, lab_slug, "see_audit")
    form = AuditFilterForm(request.GET, lab=lab)
    form.is_valid()  # a filter with an error is named on the page and filters nothing
    found = LongListPaginator(selectors.list_acts(lab, **form.filters()), ACTS_A_PAGE).get_page(request.GET.get("page"))
    query = request.GET.copy()
    query.pop("page", None)
    return render_page(
        request,
        "fleet/audit.html",
        lab,
        "audit",
        page_obj=found,
        filter_form=form,
        filtered=any(request.GET.get(name) for name in form.fields),
        query=query.urlencode(),
    )


@page
@require_GET
def export(request: PersonRequest, lab_slug: str, kind: str) -> HttpResponseBase:
    """The filtered log as a file: CSV for a spreadsheet, JSON for a script."""
    lab = access.get_lab(request.user, lab_slug, "see_audit")
    form = AuditFilterForm(request.GET, lab=lab)
    if not form.is_valid():  # a file must not hold more than was asked for
        problem = " ".join(str(error) for errors in form.errors.values() for error in errors)
        return render_page(
            request, "fleet/audit.html", lab, "audit", 422, filter_form=form, filtered=True, bad_export=problem
        )
    write = {"csv": write_csv, "json": write_json}.get(kind)
    if write is None:
        raise Http404("The log is exported as csv or json.")
    rows = selectors.list_acts(lab, **form.filters())
    media = {"csv": "text/csv; charset=utf-8", "json": "application/json"}[kind]
    answer = StreamingHttpResponse(write(rows), content_type=media)
    name = f"audit-{lab.slug}-{timezone.now():%Y-%m-%d}.{kind}"
    answer["Content-Disposition"] = f'attachment; filename="{name}"'
    return answer


async def read_in_parts(rows: QuerySet[Act]) -> AsyncIterator[list[dict[str, Any]]]:
    """Newest first, a thousand at a time; a row that is added meanwhile comes before the first, so none is missed."""
    last = None
    while True:
        part = rows if last is None else rows.filter(pk__lt=last)
        read = await sync_to_async(lambda part=part: list(part[:ROWS_A_READ]))()
        if not read:
            return
        yield [selectors.act_row(act) for act in read]
        last = read[-1].pk


class Line:
    """What csv.writer writes to; gives the line back instead of keeping it."""

    def write(self, text: str) -> str:
        return text


async def write_csv(rows: QuerySet[Act]) -> AsyncIterator[str]:
    writer = csv.writer(Line())
    yield writer.writerow(selectors.ACT_FIELDS)
    async for part in read_in_parts(rows):
        yield "".join(writer.writerow([guarded(row[name]) for name in selectors.ACT_FIELDS]) for row in part)


def guarded(value: Any) -> str:
    text = "" if value is None else strict_json.dumps(value, sort_keys=True) if isinstance(value, dict) else str(value)
    return f"'{text}" if text.startswith(FORMULA) else text


async def write_json(rows: QuerySet[Act]) -> AsyncIterator[str]:
    before = "[\n"
    async for part in read_in_parts(rows):
        yield before + ",\n".join(strict_json.dumps(row) for row in part)
        before = ",\n"
    yield "[]\n" if before == "[\n" else "\n]\n"
