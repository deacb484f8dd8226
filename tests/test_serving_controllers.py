"""Which point answers: whoever is in time and leaves time to all others, those who may come among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from serving.controllers import Offer, Static
from serving.demand import Expected
from serving.load import Load, Underway
from serving.requests import Request, Slo
from serving.speeds import Speeds
from serving.timed import COMERS, SloKeeper
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
    assert Static(OFFERS).choose([asked(10)], load).point == "s1"
    assert Static(OFFERS[::2]).choose([asked(10)], load).point == "dense"
    assert Static(OFFERS, "smallest").choose([asked(10)], load).point == "s2"
    assert not Static(OFFERS).takes_slo
    with pytest.raises(UserError, match=r"one of dense, s0, s1, recommended, s2, fastest, smallest, got s9"):
        Static(OFFERS, "s9")


def chosen(slo: Slo | None, now: Load, new: int = 1, **settings: float) -> str:
    return SloKeeper(OFFERS, **settings).choose([asked(100, slo, new)], lambda: now).point  # type: ignore[arg-type]


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


def test_several_prompts_are_all_to_be_in_time() -> None:
    def chosen_for(count: int) -> str:
        return SloKeeper(OFFERS).choose([asked(100, Slo(first_token_ms=112.0))] * count, load).point

    assert [chosen_for(count) for count in (1, 2, 3)] == ["dense", "s1", "s2"]  # in 100, 2 x 50 and 3 x 20 ms


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
        return SloKeeper(OFFERS).choose([asked(100, slo)], lambda: Load(speeds, (), (), 4, 100)).point

    assert (one(None), one(slo)) == ("dense", "s2")
    for ms in (100.0, 50.0):  # too late, but what is known; and in time
        speeds.read("dense", 100, ms)
        speeds.stepped("dense", 1, 1.0)
        assert one(slo) == "dense"


def test_order_is_by_loss() -> None:
    assert SloKeeper(OFFERS[::-1]).choose([asked(1)], load).point == "dense"


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


NESTED = (
    replace(OFFERS[0], heirs={"s1": (), "s2": ()}),
    replace(OFFERS[1], heirs={"s2": ()}),
    OFFERS[2],
)
ALIKE = tuple(replace(each, heirs={other.id: () for other in OFFERS if other is not each}) for each in OFFERS)


def again(offers: Sequence[Offer], now: Load) -> tuple[str, str] | None:
    return SloKeeper(offers, margin=0.0, switching=True).again(now)


def written(point: str, limit: float, left: int = 10, free: bool = True) -> Underway:
    """A text of which one token is there for no time."""
    return Underway(point, 0, left, written=1, slo=Slo(token_ms=limit), free=free)


def test_all_that_a_point_writes_goes_on_with_the_best_one_that_is_fast_enough() -> None:
    three = [written("dense", 100.0)] * 3  # in 20 ms a token, or 12, or 6
    assert again(NESTED, load(writing=three)) is None
    for limit, move in ((20.1, None), (19.9, "s1"), (12.1, "s1"), (11.9, "s2"), (1.0, "s2")):
        expected = None if move is None else ("dense", move)
        assert again(NESTED, load(writing=[written("dense", limit)] * 3)) == expected
    assert again(NESTED, load(writing=[written("s2", 1.0)] * 3)) is None  # there is none that is faster
    assert again(NESTED, load(writing=[written("dense", 1.0, free=False)] * 3)) is None  # who chose for themselves
    assert again(NESTED, load(writing=[replace(each, slo=None) for each in three])) is None


def test_what_is_late_whatever_is_done_moves_nobody() -> None:
    late = replace(written("s2", 100.0), slo=Slo(first_token_ms=5.0), first_ms=50.0)
    assert again(NESTED, load(writing=[written("dense", 100.0), late])) is None
    assert again(ALIKE, load(writing=[written("s1", 100.0), late])) == ("s1", "dense")
    waits = Underway("s2", 10, 1, age_ms=50.0, slo=Slo(first_token_ms=40.0), free=True)
    now = load(writing=[written("dense", 100.0)], waiting=[waits])
    assert SloKeeper(NESTED).choose([asked(10, Slo(token_ms=30.0), 5)], lambda: now).point == "dense"


def test_there_is_a_way_back_to_a_better_point() -> None:
    assert again(ALIKE, load(writing=[written("s2", 100.0)] * 3)) == ("s2", "dense")
    assert again(NESTED, load(writing=[written("s2", 100.0)] * 3)) is None
    keeper = SloKeeper(ALIKE, margin=0.1, switching=True)
    for limit, target in ((20.0 / 0.79, "dense"), (20.0 / 0.81, "s1")):  # twice the margin is left free
        assert keeper.again(load(writing=[written("s2", limit)] * 3)) == ("s2", target)


def test_who_may_be_saved_by_going_on_leaves_more_time_for_who_may_come() -> None:
    burst = Expected(rate=0.001, prompt=10.0, new_tokens=10.0, followers=[3])
    slo, now = Slo(token_ms=11.0), load(expected=burst)

    def point(**settings: bool) -> str:
        return SloKeeper(NESTED, margin=0.0, **settings).choose([asked(10, slo, 10)], lambda: now).point  # type: ignore[arg-type]

    assert (point(), point(switching=True)) == ("s2", "dense")


def test_switching_needs_points_that_can_go_on() -> None:
    with pytest.raises(UserError, match=r"controller\.switching: expected points that can go on"):
        SloKeeper(OFFERS, switching=True)
