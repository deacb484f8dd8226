"""A finished run timed on other devices, on made-up numbers: whose times count, what is chosen, and what is said."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from helpers_finish import DENSE, FACTS, MEMBERS, TIMED, Run, heldout_values, keys, latency, replaced, timed_values

from conf.compose import composed
from conf.settings import instantiated
from entries.timing_settings import TimingSettings, timing_settings
from evaluators.base import TIMED_ON, Evaluation, Measure, MeasureEvaluator, Metric
from search.archive import Archive
from search.run.directory import CONFIRMED_FILE, FRONT_FILE, PAGE_FILE, REPORT_FILE, SUMMARY_FILE
from search.run.finished import FinishedRun
from search.run.front import read_front_csv
from search.run.timing import time_run
from search.views.pages import write_pages
from space.candidate import Candidate
from space.errors import UserError

PHONE = {"device": "Phone 9", "engine": "llama.cpp 1", "threads": 4}
UNTIMED = "no point is timed end to end"


def phone_values(candidate: Candidate) -> dict[str, float]:
    return {"latency_e2e_ms": 30.0 * latency(candidate)}


@dataclass
class Elsewhere:
    """Times on a phone."""

    values: Callable[[Candidate], dict[str, float]] = phone_values
    fidelity: str = "timed-phone"
    metrics: tuple[Metric, ...] = TIMED
    asked: list[str] = field(default_factory=list)

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        self.asked += keys(candidates)
        for answer in MeasureEvaluator(self.fidelity, [Measure(TIMED, self.values)]).evaluate(candidates):
            yield replace(answer, facts={TIMED_ON: PHONE} if answer.status == "ok" else {})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, [DENSE, *MEMBERS])


def time_on(run: Run, timed: object) -> FinishedRun:
    with Archive.reopen(run.directory / "archive.jsonl") as archive:
        ended = time_run(FinishedRun.open(run.directory), archive, timed)  # type: ignore[arg-type]
        write_pages(run.directory, archive)
        return ended


def said(run: Run) -> dict[str, str]:
    return {name: (run.directory / name).read_text() for name in (REPORT_FILE, PAGE_FILE)}


def times(run: Run) -> dict[str, float]:
    front = read_front_csv(run.directory / FRONT_FILE)
    return dict(zip(front["key"], front["latency_e2e_ms"], strict=True))


def test_a_front_by_a_table_from_elsewhere_is_timed_by_one_command_and_stays_so(run: Run) -> None:
    run.timed = None
    run.end()
    assert all(UNTIMED in text for text in said(run).values())
    assert "python time_front.py run_dir=" in said(run)[REPORT_FILE]
    here = Elsewhere(lambda c: replaced(timed_values, MEMBERS[0], latency_e2e_ms=99.0)(c), fidelity="timed")
    ended = time_on(run, here)
    assert here.asked == keys([DENSE, *MEMBERS])
    assert times(run) == pytest.approx({c.key: 1.25 * latency(c) for c in (DENSE, *MEMBERS[1:])})  # [0] is slower
    assert ended.advice.recommended is None  # it was the one within the rise
    assert (ended.summary["end_to_end"], ended.summary["dropped"]) == (FACTS["timed"], 1)
    assert not any(UNTIMED in text or "time_front.py" in text for text in said(run).values())
    assert "end to end on the device below" in said(run)[REPORT_FILE]
    # a search that goes on finds the times, which nobody measures there
    files = {file: (run.directory / file).read_bytes() for file in (FRONT_FILE, PAGE_FILE, REPORT_FILE)}
    done = run.end()
    assert not done.measured.untimed
    assert {file: (run.directory / file).read_bytes() for file in files} == files
    time_on(run, here)
    assert here.asked == keys([DENSE, *MEMBERS])  # once


def test_times_of_two_devices_are_told_apart_and_neither_is_lost(run: Run) -> None:
    run.timed.values = replaced(timed_values, MEMBERS[1], latency_e2e_ms=99.0)
    run.end()
    at_first = {file: (run.directory / file).read_bytes() for file in (FRONT_FILE, SUMMARY_FILE)}
    assert MEMBERS[1].key not in times(run)
    phone = Elsewhere(replaced(phone_values, MEMBERS[3], latency_e2e_ms=999.0))
    ended = time_on(run, phone)
    left = [DENSE, *MEMBERS[:3], *MEMBERS[4:]]
    assert times(run) == pytest.approx({candidate.key: 30 * latency(candidate) for candidate in left})
    words = "nd-to-end times were measured on Phone 9, llama.cpp 1; the latency table, by which the search went, on toy"
    assert all(words in text for text in said(run).values())
    assert "end to end on the device below" not in said(run)[REPORT_FILE]
    # the table's milliseconds are not the phone's, its speed-ups are
    assert ended.summary["latency_table_error"]["median"] == pytest.approx(0.0)
    assert "speed-ups of the latency table against those end to end: median error 0.0%" in said(run)[REPORT_FILE]
    assert ended.summary["end_to_end"] == PHONE
    assert ended.summary["front_points"] == len(left) - 1
    # on the first device again: its times, and the front as it was
    assert run.timed.calls == [keys([DENSE, *MEMBERS])]
    time_on(run, run.timed)
    assert run.timed.calls == [keys([DENSE, *MEMBERS])]
    assert {file: (run.directory / file).read_bytes() for file in at_first} == at_first
    time_on(run, phone)
    assert sorted(phone.asked) == sorted(keys([DENSE, *MEMBERS]))
    # and a search that goes on has its own device's
    run.end()
    assert times(run)[DENSE.key] == pytest.approx(1.25 * latency(DENSE))


def test_times_of_some_members_alone_are_no_times_of_a_front(run: Run) -> None:
    run.timed = None
    run.end(points=3)
    time_on(run, Elsewhere(fidelity="timed"))
    assert not run.end(points=3).measured.untimed
    assert run.end().measured.untimed  # which has more members
    assert all(UNTIMED in text for text in said(run).values())


def test_what_the_device_cannot_run_is_left_out_and_without_the_dense_model_nothing_changes(run: Run) -> None:
    run.end()
    before = {file: (run.directory / file).read_bytes() for file in (FRONT_FILE, SUMMARY_FILE)}

    def failing(broken: Candidate) -> Elsewhere:
        def values(candidate: Candidate) -> dict[str, float]:
            if candidate == broken:
                raise RuntimeError("no such kernel")
            return phone_values(candidate)

        return Elsewhere(values, fidelity=f"timed-{broken.key}")

    with pytest.raises(UserError, match=r"dense model to be timed on this device, but it failed: .*no such kernel"):
        time_on(run, failing(DENSE))
    assert {file: (run.directory / file).read_bytes() for file in before} == before
    time_on(run, failing(MEMBERS[2]))
    assert list(times(run)) == keys([DENSE, *MEMBERS[:2], *MEMBERS[3:]])
    (run.directory / CONFIRMED_FILE).unlink()
    with pytest.raises(UserError, match=r"confirmed\.csv, but there is no such file\. .*run_search\.py"):
        time_on(run, failing(MEMBERS[2]))


def test_scores_and_what_was_asked_last_stay(run: Run) -> None:
    run.heldout.values = heldout_values
    run.end()
    held = json.loads((run.directory / SUMMARY_FILE).read_text())
    ended = time_on(run, Elsewhere())
    changed = {"metrics", "end_to_end", "latency_table_error", "front_points", "dense", "dropped"}
    assert {n: v for n, v in held.items() if n not in changed} == {
        n: v for n, v in ended.summary.items() if n not in changed
    }
    assert ended.summary["dense"]["heldout_ppl"] == 10.0


def test_what_cannot_be_timed_is_refused_before_any_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def settings(*changes: str, directory: Path = run.directory) -> TimingSettings:
        return timing_settings(composed(f"run_dir='{directory}'", *changes, name="timing"), [])

    with pytest.raises(UserError, match=r"front\.csv, but there is no such file\. That run has not ended"):
        settings()
    with pytest.raises(UserError, match=r"Give the run directory of a search that has ended"):
        settings(directory=run.directory / "nowhere")
    run.end()
    for change, words in (
        ("model.path=./gone", "no such directory: .*gone. Set model.path"),
        ("latency.threads=many", "latency.threads: expected "),
        ("latency.engine=onnx", "latency.engine: expected torch, llamacpp or vllm, got 'onnx'"),
        ("latency.threads=-1", "threads, fit and check of at least 0"),
    ):
        with pytest.raises(UserError, match=words):
            settings(change)
    own = settings().session
    assert (own.model.dtype, own.latency) == ("float32", instantiated(composed()["latency"]))
    told = settings("model.device=cpu", "latency.threads=3").session
    assert (told.model.device, told.latency) == ("cpu", replace(own.latency, threads=3))
    monkeypatch.setattr(sys, "executable", shutil.which("false"))  # in which nothing can be imported
    with pytest.raises(UserError, match=r"Expected xllamacpp, .*pip install"):
        settings("latency.engine=llamacpp")
