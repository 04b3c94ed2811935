"""Forms of learning's pages. A launch form is made from its method: what it starts from, then its recipe's own fields.
So neither a new setting nor a new method needs code here.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from django import forms
from django.db.models import Exists, Model, OuterRef, Q, QuerySet
from django.forms.boundfield import BoundField
from django.template.defaultfilters import filesizeformat
from django.urls import reverse
from django.utils.html import format_html

from fleetui.fleet.forms import in_words
from fleetui.fleet.models import Lab
from fleetui.learning import pretrained, selectors
from fleetui.learning.actions import scripted_families
from fleetui.learning.models import QUEUES, Dataset, DatasetEpisode, PretrainedModel, Run
from robots.tasks import TASKS
from training.methods.registry import Method
from training.recipes import Field, RecipeError

Row = TypeVar("Row", bound=Model)

NAME_IT = {"required": "Give the dataset a name."}
FAMILIES = [(name, TASKS[name].title) for name in scripted_families()]


def offer_rows(form: forms.Form, name: str, rows: QuerySet[Row], say: Callable[[Row], str] | None = None) -> None:
    """Let this field of the form choose among these rows; `say`: how each is called."""
    field = form.fields[name]
    assert isinstance(field, forms.ModelChoiceField)
    field.queryset = rows
    if say is not None:
        field.label_from_instance = say  # type: ignore[assignment]  # django-stubs knows a method of the class alone


class SettingField(forms.CharField):
    """One setting of a recipe."""

    changed = False  # the form begins with another value than the default


class ModelField(forms.ChoiceField):
    """A setting of a recipe that names a pretrained model of the lab."""

    changed = False

    HELP = {
        "text": "A pretrained model that reads the words. none: words are learned from the demonstrations alone.",
        "vision": "A pretrained model that sees the cameras' pictures. none: seeing is learned from the demonstrations "
        "alone.",
        "vision_language": "A pretrained model that reads pictures and words together, in place of both encoders.",
    }

    def __init__(self, *, lab: Lab, setting: str, **kwargs: Any):
        offered = [(each.sha256, say_model(each)) for each in pretrained.models_for(lab, setting)]
        text = self.HELP[pretrained.SETTINGS[setting]]
        link = format_html('{} <a href="{}">The lab\'s models</a>', text, reverse("models", args=[lab.slug]))
        self.offered = {sha256 for sha256, _ in offered}
        super().__init__(choices=[("", "none"), *offered], required=False, help_text=link, **kwargs)


def say_model(model: PretrainedModel) -> str:
    return f"{model} ({model.architecture}, {filesizeformat(model.size)}, {model.sha256[:8]})"


class LaunchForm(forms.Form):
    """A run's recipe, which itself checks its fields and words their errors. What the run starts from is asked for by a
    form for each need of its method: launch_form() in practice/forms.py puts them together.
    """

    name = forms.CharField(
        label="Name", required=False, max_length=80, help_text="Left empty, it is named after its kind, with a number."
    )
    queue = forms.ChoiceField(label="Machine", required=False)

    def __init__(self, *args: Any, lab: Lab, method: Method, like: Run | None = None, **kwargs: Any):
        """`like`: a run whose sources and recipe the form begins with."""
        super().__init__(*args, **kwargs)
        self.lab, self.method = lab, method
        self.impossible: list[str] = []  # why what a link asks for can't be had: nothing else is chosen in its place
        self.lacking: list[tuple[str, str]] = []  # of the method's needs, with the sentence that says what is missing
        self.shown: Dataset | None = None  # the dataset of what its policy will have been shown, as the form begins
        self.recipe_class = method.recipe
        self.source_names = [*(name for name in self.fields if name != "queue"), "queue"]
        self.offer_machines(like.queue if like else "cpu")
        given = like.recipe if like else {}
        if like:
            self.initial = {**sources_of(like), **self.initial}
        for field in self.recipe_class.FIELDS.values():
            numeric = field.type is not str
            value = given.get(field.name, field.default)
            # What it began with and what is usual: the page's script marks what differs while one types.
            known = {"data-began": spell(value), "data-usual": spell(field.default)}
            numbers = {"inputmode": "decimal", "autocomplete": "off"} if numeric else {}
            if field.name in pretrained.SETTINGS:
                self.offer_models(field, value, known)
                continue
            self.fields[field.name] = entry = SettingField(
                label=field.label,
                help_text=f"{field.help} {explain_range(field)}".strip(),
                required=False,
                initial=spell(value),
                widget=forms.TextInput(attrs=numbers | known),
            )
            entry.changed = value != field.default

    def offer_machines(self, chosen: str) -> None:
        """A machine with a graphics card where a worker of one is there, else the sentence that says so."""
        problem = selectors.queue_problem("gpu")
        field = self.fields["queue"]
        assert isinstance(field, forms.ChoiceField)
        field.choices = [(name, f"with {words}") for name, words in QUEUES.items() if name == "cpu" or not problem]
        field.initial = "cpu" if problem else chosen
        field.help_text = problem or "The built-in methods compute on processors, with or without a card."

    def offer_models(self, field: Field, value: str, known: dict[str, str]) -> None:
        """Those of the lab that can stand for it. Of a run like this one nothing else is chosen in a model's place."""
        self.fields[field.name] = entry = ModelField(
            lab=self.lab, setting=field.name, label=field.label, initial=value, widget=forms.Select(attrs=known)
        )
        entry.changed = value != field.default
        if value and value not in entry.offered:
            name = pretrained.name_of(self.lab, value)
            self.impossible.append(f"{field.label}: {name} is archived or gone; bring it back, or choose another one.")

    def clean_queue(self) -> str:
        return self.cleaned_data["queue"] or "cpu"

    def refuse(self, name: str, problem: str) -> None:
        self.impossible.append(problem)
        self.initial.pop(name)
        field = self.fields[name]
        assert isinstance(field, forms.ModelChoiceField)
        field.empty_label = "choose one"

    def clean(self) -> dict[str, Any]:
        given = {name: self.cleaned_data.get(name, "") for name in self.recipe_class.FIELDS}
        # An empty field asks for the default; text fields may be empty.
        given = {
            name: value for name, value in given.items() if value != "" or self.recipe_class.FIELDS[name].type is str
        }
        try:
            self.recipe = self.recipe_class.from_json(given).to_json()
        except RecipeError as error:
            for name, problem in error.problems.items():
                self.add_error(name if name in self.fields else None, in_words(self, problem))
        return self.cleaned_data

    def typed(self) -> dict[str, Any]:
        """The recipe as it stands in the form, for an estimate: what can't be read is as usual."""
        found = {}
        for name, field in self.recipe_class.FIELDS.items():
            given = self[name].value()
            try:
                value = getattr(self.recipe_class.from_json({name: given}), name) if given not in (None, "") else None
            except RecipeError:
                value = None
            found[name] = field.default if value is None else value
        return found

    def typed_queue(self) -> str:
        """Which machine it asks for, by the same rule."""
        given = self["queue"].value()
        return given if given in QUEUES else "cpu"

    def typed_dataset(self) -> Dataset | None:
        """What it would be trained on, by the same rule."""
        field = self.fields.get("dataset")
        if not isinstance(field, forms.ModelChoiceField):
            return self.shown
        given = str(self["dataset"].value() or "")
        number = int(given) if given.isascii() and given.isdecimal() and len(given) < 18 else 0
        rows = self.lab.datasets.filter(pk=number) if number else field.queryset
        return rows.first() if rows is not None else None

    def sources(self) -> dict[str, Any]:
        """The keywords of launch_run besides the recipe."""
        return {name: self.cleaned_data[name] for name in self.source_names}

    @property
    def source_fields(self) -> list[BoundField]:
        return [self[name] for name in self.source_names]

    @property
    def main_fields(self) -> list[BoundField]:
        return [self[name] for name in self.method.main_fields]

    @property
    def further_fields(self) -> list[BoundField]:
        return [self[name] for name in self.recipe_class.FIELDS if name not in self.method.main_fields]

    @property
    def further_bad(self) -> bool:
        return any(field.errors for field in self.further_fields)

    @property
    def further_changed(self) -> int:
        fields = [each.field for each in self.further_fields]
        return sum(isinstance(each, (SettingField, ModelField)) and each.changed for each in fields)

    @property
    def missing(self) -> str:
        """What has to be there before such a run can be launched, or nothing."""
        return self.lacking[0][1] if self.lacking else ""

    @property
    def lacks_parent(self) -> bool:
        return bool(self.lacking) and self.lacking[0][0] == "parent"

    @property
    def problem_count(self) -> int:
        return sum(len(problems) for problems in self.errors.values())


class DatasetForm(LaunchForm):
    dataset: "forms.ModelChoiceField[Dataset]" = forms.ModelChoiceField(
        label="Dataset", queryset=None, empty_label=None, error_messages={"required": "Choose the dataset to train on."}
    )
    corrections: "forms.ModelChoiceField[Dataset]" = forms.ModelChoiceField(
        label="Corrections",
        queryset=None,
        required=False,
        empty_label="none",
        help_text="A dataset of episodes that people drove, to learn from beside the demonstrations.",
    )

    def __init__(self, *args: Any, lab: Lab, **kwargs: Any):
        super().__init__(*args, lab=lab, **kwargs)
        # What each name shows comes first; older versions can be trained on too.
        ready = lab.datasets.filter(state="ready", archived_at=None).order_by("-current", "-id")
        driven = lab.episodes.filter(dataset__isnull=False).values("dataset")
        corrected = DatasetEpisode.objects.filter(dataset=OuterRef("pk"), purpose="correction")
        offered = {"dataset": ready, "corrections": ready.filter(Q(pk__in=driven) | Exists(corrected))}
        offer_rows(self, "corrections", offered["corrections"], lambda row: f"{row} ({row.episodes})")
        offer_rows(self, "dataset", ready, lambda row: f"{row} ({row.episodes} demonstrations)")
        for name, rows in offered.items():
            asked = self.initial.get(name)
            if asked and not rows.filter(pk=asked).exists():
                found = lab.datasets.filter(pk=asked).first()
                if found is None:
                    problem = f"There is no dataset {asked} in {lab.name}"
                elif found.state != "ready":
                    problem = f"{found} is {found.state}"
                else:
                    problem = f"{found} is archived" if found.archived_at else f"{found} holds no corrections"
                self.refuse(name, f"{problem}; choose one of the list.")
        chosen = self.initial.get("dataset")
        self.shown = (ready.filter(pk=chosen).first() if chosen else None) or ready.first()
        if self.shown is None:
            problem = "No dataset is ready yet: make one on the Datasets page, or wait until it is generated."
            self.lacking.append(("dataset", problem))


class GenerateForm(forms.Form):
    name = forms.CharField(label="Name", max_length=80, error_messages=NAME_IT)
    families = forms.MultipleChoiceField(
        label="Tasks",
        choices=FAMILIES,
        widget=forms.CheckboxSelectMultiple(attrs={"class": "checks"}),
        initial=[FAMILIES[0][0]],
        error_messages={"required": "Choose at least one task."},
    )
    episodes = forms.IntegerField(
        label="Demonstrations",
        initial=100,
        min_value=1,
        help_text="How many the script shall make, at about 50 or more per second.",
        error_messages={"min_value": "Ask for at least one demonstration."},
    )
    seed = forms.IntegerField(label="Seed", initial=1, min_value=0, max_value=2**31 - 1)


class UploadForm(forms.Form):
    name = forms.CharField(label="Name", max_length=80, error_messages=NAME_IT)
    file = forms.FileField(
        label="File",
        help_text="One .safetensors file of demonstrations or corrections, at most 64 MiB.",
        error_messages={"required": "Choose the file to send."},
    )


class ModelForm(forms.Form):
    """A pretrained model that lies in a folder of the server. An archive comes in pieces, by the page's script."""

    name = forms.CharField(
        label="Name",
        max_length=80,
        required=False,
        help_text="Left empty, it is called as its folder or its archive is.",
    )
    place = forms.CharField(
        label="Folder on the server",
        max_length=1000,
        required=False,
        help_text="Its whole path, below a folder that the administrator allows (FLEETUI_IMPORT_ROOTS).",
    )

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **{"auto_id": "model_%s", **kwargs})


def sources_of(run: Run) -> dict[str, int]:
    """What the form of a run like this one begins with; the place that it practised at may be another's now."""
    practised = run.assignments.select_related("task").first()
    found = {"dataset": run.dataset_id, "corrections": run.corrections_id, "parent": run.parent_id}
    if practised and practised.task.archived_at is None:
        found["task"] = practised.task_id
    return {name: value for name, value in found.items() if value}


def recipe_rows(run: Run) -> list[dict[str, Any]]:
    """A run's recipe in the order of its form; a value that is not the default comes with it."""
    fields, main = run.method.recipe.FIELDS, run.method.main_fields
    names = [*main, *(name for name in fields if name not in main)]
    return [
        {
            "label": fields[name].label,
            "value": spell_setting(run, name),
            "default": spell(fields[name].default),
            "changed": run.recipe[name] != fields[name].default,
        }
        for name in names
        if name in run.recipe
    ]


def spell_setting(run: Run, name: str) -> str:
    """A setting of the run's recipe; a pretrained model as people call it."""
    value = run.recipe[name]
    return pretrained.name_of(run.lab, value) if value and name in pretrained.SETTINGS else spell(value)


def spell(value: object) -> str:
    """As a form takes it: short where that is exact."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)


def explain_range(field: Field) -> str:
    if field.type is str or field.minimum is None:
        return ""
    if field.maximum is None:  # a method's own setting may have no upper bound
        return f"{grouped(field.minimum)} or more; usually {grouped(field.default)}."
    return f"{grouped(field.minimum)} to {grouped(field.maximum)}; usually {grouped(field.default)}."


def grouped(value: float) -> str:
    """For reading only: thousands apart by a narrow space."""
    return f"{int(value):,}".replace(",", "\u202f") if value == int(value) else spell(value)
