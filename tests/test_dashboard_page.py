"""The dashboard in a real browser: points come as a search goes on, exports, scores, and names that mean harm."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_dashboard import SEARCHED, SPEC, begin, design, end, evaluation, header, lines

from search.views.dashboard.jobs import Jobs
from search.views.dashboard.live_run import LiveRun
from search.views.dashboard.orders import Orders
from space.locations import LIVE_FILE, SERVING_DIRECTORY

pytest.importorskip("dash", reason="the package dash is not installed")

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>{%config%}"
EXPORT = """
import json, pathlib, sys
given = dict(argument.split("=", 1) for argument in sys.argv[1:])
(pathlib.Path(given["run_dir"]) / "exports" / given["pick"]).mkdir(parents=True)
print(json.dumps({"event": "stage", "stage": "tuning"}))
print(json.dumps({"event": "message", "text": "exported <b>" + given["pick"] + "</b>"}))
"""
SCORE = """
import sys, time
print(*sys.argv[2:], flush=True)
time.sleep(600 if "tasks=[slow]" in sys.argv else 0)
sys.exit("error: no such task")
"""


@pytest.fixture
def opened(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], Any]]:
    """Opens the dashboard of a run in a tab; at the end, nothing has gone wrong in it."""
    from werkzeug.serving import make_server

    from search.views.dashboard.app import make_app
    from search.views.dashboard.guard import Guard

    monkeypatch.setattr("search.views.dashboard.live_run.BUSY", 1e9)
    monkeypatch.setattr("search.views.dashboard.app.LOOK_MS", 200)
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    (scripts / "export_subnet.py").write_text(EXPORT)
    (scripts / "score_subnet.py").write_text(SCORE)
    jobs, wrong, ends = Jobs(), [], []

    def start(run_dir: Path) -> Any:
        app = make_app(LiveRun(run_dir), jobs, Orders(run_dir, scripts), Guard("127.0.0.1", 0, None))
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        tab = browser.new_page(viewport={"width": 1400, "height": 900})
        tab.on("console", lambda message: message.type in ("error", "warning") and wrong.append(message.text))
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("dialog", lambda dialog: (wrong.append(dialog.message), dialog.dismiss()))
        ends.extend([tab.close, server.shutdown, thread.join, server.server_close])
        tab.goto(f"http://127.0.0.1:{server.server_port}/")
        tab.wait_for_selector("#state:not(:empty)")
        return tab

    with jobs:
        yield start
        for finish in ends:
            finish()
    assert wrong == []


def shown(tab: Any, *words: str) -> None:
    for selector, text in zip(words[::2], words[1::2], strict=True):
        tab.wait_for_function(
            "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)", arg=[selector, text]
        )


def drawn(tab: Any, key: str) -> None:
    tab.wait_for_function(
        """key => document.getElementById("plot").data
          ?.some(({ customdata }) => (customdata ?? []).some((id) => id.endsWith(key)))""",
        arg=key,
    )


def test_points_come_while_it_searches_and_after_a_kill(opened: Callable[[Path], Any], tmp_path: Path) -> None:
    run_dir = begin(tmp_path / "run", [])
    archive = run_dir / "archive.jsonl"
    tab = opened(run_dir)
    shown(tab, "#state", "Preparing", "#volumes", "nothing yet", "#picked", "no point chosen")
    assert tab.is_hidden("#chart")
    with archive.open("a") as file:
        file.write(lines(SEARCHED[:3]))
    drawn(tab, design(32).key)
    shown(tab, "#title", "tiny", "#subtitle", "2 points on the front", "#counts", "search 3")
    assert tab.title() == "tiny – paretoprune"
    new = lines([SEARCHED[4]])
    with archive.open("a") as file:
        file.write(new[:50])
        file.flush()
        tab.wait_for_timeout(500)
        shown(tab, "#subtitle", "2 points on the front")
        file.write(new[50:])
    drawn(tab, design(0).key)
    assert tab.is_disabled("#export")
    shown(tab, "#subtitle", "3 points on the front", "#export-why", "once the search has ended")
    archive.write_text(header() + lines([*SEARCHED[:2], evaluation(design(80), 0.1, 90.0)]))
    drawn(tab, design(80).key)
    shown(tab, "#subtitle", "2 points on the front", "#counts", "search 3")


def test_a_pick_is_exported_and_scored(opened: Callable[[Path], Any], tmp_path: Path) -> None:
    run_dir = begin(tmp_path / "run", SEARCHED)
    tab = opened(run_dir)
    drawn(tab, design(32).key)
    end(run_dir, SEARCHED)
    shown(tab, "#state", "Ended: 3 points")
    tab.click('#marks button:has-text("fastest")')
    key = design(0).key
    shown(tab, "#picked", key)
    tab.click("#export:not([disabled])")
    shown(tab, ".job.done", f"Export {key}", ".job pre", f"exported <b>{key}</b>")
    shown(tab, "#export-why", f"Exported: {run_dir / 'exports' / key}")
    assert tab.is_disabled("#export")
    tab.fill("#tasks", "../piqa")
    tab.click("#score")
    shown(tab, "#answer", "Tasks: expected")
    tab.fill("#tasks", "piqa, arc_easy")
    tab.fill("#items", "20")
    tab.click("#score")
    shown(tab, ".job.failed", f"Score {key} on piqa, arc_easy", ".job.failed pre", "error: no such task")
    shown(tab, ".job.failed pre", f"pick={key} progress=json tasks=[piqa,arc_easy] limit=20")
    tab.fill("#tasks", "slow")
    tab.click("#score")
    shown(tab, ".job.running pre", "tasks=[slow]")
    tab.click(".job.running button")
    shown(tab, ".job.stopped", f"Score {key} on slow")
    assert tab.locator(".job").count() == 3
    tab.wait_for_selector("#answer:empty", state="attached")
    for width in (1400, 800, 390):
        tab.set_viewport_size({"width": width, "height": 800})
        tab.wait_for_function("plot._fullLayout.width <= document.getElementById('chart').clientWidth")
        tab.wait_for_function("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_names_that_mean_harm_do_nothing(opened: Callable[[Path], Any], tmp_path: Path) -> None:
    model = SPEC.to_json() | {"name": HOSTILE}
    run_dir = begin(tmp_path / HOSTILE.replace("/", ".."), SEARCHED, model=model)
    with (run_dir / "archive.jsonl").open("a") as file:
        file.write(lines([evaluation(design(8), 0.1, 90.0, HOSTILE)]) + '{"values": "<script>alert(3)</script>"}\n')
    tab = opened(run_dir)
    drawn(tab, design(32).key)
    shown(tab, "#title", HOSTILE, "#counts", f"{HOSTILE} 1", "#problem", "is left out")
    assert tab.locator("img, script:text('alert')").count() == 0


def test_a_server_of_the_run_is_seen_beside_it(opened: Callable[[Path], Any], tmp_path: Path) -> None:
    run_dir = begin(tmp_path / "run", SEARCHED)
    tab = opened(run_dir)
    assert not tab.is_visible("#served")
    look = {"writing": 2, "waiting": 1, "ended": {HOSTILE: 3}}
    recent = {"requests": {HOSTILE: 3}, "failed": 0, "first_token_s": 0.12, "token_s": 0.034}
    told = {
        **{"address": "http://127.0.0.1:1/", "controller": "slo", "at": time.time() + 60, "ended": False},
        "recent": {**recent, "slo_kept": 0.9, "predicted_loss": 0.2},
        "looks": [{**look, "at": at} for at in (10.0, 12.0)],
    }
    (run_dir / SERVING_DIRECTORY).mkdir()
    (run_dir / SERVING_DIRECTORY / LIVE_FILE.format(1)).write_text(json.dumps(told))
    shown(tab, "#served-state", "Served by controller=slo", "#served-figures", "limits of time kept by 90%")
    tab.wait_for_function("() => document.querySelector('#rates .js-plotly-plot')?.data?.[0]?.y?.[0] === 90")
    assert tab.is_visible("#load")
