"""The dashboard's server without a browser: who may ask for what."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_dashboard import HOSTILE, SEARCHED, SPEC, begin, design, end
from helpers_run import ROOT
from helpers_waiting import until

from search.views.dashboard import serve as serving
from search.views.dashboard.jobs import Jobs
from search.views.dashboard.live_run import LiveRun
from search.views.dashboard.orders import Orders
from space.errors import UserError

pytest.importorskip("dash", reason="the package dash is not installed")


class Client:
    """Asks an app as a browser would."""

    def __init__(self, run_dir: Path, scripts: Path, host: str = "127.0.0.1", token: str | None = None) -> None:
        from search.views.dashboard.app import make_app
        from search.views.dashboard.guard import Guard

        self.jobs = Jobs()
        self.run = LiveRun(run_dir)
        self.app = make_app(self.run, self.jobs, Orders(run_dir, scripts), Guard(host, 8050, token))
        self.browser = self.app.test_client()

    def get(self, path: str, host: str = "127.0.0.1:8050") -> Any:
        return self.browser.get(path, headers={"Host": host})

    def click(self, button: str, pick: Any, tasks: Any = None, **headers: str) -> Any:
        given = [{"id": name, "property": "n_clicks", "value": int(name == button)} for name in ("export", "score")]
        values = {"pick": ("data", pick), "tasks": ("value", tasks), "items": ("value", None)}
        body = {
            "output": "..answer.children...asked.data..",
            "outputs": [{"id": "answer", "property": "children"}, {"id": "asked", "property": "data"}],
            "inputs": given,
            "changedPropIds": [f"{button}.n_clicks"],
            "state": [{"id": name, "property": kind, "value": value} for name, (kind, value) in values.items()],
        }
        headers = {"Host": "127.0.0.1:8050", "Origin": "http://127.0.0.1:8050"} | headers
        return self.browser.post("/_dash-update-component", json=body, headers=headers)


@pytest.fixture
def ended_run(tmp_path: Path) -> Path:
    run_dir = begin(tmp_path / "run", SEARCHED)
    end(run_dir, SEARCHED)
    return run_dir


@pytest.fixture
def make_client(ended_run: Path, tmp_path: Path) -> Iterator[Callable[..., Client]]:
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "export_subnet.py").write_text("import sys; print(*sys.argv[1:])")
    made: list[Client] = []

    def make(**settings: Any) -> Client:
        made.append(Client(ended_run, scripts, **settings))
        return made[-1]

    yield make
    for client in made:
        client.jobs.close()


def test_a_click_becomes_a_job_and_nothing_else_does(make_client: Callable[..., Client], ended_run: Path) -> None:
    client, key = make_client(), design(64).key
    for pick in ("../../etc", HOSTILE, None, {"pick": key}):
        assert "Choose a point" in client.click("export", pick).text
    assert "Tasks: expected" in client.click("score", key, "../piqa").text
    assert client.jobs.all() == []
    assert client.click("export", key).json["response"]["answer"] == {"children": ""}
    (job,) = client.jobs.all()
    until(lambda: not job.open)
    assert (job.state, list(job.lines)) == ("done", [f"run_dir={ended_run} pick={key} progress=json"])


def test_other_names_and_other_pages_are_refused(make_client: Callable[..., Client]) -> None:
    client, key = make_client(), design(64).key
    for host in ("127.0.0.1:8050", "localhost:9999", "[::1]:8050"):
        assert client.get("/", host).status_code == 200
    for host in ("evil.example", "evil.example:8050", "10.0.0.1:8050", "127.0.0.1.evil.example", "[::1", ""):
        assert client.get("/figure.json", host).status_code == 403, host
    for origin in ("http://evil.example", "http://127.0.0.1:9999", "null", "", "http://[", "127.0.0.1:8050"):
        assert client.click("export", key, Origin=origin).status_code == 403, origin
    assert client.click("export", key, Host="evil.example", Origin="http://evil.example").status_code == 403
    assert client.jobs.all() == []


def test_every_route_asks_for_the_token(make_client: Callable[..., Client]) -> None:
    client, token = make_client(host="0.0.0.0", token="t" * 24), "t" * 24
    routes = [str(rule) for rule in client.app.url_map.iter_rules() if "GET" in (rule.methods or ())]
    assert {"/", "/figure.json", "/page.js", "/_dash-layout"} <= set(routes)
    for route in routes:
        path = (
            route.replace("<path:path>", "x")
            .replace("<path:filename>", "front.css")
            .replace("<string:package_name>", "dash")
        )
        path = path.replace("<path:fingerprinted_path>", "x")
        for wrong in ("", "?token=", "?token=" + "t" * 23, "?token=ü"):
            assert client.get(path + wrong, "10.0.0.1:8050").status_code == 403, path
    assert client.click("export", design(64).key).status_code == 403
    assert client.get("/", "evil.example").status_code == 403
    answer = client.get(f"/?token={token}", "127.0.0.1:8050")
    assert (answer.status_code, answer.headers["Location"]) == (302, "/")
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    client.browser.set_cookie("paretoprune-8050", token, domain="127.0.0.1")
    assert client.get("/").status_code == 200
    assert client.click("export", design(64).key).status_code == 200


def test_files_beside_the_page_are_not_served(
    make_client: Callable[..., Client], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("assets", "static"):
        (tmp_path / "here" / folder).mkdir(parents=True)
        (tmp_path / "here" / folder / "x.css").write_text("private")
    monkeypatch.chdir(tmp_path / "here")
    client = make_client()
    for path in ("/assets/x.css", "/static/x.css", "/x.css", "/assets/../plot.py", "/assets/%2e%2e/plot.py"):
        text = client.get(path).text  # where there is no file, Dash answers with its page
        assert "private" not in text, path
        assert "front_figure_data" not in text, path


def test_names_that_mean_harm_stay_out_of_the_html(tmp_path: Path) -> None:
    model = SPEC.to_json() | {"name": HOSTILE}
    run_dir = begin(tmp_path / HOSTILE.replace("/", "_"), SEARCHED, model=model)
    end(run_dir, SEARCHED, model=model)
    client = Client(run_dir, tmp_path)
    try:
        page = client.get("/")
        assert "alert" not in page.text
        policy = page.headers["Content-Security-Policy"]
        assert "script-src 'self'" in policy
        assert "'unsafe-inline'" not in policy.partition("style-src")[0]
        client.run.view()
        assert client.get("/figure.json").json["title"] == HOSTILE
    finally:
        client.jobs.close()


def test_tokens_are_long_and_made_up_where_others_can_reach_the_host() -> None:
    from space.listening import choose_token, is_loopback

    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "0.0.0.0", "10.0.0.1", "box", "::")] == [
        True, True, True, False, False, False, False
    ]  # fmt: skip
    assert choose_token("127.0.0.1", None) is None
    one, other = choose_token("0.0.0.0", None), choose_token("box", None)
    assert one != other
    assert len(one or "") >= 32
    assert choose_token("127.0.0.1", "t" * 16) == "t" * 16
    with pytest.raises(UserError, match="16 characters"):
        choose_token("0.0.0.0", "secret")


def test_without_dash_there_is_one_clear_error(ended_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[dashboard\]'"):
        serving.serve(ended_run, ROOT, lambda told: None)


def test_the_command_serves_until_it_is_told_to_end(ended_run: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "dashboard.py"), f"run_dir={ended_run}", "port=0"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        address = said.split()[1]
        assert said.startswith("dashboard: http://127.0.0.1:")
        with urllib.request.urlopen(address, timeout=60) as answer:
            assert "/page.js" in answer.read().decode()
        port = address.rstrip("/").rpartition(":")[2]
        with pytest.raises(UserError, match="Choose another port"):
            serving.serve(ended_run, ROOT, lambda told: None, port=int(port))
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out, err) == (0, "stopped\n", "")
