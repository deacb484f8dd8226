"""Times subnets in real llama.cpp, so that a search sees the milliseconds of the engine that will serve its models."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Mapping
from importlib.metadata import version
from math import inf
from pathlib import Path
from typing import Any

import torch

from evaluators.latency.clocks import OnTimings, cpu_name, rounds_left
from evaluators.latency.workload import Phase, Workload
from space.candidate import Candidate
from space.formats.checkpoint import Subnet, checkpoint_parts
from space.formats.gguf.export import check_gguf
from space.formats.gguf.file import write_gguf
from space.formats.gguf.llamacpp import in_llamacpp
from space.formats.gguf.tokenizer import gguf_tokenizer
from space.formats.requirements import require_llamacpp
from space.supernet.supernet import Supernet

_ROOM = 32  # tokens of the context beside those of a phase
_FORMAT = 1  # as in `evaluators.latency.clocks`


class LlamaCppClock:
    """GGUF files of a supernet's subnets, each in turns with the dense model's in one fresh process, on the CPU."""

    metrics = ()

    def __init__(self, supernet: Supernet, workload: Workload, tokenizer: Any) -> None:
        """Times nothing yet.

        Raises:
            UserError: llama.cpp is not installed, or cannot hold the dense model.
        """
        require_llamacpp()
        self._supernet = supernet.sliced()  # times depend on no values
        self._workload = workload
        self._tokenizer = tokenizer
        self._threads = workload.threads or torch.get_num_threads()
        self._config = supernet.model.config
        self.try_out(Candidate.dense(supernet.spec))
        self._described = gguf_tokenizer(tokenizer, supernet.spec.vocab)  # the same in every file

    def describe(self) -> dict[str, Any]:
        """See `evaluators.latency.clocks.Clock`."""
        return {
            "device": cpu_name(),
            "dtype": self._workload.gguf_type,
            "threads": self._threads,
            "engine": f"llama.cpp of xllamacpp {version('xllamacpp')}",
            "format": _FORMAT,
        }

    def try_out(self, candidate: Candidate) -> dict[str, float]:
        """See `evaluators.latency.clocks.Clock`; raises for what the format cannot hold."""
        check_gguf(Subnet(self._config, self._tokenizer, self._supernet.spec, candidate))
        return {}

    def head_ms(self, phase: Phase) -> dict[str, float]:
        """See `evaluators.latency.clocks.Clock`; llama.cpp does not say, and computes the last position's alone."""
        return {}

    def session(
        self, phase: Phase, models: Mapping[str, Candidate], rounds: int, on_timings: OnTimings, seconds: float = inf
    ) -> tuple[dict[str, list[float]], float]:
        """See `evaluators.latency.clocks.Clock`; a model has its rounds at once, as many as there is time for.

        Raises:
            UserError: llama.cpp does not load or run a model.
        """
        ratios, all_dense = dict[str, list[float]](), list[float]()
        generator = torch.Generator().manual_seed(0)
        prompt = torch.randint(self._supernet.spec.vocab, (phase.tokens,), generator=generator).tolist()
        with tempfile.TemporaryDirectory(prefix="paretoprune-gguf-") as name:
            dense = self._write(Path(name) / "dense.gguf", Candidate.dense(self._supernet.spec))
            most, end = rounds, time.monotonic() + seconds
            for number, (model, candidate) in enumerate(models.items()):
                begun = time.monotonic()
                file = self._write(Path(name) / "subnet.gguf", candidate)
                request = {
                    "job": "time",
                    "files": [str(dense), str(file)],
                    "kind": phase.kind,
                    "prompt": prompt,
                    "context": phase.tokens + _ROOM,
                    "threads": self._threads,
                    "rounds": rounds,
                }
                times = in_llamacpp(request, f"llama.cpp did not time {candidate.key}")["ms"]
                ratios[model] = [subnet_ms / dense_ms for dense_ms, subnet_ms in times]
                all_dense += [dense_ms for dense_ms, _ in times]
                file.unlink()
                on_timings((number + 1) * most, most * len(models))
                now = time.monotonic()
                rounds = rounds_left(most, rounds, now - begun, end - now, len(models) - number - 1)
        self._supernet.forget()
        return ratios, statistics.median(all_dense) if all_dense else 0.0

    def _write(self, file: Path, candidate: Candidate) -> Path:
        parts = checkpoint_parts(self._supernet.view(candidate), self._config, candidate)
        write_gguf(file, parts, self._supernet.spec, self._described, self._workload.gguf_type, candidate.key)
        return file
