"""Forms of the fleet's pages. They check what a form can check by itself; rules about rows live in actions/."""

from django import forms
from django.contrib.auth.forms import UserCreationForm

from fleetui.fleet import selectors
from fleetui.fleet.models import ACTS, PURPOSES, ROLES
from robots.embodiments import EMBODIMENTS
from robots.episodes import ENDINGS
from robots.tasks import TASKS

ANY = ("", "any")


class EpisodeFilterForm(forms.Form):
    query = forms.CharField(label="Instruction", required=False)
    purpose = forms.ChoiceField(label="Purpose", required=False, choices=[ANY, *((each, each) for each in PURPOSES)])
    task = forms.ChoiceField(label="Task", required=False)
    station = forms.ChoiceField(label="Station", required=False)
    run = forms.ChoiceField(label="Run", required=False)
    detected = forms.ChoiceField(
        label="Detected", required=False, choices=[ANY, ("yes", "success"), ("no", "no success")]
    )
    true = forms.ChoiceField(label="True", required=False, choices=[ANY, ("yes", "success"), ("no", "no success")])
    ending = forms.ChoiceField(
        label="Ended by", required=False, choices=[ANY, *((each, each.replace("_", " ")) for each in ENDINGS)]
    )
    human = forms.ChoiceField(label="A person acted", required=False, choices=[ANY, ("yes", "yes"), ("no", "no")])

    def __init__(self, *args, lab, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["task"].choices = [ANY, *lab.tasks.values_list("slug", "name")]
        self.fields["station"].choices = [ANY, *lab.stations.order_by("number").values_list("slug", "name")]
        self.fields["run"].choices = [ANY, *((str(pk), name) for pk, name in lab.runs.values_list("pk", "name"))]

    def filters(self) -> dict:
        """What selectors.list_episodes takes; a value that no choice offers filters nothing, and the page says so."""
        given = {name: value for name, value in self.cleaned_data.items() if value}
        for name in ("detected", "true", "human"):
            if name in given:
                given[name] = given[name] == "yes"
        if "run" in given:
            given["run"] = int(given["run"])
        return given


class TaskForm(forms.Form):
    family = forms.ChoiceField(
        label="Family of instructions", choices=lambda: [(each.name, each.title) for each in TASKS.values()]
    )
    name = forms.CharField(label="Name", required=False, max_length=80, help_text="Empty: the family's own.")
    time_limit_steps = forms.IntegerField(
        label="Time limit",
        required=False,
        min_value=1,
        max_value=10_000,
        help_text="Steps of an episode. Empty: the family's own.",
    )
    description = forms.CharField(label="About", required=False, widget=forms.Textarea(attrs={"rows": 2}))


class AssignForm(forms.Form):
    task = forms.ModelChoiceField(label="Task", queryset=None, empty_label=None)
    stations = forms.ModelMultipleChoiceField(
        label="Stations",
        queryset=None,
        widget=forms.CheckboxSelectMultiple(attrs={"class": "checks"}),
        help_text="Those that no other assignment holds.",
        error_messages={"required": "Choose at least one station."},
    )

    def __init__(self, *args, lab, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["task"].queryset = selectors.list_tasks(lab)
        # What the newest demonstrations show is what a policy will know.
        shown = lab.datasets.filter(state="ready").order_by("-id").first()
        self.fields["task"].initial = shown and lab.tasks.filter(family__in=shown.families).first()
        self.fields["stations"].queryset = selectors.free_stations(lab)


class StationSettingsForm(forms.Form):
    """What a supervisor may set on a station while it works."""

    self_reset_after_s = forms.FloatField(
        label="Reset itself after",
        required=False,
        min_value=0,
        max_value=86_400,
        help_text="Seconds that a simulated station waits for a person. Empty: for ever. Counts as a touch.",
    )
    shuffle_every_s = forms.FloatField(
        label="Ask for a shuffle every", min_value=1, max_value=86_400, help_text="Seconds of practice without a reset."
    )

    def __init__(self, *args, station, **kwargs):
        super().__init__(*args, **kwargs)
        if not station.simulated:
            del self.fields["self_reset_after_s"]


class StationForm(forms.Form):
    name = forms.CharField(label="Name", max_length=80, error_messages={"required": "Give the station a name."})
    simulated = forms.ChoiceField(
        label="Kind",
        required=False,
        initial="on",
        choices=[("on", "simulated"), ("", "a real body")],
        widget=forms.RadioSelect(attrs={"class": "checks"}),
    )
    embodiment = forms.ChoiceField(
        label="Body",
        required=False,
        choices=lambda: [("", "it says so when it connects"), *((name, name) for name in EMBODIMENTS)],
        help_text="A station that says another when it connects is turned away.",
    )
    world = forms.ChoiceField(
        label="World",
        required=False,
        help_text="It decides the body too.",
        choices=lambda: [(name, name) for name in dict.fromkeys(each.world for each in TASKS.values())],
    )
    seed = forms.IntegerField(
        label="Seed", initial=1, min_value=0, max_value=2**31 - 1, help_text="Start states of a simulated world."
    )


class MaintenanceForm(forms.Form):
    reason = forms.CharField(
        label="Why", max_length=300, error_messages={"required": "Say why, for those who find it standing."}
    )


class InviteForm(forms.Form):
    role = forms.ChoiceField(label="Role", choices=[(role, role) for role in ROLES])
    note = forms.CharField(
        label="For", max_length=80, required=False, help_text="Whom the link is for, so that you know it in the list."
    )


class AccountForm(UserCreationForm):
    """A new person's name and password, checked by the validators of the settings."""

    class Meta(UserCreationForm.Meta):
        fields = ("username",)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.fields["username"].label = "User name"
        self.fields["username"].help_text = "Letters, digits and @ . + - _"
        self.fields["password1"].help_text = "At least 10 characters, not only digits and no common password."
        self.fields["password2"].label, self.fields["password2"].help_text = "Password again", ""


class AuditFilterForm(forms.Form):
    person = forms.ChoiceField(label="Person", required=False)
    station = forms.ChoiceField(label="Station", required=False)
    kind = forms.ChoiceField(
        label="Act", required=False, choices=[ANY, *((each, each.replace("_", " ")) for each in ACTS)]
    )
    since = forms.DateField(label="From", required=False, widget=forms.DateInput(attrs={"type": "date"}))
    until = forms.DateField(label="Until", required=False, widget=forms.DateInput(attrs={"type": "date"}))

    def __init__(self, *args, lab, **kwargs):
        super().__init__(*args, **kwargs)
        people, stations = selectors.names_in_acts(lab)
        self.fields["person"].choices = [ANY, *((name, name) for name in people)]
        self.fields["station"].choices = [ANY, *((name, name) for name in stations)]

    def filters(self) -> dict:
        """What selectors.list_acts takes; a value that no choice offers filters nothing, and the page says so."""
        return {name: value for name, value in self.cleaned_data.items() if value}
