"""Which point answers: whoever is in time and leaves time to all others, those who may come among them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from serving.controllers import COMERS, Offer, SloKeeper, Static
from serving.demand import Expected
from serving.load import Load, Underway
from serving.requests import Request, Slo
from serving.speeds import Speeds
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


def load(waiting: Sequence[Underway] = (), writing: Sequence[Underway] = (), expected: Expected | None = None) -> Load:
    return Load(SPEEDS, waiting, writing, active=4, prefill_tokens=100, expected=expected or Expected())


def asked(tokens: int, slo: Slo | None = None, new: int = 1) -> Request:
    return Request((0,) * tokens, new, slo=slo)


def test_static_takes_the_recommended_point_or_the_one_it_is_told() -> None:
    assert Static(OFFERS).choose(asked(10), load).point == "s1"
    assert Static(OFFERS[::2]).choose(asked(10), load).point == "dense"
    assert Static(OFFERS, "smallest").choose(asked(10), load).point == "s2"
    assert not Static(OFFERS).takes_slo
    with pytest.raises(UserError, match=r"one of dense, s0, s1, recommended, s2, fastest, smallest, got s9"):
        Static(OFFERS, "s9")


def chosen(slo: Slo | None, now: Load, new: int = 1, **settings: float) -> str:
    return SloKeeper(OFFERS, **settings).choose(asked(100, slo, new), lambda: now).point  # type: ignore[arg-type]


def test_the_best_point_in_time_answers() -> None:
    assert chosen(None, load()) == "dense"
    assert chosen(Slo(first_token_ms=100.1), load(), margin=0.0) == "dense"
    assert chosen(Slo(first_token_ms=99.9), load(), margin=0.0) == "s1"
    assert chosen(Slo(first_token_ms=112.0), load()) == "dense"  # a tenth is left free
    assert chosen(Slo(first_token_ms=110.0), load()) == "s1"
    assert chosen(Slo(first_token_ms=112.0), load(waiting=[Underway("s2", 100, 1)])) == "s1"  # as the queue stands
    assert chosen(Slo(token_ms=5.0), load(), new=5) == "s2"
    assert chosen(Slo(token_ms=5.0), load()) == "dense"  # a single token comes after none
    assert chosen(Slo(first_token_ms=112.0, token_ms=5.0), load(), new=5) == "s2"
    assert chosen(Slo(first_token_ms=1.0), load()) == "s2"  # the fastest, where none is in time
    assert SloKeeper(OFFERS, first_token_ms=120.0).slo == Slo(120.0, None)


def test_nobody_else_is_made_late() -> None:
    def beside(token_ms: float) -> str:
        other = Underway("s2", 0, 5, written=1, slo=Slo(token_ms=token_ms))  # reading a prompt keeps it waiting too
        return chosen(Slo(first_token_ms=1e6), load(writing=[other]), new=9)

    # Its five tokens come behind a prompt of 100, 50 or 20 ms, and each beside one of the asked one's.
    assert beside((100 + 5 * 13) / 5 / 0.89) == "dense"
    assert beside((100 + 5 * 13) / 5 / 0.91) == "s1"
    assert beside((50 + 5 * 9) / 5 / 0.91) == "s2"
    late = Underway("s2", 0, 5, written=1, slo=Slo(token_ms=0.1))  # whatever is done
    assert chosen(Slo(first_token_ms=1e6), load(writing=[late]), new=9) == "s2"  # so that it is the least late


def test_there_is_time_for_who_may_come() -> None:
    def among(limit: float, **more: float) -> str:
        expected = Expected(rate=50.0, prompt=100.0, new_tokens=1.0)
        return chosen(Slo(first_token_ms=limit), load(expected=expected), **more)

    last = Expected(rate=50.0).times_ms(COMERS, 0.99)[-1]  # whom the fastest point answers in 20 ms
    for point, ms in (("dense", 100.0), ("s1", 50.0)):
        whole = ms + 20 * COMERS - last
        assert among(whole / 0.89) == point
        assert among(whole / 0.91) != point
    assert among((100.0 + 20 * COMERS - last) / 0.91, keep=0.6) == "dense"  # where fewer are prepared for
    assert chosen(None, load(expected=Expected(rate=50.0, prompt=100.0, new_tokens=1.0))) == "dense"
    assert among(1.0) == "s2"  # more than there is time for, whoever answers: the least late


def test_points_that_are_not_measured_are_taken_where_no_other_is() -> None:
    speeds, slo = Speeds(), Slo(first_token_ms=60.0)

    def one(slo: Slo | None) -> str:
        return SloKeeper(OFFERS).choose(asked(100, slo), lambda: Load(speeds, (), (), 4, 100)).point

    assert (one(None), one(slo)) == ("dense", "s2")
    for ms in (100.0, 50.0):  # too late, but what is known; and in time
        speeds.read("dense", 100, ms)
        speeds.stepped("dense", 1, 1.0)
        assert one(slo) == "dense"


def test_order_is_by_loss() -> None:
    assert SloKeeper(OFFERS[::-1]).choose(asked(1), load).point == "dense"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"first_token_ms": 0.0}, "first_token_ms"),
        ({"token_ms": -1.0}, "token_ms"),
        ({"margin": 1.0}, "controller.margin"),
        ({"keep": 1.0}, "controller.keep"),
    ],
)
def test_limits_that_are_none_are_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        SloKeeper(OFFERS, **wrong)
