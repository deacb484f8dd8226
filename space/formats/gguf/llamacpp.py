"""Runs an exported GGUF file in real llama.cpp and compares it with the model that it came from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from space.errors import UserError
from space.formats.child import answer_of
from space.formats.gguf import llamacpp_process
from space.formats.gguf.types import FileTypes, holding
from space.formats.greedy import NEW_TOKENS, TEXTS, Agreement, GreedyCheck, Tolerance, agreement
from space.formats.hf.reload_check import in_float32
from space.rounding.rounded import Rounded

_TIMED_PROMPT, _TIMED_NEW = 512, 64


@dataclass(frozen=True)
class LlamaCppCheck(GreedyCheck):
    """How llama.cpp's figures for a file compare with those of the weights in it, in float32.

    Attributes:
        from_unrounded: Mean difference of a log-probability from the checkpoint's, whose weights are not rounded.
        prompt_tokens_per_s, decode_tokens_per_s: llama.cpp's own timings, on the CPU.
        load_seconds: Until the file was ready.
    """

    from_unrounded: float
    prompt_tokens_per_s: float
    decode_tokens_per_s: float
    load_seconds: float


def check_in_llamacpp(
    file: Path,
    model: Any,
    rounded: Mapping[str, Rounded],
    tokenizer: Any,
    types: FileTypes,
    context: int,
    texts: Sequence[str] = TEXTS,
) -> LlamaCppCheck:
    """Loads a file in llama.cpp in a fresh process, and compares how it cuts text and what it continues it with.

    Args:
        file: The GGUF file.
        model: The checkpoint as a causal language model, see `in_float32`.
        rounded: Those of its matrices that the file has in blocks.
        tokenizer: The checkpoint's.
        types: Of the file.
        context: Tokens that the model may see.
        texts: What to cut and to continue.

    Raises:
        UserError: The file does not load, cuts a text otherwise, or a difference is above the tolerance.
    """
    expected = [tokenizer(text).input_ids for text in texts]
    prompts = [ids[: context - NEW_TOKENS] for ids in expected if ids]
    timed = [token for ids in prompts for token in ids] * _TIMED_PROMPT
    timed_new = min(_TIMED_NEW, context // 4)
    request = {
        "file": str(file.resolve()),
        "threads": torch.get_num_threads(),
        "context": min(context, 2 * _TIMED_PROMPT),
        "texts": list(texts),
        "prompts": prompts,
        "new_tokens": NEW_TOKENS,
        "timed_prompt": timed[: min(_TIMED_PROMPT, context - timed_new)],
        "timed_new_tokens": timed_new,
    }
    answer = in_llamacpp(request, "The exported GGUF file did not load or run in llama.cpp")
    for text, ours, theirs in zip(texts, expected, answer["cut"], strict=True):
        if ours != theirs:
            raise UserError(
                f"Expected llama.cpp to cut text as the tokenizer does, but {text!r} is {ours} here, {theirs} there. "
                "Export this model with format=hf, and report its tokenizer."
            )
    return _compared(model, rounded, prompts, answer, types.tolerance)


def in_llamacpp(request: Mapping[str, Any], failure: str) -> dict[str, Any]:
    """The answer of a fresh process with llama.cpp to a request, see `space.formats.gguf.llamacpp_process`.

    Raises:
        UserError: The process failed; the message is `failure` with its last lines.
    """
    return answer_of(Path(llamacpp_process.__file__), request, failure=failure)


def _compared(
    model: Any, rounded: Mapping[str, Rounded], prompts: list[list[int]], answer: dict[str, Any], allowed: Tolerance
) -> LlamaCppCheck:
    """Compares llama.cpp's own continuations with what the model says to the same tokens."""

    def agreed() -> Agreement:
        with in_float32(model):
            return agreement(model, prompts, answer["runs"], answer["ends"])

    whole = same = agreed()
    if rounded:
        with holding(model, rounded):
            same = agreed()
    same.require(allowed, "GGUF file", "llama.cpp")
    return LlamaCppCheck(
        **same.figures,
        from_unrounded=whole.mean,
        prompt_tokens_per_s=answer["prompt_tokens_per_s"],
        decode_tokens_per_s=answer["decode_tokens_per_s"],
        load_seconds=answer["load_seconds"],
    )
