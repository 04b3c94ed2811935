"""Curves come from one small bundle of plotly.js, fetched once: pages of runs and the Dash frame name the same file."""

import gzip
import re
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.staticfiles.finders import get_finder
from django.templatetags.static import static
from django.test import Client
from plotly.offline import get_plotlyjs_version

from fleetui import static_files
from fleetui.charts import figures
from tests.charts.test_guard import ask, researcher  # noqa: F401 (a fixture)

pytestmark = pytest.mark.django_db
NAME = "vendor/plotly-basic.min.js"
BUNDLE = Path(settings.BASE_DIR) / "fleetui" / "static" / NAME
# What the bundle draws: https://github.com/plotly/plotly.js/blob/master/dist/README.md
DRAWN = {"scatter", "bar", "pie"}


def test_the_bundle_is_of_the_version_that_python_writes_figures_for():
    assert f"plotly.js (basic - minified) v{get_plotlyjs_version()}" in BUNDLE.read_text()[:200]


def test_every_chart_is_of_a_kind_that_the_bundle_draws():
    points = [{"version": 0, "practice_episodes": 0, "successes": 1, "n": 2, "low": 0.1, "high": 0.9}]
    drawn = [
        figures.success_curves([{"name": "a", "points": points}]),
        figures.interventions([{"name": "a", "robot_hours": 1.0, "touches": {"reset": 1}, "per_hour": 1.0}]),
        figures.episode_lengths([{"name": "a", "versions": [{"version": 0, "count": 1, "quartiles": [3, 3, 3]}]}]),
    ]
    assert {trace.type for figure in drawn for trace in figure.data} <= DRAWN
    script = (BUNDLE.parents[1] / "js" / "run.js").read_text()
    assert set(re.findall(r"\btype: \"(\w+)\"", script)) <= DRAWN  # a trace that names none is a scatter


def test_the_frame_and_the_pages_name_the_same_file(researcher):  # noqa: F811
    _, _, page = ask("/charts/app/", researcher, query="lab=north")
    scripts = re.findall(r'<script[^>]* src="([^"]*)"', page)
    assert [each for each in scripts if "plotly" in each] == [static(NAME)]
    template = Path(settings.BASE_DIR) / "templates" / "learning" / "run.html"
    assert f"{{% static '{NAME}' %}}" in template.read_text()


@pytest.mark.parametrize("name", [NAME, "fleetui.css", "js/live.js"])
def test_scripts_and_styles_are_compressed_and_kept_for_good(name):
    answer = Client().get(static(name), headers={"Accept-Encoding": "gzip, br"})
    assert re.search(r"\.[0-9a-f]{12}\.(js|css)$", static(name))
    assert "immutable" in answer["Cache-Control"] and answer["Content-Encoding"] == "gzip"
    sent = b"".join(answer.streaming_content)
    assert len(sent) < 0.5 * len(gzip.decompress(sent))


def test_modules_import_each_other_by_the_hashed_name():
    text = b"".join(Client().get(static("js/app.js")).streaming_content).decode()
    assert f'from "./{Path(static("js/live.js")).name}"' in text


def test_dash_s_own_scripts_are_compressed(researcher):  # noqa: F811
    _, _, page = ask("/charts/app/", researcher, query="lab=north")
    script = re.search(r'src="([^"]*dash_renderer[^"]*)"', page)[1]
    status, headers, sent = ask(script, researcher, encoding="gzip", binary=True)
    assert status == 200 and headers["Content-Encoding"] == "gzip" and headers["Vary"] == "Accept-Encoding"
    assert int(headers["Content-Length"]) == len(sent) < 0.4 * len(gzip.decompress(sent))
    assert gzip.decompress(sent).decode() == ask(script, researcher)[2]


def test_files_are_collected_once_for_each_state_of_the_sources(monkeypatch, settings):
    runs = []
    monkeypatch.setattr(static_files, "call_command", lambda name, **options: runs.append(name))
    static_files.collect()
    assert runs == []  # the test run collected them
    settings.STATICFILES_DIRS = []
    get_finder.cache_clear()
    stamp = Path(settings.STATIC_ROOT) / "collected.txt"
    before = stamp.read_text()
    try:
        static_files.collect()
    finally:
        stamp.write_text(before)
        get_finder.cache_clear()
    assert runs == ["collectstatic"]
