"""The wall, with the first steps of a lab that has not practised yet."""

from typing import Any

from django.http import HttpResponse
from django.urls import reverse
from django.views.decorators.http import require_GET

from fleetui import access
from fleetui.access import PersonRequest
from fleetui.fleet import selectors
from fleetui.fleet.models import SHOWN_STATES, Lab
from fleetui.fleet.templatetags.fleet_words import percent, words
from fleetui.fleet.views.pages import page, render_page
from fleetui.learning.models import Run
from fleetui.learning.selectors import practising_kinds
from training.methods.registry import methods_that_need


@page
@require_GET
def wall(request: PersonRequest, lab_slug: str) -> HttpResponse:
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
        states=sorted(SHOWN_STATES.values(), key=lambda state: state.place),
        drawn=[card["name"] for card in cards if card["renderer"] == "drawn"],
        first_steps=first_steps(lab),
    )


def first_steps(lab: Lab) -> list[dict[str, Any]]:
    """Train, practise, supervise: what a new lab does first. Gone once its first self-improvement run practises.

    A step with `launches` leads to the launch form, which not every role may open.
    """
    training_runs = lab.runs.exclude(kind__in=practising_kinds()).order_by("-id")
    practice_runs = lab.runs.filter(kind__in=practising_kinds()).order_by("-id")
    trained = training_runs.filter(state="completed", archived_at=None).first()
    training = training_runs.filter(state__in=Run.LIVE).first()
    if practice_runs.filter(practice_episodes__gt=0).exists():
        return []
    practising = practice_runs.exclude(state__in=("canceled", "failed")).first()
    dataset = lab.datasets.filter(archived_at=None).order_by("id").first()
    new_run = reverse("new_run", args=[lab.slug])
    train: dict[str, Any]
    if trained:
        train = {
            "text": f"{trained} made a policy and a reward model.",
            "label": "See the run",
            "url": run_url(trained),
        }
    elif training:
        train = {
            "text": f"{training} is under way, {percent(training.progress)} done.",
            "label": "Watch it",
            "url": run_url(training),
        }
    elif dataset is None:
        train = {
            "text": "A policy is first trained on demonstrations.",
            "label": "Make a dataset",
            "url": reverse("datasets", args=[lab.slug]),
        }
    elif dataset.state == "generating":
        train = {
            "text": f"“{dataset}” is being made, {percent(dataset.progress)} done; then a policy learns from it.",
            "label": "See the dataset",
            "url": reverse("datasets", args=[lab.slug]),
        }
    else:
        train = {
            "text": f"“{dataset}” holds {dataset.episodes} demonstrations to teach a policy and a reward model from.",
            "label": "Train",
            "launches": True,
            "url": f"{new_run}?kind={methods_that_need('dataset')[0].kind}&dataset={dataset.pk}",
        }
    practise: dict[str, Any] = {
        "text": "Stations try the task by themselves; the reward model judges, the policy gets better.",
        "label": "Practise",
        "launches": practising is None,
        "url": f"{new_run}?kind={methods_that_need('stations')[0].kind}" + (f"&parent={trained.pk}" if trained else ""),
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


def run_url(run: Run) -> str:
    return reverse("run", args=[run.lab.slug, run.pk])
