"""A pretrained text encoder comes in by the page Models, a run of demonstrations builds on it, and its policy practises
at a station, which fetches the model from the server.
"""

import zipfile

import pytest
from playwright.sync_api import expect

from tests.browser.conftest import LAB, api, close_page, new_page
from tests.browser.test_usable_by_everyone import RECIPES, violations_in_all_sizes, wait_for
from tests.conftest import new_fleet
from tests.training.tiny_models import bert

# Of SFT, by the labels of its form.
QUICK = {
    "Updates": "20",
    "Batch size": "16",
    "Validate every": "10",
    "Grounding updates": "10",
    "Hidden units": "16",
    "Largest threshold": "0",
    "Evaluation episodes": "0",
}

STICKS_OUT = """() => {
  const table = document.querySelector("#models").parentElement, panel = table.closest("section");
  return table.getBoundingClientRect().right - panel.getBoundingClientRect().right;
}"""


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """Where the administrator lets people import from."""
    folder = tmp_path_factory.mktemp("theirs").resolve()
    bert(folder / "tiny-bert")
    (folder / "tiny-bert" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny BERT\n")
    (folder / "pickled").mkdir()
    (folder / "pickled" / "config.json").write_text('{"model_type": "bert"}')
    (folder / "pickled" / "pytorch_model.bin").write_bytes(b"a pickle")
    return folder


@pytest.fixture(scope="module")
def fleet(theirs):
    with new_fleet(1, FLEETUI_IMPORT_ROOTS=str(theirs)) as fleet:
        yield fleet


@pytest.fixture(scope="module")
def researcher(fleet, browser):
    page = new_page(browser, fleet.url, fleet.logins["researcher"])
    yield page
    close_page(page)


def add(page, folder):
    page.get_by_label("Folder on the server").fill(str(folder))
    page.get_by_role("button", name="Add", exact=True).click()


def test_a_model_is_added_and_a_run_builds_on_it_and_practises(researcher, theirs, picture, fleet):
    page = researcher
    page.goto(f"{LAB}/runs/")
    page.get_by_role("link", name="Models").click()
    expect(page.get_by_role("heading", name="No models yet")).to_be_visible()
    expect(page.locator(".empty")).to_contain_text("python -m training models --into FOLDER")
    picture(page, "models_none")

    add(page, theirs / "pickled")
    expect(page.locator("#imports")).to_contain_text("pytorch_model.bin only, which can run code")
    add(page, theirs / "tiny-bert")
    row = page.locator("#models tr")
    expect(row).to_contain_text("tiny-bert")  # the page's script sees that it is whole
    for told in ("BertModel", "Text encoder", "apache-2.0", "researcher", "none"):
        expect(row).to_contain_text(told)
    (model,) = api(page, "GET", "models")["items"]
    assert row.locator("code").text_content() == model["sha256"][:12]
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    row.get_by_role("button", name="Copy").click()
    assert page.evaluate("navigator.clipboard.readText()") == model["sha256"]

    page.goto(f"{LAB}/runs/new?kind=sft")
    page.locator("summary", has_text="further settings").click()
    for label, value in QUICK.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_label("Text encoder").select_option(model["sha256"])
    picture(page, "launch_with_model")
    page.get_by_role("button", name="Launch").click()
    page.wait_for_url("**/runs/1")
    expect(page.locator("h1 + [data-f=state]")).to_contain_text("Completed", timeout=180_000)
    expect(page.locator("#use")).to_be_visible()  # the page has come anew
    assert api(page, "GET", "runs/1")["recipe"]["text_encoder"] == model["sha256"]
    page.locator("#recipe summary").click()
    expect(page.locator("#recipe")).to_contain_text("tiny-bert")
    page.goto(f"{LAB}/runs/new?kind=sft&like=1")
    expect(page.get_by_label("Text encoder")).to_have_value(model["sha256"])

    body = {"kind": "improve", "parent": 1, "task": "block2block", "stations": ["station-1"]}
    body["recipe"] = RECIPES["improve"] | {"max_episodes": 4, "evaluation_episodes": 0}
    practice = api(page, "POST", "runs", body)["id"]
    fast = new_page(page.context.browser, fleet.url, fleet.logins["manager"])
    api(fast, "POST", "stations/station-1/command", {"name": "speed", "args": {"value": 0}})
    close_page(fast)
    ended = lambda: api(page, "GET", f"runs/{practice}")["state"] in ("completed", "failed") or None  # noqa: E731
    wait_for(page, ended, 180, "The practice did not end.")
    run = api(page, "GET", f"runs/{practice}")
    assert run["state"] == "completed", run["error"]
    assert len(api(page, "GET", f"episodes?run={practice}")["items"]) >= 4
    assert (fleet.data / "runs" / str(practice) / "models" / model["sha256"] / "config.json").is_file()

    page.goto(f"{LAB}/models/")
    expect(page.locator("#models")).to_contain_text("sft 1")
    picture(page, "models")
    size = page.viewport_size
    for width in (1280, 740):  # beside the form, and the narrowest that still has a table
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate(STICKS_OUT) <= 0, f"at {width} px the table is wider than its panel"
    page.set_viewport_size(size)
    assert not (found := violations_in_all_sizes(page)), "\n".join(found)
    page.locator("#models").get_by_role("button", name="Archive").click()
    page.get_by_role("dialog").get_by_role("button", name="Archive").click()
    page.locator("#archived summary").click()
    page.locator("#archived").get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("because runs or their checkpoints need it")).to_be_visible()


def test_an_archive_of_one_is_sent(researcher, theirs, tmp_path):
    page = researcher
    vision = tmp_path / "other-bert.zip"
    with zipfile.ZipFile(vision, "w") as archive:
        for each in (theirs / "tiny-bert").iterdir():
            archive.write(each, f"other-bert/{each.name}")
        archive.writestr("other-bert/NOTES.md", "# So it is another one\n")
    page.goto(f"{LAB}/models/")
    page.get_by_label("Archive", exact=True).set_input_files(vision)
    page.get_by_label("Name").fill("sent")
    page.get_by_role("button", name="Add", exact=True).click()
    expect(page.locator("#models")).to_contain_text("sent")
