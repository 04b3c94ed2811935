"""People and upkeep in a real browser: an invitation is accepted, a station is added and turns up, the audit log tells.

What a test needs of another person or station it makes itself. Every page is pictured in light, in dark and as a phone
shows it.
"""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from playwright.sync_api import expect

LAB = "/labs/main"
ROOT = Path(__file__).resolve().parents[2]
PASSWORD = "a long enough one 7"


@pytest.fixture(scope="module")
def manager(opened):
    return opened("manager")


def invite(manager, name):
    """The link, which is shown once."""
    manager.goto(f"{LAB}/people")
    manager.get_by_label("Role", exact=True).select_option("viewer")
    manager.get_by_label("For", exact=True).fill(name)
    manager.get_by_role("button", name="Make an invitation").click()
    link = manager.locator("#link").inner_text()
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/invitations/[\w-]{43}", link)
    return link


@pytest.fixture
def ada(manager, opened):
    """The page of a viewer who came by an invitation, and leaves the lab afterwards."""
    page = opened()
    page.goto(invite(manager, "Ada"))
    page.user_name = f"ada-{uuid.uuid4().hex[:6]}"
    page.get_by_label("User name").fill(page.user_name)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_role("button", name="Make the account and join").click()
    page.wait_for_url(f"**{LAB}/")
    yield page
    remove(manager, page.user_name)


def remove(manager, name):
    manager.goto(f"{LAB}/people")
    manager.locator(f"tr[data-member={name}]").get_by_role("button", name="Remove").click()
    manager.get_by_role("button", name=f"Remove {name}").click()
    expect(manager.locator(f"tr[data-member={name}]")).to_have_count(0)


def test_an_invitation_is_made_and_its_link_shown_once(manager, picture):
    invite(manager, "Ada")
    manager.get_by_role("button", name="Copy").click()
    expect(manager.get_by_role("button", name="Copied")).to_be_visible()
    picture(manager, "people")
    manager.goto(f"{LAB}/people")
    expect(manager.locator("#link")).to_have_count(0)
    expect(manager.locator("main")).to_contain_text("Ada")


def test_a_stranger_accepts_it_and_lands_on_the_wall(manager, opened, picture):
    link = invite(manager, "Ada")
    page = opened()
    page.goto(link)
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password", exact=True).fill("password123")
    page.get_by_label("Password again").fill("password123")
    page.get_by_role("button", name="Make the account and join").click()
    expect(page.get_by_role("alert").filter(has_text="too common")).to_be_visible()
    expect(page.get_by_label("User name")).to_have_value("ada")
    picture(page, "invitation")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_label("Password again").fill(PASSWORD)
    page.get_by_role("button", name="Make the account and join").click()
    page.wait_for_url(f"**{LAB}/")
    expect(page.locator(".who")).to_contain_text("ada, viewer")
    expect(page.locator("#toasts")).to_contain_text("you are viewer here")
    late = opened()
    assert late.goto(link).status == 410
    expect(late.locator("main")).to_contain_text("was used already")
    remove(manager, "ada")


def test_a_new_role_draws_the_others_page_anew(manager, ada):
    name = ada.user_name
    ada.goto(f"{LAB}/stations/station-1")
    expect(ada.locator("[data-command=override]")).to_have_count(0)
    manager.goto(f"{LAB}/people")
    row = manager.locator(f"tr[data-member={name}]")
    row.get_by_role("combobox").select_option("supervisor")
    row.get_by_role("button", name="Save").click()
    expect(manager.locator("#toasts")).to_contain_text(f"{name} is supervisor now")
    expect(ada.locator("[data-command=override]")).to_have_count(1)


def test_the_last_manager_cannot_remove_himself(manager):
    manager.goto(f"{LAB}/people")
    manager.locator("tr[data-member=manager]").get_by_role("button", name="Remove").click()
    expect(manager.locator("#confirm")).to_contain_text("Remove manager from")
    manager.get_by_role("button", name="Remove manager").click()
    expect(manager.locator(".messages li.error")).to_contain_text("is the last manager")


def archive(manager, slug):
    token = manager.evaluate("() => document.cookie.match(/csrftoken=([^;]+)/)[1]")
    answer = manager.request.patch(
        f"/api{LAB}/stations/{slug}", data={"archived": True}, headers={"X-CSRFToken": token}
    )
    assert answer.ok, answer.text()


def test_a_station_is_added_started_by_the_one_command_and_turns_up_by_itself(
    manager, picture, running_fleet, tmp_path_factory
):
    manager.goto(f"{LAB}/stations/")
    manager.get_by_role("link", name="Add a station").click()
    picture(manager, "station_new")
    manager.get_by_label("Name").fill("Bench arm")
    manager.get_by_role("button", name="Add station").click()
    expect(manager.locator("#arrival")).to_contain_text("Waiting for Bench arm to connect")
    command = manager.locator("#command").inner_text()
    token = manager.locator("#token").inner_text()
    picture(manager, "station_token")
    folder = tmp_path_factory.mktemp("bench")
    # Run as it stands there, but for where a checkout keeps its Python and where the file is put.
    assert ".venv/bin/python -m training practise" in command
    command = command.replace(".venv/bin/python", f"exec {sys.executable}")
    with open(folder / "host.txt", "wb") as output:
        host = subprocess.Popen(
            ["sh", "-c", command],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        expect(manager.locator("#arrival")).to_contain_text("Bench arm is connected", timeout=90_000)
        assert (folder / "bench-arm.json").stat().st_mode & 0o077 == 0
        picture(manager, "station_connected")
        manager.get_by_role("link", name="Open Bench arm").click()
        expect(manager.locator("#health")).to_contain_text("Healthy")
        expect(manager.locator("#use table")).to_contain_text("Idle")
        picture(manager, "station_upkeep")

        manager.get_by_text("Renew the token", exact=True).click()
        manager.get_by_role("button", name="Renew token").click()
        expect(manager.locator("#confirm")).to_contain_text("Renew the token of Bench arm?")
        manager.locator("#confirm").get_by_role("button", name="Renew the token").click()
        expect(manager.locator("h1")).to_contain_text("Bench arm has a new token")
        expect(manager.locator("#arrival")).to_contain_text("Waiting for it to connect with the new token")
        assert manager.locator("#token").inner_text() != token
        # The old one still works, so its connection is not what is waited for.
        manager.wait_for_timeout(1500)
        expect(manager.locator("#arrival")).to_contain_text("Waiting")
    finally:
        host.send_signal(signal.SIGTERM)
        host.wait(60)
    manager.goto(f"{LAB}/stations/")
    expect(manager.locator("tr[data-row=bench-arm]")).to_contain_text("Offline")
    picture(manager, "stations")
    archive(manager, "bench-arm")


@pytest.fixture(scope="module")
def supervisor(opened):
    return opened("supervisor")


def test_maintenance_is_seen_by_others_at_once_and_wants_nobody(manager, supervisor, picture):
    wall = supervisor
    wall.goto(f"{LAB}/")
    card = wall.locator("article.card[data-station=station-2]")
    expect(card).to_be_visible()
    manager.goto(f"{LAB}/stations/station-2")
    manager.get_by_role("button", name="Put in maintenance").click()
    expect(manager.locator("#maintenance")).to_contain_text("Say why")
    manager.get_by_label("Why").fill("new gripper")
    manager.get_by_role("button", name="Put in maintenance").click()
    expect(manager.locator("#maintenance")).to_contain_text("In maintenance: new gripper")
    expect(manager.locator("h1 + .state")).to_contain_text("Maintenance")
    expect(card.locator(".state")).to_contain_text("Maintenance")
    expect(card).to_contain_text("new gripper")
    expect(wall.locator("#attention article[data-station=station-2]")).to_have_count(0)
    expect(wall.locator("#tally")).to_contain_text("1 maintenance")
    picture(wall, "wall_maintenance")
    picture(manager, "station_maintenance")
    manager.goto(f"{LAB}/stations/")
    expect(manager.locator("tr[data-row=station-2]")).to_contain_text("Maintenance")
    manager.goto(f"{LAB}/stations/station-2")
    manager.get_by_role("button", name="End maintenance").click()
    expect(manager.locator("#toasts")).to_contain_text("is out of maintenance")
    expect(card.locator(".state")).to_contain_text("Paused")
    card.get_by_role("button", name="Resume").click()
    expect(card.locator(".state")).not_to_contain_text("Paused")


def test_the_audit_log_is_filtered_and_exported_as_it_was_filtered(manager, picture, tmp_path):
    manager.goto(f"{LAB}/stations/station-1")
    manager.get_by_label("Why").fill("new camera")
    manager.get_by_role("button", name="Put in maintenance").click()
    expect(manager.locator("#maintenance")).to_contain_text("In maintenance: new camera")
    manager.get_by_role("button", name="End maintenance").click()
    expect(manager.locator("#toasts")).to_contain_text("is out of maintenance")
    manager.get_by_role("button", name="Resume").click()
    expect(manager.locator("body")).to_have_attribute("data-station-state", "idle")
    manager.goto(f"{LAB}/audit")
    expect(manager.locator("tr.act").first).to_contain_text("Resume")
    picture(manager, "audit")
    manager.get_by_label("Act", exact=True).select_option("maintenance_on")
    manager.get_by_label("Station", exact=True).select_option("Station 1")
    manager.get_by_role("button", name="Filter").click()
    expect(manager.locator("tr.act")).to_have_count(1)
    expect(manager.locator("tr.act")).to_contain_text("new camera")
    for kind, read in (
        ("CSV", lambda path: list(csv.DictReader(path.open(newline="")))),
        ("JSON", lambda path: json.loads(path.read_text())),
    ):
        with manager.expect_download() as download:
            manager.get_by_role("link", name=f"Export {kind}").click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        (row,) = read(path)
        assert (row["person"], row["station"], row["reason"]) == ("manager", "Station 1", "new camera")
    manager.goto(f"{LAB}/audit?person=manager&kind=dataset_deleted")
    expect(manager.locator("main")).to_contain_text("No act found")
    picture(manager, "audit_none")
