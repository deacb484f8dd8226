"""How an answer comes from the scheduler's thread to whoever asked, and how the scheduler learns that nobody waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from serving.api.answers import Form, Written, usage
from serving.api.errors import ApiError, busy
from serving.requests import BusyError, End, Piece, Request
from serving.scheduler import Scheduler

UNREAD_S = 60.0  # that a client may leave events unread, once its connection takes no more
STATUS = {"timeout": 504, "cancelled": 503, "error": 500}


class Asking:
    """The answers to the texts of one request over HTTP; made and read in the event loop."""

    def __init__(self, scheduler: Scheduler, point: str, requests: Sequence[Request]) -> None:
        """Asks; whoever does has to `give_up` at the end, whatever that was.

        Args:
            scheduler: Whom.
            point: Who is to answer.
            requests: What, one or more.

        Raises:
            ApiError: The queue is full, or the server has ended.
        """
        if not scheduler.alive:
            raise ApiError(503, "The server has ended.")
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[tuple[int, Piece | End]] = asyncio.Queue()
        self._prompt_tokens, self._new_tokens = sum(len(each.prompt) for each in requests), 0
        listeners = [(request, partial(self._hear, index)) for index, request in enumerate(requests)]
        try:
            self._jobs = scheduler.submit(point, listeners)
        except BusyError as error:
            raise busy(error) from error

    def _hear(self, index: int, message: Piece | End) -> None:
        with suppress(RuntimeError):  # the loop has ended, and with it whoever listened
            self._loop.call_soon_threadsafe(self._inbox.put_nowait, (index, message))

    def give_up(self) -> None:
        """Says that nobody waits for the answers any more, which changes nothing where they have ended."""
        for job in self._jobs:
            job.cancel()

    async def _pieces(self) -> AsyncIterator[tuple[int, Written]]:
        """All pieces as they come, by the number of the answer.

        Raises:
            ApiError: The answer could not be made.
        """
        left = len(self._jobs)
        while left:
            index, message = await self._inbox.get()
            if isinstance(message, Piece):
                yield index, Written(message.text, [message.likely] if message.likely else [])
                continue
            if message.outcome in STATUS:
                raise ApiError(STATUS[message.outcome], message.error, code=message.outcome)
            left -= 1
            self._new_tokens += message.new_tokens
            yield index, Written(finish=message.outcome)

    async def whole(self, form: Form) -> dict[str, object]:
        """All answers, when they are complete.

        Raises:
            ApiError: One could not be made.
        """
        written = [Written() for _ in self._jobs]
        async for index, more in self._pieces():
            each = written[index]
            each.text += more.text
            each.likely += more.likely
            each.finish = more.finish
        return form.whole(written, usage(self._prompt_tokens, self._new_tokens))

    async def events(self, form: Form, counts: bool) -> AsyncIterator[str]:
        """Server-sent events of all pieces; an error is the last one, as the status has gone out before.

        Args:
            form: Of the answer.
            counts: Whether the last piece has the tokens.
        """
        for index in range(len(self._jobs)):
            if opening := form.opening(index):
                yield _event(opening)
        try:
            async for index, written in self._pieces():
                yield _event(form.piece(index, written))
        except ApiError as error:
            yield _event(error.body())
            return
        if counts:
            yield _event(form.counts(usage(self._prompt_tokens, self._new_tokens)))
        yield "data: [DONE]\n\n"


class Events(StreamingResponse):
    """Server-sent events, which are given up with the connection, even where none has gone out."""

    def __init__(self, asking: Asking, form: Form, counts: bool) -> None:
        """See `Asking.events`."""
        super().__init__(asking.events(form, counts), 200, {"Cache-Control": "no-store"}, "text/event-stream")
        self._asking = asking

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI; a client that reads nothing for too long is left, as it would keep its place for ever."""

        async def in_time(message: Message) -> None:
            async with asyncio.timeout(UNREAD_S):
                await send(message)

        try:
            with suppress(TimeoutError):
                await super().__call__(scope, receive, in_time)
        finally:
            self._asking.give_up()


def _event(body: object) -> str:
    return f"data: {json.dumps(body)}\n\n"


async def unless_gone(answer: asyncio.Future[dict[str, object]], http: HttpRequest) -> dict[str, object] | None:
    """An answer; None where the client goes away before, and then it is given up.

    Args:
        answer: That is being made.
        http: Whose body is read.
    """
    gone = asyncio.ensure_future(_gone(http))
    waiting: list[asyncio.Future[Any]] = [answer, gone]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        for task in waiting:
            task.cancel()
            with suppress(asyncio.CancelledError, ApiError):
                await task


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
