"""The clock on CUDA, played on the CPU: steps are captured and replays timed, on the device that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from evaluators.latency.bench import LatencyBench
from evaluators.latency.clocks import LEAST_S, TorchClock
from evaluators.latency.table import UNCAPTURED, LatencyTable
from evaluators.latency.workload import Workload
from space.candidate import Candidate
from space.supernet.supernet import Supernet

SERVING = Workload("serving", batch_size=2, length=8, new_tokens=5, threads=1, rounds=1, fit=0, check=0)
CUT = Candidate.from_rows([[4, 2, 16]] * 4)
OPTIONS = {"attention": [(4, 2), (6, 3)], "mlp": [(16,), (48,)]}
REPLAY_S = 0.001


@dataclass
class Card:
    """A GPU without one: what it was asked, and on which device."""

    refuses: Exception | None = None
    log: list[str] = field(default_factory=list)
    device: str = "cuda:0"
    now: float = 0.0

    @contextmanager
    def at(self, device: torch.device) -> Iterator[None]:
        before, self.device = self.device, str(device)
        yield
        self.device = before

    @contextmanager
    def graph(self, graph: Any, **settings: Any) -> Iterator[None]:
        self.log.append(f"capture on {self.device}")
        if self.refuses is not None:
            raise self.refuses
        yield

    def replay(self) -> None:
        self.log.append(f"replay on {self.device}")
        self.now += REPLAY_S

    def timer(self) -> float:
        self.log.append(f"time on {self.device}")
        self.now += 1e-9
        return self.now


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Card:
    card, stream = Card(), SimpleNamespace(wait_stream=lambda other: None)
    graph = SimpleNamespace(replay=card.replay, reset=lambda: card.log.append("reset"))
    for name, value in {
        "device": card.at,
        "graph": card.graph,
        "CUDAGraph": lambda: graph,
        "Stream": lambda: stream,
        "current_stream": lambda: stream,
        "stream": lambda other: card.at(torch.device(card.device)),
        "set_stream": lambda other: None,
        "synchronize": lambda: None,
        "get_device_name": str,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr("evaluators.latency.clocks.timer", card.timer)
    return card


@pytest.fixture
def bench(card: Card, make_supernet: Callable[..., Supernet], monkeypatch: pytest.MonkeyPatch) -> LatencyBench:
    """Of a model that is on the CPU, and a clock that takes it for another one's."""
    bench = LatencyBench(make_supernet("llama"), SERVING)
    assert isinstance(bench.clock, TorchClock)
    bench.clock._device = torch.device("cuda:1")
    monkeypatch.setattr(TorchClock, "head_ms", lambda self, phase: {})
    return bench


def test_replays_are_timed_one_graph_at_a_time_on_the_device_that_was_asked_for(
    bench: LatencyBench, card: Card
) -> None:
    assert bench.clock.describe()["engine"] == f"torch {torch.__version__}, CUDA graphs"
    assert bench.clock.describe()["device"] == "cuda:1"
    card.log.clear()
    ratios, dense_ms = bench.clock.session(SERVING.phases["decode"], {"cut": CUT}, 1, lambda done, of: None)
    assert dense_ms == pytest.approx(REPLAY_S * 1e3, rel=1e-3)
    assert ratios == {"cut": [pytest.approx(1.0, rel=1e-3)]}
    assert {entry.partition(" on ")[2] for entry in card.log} == {"cuda:1", ""}
    steps = " ".join(entry.partition(" on ")[0] for entry in card.log).split("reset")
    assert len(steps) == 3 + 1, "the dense model before and after, and the design"
    for step in steps[:-1]:
        assert step.split().count("capture") == 1
        assert step.split().index("capture") == 0
        assert step.split().count("replay") >= LEAST_S / REPLAY_S


def test_a_model_that_no_graph_holds_is_timed_by_launches_and_the_table_says_so(
    bench: LatencyBench, card: Card
) -> None:
    card.refuses = RuntimeError("operation not permitted when stream is capturing\nCUDA kernel errors might be late.")
    table = LatencyTable.from_json(bench.table(OPTIONS).to_json())
    assert table.device["engine"] == f"torch {torch.__version__}"
    assert table.device[UNCAPTURED] == "RuntimeError: operation not permitted when stream is capturing"
    assert card.log.count("capture on cuda:1") == 2, "once a phase, not once a design"
    assert not any(entry.startswith("replay") for entry in card.log)
    warnings = [line for line in table.remarks() if "CUDA graph" in line]
    assert len(warnings) == 1
    assert "stream is capturing. Its launches by Python are timed as well" in warnings[0]


def test_a_device_without_memory_for_a_graph_is_no_model_that_no_graph_holds(bench: LatencyBench, card: Card) -> None:
    card.refuses = torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(torch.OutOfMemoryError):
        bench.clock.describe()
