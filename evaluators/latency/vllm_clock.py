"""Times subnets in real vLLM, so that a search sees the milliseconds of the engine that will serve its models."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from math import inf
from pathlib import Path
from typing import Any

import torch

from evaluators.latency.clocks import OnTimings, cpu_name, rounds_left
from evaluators.latency.workload import Phase, Workload
from space.candidate import Candidate
from space.formats.checkpoint import kept_shapes
from space.formats.hf.export import write_outline
from space.formats.vllm.check import implementation_of, in_vllm
from space.formats.vllm.environment import require_vllm
from space.formats.vllm.vllm_process import DECODED
from space.supernet.supernet import Supernet

TOGETHER = 8  # models that a process times one after the other, each in turns with the dense model
_BLOCK = 128  # tokens of the cache that vLLM gives a sequence at once, on a CPU
_LEAST_CACHE = 2**28
_FORMAT = 1  # as in `evaluators.latency.clocks`


class VLLMClock:
    """Outlines of a supernet's subnets, whose weights vLLM makes up, each in turns with the dense model's.

    The dense model is what vLLM has of its family; a subnet whose layers differ runs the code of its export.
    """

    metrics = ()

    def __init__(self, supernet: Supernet, workload: Workload) -> None:
        """Times nothing yet.

        Raises:
            UserError: There is no vLLM where the workload says.
        """
        self._python = require_vllm(workload.vllm_python)
        self._workload, self._spec = workload, supernet.spec
        self._config = supernet.model.config
        self._dtype = str(supernet.model.dtype).removeprefix("torch.")
        self._item = supernet.model.dtype.itemsize
        self._threads = workload.threads or torch.get_num_threads()

    @cached_property
    def _about(self) -> Mapping[str, Any]:
        """vLLM's version and its device, which it takes a while to say."""
        return in_vllm({"job": "about", "threads": self._threads}, "vLLM did not start", self._python)

    def describe(self) -> dict[str, Any]:
        """See `evaluators.latency.clocks.Clock`."""
        device = self._about["device"]
        return {
            "device": cpu_name() if device == "cpu" else device,
            "dtype": self._dtype,
            "threads": self._threads,
            "engine": f"vLLM {self._about['version']}{', compiled' * self._workload.compile}",
            "format": _FORMAT,
        }

    def try_out(self, candidate: Candidate) -> dict[str, float]:
        """See `evaluators.latency.clocks.Clock`; raises for what has no attention at all."""
        kept_shapes(candidate)
        return {}

    def head_ms(self, phase: Phase) -> dict[str, float]:
        """See `evaluators.latency.clocks.Clock`; vLLM does not say, and computes the last position's alone."""
        return {}

    def session(
        self, phase: Phase, models: Mapping[str, Candidate], rounds: int, on_timings: OnTimings, seconds: float = inf
    ) -> tuple[dict[str, list[float]], float]:
        """See `evaluators.latency.clocks.Clock`; models of a process have as many rounds as others leave time for.

        Raises:
            UserError: vLLM does not load or run a model.
        """
        ratios, all_dense, done = dict[str, list[float]](), list[float](), 0
        most, end = rounds, time.monotonic() + seconds
        for start in range(0, len(models), TOGETHER):
            group = [*models.items()][start : start + TOGETHER]
            begun = time.monotonic()
            for name, times in zip([name for name, _ in group], self._times(phase, group, rounds), strict=True):
                ratios[name] = [subnet_ms / dense_ms for dense_ms, subnet_ms in times]
                all_dense += [dense_ms for dense_ms, _ in times]
            done += len(group)
            on_timings(done * most, most * len(models))
            now = time.monotonic()
            rounds = rounds_left(most, rounds, now - begun, end - now, (len(models) - done) / len(group))
        return ratios, statistics.median(all_dense) if all_dense else 0.0

    def _times(
        self, phase: Phase, group: Sequence[tuple[str, Candidate]], rounds: int
    ) -> list[list[tuple[float, float]]]:
        """Milliseconds of the dense model and of each of a few, in every round."""
        spec, batch = self._spec, phase.batch_size
        prompt = phase.tokens if phase.kind == "prefill" else max(1, phase.tokens - DECODED // 2)
        context = prompt + DECODED + 1
        generator = torch.Generator().manual_seed(0)
        cached = batch * (context + _BLOCK) * 2 * spec.layers * spec.kv_heads * spec.head_dim * self._item
        with tempfile.TemporaryDirectory(prefix="paretoprune-vllm-") as name:
            request = {
                "job": "time",
                "models": [
                    self._written(Path(name) / str(number), candidate)
                    for number, candidate in enumerate((Candidate.dense(spec), *(each for _, each in group)))
                ],
                "dtype": self._dtype,
                "context": context,
                "cache_bytes": max(_LEAST_CACHE, 2 * cached),  # layers of fewer groups are given what the widest need
                "compile": self._workload.compile,
                "kind": phase.kind,
                "prompts": torch.randint(spec.vocab, (batch, prompt), generator=generator).tolist(),
                "threads": self._threads,
                "rounds": rounds,
            }
            keys = ", ".join(candidate.key for _, candidate in group)
            return list(in_vllm(request, f"vLLM did not time {keys}", self._python)["ms"])

    def _written(self, directory: Path, candidate: Candidate) -> dict[str, str]:
        directory.mkdir()
        written = write_outline(directory, self._config, candidate, self._spec, self._dtype)
        return {"directory": str(directory), "implementation": implementation_of(written, self._spec.hidden)}
