"""The dashboard as a server: where it can be reached, and how it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from space.errors import UserError
from space.listening import address_of, choose_token, listening_socket


def serve(
    run_dir: Path,
    scripts: Path,
    tell: Callable[[list[str]], None],
    *,
    host: str = "127.0.0.1",
    port: int = 8050,
    token: str | None = None,
    include_path: str | None = None,
    places: Sequence[str] = (),
) -> None:
    """Shows a run until Ctrl-C or SIGTERM, which end its jobs too.

    Args:
        run_dir: The run, begun or ended.
        scripts: Where the entry scripts lie.
        tell: Called with lines for the person who started it.
        host: The address to bind to.
        port: The port; 0 for any that is free.
        token: What a browser must know; None to make one up where others can reach the host.
        include_path: A directory with task files of the user's own.
        places: See `Orders`.

    Raises:
        UserError: Dash is not installed, there is no such run, or the address cannot be had.
    """
    if find_spec("dash") is None:
        raise UserError("dashboard: expected the package dash, but it is not installed: pip install -e '.[dashboard]'")
    from werkzeug.serving import make_server

    from search.views.dashboard.app import make_app
    from search.views.dashboard.guard import Guard
    from search.views.dashboard.jobs import Jobs
    from search.views.dashboard.live_run import LiveRun
    from search.views.dashboard.orders import Orders

    secret = choose_token(host, token)
    run = LiveRun(run_dir)
    listening = listening_socket(host, port, "dashboard")
    with listening, Jobs() as jobs:
        port = listening.getsockname()[1]
        logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each look of the page
        app = make_app(run, jobs, Orders(run_dir, scripts, include_path, places), Guard(host, port, secret))
        server = make_server(host, port, app, threaded=True, fd=listening.fileno())
        tell(_addresses(host, port, secret))
        server.serve_forever()  # returns after Ctrl-C
        tell(["stopped"])


def _addresses(host: str, port: int, token: str | None) -> list[str]:
    address = address_of(host, port)
    if token is None:
        return [f"dashboard: {address} (Ctrl-C ends it and its jobs)"]
    return [f"dashboard: {address}?token={token} (Ctrl-C ends it and its jobs; keep the token to yourself)"]
