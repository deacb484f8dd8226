"""What a fresh process does with a `block_configs` checkpoint: read it by the rules of a loader, and compare logits.

Written from those rules and not with this project's modelling code: sizes come from the config alone, the residual
stream is handed from block to block beside the block's output, and every weight must be used in the size expected.
`space.formats.deci.export` has this file run by its path, so it imports torch, safetensors and transformers only.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional


class Weights:
    """The tensors of a checkpoint, each taken once and in the size that its reader wants."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        """Takes them by name."""
        self._left = dict(tensors)

    def take(self, name: str, *shape: int) -> Tensor:
        """One tensor in float32.

        Raises:
            KeyError: It is not there, or was taken.
            ValueError: It has another shape.
        """
        tensor = self._left.pop(name)
        if tensor.shape != shape:
            raise ValueError(f"{name}: the loader wants {shape}, the checkpoint has {tuple(tensor.shape)}")
        return tensor.float()

    def linear(self, name: str, inputs: int, outputs: int, bias: bool, values: Tensor) -> Tensor:
        """The product with one projection, `(batch, time, outputs)`."""
        weight = self.take(f"{name}.weight", outputs, inputs)
        return functional.linear(values, weight, self.take(f"{name}.bias", outputs) if bias else None)

    def require_empty(self) -> None:
        """Raises where a tensor was not used.

        Raises:
            ValueError: Names them.
        """
        if self._left:
            raise ValueError(f"weights that the loader has no place for: {sorted(self._left)}")


def channels(ffn: Any, hidden: int, rounded: bool) -> int:
    """The width that a block's entry stands for: by its `ffn_mult`, without which only vLLM reads another word.

    Args:
        ffn: The entry.
        hidden: Width of the residual stream.
        rounded: Whether the loader knows `ffn_mult` alone.

    Raises:
        AttributeError: It has none.
    """
    if rounded or hasattr(ffn, "ffn_mult"):
        return 256 * math.ceil(int(2 * ffn.ffn_mult * hidden / 3) / 256)
    return int(ffn.intermediate_size)


def inverse_frequencies(rope: dict[str, Any], width: int) -> Tensor:
    """Radians that each rotary pair turns in one position, `(width / 2,)`."""
    plain = [rope["rope_theta"] ** (-index / width) for index in range(0, width, 2)]
    if rope["rope_type"] == "linear":
        plain = [value / rope["factor"] for value in plain]
    if rope["rope_type"] == "llama3":
        low, high, original = (
            rope[name] for name in ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        )
        for index, value in enumerate(plain):
            length = 2 * math.pi / value
            if length > original / low:
                plain[index] = value / rope["factor"]
            elif length > original / high:
                share = (original / length - low) / (high - low)
                plain[index] = (1 - share) * value / rope["factor"] + share * value
    return torch.tensor(plain)


def rotated(heads: Tensor, rope: dict[str, Any]) -> Tensor:
    """Queries or keys `(batch, heads, time, width)` turned by their positions, pairs half a head apart."""
    angles = torch.outer(torch.arange(heads.shape[2]).float(), inverse_frequencies(rope, heads.shape[3]))
    first, second = heads.chunk(2, dim=-1)
    return torch.cat(
        [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()], dim=-1
    )


def attention(config: Any, block: Any, weights: Weights, name: str, values: Tensor) -> Tensor:
    """One attention block, `(batch, time, hidden)`."""
    heads, width, hidden = config.num_attention_heads, config.head_dim, config.hidden_size
    groups = heads // block.attention.n_heads_in_group
    bias = getattr(config, "attention_bias", False)

    def split(part: str, count: int) -> Tensor:
        product = weights.linear(f"{name}.{part}_proj", hidden, count * width, bias, values)
        return product.unflatten(-1, (count, width)).transpose(1, 2)  # (batch, heads, time, width)

    query, key = (rotated(split(part, count), config.rope_parameters) for part, count in (("q", heads), ("k", groups)))
    mixed = functional.scaled_dot_product_attention(query, key, split("v", groups), is_causal=True, enable_gqa=True)
    return weights.linear(f"{name}.o_proj", heads * width, hidden, bias, mixed.transpose(1, 2).flatten(2))


def mlp(config: Any, block: Any, rounded: bool, weights: Weights, name: str, values: Tensor) -> Tensor:
    """One MLP block, `(batch, time, hidden)`."""
    hidden, bias = config.hidden_size, config.mlp_bias
    width = channels(block.ffn, hidden, rounded)
    gate, up = (weights.linear(f"{name}.{part}_proj", hidden, width, bias, values) for part in ("gate", "up"))
    return weights.linear(f"{name}.down_proj", width, hidden, bias, functional.silu(gate) * up)


def logits_of(config: Any, rounded: bool, weights: Weights, input_ids: Tensor) -> Tensor:
    """The model's logits, `(batch, time, vocab)`; uses up the weights."""
    hidden = config.hidden_size
    embedding = weights.take("model.embed_tokens.weight", config.vocab_size, hidden)
    values, residual = embedding[input_ids], None

    def normed(name: str) -> tuple[Tensor, Tensor]:
        """Adds the last block's output to the stream, and norms it: (normed, stream)."""
        stream = values if residual is None else values + residual
        weight = weights.take(f"{name}.weight", hidden)
        return functional.rms_norm(stream, (hidden,), weight, config.rms_norm_eps), stream

    if config.block_configs[0].attention.no_op:
        raise ValueError("the loader starts the residual stream at the attention of the first layer, which has none")
    attending = [block.attention.n_heads_in_group for block in config.block_configs if not block.attention.no_op]
    if rounded and len(set(attending)) > 1:
        raise ValueError(f"the loader has one number of KV groups for all layers, not query heads a group {attending}")
    for index, block in enumerate(config.block_configs):
        prefix = f"model.layers.{index}"
        if not block.attention.no_op:
            values, residual = normed(f"{prefix}.input_layernorm")
            values = attention(config, block, weights, f"{prefix}.self_attn", values)
        if not block.ffn.no_op:
            values, residual = normed(f"{prefix}.post_attention_layernorm")
            values = mlp(config, block, rounded, weights, f"{prefix}.mlp", values)
    values, _ = normed("model.norm")
    head = embedding if config.tie_word_embeddings else weights.take("lm_head.weight", config.vocab_size, hidden)
    return functional.linear(values, head)


def answer(request: dict[str, Any], tensors: dict[str, Tensor]) -> dict[str, float]:
    """Reads a checkpoint and compares it.

    Args:
        request: The `directory`, and whether the loader is one of those that round widths (`rounded`).
        tensors: `inputs` and their `expected`.

    Returns:
        `logits_difference`, the largest as a fraction of the largest logit.
    """
    from safetensors.torch import load_file
    from transformers import AutoConfig

    directory = Path(request["directory"])
    config = AutoConfig.from_pretrained(directory, trust_remote_code=True)
    state: dict[str, Tensor] = {}
    for file in directory.glob("*.safetensors"):
        state |= load_file(file)
    weights = Weights(state)
    with torch.inference_mode():
        logits = logits_of(config, request["rounded"], weights, tensors["inputs"])
    weights.require_empty()
    expected = tensors["expected"]
    return {"logits_difference": float((logits - expected).abs().max() / expected.abs().max())}
