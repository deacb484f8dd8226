"""Latency of a candidate: a table of measured blocks for the search, and end-to-end timing to check it.

The timed workload is one plain forward pass, `model(input_ids)`, of `batch` × `length` tokens: prefill, with logits of
every position and a fresh KV cache. A block's entry is measured in place: the time of the whole stack with that shape
in every layer and the other block gone, less the empty stack's, a layer's share. Weights thus stream from memory as
they do in use, and no block is timed in a warm cache of its own.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.utils.benchmark import Timer

from evaluators.base import Evaluation, Measure, Metric
from space.candidate import Candidate, LayerShape
from space.errors import UserError
from space.supernet import Supernet

NOISY = 0.1  # spread of a table's rounds above which it is not to be believed

LATENCY = Metric("latency_ms", "ms", "min", 1)
LATENCY_E2E = Metric("latency_e2e_ms", "ms", "min", 2)


@dataclass(frozen=True)
class Workload:
    """What is timed.

    Attributes:
        batch: Sequences.
        length: Tokens of each.
        threads: Intra-op threads; 0 for torch's own choice.
        rounds: Interleaved rounds, of the table and of the end-to-end check; what counts is the median over them.
    """

    batch: int = 1
    length: int = 512
    threads: int = 0
    rounds: int = 5

    def __post_init__(self) -> None:
        if min(self.batch, self.length, self.rounds) < 1 or self.threads < 0:
            raise UserError(
                f"latency: expected batch, length and rounds of at least 1, and threads of at least 0, "
                f"got {asdict(self)}."
            )


@dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of every block shape, and of what is left without blocks.

    Attributes:
        base_ms: Embedding, final norm and LM head.
        attention_ms: (query_heads, kv_heads) to milliseconds of one attention block.
        mlp_ms: Channels to milliseconds of one MLP block.
        spread: Interquartile range of a stack's times over the rounds, as a fraction of their median; the median over
            all stacks. Large when the machine was busy with other work.
        device: Device, dtype, threads and torch version of the measurement.
        workload: What was timed.
    """

    base_ms: float
    attention_ms: Mapping[tuple[int, int], float]
    mlp_ms: Mapping[int, float]
    spread: float
    device: Mapping[str, Any]
    workload: Workload

    def latency_ms(self, candidate: Candidate) -> float:
        """Base plus the sum of the candidate's blocks.

        Raises:
            KeyError: A shape is not in the table.
        """
        total = self.base_ms
        for shape in candidate.layers:
            total += self.attention_ms[shape.query_heads, shape.kv_heads] if shape.kv_heads else 0.0
            total += self.mlp_ms[shape.mlp_channels] if shape.mlp_channels else 0.0
        return total

    @property
    def digest(self) -> str:
        """16 hex digits over the measurement; evaluations that used different tables cannot be compared."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def measure(self) -> Measure:
        """The metric `latency_ms` of the table."""
        return Measure((LATENCY,), lambda candidate: {LATENCY.name: self.latency_ms(candidate)})

    def __str__(self) -> str:
        """What was measured, and a warning where the rounds disagree."""
        where = f"{self.device['device']}, {self.device['dtype']}, {self.device['threads']} threads"
        shapes = len(self.attention_ms) + len(self.mlp_ms)
        text = f"{shapes} block shapes timed on {where}; spread between rounds {self.spread:.1%}"
        if self.spread <= NOISY:
            return text
        return (
            f"{text}. WARNING: expected at most {NOISY:.0%}; other work on this machine makes these latencies "
            "meaningless, and a run keeps its table. Stop that work, then start a new run."
        )

    def to_json(self) -> str:
        """The table as JSON text."""
        return json.dumps(
            {
                "device": dict(self.device),
                "workload": asdict(self.workload),
                "base_ms": self.base_ms,
                "attention_ms": {f"{heads}/{groups}": ms for (heads, groups), ms in self.attention_ms.items()},
                "mlp_ms": {str(channels): ms for channels, ms in self.mlp_ms.items()},
                "spread": self.spread,
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> LatencyTable:
        """The inverse of `to_json`.

        Raises:
            UserError: The text is not such a table.
        """
        try:
            stored = json.loads(text)
            return cls(
                base_ms=stored["base_ms"],
                attention_ms={
                    (int(shape.split("/")[0]), int(shape.split("/")[1])): ms
                    for shape, ms in stored["attention_ms"].items()
                },
                mlp_ms={int(channels): ms for channels, ms in stored["mlp_ms"].items()},
                spread=stored["spread"],
                device=stored["device"],
                workload=Workload(**stored["workload"]),
            )
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise UserError(
                f"Expected a latency table, got text that does not read as one ({type(error).__name__}: {error}). "
                "Start a new run; evaluations that used this table cannot be compared with others."
            ) from error


class LatencyBench:
    """Times a supernet's subnets on the device and in the dtype in use."""

    def __init__(self, supernet: Supernet, workload: Workload) -> None:
        self._supernet = supernet
        self._workload = workload
        self._device = next(supernet.model.parameters()).device
        generator = torch.Generator().manual_seed(0)
        shape = (workload.batch, workload.length)
        self._tokens = torch.randint(supernet.spec.vocab, shape, generator=generator).to(self._device)

    def table(
        self,
        attention_shapes: Sequence[tuple[int, int]],
        mlp_shapes: Sequence[int],
        on_round: Callable[[int, int], None] = lambda done, of: None,
    ) -> LatencyTable:
        """Measures every block shape, all stacks interleaved in rounds.

        Args:
            attention_shapes: (query_heads, kv_heads) pairs, without the empty one.
            mlp_shapes: Channel counts, without 0.
            on_round: Called with how many rounds are done, of how many.
        """
        layers = self._supernet.spec.layers
        # One layer must keep attention, so the empty stack is one block of the smallest shape, taken off again below.
        smallest = min(attention_shapes)
        one = (LayerShape(*smallest, 0), *(LayerShape(0, 0, 0),) * (layers - 1))
        stacks: dict[Any, Candidate] = {"one": Candidate(one)}
        stacks |= {shape: Candidate((LayerShape(*shape, 0),) * layers) for shape in attention_shapes}
        stacks |= {
            channels: Candidate((LayerShape(*smallest, channels), *(LayerShape(0, 0, channels),) * (layers - 1)))
            for channels in mlp_shapes
        }
        rows = self._rounds(list(stacks.values()), on_round)
        times = {name: statistics.median(row[index] for row in rows) for index, name in enumerate(stacks)}
        # a single layer cannot be told from the rest of the model
        block = (times[smallest] - times["one"]) / (layers - 1) if layers > 1 else 0.0
        base = times["one"] - block
        return LatencyTable(
            base_ms=base,
            attention_ms={shape: max(0.0, (times[shape] - base) / layers) for shape in attention_shapes},
            mlp_ms={channels: max(0.0, (times[channels] - times["one"]) / layers) for channels in mlp_shapes},
            device=self._describe(),
            spread=statistics.median(_spread([row[index] for row in rows]) for index in range(len(stacks))),
            workload=self._workload,
        )

    def end_to_end(
        self,
        candidates: Sequence[Candidate],
        on_round: Callable[[int, int], None] = lambda done, of: None,
        dense_ms: float | None = None,
    ) -> list[float]:
        """Milliseconds of each candidate's forward pass, all interleaved in rounds so that drift hits them alike.

        Each round's times are divided by that round's dense time; the result is the median ratio times the dense time,
        so that a slow moment of the machine does not favour anyone.

        Args:
            candidates: What to time.
            on_round: Called with how many rounds are done, of how many.
            dense_ms: The dense model's time in an earlier session, for results to be compared with that session's; the
                median of this one when None.
        """
        dense = Candidate.dense(self._supernet.spec)
        everyone = [dense, *candidates]
        times = self._rounds(everyone, on_round)
        if dense_ms is None:
            dense_ms = statistics.median(row[0] for row in times)
        return [dense_ms * statistics.median(row[i] / row[0] for row in times) for i in range(1, len(everyone))]

    def failure(self, candidate: Candidate) -> str | None:
        """Why a candidate cannot be timed, or None when it can."""
        try:
            with self._supernet.activate(candidate) as model, torch.inference_mode():
                model(self._tokens)
        except Exception as error:  # an evaluation boundary: the failure is stored with the candidate
            return f"{type(error).__name__}: {error}"
        return None

    def _rounds(self, candidates: Sequence[Candidate], on_round: Callable[[int, int], None]) -> list[list[float]]:
        """Milliseconds of every candidate in every round; a slow moment of the machine hits neighbours alike."""
        rows: list[list[float]] = []
        for number in range(self._workload.rounds):
            rows.append([self._time(candidate) for candidate in candidates])
            on_round(number + 1, self._workload.rounds)
        return rows

    def _time(self, candidate: Candidate) -> float:
        """Milliseconds of a warm forward pass, the mean of two."""
        with self._supernet.activate(candidate) as model, torch.inference_mode():
            timer = Timer(
                "model(tokens)",
                globals={"model": model, "tokens": self._tokens},
                num_threads=self._workload.threads or torch.get_num_threads(),
            )
            timer.timeit(1)  # warm
            return timer.timeit(2).median * 1e3

    def _describe(self) -> dict[str, Any]:
        cuda = self._device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self._device) if cuda else str(self._device),
            "dtype": str(next(self._supernet.model.parameters()).dtype).removeprefix("torch."),
            "threads": self._workload.threads or torch.get_num_threads(),
            "torch": torch.__version__,
        }


class EndToEnd:
    """The `Evaluator` behind `latency_e2e_ms`: all candidates of a call are timed in one interleaved session."""

    fidelity = "timed"
    metrics = (LATENCY_E2E,)

    def __init__(
        self,
        bench: LatencyBench,
        on_round: Callable[[int, int], None] = lambda done, of: None,
        earlier: Evaluation | None = None,
    ) -> None:
        """Times nothing yet.

        Args:
            bench: The clock.
            on_round: Called with how many rounds are done, of how many.
            earlier: The dense model's evaluation of an earlier session, whose unit this session then takes.
        """
        self._bench = bench
        self._on_round = on_round
        self._dense_ms = earlier.values[LATENCY_E2E.name] if earlier is not None and earlier.status == "ok" else None

    def expect(self, candidates: Sequence[Candidate]) -> None:
        """See `Evaluator`; timings share nothing."""

    def __call__(self, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """See `Evaluator`; a candidate that cannot run fails alone, before the session."""
        start = time.perf_counter()
        failures = {candidate.key: self._bench.failure(candidate) for candidate in candidates}
        able = [candidate for candidate in candidates if failures[candidate.key] is None]
        measured = self._bench.end_to_end(able, self._on_round, self._dense_ms)
        times = {candidate.key: ms for candidate, ms in zip(able, measured, strict=True)}
        seconds = (time.perf_counter() - start) / max(1, len(candidates))
        return [
            Evaluation(candidate, self.fidelity, values={LATENCY_E2E.name: times[candidate.key]}, seconds=seconds)
            if candidate.key in times
            else Evaluation(candidate, self.fidelity, "failed", seconds=seconds, error=failures[candidate.key])
            for candidate in candidates
        ]


def _spread(times: Sequence[float]) -> float:
    """Interquartile range over median; 0 for a single time."""
    if len(times) < 2:
        return 0.0
    lower, middle, upper = statistics.quantiles(times, n=4, method="inclusive")
    return (upper - lower) / middle
