"""Timing of subnets on the device: block shapes for the latency table, and end to end.

A block's entry is measured in place: the time of a whole stack with that shape in every layer and the other block gone,
less the empty stack's, a layer's share. Weights thus stream from memory as they do in use, and no block is timed in a
warm cache of its own. All times are relative to the dense model's, timed in turns with the others: a machine that
becomes slower or faster changes neither ratios nor ranks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluators.base import SPREAD, Evaluation, failure
from evaluators.latency.clocks import Clock, OnTimings, TorchClock
from evaluators.latency.llamacpp_clock import LlamaCppClock
from evaluators.latency.table import NOISY, LatencyTable, PhaseTable, label, model_shapes
from evaluators.latency.timings import Timings, spread
from evaluators.latency.workload import LATENCY_E2E, THROUGHPUT, Phase, Workload
from evaluators.metrics import metrics_named, spread_of
from space.candidate import Candidate, LayerShape, Option
from space.supernet.supernet import Supernet


def make_clock(supernet: Supernet, workload: Workload, tokenizer: Any) -> Clock:
    """The clock that `latency.engine` names."""
    if workload.engine == "llamacpp":
        return LlamaCppClock(supernet, workload, tokenizer)
    return TorchClock(supernet, workload)


class LatencyBench:
    """Times a supernet's subnets as they will be served."""

    def __init__(
        self, supernet: Supernet, workload: Workload, cache: Path | None = None, tokenizer: Any = None
    ) -> None:
        """Times nothing yet.

        Args:
            supernet: The model.
            workload: What is timed.
            cache: Directory of timings that are used again and kept, if the workload wants that; None for none.
            tokenizer: The model's, which engines other than torch want with it.

        Raises:
            UserError: The engine is not installed, or cannot run the model.
        """
        self.workload = workload
        self.clock = make_clock(supernet, workload, tokenizer)
        self._spec = supernet.spec
        self._cache = cache if workload.cache else None

    def table(
        self,
        block_options: Mapping[str, Sequence[Option]],
        designs: Sequence[Candidate] = (),
        on_timings: OnTimings = lambda done, of: None,
    ) -> LatencyTable:
        """The latency table of a space; what the cache knows is not measured again.

        Args:
            block_options: By kind of block, `attention` among them: the options that leave something.
            designs: That are timed whole: the workload's `fit` first ones to correct the table, the rest to check it.
            on_timings: Called with how many timings of a phase are done, of how many.
        """
        layers = self._spec.layers
        # One layer must keep attention, so the empty stack is one block of the smallest shape, taken off again below.
        smallest = min(block_options["attention"])
        standing = f"on {_name('attention', smallest)}"  # times are kept by name from run to run; smallest ones differ
        models = {standing: _stack(layers, {}, smallest)}
        for kind, options in block_options.items():
            if kind == "attention":
                models |= {_name(kind, option): _stack(layers, {kind: option}, None) for option in options}
            else:
                models |= {
                    f"{_name(kind, option)} {standing}": _stack(layers, {kind: option}, smallest) for option in options
                }
        models |= {design.key: design for design in designs}
        phases = {}
        for name, phase in self.workload.phases.items():
            timings = self._timings(phase, models, on_timings)
            dense_ms = timings.dense_ms or 0.0
            times = {model: dense_ms * timings.ratio(model) for model in models}
            # a single layer cannot be told from the rest of the model
            block = (times[_name("attention", smallest)] - times[standing]) / (layers - 1) if layers > 1 else 0.0
            base = max(0.0, times[standing] - block)
            table = PhaseTable(
                dense_ms=dense_ms,
                base_ms=base,
                block_ms={
                    kind: {
                        option: max(0.0, (times[_name(kind, option)] - base) / layers)
                        if kind == "attention"
                        else max(0.0, (times[f"{_name(kind, option)} {standing}"] - times[standing]) / layers)
                        for option in options
                    }
                    for kind, options in block_options.items()
                },
                spread=timings.spread(),
                head_ms=timings.head_ms,
            )
            whole = {design: times[design.key] for design in designs}
            fit, check = ({d: whole[d] for d in part} for part in _split(designs, self.workload.fit))
            phases[name] = table.fitted({Candidate.dense(self._spec): dense_ms, **fit}).checked(check)
        return LatencyTable(phases, self.clock.describe(), self.workload, model_shapes(self._spec))

    def ratios(
        self, candidates: Sequence[Candidate], on_timings: OnTimings = lambda done, of: None
    ) -> list[dict[str, list[float]]]:
        """End-to-end times of each candidate relative to the dense model's, by phase and round, measured now.

        Args:
            candidates: What to time.
            on_timings: Called with how many timings of a phase are done, of how many.
        """
        models = {str(index): candidate for index, candidate in enumerate(candidates)}
        ratios: list[dict[str, list[float]]] = [{} for _ in candidates]
        for name, phase in self.workload.phases.items():
            rows, _ = self.clock.session(phase, models, self.workload.front_rounds, on_timings)
            for index in range(len(candidates)):
                ratios[index][name] = rows[str(index)]
        return ratios

    def _timings(self, phase: Phase, models: Mapping[str, Candidate], on_timings: OnTimings) -> Timings:
        """Timings that have all of some models; the missing ones are measured, and kept unless the machine is busy."""
        about = {
            **self.clock.describe(),
            "model": model_shapes(self._spec),
            # as files of before name it, so that their timings stay of use
            "phase": {"kind": phase.kind, "batch": phase.batch_size, "tokens": phase.tokens},
            "cold": self.workload.cold,
        }
        timings = Timings.of(about, self._cache)
        missing = {name: candidate for name, candidate in models.items() if name not in timings.ratios}
        if not missing and timings.dense_ms is not None:
            return timings
        rows, dense_ms = self.clock.session(phase, missing, self.workload.rounds, on_timings)
        timings.ratios |= rows
        timings.dense_ms = timings.dense_ms or dense_ms
        timings.head_ms = timings.head_ms or self.clock.head_ms(phase)
        if timings.spread() <= NOISY:
            timings.save()
        return timings


class EndToEnd:
    """The `Evaluator` behind `latency_e2e_ms`: all candidates are timed in one interleaved session.

    Each time is the median over the rounds, with half of their interquartile range in `latency_e2e_ms_spread`.
    """

    fidelity = "timed"

    def __init__(
        self, bench: LatencyBench, dense_ms: Mapping[str, float], on_timings: OnTimings = lambda done, of: None
    ) -> None:
        """Times nothing yet.

        Args:
            bench: The clock.
            dense_ms: The dense model's milliseconds by phase, as in the latency table: the unit of all times.
            on_timings: Called with how many timings of a phase are done, of how many.
        """
        self._bench = bench
        self._dense_ms = dense_ms
        self._on_timings = on_timings
        phases = [*dense_ms] if len(dense_ms) > 1 else []
        whole_and_parts = (LATENCY_E2E, *metrics_named(*(f"{name}_e2e_ms" for name in phases)))
        times = (each for metric in whole_and_parts for each in (metric, spread_of(metric)))
        self.metrics = (*times, THROUGHPUT, *bench.clock.metrics)

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        """See `Evaluator`; all are timed before the first is answered. One that cannot run fails alone, before that."""
        if not candidates:
            return
        start = time.perf_counter()
        first_values: dict[str, dict[str, float]] = {}
        failures: dict[str, Evaluation] = {}
        for candidate in candidates:
            begun = time.perf_counter()
            try:
                first_values[candidate.key] = self._bench.clock.try_out(candidate)
            except Exception as error:  # an evaluation boundary: the failure is stored with the candidate
                seconds = time.perf_counter() - begun
                failures[candidate.key] = failure(candidate, self.fidelity, error, seconds=seconds)
        able = [candidate for candidate in candidates if candidate.key in first_values]
        ratios = self._bench.ratios(able, self._on_timings)
        values = {c.key: self._values(each) | first_values[c.key] for c, each in zip(able, ratios, strict=True)}
        seconds = (time.perf_counter() - start) / max(1, len(candidates))
        for candidate in candidates:
            if candidate.key in failures:
                yield failures[candidate.key]
            else:
                yield Evaluation(candidate, self.fidelity, values=values[candidate.key], seconds=seconds)

    def _values(self, ratios: Mapping[str, Sequence[float]]) -> dict[str, float]:
        workload = self._bench.workload
        times = {name: [ratio * self._dense_ms[name] for ratio in each] for name, each in ratios.items()}
        middle = {name: statistics.median(ms) for name, ms in times.items()}
        rounds = [dict(zip(times, one, strict=True)) for one in zip(*times.values(), strict=True)]
        latency, latencies = workload.total(middle), [workload.total(one) for one in rounds]
        values = {LATENCY_E2E.name: latency, f"{LATENCY_E2E.name}{SPREAD}": spread(latencies) * latency / 2}
        if len(times) > 1:
            for name, ms in times.items():
                values |= {f"{name}_e2e_ms": middle[name], f"{name}_e2e_ms{SPREAD}": spread(ms) * middle[name] / 2}
        return values | {THROUGHPUT.name: workload.tokens_per_s(latency)}


def _name(kind: str, option: Option) -> str:
    """Of the stack of a block's option."""
    return f"{kind} {label(option)}"


def _stack(layers: int, options: Mapping[str, Option], carrier: Option | None) -> Candidate:
    """A model with nothing but these blocks in all layers; the first layer has an attention block besides, if any."""
    shape = LayerShape.of(**options)
    first = shape if carrier is None else LayerShape.of(**options, attention=carrier)
    return Candidate((first, *(shape,) * (layers - 1)))


def _split(designs: Sequence[Candidate], first: int) -> tuple[Sequence[Candidate], Sequence[Candidate]]:
    return designs[:first], designs[first:]
