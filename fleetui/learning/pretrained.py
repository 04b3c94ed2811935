"""The lab's pretrained models: which settings of a recipe name one, who stands on one, and the store of their files.

A model's row says which lab may use it. Its files lie in DATA/models/SHA256/, once for all labs
(training/model_folders.py); runs and stations get them from there.
"""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q, QuerySet

from fleetui.fleet.models import Lab
from fleetui.learning.models import DataFolder, Import, PretrainedModel, Run, Sweep
from robots.embodiments import Embodiment
from robots.protocol import SHA256
from training.model_folders import STORE

# Setting of a recipe (training/recipes.py) -> the kind of model that it names, by its sha256
SETTINGS = {"text_encoder": "text", "vision_encoder": "vision", "vision_language": "vision_language"}
KINDS = {"text": "text encoder", "vision": "vision encoder", "vision_language": "vision-language model"}
MOST_RUNS = 5  # of those that use a model, that are named


# Which ones


def list_models(lab: Lab, archived: bool = False) -> QuerySet[PretrainedModel]:
    """The newest first."""
    return lab.pretrained_models.filter(archived_at__isnull=not archived).select_related("created_by").order_by("-id")


def models_for(lab: Lab, setting: str) -> list[PretrainedModel]:
    """Those that a new run may name in this setting of its recipe, by name."""
    return [each for each in list_models(lab).order_by("name", "pk") if SETTINGS[setting] in each.serves]


def model_row(row: PretrainedModel) -> dict[str, Any]:
    """As the API answers it."""
    return {
        "id": row.pk,
        "sha256": row.sha256,
        "name": row.name,
        "architecture": row.architecture,
        "kind": row.kind,
        "serves": row.serves,
        "licence": row.licence,
        "size": row.size,
        "files": row.files,
        "by": row.created_by.get_username() if row.created_by else "",
        "created_at": row.created_at.isoformat(),
        "archived_at": row.archived_at.isoformat() if row.archived_at else None,
    }


# Who names them


def named_in(recipe: Mapping[str, Any]) -> dict[str, str]:
    """Setting -> what it names, of those settings that name a model."""
    return {setting: str(recipe[setting]).strip() for setting in SETTINGS if str(recipe.get(setting) or "").strip()}


def recipe_problems(lab: Lab, recipe: Mapping[str, Any]) -> dict[str, str]:
    """Why the lab can't run this recipe, by the setting. A path of the server is none of its models."""
    named = named_in(recipe)
    known = {each.sha256: each for each in lab.pretrained_models.filter(sha256__in=set(named.values()))}
    problems = {}
    for setting, sha256 in named.items():
        model = known.get(sha256)
        if model is None:
            problems[setting] = (
                f"{lab.name} has no pretrained model {sha256[:12]!r}; add it on the page Models, then name it by its "
                "sha256."
            )
        elif model.archived_at is not None:
            problems[setting] = f"The model {model} is archived; bring it back first, or choose another one."
        elif SETTINGS[setting] not in model.serves:
            problems[setting] = f"{model} is no {KINDS[SETTINGS[setting]]}, but a {KINDS[model.kind]}."
        elif not model.folder.is_dir():
            problems[setting] = f"The files of {model} are gone; restore {STORE}/{sha256} in the data folder."
    return problems


def sight_problems(lab: Lab, recipe: Mapping[str, Any], body: dict[str, Any]) -> dict[str, str]:
    """Why a policy of this body can't see by the models that the recipe names, by the setting. The training would
    refuse it too, but only once it begins.
    """
    seeing = {setting: sha256 for setting, sha256 in named_in(recipe).items() if SETTINGS[setting] != "text"}
    if not seeing or not body:
        return {}
    if Embodiment.from_json(body).suits_vision_models and recipe.get("observe") != "state":
        return {}
    told = f"{body['name']} has no camera of its own" if recipe.get("observe") != "state" else "Its state has no camera"
    return {
        setting: f"{told} for {name_of(lab, sha256)} to see by; leave that model out."
        for setting, sha256 in seeing.items()
    }


def naming(sha256: str) -> Q:
    """Of rows with a recipe: those whose recipe names the model."""
    found = Q()
    for setting in SETTINGS:
        found |= Q(**{f"recipe__{setting}": sha256})
    return found


def runs_on(model: PretrainedModel) -> QuerySet[Run]:
    """The runs of its lab that name it, or whose checkpoints stand on it, the newest first."""
    stands = Q(checkpoints__pretrained__contains=model.sha256)
    return model.lab.runs.filter(naming(model.sha256) | stands).distinct().order_by("-id")


def sweeps_on(model: PretrainedModel) -> QuerySet[Sweep]:
    """The sweeps that name it, in what their runs have in common or in what they try."""
    tried = Q()
    for setting in SETTINGS:
        tried |= Q(**{f"space__{setting}__choices__contains": model.sha256})
    return model.lab.sweeps.filter(naming(model.sha256) | tried)


def name_of(lab: Lab, sha256: str) -> str:
    """As people call it; where nobody knows it, the beginning of its sum."""
    found = lab.pretrained_models.filter(sha256=sha256).first()
    return found.name if found else sha256[:12]


# The store


def folder_of(sha256: str) -> Path:
    assert SHA256.fullmatch(sha256), sha256  # nothing else is ever joined to a path
    return settings.DATA / STORE / sha256


def lock_store() -> None:
    """Until the transaction ends nobody else puts files there or takes some away."""
    DataFolder.objects.select_for_update().first()


def put_into_store(folder: Path, names: Iterable[str], sha256: str) -> None:
    """These files of a folder of an import, which is left without them, are the model of this sum. Done again after a
    process died at it, it goes on.
    """
    target, coming = folder_of(sha256), folder.with_name(f"{folder.name}.model")
    if target.is_dir():
        return  # another lab's, or put there by a job that died then
    for name in names:
        source, place = folder / name, coming / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if source.exists():
            os.replace(source, place)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(coming, target)


@transaction.atomic
def drop_unused(sha256: str) -> None:
    """Its files go, where no lab has it any more and none is about to."""
    lock_store()
    folder = folder_of(sha256)
    coming = Import.objects.filter(of="model", state="importing")
    if PretrainedModel.objects.filter(sha256=sha256).exists() or coming.exists() or not folder.is_dir():
        return
    gone = folder.with_name(f".{sha256}.gone")
    shutil.rmtree(gone, ignore_errors=True)
    os.replace(folder, gone)  # at once: half a model must not have the name of a whole one
    shutil.rmtree(gone, ignore_errors=True)


def sweep_store() -> None:
    """What a process that died left in the store."""
    for folder in (settings.DATA / STORE).glob("*"):
        if SHA256.fullmatch(folder.name):
            drop_unused(folder.name)
        elif folder.name.endswith(".gone"):
            shutil.rmtree(folder, ignore_errors=True)
