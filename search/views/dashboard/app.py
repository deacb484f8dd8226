"""The dashboard's page: a Dash app around the same plot and panel that front.html has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

from dash import ALL, ClientsideFunction, Dash, Input, Output, State, ctx, dcc, html, no_update
from dash.development.base_component import Component
from flask import Flask, Response
from plotly.offline import get_plotlyjs

from search.views.dashboard.guard import Guard
from search.views.dashboard.jobs import Job, Jobs
from search.views.dashboard.live_run import LiveRun
from search.views.dashboard.orders import Orders, why_not
from search.views.dashboard.served import served_view
from search.views.page.plot import page, page_script, page_style
from space.errors import UserError

LOOK_MS = 1000  # between two looks of the page
SHOWN_JOBS = 6
SHOWN_LINES = 8
CURVES = {"volumes": "Hypervolume of the front", "taus": "Surrogate's rank correlation on unseen designs (tau)"}
SERVED_CURVES = {"rates": "Requests a minute, by who answered", "load": "Requests that are written and that wait"}
# plotly.js compiles WebGL's drawing functions; everything else is a file of this server or known by its hash
POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-eval' {hashes}; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
HEAD = """<title>paretoprune</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/page.css">
{%css%}"""
SCRIPTS = """<script type="application/json" id="data">null</script>
<script src="/plotly.js"></script>
<script src="/page.js"></script>
{%config%}
{%scripts%}
{%renderer%}"""


def make_app(run: LiveRun, jobs: Jobs, orders: Orders, guard: Guard) -> Flask:
    """The app, as what a WSGI server takes.

    Args:
        run: What it shows.
        jobs: Where its buttons' commands go.
        orders: Makes these commands.
        guard: Checks every request.
    """
    index = page(HEAD, SCRIPTS, "{%app_entry%}")
    app = Dash(
        __name__,
        server=Flask(__name__, static_folder=None),
        index_string=index,
        update_title="",
        include_assets_files=False,
        assets_folder=str(resources.files("search.views") / "page"),  # else a folder `assets` of where it was started
        enable_mcp=False,
    )
    app.layout = _layout()
    _serve_files(app.server, run)

    @app.callback(  # type: ignore[untyped-decorator]
        Output("state", "children"),
        Output("spent", "value"),
        Output("counts", "children"),
        Output("problem", "children"),
        Output("version", "data"),
        Output("curves", "data"),
        Output("jobs", "children"),
        Output("export", "disabled"),
        Output("export-why", "children"),
        Output("score", "disabled"),
        Output("score-why", "children"),
        Output("served", "hidden"),
        Output("served-state", "children"),
        Output("served-figures", "children"),
        Output("served-curves", "data"),
        Input("look", "n_intervals"),
        Input("pick", "data"),
        Input("asked", "data"),
        Input("stopped", "data"),
        State("version", "data"),
    )
    def look(ticks: Any, pick: Any, asked: Any, stopped: Any, version: Any) -> tuple[Any, ...]:
        view, served = run.view(), served_view(run.run_dir)
        no_export, no_score = orders.why_no_export(pick, view.keys), why_not(pick, view.keys)
        new = view.version != version
        return (
            *(view.state, str(view.spent), view.counts, view.problem),
            view.version if new else no_update,
            {"volumes": view.volumes, "taus": view.taus} if new else no_update,
            _job_list(jobs.all()),
            *(bool(no_export), no_export, bool(no_score), no_score if no_score != no_export else ""),
            *(not served.words, served.words, served.figures, {"rates": served.ended, "load": served.load}),
        )

    @app.callback(  # type: ignore[untyped-decorator]
        Output("answer", "children"),
        Output("asked", "data"),
        Input("export", "n_clicks"),
        Input("score", "n_clicks"),
        State("pick", "data"),
        State("tasks", "value"),
        State("items", "value"),
        prevent_initial_call=True,
    )
    def ask(exports: Any, scores: Any, pick: Any, tasks: Any, limit: Any) -> tuple[Any, Any]:
        keys = run.view().keys
        try:
            for clicked in ctx.triggered_prop_ids.values():  # two quick clicks may come together
                order = orders.score(pick, keys, tasks, limit) if clicked == "score" else orders.export(pick, keys)
                jobs.add(*order)
        except UserError as error:
            return str(error), no_update
        return "", len(jobs.all())

    # A callback of its own: it is called for each new button too, and Dash drops what a callback said when it is called
    # again before that has come.
    @app.callback(  # type: ignore[untyped-decorator]
        Output("stopped", "data"),
        Input({"stop": ALL}, "n_clicks"),
        prevent_initial_call=True,
    )
    def stop(clicks: Any) -> Any:
        clicked = [each for each in ctx.triggered if each["value"]]
        for each in clicked:
            jobs.stop(int(ctx.triggered_prop_ids[each["prop_id"]]["stop"]))
        return [each["prop_id"] for each in clicked] or no_update

    for function, output, source in (
        ("draw", Output("drawn", "data"), Input("version", "data")),
        ("volumes", Output("volumes", "figure"), Input("curves", "data")),
        ("taus", Output("taus", "figure"), Input("curves", "data")),
        ("rates", Output("rates", "figure"), Input("served-curves", "data")),
        ("load", Output("load", "figure"), Input("served-curves", "data")),
        ("picked", Output("picked", "children"), Input("pick", "data")),
    ):
        app.clientside_callback(ClientsideFunction("paretoprune", function), output, source)
    guard.watch(app.server, POLICY.format(hashes=" ".join(app.csp_hashes())))
    return app.server


def _layout() -> Component:
    return html.Div(
        [
            html.Section(
                [
                    html.Div(
                        [
                            html.P(id="state", role="status"),
                            html.Progress(id="spent", value="0", max="1", **{"aria-label": "Budget spent"}),
                            html.P(id="counts", className="note"),
                            html.P(id="problem", role="alert"),
                        ],
                        className="words",
                    ),
                    *_curves(CURVES),
                ],
                id="course",
                className="card course",
                **{"aria-label": "The search"},
            ),
            html.Section(
                [
                    html.Div(
                        [html.P(id="served-state", role="status"), html.P(id="served-figures", className="note")],
                        className="words",
                    ),
                    *_curves(SERVED_CURVES),
                ],
                id="served",
                className="card course",
                hidden=True,
                **{"aria-label": "What serves the run"},
            ),
            html.Section(
                [
                    html.Div(
                        [html.Code(id="picked"), html.Button("Export", id="export", disabled=True)], className="line"
                    ),
                    html.P(id="export-why", className="note"),
                    html.Div(
                        [
                            dcc.Input(id="tasks", type="text", placeholder="tasks: piqa, arc_easy", maxLength=1000),
                            dcc.Input(id="items", type="text", inputMode="decimal", placeholder="items: all"),
                            html.Button("Score", id="score", disabled=True),
                        ],
                        className="line",
                    ),
                    html.P(id="score-why", className="note"),
                    html.P(id="answer", role="alert"),
                    html.Div(id="jobs", role="log", **{"aria-label": "Exports and scores"}),
                ],
                id="orders",
                className="card",
                **{"aria-label": "Export and score the chosen point"},
            ),
            dcc.Interval(id="look", interval=LOOK_MS),
            *(
                dcc.Store(id=name)
                for name in ("version", "curves", "served-curves", "pick", "asked", "stopped", "drawn")
            ),
        ],
        id="live",
    )


def _curves(titles: Mapping[str, str]) -> list[Component]:
    """Room for curves, by their ids."""
    return [
        html.Div([html.P(title), dcc.Graph(id=name, config={"displayModeBar": False})], className="curve")
        for name, title in titles.items()
    ]


def _job_list(jobs: Sequence[Job]) -> list[Component]:
    """The last jobs, newest first."""
    return [_job(job) for job in reversed(jobs[-SHOWN_JOBS:])]


def _job(job: Job) -> Component:
    step = f": {job.step}" if job.step else ""
    lines = "\n".join([*job.lines][-SHOWN_LINES:])
    stop = html.Button("Stop", id={"stop": job.number}, style={} if job.open else {"display": "none"})
    return html.Div(
        [
            html.Div([html.B(job.title), html.Span(f"{job.state}{step}", className="badge"), stop], className="line"),
            *([html.Pre(lines)] if lines else []),
        ],
        className=f"job {job.state}",
        key=str(job.number),
    )


def _serve_files(server: Flask, run: LiveRun) -> None:
    files = {
        "/page.css": (page_style("live.css"), "text/css"),
        "/page.js": (page_script("live.js"), "text/javascript"),
        "/plotly.js": (get_plotlyjs(), "text/javascript"),
    }
    for path, (text, kind) in files.items():
        server.add_url_rule(path, path, lambda text=text, kind=kind: Response(text, mimetype=kind))

    def figure() -> Response:
        return Response(run.figure(), mimetype="application/json", headers={"Cache-Control": "no-store"})

    server.add_url_rule("/figure.json", "figure", figure)
