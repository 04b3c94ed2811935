"""Forms of practice: to assign a task, and to launch a run that practises. Rules about rows live in actions/."""

from typing import Any

from django import forms
from django.db.models import Q
from django.forms.boundfield import BoundField
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from fleetui.fleet import selectors as fleet
from fleetui.fleet.models import PRIORITIES, AssignedStation, Assignment, Lab, Station, Task
from fleetui.fleet.time_zones import zone_named
from fleetui.learning import selectors as learning
from fleetui.learning.forms import DatasetForm, LaunchForm, offer_rows
from fleetui.learning.models import Checkpoint, Promotion, Run
from fleetui.practice import selectors
from fleetui.practice.actions import launching
from fleetui.practice.actions.assignments import MOST_ATTEMPTS
from training.methods.registry import Method

BUDGETS = {
    "": "the run ends by itself",
    "episodes": "so many episodes are done",
    "hours": "so many hours have passed",
    "target_success": "a true success of so many % is reached",
}


class AssignForm(forms.Form):
    task: "forms.ModelChoiceField[Task]" = forms.ModelChoiceField(label="Task", queryset=None, empty_label=None)
    parent: "forms.ModelChoiceField[Run]" = forms.ModelChoiceField(
        label="Practise with",
        queryset=None,
        required=False,
        empty_label="nothing yet: a person launches a run later",
        help_text="The run whose policy practises; ★ is the lab's default for its body. Practice begins by itself as "
        "soon as the stations are free.",
    )
    who = forms.ChoiceField(
        label="On",
        required=False,
        initial="chosen",
        choices=[("chosen", "these stations"), ("any", "any that fit the task")],
        widget=forms.RadioSelect(attrs={"class": "checks"}),
    )
    stations: "forms.ModelMultipleChoiceField[Station]" = forms.ModelMultipleChoiceField(
        label="Stations",
        queryset=None,
        required=False,
        widget=forms.CheckboxSelectMultiple(attrs={"class": "checks"}),
        help_text="It waits for those that are in use.",
    )
    any_count = forms.IntegerField(
        label="How many",
        required=False,
        min_value=1,
        max_value=1000,
        help_text="Which ones is decided when it starts, out of those whose embodiment fits.",
    )
    budget = forms.ChoiceField(label="Until", required=False, choices=list(BUDGETS.items()))
    amount = forms.FloatField(
        label="How much", required=False, min_value=0.01, help_text="The number of episodes, hours or %."
    )
    priority = forms.ChoiceField(
        label="Priority",
        required=False,
        initial="normal",
        choices=[(word, word) for _, word in sorted(PRIORITIES.items(), reverse=True)],
        help_text="Decides where in the queue it is put. You can move it afterwards.",
    )
    not_before = forms.DateTimeField(
        label="Earliest start",
        required=False,
        widget=forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
        input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%d %H:%M"],
    )
    repeats = forms.ChoiceField(
        label="Repeats",
        required=False,
        choices=[("", "no"), ("daily", "daily"), ("weekly", "weekly")],
        help_text="It starts again at the same time of day, unless the one before still goes on.",
    )
    # In which the start was read when it was typed, whatever the person's own is by then.
    time_zone = forms.CharField(widget=forms.HiddenInput, required=False, max_length=64)

    def __init__(self, *args: Any, lab: Lab, assignment: Assignment | None = None, **kwargs: Any):
        """With an assignment that waits, a form to edit it: all but its task."""
        self.assignment = assignment
        zone = timezone.get_current_timezone_name()
        if assignment is not None:
            zone = assignment.time_zone if assignment.repeats else zone
            kwargs["initial"] = self.wishes_of(assignment, zone)
        super().__init__(*args, **kwargs)
        self.impossible = ""  # why what a link asks for can't be had: nothing else is chosen in its place
        if assignment is None:
            self.offer_first_choices(lab)
        else:
            self.fields["task"].disabled = True
            self.fields[
                "task"
            ].help_text = "The task can't be changed. For another task, cancel this assignment and make a new one."
            offer_rows(self, "task", lab.tasks.filter(pk=assignment.task_id))
        self.fields["time_zone"].initial = zone
        zone = (self.data.get(self.add_prefix("time_zone")) if self.is_bound else "") or zone
        own = ""
        if zone == timezone.get_current_timezone_name():
            own = format_html(' (<a href="{}">your time zone</a>)', reverse("time_zone"))
        self.fields["not_before"].help_text = format_html(
            "Time in {}{}. Left empty, it starts as soon as it can.", zone, own
        )
        self.offer_policies(lab)
        offer_rows(self, "stations", fleet.list_stations(lab))

    def offer_first_choices(self, lab: Lab) -> None:
        offer_rows(self, "task", fleet.list_tasks(lab))
        # What the newest demonstrations show is what a policy will know.
        shown = lab.datasets.filter(state="ready", archived_at=None, current=True).order_by("-id").first()
        task = fleet.list_tasks(lab).filter(family__in=shown.families).first() if shown else None
        self.fields["task"].initial = task
        self.offer_stations_of(lab, task)

    def offer_stations_of(self, lab: Lab, task: Task | None) -> None:
        """At first the free ones with the task's body."""
        body = task.embodiment if task else ""
        self.fields["stations"].initial = selectors.with_body(selectors.free_stations(lab), body)

    def offer_policies(self, lab: Lab) -> None:
        sources, assignment = learning.list_parents(lab), self.assignment
        defaults = Promotion.default_runs(lab)
        if assignment is None:
            task = self.fields["task"].initial
            default = defaults.get(task.embodiment) if isinstance(task, Task) else None
            self.fields["parent"].initial = sources.filter(pk=default or 0).first() or sources.first()
            if asked := self.initial.get("parent"):
                self.initial["parent"], self.impossible = learning.find_parent(lab, asked)
        elif assignment.parent_id:
            sources = lab.runs.filter(Q(pk__in=sources.values("pk")) | Q(pk=assignment.parent_id)).order_by("-id")
        marks = {run: f", the lab's default for {body}" for body, run in defaults.items()}
        # The star comes first: a narrow page shows no more than the beginning of what is chosen.
        say = lambda run: f"{'★ ' * (run.pk in marks)}{run} ({run.method.words}{marks.get(run.pk, '')})"  # noqa: E731
        offer_rows(self, "parent", sources, say)
        if not sources.exists():
            self.fields[
                "parent"
            ].help_text = "There is no trained policy yet. Assign the task now, and launch a run for it later."

    @staticmethod
    def wishes_of(row: Assignment, zone: str) -> dict[str, Any]:
        """What the form shows of an assignment."""
        budgets = {"episodes": row.budget_episodes, "hours": row.budget_hours, "target_success": row.target_success}
        budget = next((name for name, amount in budgets.items() if amount is not None), "")
        amount = budgets.get(budget)
        local = row.not_before and row.not_before.astimezone(zone_named(zone)).replace(tzinfo=None)
        return {
            "task": row.task_id,
            "parent": row.parent_id,
            "who": "chosen" if row.any_count is None else "any",
            "stations": [station.pk for station in row.stations.all()],
            "any_count": row.any_count,
            "budget": budget,
            "amount": round(100 * amount, 6) if amount is not None and budget == "target_success" else amount,
            "priority": PRIORITIES[row.priority],
            "not_before": local,
            "repeats": row.repeats,
        }

    def full_clean(self) -> None:
        given = self.data.get(self.add_prefix("time_zone")) or timezone.get_current_timezone_name()
        with timezone.override(zone_named(given)):
            super().full_clean()

    MAIN: tuple[str, ...] = ("task", "parent", "who", "stations", "any_count", "budget", "amount")

    @property
    def main_fields(self) -> list[BoundField]:
        return [self[name] for name in self.MAIN]

    @property
    def further_fields(self) -> list[BoundField]:
        return [self[name] for name in ("priority", "not_before", "repeats")]

    @property
    def further_bad(self) -> bool:
        return any(field.errors for field in self.further_fields)

    def clean(self) -> dict[str, Any]:
        given = self.cleaned_data
        if given.get("who") == "any":
            if given.get("any_count") is None and "any_count" not in self.errors:
                self.add_error("any_count", "Say how many stations it shall have.")
        elif not given.get("stations") and "stations" not in self.errors:
            self.add_error("stations", "Choose at least one station.")
        self.clean_end(given)
        return given

    def clean_end(self, given: dict[str, Any]) -> None:
        """What is wrong with what it ends by."""
        amount, budget = given.get("amount"), given.get("budget")
        if budget and amount is None and "amount" not in self.errors:
            self.add_error("amount", f"Say how many or how much, until {BUDGETS[budget]}.")
        elif amount is not None and not budget:
            self.add_error("budget", "Say what the number counts: episodes, hours or % of true success.")
        elif budget == "target_success" and amount is not None and not 1 <= amount <= 100:
            self.add_error("amount", "A true success to be reached is 1 to 100 %.")
        elif budget == "episodes" and amount is not None and amount != int(amount):
            self.add_error("amount", "A number of episodes is a whole number.")

    def wishes(self) -> dict[str, Any]:
        """The keywords of assign_task."""
        given = self.cleaned_data
        found = {name: given[name] for name in ("task", "not_before", "repeats")}
        start = self.assignment and self.assignment.not_before
        if start and found["not_before"] == start.replace(second=0, microsecond=0):
            found["not_before"] = start  # the form shows minutes only
        found["time_zone"] = given["time_zone"] or timezone.get_current_timezone_name()
        found["priority"] = given["priority"] or "normal"
        takes_any = given["who"] == "any"
        found["stations"] = [] if takes_any else list(given["stations"])
        found["any_count"] = given["any_count"] if takes_any else None
        return found | self.what_is_acted()

    def what_is_acted(self) -> dict[str, Any]:
        """The policy, and for how long."""
        given = self.cleaned_data
        found = {"parent": given["parent"]}
        if budget := given["budget"]:
            amount = given["amount"]
            found[budget] = {"episodes": int(amount), "hours": amount, "target_success": amount / 100}[budget]
        return found


class EvaluateForm(AssignForm):
    """Of a policy of one run: stations make so many attempts with it, and nothing learns from them."""

    MAIN = ("task", "checkpoint", "episodes", "who", "stations", "any_count")

    parent = budget = amount = None  # type: ignore[assignment]  # Django leaves such fields out
    checkpoint: "forms.ModelChoiceField[Checkpoint]" = forms.ModelChoiceField(
        label="Policy",
        queryset=None,
        empty_label=None,
        help_text="The run's reward model detects success, so attempts end as they do in practice.",
        error_messages={"required": "Choose the policy to evaluate."},
    )
    episodes = forms.IntegerField(
        label="Attempts",
        initial=20,
        min_value=1,
        max_value=MOST_ATTEMPTS,
        help_text="In all, shared among the stations. It ends by itself after them.",
        error_messages={"required": "Say how many attempts the stations shall make."},
    )

    def __init__(self, *args: Any, run: Run, **kwargs: Any):
        self.run = run
        super().__init__(*args, **kwargs)

    def offer_first_choices(self, lab: Lab) -> None:
        """Of the tasks and stations those with the body that the policy moves; first what it was shown."""
        super().offer_first_choices(lab)
        shown = [family for each in self.run.demonstrations for family in each.families]
        fitting = fleet.list_tasks(lab)
        if body := self.run.body.get("name"):
            fitting = fitting.filter(embodiment=body)
        offer_rows(self, "task", fitting)
        self.fields["task"].initial = task = fitting.filter(family__in=shown).first() or fitting.first()
        self.offer_stations_of(lab, task)
        if not fitting.exists():
            self.impossible = f"There is no task for {body or 'this body'} yet. A manager makes one on the Tasks page."

    def offer_policies(self, lab: Lab) -> None:
        policies = learning.evaluated_policies(self.run)
        if self.assignment is not None:
            self.fields["checkpoint"].disabled = True
            self.fields["checkpoint"].help_text = "For another policy, cancel this and make another evaluation."
            policies = self.run.checkpoints.filter(evaluations=self.assignment)
        kept = self.run.best_checkpoint("policy")
        say = lambda each: f"v{each.version}{', kept as the best' if each.version == self.run.kept_version else ''}"  # noqa: E731
        offer_rows(self, "checkpoint", policies, say)
        self.fields["checkpoint"].initial = kept if kept in policies else policies.first()
        if not policies.exists():
            self.impossible = f"{self.run} has no policy with a reward model yet. Wait until it has saved them."

    @staticmethod
    def wishes_of(row: Assignment, zone: str) -> dict[str, Any]:
        return AssignForm.wishes_of(row, zone) | {"checkpoint": row.checkpoint_id, "episodes": row.budget_episodes}

    def clean_end(self, given: dict[str, Any]) -> None:
        """Its fields say it all."""

    def what_is_acted(self) -> dict[str, Any]:
        return {name: self.cleaned_data[name] for name in ("checkpoint", "episodes")}


class ParentForm(LaunchForm):
    parent: "forms.ModelChoiceField[Run]" = forms.ModelChoiceField(
        label="Start from",
        queryset=None,
        empty_label=None,
        help_text="The run with whose policy it begins. The reward model that came with it judges the attempts.",
        error_messages={"required": "Choose the run whose policy and reward model to start from."},
    )

    def __init__(self, *args: Any, lab: Lab, **kwargs: Any):
        super().__init__(*args, lab=lab, **kwargs)
        parents = learning.list_parents(lab)
        offer_rows(self, "parent", parents, lambda run: f"{run} ({run.method.words})")
        parent = parents.first()
        if parent is None:
            problem = "No run has made a policy and a reward model yet. Train from demonstrations first."
            self.lacking.append(("parent", problem))
        if asked := self.initial.get("parent"):
            found, problem = learning.find_parent(lab, asked)
            parent = found or parent
            if problem:
                self.refuse("parent", problem)
        self.shown = self.shown or (parent.origin.dataset if parent else None)


class StationsForm(LaunchForm):
    task: "forms.ModelChoiceField[Task]" = forms.ModelChoiceField(
        label="Task", queryset=None, empty_label=None, error_messages={"required": "Choose the task to practise."}
    )
    stations: "forms.ModelMultipleChoiceField[Station]" = forms.ModelMultipleChoiceField(
        label="Stations",
        queryset=None,
        widget=forms.CheckboxSelectMultiple(attrs={"class": "checks"}),
        help_text="Only stations that no other run uses and that are not in maintenance are listed.",
        error_messages={"required": "Choose at least one station to practise on."},
    )

    def __init__(self, *args: Any, lab: Lab, like: Run | None = None, **kwargs: Any):
        super().__init__(*args, lab=lab, like=like, **kwargs)
        for name in self.settings_of_task:
            field = self.fields[name]
            field.help_text = f"{self.recipe_class.FIELDS[name].help} Left empty, it is the task's."
            if like is None or name not in like.recipe:
                field.initial = ""
        busy = AssignedStation.objects.filter(live=True, station__lab=lab)
        offer_rows(self, "task", lab.tasks.filter(archived_at=None).order_by("name"))
        able = lab.stations.filter(maintenance_since=None, archived_at=None)
        free = able.exclude(pk__in=busy.values("station")).order_by("number")
        offer_rows(self, "stations", free)
        if not free.exists():
            problem = (
                "Every station is used by another run or is in maintenance. Wait for one, or free one: cancel a run, "
                "or end maintenance."
            )
            self.lacking.append(("stations", problem))
        # What a manager assigned already is what one most likely wants to practise.
        line = Assignment.objects.filter(lab=lab, state__in=Assignment.WAITING, run=None, parent=None)
        line = line.filter(task__archived_at=None).order_by("position")
        chosen = self.initial.get("assignment")
        waiting = line.filter(pk=chosen).first() if chosen else line.first()
        if chosen and waiting is None:
            self.impossible.append("The assignment that this link names already has a run, or has ended.")
        # Else what the policy was shown: practice of a task that it never saw begins at nothing.
        families: list[str] = self.shown.families if self.shown else []
        known = lab.tasks.filter(family__in=families, archived_at=None).first()
        self.fields["task"].initial = waiting.task_id if waiting else known and known.pk
        if waiting and not waiting.any_count:
            self.fields["stations"].initial = free.filter(places__assignment=waiting)
        else:  # another body would only be refused
            body = self.shown.body.get("name", "") if self.shown else ""
            self.fields["stations"].initial = selectors.with_body(free, body)

    @property
    def settings_of_task(self) -> list[str]:
        return launching.settings_of_task(self.method)

    def clean(self) -> dict[str, Any]:
        super().clean()
        for name in self.settings_of_task if not self.errors else ():
            if not self.cleaned_data[name]:
                del self.recipe[name]  # launch_run takes the task's
        return self.cleaned_data


def launch_form(method: Method) -> type[LaunchForm]:
    """It asks for all that a run of the method starts from: the last of the needs comes first in the order of classes,
    and last on the page.
    """
    forms_of = {"stations": StationsForm, "parent": ParentForm, "dataset": DatasetForm}
    return type("LaunchForm", tuple(form for need, form in forms_of.items() if need in method.needs), {})
