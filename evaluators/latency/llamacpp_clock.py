"""Times subnets in real llama.cpp, so that a search sees the milliseconds of the engine that will serve its models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from evaluators.latency.clocks import cpu_name
from evaluators.latency.engine_clock import EngineClock, Times
from evaluators.latency.workload import Phase, Workload, models_together
from space.candidate import Candidate
from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.child import last_lines
from space.formats.gguf.design import write_design
from space.formats.gguf.export import check_gguf
from space.formats.gguf.llamacpp_process import LlamaCppServer, ServerError
from space.formats.gguf.tokenizer import gguf_tokenizer
from space.formats.requirements import require_llamacpp
from space.openmp import environment
from space.size import total_params
from space.supernet.supernet import Supernet

_ROOM = 32  # tokens of the context beside those of a phase
_TURNS = {"prefill": 1, "decode": 4}  # of a round: of tokens, which take so little, several
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

    @contextmanager
    def times(self, phase: Phase, place: Path) -> Iterator[Times]:
        """See `EngineClock`; the dense model is served all the while, designs and their files while they are timed."""
        generator = torch.Generator().manual_seed(0)
        prompt = torch.randint(self._supernet.spec.vocab, (phase.tokens,), generator=generator).tolist()
        turns, said = _TURNS[phase.kind], place / "llama.cpp.log"

        def served(file: str, candidate: Candidate, stack: ExitStack) -> LlamaCppServer:
            """A model that has computed once, to be warm: in decoding the prompt, which further tokens follow."""
            path = self._write(place / file, candidate)
            stack.callback(path.unlink)
            server = stack.enter_context(
                LlamaCppServer(str(path), phase.tokens + _ROOM, self._threads, log, environment())
            )
            server.milliseconds(phase.kind, prompt)
            return server

        def times(candidates: Sequence[Candidate], rounds: int, seconds: float) -> list[list[tuple[float, float]]]:
            end = time.monotonic() + seconds
            with ExitStack() as stack:
                servers = [
                    dense,
                    *(served(f"{number}-{each.key}.gguf", each, stack) for number, each in enumerate(candidates)),
                ]
                self._supernet.forget()
                ms: list[list[float]] = []
                while len(ms) < rounds and (not ms or time.monotonic() < end):
                    ms.append(_a_round(lambda: [each.milliseconds(phase.kind, prompt) for each in servers], turns))
            return [[(row[0], row[column]) for row in ms] for column in range(1, len(servers))]

        with said.open("w", encoding="utf-8") as log, ExitStack() as all_the_while:
            try:
                dense = served("dense.gguf", Candidate.dense(self._supernet.spec), all_the_while)
                yield times
            except ServerError as error:
                lines = last_lines(said.read_text(encoding="utf-8", errors="replace"))
                raise UserError(f"{error}. It said last:\n{lines}") from error

    def _write(self, file: Path, candidate: Candidate) -> Path:
        return write_design(file, self._supernet, candidate, self._workload.gguf_type, self._described)


def _a_round(turn: Callable[[], list[float]], turns: int) -> list[float]:
    """Milliseconds of the dense model and of others, of some turns of all of them: the medians of what each takes
    relative to the dense model's in the same turn, which a machine that is slower for a second changes little."""
    rows = [turn() for _ in range(turns)]
    dense_ms = median(row[0] for row in rows)
    return [dense_ms * median(row[column] / row[0] for row in rows) for column in range(len(rows[0]))]
