"""Forms of the fleet's pages. They check what a form can check by itself; rules about rows live in actions/."""

from django import forms

from fleetui.fleet import selectors
from fleetui.fleet.models import PURPOSES
from robots.attention import SEVERITIES
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


class ContactForm(forms.Form):
    name = forms.CharField(label="Name", max_length=80, help_text="As the lab calls it: “night shift on Slack”.")
    address = forms.CharField(
        label="Address",
        max_length=500,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        help_text="As apprise reads it: mailto://user:password@example.com, slack://TokenA/TokenB/TokenC, "
        "ntfys://ntfy.sh/topic …",
    )
    severity = forms.ChoiceField(
        label="From",
        choices=[(each, each) for each in SEVERITIES],
        initial="error",
        help_text="This and anything worse.",
    )
    after_s = forms.IntegerField(
        label="After", initial=60, min_value=0, max_value=3600, help_text="Seconds without anyone taking it up."
    )


class PlanForm(forms.Form):
    touches = forms.FloatField(label="Touches a robot-hour", min_value=0, max_value=3600)
    seconds = forms.FloatField(label="Seconds a touch", min_value=0.1, max_value=3600)
    busy = forms.FloatField(label="Of their time, %", min_value=1, max_value=100)


class StationForm(forms.Form):
    name = forms.CharField(label="Name", max_length=80, error_messages={"required": "Give the station a name."})
    simulated = forms.BooleanField(
        label="Simulated",
        required=False,
        initial=True,
        help_text="Leave empty for a real body; it says what it is when it connects.",
    )
    world = forms.ChoiceField(
        label="World",
        required=False,
        choices=lambda: [(name, name) for name in dict.fromkeys(each.world for each in TASKS.values())],
    )
    seed = forms.IntegerField(
        label="Seed", initial=1, min_value=0, max_value=2**31 - 1, help_text="Start states of a simulated world."
    )
