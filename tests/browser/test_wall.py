"""The wall with few and with many stations: cards grow with the room, and what they say can be read."""

import pytest
from django.templatetags.static import static
from playwright.sync_api import expect

LAB = "/labs/main"
LONG = (
    "slide the very large yellow pentagon around the blue crescent and push it into the corner by the green star " * 2
)
CARD = "#wall article.card[data-station=station-1]"
# The wall as though so many stations were there, and station 1 at an instruction.
SHOW = """async ([module, stations, card]) => {
  const { live } = await import(module);
  const { apply } = live.topics.get("wall:main");
  const blank = { state: "practising", connected: true, progress: 0.42, p_success: 0.71, step: 31, limit: 80,
    version: 12, episodes: 1234, speed: 1, attention: false, severity: 0, help: null, holder: "" };
  live.topics.delete("wall:main");
  live.watchFrames = () => {};
  apply("snapshot", { stations: Array.from({ length: stations }, (_, i) =>
    ({ ...blank, slug: `station-${i + 1}`, name: `Station ${i + 1}`, number: i + 1, instruction: "push it",
      ...(i === 0 ? card : {}) })) });
}"""


@pytest.fixture(scope="module")
def page(opened):
    return opened("supervisor")


def show(page, stations, **card):
    page.goto(f"{LAB}/")
    expect(page.locator("#tally [data-state]:visible").first).to_be_visible()
    page.evaluate(SHOW, [static("js/live.js"), stations, card])
    expect(page.locator("#wall article.card")).to_have_count(stations)


@pytest.mark.parametrize("stations, least", [(1, 400), (4, 380), (6, 400), (8, 200), (16, 120)])
def test_cameras_grow_with_the_room(page, picture, stations, least):
    show(page, stations, instruction="push the blue cube to the left side of the yellow pentagon")
    box = page.locator(f"{CARD} .feed").bounding_box()
    assert box["width"] >= least, box
    if stations == 4:  # two by two, and all of them on the screen
        boxes = [card.bounding_box() for card in page.locator("#wall article.card").all()]
        assert len({round(box["x"]) for box in boxes}) == 2
    picture(page, f"wall_of_{stations}")


@pytest.mark.parametrize("stations", [4, 16])
@pytest.mark.parametrize(
    "card",
    [
        {},
        {"state": "overridden", "attention": True, "severity": 1, "holder": "ada", "reason": "driven by a person"},
        {"state": "needs_person", "attention": True, "severity": 3, "reason": "a block is off the table"},
        {"state": "paused", "paused": True},
    ],
)
def test_the_instruction_is_read_in_full_on_every_card(page, picture, stations, card):
    show(page, stations, instruction=LONG, **card)
    said = page.locator(f"{CARD} [data-f=instruction]")
    expect(said).to_have_text(LONG)
    expect(said).to_be_visible()
    words, feed = said.bounding_box(), page.locator(f"{CARD} .feed").bounding_box()
    assert words["x"] >= feed["x"] + feed["width"] or words["y"] >= feed["y"] + feed["height"], "the camera hides it"
    cut = said.evaluate("each => each.scrollHeight > each.clientHeight + 1 || each.scrollWidth > each.clientWidth + 1")
    assert not cut
    if card.get("holder"):
        expect(page.locator(f"#attention {CARD.removeprefix('#wall ')}")).to_be_visible()
        picture(page, f"wall_overridden_of_{stations}")


def test_each_figure_carries_its_name(page):
    show(page, 16)
    figures = page.locator(f"{CARD} .figures div")
    named = [figure.inner_text().split("\n") for figure in figures.all()]
    assert named == [
        ["Progress", "42 %"],
        ["P(success)", "0.71"],
        ["Step", "31 of 80"],
        ["Policy", "v12"],
        ["Episodes", "1\u202f234"],
        ["Speed", "1×"],
    ]
    for figure in figures.all():
        assert figure.locator("dt").evaluate("each => each.scrollWidth <= each.clientWidth"), figure.inner_text()
