"""Who may ask, and how much: checked before any route is looked for, and before a body is read as a whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers

from serving.api.errors import ApiError
from space.listening import Names, equal, same_origin

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

BODY_S = 30.0  # in which a body has to have come
MOST_DROPPED = 1 << 25  # bytes of a body that is too long, that are waited for before it is refused
OPEN = ("/healthz",)  # for whoever asks whether the server lives


class Guard:
    """An ASGI app around another one.

    * The Host must be this machine, see `space.listening.Names`: no name of somebody else's that leads here.
    * A browser's page from elsewhere, which says its Origin, may not ask.
    * With a token, it must be in the Authorization header, as OpenAI's clients send their keys.
    * A body has at most so many bytes, and comes in time; so many requests are open at once.
    """

    def __init__(
        self,
        app: App,
        host: str,
        token: str | None,
        body_bytes: int,
        open_requests: int,
        refused: Callable[[int], None] = lambda status: None,
    ) -> None:
        """Sets the rules.

        Args:
            app: What is asked after that.
            host: What the server binds to.
            token: None to ask for none.
            body_bytes: At most.
            open_requests: At most.
            refused: Told the status of each error that is answered.
        """
        self._app, self._names, self._token, self._most = app, Names(host), token, body_bytes
        self._open, self._most_open, self._refused = 0, open_requests, refused

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._open += 1
        try:
            await self._answer(scope, receive, send)
        finally:
            self._open -= 1

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        try:
            headers = Headers(scope=scope)
            self._check(scope["path"], headers)
            body = await asyncio.wait_for(self._body(headers, receive), BODY_S)
        except (ApiError, TimeoutError) as error:
            told = error if isinstance(error, ApiError) else _late()
            self._refused(told.status)
            await told.response()(scope, receive, send)
            return
        if body is None:  # the client is gone
            return
        first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return first.pop() if first else await receive()

        await self._app(scope, again, send)

    def _check(self, path: str, headers: Headers) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if not self._names.has(host):
            raise ApiError(403, "The server is not known by this name. Ask the address that it printed.")
        if origin is not None and not same_origin(origin, host):
            raise ApiError(403, "Pages of other servers may not ask this one.")
        if self._open > self._most_open:
            raise ApiError(429, "As many requests are open as may. Ask again.", headers={"Retry-After": "1"})
        if self._token is None or path in OPEN:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not equal(given.strip(), self._token):
            raise ApiError(
                401,
                "Expected the server's token, as it printed it: Authorization: Bearer TOKEN (api_key= of a client).",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, headers: Headers, receive: Receive) -> bytes | None:
        """All of it; None where the client is gone."""
        said = headers.get("content-length", "0")
        most = 0 if said.isdecimal() and int(said) > self._most else self._most
        parts, size, more = list[bytes](), 0, True
        while more and size <= MOST_DROPPED:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            part, more = message.get("body", b""), message.get("more_body", False)
            size += len(part)
            if size <= most:
                parts.append(part)
            else:  # the rest is dropped: a client that is still sending may not see the answer
                parts = []
        if size > most:
            raise self._too_long()
        return b"".join(parts)

    def _too_long(self) -> ApiError:
        return ApiError(
            413,
            f"Expected a request of at most {self._most} bytes. Send less, or start the server with a larger "
            "limits.body_bytes.",
            code="request_too_large",
            headers={"Connection": "close"},
        )


def _late() -> ApiError:
    return ApiError(408, f"Expected the whole request in {BODY_S:g} seconds.", headers={"Connection": "close"})
