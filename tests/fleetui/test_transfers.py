"""Datasets come in and go out: questions, refusals that leave nothing behind, killed jobs, resumed bytes, and the way
there and back.
"""

import hashlib
import io
import json
import os
import shutil
import signal
import tarfile
import threading
import time
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from django.db import connection
from mcap.reader import make_reader
from safetensors.numpy import load_file

from fleetui import access
from fleetui.learning import actions, datasets, jobs, tables, transfer_jobs, transfers, unpacking
from fleetui.learning.models import Dataset, Export, Import, Run
from robots.lerobot.reading import open_dataset
from robots.lerobot.videos import look_at
from tests.fleetui.lab import as_upload, make_episode
from tests.robots.lerobot_folders import episode as foreign
from tests.robots.lerobot_folders import write, write_json
from training.datasets import read_demonstrations
from training.methods.sft import sft
from training.recipes import SFTRecipe
from training.run_dir import RunDir

EIGHT = [foreign(14 + i, i) for i in range(8)]


@pytest.fixture(autouse=True)
def closed():
    yield
    tables.forget_open()


@pytest.fixture
def theirs(settings):
    """Where the administrator lets people import from."""
    folder = settings.DATA / "theirs"
    folder.mkdir()
    settings.IMPORT_ROOTS = [folder]
    return folder


def begin(lab, place, name="theirs", **more):
    return transfers.import_folder(lab=lab.row, user=lab.users["researcher"], name=name, place=str(place), **more)


def work(row):
    transfer_jobs.import_job(row.pk)
    row.refresh_from_db()
    return row


def answer(lab, row, **answers):
    row = transfers.answer_import(row=row, user=lab.users["researcher"], answers=answers)
    return work(row) if row.state == "importing" else row


def nothing_stays(row, settings):
    assert not row.folder.exists() and not transfers.target_of(row).exists()
    assert not Dataset.objects.filter(name=row.name).exists()
    assert not list((settings.DATA / "plans").glob("*"))


# What comes in


@pytest.mark.parametrize("version", ["v3.0", "v2.1"])
def test_somebody_elses_dataset_comes_in(lab, theirs, version):
    folder = write(theirs / "arm", EIGHT, version=version)
    row = work(begin(lab, folder))
    assert row.state == "ready", (row.error, row.questions)
    dataset = row.dataset
    assert dataset.body["name"] == "so101_follower" and dataset.origin["version"] == version
    assert (dataset.episodes, dataset.rows.count(), dataset.listed) == (8, 8, True)
    shutil.rmtree(folder)  # it was copied
    episode = tables.read_episode(dataset.rows.select_related("source").get(position=2), pictures=True)
    assert episode.steps == 15 and set(episode.observations) > {"observation.images.front"}
    assert not row.folder.exists() and dataset.rows.get(position=0).quality["gripper"] is True


def test_without_videos_it_comes_in_after_a_question_and_is_learned_from(lab, theirs):
    row = work(begin(lab, write(theirs / "arm", EIGHT, videos=False)))
    assert row.state == "asking" and row.dataset is None
    (question,) = row.questions
    assert question["code"] == "cameras" and "state and action alone" in question["text"]
    assert "videos/observation.images.front" in question["text"]
    assert not Dataset.objects.exists()
    row = answer(lab, row, cameras=True)
    assert row.state == "ready", row.error
    dataset = row.dataset
    assert list(dataset.body["observation"]) == ["observation.state"]
    run = Run.objects.create(lab=lab.row, name="bc", kind="sft", recipe=RECIPE.to_json(), dataset=dataset, attempt=1)
    supervision = jobs.Supervision(run)
    supervision.prepare()
    summary = sft(supervision.dir)
    assert summary["demonstrations"] == 8
    kinds = {line["kind"] for line in supervision.dir.read_metrics()[0]}
    assert {"checkpoint", "loss", "done"} <= kinds and "evaluation" not in kinds


RECIPE = SFTRecipe(steps=30, validate_every=10, batch=16, hidden=16, layers=1, largest_threshold=0.0)


def test_one_camera_that_is_missing_is_left_out(lab, theirs):
    folder = write(theirs / "arm", EIGHT)
    shutil.rmtree(folder / "videos/observation.images.wrist")
    row = work(begin(lab, folder))
    assert "without the camera wrist, with the camera front alone" in row.questions[0]["text"]
    row = answer(lab, row, cameras=True)
    assert set(row.dataset.body["observation"]) == {"observation.state", "observation.images.front"}


def test_an_episode_that_cannot_be_used_is_left_out_after_a_question(lab, theirs):
    bad = foreign(9, 3)
    bad["columns"]["action"][4, 2] = np.nan
    row = work(begin(lab, write(theirs / "arm", [*EIGHT[:3], bad])))
    (question,) = row.questions
    assert question["code"] == "episodes" and "episode 3" in question["text"] and "field action" in question["text"]
    row = answer(lab, row, episodes=True)
    assert row.state == "ready" and row.dataset.rows.count() == 3


def test_a_no_ends_it_and_nothing_stays(lab, theirs, settings):
    row = work(begin(lab, write(theirs / "arm", EIGHT, videos=False)))
    assert row.folder.exists()
    with pytest.raises(access.Invalid, match="it asks"):
        answer(lab, row, colour=True)
    row = answer(lab, row, cameras=False)
    assert row.state == "canceled"
    nothing_stays(row, settings)


def spoilt(folder, how):
    if how == "no info":
        (folder / "meta/info.json").unlink()
    elif how == "no data":
        shutil.rmtree(folder / "data")
    elif how == "broken data":
        (folder / "data/chunk-000/file-000.parquet").write_bytes(b"PAR1 nothing")
    elif how == "version":
        told = json.loads((folder / "meta/info.json").read_text())
        write_json(folder / "meta/info.json", told | {"codebase_version": "v9.0"})
    elif how == "path":
        told = json.loads((folder / "meta/info.json").read_text())
        write_json(folder / "meta/info.json", told | {"data_path": "../../{chunk_index}"})
    elif how == "link":
        (folder / "data/secret").symlink_to("/etc/passwd")
    elif how == "folder link":
        (folder / "more").symlink_to("/etc")
    elif how == "nan everywhere":
        shutil.rmtree(folder)
        bad = foreign(9, 3)
        bad["columns"]["action"][:] = np.nan
        write(folder, [bad])


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no info", "meta/info.json is missing"),
        ("no data", "data/chunk-000/file-000.parquet"),
        ("broken data", "data/chunk-000/file-000.parquet"),
        ("version", "v9.0"),
        ("path", "is refused"),
        ("link", "leads out of the allowed folders"),
        ("folder link", "to another folder"),
        ("nan everywhere", "action"),
    ],
)
def test_what_is_wrong_is_said_and_leaves_nothing(lab, theirs, settings, how, said):
    folder = write(theirs / "arm", EIGHT[:2])
    spoilt(folder, how)
    row = work(begin(lab, folder))
    assert row.state == "failed" and said in row.error, (row.state, row.error, row.questions)
    nothing_stays(row, settings)


def test_only_folders_that_the_administrator_allows_are_imported(lab, theirs, settings):
    outside = write(settings.DATA / "elsewhere", EIGHT[:2])
    (theirs / "way").symlink_to(outside)
    for place in (outside, theirs / "way", theirs / ".." / "elsewhere", theirs / "nowhere", "relative", "/etc", "a\0b"):
        with pytest.raises(access.Invalid, match="below"):
            begin(lab, place)
    settings.IMPORT_ROOTS = []
    with pytest.raises(access.Invalid, match="FLEETUI_IMPORT_ROOTS"):
        begin(lab, theirs)
    assert not Import.objects.exists()


def test_a_name_that_is_taken_is_refused_before_anything_is_copied(lab, theirs, dataset):
    with pytest.raises(access.Conflict, match="demos"):
        begin(lab, write(theirs / "arm", EIGHT[:2]), name="demos")


# Archives


def zipped(folder, name="arm"):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path in folder.rglob("*"):
            archive.write(path, f"{name}/{path.relative_to(folder)}")
    return file.getvalue()


def send(lab, content, name="sent", pieces=3, **more):
    user = lab.users["researcher"]
    row = transfers.begin_upload(lab=lab.row, user=user, name=name, file_name="arm.zip", size=len(content), **more)
    step = -(-len(content) // pieces)
    for start in range(0, len(content), step):
        row = transfers.receive_piece(row=row, user=user, offset=start, body=content[start : start + step])
    return row


def test_an_archive_comes_piece_by_piece_and_goes_on_after_an_interruption(lab, tmp_path):
    content = zipped(write(tmp_path / "arm", EIGHT[:3]))
    body = {"name": "sent", "file_name": "arm.zip", "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    row = lab.call("researcher", "post", "imports/uploads", body).json()
    client, address = lab.as_("researcher"), f"/api/labs/east/imports/{row['id']}/bytes"

    def put(offset, piece, **query):
        query = "".join(f"&{key}={value}" for key, value in query.items())
        return client.put(f"{address}?offset={offset}{query}", piece, content_type="application/octet-stream")

    assert put(0, content[:1000]).json()["received"] == 1000
    assert put(2000, content[2000:3000]).status_code == 409 and "byte 1000" in put(2000, b"x").json()["detail"]
    assert put(500, content[500:2000]).json()["received"] == 2000  # the answer to the first was lost
    assert put(2000, b"other", sha256="0" * 64).status_code == 422
    assert put(2000, content[2000:] + b"more").status_code == 422
    assert lab.call("researcher", "get", f"imports/{row['id']}").json()["received"] == 2000
    assert put(2000, content[2000:]).json()["state"] == "checking"
    done = work(Import.objects.get(pk=row["id"]))
    assert done.state == "ready" and done.dataset.rows.count() == 3, done.error
    assert put(0, b"x").status_code == 409


def test_an_archive_that_is_another_than_announced_is_refused(lab, tmp_path, settings):
    row = work(send(lab, zipped(write(tmp_path / "arm", EIGHT[:2])), sha256="0" * 64))
    assert row.state == "failed" and "sha256" in row.error
    nothing_stays(row, settings)


def evil_zip(name, content=b"x", mode=0o100644):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = mode << 16
        info.compress_type = zipfile.ZIP_DEFLATED
        archive.writestr(info, content)
    return file.getvalue()


def evil_tar(name, kind=tarfile.REGTYPE, link=""):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        archive.addfile(info)
    return file.getvalue()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: b"no archive at all", "no .zip or .tar"),
        (lambda: evil_zip("../../out"), "leads out"),
        (lambda: evil_zip("/etc/out"), "leads out"),
        (lambda: evil_zip("a\\b"), "can't be kept"),
        (lambda: evil_zip("link", b"/etc/passwd", 0o120777), "a link"),
        (lambda: evil_tar("../out"), "leads out"),
        (lambda: evil_tar("link", tarfile.SYMTYPE, "/etc/passwd"), "a link"),
        (lambda: evil_tar("hard", tarfile.LNKTYPE, "/etc/passwd"), "a link"),
        (lambda: evil_tar("device", tarfile.CHRTYPE), "a device"),
        (lambda: evil_zip("bomb", bytes(150 * 2**20)), "times its size"),
        (lambda: evil_zip("readme.txt"), "meta/info.json is missing"),
    ],
)
def test_a_bad_archive_leaves_nothing(lab, settings, make, said):
    content = make()
    row = work(send(lab, content))
    assert row.state == "failed" and said in row.error
    nothing_stays(row, settings)
    assert not (settings.DATA / "out").exists()


def test_a_tar_is_unpacked_too(lab, tmp_path):
    folder = write(tmp_path / "arm", EIGHT[:2])
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        archive.add(folder, "arm")
    row = work(send(lab, file.getvalue()))
    assert row.state == "ready", row.error


def test_an_archive_without_room_is_refused_before_it_is_sent(lab, monkeypatch):
    monkeypatch.setattr(unpacking.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**30 + 100))
    with pytest.raises(access.Refused, match="Make room"):
        send(lab, b"x" * 200)
    assert not Import.objects.exists()


def test_who_cancels_an_upload_leaves_nothing(lab, settings):
    user = lab.users["researcher"]
    row = transfers.begin_upload(lab=lab.row, user=user, name="sent", file_name="a.zip", size=10)
    transfers.receive_piece(row=row, user=user, offset=0, body=b"12345")
    assert row.upload.stat().st_size == 5
    row = transfers.cancel_import(row=row, user=user)
    assert row.state == "canceled"
    nothing_stays(row, settings)
    with pytest.raises(access.Conflict):
        transfers.cancel_import(row=row, user=user)


# Killed and cancelled while it is under way


def in_thread(row):
    thread = threading.Thread(target=lambda: (transfer_jobs.import_job(row.pk), connection.close()))
    thread.start()
    return thread


def slow_child(monkeypatch, part):
    """The child whose command has this word waits to be killed."""
    started, real = [], jobs.start_child

    def start(command, output, **options):
        if part in command and not started:
            command = [command[0], "-c", "import time; print('{}', flush=True); time.sleep(60)"]
            started.append(real(command, output, **options))
            return started[0]
        return real(command, output, **options)

    monkeypatch.setattr(jobs, "start_child", start)
    return started


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("part", ["check", "assemble"])
def test_a_killed_process_is_done_again_and_ends_well(lab, theirs, monkeypatch, part):
    row = begin(lab, write(theirs / "arm", EIGHT[:3]))
    started = slow_child(monkeypatch, part)
    thread = in_thread(row)
    wait_for(lambda: started)
    os.kill(started[0].pid, signal.SIGKILL)
    thread.join()
    row.refresh_from_db()
    assert row.is_live and not Dataset.objects.exists()
    sent = []
    monkeypatch.setattr(actions.celery_app, "send_task", lambda job, args: sent.append((job, args)))
    Import.objects.update(heartbeat_at=row.heartbeat_at - 2 * actions.STALE_AFTER)  # the time passes
    transfers.tend_transfers(all_waiting=False)
    assert sent == [("learning.import", [row.pk])]
    assert work(row).state == "ready" and row.dataset.rows.count() == 3


def test_a_worker_that_died_after_the_renaming_ends_well(lab, theirs, monkeypatch):
    """The folder had its place already, and the transaction was never written."""
    row = begin(lab, write(theirs / "arm", EIGHT[:3]))

    def died(*_, **__):
        folder = row.folder / Import.objects.get(pk=row.pk).facts["folder"]
        transfers.target_of(row).parent.mkdir(exist_ok=True)
        os.replace(folder, transfers.target_of(row))
        raise jobs.Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(transfers, "finish_import", died)
        work(row)
    transfers.tend_transfers(all_waiting=True)
    assert transfers.target_of(row).exists()
    assert work(row).state == "ready", row.error
    assert row.dataset.file == transfers.target_of(row)


def test_a_process_that_always_dies_is_given_up(lab, theirs, settings, monkeypatch):
    row = begin(lab, write(theirs / "arm", EIGHT[:2]))
    real = jobs.start_child
    program = "import os; os.kill(os.getpid(), 9)"
    monkeypatch.setattr(
        jobs, "start_child", lambda command, *args, **more: real([command[0], "-c", program], *args, **more)
    )
    for _ in range(transfers.MOST_DEATHS):
        Import.objects.update(heartbeat_at=None)
        work(row)
    assert row.state == "failed" and "SIGKILL" in row.error
    nothing_stays(row, settings)


def test_who_cancels_it_while_it_is_looked_at_leaves_nothing(lab, theirs, settings, monkeypatch):
    row = begin(lab, write(theirs / "arm", EIGHT[:2]))
    started = slow_child(monkeypatch, "check")
    thread = in_thread(row)
    wait_for(lambda: started)
    transfers.cancel_import(row=row, user=lab.users["researcher"])
    started[0].kill()
    thread.join()
    row.refresh_from_db()
    assert row.state == "canceled"
    nothing_stays(row, settings)


def test_the_watch_takes_away_what_nobody_knows(lab, settings):
    for name in ("imports/987654", "datasets/import-987654"):
        (settings.DATA / name).mkdir(parents=True)
    keep = settings.DATA / "datasets" / "4711"
    own = settings.DATA / "exports" / f".4.zip.{os.getpid()}.making"
    dead = settings.DATA / "exports" / ".4.zip.999999999.making"
    for folder in (keep, own, dead):
        folder.mkdir(parents=True)
    transfers.tend_transfers(all_waiting=True)
    assert keep.exists() and own.exists() and not dead.exists()
    assert not (settings.DATA / "imports/987654").exists()
    assert not (settings.DATA / "datasets/import-987654").exists()


# What goes out


@pytest.fixture
def mine(lab):
    recorded = [
        make_episode(12 + i, purpose="demonstration", ending="operator", actors=np.ones(12 + i, np.uint8))
        for i in range(3)
    ]
    user = lab.users["researcher"]
    return actions.upload_dataset(lab=lab.row, user=user, name="mine", body=as_upload(*recorded))


def export(lab, dataset, **given):
    row = transfers.export_dataset(dataset=dataset, user=lab.users["researcher"], **given)
    transfer_jobs.export_job(row.pk)
    row.refresh_from_db()
    assert row.state == "ready", row.error
    return row


def test_a_version_goes_out_as_a_lerobot_archive(lab, mine, tmp_path):
    made = datasets.relabel_episodes(
        dataset=mine, user=lab.users["researcher"], positions=[1], instruction="other words"
    )
    row = export(lab, made)
    with zipfile.ZipFile(row.file) as archive:
        archive.extractall(tmp_path / "out")
    found = open_dataset(tmp_path / "out")
    assert found.version == "v3.0" and [each.instruction for each in found.episodes()][1] == "other words"
    assert transfers.export_dataset(dataset=made, user=lab.users["researcher"]) == row  # once is enough
    row.file.unlink()
    assert transfers.export_dataset(dataset=made, user=lab.users["researcher"]) != row


def test_a_download_goes_on_where_it_was_interrupted(lab, mine):
    row = export(lab, mine)
    address, whole = f"/api/labs/east/exports/{row.pk}/file", row.file.read_bytes()
    client = lab.as_("viewer")

    def get(**headers):
        answer = client.get(address, headers=headers)
        body = b"".join(answer) if answer.streaming else answer.content
        return answer.status_code, body, answer.headers

    status, body, headers = get()
    assert (status, body, headers["Accept-Ranges"]) == (200, whole, "bytes")
    tag = headers["ETag"]
    status, body, headers = get(Range="bytes=100-199")
    assert (status, body) == (206, whole[100:200]) and headers["Content-Range"] == f"bytes 100-199/{len(whole)}"
    assert get(**{"Range": "bytes=100-", "If-Range": tag})[:2] == (206, whole[100:])
    assert get(**{"Range": "bytes=100-", "If-Range": '"another"'})[:2] == (200, whole)
    assert get(Range="bytes=-7")[:2] == (206, whole[-7:])
    assert get(Range=f"bytes={len(whole)}-")[0] == 416
    for odd in ("bytes=-", "bytes=5-2", "lines=1-2", "bytes=1-2,4-5", "bytes=-0"):
        assert get(Range=odd)[0] in (200, 416)


def test_an_episode_goes_out_for_foxglove_and_as_a_video(lab, theirs):
    dataset = work(begin(lab, write(theirs / "arm", EIGHT[:2]))).dataset
    row = export(lab, dataset, kind="mcap", position=1)
    with row.file.open("rb") as file:
        topics = {channel.topic for _, channel, _ in make_reader(file).iter_messages()}
    assert {"/camera/front", "/camera/wrist", "/state", "/action"} <= topics
    row = export(lab, dataset, kind="mp4", position=1, camera="wrist")
    assert len(look_at(row.file).times) == 15
    for given, said in (
        ({"kind": "mp4", "position": 1}, "camera"),
        ({"kind": "mcap"}, "no such episode"),
        ({"kind": "gif"}, "lerobot, mcap, mp4"),
        ({"quality": "best"}, "lossless"),
    ):
        with pytest.raises(access.Invalid, match=said):
            transfers.export_dataset(dataset=dataset, user=lab.users["researcher"], **given)
    bad = transfers.export_dataset(
        dataset=dataset, user=lab.users["researcher"], kind="mp4", position=0, camera="nowhere"
    )
    transfer_jobs.export_job(bad.pk)
    bad.refresh_from_db()
    assert bad.state == "failed" and "nowhere" in bad.error
    transfers.delete_export(export=row, user=lab.users["researcher"])
    assert not Export.objects.filter(pk=row.pk).exists() and not row.file.exists()


def test_another_labs_exports_and_imports_are_not_found(lab, other_lab, mine, theirs):
    row = export(lab, mine)
    coming = begin(lab, write(theirs / "arm", EIGHT[:2]))
    client = other_lab.as_("manager")
    for path in (f"exports/{row.pk}", f"exports/{row.pk}/file", f"imports/{coming.pk}", f"datasets/{mine.pk}"):
        for slug in ("east", "west"):
            assert client.get(f"/api/labs/{slug}/{path}").status_code == 404, path


# There and back


def test_what_went_out_and_came_back_gives_the_same_figures(lab):
    """Of an arm with two cameras that its policy sees by: demonstrated, exported, imported, and trained on."""
    episodes = int(os.environ.get("FLEETUI_ROUND_TRIP", "4"))
    user = lab.users["researcher"]
    first = actions.generate_dataset(
        lab=lab.row, user=user, name="shown", families=["camera_so101_pick"], episodes=episodes, seed=5
    )
    jobs.generate_dataset_job(first.pk)
    first.refresh_from_db()
    assert first.state == "ready", first.error
    row = export(lab, first, quality="lossless")
    again = work(send(lab, row.file.read_bytes(), name="again", pieces=2))
    assert again.state == "ready", (again.error, again.questions)
    figures, weights = [], []
    for dataset in (first, again.dataset):
        run = Run.objects.create(
            lab=lab.row, name=dataset.name, kind="sft", recipe=SEEING.to_json(), dataset=dataset, attempt=1
        )
        supervision = jobs.Supervision(run)
        supervision.prepare()
        sft(RunDir(run.dir))
        lines = supervision.dir.read_metrics()[0]
        figures.append([{k: v for k, v in each.items() if k != "t"} for each in lines if each["kind"] == "loss"])
        learned = load_file(run.dir / "checkpoints/policy.safetensors")
        weights.append({name: array.tobytes() for name, array in learned.items()})
    assert figures[0] == figures[1] and figures[0] and weights[0] == weights[1]
    one, two = (read_demonstrations(sorted((run.dir / "data").glob("*"))) for run in Run.objects.order_by("pk"))
    assert one.uuids == two.uuids and all(
        bool((one.observations[k] == two.observations[k]).all()) for k in one.observations
    )


SEEING = SFTRecipe(
    steps=4, validate_every=2, batch=4, hidden=16, layers=1, largest_threshold=0.0, evaluation_episodes=0
)
