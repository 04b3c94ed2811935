"""The Charts page's Dash app: runs of one lab side by side. It stands in a frame of the site's own page.

The lab comes from the frame's address and is checked in every callback, since each is a request of its own.
"""

from typing import Any

import flask
import plotly.graph_objects as go
from dash import Dash, Input, Output, State, dcc, html
from dash.exceptions import PreventUpdate
from django.conf import settings
from django.http import QueryDict
from django.templatetags.static import static

from fleetui import access
from fleetui.charts import figures
from fleetui.fleet import selectors as fleet
from fleetui.fleet.models import Lab
from fleetui.learning import selectors as learning
from fleetui.learning.comparing import MOST_RUNS

PREFIX = "/charts/app/"  # below the site's sub-path, where it has one
CHOSEN_AT_FIRST = 4
REFRESH_MS = 20_000
GRAPH: dcc.Graph.Config = {"displayModeBar": False, "responsive": True}

app = Dash(
    __name__,
    requests_pathname_prefix=settings.BASE_PATH + PREFIX,
    routes_pathname_prefix=PREFIX,
    serve_locally=True,
    title="Charts",
    update_title=None,  # type: ignore[arg-type]  # None: the title stays; Dash's own documentation says so
    use_async=False,
    external_stylesheets=[static("fleetui.css")],
    # The bundle that the run's page loads: Dash would fetch its own, four times as large, where none is there.
    external_scripts=[static("vendor/plotly-basic.min.js")],
    assets_folder="assets",
)
app.layout = html.Div(
    className="stack",
    children=[
        dcc.Location(id="url", refresh=False),
        dcc.Store(id="theme", data="light"),
        dcc.Interval(id="tick", interval=REFRESH_MS),
        html.Div(
            className="field",
            children=[
                html.Label("Runs", htmlFor="runs"),
                dcc.Dropdown(id="runs", multi=True, options=[], placeholder=f"Up to {MOST_RUNS} runs to compare"),
            ],
        ),
        *(
            html.Section(
                className="panel",
                children=[
                    html.Div(className="panel-head", children=[html.H2(title), html.Span(note, className="muted")]),
                    dcc.Graph(id=name, config=GRAPH, style={"height": "340px"}),
                ],
            )
            for name, title, note in (
                (
                    "success",
                    "Success curves",
                    "true success of evaluation episodes, each with its 95 % band (Wilson); dashed: before practice",
                ),
                (
                    "touches",
                    "Interventions per robot-hour",
                    "the last 24 hours, by station; a station's own resets count too",
                ),
                (
                    "lengths",
                    "Episode lengths",
                    "practice episodes of the chosen runs: the median, with the middle half as a band",
                ),
            )
        ),
    ],
)
# The page's theme is the site's; assets/theme.js keeps it current when the person changes it in the page around.
app.clientside_callback("function(_) { return window.chartsTheme(); }", Output("theme", "data"), Input("url", "href"))


def lab_of(search: str | None) -> tuple[Lab, QueryDict]:
    """The lab that the frame asks for, if the logged-in user is a member of it."""
    query = QueryDict((search or "").lstrip("?"))
    try:
        return access.get_lab(flask.request.environ["fleetui.user"], query.get("lab", "")), query
    except access.Refused as refused:
        flask.abort(refused.status, str(refused))


@app.callback(Output("runs", "options"), Output("runs", "value"), Input("url", "search"), State("runs", "value"))
def offer_runs(search: str | None, chosen: list[int] | None) -> tuple[list[dict[str, Any]], list[int]]:
    lab, query = lab_of(search)
    runs = list(lab.runs.filter(kind__in=learning.practising_kinds(), archived_at=None).order_by("-id"))
    wanted = query.get("runs", "").split(",")
    at_first = [run.pk for run in runs if str(run.pk) in wanted] or [run.pk for run in runs[:CHOSEN_AT_FIRST]]
    return [{"label": f"{run.name} ({run.state})", "value": run.pk} for run in runs], chosen or at_first


@app.callback(
    Output("success", "figure"),
    Output("touches", "figure"),
    Output("lengths", "figure"),
    Input("runs", "value"),
    Input("theme", "data"),
    Input("tick", "n_intervals"),
    State("url", "search"),
)
def draw(
    chosen: list[int] | None, theme: str, _: int | None, search: str | None
) -> tuple[go.Figure, go.Figure, go.Figure]:
    lab = lab_of(search)[0]
    if theme not in figures.GROUNDS or not all(isinstance(each, int) for each in chosen or []):
        raise PreventUpdate
    runs = list(lab.runs.filter(pk__in=(chosen or [])[:MOST_RUNS]).order_by("id"))
    lengths: dict[int, list[fleet.Lengths]] = {run.pk: [] for run in runs}
    for row in fleet.episode_lengths(lab, list(lengths)):
        lengths[row["run"]].append(row)
    return (
        figures.success_curves(learning.success_curves(runs), theme),
        figures.interventions(fleet.interventions_per_robot_hour(lab), theme),
        figures.episode_lengths([{"name": run.name, "versions": lengths[run.pk]} for run in runs], theme),
    )
