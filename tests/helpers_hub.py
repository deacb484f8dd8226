"""A model hub on this machine, as far as the hub's client asks it to take an upload."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_aSecretThatNobodySees"


class FakeHub(ThreadingHTTPServer):
    """Knows one user; keeps the files of repositories and what was asked, tokens included."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.user: dict[str, Any] = {
            "name": "me",
            "orgs": [{"name": "lab"}],
            "auth": {"accessToken": {"role": "write"}},
        }
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.asked: list[tuple[str, str]] = []
        self.broken = ""  # paths with this in them are answered with an error

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        self._asked("GET")
        repo = "/".join(self.path.split("?")[0].split("/")[3:5])
        if self.path.startswith("/api/whoami"):
            self._answer(self.server.user)
        elif repo in self.server.files:
            self._answer(
                [{"type": "file", "path": name, "oid": "0" * 40, "size": 1} for name in self.server.files[repo]]
                if "/tree/" in self.path
                else {"id": repo, "sha": "0" * 40}
            )
        else:
            self._answer({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def do_POST(self) -> None:
        self._asked("POST")
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.broken and self.server.broken in self.path:
            self._answer({"error": "out of order"}, 403)
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            repo = "/".join(filter(None, (asked.get("organization") or "me", asked["name"].split("/")[-1])))
            self.server.files.setdefault(repo, {})
            self.server.private.setdefault(repo, asked.get("private") or asked.get("visibility") == "private")
            self._answer({"url": f"{self.server.address}/{repo}"})
        elif self.path.endswith("/preupload/main"):
            files = json.loads(body)["files"]
            self._answer(
                {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}
            )
        elif "/commit/" in self.path:
            repo = "/".join(self.path.split("/")[3:5])
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer({"commitUrl": f"{self.server.address}/{repo}/commit/{'1' * 40}", "commitOid": "1" * 40})
        else:
            self._answer({"errors": [], "warnings": []})  # of the model card

    def _asked(self, method: str) -> None:
        self.server.asked.append((f"{method} {self.path}", self.headers.get("authorization", "")))

    def _answer(self, values: Any, status: int = 200, headers: Any = None) -> None:
        body = json.dumps(values).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **(headers or {})}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that answers while the context is open."""
    with FakeHub() as hub:
        thread = threading.Thread(target=hub.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
