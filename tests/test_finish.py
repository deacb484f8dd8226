"""The end of a search on made-up numbers: what is left out, what is written, and that nothing is asked twice."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import yaml
from helpers_toy import default_config, toy_spec

from evaluators.base import Evaluation, Measure, MeasureEvaluator, Metric
from evaluators.metrics import LONG_QUALITY, metric_named
from search.archive import Archive
from search.run.directory import CONFIG_FILE, FRONT_FILE, PAGE_FILE, POINTS_FILE, REPORT_FILE, SUMMARY_FILE
from search.run.finish import REFERENCE_POINTS, Finish, finish
from search.run.finished import FinishedRun
from search.run.front import CANDIDATE, is_dense, read_front_csv
from search.run.recommended import Recommend
from search.views.pages import write_pages
from search.views.watch.front_table import terminal_table
from space.candidate import Candidate, LayerShape
from space.errors import UserError

KL = metric_named("kl")
LATENCY = metric_named("latency_ms")
PARAMS = metric_named("params")
DECODER = metric_named("decoder_params")
OBJECTIVES = (KL, LATENCY)
HELDOUT = (metric_named("heldout_kl"), metric_named("heldout_ppl"))
TIMED = (metric_named("latency_e2e_ms"),)
FACTS = {"model": toy_spec(4).to_json(), "text": "0123", "dtype": "float32", "latency": {"device": "toy"}}
FACTS |= {"timed": {"device": "toy"}}
FACTS |= {"budget": {"tokens": 440_000, "healing_tokens": 120_000}}
DENSE = Candidate((LayerShape(4, 2, 32),) * 4)


def narrow(channels: int) -> Candidate:
    """All layers with so many MLP channels."""
    return Candidate((LayerShape(4, 2, channels),) * 4)


WIDTHS = (28, 24, 20, 16, 12, 8)
MEMBERS = [narrow(channels) for channels in WIDTHS]
BESIDE = Candidate((LayerShape(2, 2, 32),) * 4)  # dominated in the search already


def kept(candidate: Candidate) -> float:
    """Decoder parameters, one a unit."""
    return float(sum(shape.query_heads + shape.mlp_channels for shape in candidate.layers))


def loss(candidate: Candidate) -> float:
    return 1 - kept(candidate) / kept(DENSE) + (0.5 if candidate == BESIDE else 0.0)


def latency(candidate: Candidate) -> float:
    return 1.0 + kept(candidate) / 10


def search_values(candidate: Candidate) -> dict[str, float]:
    size = kept(candidate)
    return {"kl": loss(candidate), "latency_ms": latency(candidate), "params": size + 50, "decoder_params": size}


def heldout_values(candidate: Candidate) -> dict[str, float]:
    return {"heldout_kl": 1.1 * loss(candidate), "heldout_ppl": 10 * (1 + loss(candidate))}


def timed_values(candidate: Candidate) -> dict[str, float]:
    return {"latency_e2e_ms": 1.25 * latency(candidate)}


@dataclass
class Fake:
    """An evaluator that remembers which candidates it was asked about, call by call."""

    fidelity: str
    metrics: tuple[Metric, ...]
    values: Callable[[Candidate], Mapping[str, float]]
    calls: list[list[str]] = field(default_factory=list)

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        if candidates:
            self.calls.append([candidate.key for candidate in candidates])
        return MeasureEvaluator(self.fidelity, [Measure(self.metrics, self.values)]).evaluate(candidates)


class Run:
    """A finished search in a directory, and its end, which can be tried again and again."""

    def __init__(self, directory: Path, searched: Sequence[Candidate]) -> None:
        self.directory = directory
        (directory / CONFIG_FILE).write_text(yaml.safe_dump(default_config()))
        self.search = Fake("search", (KL, LATENCY, PARAMS, DECODER), search_values)
        self.heldout = Fake("heldout", HELDOUT, heldout_values)
        self.tuned: Fake | None = None
        self.trained: Fake | None = None
        self.timed: Fake | None = Fake("timed", TIMED, timed_values)
        self.closing: list[Fake] = []
        with Archive(directory / "archive.jsonl", FACTS) as archive:
            for evaluation in self.search.evaluate(searched):
                archive.add(evaluation)
        self.search.calls.clear()

    def end(
        self, points: int = 20, objectives: Sequence[Metric] = OBJECTIVES, reference: Sequence[Candidate] = ()
    ) -> Finish:
        with Archive(self.directory / "archive.jsonl", FACTS) as archive:
            done = finish(
                archive,
                objectives,
                DENSE,
                search=self.search,
                heldout=self.heldout,
                trained=self.trained,
                tuned=self.tuned,
                timed=self.timed,
                closing=self.closing,
                points=points,
                recommend=Recommend(),
                run_dir=self.directory,
                facts=FACTS,
                reference=reference,
            )
            write_pages(self.directory, archive)
            return done

    def calls(self) -> dict[str, list[list[str]]]:
        return {fake.fidelity: fake.calls for fake in (self.search, self.heldout, self.timed)}


def keys(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.key for candidate in candidates]


def replaced(
    values: Callable[[Candidate], dict[str, float]], candidate: Candidate, **changes: float
) -> Callable[[Candidate], dict[str, float]]:
    """The same values but for one candidate's."""
    return lambda asked: values(asked) | (changes if asked == candidate else {})


def failing(
    values: Callable[[Candidate], dict[str, float]], candidate: Candidate
) -> Callable[[Candidate], dict[str, float]]:
    def fail(asked: Candidate) -> dict[str, float]:
        if asked == candidate:
            raise RuntimeError("out of memory")
        return values(asked)

    return fail


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


def tuned_values(candidate: Candidate) -> dict[str, float]:
    return {"heldout_kl": 0.9 * loss(candidate), "heldout_ppl": 10 * (1 + 0.8 * loss(candidate))}


def test_what_is_reported_is_the_tuned_subnet_and_the_refit_stands_beside_it(run: Run) -> None:
    plain = run.end()
    assert plain.agreement == {"kl, heldout_kl": pytest.approx(1.0)}
    run.tuned = Fake("tuned", HELDOUT, replaced(tuned_values, MEMBERS[1], heldout_kl=5.0, heldout_ppl=99.0))
    done = run.end()
    assert list(done.front["key"]) == [DENSE.key, *keys(MEMBERS[:1] + MEMBERS[2:])]  # the last score decides
    front = read_front_csv(run.directory / FRONT_FILE).set_index("key")
    for member in (DENSE, MEMBERS[0]):
        row = front.loc[member.key]
        assert {name: row[name] for name in tuned_values(member)} == tuned_values(member)
        assert [row["refit_kl"], row["refit_ppl"]] == list(heldout_values(member).values())
    assert list(done.agreement) == ["kl, refit_kl", "refit_kl, heldout_kl"]
    assert done.agreement["refit_kl, heldout_kl"] < 1
    assert json.loads((run.directory / SUMMARY_FILE).read_text())["rank_correlation"] == done.agreement
    assert "rank correlation" in "".join(done.remarks())
    again = Fake("tuned", HELDOUT, failing(tuned_values, DENSE))
    run.tuned = again
    run.end()
    assert again.calls == []


def test_with_training_in_the_search_the_front_is_of_trained_subnets(run: Run) -> None:
    trained = {DENSE.key: 0.0, MEMBERS[0].key: 0.01, MEMBERS[2].key: 0.2, MEMBERS[1].key: 0.4}

    def values(candidate: Candidate) -> dict[str, float]:
        return search_values(candidate) | {"kl": trained[candidate.key]}

    run.trained = Fake("distilled-8", run.search.metrics, values)
    with Archive(run.directory / "archive.jsonl", FACTS) as archive:
        for evaluation in run.trained.evaluate(MEMBERS[:3]):
            archive.add(evaluation)
    run.tuned = Fake("tuned", HELDOUT, tuned_values)
    done = run.end()
    expected = [e.key for e in MEMBERS[:3] if not (e == MEMBERS[1] and latency(e) > latency(MEMBERS[2]))]
    assert set(done.front["key"]) == {DENSE.key, *expected}
    rows = done.front.set_index("key")
    for key in set(expected):
        member = next(m for m in MEMBERS if m.key == key)
        assert rows.loc[key, "kl"] == trained[key]
        assert rows.loc[key, "untuned_kl"] == pytest.approx(loss(member))
    assert list(done.agreement) == ["untuned_kl, kl", "kl, heldout_kl"]


def test_the_dense_model_in_other_types_is_on_the_front_of_trained_subnets(run: Run) -> None:
    rounded = Candidate((replace(DENSE.layers[0], attention_type=1, mlp_type=1),) * 4)

    def faster(values: Callable[[Candidate], Mapping[str, float]], name: str) -> Callable[..., dict[str, float]]:
        return lambda c: {**values(c), name: values(MEMBERS[3])[name]} if c == rounded else {**values(c)}

    for fake, name in ((run.search, "latency_ms"), (run.timed, "latency_e2e_ms")):
        assert fake is not None
        fake.values = faster(fake.values, name)
    run.trained = Fake("healed", run.search.metrics, run.search.values)
    with Archive(run.directory / "archive.jsonl", FACTS) as archive:
        for evaluation in (*run.search.evaluate([rounded]), *run.trained.evaluate(MEMBERS[4:])):
            archive.add(evaluation)
    assert [*run.end().front["key"]] == [DENSE.key, rounded.key, *keys(MEMBERS[4:])]
    assert [rounded.key] in run.trained.calls


@pytest.mark.parametrize("stage", ["heldout", "timed"])
def test_a_member_that_fails_is_left_out_and_its_message_kept(run: Run, stage: str) -> None:
    fake = {"heldout": run.heldout, "timed": run.timed}[stage]
    fake.values = failing({"heldout": heldout_values, "timed": timed_values}[stage], MEMBERS[2])
    done = run.end()
    assert list(done.front["key"]) == [DENSE.key, *keys(MEMBERS[:2] + MEMBERS[3:])]
    assert done.dropped == 1
    with Archive(run.directory / "archive.jsonl", FACTS) as archive:
        stored = archive.get(MEMBERS[2].key, stage)
    assert stored is not None
    assert (stored.status, stored.error) == ("failed", "RuntimeError: out of memory")
    assert stored.values == {}
    assert not read_front_csv(run.directory / FRONT_FILE).isna().to_numpy().any()


@pytest.mark.parametrize("stage", ["heldout", "timed"])
def test_a_member_that_a_measurement_shows_to_be_dominated_is_left_out(run: Run, stage: str) -> None:
    if stage == "heldout":  # worse on held-out text than the next, faster member
        run.heldout.values = replaced(heldout_values, MEMBERS[1], heldout_ppl=99.0)
    else:  # slower end to end than the one before, which is better
        run.timed.values = replaced(timed_values, MEMBERS[1], latency_e2e_ms=1.25 * latency(MEMBERS[0]) + 0.1)
    done = run.end()
    assert list(done.front["key"]) == [DENSE.key, *keys(MEMBERS[:1] + MEMBERS[2:])]
    assert done.dropped == 1
    points = read_front_csv(run.directory / POINTS_FILE)
    assert MEMBERS[1].key in set(points["key"])  # still there to be looked at and exported
    timed = [key for call in run.timed.calls for key in call]
    assert (MEMBERS[1].key in timed) == (stage == "timed")  # no time is spent on what held-out text has ruled out


def test_dense_is_evaluated_for_the_front_where_the_space_leaves_it_out(tmp_path: Path) -> None:
    run = Run(tmp_path, MEMBERS)
    done = run.end()
    assert run.search.calls == [[DENSE.key]]
    assert DENSE.key in set(read_front_csv(tmp_path / POINTS_FILE)["key"])  # without it the table does not read
    assert list(done.front["key"]) == [DENSE.key, *keys(MEMBERS)]
    assert is_dense(done.front).tolist() == [True] + [False] * len(MEMBERS)


def test_dense_stays_beside_a_better_and_faster_point(run: Run) -> None:
    run.heldout.values = replaced(heldout_values, MEMBERS[0], heldout_ppl=9.0)
    assert list(run.end().front["key"]) == [DENSE.key, *keys(MEMBERS)]


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


def test_points_far_from_dense_on_heldout_text_are_left_out_and_not_timed(run: Run) -> None:
    run.heldout.values = replaced(heldout_values, MEMBERS[-1], heldout_ppl=10 * math.exp(1.6))
    done = run.end()
    assert (list(done.front["key"]), done.dropped) == ([DENSE.key, *keys(MEMBERS[:-1])], 1)
    assert MEMBERS[-1].key not in run.timed.calls[0]


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


def test_the_front_is_thinned_with_its_extremes_kept(run: Run) -> None:
    done = run.end(points=3)
    found = list(done.front["key"])
    assert len(found) == 4
    assert {DENSE.key, MEMBERS[0].key, MEMBERS[-1].key} <= set(found)
    assert set(keys(MEMBERS)) <= set(read_front_csv(run.directory / POINTS_FILE)["key"])


def test_three_objectives(run: Run) -> None:
    done = run.end(objectives=(KL, LATENCY, PARAMS))
    assert list(done.front["key"]) == [DENSE.key, *keys(MEMBERS)]


def test_dense_alone_is_a_front_too(tmp_path: Path) -> None:
    run = Run(tmp_path, [DENSE])
    assert list(run.end().front["key"]) == [DENSE.key]
    assert list(read_front_csv(tmp_path / FRONT_FILE)["key"]) == [DENSE.key]


def test_a_dense_model_that_fails_is_an_error(tmp_path: Path) -> None:
    run = Run(tmp_path, MEMBERS)
    run.search.values = failing(search_values, DENSE)
    with pytest.raises(UserError, match="dense model to be evaluated, but it failed: RuntimeError: out of memory"):
        run.end()


def test_a_dense_model_that_fails_on_heldout_text_is_an_error(run: Run) -> None:
    run.heldout.values = failing(heldout_values, DENSE)
    with pytest.raises(UserError, match="dense"):
        run.end()
