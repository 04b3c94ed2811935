"""The page of a run and the form that launches one: as the server renders them, before any script."""

import re

import pytest

from fleetui.fleet.models import AssignedStation
from fleetui.learning.models import Run
from tests.fleetui.lab import add_checkpoint
from training.recipes import ImproveRecipe, SFTRecipe


@pytest.fixture
def improved(improve_run):
    """A completed improvement that kept its second policy."""
    add_checkpoint(improve_run, "policy", 1)
    add_checkpoint(improve_run, "policy", 3)
    Run.objects.filter(pk=improve_run.pk).update(state="completed", kept_version=1)
    improve_run.assignments.update(state="completed")
    AssignedStation.objects.update(live=False)
    improve_run.refresh_from_db()
    return improve_run


def get(lab, role, path, **query):
    return lab.as_(role).get(f"/labs/{lab.slug}/{path}", query)


def shown_acts(page):
    """Labels of the buttons and links of the page's head that are not hidden."""
    head = page.partition('<div class="acts">')[2].partition("</div>")[0]
    found = re.findall(r"<(form|a)\b([^>]*)>(.*?)</\1>", head, re.S)
    return [re.sub(r"<[^>]*>", "", inside).strip() for _, said, inside in found if not re.search(r"\shidden\b", said)]


@pytest.mark.parametrize(
    "state, acts",
    [
        ("queued", ["Pause", "Cancel run", "Evaluate on stations"]),
        ("running", ["Pause", "Cancel run", "Evaluate on stations"]),
        ("paused", ["Resume", "Cancel run", "Evaluate on stations"]),
        ("canceling", ["Evaluate on stations"]),
        ("completed", ["Clone", "Sweep from it", "Evaluate on stations", "Practise with it", "Improve it on stations"]),
        ("failed", ["Resume", "Clone", "Sweep from it", "Evaluate on stations"]),
    ],
)
def test_the_server_renders_the_buttons_of_the_runs_state(lab, sft_run, state, acts):
    Run.objects.filter(pk=sft_run.pk).update(state=state)
    page = get(lab, "manager", f"runs/{sft_run.pk}").content.decode()
    assert [act for act in shown_acts(page) if act] == acts
    hidden = re.search(r'id="progress-panel"([^>]*)>', page)[1]
    assert ("hidden" in hidden) == (state == "completed")
    assert "None kept yet" not in page and "success at d ≤ 2.5" in page


def test_a_completed_improvement_offers_what_comes_next(lab, improved):
    page = get(lab, "manager", f"runs/{improved.pk}").content.decode()
    assert shown_acts(page)[-4:] == [
        "Clone",
        "Evaluate on stations",
        "Practise with it",
        "Improve further",
    ]
    assert "Policy v1, kept as the best" in " ".join(page.split())
    assert f"runs/new?parent={improved.pk}" in page and f"tasks/?parent={improved.pk}#assign" in page
    kept = improved.best_checkpoint("policy")
    assert kept.version == 1
    for checkpoint in (kept, improved.best_checkpoint("reward_model")):
        address = f"checkpoints/{checkpoint.pk}.safetensors"
        assert f"/labs/{lab.slug}/{address}" in page
        answer = get(lab, "researcher", address)
        assert b"".join(answer) == checkpoint.file.read_bytes()
        assert f"run-{checkpoint.run_id}-{checkpoint.role}-v{checkpoint.version}" in answer["Content-Disposition"]
    kept.file.unlink()
    assert get(lab, "researcher", f"checkpoints/{kept.pk}.safetensors").status_code == 404


def test_a_runs_weights_are_for_members_only(lab, other_lab, improved):
    kept = improved.best_checkpoint("policy")
    answer = other_lab.as_("manager").get(f"/labs/{lab.slug}/checkpoints/{kept.pk}.safetensors")
    assert answer.status_code == 404


def choices(page, name):
    inside = re.search(rf'<select name="{name}".*?</select>', page, re.S)[0]
    return re.findall(r'<option value="(\d+)"', inside), re.findall(r'<option value="(\d+)" selected', inside)


def test_the_forms_of_researcher_and_manager_agree_on_what_practice_can_start_from(lab, sft_run, improved):
    running = Run.objects.create(lab=lab.row, name="on", kind="improve", state="running", recipe={}, parent=sft_run)
    add_checkpoint(running, "policy")
    wanted = [str(improved.pk), str(sft_run.pk)]
    launch = get(lab, "researcher", "runs/new", kind="improve").content.decode()
    assign = get(lab, "manager", "tasks/").content.decode()
    assert choices(launch, "parent")[0] == choices(assign, "parent")[0] == wanted
    for form in (
        get(lab, "researcher", "runs/new", kind="improve", parent=sft_run.pk).content.decode(),
        get(lab, "manager", "tasks/", parent=sft_run.pk).content.decode(),
    ):
        assert choices(form, "parent")[1] == [str(sft_run.pk)]


@pytest.mark.parametrize("state, said", [("running", "on is still running"), ("failed", "on is failed")])
def test_a_parent_that_is_not_possible_is_named_and_none_is_chosen_instead(lab, sft_run, state, said):
    other = Run.objects.create(lab=lab.row, name="on", kind="improve", state=state, recipe={}, parent=sft_run)
    add_checkpoint(other, "policy")
    for role, path, query in (("researcher", "runs/new", {"kind": "improve"}), ("manager", "tasks/", {})):
        page = get(lab, role, path, parent=other.pk, **query).content.decode()
        assert said in page and choices(page, "parent")[1] == []
        page = get(lab, role, path, parent=99_999, **query).content.decode()
        assert "There is no run 99999 in Lab east" in page and choices(page, "parent")[1] == []
    for call in (
        {"path": "runs", "body": {"kind": "improve", "parent": other.pk, "stations": ["arm-1"], "task": "block2block"}},
        {"path": "assignments", "body": {"task": "block2block", "stations": ["arm-1"], "parent": other.pk}},
    ):
        answer = lab.call("manager", "post", **call)
        assert answer.status_code == 422 and answer.json()["problems"]["parent"].startswith(said)


def test_a_dataset_that_is_not_possible_is_named_and_none_is_chosen_instead(lab, dataset):
    dataset.state = "failed"
    dataset.save()
    page = get(lab, "researcher", "runs/new", kind="sft", dataset=dataset.pk).content.decode()
    assert "demos is failed" in page and choices(page, "dataset")[1] == []
    assert "There is no dataset 999" in get(lab, "researcher", "runs/new", kind="sft", dataset=999).content.decode()


def value_of(page, name):
    return re.search(rf'<input[^>]* name="{name}"(?: value="([^"]*)")?', page)[1] or ""


def test_another_like_it_keeps_the_recipe_and_where_it_started_from(lab, sft_run, improved):
    recipe = ImproveRecipe(updates_per_round=5, learning_rate=0.000123456789, seed=7).to_json()
    Run.objects.filter(pk=improved.pk).update(recipe=recipe)
    page = get(lab, "researcher", f"runs/{improved.pk}").content.decode()
    assert f'href="/labs/east/runs/new?kind=improve&amp;like={improved.pk}"' in page
    form = get(lab, "researcher", "runs/new", kind="improve", like=improved.pk).content.decode()
    assert (value_of(form, "updates_per_round"), value_of(form, "seed")) == ("5", "7")
    assert float(value_of(form, "learning_rate")) == 0.000123456789
    assert choices(form, "parent")[1] == [str(sft_run.pk)] and choices(form, "task")[1] == [str(lab.task.pk)]
    changed = re.findall(r'class="field changed">\s*<label for="id_(\w+)"', form)
    assert sorted(changed) == ["learning_rate", "seed", "updates_per_round"]
    given = {name: value_of(form, name) for name in ImproveRecipe.FIELDS} | {"parent": sft_run.pk, "task": lab.task.pk}
    answer = lab.as_("researcher").post(
        f"/labs/{lab.slug}/runs/new?kind=improve", given | {"stations": [lab.stations[0].pk]}
    )
    assert answer.status_code == 302 and Run.objects.order_by("-pk").first().recipe == recipe
    assert get(lab, "researcher", "runs/new", kind="sft", like=improved.pk).status_code == 404


@pytest.mark.parametrize("written, taken", [("", 0.01), ("0", 0.0), ("0.02", 0.02)])
def test_evaluations_have_the_fence_of_the_task_unless_the_form_says_otherwise(lab, sft_run, written, taken):
    lab.task.edge_margin = 0.01
    lab.task.save()
    form = get(lab, "researcher", "runs/new", kind="improve").content.decode()
    given = {name: value_of(form, name) for name in ImproveRecipe.FIELDS} | {"parent": sft_run.pk, "task": lab.task.pk}
    assert given["edge_margin"] == ""
    answer = lab.as_("researcher").post(
        f"/labs/{lab.slug}/runs/new?kind=improve",
        given | {"edge_margin": written, "stations": [lab.stations[0].pk]},
    )
    assert answer.status_code == 302 and Run.objects.order_by("-pk").first().recipe["edge_margin"] == taken


def test_a_recipe_is_shown_in_the_forms_order_and_what_is_not_the_default_is_marked(lab, sft_run):
    Run.objects.filter(pk=sft_run.pk).update(recipe=SFTRecipe(batch=64).to_json())
    page = get(lab, "researcher", f"runs/{sft_run.pk}").content.decode()
    form = get(lab, "researcher", "runs/new", kind="sft").content.decode()
    shown = re.findall(r"<dt>(.*?)</dt>", page.partition('id="recipe"')[2])
    labels = re.findall(r'<label for="id_(\w+)">(.*?)</label>', form)
    assert shown == [label for name, label in labels if name in SFTRecipe.FIELDS]
    assert re.findall(r'<dd class="changed">(\S+) <span class="muted">\((.*?)\)', page) == [("64", "default: 256")]
