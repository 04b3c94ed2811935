"""Rows -> plotly Figures, pure: no database, no request. The Dash app asks selectors for rows and hands them in here.

Success is always the true success of evaluation episodes with its Wilson band, in simulation or, apart from that, on
stations; detected success is no curve here.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

# Colour means state elsewhere. Side by side, runs need telling apart: each has a colour, a dash and a marker. The
# colours are Okabe and Ito's, which colour-blind people can tell apart, darker and lighter for the two grounds.
COLOURS = {
    "light": ("#0072b2", "#c14a00", "#007a5a", "#9a3f78", "#6b5b00", "#15191d"),
    "dark": ("#56b4e9", "#ffa64d", "#2fd3a5", "#e596c4", "#f0e442", "#e9edf0"),
}
DASHES = ("solid", "longdash", "dashdot", "dash", "longdashdot", "dot")
MARKERS = ("circle", "diamond", "square", "triangle-up", "x", "star")
GROUNDS = {
    "light": {"ink": "#15191d", "soft": "#4a535c", "line": "#d5d9dd", "surface": "#ffffff"},
    "dark": {"ink": "#e9edf0", "soft": "#b4bdc6", "line": "#2c333a", "surface": "#171b1f"},
}
KINDS = ("reset", "self_reset", "override", "terminate", "pause", "stop", "clear_stop")
PATTERNS = ("", "/", "x", "-", ".", "|", "+")


def success_curves(runs: list[dict[str, Any]], theme: str = "light") -> go.Figure:
    """runs: [{"name", "points": [{version, practice_episodes, successes, n, low, high, steps_to_success, falls}]}],
    older evaluations lack the last two. Each has its band and, dashed in its colour, the SFT level: the first
    evaluation, of the same seeds before any practice. "stations": [{version, practice_episodes, rate, known, unknown,
    successes, low, high, detected, made}] are evaluations on stations, a series of its own beside it.
    """
    figure = _figure(theme, "practice episodes", "true success")
    figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    figure.update_xaxes(rangemode="tozero")
    drawn = [run for run in runs if run["points"] or _known(run)]
    for index, run in enumerate(drawn):
        colour, points = COLOURS[theme][index % 6], run["points"]
        if shown := _known(run):
            _add_stations(figure, run["name"], shown, colour)
        if not points:
            continue
        xs = [point["practice_episodes"] for point in points]
        low, high = ([point[end] for point in points] for end in ("low", "high"))
        _add_band(figure, run["name"], xs, low, high, colour)
        level = points[0]["successes"] / points[0]["n"]
        figure.add_scatter(
            x=[xs[0], max(xs[-1], 1)],
            y=[level, level],
            mode="lines",
            line={"color": colour, "dash": "dash", "width": 1},
            hoverinfo="skip",
            showlegend=False,
            legendgroup=run["name"],
        )
        figure.add_scatter(
            x=xs,
            y=[point["successes"] / point["n"] for point in points],
            mode="lines+markers",
            name=run["name"],
            legendgroup=run["name"],
            line={"color": colour, "width": 2, "dash": DASHES[index % 6]},
            marker={"size": 7, "symbol": MARKERS[index % 6]},
            customdata=[
                [point["successes"], point["n"], point["version"], point["low"], point["high"], speed_and_falls(point)]
                for point in points
            ],
            hovertemplate="%{y:.1%} (%{customdata[0]} of %{customdata[1]})"
            "<br>95 %: %{customdata[3]:.0%} to %{customdata[4]:.0%}%{customdata[5]}"
            "<br>%{x} practice episodes, policy v%{customdata[2]}",
        )
    return figure if drawn else _say(figure, "No evaluation yet. A curve begins with its run's first evaluation.")


def _known(run: dict[str, Any]) -> list[dict[str, Any]]:
    """The evaluations on stations of which something is known."""
    return [each for each in run.get("stations", ()) if each["known"]]


def _add_band(
    figure: go.Figure, name: str, xs: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str
) -> None:
    """What lies between two lines over the same xs, tinted; it hides with its run in the legend."""
    figure.add_scatter(
        x=[*xs, *reversed(xs)],
        y=[*high, *reversed(low)],
        fill="toself",
        fillcolor=_translucent(colour, 0.13),
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
    )


def _add_stations(figure: go.Figure, name: str, shown: list[dict[str, Any]], colour: str) -> None:
    """Points with a band each: of one policy there may be several, and between two nothing was measured."""
    figure.add_scatter(
        x=[each["practice_episodes"] for each in shown],
        y=[each["rate"] for each in shown],
        mode="markers",
        name=f"{name}, on stations",
        legendgroup=name,
        marker={"size": 11, "symbol": "diamond-open", "color": colour, "line": {"width": 2}},
        error_y={
            "symmetric": False,
            "array": [each["high"] - each["rate"] for each in shown],
            "arrayminus": [each["rate"] - each["low"] for each in shown],
            "color": colour,
            "width": 5,
        },
        customdata=[
            [each[key] for key in ("successes", "known", "unknown", "low", "high", "detected", "made", "version")]
            for each in shown
        ],
        hovertemplate="on stations: %{y:.1%} (%{customdata[0]} of %{customdata[1]} known, %{customdata[2]} unknown)"
        "<br>95 %: %{customdata[3]:.0%} to %{customdata[4]:.0%}<br>detected in %{customdata[5]} of %{customdata[6]}"
        "<br>%{x} practice episodes, policy v%{customdata[7]}",
    )


def speed_and_falls(point: dict[str, Any]) -> str:
    """Lines of the hover; evaluations from before they were counted have neither."""
    note = ""
    if point.get("steps_to_success") is not None:
        note += f"<br>{point['steps_to_success']:.0f} steps to success"
    if point.get("falls") is not None:
        note += f"<br>{100 * point['falls'] / point['n']:.1f} falls per 100 attempts"
    return note


def interventions(rows: list[dict[str, Any]], theme: str = "light") -> go.Figure:
    """rows: [{"name", "robot_hours", "touches": {kind: n}, "per_hour"}]: a bar a station; below a minute, none."""
    figure = _figure(theme, "", "interventions per robot-hour")
    having = [row for row in rows if row["per_hour"] is not None]
    shades = [GROUNDS[theme]["soft"], GROUNDS[theme]["line"], GROUNDS[theme]["ink"]]
    for index, kind in enumerate(KINDS):
        if any(row["touches"].get(kind) for row in having):
            figure.add_bar(
                x=[row["name"] for row in having],
                y=[row["touches"].get(kind, 0) / row["robot_hours"] for row in having],
                name=kind.replace("_", " "),
                customdata=[[row["touches"].get(kind, 0), row["robot_hours"]] for row in having],
                hovertemplate="%{y:.1f} per robot-hour<br>%{customdata[0]} in %{customdata[1]:.1f} h",
                marker={
                    "color": shades[index % 3],
                    "line": {"color": GROUNDS[theme]["ink"], "width": 1},
                    "pattern": {"shape": PATTERNS[index], "solidity": 0.25},
                },
            )
    figure.update_layout(barmode="stack", bargap=0.35)
    if not having:
        return _say(figure, "No station has practised for a minute yet.")
    return (
        figure
        if figure.data
        else _say(figure, f"No intervention in {sum(row['robot_hours'] for row in having):.1f} robot-hours.")
    )


def episode_lengths(runs: list[dict[str, Any]], theme: str = "light") -> go.Figure:
    """runs: [{"name", "versions": [{version, count, quartiles}]}]: the median length of practice episodes by policy
    version, with the middle half of them as a band.
    """
    figure = _figure(theme, "policy version", "steps in a practice episode")
    figure.update_yaxes(rangemode="tozero")
    for index, run in enumerate(run for run in runs if run["versions"]):
        colour = COLOURS[theme][index % 6]
        xs = [each["version"] for each in run["versions"]]
        low, middle, high = zip(*(each["quartiles"] for each in run["versions"]), strict=True)
        _add_band(figure, run["name"], xs, low, high, colour)
        figure.add_scatter(
            x=xs,
            y=middle,
            mode="lines+markers",
            name=run["name"],
            legendgroup=run["name"],
            line={"color": colour, "width": 2, "dash": DASHES[index % 6]},
            marker={"size": 6, "symbol": MARKERS[index % 6]},
            customdata=[[each["count"]] for each in run["versions"]],
            hovertemplate="median %{y:.0f} steps<br>%{customdata[0]} episodes of v%{x}",
        )
    return figure if figure.data else _say(figure, "These runs have no practice episodes yet.")


def comparison(found: dict[str, Any], theme: str = "light") -> go.Figure:
    """What comparing.compare() found: each of its "lines" with its band, smoothed ones over what they smooth."""
    choice, log = found["choice"], found["log"]
    figure = _figure(theme, found["x_title"], choice.y_title)
    if choice.share and "y" not in log:
        figure.update_yaxes(range=[0, 1.02], tickformat=".0%")
    for axis, update in (("x", figure.update_xaxes), ("y", figure.update_yaxes)):
        if axis in log:
            update(type="log")
    for index, line in enumerate(found["lines"]):
        colour, xs, group = COLOURS[theme][index % 6], np.array(line["x"]), str(index)
        if line["low"]:
            figure.add_scatter(
                x=np.concatenate([xs, xs[::-1]]),
                y=np.array(line["high"] + line["low"][::-1]),
                fill="toself",
                fillcolor=_translucent(colour, 0.13),
                line={"width": 0},
                mode="lines",
                hoverinfo="skip",
                showlegend=False,
                legendgroup=group,
            )
        if line["raw"]:
            figure.add_scatter(
                x=xs,
                y=np.array(line["raw"]),
                mode="lines",
                line={"color": _translucent(colour, 0.35), "width": 1},
                hoverinfo="skip",
                showlegend=False,
                legendgroup=group,
            )
        said = "%{y:.1%}" if choice.share else "%{y:.4g}"
        figure.add_scatter(
            x=xs,
            y=np.array(line["y"]),
            mode="lines+markers" if len(xs) <= 60 else "lines",
            name=line["name"],
            legendgroup=group,
            line={"color": colour, "width": 2, "dash": DASHES[(index + index // 6) % 6]},
            marker={"size": 6, "symbol": MARKERS[(index + index // 6) % 6]},
            customdata=np.array([line["low"], line["high"]]).T if line["low"] else None,
            hovertemplate=f"{said}{_say_band(line, choice.share)}<br>%{{x:.5g}} {found['x_title']}",
        )
    return figure if found["lines"] else _say(figure, "None of these runs has measured this yet. Choose another curve.")


def _say_band(line: dict[str, Any], share: bool) -> str:
    form = ".0%" if share else ".4g"
    band = f"<br>%{{customdata[0]:{form}}} to %{{customdata[1]:{form}}} ({line['band']})"
    return band if line["low"] else ""


def _figure(theme: str, x: str, y: str) -> go.Figure:
    ground = GROUNDS[theme]
    axis = {
        "gridcolor": ground["line"],
        "zerolinecolor": ground["line"],
        "linecolor": ground["line"],
        "automargin": True,
    }
    return go.Figure(
        layout={
            "template": None,
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "font": {
                "family": "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', sans-serif",
                "size": 12,
                "color": ground["soft"],
            },
            "margin": {"l": 56, "r": 16, "t": 12, "b": 44},
            "hovermode": "closest",
            "showlegend": True,
            "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
            "hoverlabel": {"bgcolor": ground["surface"], "font": {"color": ground["ink"]}},
            "xaxis": {**axis, "title": {"text": x}},
            "yaxis": {**axis, "title": {"text": y}},
        }
    )


def _say(figure: go.Figure, sentence: str) -> go.Figure:
    figure.update_xaxes(visible=False)
    figure.update_yaxes(visible=False)
    return figure.add_annotation(
        text=sentence, showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper", font={"size": 14}
    )


def _translucent(colour: str, alpha: float) -> str:
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"
