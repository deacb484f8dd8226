"""The load generator: when requests come, and what answers come to, by hand; and the same in virtual time."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest

from benchmarks import pacing
from benchmarks.pacing import FRONTS, Trial
from benchmarks.served import Answer
from benchmarks.serving import Cell, arrivals, cell_of, times_ms, verdicts
from benchmarks.soak import fault
from serving.limits import Limits
from serving.load import Forecast, Load
from serving.requests import Choice, Request

LAST_CHUNK = b"\r\n0\r\n\r\n"


def stream(model: str, *times: float) -> Answer:
    event = b"data: " + json.dumps({"model": model}).encode() + b"\n"
    return Answer(200, event * len(times) + b"data: [DONE]\n", times)


def test_requests_come_at_the_rate_with_bursts() -> None:
    times = arrivals(5.0, 4000, np.random.default_rng(0))
    assert len(times) == 4000
    assert times == sorted(times)
    assert 4000 / times[-1] == pytest.approx(5.0, rel=0.1)
    assert sum(one == other for one, other in pairwise(times)) > 500


def test_answers_by_hand() -> None:
    fast, slow = stream("s1", 0.1, 0.2, 0.3, 0.3), stream("dense", 0.5, 0.6, 0.7, 0.7)
    cut_off, busy = Answer(200, b'data: {"error": {}}\n', (0.1,)), Answer(429, b"{}")
    assert times_ms(fast) == pytest.approx((100.0, 100.0))
    cell = cell_of([fast, slow, cut_off, busy], (200.0, 150.0), [{"s1": 0.4}, {"s1": 0.8}])
    assert (cell.attainment, cell.loss, cell.refused) == (0.25, 0.2, 2)
    assert json.loads(json.dumps(asdict(cell)))["points"] == {"s1": 1, "dense": 1}


def test_targets_are_held_against_what_was_measured() -> None:
    def cells(*pairs: tuple[float, float]) -> dict[float, Cell]:
        return {load: Cell(kept, loss, 0, {}) for load, (kept, loss) in zip((0.5, 1.0, 1.5), pairs, strict=True)}

    words = verdicts(
        {
            "static dense": cells((1.0, 0.0), (0.6, 0.0), (0.1, 0.0)),
            "static s1": cells((1.0, 0.2), (0.9, 0.2), (0.5, 0.2)),
            "static s2": cells((1.0, 0.5), (0.99, 0.5), (0.98, 0.5)),
            "slo": cells((1.0, 0.0), (1.0, 0.2), (0.99, 0.5)),
            "slo controller.keep=0.9": cells((1.0, 0.0), (1.0, 0.2), (0.98, 0.4)),
            "difficulty": cells((1.0, 0.1), (0.9, 0.16), (0.985, 0.3)),
            "difficulty controller.loss=1": cells((1.0, 0.1), (0.95, 0.41), (0.9, 0.4)),
            "bandit": cells((1.0, 0.1), (0.95, 0.41), (0.9, 0.4)),
        }
    )
    assert [each.split(": ", 1)[0] for each in words[:3]] == [f"slo at load {load:g}" for load in (0.5, 1.0, 1.5)]
    ends = ["says nothing", "says nothing", "met", "says nothing", "says nothing", "NOT MET"]
    ends += ["says nothing, the dense model keeps as many", "met", "says nothing, no point keeps as many"]
    ends += ["says nothing, the dense model keeps as many", "NOT MET", "met"]
    assert [each.split(": ")[2].split(", which")[0] for each in words] == ends
    assert "0.80 times the best point's 0.200" in words[7]


def test_faults_of_answers_are_seen() -> None:
    error = json.dumps({"error": {"message": "", "type": "", "param": None, "code": None}}).encode()
    assert fault("noise", Answer(400, error)) is None
    done = stream("s1", 0.1).body
    assert fault("stream", Answer(200, done + LAST_CHUNK)) is None
    assert fault("hang up", None) is None
    for kind, answer in (
        ("noise", Answer(500, error)),
        ("noise", Answer(400, b"Bad Request")),
        ("whole", Answer(200, b"{")),
        ("whole", None),
    ):
        assert fault(kind, answer) is not None
    late = b"data: " + json.dumps({"error": {"code": "timeout"}}).encode() + b"\n"
    for body, words in (
        (done, "cut off"),
        (LAST_CHUNK, "without an end"),
        (b"data: {}\n" + LAST_CHUNK, "without an end"),
        (b"data: {}\n" + late + LAST_CHUNK, "ends in an error (timeout)"),
        (b"data: [DONE]\n" + LAST_CHUNK, "of nothing"),
    ):
        assert words in str(fault("stream", Answer(200, body)))


class Forecasting:
    """Takes points in turns, and says what the last request has to expect."""

    def __init__(self, points: int) -> None:
        self._ids = [offer.id for offer in FRONTS["cpu, to 2.5x"].offers][:points]
        self._asked = 0
        self.forecast: Forecast | None = None

    def choose(self, requests: Sequence[Request], load: Callable[[], Load]) -> Choice:
        point = self._ids[self._asked % len(self._ids)]
        self._asked += 1
        now = load()
        self.forecast = now.ahead([*now.writing, *now.waiting, now.asked(requests[0], point)])[-1]
        return Choice(point)


@pytest.mark.parametrize("points", [1, 3])
@pytest.mark.parametrize("count", [1, 2, 7, 12, 30])
def test_forecasts_are_what_the_scheduler_does(points: int, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "NOISE", 0.0)
    prompts, forecasting = [20 + 31 * number for number in range(count)], Forecasting(points)
    trial = Trial(FRONTS["cpu, to 2.5x"], Limits(), 0)
    served, _ = trial.run([0.0] * count, prompts, 9, forecasting)  # type: ignore[arg-type]
    (last,) = [each for each in served if each.prompt_tokens == prompts[-1]]
    forecast = forecasting.forecast
    assert forecast is not None
    assert last.first_token_s is not None
    assert last.token_s is not None
    assert forecast.first_token_ms == pytest.approx(1e3 * last.first_token_s, rel=1e-6)
    within = 1e-6 if points == 1 else 0.2  # in its last turn other points may make their steps behind it
    assert forecast.token_ms == pytest.approx(1e3 * last.token_s, rel=within)


def test_in_virtual_time_slo_keeps_what_the_dense_model_does_not() -> None:
    told = {"requests": 60, "seeds": 1, "loads": [0.3, 1.2], "slacks": [16.0], "new_tokens": 16, "bursts": 0.1}
    arguments = Namespace(**told, keep=0.99, margin=0.1)
    first, again = (pacing.cells(FRONTS["cpu, to 2.5x"], arguments) for _ in range(2))
    assert first == again
    calm, busy = first.values()
    assert calm["slo"].kept == 1
    assert calm["slo"].loss < 0.5 * calm["fastest"].loss
    assert busy["slo"].kept > max(busy["dense"].kept, 0.97)
    assert busy["slo"].loss < busy["fastest"].loss
    words = pacing.verdicts([calm, busy])
    assert any("in 1 cells: slo keeps 100.0%" in each for each in words)
    for row in ("down", "both"):  # what can be revised need not be as careful
        assert calm[row].kept == 1
        assert calm[row].loss < calm["slo"].loss
        assert busy[row].kept > 0.97
