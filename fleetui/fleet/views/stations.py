"""Stations: the page of one, its settings, upkeep and token; the list of all; a new one."""

import json
import os
import shlex
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpResponse, QueryDict
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet import selectors
from fleetui.fleet.actions import archive, control, labs, maintenance
from fleetui.fleet.forms import MaintenanceForm, StationForm, StationSettingsForm
from fleetui.fleet.models import SHOWN_STATES, Station
from fleetui.fleet.templatetags.fleet_words import words
from fleetui.fleet.views.pages import add_refusal, page, render_page, saying_refusals
from robots.embodiments import EMBODIMENTS
from robots.rules import SPEEDS
from robots.worlds import find_worlds

# Long enough to carry a token to the robot; a reload or a lost page must not lose it before.
TOKEN_SHOWN_FOR = timedelta(minutes=10)
TOKEN_COOKIE = "station_token"


@page
@require_GET
def station(request: PersonRequest, lab_slug: str, station_slug: str) -> HttpResponse:
    found = access.get_row(Station, request.user, lab_slug, slug=station_slug)
    return render_station(request, found, settings_form(found))


def settings_form(station: Station, data: QueryDict | None = None) -> StationSettingsForm:
    values = {name: getattr(station, name) for name in ("self_reset_after_s", "shuffle_every_s")}
    values = {name: int(value) if value and value == int(value) else value for name, value in values.items()}
    return StationSettingsForm(data, initial=values | {"record_frames": station.record_frames}, station=station)


def render_station(
    request: PersonRequest,
    station: Station,
    form: StationSettingsForm,
    status: int = 200,
    maintenance_form: MaintenanceForm | None = None,
) -> HttpResponse:
    days = 7 if request.GET.get("use") == "7d" else 1
    return render_page(
        request,
        "fleet/station.html",
        station.lab,
        "stations",
        status,
        station=station,
        card=selectors.station_card(station),
        body={
            "drive": selectors.drive_axes(station),
            "device": False,
            "teleoperator": station.teleoperator,
            "planes": {camera.name: camera.plane for camera in station.cameras if camera.plane},
        },
        cameras=[camera.name for camera in station.cameras] or [""],  # one whose name is not known yet
        state_word=words(station.shown_state),
        health=selectors.station_health(station),
        use=selectors.use_of_stations([station], hours=24 * days)[station.pk],
        use_days=days,
        maintenance_form=maintenance_form or MaintenanceForm(),
        facts=selectors.body_facts(station),
        speeds=SPEEDS.items(),
        settings_form=form,
        old_token_works=station.old_token_until is not None and station.old_token_until > timezone.now(),
    )


@page
@require_POST
def station_settings(request: PersonRequest, lab_slug: str, station_slug: str) -> HttpResponse:
    found = access.get_row(Station, request.user, lab_slug, "command", slug=station_slug)
    form = settings_form(found, request.POST)
    if form.is_valid():
        try:
            control.command_station(
                user=request.user,
                lab_slug=lab_slug,
                station_slug=station_slug,
                name="settings",
                args=form.cleaned_data,
                source="page",
            )
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{found}: settings saved.")
            return redirect("station", lab_slug, station_slug)
    return render_station(request, found, form, status=422)


@page
@require_GET
def stations(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """The stations of a lab side by side: are they well, and what were they used for."""
    lab = access.get_lab(request.user, lab_slug)
    return render_page(
        request,
        "fleet/stations.html",
        lab,
        "stations",
        rows=selectors.list_upkeep(lab),
        archived=selectors.list_stations(lab, archived=True),
        legend=tuple(SHOWN_STATES),
    )


@page
@require_POST
def archive_station(request: PersonRequest, lab_slug: str, station_slug: str) -> HttpResponse:
    found = access.get_row(Station, request.user, lab_slug, "archive_station", slug=station_slug)
    with saying_refusals(request):
        archive.archive_station(station=found, user=request.user, source="page")
        messages.success(request, f"{found} is archived.")
    return redirect("stations", lab_slug)


@page
@require_POST
def restore_station(request: PersonRequest, lab_slug: str, station_slug: str) -> HttpResponse:
    found = access.get_row(Station, request.user, lab_slug, "archive_station", slug=station_slug)
    with saying_refusals(request):
        archive.restore_station(station=found, user=request.user, source="page")
        messages.success(request, f"{found} is back.")
    return redirect("stations", lab_slug)


@page
@require_POST
def delete_station(request: PersonRequest, lab_slug: str, station_slug: str) -> HttpResponse:
    found = access.get_row(Station, request.user, lab_slug, "archive_station", slug=station_slug)
    with saying_refusals(request):
        archive.delete_station(station=found, user=request.user, source="page")
        messages.success(request, f"{found} is deleted.")
    return redirect("stations", lab_slug)


@page
@require_http_methods(["GET", "POST"])
def new_station(request: PersonRequest, lab_slug: str) -> HttpResponse:
    """A manager adds a station; the page of its token follows."""
    lab = access.get_lab(request.user, lab_slug, "create_station")
    form = StationForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        simulated = given["simulated"] == "on"
        body = EMBODIMENTS.get(given["embodiment"])
        try:
            made, token = labs.create_station(
                lab=lab,
                name=given["name"],
                simulated=simulated,
                seed=given["seed"],
                world=given["world"] if simulated else "",
                embodiment=None if simulated else body,
                user=request.user,
                source="page",
            )
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            return show_token(request, made, token)
    return render_page(request, "fleet/new_station.html", lab, "stations", 422 if form.errors else 200, form=form)


def show_token(request: PersonRequest, station: Station, token: str, **context: Any) -> HttpResponse:
    """Go to the page that shows the token, which only this browser can open again: the token lies in a signed cookie of
    that one page. Nothing of it is kept here but the hash.
    """
    answer = redirect("station_token", station.lab.slug, station.slug)
    since = station.connected_since.isoformat() if station.connected_since else ""
    answer.set_signed_cookie(
        TOKEN_COOKIE,
        json.dumps({"token": token, "since": since, **context}),
        salt=token_salt(request, station),
        path=reverse("station_token", args=[station.lab.slug, station.slug]),
        secure=settings.SESSION_COOKIE_SECURE,
        httponly=True,
        samesite="Strict",
    )
    return answer


def token_salt(request: PersonRequest, station: Station) -> str:
    return f"token of station {station.pk} for user {request.user.pk}"


def read_token(request: PersonRequest, station: Station) -> dict[str, Any] | None:
    """What show_token has put into the cookie; None once the time is over, the station has connected or there is
    another token.
    """
    salt = token_salt(request, station)
    kept = request.get_signed_cookie(TOKEN_COOKIE, default="", salt=salt, max_age=TOKEN_SHOWN_FOR)
    found = json.loads(kept) if kept else None
    if found is None or station.token_hash != access.hash_token(found["token"]):
        return None
    since = station.connected_since.isoformat() if station.connected_since else ""
    # With an old token that still works it may be connected all the time: only a newer connection was made with this.
    return found if since == found["since"] or station.old_token_hash else None


@page
@require_POST
def renew_token(request: PersonRequest, lab_slug: str, station_slug: str) -> HttpResponse:
    """A new token; the page that shows it follows."""
    found = access.get_row(Station, request.user, lab_slug, "renew_token", slug=station_slug)
    keep_old = request.POST.get("at_once") != "on"
    token = labs.renew_token(station=found, user=request.user, keep_old=keep_old, source="page")
    return show_token(request, found, token, renewed=True, keep_old=keep_old)


@page
@require_POST
def put_token_away(request: PersonRequest, lab_slug: str, station_slug: str) -> HttpResponse:
    """It has been noted: this browser shows it no more."""
    found = access.get_row(Station, request.user, lab_slug, "renew_token", slug=station_slug)
    answer = redirect("station", lab_slug, found.slug)
    answer.delete_cookie(TOKEN_COOKIE, path=reverse("station_token", args=[lab_slug, found.slug]), samesite="Strict")
    return answer


@page
@require_GET
def station_token(request: PersonRequest, lab_slug: str, station_slug: str) -> HttpResponse:
    """The one page that shows a token, with the one command that uses it; it waits until the station is here."""
    found = access.get_row(Station, request.user, lab_slug, "renew_token", slug=station_slug)
    kept = read_token(request, found)
    server = request.build_absolute_uri(reverse("home")).rstrip("/")
    context = {"station": found, "minutes": round(TOKEN_SHOWN_FOR.total_seconds() / 60), **(kept or {})}
    if kept:
        context["command"] = start_command(found, kept["token"], server)
    return render_page(request, "fleet/new_station.html", found.lab, "stations", **context)


def start_command(station: Station, token: str, server: str) -> str:
    if not station.simulated:
        return f"FLEET_SERVER={server} FLEET_TOKEN={token} python my_robot.py"
    file = f"{station.slug}.json"
    row = {"station": station.slug, "token": token, "world": station.world, "seed": station.seed}
    named = os.environ.get("FLEETUI_WORLDS")  # whose worlds are known only to programs that are told of the file
    built_in = {each.embodiment.name for each in find_worlds()}
    worlds = f"FLEETUI_WORLDS={shlex.quote(named)} " if named and station.world not in built_in else ""
    return (
        f"(umask 077; echo {shlex.quote(json.dumps([row]))} > {file}) && "
        f"{worlds}.venv/bin/python -m training practise --server {server} --tokens {file}"
    )


@page
@require_POST
def begin_maintenance(request: PersonRequest, lab_slug: str, station_slug: str) -> HttpResponse:
    found = access.get_row(Station, request.user, lab_slug, "maintain", slug=station_slug)
    form = MaintenanceForm(request.POST)
    if not form.is_valid():
        return render_station(request, found, settings_form(found), 422, maintenance_form=form)
    reason = form.cleaned_data["reason"]
    with saying_refusals(request):
        maintenance.begin_maintenance(station=found, user=request.user, reason=reason, source="page")
        messages.success(request, f"{found} is in maintenance: it stays paused and gets no assignment.")
    return redirect("station", lab_slug, station_slug)


@page
@require_POST
def end_maintenance(request: PersonRequest, lab_slug: str, station_slug: str) -> HttpResponse:
    found = access.get_row(Station, request.user, lab_slug, "maintain", slug=station_slug)
    with saying_refusals(request):
        maintenance.end_maintenance(station=found, user=request.user, source="page")
        messages.success(request, f"{found} is out of maintenance. It is still paused: resume it when it may move.")
    return redirect("station", lab_slug, station_slug)
