"""What a fresh process does with an exported checkpoint: load it, compare what it gives, generate with caches.

`space.formats.verify` has this file run by its path, so it imports torch and transformers only.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

_Held = list[tuple[torch.Tensor, torch.Tensor]]  # tensors, and their own data
CACHES = {"dynamic": None, "static": "static"}


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Has a model compute in float32 on the CPU, of which one layer at a time is there in float32.

    Afterwards its tensors are what they were.

    Args:
        model: Its layers are its own to hook.
    """
    lists = (module for module in model.base_model.modules() if isinstance(module, torch.nn.ModuleList))
    layers = [*max(lists, key=lambda each: sum(p.numel() for p in each.parameters()))]  # there may be others of images
    inside = {id(tensor) for layer in layers for tensor in _tensors(layer)}
    rest = _widen([tensor for tensor in _tensors(model) if id(tensor) not in inside])
    handles: list[Any] = []
    for layer in layers:
        held: _Held = []
        handles.append(layer.register_forward_pre_hook(lambda module, inputs, held=held: held.extend(_layer(module))))
        handles.append(
            layer.register_forward_hook(lambda module, inputs, output, held=held: _restore(held), always_call=True)
        )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        _restore(rest)


def _layer(module: torch.nn.Module) -> _Held:
    return _widen(_tensors(module))


def _tensors(module: torch.nn.Module) -> list[torch.Tensor]:
    return [*module.parameters(), *module.buffers()]


def _widen(tensors: list[torch.Tensor]) -> _Held:
    held = [(tensor, tensor.data) for tensor in tensors]
    for tensor, own in held:
        tensor.data = own.cpu().float() if own.is_floating_point() else own.cpu()
    return held


def _restore(held: _Held) -> None:
    for tensor, own in held:
        tensor.data = own
    held.clear()


def output_of(model: Any, inputs: torch.Tensor, attention_mask: torch.Tensor, name: str) -> torch.Tensor:
    """What a forward pass gives under a name, float32, of each token zero behind the end of a sequence.

    Args:
        model: Any.
        inputs: Tokens, `(batch, time)`, or images, `(batch, channels, height, width)`.
        attention_mask: 0 behind the end of a sequence, `(batch, time)`; for images not looked at.
        name: `logits`, `(batch, time, vocab)` or `(batch, classes)`, or `last_hidden_state`, `(batch, time, hidden)`.
    """
    with torch.inference_mode():
        more = {} if inputs.ndim > 2 else {"attention_mask": attention_mask, "use_cache": False}
        output = getattr(model(inputs, **more), name)
    return output.float() if output.ndim == 2 else torch.where(attention_mask[..., None] > 0, output.float(), 0.0)


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


def answer(request: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Loads a checkpoint, and compares it in float32.

    Args:
        request: The `directory`, the `loader`, the name of an `output`, whether to `trust_remote_code`, and how many
            `new_tokens` to generate, if any.
        tensors: `inputs`, their `attention_mask` and the `expected` output.

    Returns:
        `wrong_keys` (weights that are missing, left over or of another shape, by kind), `difference` from what was
        expected, the largest absolute one, `cache_differences` and `load_seconds`.
    """
    import transformers

    directory, trust = request["directory"], request["trust_remote_code"]
    start = time.perf_counter()
    model, loading = getattr(transformers, request["loader"]).from_pretrained(
        directory, trust_remote_code=trust, dtype="auto", output_loading_info=True
    )
    load_seconds = time.perf_counter() - start
    model.eval()
    if (Path(directory) / "tokenizer_config.json").exists():
        transformers.AutoTokenizer.from_pretrained(directory, trust_remote_code=trust)

    inputs, mask, new = tensors["inputs"], tensors["attention_mask"], request["new_tokens"]
    prompt = inputs[:, : max(1, inputs.shape[1] - new)]
    with in_float32(model):
        output = output_of(model, inputs, mask, request["output"])
        return {
            "wrong_keys": {kind: sorted(map(str, keys)) for kind, keys in loading.items() if keys},
            "difference": float((output - tensors["expected"]).abs().max()),
            "cache_differences": cache_differences(model, prompt, torch.ones_like(prompt), new) if new else {},
            "load_seconds": load_seconds,
        }
