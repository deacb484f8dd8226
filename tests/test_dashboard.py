"""The dashboard without a browser: an archive that grows and breaks, who may ask for what, and jobs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_dashboard import DENSE, FIDELITIES, SEARCHED, SPEC, begin, design, end, evaluation, header, lines
from helpers_run import ROOT
from helpers_waiting import until

from evaluators.base import Evaluation
from evaluators.metrics import metric_named
from search.archive import Archive
from search.course import Course
from search.views.dashboard import serve as serving
from search.views.dashboard.curves import TauCurves, thinned
from search.views.dashboard.follow import Follower
from search.views.dashboard.jobs import Job, Jobs
from search.views.dashboard.live_run import LiveRun
from search.views.dashboard.orders import Orders
from space.errors import UserError

pytest.importorskip("dash", reason="the package dash is not installed")

OBJECTIVES = (metric_named("kl"), metric_named("latency_ms"))
KEYS = frozenset(e.candidate.key for e in SEARCHED)
HOSTILE = "../<script>alert(1)</script>{%config%}{{live}}"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return begin(tmp_path / "run", SEARCHED) / "archive.jsonl"


# ---- an archive that grows
def test_a_follower_takes_whole_new_lines_and_leaves_an_unfinished_one(archive: Path) -> None:
    follower = Follower(archive)
    assert follower.read() == (False, SEARCHED)
    assert follower.settings["model"]["name"] == "tiny"
    assert follower.read() == (False, [])
    new = lines([evaluation(design(80), 0.1, 90.0)])
    with archive.open("a") as file:
        file.write(new[:40])
    assert follower.read() == (False, [])
    with archive.open("a") as file:
        file.write(new[40:])
    assert [e.candidate for e in follower.read()[1]] == [design(80)]
    assert follower.problem == ""


def test_a_follower_begins_anew_where_the_file_is_cut_or_another_one(archive: Path) -> None:
    follower = Follower(archive)
    follower.read()
    archive.write_text(header() + lines(SEARCHED[:2]))
    assert follower.read() == (True, SEARCHED[:2])
    archive.write_text(header() + lines([*reversed(SEARCHED)]))  # longer than before, and not its continuation
    assert follower.read() == (True, SEARCHED[::-1])
    archive.unlink()
    assert follower.read() == (True, [])
    assert follower.read() == (False, [])
    archive.write_text(header() + lines(SEARCHED[:1]))
    assert follower.read() == (False, SEARCHED[:1])


def test_a_follower_tells_of_a_corrupt_line_and_goes_on(archive: Path) -> None:
    with archive.open("a") as file:
        file.write("[1, 2]\n" + lines([evaluation(design(80), 0.1, 90.0)]))
    follower = Follower(archive)
    assert len(follower.read()[1]) == len(SEARCHED) + 1
    assert "line 7 is left out" in follower.problem


def test_a_follower_sees_whether_a_search_holds_the_archive(archive: Path) -> None:
    follower = Follower(archive)
    follower.read()
    if follower.held() is None:
        pytest.skip("this system does not tell of locks")
    assert follower.held() is False
    with Archive(archive, follower.settings):
        assert follower.held() is True
    assert follower.held() is False


# ---- what it says
def test_surrogates_are_judged_by_designs_that_they_had_not_seen() -> None:
    taus = TauCurves()
    for place in range(32):
        right = place < 16
        predicted = {"kl": float(place if right else -place)}
        taus.add(evaluation(design(place), float(place), 50.0, predicted=predicted), 100 * (place + 1))
        taus.add(evaluation(design(place), float(place), 50.0, "search-16"), 0)  # which nothing predicted
    (tokens, first), (_, second) = taus.curves["search", "kl"]
    assert [*taus.curves] == [("search", "kl")]
    assert (tokens, first) == (1600, pytest.approx(1.0))
    assert second < 0.5


def test_a_thinned_curve_keeps_its_ends() -> None:
    curve = [(number, float(number)) for number in range(1001)]
    assert thinned(curve, 5) == [(0, 0.0), (250, 250.0), (500, 500.0), (750, 750.0), (1000, 1000.0)]
    assert thinned(curve[:3], 5) == curve[:3]


def series(run: LiveRun, role: str) -> list[str]:
    data = json.loads(run.figure())
    return [key for one in data["series"] if one["role"] == role for key in one["keys"]]


def test_a_run_that_searches_shows_the_archives_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.views.dashboard.live_run.BUSY", 1e9)  # as fast as the test looks
    run_dir = begin(tmp_path / "run", [])
    run = LiveRun(run_dir)
    assert run.view().state.startswith("Preparing")
    assert run.figure() == "null"
    with (run_dir / "archive.jsonl").open("a") as file:
        file.write(lines(SEARCHED[:4]))
    before = run.view()
    assert (before.spent, before.keys, before.problem) == (0.2, frozenset(), "")
    assert series(run, "front") == [design(64).key, design(32).key]
    assert series(run, "dense") == [DENSE.key]
    assert run.view().version == before.version
    with (run_dir / "archive.jsonl").open("a") as file:
        file.write(lines(SEARCHED[4:]))
    assert run.view().version != before.version
    assert series(run, "front") == [design(64).key, design(32).key, design(0).key]
    assert series(run, "dominated") == [design(16).key]


def append(run_dir: Path, *evaluations: Evaluation) -> None:
    with (run_dir / "archive.jsonl").open("a") as file:
        file.write(lines([*evaluations]))


def test_the_hypervolume_is_the_searchs_own_and_of_one_fidelity(tmp_path: Path) -> None:
    cheap = [evaluation(design(n), 100.0 / (n + 1), 10.0 * n, "search-16") for n in (8, 16, 32)]
    course = Course(OBJECTIVES, FIDELITIES)
    run_dir = begin(tmp_path / "run", cheap)
    run = LiveRun(run_dir)
    assert run.view().volumes == {}  # the first generation is not over, so that there is no reference yet
    searched = [replace(each, generation=2) for each in SEARCHED]
    append(run_dir, searched[0])
    for each in cheap:
        course.add(each)
    course.end_generation()
    assert run.view().volumes == {"search-16": [(300, course.hypervolume)]}
    append(run_dir, *searched[1:], evaluation(design(80), 0.1, 90.0, generation=3))
    for each in searched:
        course.add(each)
    course.end_generation()
    before = course.hypervolume
    course.add(evaluation(design(80), 0.1, 90.0, generation=3))
    assert run.view().volumes == {"search": [(800, before), (900, course.hypervolume)]}


def test_what_comes_after_the_search_spends_nothing_of_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.views.dashboard.live_run.BUSY", 1e9)
    monkeypatch.setattr(Follower, "held", lambda self: True)
    run_dir = begin(tmp_path / "run", SEARCHED)
    run = LiveRun(run_dir)
    assert run.view().spent == 0.25
    append(run_dir, evaluation(design(80), 0.1, 90.0, generation=0), evaluation(DENSE, 0.0, 100.0, "heldout"))
    view = run.view()
    assert (view.spent, view.counts) == (0.25, "Evaluations: search 6, heldout 1")
    assert design(80).key in series(run, "front")
    assert view.state.startswith("Scoring")


def test_an_archive_of_another_search_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    run_dir = begin(tmp_path / "run", [])
    (run_dir / "archive.jsonl").write_text(header(fidelities=("cheap",)) + lines(SEARCHED))
    assert "expected an evaluation of cheap, got one of search" in LiveRun(run_dir).view().problem


def test_trained_points_stand_beside_what_they_were_before(tmp_path: Path) -> None:
    trained = evaluation(design(64), 0.1, 80.0, "distilled-96")
    run = LiveRun(begin(tmp_path / "run", [*SEARCHED, trained]))
    run.view()
    front = next(one for one in json.loads(run.figure())["series"] if one["role"] == "front")
    assert (front["keys"], front["values"]["kl"], front["values"]["untuned_kl"]) == ([design(64).key], [0.1], [0.2])


def test_a_fidelity_that_has_asked_the_dense_model_alone_has_no_front_yet(tmp_path: Path) -> None:
    run = LiveRun(begin(tmp_path / "run", [*SEARCHED, evaluation(DENSE, 0.0, 100.0, "distilled-96")]))
    run.view()
    assert series(run, "front") == [design(64).key, design(32).key, design(0).key]


def test_without_the_dense_model_its_size_is_known(tmp_path: Path) -> None:
    run = LiveRun(begin(tmp_path / "run", SEARCHED[1:]))
    assert run.view().problem == ""
    dense = next(one for one in json.loads(run.figure())["series"] if one["role"] == "dense")
    assert (dense["keys"], dense["values"]["kl"]) == ([DENSE.key], [None])
    assert dense["values"]["decoder_params"] == [evaluation(DENSE, 0.0, 0.0).values["decoder_params"]]


def test_a_run_that_has_ended_shows_its_front_until_it_searches_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.views.dashboard.live_run.BUSY", 1e9)
    run_dir = begin(tmp_path / "run", SEARCHED)
    run = LiveRun(run_dir)
    run.view()
    end(run_dir, SEARCHED)
    view = run.view()
    assert view.state.startswith("Ended: 3 points")
    assert view.keys == KEYS
    assert "heldout_ppl" in [column["name"] for column in json.loads(run.figure())["columns"]]
    with (run_dir / "archive.jsonl").open("a") as file:
        file.write(lines([evaluation(design(80), 0.1, 90.0)]))
    assert not (view := run.view()).state.startswith("Ended")
    assert view.keys == frozenset()  # nothing is exported or scored while it searches on
    assert design(80).key in series(run, "front")
    (run_dir / "front.csv").write_text("key\n")
    assert "front.csv" in run.view().problem


def test_an_archive_that_is_none_of_this_model_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    run = LiveRun(begin(tmp_path / "run", SEARCHED, model={"name": HOSTILE}))
    assert "cannot be drawn" in run.view().problem


def test_no_run_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"to hold a run.*begin its search first"):
        LiveRun(tmp_path)


# ---- orders
PLACES = ("model.path=/now/here", "data.path=[a.txt,b.txt]")


@pytest.fixture
def orders(tmp_path: Path) -> Orders:
    return Orders(
        tmp_path / "a run, with 'quotes'", tmp_path / "scripts", include_path=str(tmp_path / "tasks"), places=PLACES
    )


def test_orders_become_commands_of_the_entry_scripts(orders: Orders) -> None:
    key = SEARCHED[1].candidate.key
    _, command = orders.export(key, KEYS)
    assert command[1:] == [
        str(orders.scripts / "export_subnet.py"),
        f"run_dir='{str(orders.run_dir).replace(chr(39), chr(92) + chr(39))}'",
        f"pick={key}",
        "progress=json",
        *PLACES,
    ]
    title, command = orders.score(key, KEYS, "piqa, arc_easy", " 0.5 ")
    assert title == f"Score {key} on piqa, arc_easy"
    assert command[3:] == [
        f"pick={key}",
        "progress=json",
        *PLACES,
        "tasks=[piqa,arc_easy]",
        "limit=0.5",
        f"include_path={orders.include_path}",
    ]
    assert not any(word.startswith("limit") for word in orders.score(key, KEYS, "piqa", None)[1])


@pytest.mark.parametrize("pick", [None, 7, ["s"], "", "recommended", "../../x", HOSTILE, "s0; rm -rf x", "params<=1"])
def test_a_pick_is_a_key_of_the_run(orders: Orders, pick: Any) -> None:
    with pytest.raises(UserError, match="Choose a point of this run"):
        orders.export(pick, KEYS)
    with pytest.raises(UserError, match="Choose a point of this run"):
        orders.score(pick, KEYS, "piqa", None)
    with pytest.raises(UserError, match="once the search has ended"):
        orders.export(SEARCHED[0].candidate.key, frozenset())


@pytest.mark.parametrize(
    ("tasks", "limit"),
    [
        (None, None),
        ("", ""),
        ("../x", ""),
        ("x.yaml", ""),
        ("a],limit=1", ""),
        ("-x", ""),
        (["piqa"], ""),
        ("a " * 60, ""),
    ]
    + [("piqa", limit) for limit in ("-1", "0", "nan", "1e3", "5]", 5, True, [1])],
)
def test_tasks_are_names_and_items_a_number(orders: Orders, tasks: Any, limit: Any) -> None:
    with pytest.raises(UserError, match=r"^(Tasks|Items): expected"):
        orders.score(SEARCHED[0].candidate.key, KEYS, tasks, limit)


def test_what_is_exported_already_says_where(orders: Orders) -> None:
    key = SEARCHED[0].candidate.key
    (orders.run_dir / "exports" / key).mkdir(parents=True)
    assert orders.why_no_export(key, KEYS) == f"Exported: {orders.run_dir / 'exports' / key}"


# ---- jobs
def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def test_a_job_that_does_not_end_when_asked_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.views.dashboard.jobs.PATIENCE_S", 0.3)
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    with Jobs() as jobs:
        first, second = jobs.add("deaf", python(deaf)), jobs.add("next", python("print('b')"))
        until(lambda: list(first.lines) == ["deaf"])
        jobs.stop(first.number)
        until(lambda: not second.open)
        assert (first.state, second.state) == ("stopped", "done")


def test_jobs_run_one_after_the_other_and_tell_what_they_do() -> None:
    events = [{"event": "stage", "stage": "tuning"}, {"event": "step", "stage": "tuning", "done": 1, "of": 2}]
    events += [{"event": "message", "text": "exported"}, {"event": "error", "message": "told as text too"}]
    job = Job(1, "x", ())
    for event in events[:2]:
        job.hear(json.dumps(event) + "\n")
    assert job.step == "tuning: 1 of 2"
    with Jobs() as jobs:
        first = jobs.add("first", python("import time; print('a'); time.sleep(60)"))
        second = jobs.add("second", python(f"for e in {list(map(json.dumps, events))!r}: print(e)"))
        third = jobs.add("third", python("import sys; print('x' * 9000); sys.exit('no room')"))
        fourth = jobs.add("fourth", ["/no/such/program"])
        with pytest.raises(UserError, match="in the queue already"):
            jobs.add("again", second.command)
        until(lambda: list(first.lines) == ["a"])
        assert [job.state for job in jobs.all()] == ["running", "queued", "queued", "queued"]
        jobs.stop(first.number)
        until(lambda: not fourth.open)
        assert [job.state for job in jobs.all()] == ["stopped", "done", "failed", "failed"]
        assert list(second.lines) == ["exported"]
        assert (len(third.lines[0]), third.lines[1]) == (2000, "no room")
        assert "FileNotFoundError" in fourth.lines[0]


def test_the_end_ends_a_job_and_its_children() -> None:
    child = "import time; time.sleep(600)"
    with Jobs() as jobs:
        parent = (
            f"import subprocess, sys; p = subprocess.Popen([sys.executable, '-c', {child!r}]); print(p.pid); p.wait()"
        )
        job, waiting = jobs.add("parent", python(parent)), jobs.add("waiting", python("pass"))
        until(lambda: job.lines)
        pid = int(job.lines[0])
        os.kill(pid, 0)
    assert (job.state, waiting.state) == ("stopped", "stopped")
    until(lambda: not alive(pid))


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


# ---- the server
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


def test_without_dash_there_is_one_clear_error(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[dashboard\]'"):
        serving.serve(archive.parent, ROOT, lambda told: None)


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
