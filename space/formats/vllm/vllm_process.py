"""What a fresh process of vLLM's environment does with a checkpoint: continue prompts, and say how fast.

`space.formats.vllm.check` has this file run by its path, so it imports vLLM only.
"""

from __future__ import annotations

import os
import time
from typing import Any

TOP = 10  # most likely tokens of a step whose log-probabilities are handed back
CACHE_BYTES = 2**30  # of keys and values


class VLLMEngine:
    """vLLM with one checkpoint, in this process; nothing of a prompt is remembered from one request to the next."""

    def __init__(self, directory: str, implementation: str, dtype: str, context: int) -> None:
        """Loads the checkpoint.

        Args:
            directory: Of the checkpoint.
            implementation: vLLM's `model_impl`.
            dtype: To compute in.
            context: Tokens of a sequence, at most.
        """
        from vllm import LLM

        start = time.perf_counter()
        self._llm = LLM(
            directory,
            trust_remote_code=True,
            skip_tokenizer_init=True,
            max_model_len=context,
            max_num_batched_tokens=max(context, 2048),
            max_num_seqs=1,
            model_impl=implementation,
            dtype=dtype,
            kv_cache_memory_bytes=CACHE_BYTES,
            enforce_eager=True,
            enable_prefix_caching=False,
            disable_log_stats=True,
        )
        self.load_seconds = time.perf_counter() - start

    def continued(self, prompt: list[int], new_tokens: int, top: int | None = None) -> Any:
        """The most likely continuation of a prompt of token ids, to its full length."""
        from vllm import SamplingParams

        settings = SamplingParams(
            temperature=0.0, max_tokens=new_tokens, ignore_eos=True, logprobs=top, detokenize=False
        )
        request: Any = {"prompt_token_ids": prompt}
        return self._llm.generate([request], settings, use_tqdm=False)[0].outputs[0]

    def seconds(self, prompt: list[int], new_tokens: int) -> float:
        """Of a prompt and so many new tokens behind it."""
        start = time.perf_counter()
        self.continued(prompt, new_tokens)
        return time.perf_counter() - start


def answer(request: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """How a checkpoint continues prompts, and how fast; there are no tensors."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": str(request["threads"]),
    }
    from vllm import __version__

    engine = VLLMEngine(request["directory"], request["implementation"], request["dtype"], request["context"])
    runs = []
    for prompt in request["prompts"]:
        run = engine.continued(prompt, request["new_tokens"], TOP)
        likeliest = [[[token, value.logprob] for token, value in step.items()] for step in run.logprobs]
        runs.append([{"token": token, "top": top} for token, top in zip(run.token_ids, likeliest, strict=True)])
    timed, steps = request["timed_prompt"], request["timed_new_tokens"]
    engine.seconds(timed, 1)
    first = min(engine.seconds(timed, 1) for _ in range(3))
    all_of_them = min(engine.seconds(timed, steps + 1) for _ in range(2))
    return {
        "version": __version__,
        "runs": runs,
        "load_seconds": engine.load_seconds,
        "prompt_tokens_per_s": len(timed) / first,
        "decode_tokens_per_s": steps / (all_of_them - first),
    }
