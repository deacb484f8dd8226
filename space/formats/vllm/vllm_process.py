"""What a fresh process of vLLM's environment does with checkpoints: continue prompts, and say how fast they are.

`space.formats.vllm.check` has this file run by its path, so it imports vLLM only.
"""

from __future__ import annotations

import gc
import os
import time
from typing import Any

TOP = 10  # most likely tokens of a step whose log-probabilities are handed back
CACHE_BYTES = 2**30  # of keys and values
DECODED = 16  # tokens of a timing
_FREE = 0.01  # of a GPU's memory, that vLLM wants to find free at first: it is one of several there, of known size


class VLLMEngine:
    """vLLM with one checkpoint, in this process; nothing of a prompt is remembered from one request to the next."""

    def __init__(
        self,
        directory: str,
        implementation: str,
        dtype: str,
        context: int,
        *,
        sequences: int = 1,
        cache_bytes: int = CACHE_BYTES,
        made_up: bool = False,
        compiled: bool = False,
    ) -> None:
        """Loads the checkpoint.

        Args:
            directory: Of the checkpoint.
            implementation: vLLM's `model_impl`.
            dtype: To compute in.
            context: Tokens of a sequence, at most.
            sequences: At once, at most.
            cache_bytes: Of keys and values.
            made_up: Whether weights are made up, and none are read.
            compiled: Whether the model is compiled, on CUDA with CUDA graphs.
        """
        from vllm import LLM

        start = time.perf_counter()
        self._llm = LLM(
            directory,
            trust_remote_code=True,
            skip_tokenizer_init=True,
            load_format="dummy" if made_up else "auto",
            max_model_len=context,
            max_num_batched_tokens=max(sequences * context, 2048),
            max_num_seqs=sequences,
            model_impl=implementation,
            dtype=dtype,
            kv_cache_memory_bytes=cache_bytes,
            gpu_memory_utilization=_FREE,
            enforce_eager=not compiled,
            enable_prefix_caching=False,
            disable_log_stats=True,
        )
        self.load_seconds = time.perf_counter() - start

    def continued(self, prompt: list[int], new_tokens: int, top: int | None = None) -> Any:
        """The most likely continuation of a prompt of token ids, to its full length."""
        request: Any = {"prompt_token_ids": prompt}
        return self._llm.generate([request], _greedy(new_tokens, top), use_tqdm=False)[0].outputs[0]

    def seconds(self, prompt: list[int], new_tokens: int) -> float:
        """Of a prompt and so many new tokens behind it."""
        start = time.perf_counter()
        self.continued(prompt, new_tokens)
        return time.perf_counter() - start

    def milliseconds(self, kind: str, prompts: list[list[int]]) -> float:
        """Of some prompts at once up to their first tokens, or of a further token of each after them."""
        engine = self._llm.llm_engine
        for number, prompt in enumerate(prompts):
            request: Any = {"prompt_token_ids": prompt}
            engine.add_request(f"{time.monotonic_ns()}-{number}", request, _greedy(1 + DECODED * (kind == "decode")))
        begun, first = set(), 0
        times = [time.perf_counter()]
        while engine.has_unfinished_requests():
            begun |= {output.request_id for output in engine.step() if output.outputs[0].token_ids}
            times.append(time.perf_counter())
            first += len(begun) < len(prompts)
        if kind == "prefill":
            return 1e3 * (times[-1] - times[0])
        return 1e3 * (times[-1] - times[first + 1]) / (len(times) - first - 2)


def _greedy(new_tokens: int, top: int | None = None) -> Any:
    from vllm import SamplingParams

    return SamplingParams(temperature=0.0, max_tokens=new_tokens, ignore_eos=True, logprobs=top, detokenize=False)


def checked(request: dict[str, Any]) -> dict[str, Any]:
    """How a checkpoint continues prompts, and how fast."""
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
        **about(request),
        "runs": runs,
        "load_seconds": engine.load_seconds,
        "prompt_tokens_per_s": len(timed) / first,
        "decode_tokens_per_s": steps / (all_of_them - first),
    }


def timed(request: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of the first model and of each other one, in rounds in which both take turns; once before each.

    After a model's share of the seconds that all may take, none but its first round is begun.
    """
    end = time.monotonic() + request["seconds"]
    settings = {"sequences": len(request["prompts"]), "cache_bytes": request["cache_bytes"], "made_up": True}

    def loaded(model: dict[str, Any]) -> VLLMEngine:
        compiled = {"compiled": request["compile"]}
        return VLLMEngine(**model, dtype=request["dtype"], context=request["context"], **settings, **compiled)

    ask = request["kind"], request["prompts"]
    dense, *others = request["models"]
    dense, times = loaded(dense), []
    dense.milliseconds(*ask)
    for number, model in enumerate(others):
        share = time.monotonic() + (end - time.monotonic()) / (len(others) - number)
        subnet = loaded(model)
        subnet.milliseconds(*ask)
        pair = dense, subnet
        rounds: list[list[float]] = []
        while len(rounds) < request["rounds"] and (not rounds or time.monotonic() < share):
            rounds.append([engine.milliseconds(*ask) for engine in pair])
        times.append(rounds)
        del subnet, pair
        gc.collect()
    return {"ms": times}


def about(request: dict[str, Any]) -> dict[str, Any]:
    """vLLM's version, and the name of its device: `cpu` for any CPU."""
    from vllm import __version__
    from vllm.platforms import current_platform

    return {
        "version": __version__,
        "device": "cpu" if current_platform.is_cpu() else current_platform.get_device_name(),
    }


JOBS = {"check": checked, "time": timed, "about": about}


def answer(request: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Does the job that a request names; there are no tensors."""
    os.environ |= {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "OMP_NUM_THREADS": str(request["threads"]),
    }
    return JOBS[request["job"]](request)
