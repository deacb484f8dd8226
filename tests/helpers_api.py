"""The server's app in process, and what its answers have to look like."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from helpers_serving import Points

pytest.importorskip("fastapi", reason="the package fastapi is not installed")
from httpx2 import ASGITransport, AsyncClient, Response  # what the openai package speaks HTTP with

from serving.api.app import Service
from serving.api.metrics import Metrics
from serving.api.server import guarded_app
from serving.controllers import Offer, Static
from serving.scheduler import Scheduler

OFFERS = (Offer("dense", ("s0",), 0.0, {}), Offer("cut", ("fastest",), 0.5, {"heldout_kl": 0.5}))
COMPLETION = {"model": "cut", "prompt": "Ein Text", "max_tokens": 6, "temperature": 0}


@dataclass
class Server:
    """An app in process."""

    service: Service
    metrics: Metrics
    token: str | None = None

    def run(self, talk: Callable[[AsyncClient], Awaitable[Any]], **headers: str) -> Any:
        app: Any = guarded_app(self.service, self.metrics, "127.0.0.1", self.token)

        async def talking() -> Any:
            transport = ASGITransport(app, raise_app_exceptions=False)
            async with AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
                return await talk(client)

        return asyncio.run(talking())

    def post(self, path: str, body: Any = None, content: bytes | None = None, **headers: str) -> Response:
        kind = {"content-type": "application/json"} if content is not None else {}
        return self.run(lambda client: client.post(path, json=body, content=content, headers=kind), **headers)  # type: ignore[no-any-return]

    def get(self, path: str, **headers: str) -> Response:
        return self.run(lambda client: client.get(path), **headers)  # type: ignore[no-any-return]


def serving_points(
    points: Points, scheduler: Scheduler, metrics: Metrics, controller: Any = None, token: str | None = None
) -> Server:
    service = Service("tiny", OFFERS, controller or Static(OFFERS), scheduler, points.tokenizer, 64, 128)
    return Server(service, metrics, token)


def good(response: Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def refused(response: Response, status: int, words: str) -> Mapping[str, Any]:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert len(error["message"]) < 1000
    return error  # type: ignore[no-any-return]
