"""Timing of subnets on the device: block shapes for the latency table, and end to end.

A block's entry is measured in place: the time of a whole stack with that shape in every layer and the other block gone,
less the empty stack's, a layer's share. Weights thus stream from memory as they do in use, and no block is timed in a
warm cache of its own. The dense model is timed between a few others, and every time is divided by the dense model's
about then: a machine that becomes slower or faster changes neither ratios nor ranks.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.benchmark import Timer
from transformers import DynamicCache

from evaluators.base import Evaluation, Metric
from evaluators.latency_table import NOISY, LatencyTable, PhaseTable
from evaluators.timings import Timings
from evaluators.workload import LATENCY_E2E, Phase, Workload
from space.candidate import Candidate, LayerShape
from space.supernet import Supernet

BETWEEN_DENSE = 6  # so many models are timed between two timings of the dense one
REPEATS = {"prefill": 2, "decode": 8}  # forward passes of one timing
_FLUSHED_BYTES = 1 << 28
_FORMAT = 2  # raised when a step or a model that is timed becomes another: timings from before are then not used

OnRound = Callable[[int, int], None]


class LatencyBench:
    """Times a supernet's subnets on the device and in the dtype in use."""

    def __init__(self, supernet: Supernet, workload: Workload, cache: Path | None = None) -> None:
        """Times nothing yet.

        Args:
            supernet: The model.
            workload: What is timed.
            cache: Directory of timings that are used again and kept, if the workload wants that; None for none.
        """
        self.workload = workload
        self._supernet = supernet
        self._cache = cache if workload.cache else None
        self._device = next(supernet.model.parameters()).device
        self._threads = workload.threads or torch.get_num_threads()
        self._flushed = torch.empty(_FLUSHED_BYTES if workload.cold else 0, dtype=torch.uint8, device=self._device)

    def table(
        self,
        attention_shapes: Sequence[tuple[int, int]],
        mlp_shapes: Sequence[int],
        designs: Sequence[Candidate] = (),
        on_round: OnRound = lambda done, of: None,
    ) -> LatencyTable:
        """The latency table of a space; what the cache knows is not measured again.

        Args:
            attention_shapes: (query_heads, kv_heads) pairs, without the empty one.
            mlp_shapes: Channel counts, without 0.
            designs: That are timed whole: the workload's `fit` first ones to correct the table, the rest to check it.
            on_round: Called with how many rounds of a phase are done, of how many.
        """
        layers = self._supernet.spec.layers
        # One layer must keep attention, so the empty stack is one block of the smallest shape, taken off again below.
        smallest = min(attention_shapes)
        empty = LayerShape(0, 0, 0)
        models = {"one": Candidate((LayerShape(*smallest, 0), *(empty,) * (layers - 1)))}
        models |= {_name(shape): Candidate((LayerShape(*shape, 0),) * layers) for shape in attention_shapes}
        models |= {
            _name(channels): Candidate((LayerShape(*smallest, channels), *(LayerShape(0, 0, channels),) * (layers - 1)))
            for channels in mlp_shapes
        }
        models |= {design.key: design for design in designs}
        phases = {}
        for name, phase in self.workload.phases.items():
            timings = self._timings(phase, models, on_round)
            dense_ms = timings.dense_ms or 0.0
            times = {model: dense_ms * timings.ratio(model) for model in models}
            # a single layer cannot be told from the rest of the model
            block = (times[_name(smallest)] - times["one"]) / (layers - 1) if layers > 1 else 0.0
            base = max(0.0, times["one"] - block)
            table = PhaseTable(
                dense_ms=dense_ms,
                base_ms=base,
                attention_ms={shape: max(0.0, (times[_name(shape)] - base) / layers) for shape in attention_shapes},
                mlp_ms={
                    channels: max(0.0, (times[_name(channels)] - times["one"]) / layers) for channels in mlp_shapes
                },
                spread=timings.spread(),
            )
            whole = {design: times[design.key] for design in designs}
            fit, check = ({d: whole[d] for d in part} for part in _split(designs, self.workload.fit))
            phases[name] = table.fitted({Candidate.dense(self._supernet.spec): dense_ms, **fit}).checked(check)
        return LatencyTable(phases, self.describe(), self.workload)

    def ratios(
        self, candidates: Sequence[Candidate], on_round: OnRound = lambda done, of: None
    ) -> list[dict[str, float]]:
        """End-to-end time of each candidate relative to the dense model's, by phase, measured now.

        Args:
            candidates: What to time.
            on_round: Called with how many rounds of a phase are done, of how many.
        """
        models = {str(index): candidate for index, candidate in enumerate(candidates)}
        found: list[dict[str, float]] = [{} for _ in candidates]
        for name, phase in self.workload.phases.items():
            rows, _ = self._session(phase, models, on_round)
            for index in range(len(candidates)):
                found[index][name] = statistics.median(rows[str(index)])
        return found

    def failure(self, candidate: Candidate) -> str | None:
        """Why a candidate cannot be timed, or None when it can."""
        try:
            for phase in self.workload.phases.values():
                with self._supernet.activate(candidate) as model, torch.inference_mode():
                    self._step(model, phase, candidate)()
        except Exception as error:  # an evaluation boundary: the failure is stored with the candidate
            return f"{type(error).__name__}: {error}"
        return None

    def describe(self) -> dict[str, Any]:
        """The device, as far as times depend on it."""
        cuda, model = self._device.type == "cuda", self._supernet.model
        return {
            "device": torch.cuda.get_device_name(self._device) if cuda else _cpu_name(),
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "attention": model.config._attn_implementation,
            "threads": self._threads,
            "torch": torch.__version__,
        }

    def _timings(self, phase: Phase, models: Mapping[str, Candidate], on_round: OnRound) -> Timings:
        """Timings that have all of some models; the missing ones are measured, and kept unless the machine is busy."""
        spec = self._supernet.spec.to_json() | {"name": "", "revision": ""}  # times do not depend on weights
        about = {
            "format": _FORMAT,
            **self.describe(),
            "model": spec,
            "phase": asdict(phase),
            "cold": self.workload.cold,
        }
        timings = Timings.of(about, self._cache)
        missing = {name: candidate for name, candidate in models.items() if name not in timings.ratios}
        if not missing and timings.dense_ms is not None:
            return timings
        rows, dense_ms = self._session(phase, missing, on_round)
        timings.ratios |= rows
        timings.dense_ms = timings.dense_ms or dense_ms
        if timings.spread() <= NOISY:
            timings.save()
        return timings

    def _session(
        self, phase: Phase, models: Mapping[str, Candidate], on_round: OnRound
    ) -> tuple[dict[str, list[float]], float]:
        """Ratios of every model in every round, and the dense model's median milliseconds.

        Models take turns in an order that changes from round to round, with the dense model between every few.
        """
        dense, generator = Candidate.dense(self._supernet.spec), np.random.default_rng(0)
        names, ratios, all_dense = [*models], {name: list[float]() for name in models}, list[float]()
        for number in range(self.workload.rounds):
            before = self._time(dense, phase)
            all_dense.append(before)
            order = generator.permutation(len(names))
            for start in range(0, len(names), BETWEEN_DENSE):
                group = [names[index] for index in order[start : start + BETWEEN_DENSE]]
                times = [self._time(models[name], phase) for name in group]
                after = self._time(dense, phase)
                for name, ms in zip(group, times, strict=True):
                    ratios[name].append(2 * ms / (before + after))
                all_dense.append(after)
                before = after
            on_round(number + 1, self.workload.rounds)
        return ratios, statistics.median(all_dense)

    def _time(self, candidate: Candidate, phase: Phase) -> float:
        """Milliseconds of a warm forward pass, the mean of a few."""
        with self._supernet.activate(candidate) as model, torch.inference_mode():
            step, repeats = self._step(model, phase, candidate), REPEATS[phase.kind]
            timer = Timer("step()", globals={"step": step}, num_threads=self._threads)
            timer.timeit(1)  # warm
            if not self.workload.cold:
                return timer.timeit(repeats).median * 1e3
            times = []
            for _ in range(repeats):
                self._flushed.add_(1)
                times.append(timer.timeit(1).median * 1e3)
            return statistics.fmean(times)

    def _step(self, model: Any, phase: Phase, candidate: Candidate) -> Callable[[], Any]:
        """A forward pass of a phase; in decoding, the cache becomes a token longer each time."""
        spec, generator = self._supernet.spec, torch.Generator().manual_seed(0)
        count = phase.tokens if phase.kind == "prefill" else 1
        tokens = torch.randint(spec.vocab, (phase.batch, count), generator=generator).to(self._device)
        if phase.kind == "prefill":
            return lambda: model(tokens, use_cache=True)
        cache, dtype = DynamicCache(config=model.config), next(model.parameters()).dtype
        for index, (layer, shape) in enumerate(zip(model.model.layers, candidate.layers, strict=True)):
            hole = layer if shape.gone else layer.self_attn
            if not shape.kv_heads:
                hole.mark(cache)
                continue
            state = torch.randn((phase.batch, shape.kv_heads, phase.tokens, spec.head_dim), generator=generator)
            state = state.to(self._device, dtype)
            cache.update(state, state.clone(), index)
        return lambda: model(tokens, past_key_values=cache, use_cache=True)


class EndToEnd:
    """The `Evaluator` behind `latency_e2e_ms`: all candidates of a call are timed in one interleaved session."""

    fidelity = "timed"

    def __init__(
        self, bench: LatencyBench, dense_ms: Mapping[str, float], on_round: OnRound = lambda done, of: None
    ) -> None:
        """Times nothing yet.

        Args:
            bench: The clock.
            dense_ms: The dense model's milliseconds by phase, as in the latency table: the unit of all times.
            on_round: Called with how many rounds of a phase are done, of how many.
        """
        self._bench = bench
        self._dense_ms = dense_ms
        self._on_round = on_round
        phases = [*dense_ms] if len(dense_ms) > 1 else []
        self.metrics = (LATENCY_E2E, *(Metric(f"{name}_e2e_ms", "ms", "min", 2) for name in phases))

    def expect(self, candidates: Sequence[Candidate]) -> None:
        """See `Evaluator`; timings share nothing."""

    def __call__(self, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """See `Evaluator`; a candidate that cannot run fails alone, before the session."""
        start = time.perf_counter()
        failures = {candidate.key: self._bench.failure(candidate) for candidate in candidates}
        able = [candidate for candidate in candidates if failures[candidate.key] is None]
        ratios = self._bench.ratios(able, self._on_round)
        values = {candidate.key: self._values(found) for candidate, found in zip(able, ratios, strict=True)}
        seconds = (time.perf_counter() - start) / max(1, len(candidates))
        return [
            Evaluation(candidate, self.fidelity, values=values[candidate.key], seconds=seconds)
            if candidate.key in values
            else Evaluation(candidate, self.fidelity, "failed", seconds=seconds, error=failures[candidate.key])
            for candidate in candidates
        ]

    def _values(self, ratios: Mapping[str, float]) -> dict[str, float]:
        times = {name: ratio * self._dense_ms[name] for name, ratio in ratios.items()}
        values = {LATENCY_E2E.name: self._bench.workload.total(times)}
        if len(times) > 1:
            values |= {f"{name}_e2e_ms": ms for name, ms in times.items()}
        return values


def _name(shape: tuple[int, int] | int) -> str:
    """Of the stack of a block shape."""
    return f"mlp {shape}" if isinstance(shape, int) else f"attention {shape[0]}/{shape[1]}"


def _split(designs: Sequence[Candidate], first: int) -> tuple[Sequence[Candidate], Sequence[Candidate]]:
    return designs[:first], designs[first:]


def _cpu_name() -> str:
    """As the system has it; the kind of machine where it does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
