"""The server as a process: a socket, the app behind its guard, and the end of both."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from serving.api.app import Service, make_app
from serving.api.guard import App, Guard
from serving.api.metrics import Metrics
from space.listening import address_of

CLOSING_S = 5  # in which answers that are under way may end


def guarded_app(service: Service, metrics: Metrics, host: str, token: str | None) -> App:
    """The app as it is to be reached.

    Args:
        service: What is served.
        metrics: Of the scheduler, and of the app.
        host: What the server binds to.
        token: What a client must know; None for nothing.
    """
    metrics.watch(service.scheduler, service.controller, [offer.id for offer in service.offers])
    limits, app = service.scheduler.limits, make_app(service, metrics)
    return Guard(app, host, token, limits.body_bytes, 2 * (limits.active + limits.queue) + 16, metrics.refused)


def serve_until_stopped(
    app: App, listening: socket.socket, host: str, token: str | None, tell: Callable[[list[str]], None]
) -> None:
    """Serves until Ctrl-C or SIGTERM.

    Args:
        app: See `guarded_app`.
        listening: A socket that listens.
        host: What it is bound to.
        token: What a client must know.
        tell: Called with lines for the person who started it.
    """
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=CLOSING_S
    )
    address = address_of(host, listening.getsockname()[1])
    secret = "" if token is None else f" with the key {token}, to be kept to yourself"
    tell([f"serving: {address}v1{secret} (Ctrl-C ends it)"])
    with suppress(KeyboardInterrupt):  # raised again when all is closed
        uvicorn.Server(config).run(sockets=[listening])
    tell(["stopped"])
