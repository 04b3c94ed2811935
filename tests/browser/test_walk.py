"""The whole walk of a researcher in a real browser, by the pages' own links and buttons alone: import, look, trim,
train, compare, promote, practise, audit, export.
"""

import csv
import re
import zipfile

import pytest
from playwright.sync_api import expect

from robots.demonstrators import collect_demonstrations
from robots.lerobot.writing import write_dataset
from robots.worlds.language_table import LANGUAGE_TABLE
from tests.browser.conftest import LAB, api
from tests.browser.test_usable_by_everyone import RECIPES, violations

DATASET = "Given by a friend"
EPISODES = 8
RECIPE = RECIPES["sft"] | {"evaluation_episodes": 5}
SLOW_MS = 120_000  # what a job makes on a busy machine


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Demonstrations of the table as a LeRobot dataset, packed."""
    folder = tmp_path_factory.mktemp("given") / "table"
    write_dataset(folder, collect_demonstrations(["block2block"], EPISODES, seed=11), LANGUAGE_TABLE)
    packed = folder.with_suffix(".zip")
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder.parent))
    return packed


@pytest.fixture(scope="module")
def page(opened):
    """The manager's: the one role that may do all of it."""
    page = opened("manager")
    yield page
    page.goto(f"{LAB}/tasks/")  # other files' tests use the same fleet: leave it as it was
    api(page, "PATCH", "tasks/block2block", {"audit_share": None})
    (newest, *_) = [row for row in api(page, "GET", "promotions")["items"] if row["role"] == "policy"] or [None]
    if newest and newest["checkpoint"]:
        api(page, "POST", f"promotions/{newest['id']}/undo")


@pytest.fixture
def look(picture):
    """A picture in each size, and axe in one: test_usable_by_everyone.py has the same pages in all."""

    def at(page, name):
        picture(page, f"walk_{name}")
        found = violations(page)
        assert not found, "\n".join([name, *found])

    return at


def go(page, name):
    """By the bar of pages."""
    page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).first.click()


def launch(page, name, recipe):
    """What the form of a run holds already stays."""
    further = page.locator("details.panel").first
    if further.get_attribute("open") is None:
        further.locator("summary").click()
    page.locator("#id_name").fill(name)
    for field, value in recipe.items():
        page.locator(f"#id_{field}").fill(str(value))
    page.get_by_role("button", name="Launch").click()
    page.wait_for_url(re.compile(r"/runs/\d+$"))
    expect(page.locator(".page-head [data-f=state]")).to_have_text("Completed", timeout=SLOW_MS)
    expect(page.locator("#use")).to_be_visible()  # the page has come anew, with what can be done now


def test_the_whole_walk(page, archive, look):
    import_and_look(page, archive, look)
    trim(page, look)
    train_and_compare(page, look)
    promote(page, look)
    practise(page, look)
    audit(page, look)
    export(page)


def import_and_look(page, archive, look):
    go(page, "Datasets")
    form = page.locator("#import-form")
    form.get_by_label("Name").fill(DATASET)
    form.get_by_label("Archive").set_input_files(str(archive))
    form.get_by_role("button", name="Import").click()
    link = page.locator("#datasets").get_by_role("link", name=DATASET, exact=True)
    expect(link).to_be_visible(timeout=SLOW_MS)
    look(page, "1_imported")
    link.click()
    page.get_by_role("link", name="Pictures").click()
    expect(page.locator(".moving.has-strip")).to_have_count(EPISODES, timeout=SLOW_MS)
    look(page, "2_grid")


def trim(page, look):
    page.locator(".tile a").first.click()
    expect(page.locator(".feed.has-frame")).not_to_have_count(0, timeout=SLOW_MS)
    expect(page.locator(".signal")).not_to_have_count(0)
    with page.expect_download() as saved:
        page.locator("#export").get_by_role("link", name="CSV").click()
    assert len(list(csv.reader(saved.value.path().open()))) > 10
    for key in ("Shift+ArrowRight", "i"):
        page.keyboard.press(key)
    look(page, "3_episode")
    page.get_by_role("button", name="Trim").click()
    expect(page.locator("#toasts")).to_contain_text(f"version 2 of {DATASET}")
    page.locator(".crumb a").last.click()
    expect(page.locator("#versions li")).to_have_count(2)
    expect(page.locator("#episode-0")).to_contain_text("cut")
    look(page, "4_trimmed")


def train_and_compare(page, look):
    page.get_by_role("link", name="Train on it").click()
    launch(page, "walk one", RECIPE)
    look(page, "5_trained")
    page.get_by_role("link", name="Clone").click()
    launch(page, "walk two", {"hidden": 16})
    expect(page.locator(".page-head .sub")).to_contain_text(f"{DATASET} v2")
    go(page, "Runs")
    for name in ("walk one", "walk two"):
        page.get_by_role("checkbox", name=re.compile(name)).check()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/runs/compare?*")
    expect(page.locator(".sideways th[scope=row]").first).to_have_text("Hidden units")
    lines = page.frame_locator("iframe.chart").locator("#comparison .legendtext")
    expect(lines).to_have_count(2)
    look(page, "6_compared")


def promote(page, look):
    page.locator("#choices").get_by_role("link", name=re.compile("^walk one")).click()
    page.locator("#checkpoints").get_by_role("link", name="policy").click()
    page.locator("#compare summary").click()
    page.get_by_label("Compared with").select_option(label="walk two v0")
    page.get_by_label("Attempts").fill("4")
    page.get_by_role("button", name="Begin").click()
    expect(page.locator("#comparisons tbody tr").first).to_contain_text("Completed", timeout=SLOW_MS)
    page.get_by_label("Why (others read it)").fill("the wider one")
    page.get_by_role("button", name="Make it the default").click()
    expect(page.locator("#toasts")).to_contain_text("is in force from now on")
    look(page, "7_promoted")
    # So few updates make a detector that may see nothing: one that sees success everywhere has people asked.
    page.get_by_role("link", name="Its detector's studio").click()
    page.locator("#publish").get_by_label("s, steps").fill("900")
    page.locator("#publish").get_by_label("k, frames in a row").fill("20")
    page.locator("#publish").get_by_label("Why").fill("to be asked about everything")
    page.get_by_role("button", name="Publish").click()
    expect(page.locator("#toasts")).to_contain_text("judges all that begins from now on")


def practise(page, look):
    go(page, "Tasks")
    page.locator("#block2block").get_by_role("link", name="Edit").click()
    page.get_by_label("Successes that people check").fill("1")
    page.get_by_role("button", name="Save task").click()
    go(page, "Runs")
    page.locator("table.runs").get_by_role("link", name="walk one").click()
    page.get_by_role("link", name="Practise with it").click()
    form = page.locator("#assign form")
    form.get_by_label("Task", exact=True).select_option(label="Block2Block")
    expect(form.get_by_label("Practise with").locator("option:checked")).to_contain_text("walk one")
    form.get_by_label("Station 1").check()
    form.get_by_label("Until").select_option("episodes")
    form.get_by_label("How much").fill("4")
    look(page, "8_assign")
    form.get_by_role("button", name="Assign").click()
    expect(page.locator("#toasts")).to_contain_text("Block2Block is in the queue")
    expect(page.locator("#queue")).to_contain_text("Nothing is assigned", timeout=SLOW_MS)
    go(page, "Tasks")
    page.locator("#ended > summary").click()
    expect(page.locator("#ended tbody tr").first).to_contain_text("Completed")
    look(page, "9_practised")


def audit(page, look):
    go(page, "Attention")
    page.get_by_role("link", name="Spot checks").click()
    expect(page.locator("#feed.has-frame")).to_be_visible(timeout=SLOW_MS)
    look(page, "10_spot_check")
    first = page.evaluate("() => document.body.dataset.episode")
    shown = page.locator(f'body[data-episode="{first}"]')
    for key, back in (("n", False), ("u", True), ("y", False)):
        page.keyboard.press(key)
        expect(shown).to_have_count(int(back))
        page.wait_for_load_state()
    expect(page.get_by_text("at most").first).to_be_visible()


def export(page):
    go(page, "Datasets")
    page.locator("#datasets").get_by_role("link", name=DATASET, exact=True).click()
    expect(page.locator("#uses")).to_contain_text("walk two")
    page.get_by_role("button", name="Prepare a LeRobot archive").click()
    link = page.get_by_role("link", name="Download the archive")
    expect(link).to_be_visible(timeout=SLOW_MS)
    with page.expect_download() as download:
        link.click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert any(name.endswith("meta/info.json") for name in archive.namelist())
