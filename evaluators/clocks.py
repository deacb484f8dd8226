"""What times subnets: this process with torch, or an engine that serves them."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.benchmark import Timer
from transformers import DynamicCache

from evaluators.base import Metric
from evaluators.memory import peak_bytes
from evaluators.workload import PEAK, Phase, Workload
from space.candidate import Candidate
from space.size import total_params
from space.supernet import Supernet

BETWEEN_DENSE = 6  # so many models are timed between two timings of the dense one
REPEATS = {"prefill": 2, "decode": 8}  # forward passes of one timing
_FLUSHED_BYTES = 1 << 28
_FORMAT = 2  # raised when a step or a model that is timed becomes another: timings from before are then not used

OnRound = Callable[[int, int], None]


class Clock(Protocol):
    """Times candidates against the dense model."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `try_out` gives."""
        ...

    def describe(self) -> dict[str, Any]:
        """The device and the engine, as far as times depend on them."""
        ...

    def try_out(self, candidate: Candidate) -> dict[str, float]:
        """What is known of a candidate without timing it; raises what keeps it from being timed."""
        ...

    def session(
        self, phase: Phase, models: Mapping[str, Candidate], rounds: int, on_round: OnRound
    ) -> tuple[dict[str, list[float]], float]:
        """Ratios of every model to the dense one in every round, and the dense model's median milliseconds."""
        ...


class TorchClock:
    """Forward passes of the supernet's subnets, on its device and in its dtype."""

    metrics = (PEAK,)

    def __init__(self, supernet: Supernet, workload: Workload) -> None:
        """Times nothing yet."""
        self._supernet = supernet
        self._workload = workload
        self._device = next(supernet.model.parameters()).device
        self._threads = workload.threads or torch.get_num_threads()
        self._flushed = torch.empty(_FLUSHED_BYTES if workload.cold else 0, dtype=torch.uint8, device=self._device)

    def describe(self) -> dict[str, Any]:
        """See `Clock`."""
        cuda, model = self._device.type == "cuda", self._supernet.model
        return {
            "device": torch.cuda.get_device_name(self._device) if cuda else cpu_name(),
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "attention": model.config._attn_implementation,
            "threads": self._threads,
            "engine": f"torch {torch.__version__}",
            "format": _FORMAT,
        }

    def try_out(self, candidate: Candidate) -> dict[str, float]:
        """See `Clock`; the peak is of the weights and of what the hungriest phase takes besides, KV cache included."""
        taken = []
        for phase in self._workload.phases.values():
            with self._supernet.activate(candidate) as model, torch.inference_mode():
                run = partial(self._run_once, model, phase, candidate)
                taken.append(peak_bytes(model, run))
                weight_bytes = total_params(self._supernet.spec, candidate) * model.dtype.itemsize
        return {PEAK.name: weight_bytes + max(taken)}

    def session(
        self, phase: Phase, models: Mapping[str, Candidate], rounds: int, on_round: OnRound
    ) -> tuple[dict[str, list[float]], float]:
        """See `Clock`; models take turns in an order that changes, with the dense model between every few."""
        dense, generator = Candidate.dense(self._supernet.spec), np.random.default_rng(0)
        names, ratios, all_dense = [*models], {name: list[float]() for name in models}, list[float]()
        for number in range(rounds):
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
            on_round(number + 1, rounds)
        return ratios, statistics.median(all_dense)

    def _time(self, candidate: Candidate, phase: Phase) -> float:
        """Milliseconds of a warm forward pass, the mean of a few."""
        with self._supernet.activate(candidate) as model, torch.inference_mode():
            step, repeats = self._step(model, phase, candidate), REPEATS[phase.kind]
            timer = Timer("step()", globals={"step": step}, num_threads=self._threads)
            timer.timeit(1)  # warm
            if not self._workload.cold:
                return timer.timeit(repeats).median * 1e3
            times = []
            for _ in range(repeats):
                self._flushed.add_(1)
                times.append(timer.timeit(1).median * 1e3)
            return statistics.fmean(times)

    def _run_once(self, model: Any, phase: Phase, candidate: Candidate) -> None:
        self._step(model, phase, candidate)()

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


def cpu_name() -> str:
    """As the system has it; the kind of machine where it does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
