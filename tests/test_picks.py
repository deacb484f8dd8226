"""Picks: each way to name a point, and what each mistake is told."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd
import pytest

from evaluators.base import Metric
from evaluators.metrics import metric_named
from search.run.front import Point, front_table
from search.run.picks import candidate_of
from search.run.picks import select as select_advised
from search.run.recommended import Advice
from space.candidate import Candidate, LayerShape
from space.errors import UserError

OBJECTIVES = (metric_named("kl"), metric_named("latency_ms"))
DENSE: Point = (
    Candidate((LayerShape(4, 2, 256),) * 2),
    {"kl": 0.0, "heldout_kl": 0.0, "heldout_ppl": 10.0, "latency_ms": 40.0, "params": 1000.0, "decoder_params": 800.0},
)


def point(name: str, channels: int, latency_ms: float, heldout_kl: float, params: float) -> tuple[str, Point]:
    """A named point of the front."""
    qualities = {"kl": heldout_kl * 0.9, "heldout_kl": heldout_kl, "heldout_ppl": 10.0 * math.exp(heldout_kl)}
    values = {**qualities, "latency_ms": latency_ms}
    shape = LayerShape(4, 2, channels)
    return name, (Candidate((shape, shape)), {**values, "params": params, "decoder_params": params - 200})


POINTS = dict(
    [
        point("gentle", 224, 32.0, 0.1, 850.0),
        point("middle", 160, 24.0, 0.3, 650.0),
        point("slim", 96, 20.0, 0.9, 400.0),
        point("quick", 64, 10.0, 2.0, 500.0),
    ]
)
FRAME = front_table(POINTS.values(), DENSE)


def select(frame: pd.DataFrame, pick: str, objectives: Sequence[Metric] = OBJECTIVES, rise: float = 0.35) -> pd.Series:
    return select_advised(frame, pick, objectives, Advice.of(frame, objectives, rise))


def picked(pick: str, frame: pd.DataFrame = FRAME) -> str:
    """The name of the point that a pick selects."""
    names = {candidate.key: name for name, (candidate, _) in POINTS.items()} | {DENSE[0].key: "dense"}
    return names[select(frame, pick, OBJECTIVES)["key"]]


@pytest.mark.parametrize("name", list(POINTS))
def test_a_key_or_its_start_picks_its_point(name: str) -> None:
    key = POINTS[name][0].key
    assert picked(key) == picked(f" {key} ") == picked(key[:6]) == name


def test_the_dense_model_is_picked_by_its_key_alone() -> None:
    assert picked(DENSE[0].key) == "dense"
    with pytest.raises(UserError, match="No pruned point"):
        select(FRAME, "latency_ms>=35", OBJECTIVES)


@pytest.mark.parametrize(
    ("pick", "name"),
    [
        ("recommended", "middle"),  # the fastest within a rise of 0.35
        ("smallest", "slim"),
        ("fastest", "quick"),
        ("latency_ms<=25", "middle"),  # milliseconds
        ("latency_ms<=0.5", "slim"),  # half the dense model's
        ("latency_ms <= 1", "gentle"),
        ("params<=0.6", "slim"),
        ("params<=700", "middle"),
        ("params >= 0.6", "gentle"),
        ("decoder_params<=0.4", "slim"),
        ("decoder_params_removed>=0.4", "middle"),
        ("kl<=0.5", "middle"),  # the fastest that is good enough
        ("heldout_kl<=1e0", "slim"),
        ("heldout_kl>=.2", "quick"),
        ("heldout_ppl<=1.2x", "gentle"),  # times dense, and of these the fastest
        ("heldout_ppl <= 2.5x", "slim"),
        ("heldout_ppl<=12", "gentle"),
        ("latency_ms<=0.7x", "middle"),
        ("params<=1x", "gentle"),
        ("latency_ms<=1.5x", "gentle"),  # above 1 too, where 1.5 alone is milliseconds
    ],
)
def test_words_and_constraints(pick: str, name: str) -> None:
    assert picked(pick) == name


def test_a_constraint_on_a_metric_that_is_no_cost_takes_the_fastest() -> None:
    frame = FRAME.assign(accuracy=[0.9, 0.8, 0.7, 0.6, 0.5])
    assert picked("accuracy>=0.65", frame) == "middle"


@pytest.mark.parametrize(
    ("pick", "name"),
    [
        ("weights_bytes<=0.5", "slim"),  # half the dense model's, and of these the best quality
        ("weights_bytes<=700", "middle"),
        ("tokens_per_s>=50", "slim"),  # a rate is no fraction, and is a matter of cost
        ("tokens_per_s>=0.5", "gentle"),
    ],
)
def test_every_metric_of_cost_is_one_for_picks(pick: str, name: str) -> None:
    frame = FRAME.assign(weights_bytes=FRAME["params"], tokens_per_s=1000 / FRAME["latency_ms"])
    assert picked(pick, frame) == name


def test_without_a_latency_the_first_cost_objective_decides() -> None:
    objectives = (OBJECTIVES[0], metric_named("params"))
    row = select(FRAME.drop(columns="latency_ms"), "kl<=1.9", objectives)
    assert row["key"] == POINTS["slim"][0].key
    with pytest.raises(UserError, match="pick=fastest: there is no such point, the run did not measure it"):
        select(FRAME.drop(columns="latency_ms"), "fastest", objectives)


def test_a_constraint_that_nothing_satisfies_is_told_the_nearest_point() -> None:
    with pytest.raises(UserError, match=rf"latency_ms<=5; the nearest has 10: pick={POINTS['quick'][0].key}"):
        select(FRAME, "latency_ms<=5", OBJECTIVES)
    with pytest.raises(UserError, match=r"params<=300 \(0\.3 × dense\); the nearest has 400 \(0\.400 × dense\)"):
        select(FRAME, "params<=0.3", OBJECTIVES)
    with pytest.raises(UserError, match="the nearest has 2"):
        select(FRAME, "heldout_kl>=3", OBJECTIVES)
    with pytest.raises(UserError, match=rf"heldout_ppl<=10.5 \(1.05 × dense\); .*pick={POINTS['gentle'][0].key}"):
        select(FRAME, "heldout_ppl<=1.05x")
    with pytest.raises(UserError, match=r"pick=heldout_kl<=1.1x: .*its heldout_kl is 0. Give a number without x"):
        select(FRAME, "heldout_kl<=1.1x")


@pytest.mark.parametrize(
    "pick",
    [
        *(
            "",
            "best",
            "s",
            "sffffffffff",
            "latency_ms<25",
            "latency_ms=25",
            "params<=small",
            "<=3",
        ),
        *("knee", "params<=0.6xx", "params<=x"),
    ],
)
def test_a_pick_that_means_nothing_is_told_what_works(pick: str) -> None:
    with pytest.raises(UserError, match=r"recommended, smallest, fastest.*params<=0\.6.*latency_ms.*") as error:
        select(FRAME, pick, OBJECTIVES)
    assert all(candidate.key in str(error.value) for candidate, _ in POINTS.values())


@pytest.mark.parametrize("pick", ["speed<=3", "key<=3"])
def test_a_limit_on_what_no_point_has_is_told_the_metrics(pick: str) -> None:
    with pytest.raises(UserError, match=r"expected a metric of the front before <=, one of .*latency_ms.*params"):
        select(FRAME, pick, OBJECTIVES)


def test_an_ambiguous_start_of_a_key_is_told_its_points() -> None:
    frame = FRAME.assign(key=["sdense", "sabc1", "sabc2", "sxyz1", "sxyz2"])
    with pytest.raises(UserError, match="sabc1, sabc2 all start with it"):
        select(frame, "sabc", OBJECTIVES)
    assert select(frame, "sabc2", OBJECTIVES)["key"] == "sabc2"


def test_without_a_point_that_is_near_enough_the_trade_is_told() -> None:
    with pytest.raises(UserError) as told:
        select(FRAME, "recommended", rise=0.05)
    lines = str(told.value).splitlines()
    assert lines[0].startswith("No point of the front is recommended: none is within a rise of 0.05 nats a token")
    assert lines[1:-1] == [  # the least rise at 1.1 and 1.25, at 1.5, at 2 and at 3 times the speed
        f"  1.25 × as fast, rise 0.10 nats a token (1.11 × the dense perplexity): pick={POINTS['gentle'][0].key}",
        f"  1.67 × as fast, rise 0.30 nats a token (1.35 × the dense perplexity): pick={POINTS['middle'][0].key}",
        f"  2.00 × as fast, rise 0.90 nats a token (2.46 × the dense perplexity): pick={POINTS['slim'][0].key}",
        f"  4.00 × as fast, rise 2.00 nats a token (7.39 × the dense perplexity): pick={POINTS['quick'][0].key}",
    ]
    assert "pick='heldout_ppl<=1.5x'" in lines[-1]


def test_no_point_is_recommended_that_is_not_faster_than_dense_beyond_the_spread() -> None:
    timed = FRAME.assign(latency_e2e_ms=[40.0, 39.0, 41.0, 38.0, 37.0], latency_e2e_ms_spread=1.0)
    assert picked("recommended", timed.assign(latency_e2e_ms_spread=0.4)) == "gentle"  # the table's times count no more
    with pytest.raises(UserError, match=r"No point .* is recommended: none is within .*\n  1.08 × as fast, rise 2.00"):
        select(timed, "recommended")
    with pytest.raises(UserError, match="pick=recommended: there is no such point, none is faster"):
        select(timed.assign(latency_e2e_ms_spread=2.0), "recommended")
    assert picked("fastest", timed) == "quick"


def test_where_no_latency_was_asked_for_the_smallest_is_recommended() -> None:
    objectives = (OBJECTIVES[0], metric_named("decoder_params"), metric_named("params"))
    assert select(FRAME, "recommended", objectives)["key"] == POINTS["middle"][0].key
    advice = Advice.of(FRAME, objectives, 1.0)
    assert str(advice.recommended).startswith("Decoder parameters 0.25 × dense, rise 0.90 nats a token")
    assert Advice.of(FRAME.assign(decoder_params=900.0), objectives, 1.0).pick is None


def test_a_front_of_the_dense_model_alone_has_nothing_to_recommend() -> None:
    with pytest.raises(UserError, match="the dense model alone"):
        select(front_table([], DENSE), "recommended", OBJECTIVES)


def test_a_row_gives_its_candidate_back() -> None:
    candidate = POINTS["slim"][0]
    assert candidate_of(select(FRAME, candidate.key, OBJECTIVES)) == candidate
