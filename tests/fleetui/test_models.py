"""Pretrained models of a lab: added once they are whole, refused with a sentence before anything is kept, handed to
runs and to the lab's own stations, and gone when nobody needs them.
"""

import hashlib
import io
import json
import os
import shutil
import tarfile
import uuid
import zipfile
from types import SimpleNamespace

import pytest
from django.test import AsyncClient, Client
from django.utils import timezone
from safetensors.numpy import save_file

from fleetui import access
from fleetui.fleet.models import Act
from fleetui.learning import archive, jobs, pretrained, promoting, selectors, sweeps, transfer_jobs, transfers
from fleetui.learning.models import Checkpoint, Import, PretrainedModel, Run
from fleetui.practice.actions import launching
from fleetui.practice.jobs import PracticeSupervision
from robots.embodiments import get_embodiment
from robots.protocol import TO_STATION, decode_text, encode
from tests.fleetui.lab import ROLES, add_checkpoint, add_model, make_improve_run, write_model
from training.model_folders import describe, stores_near
from training.recipes import SFTRecipe

NAMES = ["README.md", "config.json", "model.safetensors"]


@pytest.fixture
def theirs(settings):
    """Where the administrator lets people import from."""
    folder = settings.DATA / "theirs"
    folder.mkdir()
    settings.IMPORT_ROOTS = [folder]
    return folder


@pytest.fixture
def model(lab, theirs):
    return add_model(lab, write_model(theirs / "small-bert"))


def work(row):
    transfer_jobs.import_job(row.pk)
    row.refresh_from_db()
    return row


def begin(lab, place, name=""):
    return transfers.import_folder(lab=lab.row, user=lab.users["researcher"], of="model", name=name, place=str(place))


def launch(lab, dataset, **recipe):
    user = lab.users["researcher"]
    return launching.launch_run(lab=lab.row, user=user, kind="sft", recipe=recipe, dataset=dataset)


def stands_on(run, role, model, **fields):
    """A checkpoint of the run that says it stands on the model, as its job takes it in."""
    key = uuid.uuid4()
    path = run.dir / "checkpoints" / f"{role}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"id": str(key), "pretrained": {"models": {"text": model.sha256}, "trained": "heads", "rank": 8}}
    save_file({}, path, metadata={"description": json.dumps(told)})
    line = {"id": str(key), "role": role, "version": 0, "path": f"checkpoints/{path.name}"}
    line |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} | fields
    Run.objects.filter(pk=run.pk).update(state="running")
    made = jobs.actions.register_checkpoint(run=run, line=line)
    Run.objects.filter(pk=run.pk).update(state="completed")
    return made


# What comes in


def test_a_folder_of_the_server_becomes_a_model(lab, theirs, settings):
    folder = write_model(theirs / "small-bert")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling.py").write_text("raise SystemExit")
    told = describe(folder)
    row = work(begin(lab, folder))
    assert row.state == "ready", row.error
    model = row.model
    assert (model.name, model.architecture, model.kind, model.serves) == ("small-bert", "BertModel", "text", ["text"])
    assert (model.licence, model.size, model.sha256) == ("apache-2.0", told.size, told.sha256)
    assert model.files == [each.to_json() for each in told.files]
    assert sorted(each.name for each in model.folder.iterdir()) == NAMES, "neither pickles nor code are kept"
    shutil.rmtree(folder)  # it was copied
    assert describe(model.folder).sha256 == model.sha256
    assert model.folder == settings.DATA / "models" / model.sha256
    assert not row.folder.exists()
    assert Act.objects.get(kind="import_begun").details["model"] == "small-bert"


def test_what_is_whole_while_the_page_is_read_stands_on_it(lab, theirs, monkeypatch):
    """Else nothing on the page would move any more, and the model would not be there."""
    row, read = begin(lab, write_model(theirs / "small-bert")), selectors.recent_imports

    def slowly(*asked):
        found = read(*asked)
        work(row)
        return found

    monkeypatch.setattr(selectors, "recent_imports", slowly)
    page = lab.as_("viewer").get(f"/labs/{lab.slug}/models/").content.decode()
    assert 'id="model-' in page and "data-import-state" in page


def as_zip(folder):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for each in sorted(folder.rglob("*")):
            archive.write(each, f"{folder.name}/{each.relative_to(folder)}")
    return packed.getvalue()


def as_tar(folder):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        archive.add(folder, ".")
    return packed.getvalue()


@pytest.mark.parametrize(("pack", "file_name"), [(as_zip, "my-bert.zip"), (as_tar, "my-bert.tar.gz")])
def test_an_archive_comes_in_pieces(lab, theirs, pack, file_name):
    content = pack(write_model(theirs / "small-bert"))
    body = {"name": "", "file_name": file_name, "size": len(content), "of": "model"}
    assert lab.call("supervisor", "post", "imports/uploads", body).status_code == 403
    assert lab.call("researcher", "post", "imports/uploads", body | {"of": "car"}).status_code == 422
    row = Import.objects.get(pk=lab.call("researcher", "post", "imports/uploads", body).json()["id"])
    user, half = lab.users["researcher"], len(content) // 2
    with pytest.raises(access.Denied, match="add pretrained models"):
        transfers.receive_piece(row=row, user=lab.users["viewer"], offset=0, body=content)
    for offset, piece in ((0, content[:half]), (half, content[half:])):
        transfers.receive_piece(row=row, user=user, offset=offset, body=piece)
    row = work(row)
    assert row.state == "ready", row.error
    assert row.model.name == "my-bert" and sorted(each["name"] for each in row.model.files) == NAMES


def no_config(folder):
    (folder / "config.json").unlink()


def pickles_alone(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def strange(folder):
    (folder / "config.json").write_text('{"model_type": "hoverboard", "architectures": ["Hoverboard"]}')


def a_way_out(folder):
    (folder / "vocab.txt").symlink_to("/etc/hostname")


def cut_short(folder):
    os.truncate(folder / "model.safetensors", 40)


def too_large(folder, patch):
    patch.setattr("training.model_folders.psutil.virtual_memory", lambda: type("Free", (), {"available": 64}))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (no_config, "bad-bert has no config.json"),
        (no_weights, "bad-bert has no weights"),
        (pickles_alone, "weights in pytorch_model.bin only, which can run code"),
        (strange, "unknown architecture 'Hoverboard'"),
        (cut_short, "contradicts itself"),
        (a_way_out, "leads out of the allowed folders"),
        (too_large, "MiB of memory are free"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_stays(lab, theirs, settings, monkeypatch, spoil, sentence):
    folder = write_model(theirs / "bad-bert")
    spoil(folder, monkeypatch) if spoil is too_large else spoil(folder)
    # Of many gigabytes nobody waits for the copy first.
    monkeypatch.setattr(transfer_jobs, "copy_files", lambda *asked: pytest.fail("it was copied"))
    row = work(begin(lab, folder))
    assert row.state == "failed" and sentence in row.error
    page = lab.as_("viewer").get(f"/labs/{lab.slug}/models/").content.decode()
    assert sentence.replace("'", "&#x27;") in page and "On their way in" in page
    assert not PretrainedModel.objects.exists() and not row.folder.exists()
    assert not list((settings.DATA / "models").glob("*"))


def test_an_unknown_licence_is_only_said(lab, theirs):
    folder = write_model(theirs / "bert")
    (folder / "README.md").write_text("# Small BERT\n")
    assert add_model(lab, folder).licence == "unknown"


def test_a_lab_has_a_model_once_and_another_lab_shares_its_files(lab, other_lab, theirs, model):
    row = work(begin(lab, theirs / "small-bert", "twice"))
    assert row.state == "failed" and "has this model already: small." in row.error
    other = add_model(other_lab, theirs / "small-bert", "the same")
    assert other.folder == model.folder
    for each in (model, other):
        assert each.folder.is_dir()
        user = each.lab.memberships.get(role="manager").user
        archive.archive_model(model=each, user=user)
        each.refresh_from_db()
        archive.delete_model(model=each, user=user)
    assert not model.folder.exists(), "they go with the last lab's row"
    assert not list(model.folder.parent.iterdir())


@pytest.mark.parametrize("moves", [1, len(NAMES), len(NAMES) + 1])
def test_a_job_that_died_at_the_store_is_done_again(lab, theirs, monkeypatch, moves):
    """After one of the files, after all of them, and when the folder had its name, before the row was written."""
    row, done = begin(lab, write_model(theirs / "bert")), []

    def move(source, target):
        if len(done) == moves:
            raise KeyboardInterrupt("killed")
        done.append(os.replace(source, target))
        if len(done) > len(NAMES):
            raise KeyboardInterrupt("killed")

    monkeypatch.setattr(pretrained, "os", SimpleNamespace(replace=move))
    with pytest.raises(KeyboardInterrupt):
        transfer_jobs.import_job(row.pk)
    monkeypatch.undo()
    assert len(done) == moves and not PretrainedModel.objects.exists()
    Import.objects.filter(pk=row.pk).update(heartbeat_at=None)
    row = work(row)
    assert row.state == "ready", row.error
    assert describe(row.model.folder).sha256 == row.model.sha256


def test_the_watch_takes_away_what_nobody_has(lab, model, settings):
    orphan = settings.DATA / "models" / ("a" * 64)
    orphan.mkdir()
    transfers.tend_transfers(all_waiting=True)
    assert not orphan.exists() and model.folder.is_dir()


# Who may


@pytest.mark.parametrize("role", ROLES)
def test_researchers_and_managers_add_and_everybody_sees(lab, model, theirs, role):
    may = role in ("researcher", "manager")
    page = lab.as_(role).get(f"/labs/{lab.slug}/models/").content.decode()
    assert "small" in page and ("Add a model" in page) is may
    body = {"place": str(write_model(theirs / "more", 2.0))}
    assert lab.as_(role).post(f"/labs/{lab.slug}/models/add", body).status_code == (302 if may else 403)
    assert lab.call(role, "post", "models", body).status_code == (200 if may else 403)
    assert lab.call(role, "patch", f"models/{model.pk}", {"archived": True}).status_code == (200 if may else 403)
    assert [row["id"] for row in lab.call(role, "get", "models").json()["items"]] == ([] if may else [model.pk])
    assert lab.call(role, "delete", f"models/{model.pk}").status_code == (200 if may else 403)


def test_another_lab_finds_nothing(other_lab, model):
    for call in (("get", f"models/{model.pk}"), ("patch", f"models/{model.pk}", {"archived": True})):
        assert other_lab.call("manager", *call).status_code == 404
    assert other_lab.call("manager", "get", "models").json()["items"] == []
    outside = f"/labs/{model.lab.slug}/models/"
    assert other_lab.as_("manager").get(outside).status_code == 404
    assert other_lab.as_("manager").post(f"/labs/{other_lab.slug}/models/{model.pk}/archive").status_code == 404


def test_a_refused_form_says_why(lab, model):
    answer = lab.as_("researcher").post(f"/labs/{lab.slug}/models/add", {"place": "/etc"})
    assert answer.status_code == 422 and "There is no such folder below" in answer.content.decode()


# Runs


def test_a_run_gets_the_models_that_it_names(lab, dataset, model):
    run = launch(lab, dataset, text_encoder=model.sha256)
    supervision = jobs.Supervision(run)
    supervision.prepare()
    linked = supervision.dir.models / model.sha256
    assert linked.is_symlink() and describe(linked).sha256 == model.sha256
    assert lab.call("viewer", "get", f"models/{model.pk}").json()["runs"] == [run.pk]
    page = lab.as_("viewer").get(f"/labs/{lab.slug}/runs/{run.pk}").content.decode()
    assert "small" in page and model.sha256 not in page
    shutil.rmtree(model.folder)
    with pytest.raises(jobs.RunError, match=f"restore models/{model.sha256}"):
        jobs.Supervision(run).prepare()


def test_what_a_recipe_may_name_is_the_labs_own(lab, other_lab, dataset, theirs, model):
    foreign = add_model(other_lab, write_model(theirs / "other", 1.0))
    for name, sentence in (
        (str(theirs / "small-bert"), "has no pretrained model"),  # no path of the server
        ("../../etc", "has no pretrained model"),
        (foreign.sha256, "has no pretrained model"),
    ):
        with pytest.raises(access.Invalid, match=sentence) as refused:
            launch(lab, dataset, text_encoder=name)
        assert list(refused.value.problems) == ["text_encoder"]
    with pytest.raises(access.Invalid, match="small is no vision encoder, but a text encoder"):
        launch(lab, dataset, vision_encoder=model.sha256)
    archive.archive_model(model=model, user=lab.users["manager"])
    with pytest.raises(access.Invalid, match="small is archived"):
        launch(lab, dataset, text_encoder=model.sha256)
    assert not Run.objects.exists()


def test_nor_does_a_sweep_try_another(lab, dataset, theirs, model):
    given = {"lab": lab.row, "user": lab.users["researcher"], "kind": "sft", "recipe": {}, "dataset": dataset}
    space = {"text_encoder": {"choices": [model.sha256, str(theirs)]}}
    with pytest.raises(access.Invalid, match="has no pretrained model"):
        sweeps.launch_sweep(**given, space=space, objective="loss.bc")
    given["recipe"] = {"text_encoder": model.sha256}
    sweeps.launch_sweep(**given, space={"batch": {"choices": [2, 4]}}, objective="loss.bc")
    with pytest.raises(access.Conflict, match="builds on small"):
        archive.archive_model(model=model, user=lab.users["manager"])


def test_the_form_offers_those_that_serve(lab, dataset, theirs, model):
    sees = add_model(lab, write_model(theirs / "vit", model_type="vit", architectures=["ViTModel"]), "seeing")
    page = lab.as_("researcher").get(f"/labs/{lab.slug}/runs/new?kind=sft").content.decode()
    text, vision = (
        page.split(f'name="{name}"')[1].split("</select>")[0] for name in ("text_encoder", "vision_encoder")
    )
    assert model.sha256 in text and sees.sha256 not in text and text.index(">none<") < text.index(model.sha256)
    assert sees.sha256 in vision and model.sha256 not in vision
    run = launch(lab, dataset, text_encoder=model.sha256)
    again = f"/labs/{lab.slug}/runs/new?kind=sft&like={run.pk}"
    assert f'<option value="{model.sha256}" selected>' in lab.as_("researcher").get(again).content.decode()
    Run.objects.update(state="completed")
    archive.archive_model(model=model, user=lab.users["manager"])
    assert "small is archived or gone" in lab.as_("researcher").get(again).content.decode()


def test_who_is_needed_is_neither_archived_nor_deleted(lab, dataset, model):
    manager = lab.users["manager"]
    run = launch(lab, dataset, text_encoder=model.sha256)
    with pytest.raises(access.Conflict, match="builds on small"):
        archive.archive_model(model=model, user=manager)
    Run.objects.update(state="completed")
    archive.archive_model(model=model, user=manager)
    with pytest.raises(access.Conflict, match="need it: sft 1"):
        archive.delete_model(model=model, user=manager)
    Run.objects.filter(pk=run.pk).update(recipe=SFTRecipe().to_json())
    stands_on(run, "policy", model)
    with pytest.raises(access.Conflict, match="need it: sft 1"):
        archive.delete_model(model=model, user=manager)
    Checkpoint.objects.all().delete()
    archive.delete_model(model=model, user=manager)
    assert not model.folder.exists()


# Practice, and the stations


@pytest.fixture
def practising(lab, sft_run, model):
    """A run that practises with a policy that stands on the model; its reward model does too."""
    Checkpoint.objects.all().delete()
    stands_on(sft_run, "policy", model)
    stands_on(sft_run, "reward_model", model, threshold=2.5, consecutive=2)
    return make_improve_run(lab, sft_run)


def test_practice_gets_the_models_that_it_begins_with(practising, model):
    supervision = PracticeSupervision(practising)
    supervision.prepare()
    assert describe(supervision.dir.models / model.sha256).sha256 == model.sha256


def test_stations_are_told_of_the_models(lab, practising, sft_run, model):
    policy = sft_run.newest_checkpoint("policy")
    assert (stores_near(policy.file)[0] / model.sha256).is_dir(), "what computes with it here finds it too"
    page = lab.as_("viewer").get(f"/labs/{lab.slug}/checkpoints/{policy.pk}").content.decode()
    assert "Stands on" in page and "small" in page
    assert lab.call("viewer", "get", f"checkpoints/{policy.pk}").json()["pretrained"] == [model.sha256]
    message = practising.policy_message(policy)
    assert message.models == ({"sha256": model.sha256, "files": model.files},)
    assert decode_text(encode(message), TO_STATION).models == message.models
    plain = add_checkpoint(practising, "policy")
    Checkpoint.objects.filter(role="reward_model").update(pretrained=[])
    assert practising.policy_message(plain).models == ()


def test_another_threshold_stands_on_the_same(lab, practising, sft_run, model):
    judge = sft_run.newest_checkpoint("reward_model")
    given = {"threshold": 3.0, "consecutive": 1, "reason": "try"}
    made = promoting.publish_threshold(checkpoint=judge, user=lab.users["researcher"], **given)
    assert made.pretrained == [model.sha256]


def fetch(token, sha256, name, **headers):
    headers["Authorization"] = f"Bearer {token}"
    return Client().get(f"/api/station/models/{sha256}/{name}", headers=headers)


async def body_of(answer):
    return b"".join([piece async for piece in answer.streaming_content])


def test_a_station_of_the_lab_fetches_its_files_and_nothing_else(lab, other_lab, model):
    (model.folder / "secret.txt").write_text("not one of them")
    token = lab.tokens["arm-1"]
    answer = fetch(token, model.sha256, "model.safetensors")
    assert answer.status_code == 200 and int(answer["Content-Length"]) == model.folder.joinpath(NAMES[2]).stat().st_size
    part = fetch(token, model.sha256, "config.json", Range="bytes=2-5")
    assert part.status_code == 206 and part["Content-Range"].startswith("bytes 2-5/")
    for name in (
        "secret.txt",
        "../../fleet.id",
        "..%2F..%2Ffleet.id",
        "%00",
        "/etc/hostname",
        "nothing.json",
        "x" * 500,
    ):
        assert fetch(token, model.sha256, name).status_code == 404, name
    for sha256 in ("b" * 64, "short", "..", "%00" * 64, "é" * 64):
        assert fetch(token, sha256, "config.json").status_code == 404, sha256
    assert fetch(other_lab.tokens["arm-1"], model.sha256, "config.json").status_code == 404
    assert fetch("wrong", model.sha256, "config.json").status_code == 401
    PretrainedModel.objects.update(archived_at=timezone.now())
    assert fetch(token, model.sha256, "config.json").status_code == 200, "a policy may stand on it all the same"
    (model.folder / "config.json").unlink()
    assert fetch(token, model.sha256, "config.json").status_code == 404


async def test_what_it_fetches_is_the_file(lab, model):
    url = f"/api/station/models/{model.sha256}/config.json"
    answer = await AsyncClient().get(url, headers={"Authorization": f"Bearer {lab.tokens['arm-1']}"})
    assert await body_of(answer) == (model.folder / "config.json").read_bytes()


def test_a_model_that_would_have_nothing_to_see_by_is_refused_before_a_run_begins(lab, dataset, theirs):
    """The table is told where its blocks lie."""
    seeing = add_model(lab, write_model(theirs / "eyes", model_type="siglip", architectures=["SiglipModel"]), "eyes")
    sentence = "language_table has no camera of its own for eyes to see by; leave that model out."
    with pytest.raises(access.Invalid) as refused:
        launch(lab, dataset, vision_encoder=seeing.sha256)
    assert refused.value.problems == {"vision_encoder": sentence}
    with pytest.raises(access.Invalid, match="no camera of its own"):
        sweeps.launch_sweep(
            lab=lab.row,
            user=lab.users["researcher"],
            kind="sft",
            recipe={"vision_encoder": seeing.sha256},
            space={"seed": {"choices": [0, 1]}},
            sampler="grid",
            budget_runs=2,
            objective="validation",
            dataset=dataset,
        )
    with_cameras = get_embodiment("so101_pick_cameras").to_json()
    assert pretrained.sight_problems(lab.row, {"vision_encoder": seeing.sha256}, with_cameras) == {}
    told = pretrained.sight_problems(lab.row, {"vision_encoder": seeing.sha256, "observe": "state"}, with_cameras)
    assert told == {"vision_encoder": "Its state has no camera for eyes to see by; leave that model out."}
    launch(lab, dataset, text_encoder=seeing.sha256)  # words can be read on every body
