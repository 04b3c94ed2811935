"""Forms of the fleet's pages. They check what a form can check by itself; rules about rows live in actions/."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib.auth.forms import UserCreationForm
from django.contrib.auth.models import User

from fleetui.fleet import selectors
from fleetui.fleet.models import ACTS, PURPOSES, ROLES, SCOPES, AccessToken, Lab, Station, Task
from fleetui.fleet.time_zones import zone_names
from robots.attention import SEVERITIES
from robots.embodiments import EMBODIMENTS
from robots.episodes import ENDINGS
from robots.rules import SETTINGS, TASK_RULES, Rule
from robots.tasks import TASKS
from robots.wordings import Words

ANY = ("", "any")


def in_words(form: forms.BaseForm, sentence: str) -> str:
    """The sentence with the label in place of a field's name in the code, with which recipes and actions begin one."""
    name, space, rest = sentence.partition(" ")
    return f"{form.fields[name].label}{space}{rest}" if name in form.fields else sentence


def offer(form: forms.Form, name: str, choices: Iterable[tuple[str, str]]) -> None:
    """Set what may be chosen in one of the form's fields, where that is known only when it is made."""
    field = form.fields[name]
    assert isinstance(field, forms.ChoiceField)  # as the form declares it
    field.choices = list(choices)


class EpisodeFilterForm(forms.Form):
    query = forms.CharField(label="Instruction", required=False)
    purpose = forms.ChoiceField(label="Purpose", required=False, choices=[ANY, *((each, each) for each in PURPOSES)])
    task = forms.ChoiceField(label="Task", required=False)
    station = forms.ChoiceField(label="Station", required=False)
    run = forms.ChoiceField(label="Run", required=False)
    detected = forms.ChoiceField(
        label="Detected success", required=False, choices=[ANY, ("yes", "success"), ("no", "no success")]
    )
    true = forms.ChoiceField(
        label="True success",
        required=False,
        choices=[ANY, ("yes", "success"), ("no", "no success"), ("unknown", "unknown")],
    )
    evaluation = forms.ChoiceField(label="Evaluation", required=False)
    ending = forms.ChoiceField(
        label="Ended by", required=False, choices=[ANY, *((each, each.replace("_", " ")) for each in ENDINGS)]
    )
    human = forms.ChoiceField(label="Human steps", required=False, choices=[ANY, ("yes", "some"), ("no", "none")])

    def __init__(self, *args: Any, lab: Lab, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        evaluations = selectors.list_evaluations(lab)
        offer(self, "task", [ANY, *lab.tasks.values_list("slug", "name")])
        offer(self, "station", [ANY, *lab.stations.order_by("number").values_list("slug", "name")])
        offer(self, "run", [ANY, *((str(pk), name) for pk, name in lab.runs.values_list("pk", "name"))])
        offer(self, "evaluation", [ANY, *((str(row.pk), selectors.say_evaluation(row)) for row in evaluations)])

    def filters(self) -> dict[str, Any]:
        """What selectors.list_episodes takes; a value that no choice offers filters nothing, and the page says so."""
        given = {name: value for name, value in self.cleaned_data.items() if value}
        if given.get("true") == "unknown":
            given["unknown"] = bool(given.pop("true"))
        for name in ("detected", "true", "human"):
            if name in given:
                given[name] = given[name] == "yes"
        for name in ("run", "evaluation"):
            if name in given:
                given[name] = int(given[name])
        return given


def rule_field(rule: Rule, **wording: Any) -> forms.Field:
    """A form's field for a rule: its label, help and bounds are the rule's, and so is the sentence of a refusal."""
    common: dict[str, Any] = {"label": rule.label, "help_text": rule.help, "required": False} | wording
    if rule.choices is not None:
        return forms.ChoiceField(choices=list(rule.choices.items()), **common)
    if rule.type is str:
        return forms.ChoiceField(**common)  # what may be chosen says the form
    if rule.type is bool:
        return forms.BooleanField(**common)
    number = forms.IntegerField if rule.type is int else forms.FloatField
    messages = dict.fromkeys(
        ("invalid", "required", "min_value", "max_value"), f"“{rule.label}” must be {rule.wanted}."
    )
    bounds: dict[str, Any] = {"min_value": rule.minimum, "max_value": rule.maximum}  # of the number's own kind
    return number(error_messages=messages, **bounds, **common)


SAME_FAMILY = ("", "the same family")


class RuleFields(forms.Form):
    """A field for each rule of a task."""


RuleFields.declared_fields.update({rule.name: rule_field(rule) for rule in TASK_RULES.values()})


def lines_of(text: str) -> list[str]:
    """Those that say something. A browser ends them in two characters; any other control character is left to be seen
    and refused.
    """
    return [line for line in text.replace("\r\n", "\n").split("\n") if line.strip()]


class WordsForm(forms.Form):
    """The words of a task, as they are typed. What they must be says robots/wordings.py."""

    wordings = forms.CharField(
        label="Wordings",
        required=False,
        max_length=30_000,
        widget=forms.Textarea(attrs={"rows": 3, "placeholder": "put the {object} into the {place}"}),
        help_text="What a station is asked, one wording a line. A {slot} in braces is filled from a list below.",
    )
    slots = forms.CharField(
        label="Slots",
        required=False,
        max_length=30_000,
        widget=forms.Textarea(attrs={"rows": 3, "placeholder": "object: red cup, blue cup\nplace: left tray, bin"}),
        help_text="What may stand in each slot, one slot a line: its name, a colon, its values with commas between.",
    )
    held_out_wordings = forms.CharField(
        label="Held-out wordings",
        required=False,
        max_length=30_000,
        widget=forms.Textarea(attrs={"rows": 2}),
        help_text="One a line. They are kept from practice, to test words that a policy never saw.",
    )

    def clean_wordings(self) -> list[str]:
        return lines_of(self.cleaned_data["wordings"])

    def clean_held_out_wordings(self) -> list[str]:
        return lines_of(self.cleaned_data["held_out_wordings"])

    def clean_slots(self) -> dict[str, list[str]]:
        slots: dict[str, list[str]] = {}
        for line in lines_of(self.cleaned_data["slots"]):
            name, colon, values = line.partition(":")
            name = name.strip().removeprefix("{").removesuffix("}")
            if not colon:
                raise forms.ValidationError(f"“{line[:40]}” has no colon; write it as “object: red cup, blue cup”.")
            if name in slots:
                raise forms.ValidationError(f"The slot {{{name}}} has two lines; put all its values into one.")
            slots[name] = values.split(",")
        return slots

    @staticmethod
    def typed(words: Words) -> dict[str, str]:
        """The words as the form's fields hold them."""
        return {
            "wordings": "\n".join(words.wordings),
            "slots": "\n".join(f"{slot}: {', '.join(values)}" for slot, values in words.slots.items()),
            "held_out_wordings": "\n".join(words.held_out_wordings),
        }


class TaskForm(WordsForm, RuleFields):
    """A new task, of a built-in family or in words, or what may change about one that is there: all but its family and
    its body.
    """

    kind = forms.ChoiceField(
        label="New task",
        required=False,
        initial="family",
        choices=[("family", "of a built-in world"), ("words", "in words, for any body")],
        widget=forms.RadioSelect(attrs={"class": "checks"}),
    )
    embodiment = forms.ChoiceField(
        label="Body", required=False, help_text="Those that stations of this lab said they have."
    )
    family = forms.ChoiceField(
        label="Family of instructions",
        required=False,
        choices=lambda: [(each.name, each.title) for each in TASKS.values()],
    )
    name = forms.CharField(
        label="Name",
        required=False,
        max_length=80,
        help_text="Left empty, it takes the family's name; a task in words needs one.",
    )
    after_failure = rule_field(
        TASK_RULES["after_failure"],
        choices=lambda: [SAME_FAMILY, *((each.name, each.title) for each in TASKS.values())],
    )
    description = forms.CharField(label="Description", required=False, widget=forms.Textarea(attrs={"rows": 2}))
    field_order = ("kind", "family", "embodiment", "name", *WordsForm.base_fields, *TASK_RULES, "description")

    def __init__(self, *args: Any, lab: Lab, task: Task | None = None, **kwargs: Any) -> None:
        if task is not None:
            kwargs["initial"] = {name: getattr(task, name) for name in self.base_fields if hasattr(task, name)}
            kwargs["initial"] |= self.typed(task.words)
        super().__init__(*args, **kwargs)
        families = list(selectors.list_families(lab).values())
        if task is None:
            bodies = selectors.body_names(lab)
            offer(self, "embodiment", [(name, name) for name in bodies])
            if not bodies:
                self.fields["embodiment"].help_text = "No station has said yet what its body is. Connect one first."
        else:
            fixed, what = ("embodiment", "body") if task.wordings else ("family", "family")
            for name in {"kind", "family", "embodiment", *(() if task.wordings else WordsForm.base_fields)} - {fixed}:
                del self.fields[name]
            self.fields[fixed].disabled = True
            self.fields[
                fixed
            ].help_text = f"The {what} of a task can't be changed. For another {what}, make another task."
            if task.wordings:
                offer(self, "embodiment", [(task.embodiment, task.embodiment)])
            families = [each for each in families if each.embodiment == task.embodiment and each.name != task.family]
        offer(self, "after_failure", [SAME_FAMILY, *((each.name, each.title) for each in families)])

    def wishes(self) -> dict[str, Any]:
        """What create_task takes: of the two kinds only what the chosen one has."""
        wishes = dict(self.cleaned_data)
        in_words = wishes.pop("kind") == "words"
        for name in ("family",) if in_words else ("embodiment", *WordsForm.base_fields):
            del wishes[name]
        return wishes

    def changes(self) -> dict[str, Any]:
        """What edit_task takes."""
        return {name: value for name, value in self.cleaned_data.items() if name not in ("family", "embodiment")}


class TimeZoneForm(forms.Form):
    time_zone = forms.ChoiceField(
        label="Your time zone",
        choices=lambda: [(name, name.replace("_", " ")) for name in zone_names()],
        error_messages={"invalid_choice": "Choose a time zone of the list."},
    )


class AccessTokenForm(forms.Form):
    name = forms.CharField(label="Name", max_length=80, help_text="Which program it is for.")
    scopes = forms.MultipleChoiceField(
        label="It may",
        choices=[(name, f"{name}: {what}") for name, what in SCOPES.items()],
        initial=["read"],
        widget=forms.CheckboxSelectMultiple(attrs={"class": "checks sentences"}),
        help_text="Never more than your own role allows at that moment.",
        error_messages={"required": "Choose what it may do."},
    )
    lab = forms.ChoiceField(label="Lab", required=False)
    days = forms.IntegerField(
        label="Days until it expires",
        min_value=1,
        max_value=AccessToken.MOST_DAYS,
        initial=AccessToken.DAYS,
        help_text=f"At most {AccessToken.MOST_DAYS}.",
    )

    def __init__(self, *args: Any, labs: list[Lab], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        offer(self, "lab", [("", "all labs of mine"), *((lab.slug, lab.name) for lab in labs)])


class StationSettingsForm(forms.Form):
    """What a supervisor may set on a station while it works."""

    self_reset_after_s = rule_field(SETTINGS["self_reset_after_s"])
    shuffle_every_s = rule_field(SETTINGS["shuffle_every_s"], required=True)
    record_frames = rule_field(SETTINGS["record_frames"])

    def __init__(self, *args: Any, station: Station, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not station.simulated:
            del self.fields["self_reset_after_s"]


class ContactForm(forms.Form):
    name = forms.CharField(
        label="Name", max_length=80, help_text="What it is called in your lab, such as “night shift on Slack”."
    )
    address = forms.CharField(
        label="Address",
        max_length=500,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="Where messages go, in the form that the library apprise reads: "
        "mailto://user:password@example.com, slack://TokenA/TokenB/TokenC, ntfys://ntfy.sh/topic …",
    )
    severity = forms.ChoiceField(
        label="From severity",
        choices=[(each, each) for each in SEVERITIES],
        initial="error",
        help_text="Told of help requests of this severity and of worse ones.",
    )
    after_s = forms.IntegerField(
        label="After, seconds",
        initial=60,
        min_value=0,
        max_value=3600,
        help_text="How long nobody may have taken it or marked it as seen, until this contact is told.",
    )


class PlanForm(forms.Form):
    touches = forms.FloatField(label="Interventions per robot-hour", min_value=0, max_value=3600)
    seconds = forms.FloatField(label="Seconds per intervention", min_value=0.1, max_value=3600)
    busy = forms.FloatField(label="Share of a person's time, %", min_value=1, max_value=100)


class StationForm(forms.Form):
    name = forms.CharField(label="Name", max_length=80, error_messages={"required": "Give the station a name."})
    simulated = forms.ChoiceField(
        label="Kind",
        required=False,
        initial="on",
        choices=[("on", "simulated"), ("", "a real robot")],
        widget=forms.RadioSelect(attrs={"class": "checks"}),
    )
    embodiment = forms.ChoiceField(
        label="Embodiment",
        required=False,
        choices=lambda: [("", "it says so when it connects"), *((name, name) for name in EMBODIMENTS)],
        help_text="It describes itself to the server. If you choose one here, a station of another can't connect.",
    )
    world = forms.ChoiceField(
        label="World",
        required=False,
        help_text="The simulated world. The embodiment follows from it.",
        choices=lambda: [(name, name) for name in dict.fromkeys(each.world for each in TASKS.values())],
    )
    seed = forms.IntegerField(
        label="Seed",
        initial=1,
        min_value=0,
        max_value=2**31 - 1,
        help_text="Decides how a simulated world is laid out at its resets.",
    )


class MaintenanceForm(forms.Form):
    reason = forms.CharField(
        label="Why", max_length=300, error_messages={"required": "Say why, so that others know why it stands still."}
    )


class InviteForm(forms.Form):
    role = forms.ChoiceField(label="Role", choices=[(role, role) for role in ROLES])
    note = forms.CharField(
        label="For",
        max_length=80,
        required=False,
        help_text="Whom the link is for. Only managers see this, in the list of invitations.",
    )


if TYPE_CHECKING:  # Django's classes of forms take no parameter where they run
    UserForm = UserCreationForm[User]
else:
    UserForm = UserCreationForm


class AccountForm(UserForm):
    """A new person's name and password, checked by the validators of the settings."""

    class Meta(UserCreationForm.Meta):
        fields = ("username",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["username"].label = "User name"
        self.fields["username"].help_text = "Letters, digits and @ . + - _"
        self.fields["password1"].help_text = "At least 10 characters, not digits only, and no common password."
        self.fields["password2"].label, self.fields["password2"].help_text = "Password again", ""


class AuditFilterForm(forms.Form):
    person = forms.ChoiceField(label="Person", required=False)
    station = forms.ChoiceField(label="Station", required=False)
    kind = forms.ChoiceField(
        label="Act", required=False, choices=[ANY, *((each, each.replace("_", " ")) for each in ACTS)]
    )
    since = forms.DateField(label="From", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(label="Until", required=False, widget=forms.DateInput(attrs={"type": "date"}))

    def __init__(self, *args: Any, lab: Lab, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        people, stations = selectors.names_in_acts(lab)
        offer(self, "person", [ANY, *((name, name) for name in people)])
        offer(self, "station", [ANY, *((name, name) for name in stations)])

    def filters(self) -> dict[str, Any]:
        """What selectors.list_acts takes; a value that no choice offers filters nothing, and the page says so."""
        return {name: value for name, value in self.cleaned_data.items() if value}
