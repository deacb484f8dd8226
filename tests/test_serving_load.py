"""The load generator: when requests come, and what answers come to, by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest

from benchmarks.served import Answer
from benchmarks.serving import Cell, arrivals, cell_of, times_ms, verdicts
from benchmarks.soak import fault


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
    assert fault("stream", stream("s1", 0.1)) is None
    assert fault("hang up", None) is None
    for kind, answer in (
        ("noise", Answer(500, error)),
        ("noise", Answer(400, b"Bad Request")),
        ("whole", Answer(200, b"{")),
        ("stream", Answer(200, b"data: {}\n", (0.1,))),
        ("whole", None),
    ):
        assert fault(kind, answer) is not None
