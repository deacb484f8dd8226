"""The server as a process: a socket, the app behind its guard, and the end of both."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from serving.api.app import Service, make_app
from serving.api.guard import App, Guard
from serving.api.metrics import Metrics
from space.listening import address_of

CLOSING_S = 5  # in which answers that are under way may end, before they are ended
LEAVING_S = 5  # in which those who asked are then told so


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


class _Server(uvicorn.Server):
    """Ends what is still being written before it cuts connections: so answers that do not end in time say why."""

    def __init__(self, config: uvicorn.Config, close: Callable[[], None]) -> None:
        """See `serve_until_stopped`."""
        super().__init__(config)
        self._close = close

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """See uvicorn."""
        loop = asyncio.get_running_loop()
        closing = loop.call_later(CLOSING_S, loop.run_in_executor, None, self._close)  # which waits for a step to end
        await super().shutdown(sockets)
        closing.cancel()


def serve_until_stopped(
    app: App,
    listening: socket.socket,
    host: str,
    token: str | None,
    close: Callable[[], None],
    tell: Callable[[list[str]], None],
) -> None:
    """Serves until Ctrl-C or SIGTERM.

    Args:
        app: See `guarded_app`.
        listening: A socket that listens.
        host: What it is bound to.
        token: What a client must know.
        close: Ends all answers; called from another thread where they take too long at the end.
        tell: Called with lines for the person who started it.
    """
    grace = CLOSING_S + LEAVING_S
    config = uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False, lifespan="off", timeout_graceful_shutdown=grace
    )
    address = address_of(host, listening.getsockname()[1])
    secret = "" if token is None else f" with the key {token}, to be kept to yourself"
    tell([f"serving: {address}v1{secret} (Ctrl-C ends it)"])
    with suppress(KeyboardInterrupt):  # raised again when all is closed
        _Server(config, close).run(sockets=[listening])
    tell(["stopped"])
