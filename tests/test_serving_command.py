"""`serve_subnets.py` on a finished run, over a socket: the openai client, a client that hangs up, and the end."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import socket
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from helpers_commands import Place, Process
from helpers_run import ended
from helpers_waiting import until

from benchmarks import served
from benchmarks import soak as soaking
from conf.compose import composed
from entries.serve_settings import serve_settings
from search.run.finished import FinishedRun
from space.errors import UserError

openai = pytest.importorskip("openai", reason="the package openai is not installed")
TEMPLATE = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
GREEDY: dict[str, Any] = {"max_tokens": 8, "temperature": 0}


@dataclass
class Server:
    """A server as a process."""

    process: Process
    said: list[str]
    run: Path

    @property
    def address(self) -> str:
        return self.said[-1].split()[1]

    @property
    def at(self) -> served.Server:
        """For a bare client."""
        address = urlsplit(self.address)
        assert address.hostname
        assert address.port
        return served.Server(self.process, address.hostname, address.port, 0.0)

    def client(self) -> Any:
        return openai.OpenAI(base_url=self.address, api_key="none", max_retries=0)

    def metrics(self) -> str:
        with urllib.request.urlopen(self.address.removesuffix("v1") + "metrics", timeout=60) as answer:
            return str(answer.read().decode())


@pytest.fixture(scope="module")
def server(llama: Place) -> Iterator[Server]:
    """Of the run's own model, but with a chat template, which is no part of what it is known by."""
    model = shutil.copytree(llama.model, llama.directory / "with-template")
    (model / "chat_template.jinja").write_text(TEMPLATE)
    process = llama.serve("run", f"model.path={model}", "limits.new_tokens=5000", "limits.context=6000")
    assert process.stdout is not None
    said: list[str] = []
    try:
        while not (said and said[-1].startswith("serving: ")):
            line = process.stdout.readline()
            assert line, ended(process).stderr
            said.append(line.rstrip())
        yield Server(process, said, llama.run("run"))
    finally:
        process.kill()
        process.communicate()


def test_every_point_of_the_front_is_served_from_little_memory(server: Server) -> None:
    front = FinishedRun.open(server.run)
    ids = [model.id for model in server.client().models.list()]
    assert ids[:2] == ["auto", "dense"]
    assert set(ids[2:]) == set(front.front["key"]) - {front.dense.key}
    (memory,) = [line for line in server.said if "times the dense model's" in line]
    assert memory.startswith(f"{len(ids) - 1} models in ")
    assert float(memory.split(" MB, ")[1].split()[0]) < len(ids) - 1


def test_the_openai_client_completes_chats_and_streams(server: Server) -> None:
    client = server.client()
    for point in (model.id for model in client.models.list()):
        whole = client.completions.create(model=point, prompt="Ein Text", logprobs=2, **GREEDY)
        choice = whole.choices[0]
        assert whole.usage.completion_tokens <= 8
        assert len(choice.logprobs.tokens) == len(choice.logprobs.token_logprobs) > 0
        pieces = client.completions.create(model=point, prompt="Ein Text", stream=True, **GREEDY)
        assert "".join(piece.choices[0].text for piece in pieces) == choice.text
    messages = [{"role": "user", "content": "Ein Text"}]
    chat = client.chat.completions.create(model="auto", messages=messages, logprobs=True, top_logprobs=2, **GREEDY)
    assert chat.choices[0].message.role == "assistant"
    assert chat.choices[0].finish_reason in ("stop", "length")
    options = {"stream": True, "stream_options": {"include_usage": True}}
    *pieces, last = client.chat.completions.create(model="auto", messages=messages, **options, **GREEDY)
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == chat.choices[0].message.content
    assert last.usage == chat.usage


def test_the_openai_client_raises_its_own_errors(server: Server) -> None:
    client = server.client()
    with pytest.raises(openai.NotFoundError, match="expected one of auto, dense"):
        client.completions.create(model="gpt-4", prompt="x")
    with pytest.raises(openai.BadRequestError, match="n: this server"):
        client.completions.create(model="dense", prompt="x", n=2)
    with pytest.raises(openai.APIStatusError, match=r"limits\.body_bytes"):
        client.completions.create(model="dense", prompt="x" * (1 << 20))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_is_forgotten(server: Server, stream: bool) -> None:
    address = urlsplit(server.address)
    before = cancelled(server)
    body = json.dumps({"model": "dense", "prompt": "a", "max_tokens": 5000, "stream": stream, "seed": 1}).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=60) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        if stream:
            assert b"200 OK" in connection.recv(64)
        else:
            until(lambda: 'active{point="dense"} 1.0' in server.metrics())
    until(lambda: cancelled(server) == before + 1)
    assert 'active{point="dense"} 0.0' in server.metrics()


def test_hostile_clients_get_answers_that_are_well_formed(server: Server) -> None:
    results = asyncio.run(soaking.soak(server.at, 80, 12, np.random.default_rng(0)))
    assert [name for name in results if name.startswith("FAULT")] == []
    assert {"whole: 200", "stream: 200", "hang up: gone", "broken: 400", "megabyte: 413"} <= {*results}
    metrics = server.metrics()
    for status in (400, 404, 413):
        assert f'paretoprune_refused_total{{status="{status}"}}' in metrics
    assert len([*(server.run / "serving").glob("speeds-*.json")]) == 1  # measured meanwhile


def cancelled(server: Server) -> float:
    name = 'paretoprune_requests_total{outcome="cancelled",point="dense"} '
    return sum(float(line.removeprefix(name)) for line in server.metrics().splitlines() if line.startswith(name))


def test_it_ends_when_it_is_told_to_with_a_line_for_each_request(server: Server) -> None:
    asked = {"model": "dense", "prompt": "a", "max_tokens": 5000, "temperature": 0}

    async def both() -> list[served.Answer | None]:
        contents = [served.as_json(asked | {"stream": stream}) for stream in (True, False)]
        return await asyncio.gather(*(served.ask(server.at, "/v1/completions", content) for content in contents))

    with ThreadPoolExecutor() as pool:
        answers = pool.submit(asyncio.run, both())
        until(lambda: 'active{point="dense"} 2.0' in server.metrics())
        server.process.send_signal(signal.SIGTERM)
        done = ended(server.process)
    stream, whole = answers.result()  # of which nobody waits for the end
    assert stream is not None
    assert whole is not None
    assert len(stream.events) > 1
    assert stream.events[-1]["error"]["code"] == "cancelled"
    assert soaking.fault("stream", stream) == "a stream that ends in an error (cancelled)"
    assert (whole.status, json.loads(whole.body)["error"]["message"]) == (503, "The server has ended.")
    assert (done.returncode, done.stdout) == (0, "stopped\n")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["event"] for line in lines} == {"request"}
    assert {"length", "cancelled"} <= {line["outcome"] for line in lines}
    assert "Ein Text" not in done.stderr


def test_points_that_merge_nothing_can_go_on_with_what_the_dense_model_has_begun(llama: Place) -> None:
    overrides = [f"run_dir={llama.run('run')}", "controller=slo", "controller.switching=true"]
    settings = serve_settings(composed(*overrides, name="serve"), overrides)
    assert settings.controller.switching
    (dense,) = [offer for offer in settings.offers if offer.id == "dense"]
    whole = settings.candidates["dense"].layers[0].queries_per_group
    heirs = {
        point: len(candidate.kept)
        for point, candidate in settings.candidates.items()
        if point != "dense" and all(shape.queries_per_group <= whole for shape in candidate.layers)
    }
    assert heirs
    assert {point: len(there) for point, there in dense.heirs.items()} == heirs


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("port=99999", "port: expected a whole number"),
        ("host=0.0.0.0 token=short", "at least 16 characters"),
        ("points=[nobody]", "pick=nobody"),
        ("limits.active=0", "limits.active"),
        ("controller.point=nobody", "controller.point"),
        ("controller=slo controller.margin=2", "controller.margin"),
        ("controller=slo controller.switching=true points=[]", "controller.switching"),
        ("controller=difficulty controller.loss=-1", "controller.loss"),
        ("controller=bandit controller.share=2", "controller.share"),
    ],
)
def test_mistakes_are_told_before_anything_is_read(llama: Place, setting: str, words: str) -> None:
    overrides = f"run_dir={llama.run('run')}", *setting.split()
    with pytest.raises(UserError, match=words):
        serve_settings(composed(*overrides, name="serve"), overrides)
