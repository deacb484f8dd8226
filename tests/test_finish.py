"""The end of a search on made-up numbers: what is written, and that nothing is asked twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from helpers_finish import (
    BESIDE,
    DENSE,
    FACTS,
    HELDOUT,
    MEMBERS,
    OBJECTIVES,
    TIMED,
    Fake,
    Run,
    failing,
    heldout_values,
    keys,
    latency,
    loss,
    narrow,
    replaced,
    search_values,
    timed_values,
)

from evaluators.base import Evaluation, Metric
from evaluators.metrics import LONG_QUALITY, metric_named
from search.archive import Archive
from search.run.directory import FRONT_FILE, PAGE_FILE, POINTS_FILE, REPORT_FILE, SUMMARY_FILE
from search.run.finish import REFERENCE_POINTS
from search.run.finished import FinishedRun
from search.run.front import CANDIDATE, read_front_csv
from search.views.watch.front_table import terminal_table
from space.candidate import Candidate


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, [DENSE, *MEMBERS, BESIDE])


def test_the_front_falls_from_dense_and_points_holds_all_that_was_searched(run: Run) -> None:
    done = run.end()
    front = read_front_csv(run.directory / FRONT_FILE)
    assert list(front["key"]) == [DENSE.key, *keys(MEMBERS)]
    assert front["latency_ms"].is_monotonic_decreasing
    assert front["heldout_ppl"].is_monotonic_increasing
    assert front["latency_e2e_ms"].tolist() == pytest.approx([1.25 * latency(c) for c in (DENSE, *MEMBERS)])
    assert front["candidate"].tolist() == [DENSE, *MEMBERS]
    assert done.front["key"].tolist() == front["key"].tolist()
    assert done.dropped == 0
    points = read_front_csv(run.directory / POINTS_FILE)
    assert sorted(points["key"]) == sorted(keys([DENSE, *MEMBERS, BESIDE]))
    assert BESIDE.key not in set(front["key"])
    assert points.set_index("key").loc[BESIDE.key, "kl"] == loss(BESIDE)
    page = (run.directory / PAGE_FILE).read_text()
    assert all(key in page for key in keys([*MEMBERS, BESIDE]))
    assert all(key in (run.directory / REPORT_FILE).read_text() for key in keys(MEMBERS))


def test_the_summary_says_what_the_run_gave(run: Run) -> None:
    done = run.end()
    summary = json.loads((run.directory / SUMMARY_FILE).read_text())
    assert summary | FACTS == summary
    assert summary["objectives"] == [metric.name for metric in OBJECTIVES]
    known = {metric["name"]: Metric(**metric) for metric in summary["metrics"]}
    assert all(known[metric.name] == metric for metric in (*OBJECTIVES, *HELDOUT, *TIMED))
    assert known.keys() == {*done.front.columns} - {"key", CANDIDATE}
    # the table says 1 / 1.25 of what the fake timer does, everywhere
    assert summary["latency_table_error"] == pytest.approx({"median": 0.2, "worst": 0.2, "rank_correlation": 1.0})
    assert (done.table_error.median, done.table_error.worst) == pytest.approx((0.2, 0.2))
    assert (summary["front_points"], summary["dropped"]) == (len(MEMBERS), 0)
    expected = {**search_values(DENSE), **heldout_values(DENSE), **timed_values(DENSE), "decoder_params_removed": 0.0}
    assert summary["dense"] == pytest.approx(expected)


def test_a_front_by_a_table_from_elsewhere_is_not_timed_and_says_so_wherever_it_is_shown(run: Run) -> None:
    run.timed = None
    done = run.end()
    summary = json.loads((run.directory / SUMMARY_FILE).read_text())
    assert (done.measured.untimed, summary["end_to_end"]) == (True, None)
    assert summary["latency_table_error"] == {"median": None, "worst": None, "rank_correlation": None}
    assert list(done.front["key"]) == [DENSE.key, *keys(MEMBERS)]
    assert not [name for name in done.front if "e2e" in name]
    said = "atencies are sums of a table measured on toy, and no point is timed end to end"
    report, page = ((run.directory / name).read_text() for name in (REPORT_FILE, PAGE_FILE))
    assert all(said in text for text in ("\n".join(done.remarks()), report, page))
    assert "end to end on the device below" not in report
    assert f"{latency(DENSE) / latency(MEMBERS[-1]):.2f} × as fast by the latency table" in report
    heads = [str(column.header) for column in terminal_table(done.front, OBJECTIVES, {}, width=80).columns]
    assert [head.replace("\n", " ") for head in heads if "atency" in head] == ["Latency, table (ms)"]


def test_a_second_end_asks_nothing_again_and_writes_the_same(run: Run) -> None:
    first = run.end()
    names = (FRONT_FILE, POINTS_FILE, PAGE_FILE, REPORT_FILE, SUMMARY_FILE)
    written = {name: (run.directory / name).read_bytes() for name in names}
    archive = (run.directory / "archive.jsonl").read_bytes()
    assert run.timed.calls == [[DENSE.key, *keys(MEMBERS)]]  # one interleaved session
    for fake in (run.search, run.heldout, run.timed):
        fake.calls.clear()
        fake.values = failing(search_values, DENSE)  # would show
    again = run.end()
    assert run.calls() == {"search": [], "heldout": [], "timed": []}
    assert again.front.equals(first.front)
    assert {name: (run.directory / name).read_bytes() for name in written} == written
    assert (run.directory / "archive.jsonl").read_bytes() == archive


def test_an_answer_is_on_disk_before_the_next_is_computed(run: Run) -> None:
    def values(candidate: Candidate) -> dict[str, float]:
        stored = [json.loads(line) for line in (run.directory / "archive.jsonl").read_text().splitlines()[1:]]
        assert [each["key"] for each in stored if each["fidelity"] == "heldout"] == asked
        asked.append(candidate.key)
        return heldout_values(candidate)

    asked: list[str] = []
    run.heldout.values = values
    run.end()
    assert asked == [DENSE.key, *keys(MEMBERS)]
    with Archive(run.directory / "archive.jsonl", FACTS) as archive:
        assert [e.status for e in archive.evaluations("heldout")] == ["ok"] * len(asked)


@dataclass
class Writer:
    """Writes something after one prompt, with all but one candidate."""

    silent: Candidate
    fidelity: str = "samples-0"
    metrics: tuple[Metric, ...] = ()
    asked: list[str] = field(default_factory=list)

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        for candidate in candidates:
            self.asked.append(candidate.key)
            facts = {"prompts": ["It is"], "new_tokens": 3, "texts": [f" {candidate.key}"]}
            failed = candidate == self.silent
            yield Evaluation(candidate, self.fidelity, *(("failed", {}, 0.0, 0, "x") if failed else ()), facts=facts)


def test_what_is_left_in_the_end_is_asked_once_more_and_what_it_writes_is_kept(run: Run) -> None:
    run.heldout.values = replaced(heldout_values, MEMBERS[1], heldout_ppl=99.0)  # left out
    writer, long = Writer(DENSE), Fake("heldout-64", (metric_named(LONG_QUALITY),), lambda c: {LONG_QUALITY: 7.0})
    run.closing = [long, writer]
    left = [DENSE, MEMBERS[0], *MEMBERS[2:]]
    assert list(run.end().front[LONG_QUALITY]) == [7.0] * len(left)
    assert writer.asked == [key for call in long.calls for key in call] == keys(left)
    ended = FinishedRun.open(run.directory)
    assert ended.samples.prompts == ("It is",)
    assert ended.samples.texts == {key: (f" {key}",) for key in keys(left[1:])}
    assert f"| `{MEMBERS[0].key}` | 0.11 |  {MEMBERS[0].key} |" in (run.directory / REPORT_FILE).read_text()
    writer.asked.clear()
    again = run.end()
    assert (writer.asked, list(again.front["key"])) == ([], keys(left))


def test_the_end_says_what_it_recommends(run: Run) -> None:
    done = run.end()
    assert done.advice.recommended is not None
    assert done.advice.recommended.key == MEMBERS[0].key  # the next one has a rise of 0.2
    assert done.remarks()[-1].startswith(f"Recommended: {MEMBERS[0].key}, 1.12 × as fast, rise 0.11 nats a token")
    assert FinishedRun.open(run.directory).picks(2)[0].key == MEMBERS[0].key


def test_plain_designs_are_evaluated_once_for_the_page_and_may_be_picked(run: Run) -> None:
    plain = [narrow(channels) for channels in range(31, 0, -2)]  # none of which the search asked about
    run.end(reference=plain)
    asked = [key for call in run.search.calls for key in call]
    assert len(asked) == REFERENCE_POINTS
    assert {plain[0].key, plain[-1].key} <= set(asked) <= set(keys(plain))
    assert set(asked) <= set(read_front_csv(run.directory / POINTS_FILE)["key"])
    assert json.loads((run.directory / SUMMARY_FILE).read_text())["evaluations"] == 8 + REFERENCE_POINTS
    run.search.calls.clear()
    run.end(reference=plain)
    assert run.search.calls == []


def test_an_end_that_was_killed_asks_only_for_the_rest(run: Run) -> None:
    with Archive(run.directory / "archive.jsonl", FACTS) as archive:
        for evaluation in run.heldout.evaluate([DENSE, *MEMBERS[:3]]):
            archive.add(evaluation)
    run.heldout.calls.clear()
    run.end()
    assert [key for call in run.heldout.calls for key in call] == keys(MEMBERS[3:])
