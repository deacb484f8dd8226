"""Times subnets in real llama.cpp, so that a search sees the milliseconds of the engine that will serve its models."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from evaluators.latency.clocks import cpu_name
from evaluators.latency.engine_clock import EngineClock, Times
from evaluators.latency.workload import Phase, Workload, models_together
from space.candidate import Candidate
from space.formats.checkpoint import Subnet
from space.formats.gguf.design import write_design
from space.formats.gguf.export import check_gguf
from space.formats.gguf.llamacpp import in_llamacpp
from space.formats.gguf.tokenizer import gguf_tokenizer
from space.formats.requirements import require_llamacpp
from space.size import total_params
from space.supernet.supernet import Supernet

_ROOM = 32  # tokens of the context beside those of a phase
_FORMAT = 2  # as in `evaluators.latency.clocks`


class LlamaCppClock(EngineClock):
    """GGUF files of a supernet's subnets, a few in turns with the dense model's, on the CPU."""

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
        self.together = models_together(total_params(supernet.spec, Candidate.dense(supernet.spec)))
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

    def times(self, phase: Phase, place: Path) -> Times:
        """See `EngineClock`; a design's file is there while it is timed."""
        generator = torch.Generator().manual_seed(0)
        dense = self._write(place / "dense.gguf", Candidate.dense(self._supernet.spec))
        request = {
            "job": "time",
            "kind": phase.kind,
            "prompt": torch.randint(self._supernet.spec.vocab, (phase.tokens,), generator=generator).tolist(),
            "context": phase.tokens + _ROOM,
            "threads": self._threads,
        }

        def times(candidates: Sequence[Candidate], rounds: int) -> list[list[tuple[float, float]]]:
            files = [self._write(place / f"subnet-{n}.gguf", candidate) for n, candidate in enumerate(candidates)]
            self._supernet.forget()
            asked = {**request, "files": [str(dense), *map(str, files)], "rounds": rounds}
            keys = ", ".join(candidate.key for candidate in candidates)
            ms: list[list[float]] = in_llamacpp(asked, f"llama.cpp did not time {keys}")["ms"]  # a row a round
            for file in files:
                file.unlink()
            return [[(row[0], row[place]) for row in ms] for place in range(1, 1 + len(files))]

        return times

    def _write(self, file: Path, candidate: Candidate) -> Path:
        return write_design(file, self._supernet, candidate, self._workload.gguf_type, self._described)
