"""The server over HTTP, in process: OpenAI's forms, whatever is asked, and what is refused."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from helpers_serving import Gated, Points, make_points, running
from helpers_waiting import until

pytest.importorskip("fastapi", reason="the package fastapi is not installed")
from httpx2 import ASGITransport, AsyncClient, Response  # what the openai package speaks HTTP with

import serving.api.asking
from serving.api.answers import CompletionForm, Tokens
from serving.api.app import Service
from serving.api.asking import Asking, Events
from serving.api.log import RequestLog
from serving.api.metrics import Metrics
from serving.api.server import guarded_app
from serving.controllers import Offer, Static
from serving.limits import Limits
from serving.load import Load, Underway
from serving.requests import Choice, Served
from serving.requests import Request as Wanted
from serving.scheduler import Scheduler
from serving.speeds import Speeds
from serving.timed import SloKeeper

OFFERS = (Offer("dense", ("s0",), 0.0, {}), Offer("cut", ("fastest",), 0.5, {"heldout_kl": 0.5}))
TEMPLATE = (
    "{% for m in messages %}{{ m['content'] }} "
    "{% if m['role'] == 'developer' %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
)
TOKEN = "a-token-of-a-test"


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Points:
    points = make_points(tmp_path_factory.mktemp("points"))
    points.tokenizer.chat_template = TEMPLATE
    return points


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


@pytest.fixture(scope="module")
def server(points: Points) -> Iterator[Server]:
    metrics = Metrics()
    with running(points, Limits(new_tokens=100, queue=8), on_served=metrics.served, ends=()) as scheduler:
        yield serving_points(points, scheduler, metrics)


COMPLETION = {"model": "cut", "prompt": "Ein Text", "max_tokens": 6, "temperature": 0}
CHAT = {"model": "cut", "messages": [{"role": "user", "content": "Ein Text"}], "max_tokens": 6, "temperature": 0}


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


def events(response: Response) -> list[Any]:
    assert response.headers["content-type"].startswith("text/event-stream")
    *lines, last = [line.removeprefix("data: ") for line in response.text.strip().split("\n\n")]
    assert last == "[DONE]"
    return [json.loads(line) for line in lines]


def test_models_are_the_points_and_auto(server: Server) -> None:
    listed = good(server.get("/v1/models"))["data"]
    assert [model["id"] for model in listed] == ["auto", "dense", "cut"]
    assert listed[2]["heldout_kl"] == 0.5
    assert good(server.get("/v1/models/fastest"))["id"] == "cut"
    error = refused(server.get("/v1/models/nobody"), 404, "auto, dense, cut")
    assert error["code"] == "model_not_found"


def test_a_completion_whole_and_in_pieces(server: Server) -> None:
    whole = good(server.post("/v1/completions", COMPLETION | {"logprobs": 2}))
    (choice,) = whole["choices"]
    assert (whole["object"], whole["model"], choice["finish_reason"]) == ("text_completion", "cut", "length")
    assert whole["usage"] == {"prompt_tokens": 8, "completion_tokens": 6, "total_tokens": 14}
    logprobs = choice["logprobs"]
    assert [len(each) for each in logprobs.values()] == [6] * 4
    assert logprobs["token_logprobs"][0] == max(logprobs["top_logprobs"][0].values())
    pieces = events(
        server.post("/v1/completions", COMPLETION | {"stream": True, "stream_options": {"include_usage": True}})
    )
    assert "".join(piece["choices"][0]["text"] for piece in pieces[:-1]) == choice["text"]
    assert [piece["choices"][0]["finish_reason"] for piece in pieces[:-1]] == [None] * (len(pieces) - 2) + ["length"]
    assert (pieces[-1]["choices"], pieces[-1]["usage"]) == ([], whole["usage"])
    assert len({piece["id"] for piece in pieces}) == 1


def test_several_prompts_and_prompts_of_tokens(server: Server) -> None:
    both = good(server.post("/v1/completions", COMPLETION | {"prompt": ["Ein Text", "b"]}))
    texts = [choice["text"] for choice in both["choices"]]
    assert [choice["index"] for choice in both["choices"]] == [0, 1]
    ids = server.service.tokenizer("Ein Text")["input_ids"]
    for prompt in (ids, [ids]):
        assert good(server.post("/v1/completions", COMPLETION | {"prompt": prompt}))["choices"][0]["text"] == texts[0]
    refused(server.post("/v1/completions", COMPLETION | {"prompt": [64]}), 400, "tokens below 64")
    refused(server.post("/v1/completions", COMPLETION | {"prompt": ["a"] * 9}), 400, "at most 8 texts")
    for nothing in ("", [], [[]]):
        refused(server.post("/v1/completions", COMPLETION | {"prompt": nothing}), 400, "prompt: expected")


def test_a_chat_whole_and_in_pieces(server: Server) -> None:
    whole = good(server.post("/v1/chat/completions", CHAT | {"logprobs": True, "top_logprobs": 1}))
    (choice,) = whole["choices"]
    assert (whole["object"], choice["message"]["role"]) == ("chat.completion", "assistant")
    for each in choice["logprobs"]["content"]:
        assert each["top_logprobs"][0]["logprob"] == each["logprob"]
        assert bytes(each["bytes"]).decode() == each["token"]
    parts = [{"type": "text", "text": "Ein "}, {"type": "text", "text": "Text"}]
    asked = CHAT | {"messages": [{"role": "user", "content": parts}], "stream": True}
    first, *pieces = events(server.post("/v1/chat/completions", asked))
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert "".join(piece["choices"][0]["delta"].get("content", "") for piece in pieces) == choice["message"]["content"]
    long = good(server.post("/v1/chat/completions", {k: v for k, v in CHAT.items() if k != "max_tokens"}))
    assert long["usage"]["completion_tokens"] == 100  # as many as the server writes
    developer = {"messages": [{"role": "developer", "content": "x"}]}
    refused(server.post("/v1/chat/completions", CHAT | developer), 400, "chat template refuses")
    image = {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}]}]
    }
    refused(server.post("/v1/chat/completions", CHAT | image), 400, "messages.0.content")


def test_a_tokenizer_without_a_template_says_so(points: Points, server: Server) -> None:
    import copy

    bare = copy.deepcopy(points.tokenizer)
    bare.chat_template = None
    other = Server(replace(server.service, tokenizer=bare), Metrics())
    error = refused(other.post("/v1/chat/completions", CHAT), 400, "/v1/completions")
    assert error["code"] == "no_chat_template"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"seed": 1 << 70}, "seed"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 101}, "at most 100"),
        ({"prompt": "ab" * 62, "max_tokens": 10}, "at most 128 tokens"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"prompt": "\ud800"}, "surrogate"),
        ({"prompt": [True]}, "prompt"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stop": ""}, "stop"),
        ({"logprobs": 6}, "logprobs"),
        ({"n": 2}, "n: this server takes 1 alone"),
        ({"echo": True}, "echo"),
        ({"logit_bias": {"1": 5}}, "logit_bias"),
        ({"surprise": 1}, "surprise"),
        ({"slo_ms": 5}, "expected model=auto"),
        ({"model": "auto", "slo_ms": 5}, "controller=slo"),
        ({"model": 5}, "model"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_in_words(server: Server, change: dict[str, Any], words: str) -> None:
    content = json.dumps(COMPLETION | change).encode()
    refused(server.post("/v1/completions", content=content), 400, words)


def test_what_changes_nothing_is_taken(server: Server) -> None:
    idle = {"n": 1, "frequency_penalty": 0, "user": "me", "stop": None, "logprobs": None, "best_of": None, "tools": []}
    assert good(server.post("/v1/completions", COMPLETION | idle))["choices"]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"model": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"seed": ' + b"9" * 5000 + b"}"],
    ids=range(8),
)  # fmt: skip
def test_bodies_that_are_no_requests(server: Server, content: bytes) -> None:
    assert 400 <= server.post("/v1/completions", content=content).status_code < 500
    refused(server.post("/v1/completions", content=content), 400, "")


def test_other_kinds_of_content_long_ones_and_other_addresses(server: Server) -> None:
    form = server.run(
        lambda client: client.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"})
    )
    refused(form, 400, "Content-Type: application/json")
    refused(server.post("/v1/completions", COMPLETION | {"prompt": "a" * (1 << 20)}), 413, "limits.body_bytes")

    async def chunks(client: AsyncClient) -> Response:
        async def body() -> Any:
            for _ in range(200):
                yield b"a" * 10_000

        return await client.post("/v1/completions", content=body())

    refused(server.run(chunks), 413, "limits.body_bytes")
    for path in ("/", "/docs", "/openapi.json", "/v1/../../etc/passwd", "/v1/files", "/static/app.py"):
        refused(server.get(path), 404, "/v1/models")
    refused(server.get("/v1/models/..%2f..%2fetc%2fpasswd"), 404, "")
    refused(server.get("/v1/completions"), 405, "Method Not Allowed")
    refused(server.post("/v1/completions", COMPLETION | {"model": "x" * 50_000}), 404, "auto, dense, cut")


def test_names_and_pages_of_others_are_refused_and_a_token_is_asked_for(server: Server) -> None:
    refused(server.get("/v1/models", host="evil.example"), 403, "not known by this name")
    refused(server.get("/v1/models", origin="http://evil.example"), 403, "other servers")
    assert server.get("/v1/models", origin="http://127.0.0.1").status_code == 200
    locked = Server(server.service, Metrics(), TOKEN)
    assert locked.get("/healthz").json() == {"status": "ok"}
    for given in ("", "Bearer", "Bearer wrong", f"Basic {TOKEN}", "Bearer é"):
        headers = {"authorization": given} if given.isascii() and given else {}
        error = refused(locked.get("/metrics", **headers), 401, "Authorization: Bearer TOKEN")
        assert error["code"] == "invalid_api_key"
    assert locked.get("/v1/models", authorization=f"Bearer {TOKEN}").status_code == 200
    assert b'paretoprune_refused_total{status="401"}' in locked.metrics.text()


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
