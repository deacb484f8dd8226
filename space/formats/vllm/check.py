"""Runs an exported checkpoint in real vLLM and compares it with the model that it came from."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from space.formats.child import answer_of
from space.formats.greedy import NEW_TOKENS, TEXTS, GreedyCheck, Tolerance, agreement
from space.formats.vllm import vllm_process

_TIMED_PROMPT, _TIMED_NEW = 512, 64
_RANDOM_PROMPTS, _RANDOM_TOKENS = 4, 24  # where there is no tokenizer

# By the checkpoint's dtype, in which vLLM computes all of it. In bfloat16, of 8 bits, three designs of the default
# model were off by 0.5 at most and 0.04 to 0.07 on average; tiny float32 ones of all families by
# less than 0.0001 at most.
TOLERANCES = {
    "float32": Tolerance(0.01, 0.001, 0.01),
    "float16": Tolerance(0.5, 0.02, 0.1),
    "bfloat16": Tolerance(3.0, 0.25, 1.0),
}


@dataclass(frozen=True)
class VLLMCheck(GreedyCheck):
    """How vLLM's figures for a checkpoint compare with its own in float32.

    Attributes:
        version: vLLM's.
        dtype: In which it computed.
        prompt_tokens_per_s, decode_tokens_per_s: Of one sequence, without compiling.
        load_seconds: Until vLLM was ready.
    """

    version: str
    dtype: str
    prompt_tokens_per_s: float
    decode_tokens_per_s: float
    load_seconds: float

    def rows(self) -> dict[str, object]:
        """The figures for a table."""
        return {"version": self.version, "dtype": self.dtype} | super().rows()

    def remarks(self) -> list[str]:
        """What a person should know of it, in lines."""
        allowed = TOLERANCES[self.dtype]
        return [
            f"run by vLLM {self.version} in a fresh process, in {self.dtype}: {self.steps} greedy tokens, {self.ties} "
            f"of them ties; log-probabilities within {self.worst_difference:.2g} nats of the checkpoint in float32 (at "
            f"most {allowed.worst:g}), {self.mean_difference:.2g} on average (at most {allowed.mean:g})",
            f"vLLM's speed here, one sequence, not compiled: prompt {self.prompt_tokens_per_s:.0f} tokens/s, "
            f"decode {self.decode_tokens_per_s:.0f} tokens/s",
        ]


def implementation_of(config: Mapping[str, Any], hidden: int) -> str:
    """vLLM's `model_impl` for the contents of a config.json, and the hidden size.

    Its own Qwen2 takes the hidden size for that of all heads together, where transformers' class reads `head_dim`.
    """
    narrow = config["model_type"] == "qwen2" and config["num_attention_heads"] * config["head_dim"] != hidden
    return "transformers" if narrow else "auto"


def serve_command(directory: str, config: Mapping[str, Any], hidden: int) -> str:
    """The command that serves a checkpoint over HTTP; arguments as of `implementation_of`."""
    implementation = implementation_of(config, hidden)
    options = [
        *(["--trust-remote-code"] if "auto_map" in config else []),
        *([f"--model-impl {implementation}"] if implementation != "auto" else []),
    ]
    return " ".join(["vllm serve", shlex.quote(directory), *options])


def check_in_vllm(
    directory: Path, model: Any, tokenizer: Any, implementation: str, dtype: str, context: int, python: Path
) -> VLLMCheck:
    """Loads a checkpoint in vLLM in a fresh process, and compares what it continues text with.

    Args:
        directory: The checkpoint.
        model: The checkpoint as a causal language model, in float32, on the CPU.
        tokenizer: The checkpoint's, or None, for random tokens in place of text.
        implementation: See `implementation_of`.
        dtype: The checkpoint's, a row of `TOLERANCES`, in which vLLM is to compute.
        context: Tokens that the model may see.
        python: Of the environment with vLLM.

    Raises:
        UserError: vLLM does not load or run it, or a difference is above the tolerance.
    """
    context = min(context, 2 * _TIMED_PROMPT)
    prompts = [ids[: context - NEW_TOKENS] for ids in _prompts(tokenizer, model.config.vocab_size) if ids]
    timed = [token for ids in prompts for token in ids] * _TIMED_PROMPT
    timed_new = min(_TIMED_NEW, context // 4)
    request = {
        "job": "check",
        "directory": str(directory.resolve()),
        "implementation": implementation,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "context": context,
        "prompts": prompts,
        "new_tokens": NEW_TOKENS,
        "timed_prompt": timed[: min(_TIMED_PROMPT, context - timed_new - 1)],
        "timed_new_tokens": timed_new,
    }
    answer = in_vllm(request, "The exported checkpoint did not load or run in vLLM", python)
    agreed = agreement(model, prompts, answer["runs"])
    agreed.require(TOLERANCES[dtype], "checkpoint", "vLLM")
    return VLLMCheck(
        version=answer["version"],
        dtype=dtype,
        **agreed.figures,
        prompt_tokens_per_s=answer["prompt_tokens_per_s"],
        decode_tokens_per_s=answer["decode_tokens_per_s"],
        load_seconds=answer["load_seconds"],
    )


def in_vllm(request: Mapping[str, Any], failure: str, python: Path) -> dict[str, Any]:
    """The answer of a fresh process with vLLM to a request, see `space.formats.vllm.vllm_process`.

    Raises:
        UserError: The process failed; the message is `failure` with its last lines.
    """
    return answer_of(Path(vllm_process.__file__), request, failure=failure, python=python)


def _prompts(tokenizer: Any, vocab: int) -> list[list[int]]:
    if tokenizer is not None:
        return [tokenizer(text).input_ids for text in TEXTS]
    generator = torch.Generator().manual_seed(0)
    return [*map(torch.Tensor.tolist, torch.randint(vocab, (_RANDOM_PROMPTS, _RANDOM_TOKENS), generator=generator))]
