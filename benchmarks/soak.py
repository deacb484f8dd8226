"""Hostile clients by the thousand: does the server live, is every answer well-formed, and does memory stay flat?

    python -m benchmarks.soak --run-dir RUN [--requests 10000] [--together 24] [--settings KEY=VALUE ...]

Some requests are fine, whole or streamed; others hang up, are broken JSON or noise, ask for models that are not there
or carry a megabyte. In the end the server is killed (SIGKILL) and started again, which it says the seconds of.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.served import Answer, Server, as_json, ask, server

# What is sent, how often of 100, and the statuses that it may come to; 429 may come at any time.
KINDS = {
    "whole": (35, {200}),
    "stream": (20, {200}),
    "hang up": (15, set[int]()),
    "broken": (8, {400}),
    "noise": (7, {400}),
    "no model": (8, {404}),
    "megabyte": (7, {413}),
}
QUARTERS = 4


def content_of(kind: str, generator: np.random.Generator) -> bytes:
    """A request of a kind."""
    body: dict[str, Any] = {
        "model": str(generator.choice(["dense", "auto"])),
        "prompt": "A text to go on " * int(generator.integers(1, 6)),
        "max_tokens": int(generator.integers(1, 9)),
        "temperature": float(generator.integers(0, 2)),
        "stop": ["Q"],
    }
    if kind == "stream" or (kind == "hang up" and generator.random() < 0.5):
        body["stream"] = True
    if kind == "no model":
        body["model"] = "nobody"
    if kind == "megabyte":
        body["prompt"] = "a" * (1 << 20)
    content = as_json(body)
    if kind == "broken":
        return content[:-7]
    return generator.bytes(200) if kind == "noise" else content


def fault(kind: str, answer: Answer | None) -> str | None:
    """What is wrong with an answer, if anything is."""
    if answer is None:
        return None if kind == "hang up" else "no answer"
    if answer.status not in KINDS[kind][1] | {429}:
        return f"status {answer.status}"
    try:
        if answer.status != 200:
            keys = set(json.loads(answer.body)["error"])
            return None if keys == {"message", "type", "param", "code"} else f"an error of {sorted(keys)}"
        if kind == "whole":
            return None if json.loads(answer.body)["choices"][0]["finish_reason"] else "no end"
        return _fault_of_stream(answer)
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return f"{type(error).__name__}: {error}"


def _fault_of_stream(answer: Answer) -> str | None:
    if not answer.body.endswith(b"\r\n0\r\n\r\n"):  # the last chunk
        return "a stream that was cut off"
    if b"data: [DONE]" in answer.body:
        return None if answer.events else "a stream of nothing"
    last = answer.events[-1] if answer.events else {}
    return f"a stream that ends in an error ({last['error']['code']})" if "error" in last else "a stream without an end"


async def soak(at: Server, count: int, together: int, generator: np.random.Generator) -> Counter[str]:
    """Asks so often, and gives how many answers of each kind had each status or fault."""
    names, weights = [*KINDS], np.array([share for share, _ in KINDS.values()]) / 100
    free, results = asyncio.Semaphore(together), Counter[str]()

    async def one(kind: str, content: bytes, hang_up_s: float | None) -> None:
        async with free:
            answer = await ask(at, "/v1/completions", content, hang_up_s)
        wrong = fault(kind, answer)
        results[f"FAULT {kind}: {wrong}" if wrong else f"{kind}: {answer.status if answer else 'gone'}"] += 1

    kinds = [names[int(index)] for index in generator.choice(len(names), count, p=weights)]
    hang_ups = [float(generator.random()) if kind == "hang up" else None for kind in kinds]
    work = [one(kind, content_of(kind, generator), s) for kind, s in zip(kinds, hang_ups, strict=True)]
    await asyncio.gather(*work)
    return results


def main() -> None:
    """Soaks, and exits with 1 where anything was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--together", type=int, default=24)
    parser.add_argument("--settings", nargs="*", default=[], help="Hydra overrides of the server")
    arguments = parser.parse_args()
    generator, results = np.random.default_rng(0), Counter[str]()
    with server(arguments.run_dir, arguments.settings) as at:
        for quarter in range(QUARTERS):
            begun = time.monotonic()
            part = asyncio.run(soak(at, arguments.requests // QUARTERS, arguments.together, generator))
            results += part
            took = time.monotonic() - begun
            print(f"{part.total()} requests in {took:.0f} s, then {at.rss_mb():.0f} MB", flush=True)
            if quarter == 0:
                after_first = at.rss_mb()
        health = asyncio.run(ask(at, "/healthz", None))
        grown = at.rss_mb() / after_first - 1
    for name, times in sorted(results.items()):
        print(f"{times:6d}  {name}")
    print(f"memory: {grown:+.1%} after the first quarter; health: {health.status if health else 'none'}")
    with server(arguments.run_dir, arguments.settings) as at:
        print(f"after SIGKILL: ready in {at.ready_s:.1f} s")
    if health is None or health.status != 200 or any(name.startswith("FAULT") for name in results):
        sys.exit(1)


if __name__ == "__main__":
    main()
