"""What a researcher's program does by the API: what is in force, comparisons, spot checks, sweeps, notes on runs."""

import json

import pytest

from fleetui.fleet.models import Act, Episode
from fleetui.learning.models import Comparison, Promotion, SpotCheck, Sweep
from tests.fleetui.lab import add_checkpoint, as_upload, make_episode


@pytest.fixture
def policy(sft_run):
    return sft_run.checkpoints.get(role="policy")


@pytest.fixture
def store(lab, sft_run, policy):
    """An uploaded attempt that the detector called a success, about which people are asked."""
    lab.task.audit_share = 1.0
    lab.task.save()
    lab.connect()
    judge = sft_run.checkpoints.get(role="reward_model")
    episode = make_episode(
        policy=str(policy.pk), reward_model=str(judge.pk), threshold=2.5, ending="detected_success",
        detected_success=True, true_success=None,
    )  # fmt: skip
    assert lab.upload(as_upload(episode)).status_code == 200
    return Episode.objects.get()


def said(answer, status=200):
    assert answer.status_code == status, answer.content
    return json.loads(answer.content)


def test_a_policy_is_promoted_and_the_promotion_taken_back(lab, sft_run, policy):
    path = f"checkpoints/{policy.pk}"
    assert said(lab.call("viewer", "get", path))["in_force"] is False
    assert said(lab.call("supervisor", "post", f"{path}/promote", {}), 403)["code"] == "denied"
    made = said(lab.call("researcher", "post", f"{path}/promote", {"reason": "it moves"}))
    assert made["checkpoint"] == str(policy.pk) and made["body"] == "language_table" and made["by"] == "east-researcher"
    assert said(lab.call("viewer", "get", path))["in_force"] is True
    assert said(lab.call("researcher", "post", f"{path}/promote", {}), 409)["code"] == "conflict"
    assert said(lab.call("viewer", "get", "checkpoints?only=promoted"))["items"][0]["id"] == str(policy.pk)
    undone = said(lab.call("researcher", "post", f"promotions/{made['id']}/undo"))
    assert undone["checkpoint"] is None
    assert said(lab.call("researcher", "post", f"promotions/{made['id']}/undo"), 409)
    assert [row["id"] for row in said(lab.call("viewer", "get", "promotions"))["items"]] == [undone["id"], made["id"]]
    assert Promotion.objects.count() == 2
    assert {act.source for act in Act.objects.filter(kind="checkpoint_promoted")} == {"API"}


def test_a_threshold_is_published_for_a_reward_model_alone(lab, sft_run, policy):
    body = {"threshold": 9.0, "consecutive": 2, "reason": "it saw too little"}
    assert (
        "no reward model"
        in said(lab.call("researcher", "post", f"checkpoints/{policy.pk}/threshold", body), 422)["detail"]
    )
    judge = sft_run.checkpoints.get(role="reward_model")
    wrong = said(lab.call("researcher", "post", f"checkpoints/{judge.pk}/threshold", body | {"threshold": 0}), 422)
    assert wrong["problems"].keys() == {"threshold"}


def test_two_policies_are_compared_and_the_comparison_canceled(lab, sft_run, policy):
    other = add_checkpoint(sft_run, "policy", 1)
    body = {"first": str(policy.pk), "second": str(other.pk), "task": lab.task.slug, "episodes": 5, "seed": 3}
    assert said(lab.call("supervisor", "post", "comparisons", body), 403)
    made = said(lab.call("researcher", "post", "comparisons", body))
    assert (made["state"], made["episodes"], made["of_first"]) == ("queued", 5, None)
    for wrong, field in (({"second": str(policy.pk)}, "second"), ({"episodes": 0}, "episodes"), ({"seed": -1}, "seed")):
        assert field in said(lab.call("researcher", "post", "comparisons", body | wrong), 422)["problems"]
    assert said(lab.call("researcher", "post", "comparisons", body | {"task": "none"}), 404)
    assert said(lab.call("viewer", "get", "comparisons"))["count"] == 1
    assert said(lab.call("researcher", "delete", f"comparisons/{made['id']}"))["state"] == "canceled"
    assert said(lab.call("viewer", "get", f"comparisons/{made['id']}"))["state"] == "canceled"
    assert Comparison.objects.get().ended_at is not None


def test_a_spot_check_is_answered_once_and_taken_back(lab, store):
    check = SpotCheck.objects.get()
    (row,) = said(lab.call("viewer", "get", "spot_checks"))["items"]
    assert row["id"] == check.pk and row["episode"] == str(store.pk) and row["answer"] is None
    answer = f"spot_checks/{check.pk}/answer"
    assert said(lab.call("researcher", "post", answer, {"success": True}), 403)["code"] == "denied"
    assert said(lab.call("supervisor", "post", answer, {}), 422)
    assert said(lab.call("supervisor", "post", answer, {"success": False}))["answered_by"] == "east-supervisor"
    assert said(lab.call("manager", "post", answer, {"success": True}), 409)
    store.refresh_from_db()
    assert store.true_success is False
    (bound,) = said(lab.call("viewer", "get", "spot_checks/bounds"))["items"]
    assert (bound["n"], bound["wrong"], bound["task"]) == (1, 1, lab.task.slug)
    assert said(lab.call("supervisor", "post", "spot_checks/undo"))["answered_at"] is None
    store.refresh_from_db()
    assert store.true_success is None
    assert said(lab.call("supervisor", "post", "spot_checks/undo"), 409)


def test_a_sweep_is_launched_as_it_is_typed_and_stopped(lab, sft_run):
    body = {"kind": "sft", "dataset": sft_run.dataset_id, "objective": "loss.bc", "runs": 3, "hours": 2.5}
    body |= {"space": {"batch": "16, 32", "learning_rate": "1e-4 to 1e-2, log"}}
    assert said(lab.call("supervisor", "post", "sweeps", body), 403)
    made = said(lab.call("researcher", "post", "sweeps", body))
    assert made["space"]["learning_rate"] == {"low": 1e-4, "high": 1e-2, "log": True}
    assert (made["maximize"], made["runs"], made["hours"], made["state"]) == (False, 3, 2.5, "running")
    wrong = {"batch": "16", "wings": "1, 2"}
    refused = said(lab.call("researcher", "post", "sweeps", body | {"space": wrong}), 422)
    assert refused["problems"].keys() == {"space.batch", "space.wings"}
    assert said(lab.call("researcher", "post", "sweeps", body | {"space": {}}), 422)["problems"].keys() == {"space"}
    assert said(lab.call("viewer", "get", f"sweeps/{made['id']}"))["launched"] == []
    assert said(lab.call("researcher", "post", f"sweeps/{made['id']}/stop"))["state"] == "stopped"
    assert said(lab.call("researcher", "post", f"sweeps/{made['id']}/stop"), 409)
    assert said(lab.call("viewer", "get", "sweeps"))["count"] == Sweep.objects.count() == 1


def test_runs_are_tagged_together_and_noted(lab, sft_run, improve_run):
    body = {"runs": [sft_run.pk, improve_run.pk], "add": ["table", "first"]}
    assert said(lab.call("viewer", "patch", "runs", body), 403)
    assert said(lab.call("supervisor", "patch", "runs", body)) == {"changed": 2}
    body = {"runs": [sft_run.pk], "remove": ["first"]}
    assert said(lab.call("supervisor", "patch", "runs", body)) == {"changed": 1}
    noted = said(lab.call("researcher", "put", f"runs/{sft_run.pk}/notes", {"notes": "  the first  "}))
    assert noted["tags"] == ["table"] and noted["notes"] == "the first"
    assert said(lab.call("viewer", "get", f"runs/{improve_run.pk}"))["tags"] == ["first", "table"]
    assert said(lab.call("researcher", "patch", "runs", {"runs": [999], "add": ["a"]}), 404)
    assert said(lab.call("researcher", "patch", "runs", {"runs": [sft_run.pk]}), 422)
    assert said(lab.call("researcher", "patch", "runs", {"runs": [sft_run.pk], "add": ["x" * 60]}), 422)
