"""Times subnets in real vLLM, so that a search sees the milliseconds of the engine that will serve its models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from evaluators.latency.clocks import cpu_name
from evaluators.latency.engine_clock import EngineClock, Times
from evaluators.latency.workload import Phase, Workload
from space.candidate import Candidate
from space.checks import dtype_name
from space.formats.checkpoint import Subnet, kept_shapes
from space.formats.hf.export import write_outline
from space.formats.vllm.check import implementation_of, in_vllm
from space.formats.vllm.environment import require_vllm
from space.formats.vllm.vllm_process import DECODED
from space.supernet.supernet import Supernet

_BLOCK = 128  # tokens of the cache that vLLM gives a sequence at once, on a CPU
_LEAST_CACHE = 2**28
_FORMAT = 1  # as in `evaluators.latency.clocks`


class VLLMClock(EngineClock):
    """Outlines of a supernet's subnets, whose weights vLLM makes up, each in turns with the dense model's.

    The dense model is what vLLM has of its family; a subnet whose layers differ runs the code of its export.
    """

    together = 8

    def __init__(self, supernet: Supernet, workload: Workload) -> None:
        """Times nothing yet.

        Raises:
            UserError: There is no vLLM where the workload says.
        """
        self._python = require_vllm(workload.vllm_python)
        self._workload, self._spec = workload, supernet.spec
        self._config = supernet.model.config
        self._dtype = dtype_name(supernet.model.dtype)
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

    @contextmanager
    def times(self, phase: Phase, place: Path) -> Iterator[Times]:
        """See `EngineClock`; outlines stay in the directory."""
        spec, batch = self._spec, phase.batch_size
        prompt = phase.tokens if phase.kind == "prefill" else max(1, phase.tokens - DECODED // 2)
        context = prompt + DECODED + 1
        generator = torch.Generator().manual_seed(0)
        cached = batch * (context + _BLOCK) * 2 * spec.layers * spec.kv_heads * spec.head_dim * self._item
        dense = self._written(place, Candidate.dense(spec))
        request = {
            "job": "time",
            "dtype": self._dtype,
            "context": context,
            "cache_bytes": max(_LEAST_CACHE, 2 * cached),  # layers of fewer groups are given what the widest need
            "compile": self._workload.compile,
            "kind": phase.kind,
            "prompts": torch.randint(spec.vocab, (batch, prompt), generator=generator).tolist(),
            "threads": self._threads,
        }

        def times(candidates: Sequence[Candidate], rounds: int, seconds: float) -> list[list[tuple[float, float]]]:
            models = [dense, *(self._written(place, candidate) for candidate in candidates)]
            keys = ", ".join(candidate.key for candidate in candidates)
            asked = {**request, "models": models, "rounds": rounds, "seconds": seconds}
            return list(in_vllm(asked, f"vLLM did not time {keys}", self._python)["ms"])

        yield times

    def _written(self, place: Path, candidate: Candidate) -> dict[str, str]:
        directory = place / str(len([*place.iterdir()]))
        directory.mkdir()
        written = write_outline(directory, Subnet(self._config, None, self._spec, candidate), self._dtype)
        return {"directory": str(directory), "implementation": implementation_of(written, self._spec.hidden)}
