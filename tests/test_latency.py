"""The table adds up, survives the disk, and its error is what it says; no clock is asserted on."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from evaluators.base import Evaluation
from evaluators.latency import EndToEnd, LatencyBench, LatencyTable, Workload
from space.candidate import Candidate
from space.errors import UserError
from space.supernet import Supernet

WORKLOAD = Workload(batch=1, length=8, threads=1, rounds=2)


def test_table_covers_the_shapes_and_survives_the_disk(make_supernet: Callable[..., Supernet]) -> None:
    supernet = make_supernet("qwen3")
    seen: list[tuple[int, int]] = []
    bench = LatencyBench(supernet, WORKLOAD)
    table = bench.table([(2, 1), (6, 3)], [16, 48], lambda *progress: seen.append(progress))
    assert seen == [(1, 2), (2, 2)]
    assert set(table.attention_ms) == {(2, 1), (6, 3)}
    assert set(table.mlp_ms) == {16, 48}
    assert LatencyTable.from_json(table.to_json()) == table
    assert all(ms > 0 for ms in bench.end_to_end([Candidate.dense(supernet.spec)]))
    with supernet.activate(Candidate.dense(supernet.spec)):  # the bench left nothing active
        pass


def test_latency_is_base_plus_blocks() -> None:
    table = LatencyTable(5.0, {(6, 3): 2.0, (2, 1): 1.0}, {48: 3.0}, 0.01, {}, WORKLOAD)
    candidate = Candidate.from_json([[6, 3, 48], [0, 0, 48], [2, 1, 0], [0, 0, 0]])
    assert table.latency_ms(candidate) == 5 + 2 + 3 + 3 + 1
    with pytest.raises(KeyError):
        table.latency_ms(Candidate.from_json([[6, 3, 16]]))


def test_a_table_of_a_busy_machine_says_so() -> None:
    device = {"device": "cpu", "dtype": "float32", "threads": 1}
    calm, busy = (LatencyTable(5.0, {(2, 1): 1.0}, {48: 3.0}, spread, device, WORKLOAD) for spread in (0.02, 0.4))
    assert str(calm) == "2 block shapes timed on cpu, float32, 1 threads; spread between rounds 2.0%"
    assert "WARNING: expected at most 10%" in str(busy)


def test_a_later_session_takes_the_unit_of_the_first(make_supernet: Callable[..., Supernet]) -> None:
    supernet = make_supernet("llama")
    dense = Candidate.dense(supernet.spec)
    earlier = Evaluation(dense, "timed", values={"latency_e2e_ms": 1e6})
    (again,) = EndToEnd(LatencyBench(supernet, WORKLOAD), earlier=earlier)([dense])
    assert 1e5 < again.values["latency_e2e_ms"] < 1e7


def test_a_candidate_that_cannot_run_fails_alone(make_supernet: Callable[..., Supernet]) -> None:
    supernet = make_supernet("llama")
    good, broken = Candidate.dense(supernet.spec), Candidate.from_json([[0, 0, 48]] * 4)
    first, second, third = EndToEnd(LatencyBench(supernet, WORKLOAD))([good, broken, good])
    assert (first.status, second.status, third.status) == ("ok", "failed", "ok")
    assert "at least one layer with attention" in str(second.error)


@pytest.mark.parametrize("text", ["", "[]", '{"base_ms": 1}', '{"base_ms": 1, "attention_ms": {"6": 1}, "mlp_ms": {}}'])
def test_a_garbled_table_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="latency table"):
        LatencyTable.from_json(text)


def test_an_impossible_workload_is_refused() -> None:
    with pytest.raises(UserError, match="at least 1"):
        Workload(length=0)
