"""Which point answers: forecasts by hand, the best one in time, and no going to and fro."""

from __future__ import annotations

import pytest

from serving.controllers import Offer, SloKeeper, Static
from serving.requests import Slo
from serving.speeds import WEIGHT, Forecast, Load, Speeds
from space.errors import UserError

OFFERS = (
    Offer("dense", ("s0",), 0.0, {}),
    Offer("s1", ("recommended",), 0.1, {}),
    Offer("s2", ("fastest", "smallest"), 0.5, {}),
)
SPEEDS = Speeds()
for _point, _read, _step in (("dense", 1.0, 10.0), ("s1", 0.5, 6.0), ("s2", 0.2, 3.0)):
    SPEEDS.read(_point, 10, 10 * _read)
    SPEEDS.stepped(_point, _step)


def load(waiting: tuple[tuple[str, int], ...] = (), writing: tuple[tuple[str, int], ...] = (), active: int = 4) -> Load:
    return Load(SPEEDS, waiting, writing, active, prefill_tokens=100)


def test_speeds_follow_the_last_measurements() -> None:
    speeds = Speeds()
    assert (speeds.read_ms("x"), speeds.step_ms("x")) == (0, 0)
    speeds.stepped("x", 10.0)
    speeds.stepped("x", 20.0)
    assert speeds.step_ms("x") == pytest.approx(10 + WEIGHT * 10)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (load(), Forecast(50.0, 6.0)),  # 100 tokens at 0.5 ms, and steps of its own
        (load(writing=(("dense", 9), ("dense", 5))), Forecast(50.0, 16.0)),  # both points step in turns
        (load(waiting=(("dense", 250),)), Forecast(300.0, 6.0)),
        (load(waiting=(("dense", 250),), writing=(("s2", 9),)), Forecast(300.0 + 3 * 3.0, 9.0)),  # between 4 pieces
        (load(writing=(("s2", 90), ("s2", 20)), active=2), Forecast(50.0 + 20 * 3.0, 9.0)),  # until one has ended
        (load(waiting=(("s2", 100),), writing=(("s2", 90), ("s2", 20)), active=2), Forecast(70.0 + 90 * 3.0, 9.0)),
    ],
)
def test_forecasts_by_hand(now: Load, expected: Forecast) -> None:
    forecast = now.forecast("s1", 100)
    assert forecast.first_token_ms == pytest.approx(expected.first_token_ms)
    assert forecast.token_ms == pytest.approx(expected.token_ms)


def test_static_takes_the_recommended_point_or_the_one_it_is_told() -> None:
    assert Static(OFFERS).choose(10, None, load()) == "s1"
    assert Static(OFFERS[::2]).choose(10, None, load()) == "dense"
    assert Static(OFFERS, "smallest").choose(10, None, load()) == "s2"
    assert not Static(OFFERS).takes_slo
    with pytest.raises(UserError, match=r"one of dense, s0, s1, recommended, s2, fastest, smallest, got s9"):
        Static(OFFERS, "s9")


def test_the_best_point_in_time_answers() -> None:
    def chosen(slo: Slo | None, now: Load) -> str:
        return SloKeeper(OFFERS, room=1.0).choose(100, slo, now)

    assert chosen(None, load()) == "dense"
    assert chosen(Slo(first_token_ms=100.0), load()) == "dense"
    assert chosen(Slo(first_token_ms=99.0), load()) == "s1"
    assert chosen(Slo(first_token_ms=100.0), load(waiting=(("s2", 100),))) == "s1"  # as the queue stands
    assert chosen(Slo(token_ms=5.0), load()) == "s2"
    assert chosen(Slo(first_token_ms=100.0, token_ms=5.0), load()) == "s2"
    assert chosen(Slo(first_token_ms=1.0), load()) == "s2"  # the fastest, where none is in time


def test_a_better_point_has_to_have_room() -> None:
    keeper = SloKeeper(OFFERS, first_token_ms=120.0)
    assert keeper.slo == Slo(120.0, None)
    busy = load(waiting=(("dense", 50),))
    assert keeper.choose(100, keeper.slo, busy) == "s1"  # 150 ms of the dense model
    assert keeper.choose(100, keeper.slo, load()) == "s1"  # 100 ms: in time, but more than 0.8 of it
    assert keeper.choose(90, keeper.slo, load()) == "dense"
    assert keeper.choose(115, keeper.slo, load()) == "dense"  # which it stays up to the limit


def test_order_is_by_loss() -> None:
    assert SloKeeper(OFFERS[::-1]).choose(1, None, load()) == "dense"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [({"first_token_ms": 0.0}, "first_token_ms"), ({"token_ms": -1.0}, "token_ms"), ({"room": 1.5}, "controller.room")],
)
def test_limits_that_are_none_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SloKeeper(OFFERS, **wrong)
