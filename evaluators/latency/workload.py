"""What is timed: prefill of a prompt, decoding with a KV cache, or a request of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Literal

from evaluators.base import Metric
from evaluators.metrics import metric_named
from space.errors import UserError
from space.formats.requirements import require_llamacpp
from space.formats.vllm.environment import require_vllm
from space.types import GGUF_TYPES

LATENCY = metric_named("latency_ms")
LATENCY_E2E = metric_named("latency_e2e_ms")
THROUGHPUT = metric_named("tokens_per_s")
PEAK = metric_named("peak_bytes")
REPEATS = {"prefill": 3, "decode": 8}  # forward passes of one timing in torch, at least
WARM = 2  # those before it: the first compiles where that is asked, the second records CUDA graphs
LONG_S = 0.5  # a pass that takes so long is warm after one, and needs fewer to be told apart from others:
LONG_CALLS = 3  # so many, the first one included
BETWEEN_DENSE = 6  # so many models are timed between two timings of the dense one
_MOST, _TOGETHER_BYTES = 4, 2 << 30  # subnets that llama.cpp times in turns, and what their files may take
PHASE_METRICS = {name: metric_named(f"{name}_ms") for name in ("prefill", "decode")}


@dataclass(frozen=True)
class Phase:
    """One kind of forward pass.

    Attributes:
        kind: `prefill`: all tokens of a prompt, with an empty KV cache to fill.
            `decode`: one more token of each sequence, after the ones in the cache.
        batch_size: Sequences.
        tokens: Of each: in the prompt, or in the cache.
    """

    kind: Literal["prefill", "decode"]
    batch_size: int
    tokens: int


@dataclass(frozen=True)
class Workload:
    """What is timed, and how well.

    Attributes:
        scenario: `prefill`, `decode`, or `serving`: a request, which is a prefill and the decoding of what follows.
        batch_size: Sequences.
        length: Tokens of each: in the prompt, or in the cache before the one that is decoded.
        new_tokens: What a request asks for; the first one comes from the prefill.
        logits: Of which positions a prefill computes them: of the `last`, as `generate()` and engines do, or of `all`,
            as `model(input_ids)` does.
        threads: Intra-op threads; 0 for torch's own choice.
        rounds: In which all that the table is made of takes turns, at most; what counts is the median over them.
        front_rounds: The same for the front's members, timed end to end.
        fit: Random designs timed whole, on which the sum of blocks is corrected.
        check: Random designs besides, on which the table's error is found.
        error_limit: Median error above which the user is warned.
        cold: Whether the device's caches are overwritten before each timing.
        compile: Whether torch.compile compiles the model first, on CUDA with CUDA graphs.
        engine: What runs it: `torch`, `llamacpp` on the CPU, from GGUF files, or `vllm`.
        gguf_type: For llama.cpp, one of `GGUF_TYPES`.
        vllm_python: For vLLM, the Python of an environment that has it; None for that of `make vllm`.
        cache: Whether timings of earlier runs on this machine are used again, and these kept for later ones.
        table: File of a latency table that was measured elsewhere, of the same model and workload, which the search
            goes by; then nothing is timed here. None to measure one.
    """

    scenario: Literal["prefill", "decode", "serving"] = "prefill"
    batch_size: int = 1
    length: int = 512
    new_tokens: int = 128
    logits: Literal["last", "all"] = "last"
    threads: int = 0
    rounds: int = 3
    front_rounds: int = 5
    fit: int = 6
    check: int = 6
    error_limit: float = 0.08
    cold: bool = False
    compile: bool = False
    engine: Literal["torch", "llamacpp", "vllm"] = "torch"
    gguf_type: str = "f16"
    vllm_python: str | None = None
    cache: bool = True
    table: str | None = None

    def __post_init__(self) -> None:
        if self.scenario not in ("prefill", "decode", "serving"):
            raise UserError(f"latency.scenario: expected prefill, decode or serving, got {self.scenario!r}.")
        if self.engine not in ("torch", "llamacpp", "vllm"):
            raise UserError(f"latency.engine: expected torch, llamacpp or vllm, got {self.engine!r}.")
        if self.gguf_type not in GGUF_TYPES:
            raise UserError(f"latency.gguf_type: expected one of {', '.join(GGUF_TYPES)}, got {self.gguf_type!r}.")
        if self.logits not in ("last", "all"):
            raise UserError(f"latency.logits: expected last or all, got {self.logits!r}.")
        if self.engine != "torch" and self.logits == "all":
            raise UserError(
                f"latency.engine={self.engine}: expected latency.logits=last, as it computes those of a prompt's last "
                "token alone, got logits=all."
            )
        if self.engine == "vllm" and self.cold:
            raise UserError(
                "latency.engine=vllm: expected latency.cold=false, as it has its own memory, got cold=true."
            )
        if self.engine == "llamacpp" and (self.batch_size > 1 or self.cold or self.compile):
            raise UserError(
                "latency.engine=llamacpp: expected latency.batch_size=1, latency.cold=false and latency.compile=false, "
                "as it is asked one thing at a time and has its own memory and code, got "
                f"batch_size={self.batch_size}, cold={self.cold} and compile={self.compile}."
            )
        counts = min(self.batch_size, self.length, self.new_tokens, self.rounds, self.front_rounds) < 1
        if counts or min(self.threads, self.fit, self.check) < 0 or not self.error_limit > 0:
            raise UserError(
                "latency: expected batch_size, length, new_tokens, rounds and front_rounds of at least 1, threads, fit "
                f"and check of at least 0, and error_limit above 0, got {asdict(self)}."
            )

    def require_engine(self) -> None:
        """Checks, before any work is done, that the engine is there.

        Raises:
            UserError: It is not installed, or does not load.
        """
        if self.engine == "llamacpp":
            require_llamacpp()
        elif self.engine == "vllm":
            require_vllm(self.vllm_python)

    @property
    def phases(self) -> dict[str, Phase]:
        """Its forward passes by name; a request's are decoded at the mean length of its cache."""
        prefill = Phase("prefill", self.batch_size, self.length)
        if self.scenario == "prefill":
            return {"prefill": prefill}
        if self.scenario == "decode":
            return {"decode": Phase("decode", self.batch_size, self.length)}
        return {"prefill": prefill, "decode": Phase("decode", self.batch_size, self.length + self.new_tokens // 2)}

    @property
    def context(self) -> dict[str, int]:
        """Tokens of a sequence at its longest, by the settings that say so."""
        length = f"latency.length={self.length}"
        if self.scenario == "serving":
            return {f"{length} with latency.new_tokens={self.new_tokens}": self.length + self.new_tokens}
        if self.scenario == "decode":
            return {f"{length} and the token after it": self.length + 1}
        return {length: self.length}

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What `values` gives: `latency_ms` of the scenario, and of its phases."""
        return (LATENCY, *(PHASE_METRICS[name] for name in self.phases))

    def values(self, times: Mapping[str, float]) -> dict[str, float]:
        """The metrics, in milliseconds.

        Args:
            times: Milliseconds of a forward pass of each phase; or of a part of one, as all is linear.
        """
        return {LATENCY.name: self.total(times)} | {f"{name}_ms": ms for name, ms in times.items()}

    def total(self, times: Mapping[str, float]) -> float:
        """Milliseconds of the scenario, by those of a forward pass of each phase."""
        if self.scenario == "serving":
            return times["prefill"] + (self.new_tokens - 1) * times["decode"]
        return times[self.scenario]

    def tokens_per_s(self, latency_ms: float) -> float:
        """Throughput: tokens read by a prefill, else tokens written, over all sequences."""
        tokens = {"prefill": self.length, "decode": 1, "serving": self.new_tokens}[self.scenario]
        return 1e3 * self.batch_size * tokens / latency_ms


def models_together(params: int) -> int:
    """Subnets of a dense model of so many parameters that llama.cpp has in memory with it: few of large ones."""
    return max(1, min(_MOST, _TOGETHER_BYTES // (2 * params)))
