"""Runs an exported GGUF file in real llama.cpp and compares it with the model that it came from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from space.errors import UserError
from space.formats.child import answer_of
from space.formats.gguf import llamacpp_process

NEW_TOKENS = 20
_TIMED_PROMPT, _TIMED_NEW = 512, 64


@dataclass(frozen=True)
class Tolerance:
    """What passes for the rounding of a format, in nats of log-probability.

    Attributes:
        worst: Largest difference of one token.
        mean: Mean difference.
        tie: How much less likely than the likeliest a chosen token may be.
    """

    worst: float
    mean: float
    tie: float


# llama.cpp multiplies an F16 matrix by activations rounded to F16 (11 bits), and a Q8_0 one by activations of 8 bits
# with a scale for each 32, like its weights. The same rounding done in PyTorch moved the default model's figures by at
# most 0.05 and on average 0.003 (F16), 1.1 and 0.12 (Q8_0); llama.cpp moved them by 0.04 and 0.004, 0.8 and 0.11, and
# those of its pruned subnets by up to 0.12 and 0.004, 2.6 and 0.13. Models with larger activations are allowed more.
TOLERANCES = {"f16": Tolerance(0.5, 0.02, 0.1), "q8_0": Tolerance(5.0, 0.3, 1.0)}

TEXTS = (
    "The capital of France is",
    "Once upon a time there was a small dog who",
    "def mean(values):\n    total = sum(values)\n\n    return",
    "In 1969, 3 men flew 384,400 km to the Moon. It's",
    "Question: What is 12 + 30?\nAnswer:",
    "  Two spaces, a\ttab, and   three; then... what?!",
    "Les élèves ont étudié à l'école où",
    "Привет, как дела? 你好，世界。 こんにちは",
    "E-mail: someone@example.org 🙂👍🏽 (100%) #1",
    "WE'LL SEE THAT THEY'RE RIGHT, I'd say; don't you'",
)


@dataclass(frozen=True)
class LlamaCppCheck:
    """How llama.cpp's figures for a file compare with the checkpoint's in float32.

    Attributes:
        worst_difference: Largest difference of a log-probability over the likeliest tokens of all steps, in nats.
        mean_difference: Their mean.
        steps: New tokens compared, over all prompts, each continued greedily.
        ties: Steps whose likeliest token is another one, which the checkpoint holds as likely within the tolerance.
        prompt_tokens_per_s, decode_tokens_per_s: llama.cpp's own timings, on the CPU.
        load_seconds: Until the file was ready.
    """

    worst_difference: float
    mean_difference: float
    steps: int
    ties: int
    prompt_tokens_per_s: float
    decode_tokens_per_s: float
    load_seconds: float

    def rows(self) -> dict[str, object]:
        """The figures for a table."""
        return {name.replace("_", " "): f"{value:.4g}" for name, value in asdict(self).items()}


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
    """Compares each step of llama.cpp's own continuations with what the model says to the same tokens."""
    differences, behind = [], []
    for prompt, run in zip(prompts, answer["runs"], strict=True):
        chosen = [step["token"] for step in run]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + chosen[:-1]]), use_cache=False).logits[0, len(prompt) - 1 :]
        expected = logits.float().log_softmax(-1)  # (steps, vocab)
        for row, step in zip(expected, run, strict=True):
            # JSON has no NaN
            reported = torch.tensor([math.nan if value is None else value for _, value in step["top"]])
            differences.append((row[[token for token, _ in step["top"]]] - reported).abs())
        expected[:, answer["ends"]] = -torch.inf
        behind.append(expected.amax(-1) - expected[range(len(run)), chosen])
    apart, gaps = torch.cat(differences), torch.cat(behind)
    gap = float(gaps.max())
    result = LlamaCppCheck(
        worst_difference=float(apart.max()) if len(apart) else math.nan,
        mean_difference=float(apart.mean()),
        steps=len(gaps),
        ties=int((gaps > 0).sum()),
        prompt_tokens_per_s=answer["prompt_tokens_per_s"],
        decode_tokens_per_s=answer["decode_tokens_per_s"],
        load_seconds=answer["load_seconds"],
    )
    if not (result.worst_difference <= allowed.worst and result.mean_difference <= allowed.mean and gap <= allowed.tie):
        raise UserError(
            f"The exported GGUF file failed its check: expected log-probabilities within {allowed.worst:g} nats and "
            f"{allowed.mean:g} on average, and llama.cpp to choose the checkpoint's likeliest token or one at most "
            f"{allowed.tie:g} behind, but they differ by {result.worst_difference:.3g} and "
            f"{result.mean_difference:.3g}, and a choice is {gap:.3g} behind. "
            "Export another point, or report this one with its key."
        )
    return result
