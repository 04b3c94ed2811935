"""Figures are pure, so what a chart claims can be read off its traces."""

import pytest

from fleetui.charts import figures


def point(version, practice_episodes, successes, n=200, low=0.3, high=0.6):
    return {
        "version": version,
        "practice_episodes": practice_episodes,
        "successes": successes,
        "n": n,
        "low": low,
        "high": high,
    }


def traces(figure, **wanted):
    return [trace for trace in figure.data if all(getattr(trace, name) == value for name, value in wanted.items())]


def test_success_curve_has_its_band_and_the_sft_level_dashed():
    runs = [{"name": "a", "points": [point(0, 0, 90), point(4, 240, 150, low=0.68, high=0.81)]}]
    figure = figures.success_curves(runs)
    (curve,) = traces(figure, name="a")
    assert list(curve.x) == [0, 240] and list(curve.y) == [0.45, 0.75]
    (band,) = traces(figure, fill="toself")
    assert list(band.y) == [0.6, 0.81, 0.68, 0.3]
    level = [trace for trace in figure.data if trace.line.dash == "dash" and trace.name is None]
    assert [list(trace.y) for trace in level] == [[0.45, 0.45]]


def station_point(practice_episodes, successes, known, unknown=0):
    rate = successes / known if known else None
    counts = {"known": known, "unknown": unknown, "successes": successes, "detected": 1, "made": known + unknown}
    return counts | {"version": 4, "practice_episodes": practice_episodes, "rate": rate, "low": 0.3, "high": 0.9}


def test_evaluations_on_stations_are_a_series_of_their_own():
    shown = [station_point(240, 3, 4, unknown=2), station_point(300, 0, 0, unknown=5)]
    figure = figures.success_curves([{"name": "a", "points": [point(0, 0, 90)], "stations": shown}])
    (series,) = traces(figure, name="a, on stations")
    assert list(series.x) == [240] and list(series.y) == [0.75], "where nothing is known there is no point"
    assert series.error_y.array[0] == pytest.approx(0.15) and series.error_y.arrayminus[0] == pytest.approx(0.45)
    (curve,) = traces(figure, name="a")
    assert list(curve.y) == [0.45] and curve.marker.symbol != series.marker.symbol
    assert series.showlegend is not False
    alone = figures.success_curves([{"name": "b", "points": [], "stations": shown}])
    assert [trace.name for trace in alone.data] == ["b, on stations"]
    nothing = figures.success_curves([{"name": "b", "points": [], "stations": shown[1:]}])
    assert not nothing.data and "No evaluation yet" in nothing.layout.annotations[0].text


def test_speed_and_falls_stand_beside_success_where_they_were_counted():
    runs = [{"name": "a", "points": [point(0, 0, 90), point(4, 240, 150) | {"steps_to_success": 41.6, "falls": 3}]}]
    (curve,) = traces(figures.success_curves(runs), name="a")
    assert [row[5] for row in curve.customdata] == ["", "<br>42 steps to success<br>1.5 falls per 100 attempts"]
    assert "%{customdata[5]}" in curve.hovertemplate
    assert figures.speed_and_falls({"n": 9, "steps_to_success": None, "falls": 9}) == "<br>100.0 falls per 100 attempts"


def test_runs_side_by_side_differ_in_colour_dash_and_marker():
    figure = figures.success_curves([{"name": name, "points": [point(0, 0, 90)]} for name in "abc"])
    curves = [traces(figure, name=name)[0] for name in "abc"]
    assert len({curve.line.color for curve in curves}) == len({curve.line.dash for curve in curves}) == 3
    assert len({curve.marker.symbol for curve in curves}) == 3


@pytest.mark.parametrize(
    "figure, said",
    [
        (figures.success_curves([{"name": "a", "points": []}]), "No evaluation yet"),
        (figures.interventions([{"name": "s", "robot_hours": 0.0, "touches": {}, "per_hour": None}]), "for a minute"),
        (
            figures.interventions([{"name": "s", "robot_hours": 2.0, "touches": {}, "per_hour": 0.0}]),
            "No intervention in 2.0",
        ),
        (figures.episode_lengths([{"name": "a", "versions": []}]), "no practice episodes"),
    ],
)
def test_an_empty_chart_says_why(figure, said):
    assert said in figure.layout.annotations[0].text


def test_interventions_are_a_rate_and_stations_without_time_are_left_out():
    rows = [
        {"name": "one", "robot_hours": 2.0, "touches": {"reset": 4, "override": 1}, "per_hour": 2.5},
        {"name": "two", "robot_hours": 0.001, "touches": {"reset": 9}, "per_hour": None},
    ]
    figure = figures.interventions(rows)
    assert {trace.name: (list(trace.x), list(trace.y)) for trace in figure.data} == {
        "reset": (["one"], [2.0]),
        "override": (["one"], [0.5]),
    }


def test_lengths_are_medians_by_version():
    versions = [
        {"version": 0, "count": 3, "quartiles": [15.0, 20.0, 55.0]},
        {"version": 1, "count": 1, "quartiles": [7.0, 7.0, 7.0]},
    ]
    (line,) = traces(figures.episode_lengths([{"name": "a", "versions": versions}]), name="a")
    assert list(line.x) == [0, 1] and list(line.y) == [20, 7]
    assert [row[0] for row in line.customdata] == [3, 1]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_curves_stand_out_from_their_ground(theme):
    ground = figures.GROUNDS[theme]
    assert contrast(ground["soft"], ground["surface"]) >= 4.5
    assert all(contrast(colour, ground["surface"]) >= 3 for colour in figures.COLOURS[theme])


def contrast(one, other):
    """WCAG 2: the ratio of the two luminances, each raised by .05."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
