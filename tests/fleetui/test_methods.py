"""The dashboard reads the registry of methods: a method that it has never heard of has its forms, pages and jobs."""

import dataclasses
import re
from pathlib import Path

import pytest
from django.conf import settings

from fleetui.fleet.glossary import TERMS
from fleetui.learning import jobs
from fleetui.learning.models import Run
from tests.fleetui.lab import add_checkpoint
from training.methods.registry import BUILT_IN, Curve, Line, Method, methods, register
from training.recipes import Recipe, setting


def new_method(kind, needs, roles):
    fields = [("effort", int, setting(3, "Effort", "How hard it tries.", 1, 9))]
    recipe = dataclasses.make_dataclass("Recipe", fields, bases=(Recipe,), frozen=True, namespace={"KIND": kind})
    curve = Curve("How it goes", "going", "step", "step", "figure", (Line("going", "as it goes"),))
    words = {"title": f"Do {kind}", "words": f"doing {kind}", "summary": "As a test wants it."}
    return Method(recipe, "nowhere:run", needs=needs, roles=roles, curves=(curve,), main_fields=("effort",), **words)


@pytest.fixture
def registered(monkeypatch):
    """Two that no line of the dashboard knows: one distils a run, one practises from demonstrations."""
    known = methods()
    both = (
        new_method("distil", ("parent",), ("policy",)),
        new_method("scratch", ("dataset", "stations"), ("policy", "reward_model")),
    )
    for each in both:
        monkeypatch.setitem(known, each.kind, each)
        del known[each.kind]
        register(each)
    return both


def get(lab, path, **query):
    return lab.as_("researcher").get(f"/labs/{lab.slug}/{path}", query).content.decode()


def test_no_page_and_no_action_asks_for_a_method_by_name():
    places = [Path(settings.BASE_DIR, name) for name in ("fleetui", "templates")]
    files = [file for place in places for file in place.rglob("*") if file.suffix in (".py", ".html", ".js")]
    kinds = "|".join(each.kind for each in BUILT_IN)
    named = re.compile(f"[\"'=]({kinds})[\"'&]")
    allowed = {
        "try_loop.py",  # plays through these two, as a person would
        "selectors.py",  # the success curve's key of the level before practice, which scripts read
    }
    found = {
        file.name
        for file in files
        if "migrations" not in file.parts and "vendor" not in file.parts and named.search(file.read_text())
    }
    assert found <= allowed


def test_terms_of_methods_are_in_the_glossary():
    for each in BUILT_IN:
        assert set(each.terms) | {slug for curve in each.curves for slug in curve.terms} <= set(TERMS)


def test_each_form_asks_for_what_its_method_needs(lab, sft_run, registered):
    page = get(lab, "runs/new")
    for each in methods().values():
        assert f"runs/new?kind={each.kind}" in page and each.summary in page
        form = get(lab, "runs/new", kind=each.kind)
        asked = {name for name in ("dataset", "corrections", "parent", "task", "stations") if f'name="{name}"' in form}
        wanted = {"dataset": {"dataset", "corrections"}, "parent": {"parent"}, "stations": {"task", "stations"}}
        assert asked == set().union(*(wanted[need] for need in each.needs))
    # A link that names what to start from offers those that can; one alone that needs no more is shown at once.
    assert 'data-kind="distil"' in get(lab, "runs/new", parent=sft_run.pk)
    chooser = get(lab, "runs/new", parent=sft_run.pk, any=1)
    found, number = re.findall(r"kind=(\w+)&amp;parent=(\d+)", chooser), str(sft_run.pk)
    practising = [each.kind for each in BUILT_IN if "parent" in each.needs]
    assert found == [(kind, number) for kind in [*practising, "distil"]]


def test_one_without_stations_starts_from_a_run_alone(lab, sft_run, registered):
    refused = lab.call("researcher", "post", "runs", {"kind": "distil"}).json()
    assert refused["problems"] == {"parent": "Choose the run whose policy and reward model to start from."}
    row = lab.call("researcher", "post", "runs", {"kind": "distil", "parent": sft_run.pk, "recipe": {"effort": "5"}})
    run = Run.objects.get(pk=row.json()["id"])
    assert run.recipe == {"kind": "distil", "effort": 5} and not run.practises()
    supervision = jobs.SUPERVISIONS[run.method.practises](run)
    supervision.prepare()
    start = {path.name: path.resolve() for path in supervision.dir.start.iterdir()}
    assert start == {f"{role}.safetensors": sft_run.best_checkpoint(role).file for role in ("policy", "reward_model")}
    assert [path.name for path in supervision.dir.data.iterdir()] == [f"{sft_run.dataset_id}.safetensors"]
    page = get(lab, f"runs/{run.pk}")
    assert "doing distil" in page and "How it goes" in page and '"key": "going"' in page and "Its stations" not in page
    # What it makes is judged by the reward model that it goes back to, and others can start from it.
    add_checkpoint(run, "policy")
    Run.objects.filter(pk=run.pk).update(state="completed")
    assert run.best_checkpoint("reward_model") == sft_run.newest_checkpoint("reward_model")
    assert f'<option value="{run.pk}"' in get(lab, "runs/new", kind="improve")


def test_one_that_practises_from_demonstrations_is_judged_by_its_own_reward_model(lab, dataset, registered):
    body = {"kind": "scratch", "dataset": dataset.pk, "task": lab.task.slug, "stations": ["arm-1"]}
    run = Run.objects.get(pk=lab.call("researcher", "post", "runs", body).json()["id"])
    policy, judge = add_checkpoint(run, "policy"), add_checkpoint(run, "reward_model", threshold=2.5, consecutive=2)
    message = run.policy_message(policy)
    assert (message.checkpoint, message.reward_model) == (str(policy.uuid), str(judge.uuid))
    Run.objects.filter(pk=run.pk).update(state="running")
    run.refresh_from_db()
    assert run.practises() and run.assignments.get().stations.get().slug == "arm-1"
    assert "Its stations" in get(lab, f"runs/{run.pk}")
    body |= {"stations": ["arm-2"], "corrections": dataset.pk}
    assert set(lab.call("researcher", "post", "runs", body).json()["problems"]) == {"corrections"}


def test_runs_of_a_method_that_is_gone_can_be_looked_at_but_not_launched(lab, sft_run):
    Run.objects.filter(pk=sft_run.pk).update(kind="gone", recipe={"kind": "gone", "effort": 1})
    assert "gone" in get(lab, "runs/") and "gone" in get(lab, f"runs/{sft_run.pk}")
    answer = lab.call("researcher", "post", "runs", {"kind": "gone", "dataset": sft_run.dataset_id})
    assert answer.status_code == 422 and "write one of" in answer.json()["problems"]["kind"]
