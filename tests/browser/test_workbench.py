"""The walk of a researcher among runs: find, tag, compare, clone, search; each page is looked at in every size."""

import json
import re

import pytest
from playwright.sync_api import expect

from tests.browser.test_usable_by_everyone import RECIPES, api, violations, wait_for

LAB = "/labs/main"
BATCHES = (36, 68)  # by which these runs are told from those of other tests of the same fleet


@pytest.fixture(scope="module")
def researcher(opened):
    return opened("researcher")


@pytest.fixture(scope="module")
def trained(researcher):
    """Four completed runs: two batch sizes, two seeds each."""
    page = researcher
    ready = lambda: [row for row in api(page, "GET", "datasets")["items"] if row["state"] == "ready"]  # noqa: E731
    dataset = wait_for(page, ready, 120, "No dataset was ready.")[-1]["id"]
    numbers = []
    for batch in BATCHES:
        for seed in (1, 2):
            recipe = RECIPES["sft"] | {"batch": batch, "seed": seed, "evaluation_episodes": 20, "steps": 75}
            body = {"kind": "sft", "name": f"batch {batch}", "dataset": dataset, "recipe": recipe}
            numbers.append(api(page, "POST", "runs", body)["id"])
    states = lambda: [api(page, "GET", f"runs/{number}")["state"] for number in numbers]  # noqa: E731
    wait_for(page, lambda: set(states()) == {"completed"}, 240, "The trainings did not end.")
    return numbers


def rows(page):
    return page.locator("table.runs tbody tr")


def chart(page):
    return page.frame_locator("iframe.chart").locator("#comparison .js-plotly-plot")


def drawn(page):
    """Names of the lines of the comparison."""
    return page.frame_locator("iframe.chart").locator("#comparison .legendtext")


def test_the_table_is_narrowed_tagged_and_kept_as_a_view(researcher, trained, picture):
    page = researcher
    page.goto(f"{LAB}/runs/")
    page.get_by_label("Search").fill("batch=36")
    page.get_by_text("Columns", exact=True).click()
    page.get_by_label("Batch size", exact=True).check()
    page.get_by_label("Tags", exact=True).check()
    page.get_by_role("button", name="Show these columns").click()
    expect(rows(page)).to_have_count(2)
    page.get_by_role("link", name="Batch size").click()
    assert "sort=-recipe.batch" in page.url and "q=batch" in page.url
    for box in page.get_by_role("checkbox", name=re.compile("batch 36")).all():
        box.check()
    page.get_by_label("Tags, with commas between").fill("small")
    page.get_by_role("button", name="Tag", exact=True).click()
    expect(page.locator("#toasts")).to_contain_text("2 of 2 runs changed")
    expect(rows(page).first).to_contain_text("small")
    page.get_by_text("Keep this as a view").click()
    page.get_by_label("Name of the view").fill("Small batches")
    page.get_by_role("button", name="Keep").click()
    page.goto(f"{LAB}/runs/")
    expect(rows(page)).not_to_have_count(2)
    page.get_by_role("link", name="Small batches").click()
    expect(rows(page)).to_have_count(2)
    assert violations(page) == []
    picture(page, "workbench_runs")


def test_two_recipes_are_compared_over_their_seeds(researcher, trained, picture):
    page = researcher
    page.goto(f"{LAB}/runs/?kind=sft&q=batch&state=completed")
    for box in page.get_by_role("checkbox", name=re.compile("batch ")).all():
        box.check()
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/runs/compare?*")
    expect(page.locator(".sideways th[scope=row]")).to_have_text(["Seed", "Batch size"])
    expect(drawn(page)).to_have_count(2)
    expect(page.locator("[data-part=differences]")).to_contain_text("paired t over 2 seeds")
    page.get_by_label("Curve", exact=True).select_option("loss.validation_bc")
    page.get_by_label("Over", exact=True).select_option("own")
    page.wait_for_url("**curve=loss.validation_bc&x=own**")
    expect(page.frame_locator("iframe.chart").locator(".xtitle")).to_have_text("update")
    page.get_by_label("Seeds", exact=True).select_option("apart")
    expect(drawn(page)).to_have_count(4)
    frame = page.locator("iframe.chart").element_handle().content_frame()
    overflow = "() => document.documentElement.scrollHeight - document.documentElement.clientHeight"
    assert frame.evaluate(overflow) <= 1, "The chart's frame has a scroll bar of its own"
    for name, begins in (("PNG", b"\x89PNG"), ("SVG", b"<svg")):
        with page.expect_download() as saved:
            page.frame_locator("iframe.chart").get_by_role("button", name=f"Save as {name}").click()
        content = saved.value.path().read_bytes()
        assert content.startswith(begins) and len(content) > 5000
    with page.expect_download() as saved:
        page.get_by_role("link", name="JSON").click()
    assert json.loads(saved.value.path().read_text())["curve"] == "loss.validation_bc"
    page.reload()
    expect(drawn(page)).to_have_count(4)
    assert violations(page) == []
    page.get_by_label("Seeds", exact=True).select_option("")
    expect(drawn(page)).to_have_count(2)
    picture(page, "workbench_compare")


def test_a_clone_marks_what_differs_and_says_what_to_expect(researcher, trained, picture):
    page = researcher
    page.goto(f"{LAB}/runs/{trained[0]}")
    expect(page.locator("#curve-0")).to_have_attribute("data-points", re.compile("[1-9]"))
    expect(page.locator("#log")).to_contain_text("evaluated")
    assert violations(page) == []
    picture(page, "workbench_run")
    page.get_by_role("link", name="Clone").click()
    expect(page.locator(".field.changed")).to_have_count(len(RECIPES["sft"]) + 2)
    expect(page.locator("#estimate")).to_contain_text(re.compile(r"\d+\s+past\s+runs\s+on"))
    before = page.locator("#estimate").inner_text()
    page.get_by_label("Updates", exact=True).fill("750000")
    expect(page.locator(".field", has_text="Updates").locator(".was").first).to_contain_text(": 75")
    expect(page.locator("#estimate")).not_to_have_text(before)
    assert violations(page) == []
    picture(page, "workbench_clone")


def test_a_log_is_searched(researcher, trained, picture):
    page = researcher
    page.goto(f"{LAB}/runs/{trained[0]}")
    page.get_by_role("link", name="Search the whole log").click()
    page.get_by_label("Lines with").fill("threshold")
    page.get_by_role("button", name="Search").click()
    expect(page.locator(".log")).to_contain_text("threshold")
    assert violations(page) == []
    picture(page, "workbench_log")


def test_a_sweep_goes_through_its_runs_and_shows_the_best(researcher, trained, picture):
    page = researcher
    page.goto(f"{LAB}/runs/{trained[0]}")
    page.get_by_role("link", name="Sweep from it").click()
    page.get_by_label("Setting 1").select_option("batch")
    page.get_by_label("Its values").first.fill("16, 32")
    page.get_by_label("Setting 2").select_option("learning_rate")
    page.get_by_label("Its values").nth(1).fill("1e-4 to 1e-2, log")
    page.get_by_label("Runs", exact=True).fill("2")
    page.get_by_label("Compared by").select_option("loss.validation_bc")
    assert violations(page) == []
    picture(page, "workbench_new_sweep")
    page.get_by_role("button", name="Launch the sweep").click()
    page.wait_for_url(re.compile(r"/sweeps/\d+$"))
    number = page.url.rsplit("/", 1)[1]
    ended = lambda: page.request.get(f"{LAB}/sweeps/{number}").text().count('data-state="completed"') == 3  # noqa: E731
    wait_for(page, ended, 240, "The sweep did not end.")
    page.reload()
    expect(page.locator(".state.tag")).to_contain_text("Completed")
    expect(page.get_by_role("heading", name="Best so far")).to_be_visible()
    expect(page.locator("#parallel .scatterlayer .trace")).to_have_count(2)
    assert violations(page) == []
    picture(page, "workbench_sweep")
    page.goto(f"{LAB}/sweeps/")
    assert violations(page) == []
    picture(page, "workbench_sweeps")


def test_the_charts_page_has_no_scroll_bar_of_its_own(researcher, trained):
    page = researcher
    page.goto(f"{LAB}/charts/")
    frame = page.locator("iframe.frame").element_handle().content_frame()
    page.frame_locator("iframe.frame").locator("#lengths .js-plotly-plot").wait_for()
    page.wait_for_timeout(500)
    assert frame.evaluate("() => document.documentElement.scrollHeight - document.documentElement.clientHeight") <= 1
    low = frame.evaluate("() => document.querySelector('#lengths').getBoundingClientRect().bottom")
    assert low <= page.locator("iframe.frame").bounding_box()["height"], "The last chart is cut off"
