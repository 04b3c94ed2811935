"""The chart of a comparison, in a frame of the page that has its choices, tables and files: the frame's address says
what is drawn, so it draws anew when the page's script changes that.
"""

import plotly.graph_objects as go
from dash import ClientsideFunction, Dash, Input, Output, State, dcc, html
from dash.exceptions import PreventUpdate
from django.conf import settings
from django.templatetags.static import static

from fleetui.charts import figures
from fleetui.charts.dash_app import GRAPH, PREFIX, REFRESH_MS, app, lab_of
from fleetui.learning import comparing

COMPARE_PREFIX = f"{PREFIX}compare/"

compare_app = Dash(
    __name__,
    server=app.server,
    requests_pathname_prefix=settings.BASE_PATH + COMPARE_PREFIX,
    routes_pathname_prefix=COMPARE_PREFIX,
    serve_locally=True,
    title="Comparison",
    update_title=None,  # type: ignore[arg-type]  # None: the title stays; Dash's own documentation says so
    use_async=False,
    external_stylesheets=[static("fleetui.css")],
    external_scripts=[static("vendor/plotly-basic.min.js")],
    assets_folder="assets",
)
compare_app.layout = html.Div(
    id="surface",
    children=[
        dcc.Location(id="url", refresh=False),
        dcc.Store(id="theme", data="light"),
        dcc.Store(id="saved"),
        dcc.Interval(id="tick", interval=REFRESH_MS),
        dcc.Graph(id="comparison", config=GRAPH, style={"height": "460px"}),
        html.Div(
            className="row end",
            children=[
                html.Button("Save as PNG", id="png", n_clicks=0),
                html.Button("Save as SVG", id="svg", n_clicks=0),
            ],
        ),
    ],
)
compare_app.clientside_callback(
    "function(_) { return window.chartsTheme(); }", Output("theme", "data"), Input("url", "href")
)
compare_app.clientside_callback(
    ClientsideFunction("pictures", "save"),
    Output("saved", "data"),
    Input("png", "n_clicks"),
    Input("svg", "n_clicks"),
    State("saved", "data"),
    prevent_initial_call=True,
)


@compare_app.callback(
    Output("comparison", "figure"), Input("url", "search"), Input("theme", "data"), Input("tick", "n_intervals")
)
def draw(search: str | None, theme: str, _: int | None) -> go.Figure:
    lab, query = lab_of(search)
    if theme not in figures.GROUNDS:
        raise PreventUpdate
    return figures.comparison(comparing.compare(lab, comparing.Wish.of(query)), theme)
