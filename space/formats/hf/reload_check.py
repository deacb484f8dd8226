"""What a fresh process does with an exported checkpoint: load it, compare logits, generate with and without the cache.

`space.formats.verify` runs this file by its path, so it imports torch and transformers only.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch

PROJECT_PACKAGES = ("evaluators", "search", "space")
CACHES = {"dynamic": None, "static": "static"}


def settle_vector_math() -> None:
    """Calls each vectorised function once in a single thread, without which the first use of one can be imprecise.

    MKL chooses a function's kernel at its first call; where several threads make that call together, as they do for the
    cosines of RoPE, one of them may take a kernel of 12 bits for its share (pytorch issue 188792, open as of torch
    2.13), which moved logits by 0.004.
    """
    functions = (
        torch.cos,
        torch.sin,
        torch.exp,
        torch.expm1,
        torch.log,
        torch.log1p,
        torch.sqrt,
        torch.tanh,
        torch.erf,
    )
    for dtype in (torch.float32, torch.float64):
        for function in functions:
            function(torch.ones(1, dtype=dtype))


def logits_difference(model: Any, input_ids: torch.Tensor, expected_logits: torch.Tensor) -> float:
    """Largest absolute difference from the expected logits.

    Args:
        model: A causal language model.
        input_ids: Tokens, `(batch, time)`.
        expected_logits: Float32, `(batch, time, vocab)`.
    """
    with torch.inference_mode():
        logits = model(input_ids=input_ids, use_cache=False).logits
    return float((logits.float() - expected_logits).abs().max())


def cache_differences(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, new_tokens: int
) -> dict[str, tuple[float, int]]:
    """Compares greedy `generate()` with each kind of key-value cache to the same without one.

    Args:
        model: A causal language model.
        input_ids: The prompt, `(batch, time)`.
        attention_mask: 0 where the prompt is (left) padding, `(batch, time)`.
        new_tokens: Tokens to generate.

    Returns:
        For each of `CACHES`, the largest difference of a step's logits as a fraction of its largest logit (rounding
        grows with it, and a step with a cache sums in another order than a whole forward pass), and the number of steps
        compared: fewer than `new_tokens` where a near tie made the two runs go on with different tokens.
    """
    from transformers import GenerationConfig

    def generate(**cache: Any) -> Any:
        settings = GenerationConfig(do_sample=False, max_new_tokens=new_tokens, pad_token_id=0, **cache)
        return model.generate(
            input_ids=input_ids,
            attention_mask=attention_mask,
            generation_config=settings,
            output_logits=True,
            return_dict_in_generate=True,
        )

    own_settings, model.generation_config = model.generation_config, GenerationConfig()  # no sampling, no early end
    try:
        plain = generate(use_cache=False)
        differences = {}
        for name, implementation in CACHES.items():
            cached = generate(use_cache=True, cache_implementation=implementation)
            difference, steps = 0.0, 0
            for step in range(new_tokens):
                expected = plain.logits[step]
                apart = (cached.logits[step] - expected).abs().max() / expected.abs().max()
                difference = max(difference, float(apart))
                steps += 1
                token = input_ids.shape[1] + step
                if not torch.equal(cached.sequences[:, token], plain.sequences[:, token]):
                    break  # from here on the contexts differ
            differences[name] = (difference, steps)
        return differences
    finally:
        model.generation_config = own_settings


def main(work: Path) -> None:
    """Reads `request.json` and `tensors.safetensors` of a directory and writes `answer.json` there.

    Args:
        work: A temporary directory of `space.formats.verify`.
    """
    for package in PROJECT_PACKAGES:
        sys.modules[package] = None  # type: ignore[assignment]  # importing it raises, installed or not
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    request = json.loads((work / "request.json").read_text())
    tensors = load_file(work / "tensors.safetensors")
    directory, trust = request["directory"], request["trust_remote_code"]
    torch.set_num_threads(request["threads"])
    settle_vector_math()

    start = time.perf_counter()
    model, loading = AutoModelForCausalLM.from_pretrained(
        directory, trust_remote_code=trust, dtype=torch.float32, output_loading_info=True
    )
    load_seconds = time.perf_counter() - start
    model.eval()
    wrong_keys = {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys}
    if (Path(directory) / "tokenizer_config.json").exists():
        AutoTokenizer.from_pretrained(directory, trust_remote_code=trust)

    input_ids = tensors["input_ids"]
    prompt = input_ids[:, : max(1, input_ids.shape[1] - request["new_tokens"])]
    answer = {
        "wrong_keys": wrong_keys,
        "logits_difference": logits_difference(model, input_ids, tensors["expected_logits"]),
        "cache_differences": cache_differences(model, prompt, torch.ones_like(prompt), request["new_tokens"]),
        "load_seconds": load_seconds,
    }
    (work / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
