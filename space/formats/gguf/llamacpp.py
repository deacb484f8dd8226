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
from space.formats.greedy import NEW_TOKENS, TEXTS, GreedyCheck, Tolerance, agreement

_TIMED_PROMPT, _TIMED_NEW = 512, 64


# llama.cpp multiplies an F16 matrix by activations rounded to F16 (11 bits), and a Q8_0 one by activations of 8 bits
# with a scale for each 32, like its weights. The same rounding done in PyTorch moved the default model's figures by at
# most 0.05 and on average 0.003 (F16), 1.1 and 0.12 (Q8_0); llama.cpp moved them by 0.04 and 0.004, 0.8 and 0.11, and
# those of its pruned subnets by up to 0.68 and 0.027, 2.6 and 0.13. Models with larger activations are allowed more. An
# export that computes something else is off by more on average.
TOLERANCES = {"f16": Tolerance(2.0, 0.04, 0.5), "q8_0": Tolerance(5.0, 0.3, 1.0)}


@dataclass(frozen=True)
class LlamaCppCheck(GreedyCheck):
    """How llama.cpp's figures for a file compare with the checkpoint's in float32.

    Attributes:
        prompt_tokens_per_s, decode_tokens_per_s: llama.cpp's own timings, on the CPU.
        load_seconds: Until the file was ready.
    """

    prompt_tokens_per_s: float
    decode_tokens_per_s: float
    load_seconds: float


def check_in_llamacpp(
    file: Path, model: Any, tokenizer: Any, kind: str, context: int, texts: Sequence[str] = TEXTS
) -> LlamaCppCheck:
    """Loads a file in llama.cpp in a fresh process, and compares how it cuts text and what it continues it with.

    Args:
        file: The GGUF file.
        model: The checkpoint as a causal language model, in float32, on the CPU.
        tokenizer: The checkpoint's.
        kind: The file's type, a row of `TOLERANCES`.
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
        "job": "check",
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
    return _compared(model, prompts, answer, TOLERANCES[kind])


def in_llamacpp(request: Mapping[str, Any], failure: str) -> dict[str, Any]:
    """The answer of a fresh process with llama.cpp to a request, see `space.formats.gguf.llamacpp_process`.

    Raises:
        UserError: The process failed; the message is `failure` with its last lines.
    """
    return answer_of(Path(llamacpp_process.__file__), request, failure=failure)


def _compared(model: Any, prompts: list[list[int]], answer: dict[str, Any], allowed: Tolerance) -> LlamaCppCheck:
    """Compares llama.cpp's own continuations with what the model says to the same tokens."""
    agreed = agreement(model, prompts, answer["runs"], answer["ends"])
    agreed.require(allowed, "GGUF file", "llama.cpp")
    return LlamaCppCheck(
        **agreed.figures,
        prompt_tokens_per_s=answer["prompt_tokens_per_s"],
        decode_tokens_per_s=answer["decode_tokens_per_s"],
        load_seconds=answer["load_seconds"],
    )
