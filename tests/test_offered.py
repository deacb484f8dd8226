"""Which points of a front are offered: those that measurements tell apart, most of them where people pick."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators.base import Evaluation, Metric
from evaluators.metrics import metric_named
from search.run.front import Point, front_table
from search.run.offered import confirmed, thinned, within
from search.run.recommended import Recommend
from space.candidate import Candidate, LayerShape
from space.errors import UserError

KL, LATENCY, TIMED = metric_named("kl"), metric_named("latency_ms"), metric_named("latency_e2e_ms")
OBJECTIVES = (KL, LATENCY)
DENSE: Point = (
    Candidate((LayerShape(4, 2, 256),) * 3),
    {"heldout_ppl": 10.0, "latency_ms": 100.0, "params": 2000.0, "decoder_params": 1000.0},
)


def point(index: int, **values: float) -> Point:
    """A pruned point; different indices are different architectures."""
    shape = LayerShape(2, 1, 256 - index)
    return Candidate((shape,) * 3), {**DENSE[1], "decoder_params": 500.0 - index, **values}


def timed(*measurements: tuple[float, float, float], dense_spread: float = 0.0) -> pd.DataFrame:
    """A front by perplexity, latency and its spread; dense takes 100 ms."""
    names = ("heldout_ppl", "latency_e2e_ms", "latency_e2e_ms_spread")
    points = [point(index, **dict(zip(names, row, strict=True))) for index, row in enumerate(measurements)]
    return front_table(points, (DENSE[0], {**DENSE[1], **dict(zip(names, (10.0, 100.0, dense_spread), strict=True))}))


def left(frame: pd.DataFrame, objectives: tuple[Metric, ...] = (KL, TIMED)) -> list[float]:
    """End-to-end latencies of the pruned points that are confirmed."""
    return [float(ms) for ms in confirmed(frame, objectives)["latency_e2e_ms"][1:]]


measured = st.floats(0.1, 150.0)


@given(st.lists(st.tuples(measured, measured), max_size=20))
def test_perplexity_rises_as_latency_falls_from_dense_on(measurements: list[tuple[float, float]]) -> None:
    points = [point(i, latency_ms=ms, heldout_ppl=ppl) for i, (ms, ppl) in enumerate(measurements)]
    frame = front_table(points, DENSE)
    kept = confirmed(frame, OBJECTIVES)
    assert kept["key"][0] == DENSE[0].key
    pruned = kept[1:]
    assert pruned["latency_ms"].is_monotonic_decreasing
    assert pruned["heldout_ppl"].is_monotonic_increasing
    values = pruned[["latency_ms", "heldout_ppl"]].to_numpy()
    if (frame["latency_ms"] < 100).any():
        assert (pruned["latency_ms"] < 100).all()
    for row in frame[~frame["key"].isin(kept["key"])][["latency_ms", "heldout_ppl"]].to_numpy():
        assert row[0] >= 100 or (values <= row).all(axis=1).any(), "a point was left out that nothing is as good as"


@pytest.mark.parametrize(("spread", "kept"), [(0.0, [60.0, 58.0]), (0.9, [60.0, 58.0]), (1.1, [60.0])])
def test_of_two_points_within_their_spreads_the_better_one_stays(spread: float, kept: list[float]) -> None:
    assert left(timed((12.0, 60.0, 1.0), (13.0, 58.0, spread))) == kept
    assert left(timed((12.0, 58.5, 1.0), (13.0, 60.0, spread))) == [58.5]  # worse and slower


def test_the_far_end_of_a_chain_stays_as_only_what_is_kept_rules_others_out() -> None:
    chain = [(11.0 + step, 60.0 - 1.5 * step, 1.0) for step in range(5)]  # each within the spread of the next
    assert left(timed(*chain)) == [60.0, 57.0, 54.0]


def test_points_that_are_not_faster_than_dense_beyond_the_spread_are_left_out() -> None:
    rows = ((9.0, 99.0, 1.0), (11.0, 101.0, 0.0), (12.0, 97.0, 1.0), (13.0, 80.0, 1.0))
    assert left(timed(*rows, dense_spread=1.5)) == [97.0, 80.0]
    assert left(timed(*rows, dense_spread=2.5)) == [80.0]
    assert left(timed(*rows, dense_spread=50.0)) == [99.0, 80.0]  # none is: told from one another


def test_a_third_objective_is_a_reason_to_stay_too_and_goals_are_minded() -> None:
    accuracy, size = Metric("accuracy", "", "max", "score"), metric_named("params")
    frame = timed((11.0, 50.0, 1.0), (12.0, 50.1, 1.0), (13.0, 50.2, 1.0)).assign(accuracy=[0.9, 0.7, 0.5, 0.6])
    assert left(frame, (KL, TIMED, accuracy)) == [50.2, 50.0]  # rows go from slow to fast
    smaller = timed((11.0, 100.0, 1.0), (12.0, 100.0, 1.0)).assign(params=[2000.0, 1000.0, 1500.0])
    assert left(smaller, (KL, TIMED, size)) == [100.0]  # no faster than dense, but smaller


def test_a_point_without_a_heldout_value_is_not_confirmed() -> None:
    kept = confirmed(front_table([point(1, latency_ms=1.0, heldout_ppl=math.nan)], DENSE), OBJECTIVES)
    assert kept["key"].tolist() == [DENSE[0].key]


def test_points_that_are_far_from_dense_are_offered_where_nothing_else_is() -> None:
    frame = timed((10 * math.exp(1.4), 60.0, 0.0), (10 * math.exp(1.6), 50.0, 0.0))
    assert within(frame, 1.5)["latency_e2e_ms"].tolist() == [100.0, 60.0]
    assert len(within(frame, 1.0)) == 3


def searched(kls: list[float]) -> list[Evaluation]:
    """A front of the search, dense first."""
    points = [DENSE, *(point(index) for index in range(1, len(kls)))]
    values = [{"kl": kl, "latency_ms": 100.0 / (1 + kl), "params": 1000 + 100 * (i % 3)} for i, kl in enumerate(kls)]
    return [Evaluation(candidate, "search", values=each) for (candidate, _), each in zip(points, values, strict=True)]


def kl_of(members: list[Evaluation]) -> list[float]:
    return [member.values["kl"] for member in members]


def test_most_of_a_front_is_where_people_pick_and_nothing_beyond_where_nobody_does() -> None:
    front = searched([0.0, *np.linspace(0.02, 3.0, 150).tolist()])
    kls = kl_of(thinned(front, OBJECTIVES, DENSE[0], 16, Recommend()))
    assert len(kls) == 16
    assert kls[0] == 0.02
    assert 1.45 < kls[-1] <= 1.5
    assert sum(kl <= 0.15 for kl in kls) >= 3
    assert sum(kl <= 0.5 for kl in kls) >= 9
    steps = np.diff(np.log1p(np.array(kls) / 0.15))
    assert steps.max() < 3 * steps.min()
    far = searched([0.0, 2.0, 2.5, 3.0])
    assert kl_of(thinned(far, OBJECTIVES, DENSE[0], 16, Recommend())) == [2.0, 2.5, 3.0]
    assert kl_of(thinned(searched([0.0, 1.0, 2.0]), OBJECTIVES, DENSE[0], 16, Recommend())) == [1.0]
    assert kl_of(thinned(far, OBJECTIVES, DENSE[0], 2, Recommend(most=9.0))) == [2.0, 3.0]


def test_with_three_objectives_the_costs_count_when_a_front_is_thinned() -> None:
    front = searched([0.0, 0.1, 0.1, 0.1, 0.1])
    members = thinned(front, (*OBJECTIVES, metric_named("params")), DENSE[0], 3, Recommend())
    assert {member.values["params"] for member in members} == {1000, 1100, 1200}


@pytest.mark.parametrize("change", [{"rise": 0.0}, {"rise": 2.0}, {"rise": 0.5, "most": 0.4}])
def test_settings_that_contradict_each_other_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(UserError, match="recommend: expected 0 < rise <= most"):
        Recommend(**change)
