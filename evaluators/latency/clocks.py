"""What times subnets: this process with torch, or an engine that serves them."""

from __future__ import annotations

import platform
import statistics
import timeit
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.utils.benchmark.utils.common import set_torch_threads
from torch.utils.benchmark.utils.timer import timer
from transformers import Cache, DynamicCache, StaticCache

from evaluators.base import Metric
from evaluators.latency.memory import peak_bytes
from evaluators.latency.workload import PEAK, Phase, Workload
from space.candidate import Candidate
from space.errors import UserError
from space.size import total_params
from space.supernet.supernet import Supernet

BETWEEN_DENSE = 6  # so many models are timed between two timings of the dense one
REPEATS = {"prefill": 3, "decode": 8}  # forward passes of one timing
HEAD_REPEATS = 5  # of the LM head alone
WARM = 2  # those before it: the first compiles where that is asked, the second records CUDA graphs
# that compiled code is kept of, and CUDA graphs recorded
MOST_SHAPES = 10_000
_FLUSHED_BYTES = 1 << 28
_FORMAT = 4  # raised when a step or a model that is timed becomes another: timings from before are then not used

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
        self, phase: Phase, models: Mapping[str, Candidate], rounds: int, on_timings: OnTimings
    ) -> tuple[dict[str, list[float]], float]:
        """Ratios of every model to the dense one in every round, and the dense model's median milliseconds."""
        ...


class TorchClock:
    """Forward passes of the supernet's subnets, on its device and in its dtype."""

    metrics = (PEAK,)

    def __init__(self, supernet: Supernet, workload: Workload) -> None:
        """Times nothing yet.

        Raises:
            UserError: Decoding is to be compiled for a model with sliding windows.
        """
        self._supernet = supernet
        self._workload = workload
        self._device = next(supernet.model.parameters()).device
        self._threads = workload.threads or torch.get_num_threads()
        self._flushed = torch.empty(_FLUSHED_BYTES if workload.cold else 0, dtype=torch.uint8, device=self._device)
        # what is compiled is of the very view and the very cache that it was first called with
        self._compiled: dict[str, tuple[Any, Any]] = {}
        self._caches: dict[tuple[str, int], StaticCache] = {}
        if workload.compile:
            static = StaticCache(config=supernet.model.config, max_cache_len=1)
            if "decode" in workload.phases and any(layer.is_sliding for layer in static.layers):
                raise UserError(
                    "latency.compile=true: expected latency=prefill or a model without sliding windows, whose cache "
                    "would have every token compiled anew. Set latency.compile=false."
                )

    def describe(self) -> dict[str, Any]:
        """See `Clock`."""
        cuda, model = self._device.type == "cuda", self._supernet.model
        return {
            "device": torch.cuda.get_device_name(self._device) if cuda else cpu_name(),
            "dtype": str(next(model.parameters()).dtype).removeprefix("torch."),
            "attention": model.config._attn_implementation,
            "threads": self._threads,
            "logits": self._workload.logits,
            "engine": f"torch {torch.__version__}{', compiled' if self._workload.compile else ''}",
            "format": _FORMAT,
        }

    def try_out(self, candidate: Candidate) -> dict[str, float]:
        """See `Clock`; the peak is of the weights and of what the hungriest phase takes besides, not compiled."""
        taken = []
        for phase in self._workload.phases.values():
            with torch.inference_mode():
                model = self._supernet.view(candidate)
                taken.append(peak_bytes(model, partial(self._run_once, model, phase, candidate)))
                weight_bytes = total_params(self._supernet.spec, candidate) * model.dtype.itemsize
            if self._workload.compile:
                self.time_ms(candidate, phase)
        return {PEAK.name: weight_bytes + max(taken)}

    def head_ms(self, phase: Phase) -> dict[str, float]:
        """See `Clock`; of made-up hidden states, not compiled."""
        if phase.kind == "decode" or self._workload.compile:
            return {}
        head, size = self._supernet.model.lm_head, (phase.batch_size, phase.tokens, self._supernet.spec.hidden)
        generator = torch.Generator(self._device).manual_seed(0)
        hidden = torch.randn(size, generator=generator, device=self._device, dtype=head.weight.dtype)
        times = {}
        with torch.inference_mode(), set_torch_threads(self._threads):
            for name, rows in (("last", hidden[:, -1:]), ("all", hidden)):
                watch = timeit.Timer(partial(head, rows), timer=timer)
                watch.timeit(WARM)
                times[name] = statistics.median(watch.repeat(HEAD_REPEATS, 1)) * 1e3
        return times

    def session(
        self, phase: Phase, models: Mapping[str, Candidate], rounds: int, on_timings: OnTimings
    ) -> tuple[dict[str, list[float]], float]:
        """See `Clock`; models take turns in an order that changes, with the dense model between every few.

        Raises:
            UserError: torch.compile cannot compile a model.
        """
        dense, generator = Candidate.dense(self._supernet.spec), np.random.default_rng(0)
        names, ratios, all_dense = [*models], {name: list[float]() for name in models}, list[float]()
        for number in range(rounds):
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
        self._compiled.clear()
        self._caches.clear()
        return ratios, statistics.median(all_dense)

    def time_ms(self, candidate: Candidate, phase: Phase) -> float:
        """Milliseconds of a warm forward pass, the mean of a few.

        Raises:
            UserError: torch.compile cannot compile the model.
        """
        repeats = REPEATS[phase.kind]
        threads = set_torch_threads(self._threads)
        many = torch._dynamo.config.patch(recompile_limit=MOST_SHAPES, accumulated_recompile_limit=MOST_SHAPES)
        graphs = torch._inductor.config.patch({"triton.cudagraph_unexpected_rerecord_limit": MOST_SHAPES})
        with torch.inference_mode(), threads, many, graphs:
            step = (self._compiled_step if self._workload.compile else self.step)(candidate, phase)
            watch = timeit.Timer(step, timer=timer)  # which waits for the device before it reads the time
            try:
                watch.timeit(WARM)
            except TorchDynamoException as error:
                raise UserError(
                    f"latency.compile=true: expected torch.compile to compile {candidate.key}, got "
                    f"{type(error).__name__}: {_in_one_line(error)}. Install what it wants (on a CPU a C++ compiler), "
                    "or set latency.compile=false."
                ) from error
            if not self._workload.cold:
                return watch.timeit(repeats) / repeats * 1e3
            times = []
            for _ in range(repeats):
                self._flushed.add_(1)
                times.append(watch.timeit(1) * 1e3)
            return statistics.fmean(times)

    def _run_once(self, model: Any, phase: Phase, candidate: Candidate) -> None:
        self._step_of(model, phase, candidate)()

    def step(self, candidate: Candidate, phase: Phase) -> Callable[[], Any]:
        """What is timed where nothing is compiled; to be made and called in inference mode."""
        return self._step_of(self._supernet.view(candidate), phase, candidate)

    def _step_of(self, model: Any, phase: Phase, candidate: Candidate) -> Callable[[], Any]:
        """A forward pass of a phase; in decoding, the cache becomes a token longer each time."""
        tokens = self._tokens(phase)
        if phase.kind == "prefill":
            return partial(model, tokens, use_cache=True, **self._logits())
        cache = DynamicCache(config=model.config)
        self._fill(cache, model, phase, candidate)
        return lambda: model(tokens, past_key_values=cache, use_cache=True)

    def _compiled_step(self, candidate: Candidate, phase: Phase) -> Callable[[], Any]:
        """The same of a compiled view; a cache that would grow would have it compiled anew for each token."""
        if candidate.key not in self._compiled:
            mode = "reduce-overhead" if self._device.type == "cuda" else "default"
            view = self._supernet.view(candidate)
            self._compiled[candidate.key] = view, torch.compile(view, dynamic=False, mode=mode)
        model, compiled = self._compiled[candidate.key]
        tokens = self._tokens(phase)
        if phase.kind == "prefill":
            return partial(compiled, tokens, use_cache=True, **self._logits())
        key = (candidate.key, phase.tokens)
        if key not in self._caches:
            room = WARM + REPEATS["decode"]
            self._caches[key] = StaticCache(config=model.config, max_cache_len=phase.tokens + room)
        cache = self._caches[key]
        cache.reset()
        self._fill(cache, model, phase, candidate)
        return partial(compiled, tokens, past_key_values=cache, use_cache=True)

    def _logits(self) -> dict[str, int]:
        """What a prefill is told of the logits; transformers' own default is all of them."""
        return {"logits_to_keep": 1} if self._workload.logits == "last" else {}

    def _tokens(self, phase: Phase) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        count = phase.tokens if phase.kind == "prefill" else 1
        return torch.randint(self._supernet.spec.vocab, (phase.batch_size, count), generator=generator).to(self._device)

    def _fill(self, cache: Cache, model: Any, phase: Phase, candidate: Candidate) -> None:
        """Puts made-up tokens into an empty cache; where there is no attention, of width 1."""
        spec, generator = self._supernet.spec, torch.Generator(self._device).manual_seed(0)
        for index, shape in enumerate(shape for shape in candidate.layers if not shape.gone):
            size = (phase.batch_size, max(1, shape.kv_heads), phase.tokens, spec.head_dim if shape.kv_heads else 1)
            state = torch.randn(size, generator=generator, device=self._device, dtype=model.dtype)
            cache.update(state, state.clone(), index)


def _in_one_line(error: TorchDynamoException) -> str:
    """What an error of torch.compile says, without its advice on debugging."""
    return " ".join(str(error).partition("Set TORCH")[0].split()).rstrip(".")


def cpu_name() -> str:
    """As the system has it; the kind of machine where it does not say."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
