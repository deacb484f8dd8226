"""Which point answers: forecasts by hand, the best one in time, and room for who comes later."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from serving.controllers import Offer, SloKeeper, Static
from serving.pace import BEGIN, IN_A_ROW, LEAST, Pace
from serving.requests import Request, Slo
from serving.speeds import SPAN_S, WEIGHT, Demand, Forecast, Load, Speeds, Waiting
from space.errors import UserError

OFFERS = (
    Offer("dense", ("s0",), 0.0, {}),
    Offer("s1", ("recommended",), 0.1, {}),
    Offer("s2", ("fastest", "smallest"), 0.5, {}),
)
SPEEDS = Speeds()
for _point, _read, _step in (("dense", 1.0, 10.0), ("s1", 0.5, 6.0), ("s2", 0.2, 3.0)):
    SPEEDS.read(_point, 10, 10 * _read)
    SPEEDS.stepped(_point, 1, _step)
    SPEEDS.stepped(_point, 3, 2 * _step)
Queue = tuple[tuple[str, int, int], ...]


def load(waiting: Queue = (), writing: tuple[tuple[str, int], ...] = (), active: int = 4) -> Load:
    return Load(SPEEDS, [Waiting(*each) for each in waiting], writing, active, prefill_tokens=100)


def asked(tokens: int, slo: Slo | None = None) -> Request:
    return Request((0,) * tokens, 1, slo=slo)


def test_speeds_follow_the_last_measurements_of_each_number_of_sequences() -> None:
    speeds = Speeds()
    assert (speeds.read_ms("x"), speeds.step_ms("x")) == (0, 0)
    speeds.stepped("x", 1, 10.0)
    speeds.stepped("x", 1, 20.0)
    assert speeds.step_ms("x") == speeds.step_ms("x", 8) == pytest.approx(10 + WEIGHT * 10)
    assert not speeds.known("x")
    speeds.read("x", 4, 8.0)
    speeds.stepped("x", 5, 24.0)
    assert (speeds.known("x"), speeds.read_ms("x")) == (True, 2.0)
    assert [speeds.step_ms("x", size) for size in (1, 2, 3, 5, 8)] == pytest.approx([12, 15, 18, 24, 24])
    other = Speeds()
    other.take_over(json.loads(json.dumps(speeds.to_json())))
    assert other.to_json() == speeds.to_json()


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (load(), Forecast(50.0, 6.0)),  # 100 tokens at 0.5 ms, and steps of its own
        (load(writing=(("dense", 9), ("dense", 5))), Forecast(50.0, 15.0 + 6.0)),  # both points step in turns
        (load(writing=(("s1", 9), ("s1", 5))), Forecast(50.0, 12.0)),  # three in one step
        (load(waiting=(("dense", 250, 9),)), Forecast(300.0, 10.0 + 6.0)),  # beside whom it will be written
        (load(waiting=(("dense", 250, 9),), writing=(("s2", 9),)), Forecast(300.0 + 3 * 3.0, 19.0)),  # between 4 pieces
        (load(writing=(("s2", 90), ("s2", 20)), active=2), Forecast(50.0 + 20 * 4.5, 9.0)),  # until one has ended
        (load(waiting=(("s2", 100, 50),), writing=(("s2", 90), ("s2", 20)), active=2), Forecast(70.0 + 70 * 4.5, 9.0)),
        (load(waiting=(("s2", 100, 99),), writing=(("s2", 90), ("s2", 20)), active=2), Forecast(70.0 + 90 * 4.5, 9.0)),
        (load(writing=(("s2", 90),), active=1), Forecast(50.0 + 90 * 3.0, 6.0)),
    ],
)
def test_forecasts_by_hand(now: Load, expected: Forecast) -> None:
    forecast = now.forecast("s1", 100)
    assert forecast.first_token_ms == pytest.approx(expected.first_token_ms)
    assert forecast.token_ms == pytest.approx(expected.token_ms)


def test_static_takes_the_recommended_point_or_the_one_it_is_told() -> None:
    assert Static(OFFERS).choose(asked(10), load()).point == "s1"
    assert Static(OFFERS[::2]).choose(asked(10), load()).point == "dense"
    assert Static(OFFERS, "smallest").choose(asked(10), load()).point == "s2"
    assert not Static(OFFERS).takes_slo
    with pytest.raises(UserError, match=r"one of dense, s0, s1, recommended, s2, fastest, smallest, got s9"):
        Static(OFFERS, "s9")


def test_how_busy_a_point_would_be_follows_what_is_asked_for() -> None:
    now = [100.0]
    demand = Demand(lambda: now[0])
    assert demand.rates() == (0, 0)
    for _ in range(2000):  # for two hundred seconds
        now[0] += 0.1
        demand.come(50, 10)
    assert demand.rates() == pytest.approx((500, 100), rel=0.01)
    asked_for = replace(load(), rates=demand.rates())
    assert asked_for.busy("s1") == pytest.approx(0.5 * 500e-3 + 12 / 4 * 100e-3, rel=0.01)  # four together in 12 ms
    assert math.isinf(asked_for.busy("s9"))
    now[0] += SPAN_S
    assert demand.rates() == pytest.approx((500 / math.e, 100 / math.e), rel=0.01)
    early = Demand(lambda: now[0])
    early.come(50, 10)
    assert early.rates()[0] == pytest.approx(50, rel=0.05)  # one request is not yet many a second


def test_what_a_point_may_be_busy_is_learned() -> None:
    pace = Pace(keep=0.9, room=0.8)
    assert pace.first([1.1 * BEGIN, 1.01 * BEGIN, BEGIN, 0.1 * BEGIN]) == 2
    assert pace.first([0.81 * BEGIN, 0.7 * BEGIN, 0.1 * BEGIN]) == 1  # there is no room to go to a better one
    assert pace.first([0.79 * BEGIN, 0.7 * BEGIN, 0.1 * BEGIN]) == 0
    assert pace.first([BEGIN, 0.7 * BEGIN, 0.1 * BEGIN]) == 0  # where it stays
    assert pace.first([2.0, 1.0]) == 1
    before = pace.most
    pace.told(1.1)
    assert pace.most < 0.95 * before
    for _ in range(9):  # nine of ten are kept, as is asked
        pace.told(0.9)
    assert pace.most == pytest.approx(before)
    for _ in range(IN_A_ROW):
        pace.told(0.5)
    assert pace.most < 1.3 * before
    for _ in range(100):  # none takes half of its limits
        pace.told(0.5)
    assert pace.most == 1
    for _ in range(100):
        pace.told(1.1)
    assert pace.most == LEAST


def test_the_best_point_in_time_answers() -> None:
    def chosen(slo: Slo | None, now: Load) -> str:
        return SloKeeper(OFFERS).choose(asked(100, slo), now).point

    assert chosen(None, load()) == "dense"
    assert chosen(Slo(first_token_ms=100.0), load()) == "dense"
    assert chosen(Slo(first_token_ms=99.0), load()) == "s1"
    assert chosen(Slo(first_token_ms=100.0), load(waiting=(("s2", 100, 1),))) == "s1"  # as the queue stands
    assert chosen(Slo(token_ms=5.0), load()) == "s2"
    assert chosen(Slo(first_token_ms=100.0, token_ms=5.0), load()) == "s2"
    assert chosen(Slo(first_token_ms=1.0), load()) == "s2"  # the fastest, where none is in time
    busy = replace(load(), rates=(BEGIN * 1e3 + 1, 0.0))  # the dense model reads 1,000 tokens a second
    assert chosen(Slo(first_token_ms=1e6), busy) == "s1"  # for who comes later
    assert chosen(None, busy) == "dense"


def test_a_late_answer_makes_room_where_a_faster_point_would_have_been_in_time() -> None:
    keeper = SloKeeper(OFFERS, first_token_ms=120.0)
    assert keeper.slo == Slo(120.0, None)
    almost = replace(load(), rates=(BEGIN * 1e3 - 1, 0.0))
    choice = keeper.choose(asked(100, keeper.slo), almost)
    assert (choice.point, keeper.figures()) == ("dense", {"busy_limit": BEGIN})
    assert choice.took is not None
    choice.took(1.1)
    assert keeper.figures()["busy_limit"] < BEGIN
    assert keeper.choose(asked(100, keeper.slo), almost).point == "s1"
    last = keeper.choose(asked(100, Slo(first_token_ms=1.0)), load())
    assert last.point == "s2"
    assert last.took is not None
    learned = keeper.figures()["busy_limit"]
    last.took(1.1)
    assert keeper.figures()["busy_limit"] == learned
    last.took(0.9)
    assert keeper.figures()["busy_limit"] > learned


def test_points_that_are_not_measured_are_taken_where_no_other_is() -> None:
    speeds, slo = Speeds(), Slo(first_token_ms=60.0)

    def chosen(slo: Slo | None) -> str:
        return SloKeeper(OFFERS).choose(asked(100, slo), Load(speeds, (), (), 4, 100)).point

    assert (chosen(None), chosen(slo)) == ("dense", "s2")
    for ms, expected in ((100.0, "dense"), (50.0, "dense")):  # too late, but what is known; and in time
        speeds.read("dense", 100, ms)
        speeds.stepped("dense", 1, 1.0)
        assert chosen(slo) == expected


def test_order_is_by_loss() -> None:
    assert SloKeeper(OFFERS[::-1]).choose(asked(1), load()).point == "dense"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"first_token_ms": 0.0}, "first_token_ms"),
        ({"token_ms": -1.0}, "token_ms"),
        ({"room": 1.5}, "controller.room"),
        ({"keep": 1.0}, "controller.keep"),
    ],
)
def test_limits_that_are_none_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SloKeeper(OFFERS, **wrong)
