"""The end of a search on made-up numbers: which designs are on its front, and by which values."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_finish import (
    BESIDE,
    DENSE,
    FACTS,
    HELDOUT,
    KL,
    LATENCY,
    MEMBERS,
    PARAMS,
    Fake,
    Run,
    failing,
    heldout_values,
    keys,
    latency,
    loss,
    replaced,
    search_values,
    timed_values,
)

from search.archive import Archive
from search.run.directory import FRONT_FILE, POINTS_FILE, SUMMARY_FILE
from search.run.front import is_dense, read_front_csv
from space.candidate import Candidate
from space.errors import UserError


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, [DENSE, *MEMBERS, BESIDE])


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


def test_points_far_from_dense_on_heldout_text_are_left_out_and_not_timed(run: Run) -> None:
    run.heldout.values = replaced(heldout_values, MEMBERS[-1], heldout_ppl=10 * math.exp(1.6))
    done = run.end()
    assert (list(done.front["key"]), done.dropped) == ([DENSE.key, *keys(MEMBERS[:-1])], 1)
    assert MEMBERS[-1].key not in run.timed.calls[0]


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
