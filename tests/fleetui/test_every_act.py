"""Every act is in the audit log: by the list of actions that there is, so a new one without its entry fails here."""

import ast
import importlib
import inspect
import json
import pkgutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.utils import timezone

from fleetui import access
from fleetui.fleet import actions as fleet_actions
from fleetui.fleet.actions import alarms, attention, labs, maintenance, people, tokens
from fleetui.fleet.models import ACTS, Act, Alarm, Episode, Membership, Station
from fleetui.learning import actions as learning
from fleetui.learning import (
    archive,
    comparisons,
    curves,
    datasets,
    joining,
    promoting,
    run_notes,
    spot_checks,
    sweeps,
    transfers,
)
from fleetui.learning.models import Dataset, Run, SpotCheck
from fleetui.practice import actions as practice_actions
from fleetui.practice.actions import assignments, launching
from robots.attention import need_of
from robots.control import ACTS as COMMANDS
from robots.rules import TASK_RULES
from tests.conftest import ROOT
from tests.fleetui.lab import add_model, as_upload, make_episode, write_model
from training.recipes import SFTRecipe

# Actions that take a user and are no act of one, each with the reason.
NO_ACTS = {
    "receive_piece": "is the next bytes of an upload, which begin_upload records",
    "do_once": "is how a call that a program says twice is done once",
    "add_touch": "is the touch of a command or a stop, which writes",
    "create_run": "is a part of a launch, which enqueue_run records",
    "grant_lease": "is a part of an override, which writes",
    "latch_stop": "is a part of a stop, which writes",
    "note_seen": "says when somebody was last here",
    "note_time_zone": "is what a browser says of its person",
    "renew_control": "is the heartbeat of an override, which is in the log itself",
    "record_act": "is how the others write",
    "record_command": "is how a command writes",
    "set_time_zone": "is one's own, and changes what one sees alone",
}

# Actions of a user that take no role, each with the reason.
ONES_OWN = {
    "accept_invitation": "is of whoever holds the link",
    "change_password": "is one's own",
    "make_access_token": "is one's own",
    "record_account": "writes down that somebody came or went",
    "revoke_access_token": "is one's own",
}


def action_modules():
    modules = [
        learning,
        archive,
        comparisons,
        curves,
        datasets,
        joining,
        promoting,
        run_notes,
        spot_checks,
        sweeps,
        transfers,
    ]
    for package in (fleet_actions, practice_actions):
        names = [each.name for each in pkgutil.iter_modules(package.__path__, f"{package.__name__}.")]
        modules += [importlib.import_module(name) for name in names]
    return modules


def exported():
    """Each action that is done for a user, by its name."""
    found = {}
    for module in action_modules():
        found |= {
            name: each for name, each in vars(module).items() if getattr(each, "__module__", "") == module.__name__
        }
    return {
        name: each
        for name, each in found.items()
        if inspect.isfunction(inspect.unwrap(each))
        and not name.startswith("_")
        and "user" in inspect.signature(each).parameters
        and name not in NO_ACTS
    }


class Scene:
    """What the calls below need; `user` does them all."""

    def __init__(self, lab, sft_run, dataset):
        self.lab, self.row, self.user = lab, lab.row, lab.users["manager"]
        self.sft, self.dataset, self.station, self.task = sft_run, dataset, lab.stations[0], lab.task
        lab.connect()

    def member(self, role="viewer"):
        return Membership.objects.get(lab=self.row, user=self.lab.users[role])

    def assignment(self, **wishes):
        given = {"lab": self.row, "task": self.task, "user": self.user, "stations": [self.station]} | wishes
        return assignments.assign_task(**given)

    def run(self, state="queued"):
        run = launching.launch_run(
            lab=self.row, user=self.user, kind="sft", recipe=SFTRecipe().to_json(), dataset=self.dataset
        )
        Run.objects.filter(pk=run.pk).update(state=state)
        run.refresh_from_db()
        return run

    def help(self, taken=False):
        request = attention.note_need(
            station=self.station, need=need_of(state="stopped", reason="by a person", state_for_s=1.0)
        )
        return attention.take_help(request=request, user=self.user) if taken else request

    def episode(self, **fields):
        recorded = make_episode(**fields)
        self.lab.upload(as_upload(recorded))
        return Episode.objects.get(uuid=recorded.uuid)

    def asked_episode(self):
        episode = self.episode()
        episode.asks = "useful"
        episode.save()
        return episode

    def invitation(self):
        return people.invite_member(lab=self.row, user=self.user, role="viewer")[0]

    def access_token(self):
        given = {"name": "script", "scopes": ["read"], "lab": None, "days": 1}
        return tokens.make_access_token(user=self.user, **given)[0]

    def contact(self):
        given = {"name": "night", "address": "json://localhost:1/hook", "severity": "error", "after_s": 0}
        return attention.add_contact(lab=self.row, user=self.user, **given)

    def edited(self):
        return datasets.note_dataset(dataset=self.dataset, user=self.user, notes="first")

    def copied(self):
        row = learning.upload_dataset(lab=self.row, user=self.user, name="another", body=an_upload())
        return [self.dataset, row]

    def upload(self):
        return transfers.begin_upload(lab=self.row, user=self.user, name="coming", file_name="a.zip", size=5)

    def asking(self):
        row = self.upload()
        asked = [{"code": "cameras", "text": "Without?", "answer": None}]
        type(row).objects.filter(pk=row.pk).update(state="asking", questions=asked)
        row.refresh_from_db()
        return row

    def practised(self):
        self.episode()
        return joining.EpisodeFilter(purpose="practice")

    def importable(self):
        place = settings.DATA / "theirs"
        place.mkdir()
        settings.IMPORT_ROOTS = [settings.DATA]
        return str(place)

    def model(self):
        return add_model(self.lab, write_model(Path(self.importable()) / "small-bert"))

    def archived(self):
        labs.archive_task(task=self.task, user=self.user)
        return self.task

    def stranger(self):
        people.remove_member(member=self.member(), user=self.user)
        return self.lab.users["viewer"]

    def alarm(self):
        alarms.note_drift(station=self.station, policy_id=self.policy().pk, reason="d has drifted")
        return Alarm.objects.get()

    def policy(self):
        return self.sft.checkpoints.get(role="policy")

    def reward_model(self):
        """With a file that says what it is."""
        found = self.sft.checkpoints.get(role="reward_model")
        described = json.dumps({"id": str(found.pk), "version": 0, "threshold": 2.5, "consecutive": 2})
        header = json.dumps({"__metadata__": {"description": described}}).encode()
        found.file.write_bytes(len(header).to_bytes(8, "little") + header)
        return found

    def promotion(self):
        return promoting.promote_checkpoint(checkpoint=self.policy(), user=self.user)

    def comparison(self):
        given = {"first": self.policy(), "second": None, "task": self.task, "episodes": 5, "seed": 1}
        return comparisons.ask_comparison(lab=self.row, user=self.user, **given)

    def spot_check(self, answered=False):
        labs.edit_task(task=self.task, user=self.user, audit_share=1.0)
        policy, judge = self.policy(), self.reward_model()
        fields = {"ending": "detected_success", "detected_success": True, "true_success": None, "threshold": 2.5}
        self.episode(policy=str(policy.pk), reward_model=str(judge.pk), **fields)
        check = SpotCheck.objects.get()
        if answered:
            spot_checks.answer_spot_check(check=check, user=self.user, answer=True)
        return check

    def kept(self):
        maintenance.begin_maintenance(station=self.station, user=self.user, reason="a new gripper")
        return self.station

    def shelved(self, row):
        """Archived already."""
        type(row).objects.filter(pk=row.pk).update(archived_at=timezone.now())
        row.refresh_from_db()
        return row

    def view(self):
        return run_notes.save_view(lab=self.row, user=self.user, name="mine", query="q=sft")

    def search(self):
        given = {"kind": "sft", "recipe": {}, "space": {"batch": {"choices": [2, 4]}}, "objective": "loss.bc"}
        return {"lab": self.row, "dataset": self.dataset} | given

    def stopped(self):
        Station.objects.filter(pk=self.station.pk).update(stop_latched=True)
        return self.station

    def paused(self):
        Station.objects.filter(pk=self.station.pk).update(paused=True)
        return self.station


def an_upload():
    return as_upload(make_episode(purpose="demonstration", actors=np.full(10, 2, np.uint8)))


def daily(scene):
    return scene.assignment(repeats="daily", not_before=timezone.now() + timedelta(hours=1))


# How each is called: what is made before (not counted), and what it is given beside the user.
CALLS = {
    "accept_invitation": lambda s: {"invitation": s.invitation(), "user": s.stranger()},
    "acknowledge_help": lambda s: {"request": s.help()},
    "add_contact": lambda s: {
        "lab": s.row,
        "name": "n",
        "address": "json://localhost:1/x",
        "severity": "error",
        "after_s": 0,
    },
    "add_correction": lambda s: {
        "lab": s.row,
        "episode": s.episode(purpose="correction", actors=np.ones(10, np.uint8)),
    },
    "answer_import": lambda s: {"row": s.asking(), "answers": {"cameras": True}},
    "answer_spot_check": lambda s: {"check": s.spot_check(), "answer": False},
    "archive_dataset": lambda s: {"dataset": s.dataset},
    "archive_model": lambda s: {"model": s.model()},
    "archive_run": lambda s: {"run": s.sft},
    "archive_station": lambda s: {"station": s.lab.add_station("Arm 8")},
    "archive_task": lambda s: {"task": s.task},
    "ask_comparison": lambda s: {
        "lab": s.row,
        "first": s.policy(),
        "second": None,
        "task": s.task,
        "episodes": 5,
        "seed": 1,
    },
    "assign_task": lambda s: {"lab": s.row, "task": s.task, "stations": [s.station]},
    "begin_upload": lambda s: {"lab": s.row, "name": "coming", "file_name": "a.zip", "size": 5},
    "begin_maintenance": lambda s: {"station": s.station, "reason": "a new gripper"},
    "cancel_assignment": lambda s: {"assignment": s.assignment()},
    "cancel_import": lambda s: {"row": s.upload()},
    "cancel_comparison": lambda s: {"comparison": s.comparison()},
    "cancel_run": lambda s: {"run": s.run()},
    "change_password": lambda s: {"password": "another one 7"},
    "change_role": lambda s: {"member": s.member(), "role": "researcher"},
    "clear_stops": lambda s: {"lab_slug": s.row.slug, "stations": [s.stopped().slug], "reason": "it is clear"},
    "close_alarm": lambda s: {"alarm": s.alarm(), "outcome": "a camera was moved"},
    "close_help": lambda s: {"request": s.help(), "outcome": "looked at it"},
    "command_station": lambda s: {"lab_slug": s.row.slug, "station_slug": s.station.slug, "name": "pause"},
    "create_station": lambda s: {"lab": s.row, "name": "Arm 9"},
    "create_task": lambda s: {"lab": s.row, "family": "block_to_place"},
    "delete_episodes": lambda s: {"dataset": s.dataset, "positions": [0]},
    "delete_export": lambda s: {"export": transfers.export_dataset(dataset=s.dataset, user=s.user)},
    "delete_dataset": lambda s: {"dataset": s.shelved(Dataset.objects.create(lab=s.row, name="old", state="failed"))},
    "delete_model": lambda s: {"model": s.shelved(s.model())},
    "delete_run": lambda s: {"run": s.shelved(s.run(state="canceled"))},
    "delete_station": lambda s: {"station": s.shelved(s.lab.add_station("Arm 8"))},
    "delete_view": lambda s: {"view": s.view()},
    "edit_assignment": lambda s: {"assignment": s.assignment(), "priority": "high"},
    "edit_task": lambda s: {"task": s.task, "name": "Another"} | limits(s.task),
    "end_maintenance": lambda s: {"station": s.kept()},
    "enqueue_run": lambda s: {"run": s.run()},
    "export_dataset": lambda s: {"dataset": s.dataset},
    "extend_corrections": lambda s: {
        "lab": s.row,
        "known": None,
        "episode": s.episode(purpose="correction", actors=np.ones(10, np.uint8)),
    },
    "flag_episodes": lambda s: {"dataset": s.dataset, "positions": [0]},
    "undo_edit": lambda s: {"dataset": s.edited()},
    "import_folder": lambda s: {"lab": s.row, "name": "theirs", "place": s.importable()},
    "make_current": lambda s: {"dataset": s.edited().parent},
    "make_dataset_from_episodes": lambda s: {"lab": s.row, "name": "practised", "wanted": s.practised()},
    "merge_datasets": lambda s: {"lab": s.row, "datasets": s.copied(), "name": "both"},
    "note_dataset": lambda s: {"dataset": s.dataset, "notes": "a note"},
    "relabel_episodes": lambda s: {"dataset": s.dataset, "positions": [0], "instruction": "other words"},
    "split_dataset": lambda s: {"dataset": s.dataset, "by": "share", "share": 0.5},
    "tag_dataset": lambda s: {"dataset": s.dataset, "tags": ["good"]},
    "tag_episodes": lambda s: {"dataset": s.dataset, "positions": [0], "add": ["good"]},
    "trim_episodes": lambda s: {"dataset": s.dataset, "cuts": {0: (1, 9)}},
    "weigh_episodes": lambda s: {"dataset": s.dataset, "positions": [0], "weight": 2.0},
    "generate_dataset": lambda s: {"lab": s.row, "name": "more", "families": ["block2block"], "episodes": 5},
    "go_back": lambda s: {"promotion": s.promotion()},
    "invite_member": lambda s: {"lab": s.row, "role": "viewer"},
    "answer_question": lambda s: {"episode": s.asked_episode(), "value": True},
    "label_episode": lambda s: {"episode": s.episode(true_success=None), "true_success": True},
    "launch_sweep": lambda s: s.search(),
    "note_run": lambda s: {"run": s.sft, "notes": "It shook."},
    "launch_run": lambda s: {"lab": s.row, "kind": "sft", "recipe": SFTRecipe().to_json(), "dataset": s.dataset},
    "make_access_token": lambda s: {"name": "n", "scopes": ["read"], "lab": s.row, "days": 1},
    "pause_run": lambda s: {"run": s.run("running")},
    "promote_checkpoint": lambda s: {"checkpoint": s.policy()},
    "publish_threshold": lambda s: {
        "checkpoint": s.reward_model(),
        "threshold": 3.5,
        "consecutive": 2,
        "reason": "too strict",
    },
    "record_account": lambda s: {"kind": "logged_in"},
    "release_help": lambda s: {"request": s.help(taken=True)},
    "remove_contact": lambda s: {"contact": s.contact()},
    "remove_member": lambda s: {"member": s.member()},
    "rename_view": lambda s: {"view": s.view(), "name": "other"},
    "renew_token": lambda s: {"station": s.station},
    "reorder_assignment": lambda s: {"assignment": s.assignment(), "before": s.assignment()},
    "reset_password": lambda s: {"member": s.member()},
    "restore_dataset": lambda s: {"dataset": s.shelved(s.dataset)},
    "restore_model": lambda s: {"model": s.shelved(s.model())},
    "restore_run": lambda s: {"run": s.shelved(s.sft)},
    "restore_station": lambda s: {"station": s.shelved(s.lab.add_station("Arm 8"))},
    "restore_task": lambda s: {"task": s.archived()},
    "resume_stations": lambda s: {"lab_slug": s.row.slug, "stations": [s.paused().slug]},
    "resume_run": lambda s: {"run": s.run("paused")},
    "revoke_access_token": lambda s: {"token": s.access_token()},
    "revoke_invitation": lambda s: {"invitation": s.invitation()},
    "save_view": lambda s: {"lab": s.row, "name": "mine", "query": "q=sft"},
    "stop_sweep": lambda s: {"sweep": sweeps.launch_sweep(user=s.user, **s.search())},
    "tag_runs": lambda s: {"lab": s.row, "runs": [s.sft], "add": ["good"]},
    "stop_stations": lambda s: {"lab_slug": s.row.slug},
    "stop_repeating": lambda s: {"assignment": daily(s)},
    "take_help": lambda s: {"request": s.help()},
    "undo_spot_check": lambda s: {"lab": s.spot_check(answered=True).lab},
    "upload_dataset": lambda s: {
        "lab": s.row,
        "name": "mine",
        "body": an_upload(),
    },
}


@pytest.mark.parametrize("name", sorted(exported().keys() - ONES_OWN.keys()))
def test_every_act_asks_for_the_role_itself(lab, other_lab, sft_run, dataset, name):
    """Whatever page, socket or call forgets to ask, the action doesn't."""
    assert name in CALLS, f"Say in CALLS how {name} is called."
    given = CALLS[name](Scene(lab, sft_run, dataset))
    written = Act.objects.count()
    nobody = AnonymousUser()
    for user, refusal in (
        (lab.users["viewer"], access.Denied),
        (other_lab.users["manager"], access.NotFound),
        (nobody, access.NotFound),
    ):
        with pytest.raises(refusal):
            exported()[name](**given, user=user, source="API")
    assert Act.objects.count() == written


def limits(task):
    return {name: getattr(task, name) for name in TASK_RULES}


@pytest.mark.parametrize("name", sorted(exported() | CALLS))
def test_every_act_of_a_user_is_in_the_audit_log(lab, sft_run, dataset, name):
    action = exported().get(name)
    assert action is not None, f"{name} is no action any more: take it out of CALLS."
    assert name in CALLS, (
        f"The action {name} takes a user, and nothing here shows that it writes to the audit log: give it a kind in "
        "models.ACTS, let it call record_act, and say in CALLS of this file how it is called."
    )
    scene = Scene(lab, sft_run, dataset)
    given = {"user": scene.user} | CALLS[name](scene)
    newest = Act.objects.order_by("-id").values_list("pk", flat=True).first() or 0
    action(**given, source="API")
    written = Act.objects.filter(pk__gt=newest, user=given["user"], lab=lab.row)
    assert written, f"The action {name} was done by {given['user']}, and the audit log says nothing of it."
    assert {(act.user_name, act.source) for act in written} == {(given["user"].username, "API")}


# What the doors call

DOORS = (
    "fleet/views",
    "learning/views.py",
    "learning/checkpoint_pages.py",
    "learning/detector_pages.py",
    "learning/model_pages.py",
    "learning/run_pages.py",
    "practice/views",
    "api",
    "live/viewers.py",
    "live/commanding.py",
)
FOR_NOBODY = {
    "note_token_used": "says when a program last came",
    "record_wrong_token": "is of somebody who did not come in",
    "refuse_guesser": "is of somebody who guesses",
    "checked_args": "looks at what was given",
    "get_stopper": "asks who gives a stop",
    "lapse_control": "is the end of a lease, which the log has as override_ended",
    "record_failed_log_in": "is of somebody who did not come in",
    "fill": "is a part of an edit",
    "matching_episodes": "counts what is there",
    "render_episode": "makes pictures of what is stored",
    "store_episodes": "is a station's",
    "undo_override": "is a station that did not take it",
}


def called_at_the_doors():
    """The actions that pages, API and browsers' sockets call: name to the places, and the places of those calls that
    do not say where the act came from.
    """
    found, silent, modules = {}, [], {module.__name__ for module in action_modules()}
    for door in DOORS:
        place = ROOT / "fleetui" / door
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            nodes = list(ast.walk(ast.parse(path.read_text())))
            names = {
                each.asname or each.name
                for node in nodes
                if isinstance(node, ast.ImportFrom)
                for each in node.names
                if f"{node.module}.{each.name}" in modules
            }
            for node in nodes:
                if (
                    isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id in names
                    and node.attr.islower()
                ):
                    found.setdefault(node.attr, []).append(f"{path.relative_to(ROOT)}:{node.lineno}")
                if isinstance(node, ast.Call) and not any(each.arg == "source" for each in node.keywords):
                    called = node.func
                    if isinstance(called, ast.Call) and called.args:  # in_thread(action)(...)
                        called = called.args[0]
                    if (
                        isinstance(called, ast.Attribute)
                        and isinstance(called.value, ast.Name)
                        and called.value.id in names
                        and called.attr in exported()
                    ):
                        silent.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found, silent


def test_every_action_that_a_door_calls_knows_who_does_it():
    called, silent = called_at_the_doors()
    assert {"stop_stations", "create_task", "pause_run", "close_help"} <= called.keys()
    nameless = {name: places for name, places in called.items() if name not in exported().keys() | NO_ACTS.keys()}
    assert nameless.keys() <= FOR_NOBODY.keys(), (
        f"These take no user, so the audit log can't say who did them: {nameless}. Give them one."
    )
    assert not silent, "These calls do not say `source`, so the audit log would take their acts for the server's."


# Where an act came from


def test_an_act_of_a_page_is_a_pages_and_a_scripts_is_the_apis(lab):
    lab.connect()
    page, script = {"HTTP_ORIGIN": "http://testserver"}, {}
    for headers, source in ((page, "page"), (script, "API"), ({"HTTP_ORIGIN": "http://elsewhere"}, "API")):
        newest = Act.objects.order_by("-id").first().pk
        answer = lab.as_("supervisor").post("/api/labs/east/stop", **headers)
        assert answer.status_code == 200
        stopped = Act.objects.filter(kind="stop_all", pk__gt=newest)
        assert [act.source for act in stopped] == [source] * 2, headers


def test_a_run_that_a_freed_station_starts_is_the_servers_act(lab, sft_run):
    lab.connect()
    body = {"task": lab.task.slug, "stations": ["arm-1"], "parent": sft_run.pk}
    assert (
        lab.as_("manager")
        .post(
            "/api/labs/east/assignments",
            json.dumps(body),
            content_type="application/json",
            HTTP_ORIGIN="http://testserver",
        )
        .status_code
        == 200
    )
    assert Act.objects.get(kind="assigned").source == "page"
    assert Act.objects.get(kind="run_launched").source == "server"


def test_who_is_refused_leaves_nothing(lab, sft_run):
    run = sft_run
    with pytest.raises(access.Conflict):
        learning.pause_run(run=run, user=lab.users["researcher"])
    with pytest.raises(access.Conflict):
        learning.cancel_run(run=run, user=lab.users["researcher"])
    assert not Act.objects.filter(kind__startswith="run_")


def test_every_kind_of_act_is_written_by_some_action():
    """A word of ACTS that nothing writes is a record that is missing, or a word too many."""
    source = "".join(path.read_text() for path in Path(ROOT / "fleetui").rglob("*.py") if path.name != "models.py")
    assert [kind for kind in ACTS if f'"{kind}"' not in source and kind not in COMMANDS] == []
