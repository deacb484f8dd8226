"""Has ONNX Runtime or OpenVINO run a graph in a fresh process, and compares it with the model that it came from."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from space.errors import UserError
from space.formats.child import answer_of
from space.formats.greedy import NEW_TOKENS, TEXTS, GreedyCheck, Tolerance, agreement
from space.formats.hf.reload_check import in_float32
from space.formats.traced import engine_process

TIMED_PROMPT = 512
# Both engines compute in float32 for the check, and sum in another order: that moved the figures of a subnet of the
# default model by at most 0.0001, on average 0.00001. Models with larger activations are allowed more.
TOLERANCE = Tolerance(worst=5e-3, mean=5e-4, tie=5e-3)


@dataclass(frozen=True)
class Speed:
    """How fast something runs, on the CPU.

    Attributes:
        prompt_tokens_per_s: Of a prompt of `TIMED_PROMPT` tokens, or as many as the model may see.
        decode_tokens_per_s: Of further tokens after it, one by one.
    """

    prompt_tokens_per_s: float
    decode_tokens_per_s: float


@dataclass(frozen=True)
class EngineCheck(GreedyCheck):
    """How an engine's figures for a graph compare with the checkpoint's in float32.

    Attributes:
        batch_difference: Largest difference of a logit between prompts run alone and as one batch padded on the left.
        load_seconds: Until the graph was ready.
        speed: The engine's, as it computes when it is not told how.
        torch_speed: Of the checkpoint in torch, in its own dtype.
    """

    batch_difference: float
    load_seconds: float
    speed: Speed
    torch_speed: Speed

    def rows(self) -> dict[str, object]:
        """The figures for a table."""
        values = {**asdict(self), **asdict(self.speed)}
        values |= {f"torch_{name}": value for name, value in asdict(self.torch_speed).items()}
        numbers = {name: value for name, value in values.items() if not isinstance(value, dict)}
        return {name.replace("_", " "): f"{value:.4g}" for name, value in numbers.items()}


def check_in_engine(
    engine: str, directory: Path, model: Any, tokenizer: Any, context: int, texts: Sequence[str] = TEXTS
) -> EngineCheck:
    """Loads a graph in its engine in a fresh process, and compares what it continues texts with.

    Args:
        engine: `onnx` or `openvino`.
        directory: With the graph.
        model: The checkpoint as a causal language model, on the CPU.
        tokenizer: The checkpoint's.
        context: Tokens that the model may see.
        texts: What to continue.

    Raises:
        UserError: The graph does not load, or a difference is above the tolerance.
    """
    prompts = [ids[: context - NEW_TOKENS] for ids in (tokenizer(text).input_ids for text in texts) if ids]
    timed = ([token for ids in prompts for token in ids] * TIMED_PROMPT)[: min(TIMED_PROMPT, context // 2)]
    request = {
        "job": "check",
        "engine": engine,
        "directories": [str(directory.resolve())],
        "threads": torch.get_num_threads(),
        "prompts": prompts,
        "new_tokens": NEW_TOKENS,
        "timed_prompt": timed,
    }
    answer = in_engine(request, f"The exported {engine} graph did not load or run")
    with in_float32(model):
        agreed = agreement(model, prompts, answer["runs"])
    agreed.require(TOLERANCE, f"{engine} graph", "its engine")
    if not answer["batch_difference"] <= TOLERANCE.worst:
        raise UserError(
            f"The exported {engine} graph failed its check: expected logits of a padded batch within "
            f"{TOLERANCE.worst:g} of those of its prompts alone, but they differ by {answer['batch_difference']:.3g}. "
            "Export another point, or report this one with its key."
        )
    return EngineCheck(
        **agreed.figures,
        batch_difference=answer["batch_difference"],
        load_seconds=answer["load_seconds"],
        speed=Speed(answer["prompt_tokens_per_s"], answer["decode_tokens_per_s"]),
        torch_speed=_torch_speed(model, timed),
    )


def in_engine(request: Mapping[str, Any], failure: str) -> dict[str, Any]:
    """The answer of a fresh process with an engine to a request, see `space.formats.traced.engine_process`.

    Raises:
        UserError: The process failed; the message is `failure` with its last lines.
    """
    return answer_of(Path(engine_process.__file__), request, failure=failure)


def _torch_speed(model: Any, prompt: list[int]) -> Speed:
    """Times a model as `engine_process` times an engine."""
    tokens = torch.tensor([prompt])

    def milliseconds(kind: str) -> float:
        cache, start = DynamicCache(), time.perf_counter()
        model(tokens, past_key_values=cache)
        if kind == "prefill":
            return 1000 * (time.perf_counter() - start)
        start = time.perf_counter()
        for _ in range(engine_process.DECODED):
            model(tokens[:, -1:], past_key_values=cache)
        return 1000 * (time.perf_counter() - start) / engine_process.DECODED

    with torch.inference_mode():
        milliseconds("prefill")
        prefill, decode = (
            statistics.median(milliseconds(kind) for _ in range(engine_process.TIMINGS))
            for kind in ("prefill", "decode")
        )
    return Speed(1000 * len(prompt) / prefill, 1000 / decode)
