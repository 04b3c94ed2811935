"""The fleet's pages: the wall, a station, episodes and their replay, tasks.

The first paint comes from the database; what moves comes over the live socket. Objects are fetched
through access.py alone, rows are changed by actions.py alone.
"""

import json

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.contrib.auth.views import LoginView
from django.core.exceptions import PermissionDenied
from django.core.paginator import Paginator
from django.http import Http404, JsonResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods, require_POST

from fleetui import access
from fleetui.fleet import actions, selectors
from fleetui.fleet.forms import AssignForm, EpisodeFilterForm, StationForm, StationSettingsForm, TaskForm
from fleetui.fleet.templatetags.fleet_words import words
from fleetui.learning.models import Run

EPISODES_A_PAGE = 50
# What needs a person is said first.
TALLY = ("needs_person", "stopped", "overridden", "practising", "evaluating", "waiting", "paused", "idle", "offline")
SPEEDS = [(1, "1×"), (4, "4×"), (0, "max")]


class LogIn(LoginView):
    template_name = "login.html"
    redirect_authenticated_user = True


def page(view):
    """A page of a lab: behind the log-in, and never taken from a cache, since it shows what is now."""
    return never_cache(login_required(view))


def render_page(request, template, lab, section, status=200, **context):
    """With what base.html needs: the lab, the part of the site, and what the user's role may do here."""
    may = {action: access.may(lab.role, action) for action in access.ALLOWED}
    return render(request, template, {"lab": lab, "section": section, "may": may, **context}, status=status)


def add_refusal(form, refused: access.Refused) -> None:
    """Put a refusal's sentences where the form has their fields, and the rest on top."""
    problems = getattr(refused, "problems", {})
    placed = {name: problem for name, problem in problems.items() if name in form.fields}
    for name, problem in placed.items():
        form.add_error(name, problem)
    if not placed or len(placed) < len(problems):
        form.add_error(None, str(refused))


@page
@require_GET
def home(request):
    lab = access.get_labs(request.user).first()
    if lab is None:
        raise PermissionDenied("You are no member of a lab yet; ask a manager of yours to add you.")
    return redirect("wall", lab.slug)


@page
@require_GET
def wall(request, lab_slug):
    lab = access.get_lab(request.user, lab_slug)
    cards = selectors.wall_cards(lab)
    for card in cards:
        card["word"] = words(card["state"])
    return render_page(
        request,
        "fleet/wall.html",
        lab,
        "wall",
        cards=cards,
        blank={"word": words("offline")},
        states=[(state, words(state)) for state in TALLY],
        drawn=any(card["renderer"] == "drawn" for card in cards),
        first_steps=first_steps(lab),
    )


def first_steps(lab) -> list[dict]:
    """Train, practise, supervise: what a new lab does first. Gone once its first self-improvement run practises.

    A step with `launches` leads to the launch form, which not every role may open.
    """
    trained = lab.runs.filter(kind="sft", state="completed").order_by("-id").first()
    training = lab.runs.filter(kind="sft", state__in=Run.LIVE).order_by("-id").first()
    if lab.runs.filter(kind="improve", practice_episodes__gt=0).exists():
        return []
    practising = lab.runs.filter(kind="improve").exclude(state__in=("canceled", "failed")).order_by("-id").first()
    dataset = lab.datasets.order_by("id").first()
    new_run = reverse("new_run", args=[lab.slug])
    if trained:
        train = {
            "text": f"{trained} made a policy and a reward model.",
            "label": "See the run",
            "url": run_url(trained),
        }
    elif training:
        train = {
            "text": f"{training} is under way, {training.progress:.0%} done.",
            "label": "Watch it",
            "url": run_url(training),
        }
    elif dataset is None:
        train = {
            "text": "A policy begins with demonstrations.",
            "label": "Make a dataset",
            "url": reverse("datasets", args=[lab.slug]),
        }
    elif dataset.state == "generating":
        train = {
            "text": f"“{dataset}” is being made, {dataset.progress:.0%} done; then a policy can learn from it.",
            "label": "See the dataset",
            "url": reverse("datasets", args=[lab.slug]),
        }
    else:
        train = {
            "text": f"“{dataset}” holds {dataset.episodes} demonstrations to teach a policy and a reward model from.",
            "label": "Train",
            "launches": True,
            "url": f"{new_run}?kind=sft&dataset={dataset.pk}",
        }
    practise = {
        "text": "Stations try the task by themselves; the reward model judges, the policy gets better.",
        "label": "Practise",
        "launches": practising is None,
        "url": f"{new_run}?kind=improve" + (f"&parent={trained.pk}" if trained else ""),
    }
    if practising:
        practise |= {
            "text": f"{practising} is {practising.state}; its stations start when it publishes.",
            "label": "Watch it",
            "url": run_url(practising),
        }
    supervise = {
        "text": "Watch this wall. A station that needs you comes first and says what to press.",
        "label": "Supervise",
        "url": "#at-work",
    }
    return [
        {"title": "Train", "done": trained is not None, "next": trained is None, **train},
        {"title": "Practise", "done": practising is not None, "next": trained is not None, **practise},
        {"title": "Supervise", "done": False, "next": practising is not None, **supervise},
    ]


def run_url(run) -> str:
    return reverse("run", args=[run.lab.slug, run.pk])


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


@page
@require_GET
def episodes(request, lab_slug):
    lab = access.get_lab(request.user, lab_slug)
    form = EpisodeFilterForm(request.GET, lab=lab)
    form.is_valid()  # a filter with an error is named on the page and filters nothing
    found = Paginator(selectors.list_episodes(lab, **form.filters()), EPISODES_A_PAGE).get_page(request.GET.get("page"))
    query = request.GET.copy()
    query.pop("page", None)
    return render_page(
        request,
        "fleet/episodes.html",
        lab,
        "episodes",
        page_obj=found,
        filter_form=form,
        query=query.urlencode() + "&" if query else "",
    )


@page
@require_GET
def episode(request, lab_slug, episode_uuid):
    found = access.get_episode(request.user, lab_slug, episode_uuid)
    return render_page(request, "fleet/episode.html", found.lab, "episodes", episode=found)


@page
@require_http_methods(["GET", "POST"])
def tasks(request, lab_slug):
    lab = access.get_lab(request.user, lab_slug)
    act = request.POST.get("act", "")
    task_form = TaskForm(request.POST if act == "task" else None)
    assign_form = AssignForm(request.POST if act == "assign" else None, lab=lab)
    assign_form.fields["stations"].initial = assign_form.fields["stations"].queryset
    if request.method == "POST":
        done = change_tasks(request, lab, act, task_form, assign_form)
        if done:
            messages.success(request, done)
            return redirect("tasks", lab_slug)
    assignments = list(selectors.list_assignments(lab)[:50])
    for each in assignments:
        each.station_list = each.stations.all()
        each.is_live = each.state in each.LIVE
    bad = task_form.errors or assign_form.errors
    return render_page(
        request,
        "fleet/tasks.html",
        lab,
        "tasks",
        422 if bad else 200,
        assignments=assignments,
        tasks=selectors.list_tasks(lab),
        task_form=task_form,
        assign_form=assign_form,
    )


def change_tasks(request, lab, act, task_form, assign_form) -> str:
    """Do what one of the page's forms asks; returns what was done, or "" where a form now says what is wrong."""
    form = {"task": task_form, "assign": assign_form}.get(act)
    if form is not None and not form.is_valid():
        return ""
    try:
        if act == "task":
            access.get_lab(request.user, lab.slug, "create_task")
            return f"{actions.create_task(lab=lab, **form.cleaned_data)} can be assigned now."
        if act == "assign":
            access.get_lab(request.user, lab.slug, "assign")
            task, stations = form.cleaned_data["task"], list(form.cleaned_data["stations"])
            actions.assign_task(lab=lab, task=task, stations=stations, user=request.user)
            return f"{task} is assigned to {len(stations)} stations; they practise once a run stands behind it."
        if act == "cancel" and request.POST.get("assignment", "").isdecimal():
            each = access.get_assignment(request.user, lab.slug, int(request.POST["assignment"]), "assign")
            actions.cancel_assignment(assignment=each, user=request.user)
            return f"The assignment of {each.task} was canceled."
    except (access.Denied, access.NotFound):
        raise
    except access.Refused as refused:
        if form is None:
            messages.error(request, str(refused))
        else:
            add_refusal(form, refused)
        return ""
    raise Http404("This page has no such form.")


@page
@require_GET
def charts(request, lab_slug):
    """The Dash page stands in a frame under the site's own head; it checks the lab again by itself."""
    lab = access.get_lab(request.user, lab_slug)
    return render_page(request, "charts/charts.html", lab, "charts")


@page
@require_GET
def jump(request, lab_slug):
    lab = access.get_lab(request.user, lab_slug)
    return JsonResponse({"results": selectors.jump_targets(lab, request.GET.get("q", "").strip()[:100])})
