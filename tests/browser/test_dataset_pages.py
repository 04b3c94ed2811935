"""The walk of somebody who was given a LeRobot dataset: import it as an archive, look, sort, play, trim, go back,
relabel, train; and what stands beside: moving thumbnails, keys, downloads, a dataset of stored episodes.
"""

import re
import zipfile

import pytest
from playwright.sync_api import expect

from tests.browser.test_usable_by_everyone import AXE
from tests.robots import lerobot_folders

LAB = "/labs/main"
EPISODES = 10
MADE_MS = 90_000  # what a job makes on a busy machine


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    """A dataset of two cameras as a .zip, and the same without its videos."""
    found = {}
    for name, videos in (("whole", True), ("blind", False)):
        folder = tmp_path_factory.mktemp(name) / "arm"
        episodes = [
            lerobot_folders.episode(
                12 + 2 * i if i < 9 else 60, i, ["put the cube down"] if i % 2 else ["lift the cube"]
            )
            for i in range(EPISODES)
        ]
        lerobot_folders.write(folder, episodes, videos=videos)
        found[name] = folder.parent / f"{name}.zip"
        with zipfile.ZipFile(found[name], "w") as archive:
            for file in sorted(folder.rglob("*")):
                archive.write(file, file.relative_to(folder.parent))
    return found


@pytest.fixture(scope="module")
def page(opened):
    return opened("researcher")


@pytest.fixture
def looked_at(page, picture):
    """A picture in light, dark and as a phone shows it; axe-core finds nothing in light and dark."""

    def look(name):
        picture(page, name)
        for theme in ("light", "dark"):
            page.evaluate("theme => { document.documentElement.dataset.theme = theme; }", theme)
            page.evaluate(AXE)
            found = page.evaluate("axe.run().then(({ violations }) => violations)")
            told = [(each["id"], [node["html"][:200] for node in each["nodes"][:3]]) for each in found]
            assert not told, f"{name} in {theme}: {told}"
        page.evaluate("document.documentElement.dataset.theme = 'light'")

    return look


def send(page, name, file):
    page.goto(f"{LAB}/datasets/")
    form = page.locator("#import-form")
    form.get_by_label("Name").fill(name)
    form.get_by_label("Archive").set_input_files(str(file))
    form.get_by_role("button", name="Import").click()


@pytest.fixture(scope="module")
def imported(page, archives):
    """The address of the dataset that was imported."""
    send(page, "Their arm", archives["whole"])
    expect(page.locator("#imports")).to_contain_text("Their arm")
    link = page.locator("#datasets").get_by_role("link", name="Their arm", exact=True)
    expect(link).to_be_visible(timeout=MADE_MS)
    link.click()
    page.wait_for_url(re.compile(r"/datasets/\d+/$"))
    return page.url


def test_an_archive_is_imported_looked_at_and_sorted(page, imported, looked_at):
    page.goto(imported)
    expect(page.locator("h1")).to_have_text("Their arm")
    expect(page.locator(".page-head")).to_contain_text("imported from an archive, whole.zip (LeRobot v3.0)")
    expect(page.locator("#rows tbody tr")).to_have_count(EPISODES)
    page.locator("#rows").get_by_role("link", name="Steps").click()
    page.locator("#rows").get_by_role("link", name="Steps").click()
    assert "sort=-steps" in page.url
    expect(page.locator("#rows tbody tr").first).to_contain_text("59")
    expect(page.locator("#outliers")).to_contain_text("Its length is 59 steps")
    page.get_by_label("Words", exact=True).first.fill("lift")
    page.get_by_role("button", name="Filter").click()
    expect(page.locator("#rows tbody tr")).to_have_count(5)
    page.locator("#statistics").scroll_into_view_if_needed()
    expect(page.locator("#numbers tr").first).to_contain_text("pan.pos", timeout=MADE_MS)
    expect(page.locator("#plot-actions .bars path").first).to_be_attached()
    looked_at("dataset")


def test_thumbnails_move_only_where_they_are_hovered_or_focused(page, imported, looked_at):
    page.goto(f"{imported}?view=grid")
    expect(page.locator(".moving.has-strip")).to_have_count(EPISODES, timeout=MADE_MS)
    first = page.locator(".moving").first
    running = "tile => getComputedStyle(tile.querySelector('.moment')).animationName"
    assert first.evaluate(running) == "none"
    first.hover()
    assert first.evaluate(running) == "moments"
    page.emulate_media(reduced_motion="reduce")
    assert first.evaluate(running) == "none"
    page.emulate_media(reduced_motion="no-preference")
    page.mouse.move(0, 0)
    first.focus()
    assert first.evaluate(running) == "moments"
    page.keyboard.press("x")
    expect(page.locator("#chosen")).to_have_text("1 chosen")
    looked_at("dataset_grid")


def test_an_episode_plays_is_trimmed_and_the_trim_undone(page, imported, looked_at):
    page.goto(imported)
    page.locator("#episode-9").get_by_role("link").first.click()
    expect(page.locator(".feed.has-frame")).to_have_count(2, timeout=MADE_MS)
    expect(page.locator(".signal")).to_have_count(2)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    expect(page.locator("#where")).to_have_text("step 11 of 59")
    expect(page.locator(".feed.has-frame canvas").first).to_be_visible()
    page.wait_for_function("() => [...document.querySelectorAll('.feed')].every((each) => each.dataset.step === '11')")
    assert "step=11" in page.url
    page.keyboard.press("i")
    page.keyboard.press("End")
    for _ in range(2):
        page.keyboard.press("Shift+ArrowLeft")
    page.keyboard.press("o")
    expect(page.locator("#id_start")).to_have_value("11")
    expect(page.locator("#id_stop")).to_have_value("39")
    page.keyboard.press(" ")
    page.wait_for_function("() => !document.querySelector('#where').textContent.startsWith('step 39 ')")
    page.keyboard.press(" ")
    looked_at("dataset_episode")
    page.get_by_role("button", name="Trim").click()
    expect(page.locator("#where")).to_have_text("step 0 of 28")
    expect(page.locator("#toasts")).to_contain_text("version 2 of Their arm")
    expect(page.locator(".feed.has-frame")).to_have_count(2)
    page.locator("#toasts").get_by_role("button", name="Undo").click()
    page.wait_for_url(imported)
    expect(page.locator("#versions")).to_contain_text("Version 2")
    expect(page.locator("#episode-9")).to_contain_text("59")
    page.locator("#episode-3").get_by_role("link").first.click()
    page.wait_for_url(re.compile("episodes/3"))
    page.keyboard.press("n")
    page.wait_for_url(re.compile("episodes/4"))
    page.keyboard.press("p")
    page.wait_for_url(re.compile("episodes/3"))


def test_words_are_said_anew_for_several_and_it_leads_to_training(page, imported, looked_at):
    page.goto(imported)
    page.locator("#episode-0 input").check()
    page.locator("#episode-2 input").click(modifiers=["Shift"])
    expect(page.locator("#chosen")).to_have_text("3 chosen")
    page.locator("#edit").get_by_label("Words").fill("raise the cube")
    page.get_by_role("button", name="Make a new version").click()
    expect(page.locator("#toasts")).to_contain_text("version 3 of Their arm")
    expect(page.locator("#rows").get_by_role("link", name="raise the cube")).to_have_count(3)
    page.get_by_role("link", name="Train on it").click()
    page.wait_for_url(re.compile(r"runs/new\?dataset=\d+"))
    chosen = page.locator("#id_dataset option:checked")
    expect(chosen).to_contain_text("Their arm v3")


def test_without_its_videos_it_asks_and_goes_on_with_state_alone(page, archives, looked_at):
    send(page, "Blind arm", archives["blind"])
    question = page.locator("#imports .needs-panel")
    expect(question).to_contain_text("Import state and action alone", timeout=MADE_MS)
    looked_at("datasets_question")
    question.get_by_role("button", name="Yes, go on").click()
    link = page.locator("#datasets").get_by_role("link", name="Blind arm", exact=True)
    expect(link).to_be_visible(timeout=MADE_MS)
    looked_at("datasets")
    link.click()
    expect(page.locator(".page-head")).to_contain_text("without its cameras")


def test_an_archive_is_prepared_and_downloaded(page, imported):
    page.goto(imported)
    page.get_by_role("button", name="Prepare a LeRobot archive").click()
    link = page.get_by_role("link", name="Download the archive")
    expect(link).to_be_visible(timeout=MADE_MS)
    with page.expect_download() as download:
        link.click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert any(name.endswith("meta/info.json") for name in archive.namelist())


def test_the_dataset_of_stored_episodes_counts_as_it_is_filled_in(page, looked_at):
    page.goto(f"{LAB}/datasets/from-episodes")
    expect(page.locator("#count")).to_contain_text("match")  # other files' tests may have practised here
    page.get_by_label("Begun before").fill("2020-01-01T00:00")
    expect(page.locator("#count")).to_have_text(re.compile("^0 episodes match"))
    page.get_by_label("Name of the dataset").fill("none")
    page.get_by_role("button", name="Make the dataset").click()
    expect(page.locator("#problems")).to_contain_text("No stored episode matches")
    expect(page.get_by_label("Name of the dataset")).to_have_value("none")
    looked_at("dataset_of_episodes")
