"""What is measured of points and of who comes, and what follows for who is asked now: all by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from serving.demand import RECENT, SPAN_S, SPREAD, Demand, Expected
from serving.load import Forecast, Load, Underway
from serving.requests import Request, Slo
from serving.speeds import WEIGHT, Speeds

SPEEDS = Speeds()
for _point, _read, _step in (("dense", 1.0, 10.0), ("s1", 0.5, 6.0), ("s2", 0.2, 3.0)):
    SPEEDS.read(_point, 10, 10 * _read)
    SPEEDS.stepped(_point, 1, _step)
    SPEEDS.stepped(_point, 3, 2 * _step)


def close(forecast: Forecast, first_token_ms: float, token_ms: float) -> None:
    assert forecast.first_token_ms == pytest.approx(first_token_ms)
    assert forecast.token_ms == pytest.approx(token_ms)


def test_steps_follow_the_last_measurements_of_each_number_of_sequences() -> None:
    speeds = Speeds()
    assert (speeds.read_ms("x", 5), speeds.step_ms("x")) == (0, 0)
    for ms in (10.0, 20.0):
        speeds.stepped("x", 1, ms)
    assert speeds.step_ms("x") == speeds.step_ms("x", 8) == pytest.approx(15)  # the first ones weigh alike
    for _ in range(20):
        speeds.stepped("x", 1, 10.0)
    speeds.stepped("x", 1, 20.0)
    assert speeds.step_ms("x") == pytest.approx(10 + WEIGHT * 10, rel=0.02)
    speeds.stepped("x", 5, 24.0)
    assert [speeds.step_ms("x", size) for size in (1, 3, 5, 8)] == pytest.approx([12, 18, 24, 24], rel=0.02)


def test_reading_is_a_line_and_its_parts_are_not_below_zero() -> None:
    speeds = Speeds()
    speeds.read("x", 4, 8.0)
    assert not speeds.known("x")
    speeds.stepped("x", 1, 1.0)
    assert speeds.known("x")
    assert speeds.read_ms("x", 8) == pytest.approx(16.0)  # of one size nothing else is known
    for tokens in (8, 30, 64, 100):
        speeds.read("line", tokens, 50.0 + 1.2 * tokens)
        speeds.read("falling", tokens, 50.0 - 0.2 * tokens)
        speeds.read("bent", tokens, 0.1 * tokens**2)
    assert [speeds.read_ms("line", tokens) for tokens in (1, 64, 256)] == pytest.approx([51.2, 126.8, 357.2])
    assert speeds.read_ms("falling", 1) == speeds.read_ms("falling", 256)
    assert speeds.read_ms("bent", 1) > 0


def test_speeds_are_kept_whole() -> None:
    speeds, other = Speeds(), Speeds()
    for tokens, ms in ((4, 8.0), (5, 9.0), (90, 100.0)):
        speeds.read("x", tokens, ms)
        speeds.stepped("x", 1 + tokens // 50, ms)
    other.take_over(json.loads(json.dumps(speeds.to_json())))
    for each in (speeds, other):  # and go on from there
        each.read("x", 6, 20.0)
        each.stepped("x", 1, 20.0)
    assert other.to_json() == json.loads(json.dumps(speeds.to_json())) or other.read_ms("x", 7) == speeds.read_ms(
        "x", 7
    )
    assert other.step_ms("x") == speeds.step_ms("x")
    with pytest.raises(ValueError, match="counts"):
        other.take_over({"read": {"x": [[4, 8.0, 0]]}, "step": {}})


def test_demand_is_what_came_of_late() -> None:
    now = [100.0]
    demand = Demand(lambda: now[0])
    assert demand.expected() == Expected()
    for _ in range(2000):  # for two hundred seconds
        now[0] += 0.1
        demand.come(50, 10)
    expected = demand.expected()
    assert (expected.rate, expected.prompt, expected.new_tokens) == pytest.approx((10, 50, 10), rel=0.01)
    now[0] += SPAN_S
    assert demand.expected().rate == pytest.approx(10 / math.e, rel=0.01)
    for number in range(20):  # a rise is seen at once
        now[0] += 0.1
        demand.come(50, 10)
        assert number < 16 or demand.expected().rate == pytest.approx(10, rel=0.01)
    early = Demand(lambda: now[0])
    early.come(50, 10)
    assert early.expected().rate == pytest.approx(1, rel=0.05)  # one request is not yet many a second


def test_bursts_are_told_from_requests_that_come_alone() -> None:
    generator, now = np.random.default_rng(0), [0.0]

    def followers(burst: int, share: float) -> int:
        demand = Demand(lambda: now[0])
        for _ in range(2 * RECENT):
            now[0] += generator.exponential(1.0)
            for _ in range(burst if generator.random() < share else 1):
                demand.come(50, 10, now[0])
        times = demand.expected().times_ms(20, 0.99)
        return sum(ms == 0 for ms in times)

    assert followers(1, 0.0) <= 1  # which two may do by chance
    assert followers(4, 0.1) == 3
    assert followers(9, 0.1) in (8, 9)


def test_the_next_ones_come_as_early_as_they_rarely_do() -> None:
    assert Expected().times_ms(5, 0.99) == []
    assert Expected(rate=2.0).times_ms(3, 0.5) == pytest.approx([500, 1000, 1500])
    times = Expected(rate=2.0).times_ms(30, 0.99)
    for number, ms in enumerate(times, start=1):
        mean = 2.0 * ms / 1e3
        assert mean + 2.326 * math.sqrt(SPREAD * mean) == pytest.approx(number, rel=1e-3)
    burst = Expected(rate=2.0, followers=[0] * 95 + [3] * 5)
    assert burst.times_ms(33, 0.99) == pytest.approx([0, 0, 0, *times])
    assert burst.times_ms(33, 0.9)[0] > 0


def test_answers_are_expected_to_be_as_long_as_others_were() -> None:
    demand = Demand()
    assert demand.expected().length(100) == 100
    for _ in range(RECENT):
        demand.wrote(25, 100)
    assert (demand.expected().length(100), demand.expected().length(1)) == (25, 1)


@pytest.mark.parametrize(
    ("waiting", "writing", "active", "expected"),
    [
        ([], [], 4, (50.0, 6.0)),  # 100 tokens at 0.5 ms, and steps of its own
        # five turns in which the dense model makes two tokens in 15 ms, four of one in 10 ms, and one alone
        ([], [("dense", 9), ("dense", 5)], 4, (50.0, (5 * 21 + 4 * 16 + 6) / 10)),
        ([], [("s1", 9), ("s1", 5)], 4, (50.0, (5 * 12 + 4 * 9 + 6) / 10)),  # in one step
        # 250 tokens in three pieces, and one step before the next prompt is read; seven more beside it
        ([("dense", 250, 9)], [], 4, (310.0, (7 * 16 + 3 * 6) / 10)),
        (
            [("dense", 250, 9)],
            [("s2", 9)],
            4,
            (250 + 3 * 3 + 10 + 50, (6 * 19 + 16 + 3 * 6) / 10),
        ),  # between pieces
        ([], [("s2", 90), ("s2", 20)], 2, (20 * 4.5 + 50, 9.0)),  # until one has ended
        ([], [("s2", 5)], 1, (5 * 3.0 + 50, 6.0)),
        ([("s2", 100, 3)], [("s2", 5)], 1, (5 * 3.0 + 20 + 2 * 3.0 + 50, 6.0)),
        ([("s2", 100, 1)], [("s2", 5)], 1, (5 * 3.0 + 20 + 50, 6.0)),  # whose only token comes with its prompt
    ],
)
def test_forecasts_by_hand(
    waiting: list[tuple[str, int, int]], writing: list[tuple[str, int]], active: int, expected: tuple[float, float]
) -> None:
    now = Load(
        SPEEDS,
        [Underway(*each) for each in waiting],
        [Underway(point, 0, left) for point, left in writing],
        active,
        prefill_tokens=100,
    )
    request = Request((0,) * 100, 11)
    first_token_ms, token_ms = expected
    close(now.ahead([*now.writing, *now.waiting, now.asked(request, "s1")])[-1], first_token_ms, token_ms)
    assert now.whole_ms(request, "s1") == pytest.approx(first_token_ms + 10 * token_ms)
    assert now.wait_ms() == pytest.approx(first_token_ms - 50.0)
    assert math.isinf(now.whole_ms(request, "s9"))


def test_a_request_is_as_old_as_it_is() -> None:
    now = Load(SPEEDS, [], [], 4, 100, Expected(written=0.5), now=12.0)
    request = Request((0,) * 100, 10, slo=Slo(5.0), came=11.5)
    assert now.asked(request, "s1") == Underway("s1", 100, 5, age_ms=500.0, slo=Slo(5.0), free=True)
    assert now.whole_ms(request, "s1") == pytest.approx(500 + 50 + 4 * 6)


def test_what_was_and_what_is_to_come_are_parts_of_a_forecast() -> None:
    now = Load(SPEEDS, [], [], 4, 100)
    begun = Underway("s1", 0, 2, written=4, age_ms=60.0, first_ms=20.0)
    waits = Underway("s2", 100, 1, age_ms=40.0)
    comes = Underway("dense", 10, 2, age_ms=-100.0)
    first, second, third = now.ahead([begun, waits, comes])
    close(first, 20.0, (40 + 20 + 6 + 6) / 5)  # since its first token, beside a prompt of 20 ms
    close(second, 60.0, 0.0)
    close(third, 10.0, 10.0)
    alone, beside = now.ahead([Underway("s1", 0, 30), Underway("s2", 10, 3, age_ms=-7.0)])
    close(beside, 12 + 2 - 7, 9.0)  # when a step has ended, a prompt of 2 ms is read
    close(alone, 0.0, (2 * 6 + 2 + 2 * 9 + 26 * 6) / 29)
