"""The dashboard's jobs: what is asked for becomes a command, and commands run one after the other."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers_dashboard import HOSTILE, KEYS, SEARCHED
from helpers_waiting import until

from search.views.dashboard.jobs import Job, Jobs
from search.views.dashboard.orders import Orders
from space.errors import UserError

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
