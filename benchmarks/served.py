"""A server of a run as a process, and a bare client that says when each token came."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.quality import ROOT

TIMEOUT_S = 900.0  # of an answer


@dataclass(frozen=True)
class Server:
    """A server that serves.

    Attributes:
        process: Of it.
        host: Its address.
        port: Of it.
        ready_s: Seconds from its start until it could be asked.
    """

    process: subprocess.Popen[str]
    host: str
    port: int
    ready_s: float

    def rss_mb(self) -> float:
        """Memory that it has, in MB, as Linux counts it."""
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="utf-8")
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) / 1024


@contextmanager
def server(run_dir: Path, settings: Sequence[str]) -> Iterator[Server]:
    """A server of a run while the context is open; it is killed at the end.

    Args:
        run_dir: The run.
        settings: Hydra overrides of `serve_subnets.py`.
    """
    begun = time.monotonic()
    command = [sys.executable, str(ROOT / "serve_subnets.py"), f"run_dir={run_dir}", "port=0", "log=false"]
    process = subprocess.Popen([*command, "progress=lines", *settings], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            print(f"  {line.rstrip()}", flush=True)
            if line.startswith("serving: "):
                address = urlsplit(line.split()[1])
                assert address.hostname
                assert address.port
                yield Server(process, address.hostname, address.port, time.monotonic() - begun)
                return
        sys.exit("error: the server ended before it served: see above")
    finally:
        process.kill()
        process.communicate()


@dataclass(frozen=True)
class Answer:
    """What came.

    Attributes:
        status: Of HTTP.
        body: All that came behind the head, as it came.
        times: Seconds from the request to each event of a stream.
    """

    status: int
    body: bytes
    times: tuple[float, ...] = ()

    @property
    def events(self) -> list[Any]:
        """The events of a stream as JSON; those that are none, such as its end, are left out."""
        lines = [line.removeprefix(b"data: ") for line in self.body.splitlines() if line.startswith(b"data: {")]
        return [json.loads(line) for line in lines]


async def ask(at: Server, path: str, content: bytes | None, hang_up_s: float | None = None) -> Answer | None:
    """Asks once, over a connection of its own.

    Args:
        at: Whom.
        path: Of the address.
        content: Of a POST; None for a GET.
        hang_up_s: Seconds after which the client goes away; None for never.

    Returns:
        The answer; None where the client went away.
    """
    begun = time.monotonic()
    reader, writer = await asyncio.open_connection(at.host, at.port)
    try:
        kind = "GET" if content is None else "POST"
        head = f"{kind} {path} HTTP/1.1\r\nHost: {at.host}:{at.port}\r\nConnection: close\r\n"
        if content is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        writer.write(f"{head}\r\n".encode() + (content or b""))
        await writer.drain()
        if hang_up_s is not None:
            await asyncio.sleep(hang_up_s)
            return None
        return await asyncio.wait_for(_read(reader, begun), TIMEOUT_S)
    finally:
        writer.close()


async def _read(reader: asyncio.StreamReader, begun: float) -> Answer:
    status = int((await reader.readline()).split()[1])
    while (await reader.readline()).strip():
        pass
    lines, times = list[bytes](), list[float]()
    while line := await reader.readline():
        lines.append(line)
        if line.startswith(b"data: {"):
            times.append(time.monotonic() - begun)
    return Answer(status, b"".join(lines), tuple(times))


def as_json(body: Mapping[str, Any]) -> bytes:
    """A request's body."""
    return json.dumps(body).encode()
