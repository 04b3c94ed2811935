"""Forms of the pages of datasets. Rules about rows live in the actions; these say what was asked for."""

from datetime import datetime
from typing import Any

from django import forms
from django.utils.datastructures import MultiValueDict

from fleetui.fleet.forms import ANY, offer
from fleetui.fleet.models import Lab
from fleetui.learning import dataset_selectors
from fleetui.learning.forms import NAME_IT
from fleetui.learning.joining import EpisodeFilter
from fleetui.learning.models import DATASET_STATES, Dataset
from robots.episodes import PURPOSES

YES_NO = [ANY, ("yes", "yes"), ("no", "no")]
MOST_CHOSEN = 100_000


class DatasetFilterForm(forms.Form):
    query = forms.CharField(label="Name", required=False)
    tag = forms.ChoiceField(label="Tag", required=False)
    state = forms.ChoiceField(label="State", required=False, choices=[ANY, *((each, each) for each in DATASET_STATES)])
    origin = forms.ChoiceField(
        label="Origin",
        required=False,
        choices=[ANY, *((each, dataset_selectors.ORIGINS[each]) for each in dataset_selectors.CHOICES)],
    )

    def __init__(self, *args: Any, lab: Lab, **kwargs: Any):
        super().__init__(*args, **kwargs)
        offer(self, "tag", [ANY, *((each, each) for each in dataset_selectors.dataset_tags(lab))])

    def filters(self) -> dict[str, str]:
        """What find_datasets() takes; what no choice offers filters nothing, and the page says so."""
        return {name: value for name, value in self.cleaned_data.items() if value}


class EpisodesFilterForm(forms.Form):
    """Which episodes of a version are shown; all of it stands in the address."""

    query = forms.CharField(label="Words", required=False)
    task = forms.ChoiceField(label="Task", required=False)
    purpose = forms.ChoiceField(label="Purpose", required=False, choices=[ANY, *((each, each) for each in PURPOSES)])
    detected = forms.ChoiceField(label="Detected", required=False, choices=YES_NO)
    true = forms.ChoiceField(label="True success", required=False, choices=[*YES_NO, ("unknown", "unknown")])
    flagged = forms.ChoiceField(label="Flagged", required=False, choices=YES_NO)
    unusual = forms.ChoiceField(label="Unusual", required=False, choices=YES_NO)
    tag = forms.ChoiceField(label="Tag", required=False)

    def __init__(self, *args: Any, dataset: Dataset, tags: list[str], **kwargs: Any):
        super().__init__(*args, **{"auto_id": "find_%s", **kwargs})
        offer(self, "task", [ANY, *((each, each) for each in dataset.families)])
        offer(self, "tag", [ANY, *((each, each) for each in tags)])

    def filters(self) -> dict[str, Any]:
        """What list_dataset_episodes() takes, and `unknown`: whether nobody knows the true success."""
        given = {name: value for name, value in self.cleaned_data.items() if value}
        if given.get("true") == "unknown":
            given["unknown"] = bool(given.pop("true"))
        return {
            name: value == "yes" if name in ("detected", "true", "flagged", "unusual") else value
            for name, value in given.items()
        }


class PositionsField(forms.Field):
    """Episodes by their positions, each a checkbox of the same name."""

    widget = forms.MultipleHiddenInput

    def clean(self, value: Any) -> list[int]:
        given = [str(each) for each in (value or [])[:MOST_CHOSEN]]
        if odd := [each for each in given if not (each.isdecimal() and len(each) < 10)]:
            raise forms.ValidationError(f"“{odd[0][:20]}” is no episode; choose those of the list.")
        return [int(each) for each in given]


class EditForm(forms.Form):
    """One act on some episodes, and what it needs; the fields of the others stay empty."""

    ACTS = (
        ("relabel", "say other words"),
        ("trim", "cut beginnings and ends"),
        ("trim_idle", "cut what is idle at both ends"),
        ("flag", "flag"),
        ("unflag", "take the flag away"),
        ("tag", "add a tag"),
        ("untag", "remove a tag"),
        ("weigh", "weigh"),
        ("delete", "leave out"),
    )
    OF_ONE = (("cut", "cut to the marks"), ("note", "write a note"))  # from the page of one episode

    act = forms.ChoiceField(label="What to do", choices=ACTS)
    positions = PositionsField(required=False)
    everything = forms.BooleanField(required=False)
    instruction = forms.CharField(label="Words", required=False, help_text="What the episodes do, as people say it.")
    from_start = forms.IntegerField(
        label="Steps off the beginning", required=False, min_value=0, max_value=10**6, initial=0
    )
    from_end = forms.IntegerField(label="Steps off the end", required=False, min_value=0, max_value=10**6, initial=0)
    tag = forms.CharField(label="Tag", required=False)
    weight = forms.FloatField(
        label="Weight", required=False, initial=1, help_text="As so many episodes each counts in learning."
    )
    note = forms.CharField(label="Note", required=False, widget=forms.Textarea(attrs={"rows": 2}))
    start = forms.IntegerField(label="First step", required=False, min_value=0, max_value=10**9)
    stop = forms.IntegerField(label="One after the last", required=False, min_value=0, max_value=10**9)
    flagged = forms.BooleanField(label="Flagged", required=False)
    at = forms.IntegerField(required=False, min_value=0, max_value=10**9, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if self.is_bound:
            offer(self, "act", [*self.ACTS, *self.OF_ONE])

    @property
    def fields_of_acts(self) -> list[forms.BoundField]:
        return [self[name] for name in ("instruction", "from_start", "from_end", "tag", "weight", "note")]

    @property
    def chosen(self) -> set[str]:
        """The positions as they were sent, so that a refused form keeps its selection."""
        return set(self.data.getlist("positions")) if isinstance(self.data, MultiValueDict) else set()


class SplitForm(forms.Form):
    by = forms.ChoiceField(
        label="Split by",
        choices=[("share", "a share, drawn at random"), ("task", "task"), ("tag", "tag"), ("step", "a step of each")],
    )
    share = forms.FloatField(label="Share of the first part", required=False, initial=0.8)
    seed = forms.IntegerField(label="Seed", required=False, initial=0, min_value=0, max_value=2**31 - 1)
    tag = forms.CharField(label="Tag", required=False)
    step = forms.IntegerField(label="Step", required=False, min_value=1, max_value=10**6)

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"auto_id": "split_%s", **kwargs})

    def wishes(self) -> dict[str, Any]:
        return {name: value for name, value in self.cleaned_data.items() if value not in (None, "")}


class MergeForm(forms.Form):
    others: "forms.ModelMultipleChoiceField[Dataset]" = forms.ModelMultipleChoiceField(
        label="Merge with",
        queryset=Dataset.objects.none(),
        widget=forms.CheckboxSelectMultiple(attrs={"class": "checks wide"}),
        error_messages={"required": "Choose at least one other dataset."},
    )
    name = forms.CharField(label="Name of the new dataset", max_length=80, error_messages=NAME_IT)

    def __init__(self, *args: Any, dataset: Dataset, **kwargs: Any):
        super().__init__(*args, **{"auto_id": "merge_%s", **kwargs})
        rows = dataset.lab.datasets.filter(state="ready", archived_at=None, current=True, listed=True)
        field = self.fields["others"]
        assert isinstance(field, forms.ModelMultipleChoiceField)
        field.queryset = rows.filter(body__name=dataset.body.get("name")).exclude(name=dataset.name).order_by("name")


class ImportForm(forms.Form):
    name = forms.CharField(label="Name", max_length=80, error_messages=NAME_IT)
    place = forms.CharField(
        label="Folder on the server",
        max_length=1000,
        required=False,
        help_text="Its whole path, below a folder that the administrator allows (FLEETUI_IMPORT_ROOTS).",
    )
    picture_width = forms.IntegerField(
        label="Make pictures this wide",
        required=False,
        min_value=16,
        max_value=4096,
        help_text="Pixels; left empty, they stay as they are. Policies learn faster from small ones.",
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"auto_id": "import_%s", **kwargs})


class GatherForm(forms.Form):
    """A dataset of the stored episodes that match."""

    name = forms.CharField(label="Name of the dataset", max_length=80, error_messages=NAME_IT)
    run = forms.ChoiceField(label="Run", required=False)
    stations = forms.MultipleChoiceField(
        label="Stations", required=False, widget=forms.CheckboxSelectMultiple(attrs={"class": "checks"})
    )
    tasks = forms.MultipleChoiceField(
        label="Tasks", required=False, widget=forms.CheckboxSelectMultiple(attrs={"class": "checks"})
    )
    purpose = forms.ChoiceField(
        label="Purpose",
        required=False,
        choices=[ANY, ("practice", "practice"), ("correction", "corrections")],
        help_text="Episodes of evaluations are never taken.",
    )
    detected = forms.ChoiceField(label="Detected success", required=False, choices=YES_NO)
    true = forms.ChoiceField(
        label="True success",
        required=False,
        choices=YES_NO,
        help_text="As a person said it: what a simulator knows is never learned from.",
    )
    audited = forms.ChoiceField(label="Audited by a person", required=False, choices=YES_NO)
    human = forms.ChoiceField(label="Driven by a person in parts", required=False, choices=YES_NO)
    d_fell = forms.BooleanField(
        label="Steps to go fell from frame to frame", required=False, help_text="The file of each is looked at."
    )
    since = forms.DateTimeField(
        label="Begun at or after", required=False, widget=forms.DateTimeInput(attrs={"type": "datetime-local"})
    )
    until = forms.DateTimeField(
        label="Begun before", required=False, widget=forms.DateTimeInput(attrs={"type": "datetime-local"})
    )
    weight = forms.FloatField(label="Weight", initial=1, help_text="As so many episodes each counts in learning.")
    correction_weight = forms.FloatField(
        label="Weight of corrections", initial=1, help_text="The same, of what people drove."
    )

    FINDS = ("run", "purpose", "detected", "true", "audited", "human", "since", "until", "d_fell", "stations", "tasks")

    def __init__(self, *args: Any, lab: Lab, **kwargs: Any):
        super().__init__(*args, **kwargs)
        offer(self, "run", [ANY, *((str(pk), name) for pk, name in lab.runs.order_by("-pk").values_list("pk", "name"))])
        offer(self, "stations", lab.stations.order_by("number").values_list("slug", "name"))
        offer(self, "tasks", lab.tasks.order_by("name").values_list("slug", "name"))

    @property
    def find_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in self.FINDS]

    @property
    def make_fields(self) -> list[forms.BoundField]:
        return [self[name] for name in ("name", "weight", "correction_weight")]

    def wanted(self) -> EpisodeFilter:
        """What must hold; of the fields that are wrong nothing."""
        given = self.cleaned_data

        def said(name: str) -> bool | None:
            return {"yes": True, "no": False}.get(given.get(name) or "")

        def moment(name: str) -> datetime | None:
            found: datetime | None = given.get(name)
            return found

        return EpisodeFilter(
            run=int(given["run"]) if given.get("run") else None,
            stations=tuple(given.get("stations") or ()),
            tasks=tuple(given.get("tasks") or ()),
            purpose=given.get("purpose") or "",
            detected=said("detected"),
            true=said("true"),
            audited=said("audited"),
            human=said("human"),
            d_fell=bool(given.get("d_fell")),
            since=moment("since"),
            until=moment("until"),
        )
