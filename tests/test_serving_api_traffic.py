"""Many who ask at once, in process: who answers, who waits, who is given up, and what is counted of it."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from helpers_api import COMPLETION, OFFERS, Server, good, refused, serving_points
from helpers_serving import Gated, Points, make_points, running
from helpers_waiting import until
from httpx2 import AsyncClient, Response

import serving.api.asking
from serving.api.answers import CompletionForm, Tokens
from serving.api.app import Service
from serving.api.asking import Asking, Events
from serving.api.log import RequestLog
from serving.api.metrics import Metrics
from serving.controllers import Static
from serving.limits import Limits
from serving.load import Load, Underway
from serving.requests import Choice, Served
from serving.requests import Request as Wanted
from serving.speeds import Speeds
from serving.timed import SloKeeper


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Points:
    return make_points(tmp_path_factory.mktemp("points"))


@pytest.fixture(scope="module")
def server(points: Points) -> Iterator[Server]:
    metrics = Metrics()
    with running(points, on_served=metrics.served, ends=()) as scheduler:
        yield serving_points(points, scheduler, metrics)


def test_a_controller_chooses_for_auto(points: Points) -> None:
    metrics = Metrics()
    with running(points, None, on_served=metrics.served) as scheduler:
        for point, ms in (("dense", 1000.0), ("cut", 0.001)):
            scheduler.speeds.read(point, 1, ms)
            scheduler.speeds.stepped(point, 1, 0.001)
        server = serving_points(points, scheduler, metrics, SloKeeper(OFFERS))
        asked = COMPLETION | {"model": "auto"}
        assert good(server.post("/v1/completions", asked))["model"] == "dense"
        scheduler.speeds.read("dense", 1, 1e6)
        assert good(server.post("/v1/completions", asked | {"slo_ms": 60_000}))["model"] == "cut"
        text = server.get("/metrics").text
    assert 'paretoprune_slo_requests_total{kept="true",point="cut"} 1.0' in text


def test_of_a_burst_each_sees_who_came_before(points: Points) -> None:
    model, seen = Gated(points.models["cut"]), list[int]()

    class Watching(Static):
        def choose(self, requests: Sequence[Wanted], load: Callable[[], Load]) -> Choice:
            seen.append(len(load().waiting) + len(load().writing))
            return super().choose(requests, load)

    with running(points, None, {"cut": model}, ends=()) as scheduler:
        service = Service("tiny", OFFERS[1:], Watching(OFFERS, "cut"), scheduler, points.tokenizer, 64, 128)
        server = Server(service, Metrics())

        async def talk(client: AsyncClient) -> None:
            asked = [client.post("/v1/completions", json=COMPLETION | {"model": "auto"}) for _ in range(5)]
            tasks = [asyncio.create_task(each) for each in asked]
            while len(seen) < 5:
                await asyncio.sleep(0.01)
            model.gate.release()  # one prompt
            text, end = "", time.monotonic() + 30
            while 'active{point="cut"} 1.0' not in text and time.monotonic() < end:
                text = (await client.get("/metrics")).text
            assert "paretoprune_queue 4.0" in text
            model.open()
            await asyncio.gather(*tasks)

        server.run(talk)
    assert seen == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("hangs_up", [True, False])
def test_who_hangs_up_or_reads_nothing_is_given_up(
    points: Points, hangs_up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.api.asking, "UNREAD_S", 60.0 if hangs_up else 0.05)
    model, records = Gated(points.models["cut"]), list[Served]()
    with running(points, None, {"cut": model}, records.append, ends=()) as scheduler:

        async def connected() -> None:
            asking = Asking(scheduler, "cut", [Wanted((1, 2), 1000)])
            gone = asyncio.Event()

            async def receive() -> Any:
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                if hangs_up:  # before anything went out
                    gone.set()
                await asyncio.Event().wait()  # a connection that takes nothing

            scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
            await Events(asking, CompletionForm("cut", Tokens(points.tokenizer), False), False)(scope, receive, send)

        asyncio.run(connected())
        model.open()
        until(lambda: records)
    assert [record.outcome for record in records] == ["cancelled"]


def test_a_full_queue_and_a_failing_point(points: Points) -> None:
    model, metrics = Gated(points.models["cut"]), Metrics()
    limits = Limits(active=1, queue=1)
    with running(points, limits, {"cut": model, "dense": points.models["dense"]}, metrics.served) as scheduler:
        server = serving_points(points, scheduler, metrics)

        async def talk(client: AsyncClient) -> list[Response]:
            first = asyncio.create_task(client.post("/v1/completions", json=COMPLETION))
            while not scheduler.load().waiting:
                await asyncio.sleep(0.01)
            while scheduler._waiting:  # until it is read
                await asyncio.sleep(0.01)
            second = asyncio.create_task(client.post("/v1/completions", json=COMPLETION))
            while len(scheduler.load().waiting) < 2:
                await asyncio.sleep(0.01)
            third = await client.post("/v1/completions", json=COMPLETION)
            model.failing = True
            model.open()
            return [third, await first, await second]

        busy, *failed = server.run(talk)
        refused(busy, 429, "Ask again in")
        assert int(busy.headers["retry-after"]) >= 1
        for response in failed:
            error = refused(response, 500, "out of memory")
            assert error["type"] == "server_error"
        streamed = server.post("/v1/completions", COMPLETION | {"stream": True}).text
        assert json.loads(streamed.removeprefix("data: "))["error"]["code"] == "error"
        assert good(server.post("/v1/completions", COMPLETION | {"model": "dense"}))


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_that_takes_too_long_ends_in_an_error(points: Points, stream: bool) -> None:
    model, metrics = Gated(points.models["cut"]), Metrics()
    with running(points, Limits(timeout_s=0.2), {"cut": model}, metrics.served, ends=()) as scheduler:
        server = serving_points(points, scheduler, metrics)

        async def talk(client: AsyncClient) -> Response:
            asked = asyncio.create_task(client.post("/v1/completions", json=COMPLETION | {"stream": stream}))
            await asyncio.sleep(0.3)
            model.open()
            return await asked

        answer = server.run(talk)
    if stream:
        last = json.loads(answer.text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert (answer.status_code, last["error"]["code"]) == (200, "timeout")
    else:
        assert refused(answer, 504, "0.2 seconds after the request")["code"] == "timeout"


def test_metrics_and_the_log_say_what_was_served(server: Server, points: Points) -> None:
    before = server.get("/metrics")
    good(server.post("/v1/completions", COMPLETION))
    assert before.headers["content-type"].startswith("text/plain; version=0.0.4")

    def count(of: str) -> float:
        name = 'paretoprune_requests_total{outcome="length",point="cut"} '
        return sum(float(line.removeprefix(name)) for line in of.splitlines() if line.startswith(name))

    end = time.monotonic() + 30
    while count(text := server.get("/metrics").text) == count(before.text) and time.monotonic() < end:
        time.sleep(0.05)  # a request is counted once its answer is on its way
    assert count(text) == count(before.text) + 1
    for name in ("queue", 'active{point="dense"}', 'first_token_seconds_count{point="cut"}', "token_seconds_bucket"):
        assert f"\nparetoprune_{name}" in text


def test_metrics_look_once_and_count_who_wrote_what() -> None:
    class Looked:
        looks = 0

        def load(self) -> Load:
            self.looks += 1
            return Load(Speeds(), [Underway("cut", 3, 1)], [Underway("cut", 0, 1), Underway("cut", 0, 5)], 4, 100)

    scheduler, metrics = Looked(), Metrics()
    metrics.watch(scheduler, Static(OFFERS), ["dense", "cut"])  # type: ignore[arg-type]
    moves = (("dense", "cut"),)
    metrics.served(Served("dense", 3, 12, "length", 1.0, 0.0, 0.5, 0.1, None, others={"cut": 7}, moves=moves))
    lines = metrics.text().decode().splitlines()
    assert scheduler.looks == 1
    for line in (
        "queue 1.0",
        'active{point="cut"} 2.0',
        'active{point="dense"} 0.0',
        'new_tokens_total{point="dense"} 5.0',
        'new_tokens_total{point="cut"} 7.0',
        'switches_total{origin="dense",target="cut"} 1.0',
        'requests_total{outcome="length",point="dense"} 1.0',
    ):
        assert f"paretoprune_{line}" in lines


def test_the_log_has_a_line_a_request_and_none_of_its_text(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    RequestLog(sys.stderr).served(Served("cut", 3, 5, "length", 1.23456, 0.0, 0.5, 0.1, None))
    line = json.loads(capsys.readouterr().err)
    assert (line["event"], line["point"], line["new_tokens"], line["seconds"]) == ("request", "cut", 5, 1.2346)

    class Gone:
        def write(self, text: str) -> None:
            raise BrokenPipeError

    log = RequestLog(Gone())  # type: ignore[arg-type]
    for _ in range(2):
        log.served(Served("cut", 3, 5, "length", 1.0, 0.0, 0.5, 0.1, None))
