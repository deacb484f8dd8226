"""What a fresh process of vLLM's environment does with checkpoints: continue prompts and say how fast, or time some.

`space.formats.vllm.check` has this file run by its path, so it imports vLLM only.
"""

from __future__ import annotations

import os
import time
from typing import Any

TOP = 10  # most likely tokens of a step whose log-probabilities are handed back
CACHE_GIB = "1"  # of keys and values on a CPU


class VLLMEngine:
    """vLLM with one checkpoint, in this process; nothing of a prompt is remembered from one request to the next."""

    def __init__(self, directory: str, context: int, batch: int = 1) -> None:
        """Loads the checkpoint in its own dtype.

        Args:
            directory: Of the checkpoint.
            context: Tokens of a sequence, at most.
            batch: Sequences at once, at most.
        """
        from vllm import LLM

        start = time.perf_counter()
        self._llm = LLM(
            directory,
            trust_remote_code=True,
            skip_tokenizer_init=True,
            max_model_len=context,
            max_num_batched_tokens=max(context, 2048),
            max_num_seqs=batch,
            enforce_eager=True,
            enable_prefix_caching=False,
            disable_log_stats=True,
        )
        self.load_seconds = time.perf_counter() - start
        self.dtype = str(self._llm.llm_engine.model_config.dtype).removeprefix("torch.")

    def continued(self, prompts: list[list[int]], new_tokens: int, top: int | None = None) -> list[Any]:
        """The most likely continuation of each prompt of token ids, to its full length."""
        from vllm import SamplingParams

        settings = SamplingParams(
            temperature=0.0, max_tokens=new_tokens, ignore_eos=True, logprobs=top, detokenize=False
        )
        requests: Any = [{"prompt_token_ids": prompt} for prompt in prompts]
        return [output.outputs[0] for output in self._llm.generate(requests, settings, use_tqdm=False)]

    def seconds(self, prompts: list[list[int]], new_tokens: int) -> float:
        """Of so many new tokens behind all prompts at once."""
        start = time.perf_counter()
        self.continued(prompts, new_tokens)
        return time.perf_counter() - start


def checked(request: dict[str, Any]) -> dict[str, Any]:
    """How a checkpoint continues prompts, and how fast."""
    from vllm import __version__

    engine = VLLMEngine(request["directory"], request["context"])
    runs = []
    for prompt in request["prompts"]:
        (run,) = engine.continued([prompt], request["new_tokens"], TOP)
        likeliest = [[[token, value.logprob] for token, value in step.items()] for step in run.logprobs]
        runs.append([{"token": token, "top": top} for token, top in zip(run.token_ids, likeliest, strict=True)])
    timed, steps = [request["timed_prompt"]], request["timed_new_tokens"]
    engine.seconds(timed, 1)
    first = min(engine.seconds(timed, 1) for _ in range(3))
    all_of_them = min(engine.seconds(timed, steps + 1) for _ in range(2))
    return {
        "version": __version__,
        "dtype": engine.dtype,
        "runs": runs,
        "load_seconds": engine.load_seconds,
        "prompt_tokens_per_s": len(timed[0]) / first,
        "decode_tokens_per_s": steps / (all_of_them - first),
    }


JOBS = {"check": checked}


def answer(request: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Does the job that a request names; there are no tensors."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": str(request["threads"]),
    }
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CACHE_GIB)
    return JOBS[request["job"]](request)
