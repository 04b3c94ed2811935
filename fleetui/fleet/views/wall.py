"""The first pages: log in and out, one's own password, the way to the lab, the wall, and Ctrl+K."""

from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.forms import PasswordChangeForm
from django.contrib.auth.views import LoginView, LogoutView
from django.core.exceptions import PermissionDenied
from django.shortcuts import redirect, render
from django.urls import reverse
from django.views.decorators.http import require_GET, require_http_methods

from fleetui import access
from fleetui.answers import JsonAnswer
from fleetui.fleet import actions, selectors
from fleetui.fleet.actions.audit import source
from fleetui.fleet.jump import jump_targets
from fleetui.fleet.models import SHOWN_STATES
from fleetui.fleet.templatetags.fleet_words import percent, words
from fleetui.fleet.views.pages import page, render_page
from fleetui.headers import client_address
from fleetui.learning.models import Run


class LogIn(LoginView):
    template_name = "login.html"
    redirect_authenticated_user = True

    def form_valid(self, form):
        source.set("page")
        answer = super().form_valid(form)
        actions.record_account(user=form.get_user(), kind="logged_in", address=client_address(self.request))
        return answer

    def form_invalid(self, form):
        """django-axes has counted it by now; while it keeps the name out, tries are no longer counted."""
        source.set("page")
        name, counted = form.cleaned_data.get("username"), getattr(self.request, "axes_failures_since_start", None)
        if name and counted is not None:
            locks = self.request.axes_locked_out
            actions.record_failed_log_in(name=name, address=client_address(self.request), locks=locks)
        return super().form_invalid(form)


class LogOut(LogoutView):
    def post(self, request, *args, **kwargs):
        source.set("page")
        if request.user.is_authenticated:
            actions.record_account(user=request.user, kind="logged_out", address=client_address(request))
        access.forget_person(request.session.session_key or "")
        return super().post(request, *args, **kwargs)


@page
@require_http_methods(["GET", "POST"])
def password(request):
    """One's own password. This session stays; all others of this person end."""
    form = PasswordChangeForm(request.user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        actions.change_password(user=request.user, password=form.cleaned_data["new_password1"])
        update_session_auth_hash(request, request.user)
        messages.success(request, "Your password is changed. You are logged out everywhere else.")
        return redirect("home")
    return render(request, "password.html", {"form": form}, status=422 if form.errors else 200)


@page
@require_GET
def home(request):
    lab = access.get_labs(request.user).first()
    if lab is None:
        raise PermissionDenied("You are not a member of a lab yet. Ask the manager of a lab to invite you.")
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
        states=sorted(SHOWN_STATES.values(), key=lambda state: state.place),
        drawn=[card["name"] for card in cards if card["renderer"] == "drawn"],
        first_steps=first_steps(lab),
    )


def first_steps(lab) -> list[dict]:
    """Train, practise, supervise: what a new lab does first. Gone once its first self-improvement run practises.

    A step with `launches` leads to the launch form, which not every role may open.
    """
    trained = lab.runs.filter(kind="sft", state="completed", archived_at=None).order_by("-id").first()
    training = lab.runs.filter(kind="sft", state__in=Run.LIVE).order_by("-id").first()
    if lab.runs.filter(kind="improve", practice_episodes__gt=0).exists():
        return []
    practising = lab.runs.filter(kind="improve").exclude(state__in=("canceled", "failed")).order_by("-id").first()
    dataset = lab.datasets.filter(archived_at=None).order_by("id").first()
    new_run = reverse("new_run", args=[lab.slug])
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
def jump(request, lab_slug):
    lab = access.get_lab(request.user, lab_slug)
    return JsonAnswer({"results": jump_targets(lab, request.GET.get("q", "").strip()[:100])})
