"""The design's promises that can be measured: contrast in light and dark, a word and a shape for each state."""

import re
from pathlib import Path

import pytest

from fleetui.fleet.models import ASSIGNMENT_STATES, SHOWN_STATES
from fleetui.learning.models import DATASET_STATES, RUN_STATES
from tests.charts.test_figures import contrast

ROOT = Path(__file__).resolve().parents[2]
CSS = (ROOT / "fleetui" / "static" / "fleetui.css").read_text()
PROPERTIES = dict(re.findall(r"--([\w-]+): light-dark\((#\w+, #\w+)\)", CSS))


def colour(name, theme):
    return PROPERTIES[name].split(", ")[theme == "dark"]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("text", ["ink", "ink-2", "ink-3"])
@pytest.mark.parametrize("ground", ["paper", "surface", "sunken"])
def test_text_has_contrast(text, ground, theme):
    assert contrast(colour(text, theme), colour(ground, theme)) >= 4.5


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("state", ["practising", "evaluating", "overridden", "needs", "stopped", "quiet"])
def test_a_state_has_contrast_on_each_of_its_grounds(state, theme):
    for ground in ("paper", "surface", f"{state}-bg"):
        assert contrast(colour(state, theme), colour(ground, theme)) >= 4.5


def test_each_state_has_a_shape_and_no_two_of_a_station_are_alike():
    sprite = (ROOT / "templates" / "_sprite.html").read_text()
    shapes = dict(re.findall(r'<symbol id="s-([\w]+)"[^>]*>(.*?)</symbol>', sprite, re.DOTALL))
    assert {*SHOWN_STATES, *RUN_STATES, *ASSIGNMENT_STATES, *DATASET_STATES} <= set(shapes)
    assert len({shapes[state] for state in SHOWN_STATES}) == len(SHOWN_STATES)


def test_pages_hold_no_inline_script_and_no_foreign_address():
    for template in (ROOT / "templates").rglob("*.html"):
        text = template.read_text()
        assert not re.search(r"\son\w+=|javascript:|\sstyle=", text), template
        assert not re.search(r"<script(?![^>]*\ssrc=)", text), template
        assert not re.search(r'(?:src|href)="(?:https?:)?//', text), template
