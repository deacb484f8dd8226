"""The server over HTTP, in process: OpenAI's forms, whatever is asked, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from helpers_api import COMPLETION, Server, good, refused, serving_points
from helpers_serving import Points, make_points, running
from httpx2 import AsyncClient, Response

from serving.api.metrics import Metrics
from serving.limits import Limits

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


@pytest.fixture(scope="module")
def server(points: Points) -> Iterator[Server]:
    metrics = Metrics()
    with running(points, Limits(new_tokens=100, queue=8), on_served=metrics.served, ends=()) as scheduler:
        yield serving_points(points, scheduler, metrics)


CHAT = {"model": "cut", "messages": [{"role": "user", "content": "Ein Text"}], "max_tokens": 6, "temperature": 0}


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
