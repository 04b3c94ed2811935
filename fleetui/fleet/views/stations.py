"""A station: its page, its settings, and a new one."""

import json

from django.contrib import messages
from django.shortcuts import redirect
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from fleetui import access
from fleetui.fleet import actions, selectors
from fleetui.fleet.forms import StationForm, StationSettingsForm
from fleetui.fleet.templatetags.fleet_words import words
from fleetui.fleet.views.pages import add_refusal, page, render_page

SPEEDS = [(1, "1×"), (4, "4×"), (0, "max")]


@page
@require_GET
def station(request, lab_slug, station_slug):
    found = access.get_station(request.user, lab_slug, station_slug)
    return render_station(request, found, settings_form(found))


def settings_form(station, data=None):
    values = {name: getattr(station, name) for name in ("self_reset_after_s", "shuffle_every_s")}
    values = {name: int(value) if value and value == int(value) else value for name, value in values.items()}
    return StationSettingsForm(data, initial=values, station=station)


def render_station(request, station, form, status=200):
    return render_page(
        request,
        "fleet/station.html",
        station.lab,
        "wall",
        status,
        station=station,
        card=selectors.station_card(station),
        state_word=words(station.state),
        speeds=SPEEDS,
        settings_form=form,
    )


@page
@require_POST
def station_settings(request, lab_slug, station_slug):
    found = access.get_station(request.user, lab_slug, station_slug, "command")
    form = settings_form(found, request.POST)
    if form.is_valid():
        try:
            actions.command_station(
                user=request.user, lab_slug=lab_slug, station_slug=station_slug, name="settings", args=form.cleaned_data
            )
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            messages.success(request, f"{found}: settings saved.")
            return redirect("station", lab_slug, station_slug)
    return render_station(request, found, form, status=422)


@page
@require_http_methods(["GET", "POST"])
def new_station(request, lab_slug):
    """A manager adds a station; its token is shown on the answer to this one POST and never again."""
    lab = access.get_lab(request.user, lab_slug, "create_station")
    form = StationForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        try:
            made, token = actions.create_station(
                lab=lab,
                name=given["name"],
                simulated=given["simulated"],
                seed=given["seed"],
                world=given["world"] if given["simulated"] else "",
            )
        except access.Refused as refused:
            add_refusal(form, refused)
        else:
            row = {"station": made.slug, "token": token, "world": made.world, "seed": made.seed}
            server = request.build_absolute_uri("/").rstrip("/")
            command = f".venv/bin/python -m training practise --server {server} --tokens tokens.json"
            return render_page(
                request,
                "fleet/new_station.html",
                lab,
                "wall",
                station=made,
                token=token,
                tokens_json=json.dumps([row]),
                server=server,
                command=command,
            )
    return render_page(request, "fleet/new_station.html", lab, "wall", 422 if form.errors else 200, form=form)
