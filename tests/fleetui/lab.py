"""A lab with people and stations, another lab that must stay invisible, and episodes as stations make them."""

import asyncio
import hashlib
import json
import time
import uuid

import numpy as np
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from safetensors.numpy import save_file

from fleetui import access
from fleetui.fleet.actions import labs
from fleetui.learning import transfer_jobs, transfers
from fleetui.learning.jobs import facts_of_file
from fleetui.learning.listing import list_root
from fleetui.learning.models import Checkpoint, Dataset, Run
from fleetui.practice.actions import assignments, publishing
from robots.episodes import Episode, episodes_to_bytes
from robots.worlds.language_table import LANGUAGE_TABLE
from training.recipes import ImproveRecipe, SFTRecipe

ROLES = ("viewer", "supervisor", "researcher", "manager")


class Lab:
    """One lab and the doors to it: `as_(role)` is a signed-in browser, `users[role]` its user."""

    def __init__(self, slug):
        self.row = labs.create_lab(slug=slug, name=f"Lab {slug}")
        self.slug = slug
        self.users = {role: User.objects.create_user(f"{slug}-{role}") for role in ROLES}
        for role, user in self.users.items():
            labs.add_member(lab=self.row, person=user, role=role)
        self.task = labs.create_task(lab=self.row, user=access.SERVER, family="block2block")
        self.tokens = {}
        self.stations = [self.add_station(f"Arm {number}") for number in (1, 2)]
        self.clients = {}

    def add_station(self, name):
        station, token = labs.create_station(
            lab=self.row, user=access.SERVER, name=name, world="language_table", embodiment=LANGUAGE_TABLE
        )
        self.tokens[station.slug] = token
        return station

    def as_(self, role):
        if role not in self.clients:
            self.clients[role] = Client()
            self.clients[role].force_login(self.users[role])
        return self.clients[role]

    def call(self, role, method, path, body=None):
        data = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
        return getattr(self.as_(role), method)(f"/api/labs/{self.slug}/{path}", **data)

    def upload(self, body, station=None, token=None):
        token = token if token is not None else self.tokens[(station or self.stations[0]).slug]
        return Client().post(
            "/api/station/episodes",
            body,
            content_type="application/octet-stream",
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )

    def connect(self, *stations):
        """As if the stations' sockets were open."""
        for station in stations or self.stations:
            publishing.welcome_station(station=station, embodiment=LANGUAGE_TABLE.to_json(), renderer="drawn")
            station.refresh_from_db()


def make_episode(steps=10, **fields):
    """An episode of the policy that approaches its goal: d falls from 20 by 1 a step."""
    rng = np.random.default_rng(3)
    return Episode(
        **{
            "uuid": str(uuid.uuid4()),
            "embodiment": "language_table",
            "task": "block2block",
            "instruction": "push the blue cube to the green star",
            "observations": {
                key: rng.uniform(-0.2, 0.2, size=(steps + 1, feature.size)).astype(np.float32)
                for key, feature in LANGUAGE_TABLE.observation.items()
            },
            "actions": rng.uniform(-0.03, 0.03, size=(steps, 2)).astype(np.float32),
            "actors": np.zeros(steps, np.uint8),
            "steps_to_go": np.arange(20, 20 - steps - 1, -1).astype(np.float32),
            "ending": "time_limit",
            "detected_success": False,
            "true_success": False,
            "purpose": "practice",
            "started_at": time.time() - 10,
        }
        | fields
    )


def seen(steps, value):
    """What a table observes, each number the same. [steps + 1, ...] of each feature"""
    return {
        key: np.full((steps + 1, feature.size), value, np.float32)
        for key, feature in LANGUAGE_TABLE.observation.items()
    }


def as_upload(*episodes):
    return episodes_to_bytes(episodes)


def make_dataset(lab):
    row = Dataset.objects.create(
        lab=lab.row,
        name="demos",
        families=["block2block"],
        episodes=3,
        steps=30,
        state="ready",
        path="datasets/1.st",
        body=LANGUAGE_TABLE.to_json(),
    )
    row.file.parent.mkdir()
    row.file.write_bytes(
        as_upload(*[make_episode(purpose="demonstration", actors=np.full(10, 2, np.uint8)) for _ in range(3)])
    )
    list_root(dataset=row, facts=facts_of_file(row.file))
    row.refresh_from_db()
    return row


def add_checkpoint(run, role, version=0, **fields):
    key = uuid.uuid4()
    content = f"{role} {version} {key}".encode()
    row = Checkpoint.objects.create(
        uuid=key,
        run=run,
        role=role,
        version=version,
        path=f"checkpoints/{key}.safetensors",
        sha256=hashlib.sha256(content).hexdigest(),
        **fields,
    )
    row.file.parent.mkdir(exist_ok=True)
    row.file.write_bytes(content)
    return row


def make_sft_run(lab, dataset):
    """A completed SFT run with its two checkpoints."""
    run = Run.objects.create(
        lab=lab.row,
        name="sft",
        kind="sft",
        state="completed",
        recipe=SFTRecipe().to_json(),
        dataset=dataset,
        ended_at=timezone.now(),
    )
    add_checkpoint(run, "policy")
    add_checkpoint(run, "reward_model", threshold=2.5, consecutive=2)
    return run


def make_improve_run(lab, sft_run):
    """A running improve run on both stations, in the round of version 0, which needs 32 steps."""
    recipe = ImproveRecipe(updates_per_round=2, batch=16)
    run = Run.objects.create(
        lab=lab.row,
        name="improve",
        kind="improve",
        state="running",
        recipe=recipe.to_json(),
        parent=sft_run,
        attempt=1,
        heartbeat_at=timezone.now(),
        round_target=recipe.steps_per_round,
    )
    assignments.assign_task(lab=lab.row, task=lab.task, stations=lab.stations, user=lab.users["manager"], run=run)
    return run


async def eventually(condition, seconds=60.0):
    """Wait until it holds; a test fails where it never does."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came to hold"
        await asyncio.sleep(0.02)
    return found


def write_model(folder, value=0.0, **config):
    """A model folder, as far as the dashboard looks at one."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]} | config))
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Small BERT\n")
    save_file({"weight": np.full((4, 8), value, np.float32)}, folder / "model.safetensors")
    return folder


def add_model(lab, place, name="small"):
    """A pretrained model of the lab, from a folder below IMPORT_ROOTS."""
    row = transfers.import_folder(lab=lab.row, user=lab.users["researcher"], of="model", name=name, place=str(place))
    transfer_jobs.import_job(row.pk)
    row.refresh_from_db()
    assert row.state == "ready", row.error
    return row.model
