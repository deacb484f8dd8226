"""The routes: models, completions, chats, and how the server is."""

from __future__ import annotations

import asyncio
import copy
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from serving.api.answers import ChatForm, CompletionForm, Form, Tokens
from serving.api.asking import Asking, Events, unless_gone
from serving.api.errors import ApiError, busy
from serving.api.metrics import TYPE, Metrics
from serving.api.prompts import Prompts
from serving.api.schema import Asked, ChatAsked, CompletionAsked
from serving.controllers import AUTO, Controller, Offer
from serving.requests import BusyError, Sampling, Slo
from serving.requests import Request as Wanted
from serving.scheduler import Scheduler

COMPLETION_TOKENS = 16  # of a completion that says no number, as at OpenAI
MOST_TOLD = 3  # mistakes of one request
OWNER = "paretoprune"


@dataclass(frozen=True)
class Service:
    """What is served.

    Attributes:
        name: Of the dense model.
        offers: The points, best first.
        controller: Chooses for `auto`.
        scheduler: Whom requests go to.
        tokenizer: Of the models; the app takes a copy.
        vocab: Tokens that the models know.
        context: Tokens of a request, at most.
    """

    name: str
    offers: Sequence[Offer]
    controller: Controller
    scheduler: Scheduler
    tokenizer: Any
    vocab: int
    context: int


class Desk:
    """Makes requests of what comes in, and refuses what cannot be one."""

    def __init__(self, service: Service) -> None:
        """Knows what is served."""
        self._service = service
        self._prompts = Prompts(copy.deepcopy(service.tokenizer), service.vocab)
        self.tokens = Tokens(copy.deepcopy(service.tokenizer))
        self._ids = {name: offer.id for offer in service.offers for name in (offer.id, *offer.names)}
        self._since = int(time.time())

    def models(self) -> list[dict[str, Any]]:
        """What can be asked for, in OpenAI's form, with figures of the run's front."""
        head = {"object": "model", "created": self._since, "owned_by": OWNER}
        return [{"id": AUTO, **head, "base_model": self._service.name}] + [
            {"id": offer.id, **head, "base_model": self._service.name, "names": [*offer.names], **offer.figures}
            for offer in self._service.offers
        ]

    def require_model(self, model: str) -> None:
        """Raises ApiError where there is no such model."""
        if model != AUTO and model not in self._ids:
            ids = ", ".join([AUTO, *(offer.id for offer in self._service.offers)])
            raise ApiError(
                404,
                f"model: expected one of {ids}, got {model[:100]!r}.",
                code="model_not_found",
                param="model",
            )

    def completion(self, asked: CompletionAsked, came: float) -> tuple[str, list[Wanted], Form]:
        """The point that is to answer, what it is asked, and the form of its answer.

        Args:
            asked: By a client.
            came: When, by the scheduler's clock.

        Raises:
            ApiError: It cannot be asked.
        """
        self.require_model(asked.model)
        prompts = self._prompts.texts(asked.prompt)
        most = self._service.scheduler.limits.queue
        if len(prompts) > most:
            raise ApiError(400, f"prompt: expected at most {most} texts, got {len(prompts)}.", param="prompt")
        point, wanted = self._wanted(asked, came, prompts, asked.max_tokens, COMPLETION_TOKENS, asked.logprobs)
        return point, wanted, CompletionForm(point, self.tokens, asked.logprobs is not None)

    def chat(self, asked: ChatAsked, came: float) -> tuple[str, list[Wanted], Form]:
        """The same of a chat."""
        self.require_model(asked.model)
        prompt = self._prompts.chat(asked.messages)
        given, most = asked.max_completion_tokens or asked.max_tokens, self._service.scheduler.limits.new_tokens
        point, wanted = self._wanted(asked, came, [prompt], given, most, asked.top)
        return point, wanted, ChatForm(point, self.tokens, asked.top is not None)

    def _wanted(
        self,
        asked: Asked,
        came: float,
        prompts: Sequence[tuple[int, ...]],
        given: int | None,
        usual: int,
        top: int | None,
    ) -> tuple[str, list[Wanted]]:
        service, longest = self._service, max(map(len, prompts))
        slo = self._slo(asked)
        room = service.context - longest
        most = service.scheduler.limits.new_tokens
        if given is not None and given > most:
            raise ApiError(400, f"max_tokens: expected at most {most}, got {given}.", param="max_tokens")
        if room < (given or 1):
            raise ApiError(
                400,
                f"Expected at most {service.context} tokens, got {longest} of the prompt and {given or 1} to be "
                "written. Shorten the prompt or max_tokens.",
                code="context_length_exceeded",
            )
        count = min(usual, most, room) if given is None else given
        sampling = Sampling(asked.temperature, asked.top_p, asked.seed, top)
        wanted = [Wanted(prompt, count, sampling, asked.stops, slo, came=came) for prompt in prompts]
        if (point := self._ids.get(asked.model)) is not None:
            return point, wanted
        try:
            service.scheduler.require_room(len(wanted))  # before anybody looks at the prompt
            choice = service.controller.choose(wanted, service.scheduler.load)
        except BusyError as error:
            raise busy(error) from error
        except CancelledError as error:
            raise ApiError(503, "The server has ended.") from error
        return choice.point, [replace(each, choice=choice) for each in wanted]

    def _slo(self, asked: Asked) -> Slo | None:
        controller = self._service.controller
        if asked.slo_ms is None and asked.slo_token_ms is None:
            return controller.slo if asked.model == AUTO else None
        if asked.model != AUTO:
            raise ApiError(
                400,
                f"slo_ms: expected model={AUTO}, which leaves open who answers, got {asked.model}: that is as fast as "
                "it is.",
                param="slo_ms",
            )
        if not controller.takes_slo:
            raise ApiError(
                400,
                "slo_ms: expected a server that chooses by speed, which this one does not. Start it with "
                "controller=slo or controller=difficulty.",
                param="slo_ms",
            )
        return Slo(asked.slo_ms, asked.slo_token_ms)


def make_app(service: Service, metrics: Metrics) -> FastAPI:
    """The app; `serving.api.guard.Guard` belongs around it.

    Args:
        service: What is served.
        metrics: Shown at `/metrics`.
    """
    app = FastAPI(title="paretoprune", openapi_url=None)
    desk, scheduler = Desk(service), service.scheduler
    _tell_errors(app, metrics)

    one_by_one = asyncio.Lock()  # of a burst, each sees in the queue who came before it

    async def answer(http: Request, asked: Asked, made: Callable[[], tuple[str, list[Wanted], Form]]) -> Response:
        in_turn: AbstractAsyncContextManager[Any] = one_by_one if asked.model == AUTO else nullcontext()
        async with in_turn:
            point, requests, form = await run_in_threadpool(made)
            asking = Asking(scheduler, point, requests)
        if asked.stream:
            return Events(asking, form, asked.stream_options is not None and asked.stream_options.include_usage)
        try:
            body = await unless_gone(asyncio.ensure_future(asking.whole(form)), http)
        finally:
            asking.give_up()
        return Response(status_code=499) if body is None else JSONResponse(body)

    @app.post("/v1/completions")
    async def completions(http: Request, asked: CompletionAsked) -> Response:
        return await answer(http, asked, partial(desk.completion, asked, scheduler.clock()))

    @app.post("/v1/chat/completions")
    async def chats(http: Request, asked: ChatAsked) -> Response:
        return await answer(http, asked, partial(desk.chat, asked, scheduler.clock()))

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": desk.models()}

    @app.get("/v1/models/{model}")
    async def model(model: str) -> dict[str, Any]:
        desk.require_model(model)
        return next(each for each in desk.models() if model in (each["id"], *each.get("names", ())))

    @app.get("/healthz")
    async def health() -> Response:
        return JSONResponse(
            {"status": "ok"} if scheduler.alive else {"status": "ended"}, 200 if scheduler.alive else 503
        )

    @app.get("/metrics")
    async def counted() -> Response:
        return Response(metrics.text(), media_type=TYPE)

    return app


def _tell_errors(app: FastAPI, metrics: Metrics) -> None:
    """Gives all errors OpenAI's form."""

    def told(error: ApiError) -> Response:
        metrics.refused(error.status)
        return error.response()

    @app.exception_handler(ApiError)
    async def api(http: Request, error: ApiError) -> Response:
        return told(error)

    @app.exception_handler(HTTPException)
    async def of_http(http: Request, error: HTTPException) -> Response:
        words = {404: "There is no such address: see /v1/models, /v1/completions and /v1/chat/completions."}
        return told(ApiError(error.status_code, words.get(error.status_code, str(error.detail)), headers=error.headers))

    @app.exception_handler(RequestValidationError)
    async def invalid(http: Request, error: RequestValidationError) -> Response:
        kind = http.headers.get("content-type", "")
        if "json" not in kind:
            return told(ApiError(400, f"Expected a request with Content-Type: application/json, got {kind[:100]!r}."))
        mistakes = [*error.errors()][:MOST_TOLD]
        param = _place(mistakes[0])
        return told(ApiError(400, "; ".join(map(_words, mistakes)), param=param or None))

    @app.exception_handler(Exception)
    async def unforeseen(http: Request, error: Exception) -> Response:
        return told(ApiError(500, f"The server failed at this request ({type(error).__name__})."))


def _place(mistake: Mapping[str, Any]) -> str:
    """Where in a request a mistake is: `messages.0.role`."""
    return ".".join(str(part) for part in mistake["loc"][1:])


def _words(mistake: Mapping[str, Any]) -> str:
    """A mistake in words, without what came: that may be long."""
    said = str(mistake["msg"]).removeprefix("Value error, ")
    place = _place(mistake)
    return f"{place}: {said}" if place else said
