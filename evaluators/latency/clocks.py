"""What times subnets: this process with torch, or an engine that serves them."""

from __future__ import annotations

import platform
import statistics
import time
import timeit
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from math import ceil, inf
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch._dynamo.exc import TorchDynamoException
from torch.utils.benchmark.utils.common import set_torch_threads
from torch.utils.benchmark.utils.timer import timer

from evaluators.base import Metric
from evaluators.latency.graphs import at, captured, refusal
from evaluators.latency.memory import peak_bytes
from evaluators.latency.standing_cache import made_up
from evaluators.latency.steps import Step, Steps
from evaluators.latency.table import UNCAPTURED
from evaluators.latency.workload import BETWEEN_DENSE, LONG_CALLS, LONG_S, PEAK, REPEATS, WARM, Phase, Workload
from space.candidate import Candidate
from space.checks import dtype_name
from space.errors import UserError
from space.size import total_params
from space.supernet.supernet import Supernet

LEAST_S = 0.02  # that replays of a CUDA graph take in one timing
HEAD_REPEATS = 5  # of the LM head alone
# That compiled code is kept of, and CUDA graphs recorded
MOST_SHAPES = 10_000
_FLUSHED_BYTES = 1 << 28
_FORMAT = 5  # raised when a step or a model that is timed becomes another: timings from before are then not used

OnTimings = Callable[[int, int], None]


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

    def head_ms(self, phase: Phase) -> dict[str, float]:
        """Milliseconds of a prefill's LM head alone for the `last` position and for `all`; empty if not known."""
        ...

    def session(
        self, phase: Phase, models: Mapping[str, Candidate], rounds: int, on_timings: OnTimings, seconds: float = inf
    ) -> tuple[dict[str, list[float]], float]:
        """Times models in rounds, of which there is one at least.

        Args:
            phase: What is timed.
            models: By name.
            rounds: How many, at most.
            on_timings: Told of each few.
            seconds: In which rounds have to end; those that would not are left out.

        Returns:
            Ratios of every model to the dense one in every round, and the dense model's median milliseconds.
        """
        ...


class TorchClock:
    """Forward passes of the supernet's subnets, on its device and in its dtype; on CUDA as CUDA graphs."""

    metrics = (PEAK,)

    def __init__(self, supernet: Supernet, workload: Workload) -> None:
        """Times nothing yet.

        Raises:
            UserError: Decoding is to be compiled for a model with sliding windows.
        """
        self._steps = Steps(supernet, workload)
        self._model, self._spec = supernet.model, supernet.spec
        self._workload = workload
        self._device = supernet.place.device
        self._threads = workload.threads or torch.get_num_threads()
        self._flushed = torch.empty(_FLUSHED_BYTES if workload.cold else 0, dtype=torch.uint8, device=self._device)

    @property
    def _on_cuda(self) -> bool:
        return self._device.type == "cuda"

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        """Beside the current one, for the capture of graphs."""
        with at(self._device):
            return torch.cuda.Stream()

    @cached_property
    def uncaptured(self) -> str | None:
        """Why steps cannot be CUDA graphs, of which all are or none; None where they can be."""
        dense = Candidate.dense(self._spec)
        with self._timing():
            reasons = [refusal(self.step(dense, phase), self._stream) for phase in self._workload.phases.values()]
        self._steps.forget()
        return next(filter(None, reasons), None)

    @property
    def _captures(self) -> bool:
        return self._on_cuda and not self._workload.compile and self.uncaptured is None

    def describe(self) -> dict[str, Any]:
        """See `Clock`."""
        model, engine = self._model, f"torch {torch.__version__}"
        launched = self._on_cuda and not self._workload.compile and self.uncaptured
        return {
            "device": torch.cuda.get_device_name(self._device) if self._on_cuda else cpu_name(),
            "dtype": dtype_name(next(model.parameters()).dtype),
            "attention": model.config._attn_implementation,
            "threads": self._threads,
            "logits": self._workload.logits,
            "engine": f"{engine}{', compiled' * self._workload.compile}{', CUDA graphs' * self._captures}",
            "format": _FORMAT,
            **({UNCAPTURED: launched} if launched else {}),
        }

    def try_out(self, candidate: Candidate) -> dict[str, float]:
        """See `Clock`; the peak is of the weights and of what the hungriest phase takes besides, launched by Python."""
        taken = []
        for phase in self._workload.phases.values():
            with self._timing():
                taken.append(peak_bytes(*self._steps.with_own_cache(candidate, phase)))
            if self._workload.compile or self._captures:
                self.time_ms(candidate, phase)
        weight_bytes = total_params(self._spec, candidate) * self._model.dtype.itemsize
        return {PEAK.name: weight_bytes + max(taken)}

    def head_ms(self, phase: Phase) -> dict[str, float]:
        """See `Clock`; of made-up hidden states, not compiled."""
        if phase.kind == "decode" or self._workload.compile or not self._spec.use.writes:
            return {}
        head, size = self._model.get_output_embeddings(), (phase.batch_size, phase.tokens, self._spec.hidden)
        hidden = made_up(size, head.weight.dtype, self._device)
        with self._timing():
            return {
                name: self._step_ms(partial(head, rows), HEAD_REPEATS)
                for name, rows in (("last", hidden[:, -1:]), ("all", hidden))
            }

    def session(
        self, phase: Phase, models: Mapping[str, Candidate], rounds: int, on_timings: OnTimings, seconds: float = inf
    ) -> tuple[dict[str, list[float]], float]:
        """See `Clock`; models take turns in an order that changes, with the dense model between every few.

        Raises:
            UserError: torch.compile cannot compile a model.
        """
        dense, generator = Candidate.dense(self._spec), np.random.default_rng(0)
        names, ratios, all_dense = [*models], {name: list[float]() for name in models}, list[float]()
        begun = time.monotonic()
        for number in range(rounds):
            if number and (time.monotonic() - begun) * (number + 1) / number > seconds:
                break
            before = self.time_ms(dense, phase)
            all_dense.append(before)
            order = generator.permutation(len(names))
            for start in range(0, len(names), BETWEEN_DENSE):
                group = [names[index] for index in order[start : start + BETWEEN_DENSE]]
                times = [self.time_ms(models[name], phase) for name in group]
                after = self.time_ms(dense, phase)
                for name, ms in zip(group, times, strict=True):
                    ratios[name].append(2 * ms / (before + after))
                all_dense.append(after)
                before = after
                on_timings(number * len(names) + start + len(group), rounds * len(names))
        self._steps.forget()
        return ratios, statistics.median(all_dense)

    def time_ms(self, candidate: Candidate, phase: Phase) -> float:
        """Milliseconds of a warm forward pass, the mean of a few.

        Raises:
            UserError: torch.compile cannot compile the model.
        """
        with self._timing():
            if not self._workload.compile:
                return self._step_ms(self.step(candidate, phase), REPEATS[phase.kind])
            many = torch._dynamo.config.patch(recompile_limit=MOST_SHAPES, accumulated_recompile_limit=MOST_SHAPES)
            graphs = torch._inductor.config.patch({"triton.cudagraph_unexpected_rerecord_limit": MOST_SHAPES})
            with many, graphs:
                try:
                    return self._called_ms(self._steps.compiled(candidate, phase), REPEATS[phase.kind])
                except TorchDynamoException as error:
                    raise UserError(
                        f"latency.compile=true: expected torch.compile to compile {candidate.key}, got "
                        f"{type(error).__name__}: {_in_one_line(error)}. Install what it wants (on a CPU a C++ "
                        "compiler), or set latency.compile=false."
                    ) from error

    @contextmanager
    def _timing(self) -> Iterator[None]:
        """What all that is timed runs in: the timer waits for the current device."""
        with torch.inference_mode(), set_torch_threads(self._threads), at(self._device):
            yield

    def _step_ms(self, step: Step, repeats: int) -> float:
        """Mean milliseconds of a step, which are the card's own where it can be captured."""
        if not self._captures:
            return self._called_ms(step, repeats)
        with captured(step, self._stream) as replay:
            return self._called_ms(replay, repeats, least_s=LEAST_S)

    def _called_ms(self, call: Callable[[], object], repeats: int, least_s: float = 0.0) -> float:
        """Mean milliseconds of so many warm calls, or of as many as take so long; of fewer where each takes long."""
        watch = timeit.Timer(call, timer=timer)  # which waits for the device before it reads the time
        took = watch.timeit(1)
        if took < LONG_S or self._workload.compile:
            took = watch.timeit(WARM - 1) / (WARM - 1)
            repeats = max(repeats, ceil(least_s / took))
        else:
            repeats = LONG_CALLS - 1
        if not self._workload.cold:
            return watch.timeit(repeats) / repeats * 1e3
        times = []
        for _ in range(repeats):
            self._flushed.add_(1)
            times.append(watch.timeit(1) * 1e3)
        return statistics.fmean(times)

    def step(self, candidate: Candidate, phase: Phase) -> Step:
        """What is timed where nothing is compiled; to be made and called in inference mode."""
        return self._steps.step(candidate, phase)


def _in_one_line(error: TorchDynamoException) -> str:
    """What an error of torch.compile says, without its advice on debugging."""
    return " ".join(str(error).partition("Set TORCH")[0].split()).rstrip(".")


def cpu_name() -> str:
    """As the system has it; the kind of machine where it does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
