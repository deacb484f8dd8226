"""Calibration text to Gram matrices, layer after layer, so that one layer's matrices are in memory at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from space.errors import UserError


@dataclass(frozen=True)
class LayerStatistics:
    """What calibration learns of one decoder layer.

    Attributes:
        index: The layer.
        attention_gram: XᵀX / tokens of `o_proj`'s input, float32, shape (query_heads · head_dim,) * 2.
        mlp_gram: XᵀX / tokens of `down_proj`'s input, float32, shape (mlp_channels, mlp_channels).
        influence: 1 − mean cosine of the residual stream before and after the layer (Block Influence of ShortGPT,
            Men et al. 2024, eq. 1): small for a layer that changes little.
        inputs: Residual streams before the layer, each float32 of shape (windows, time, hidden).
        arguments: What else the layer is called with.
    """

    index: int
    attention_gram: Tensor
    mlp_gram: Tensor
    influence: float
    inputs: list[Tensor]
    arguments: dict[str, Any]


class _Gram:
    """Accumulates XᵀX of a module's input in float32 while its hook is on."""

    def __init__(self, projection: nn.Linear) -> None:
        size = projection.in_features
        self.total = torch.zeros(size, size, device=projection.weight.device)
        self._handle = projection.register_forward_pre_hook(self._add)

    def _add(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = inputs[0].detach().flatten(0, -2).float()  # (batch · time, columns)
        self.total.addmm_(rows.T, rows)

    def close(self) -> None:
        self._handle.remove()


class Captured(Exception):  # noqa: N818 - control flow of one forward pass, never seen outside
    """Stops the forward pass once the first layer's input is known."""


def layer_arguments(model: Any, tokens: Tensor) -> list[dict[str, Any]]:
    """Keyword arguments (mask, position embeddings) that the model hands to each decoder layer, for one window."""
    arguments: list[dict[str, Any]] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arguments.append({name: value for name, value in kwargs.items() if name != "past_key_values"})

    layers = model.model.layers
    handles = [layer.register_forward_pre_hook(record, with_kwargs=True) for layer in layers]
    try:
        model.model(tokens[:1], use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return arguments


def first_inputs(model: Any, batches: tuple[Tensor, ...]) -> list[Tensor]:
    """Residual stream before the first layer, one tensor (batch, time, hidden) a batch."""
    states: list[Tensor] = []

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])
        raise Captured

    handle = model.model.layers[0].register_forward_pre_hook(record, with_kwargs=True)
    try:
        for batch in batches:
            try:
                model.model(batch, use_cache=False)
            except Captured:
                continue
    finally:
        handle.remove()
    return states


@torch.no_grad()
def gather(model: Any, tokens: Tensor, *, forward_dtype: torch.dtype, batch_size: int = 8) -> Iterator[LayerStatistics]:
    """Statistics of each decoder layer of the dense model, in order.

    The residual stream of all tokens is kept before and after a layer (2 · tokens × hidden values); every layer runs
    once over it, with autocast to `forward_dtype` and float32 accumulation. A layer's weights may be permuted before
    the next one is asked for.

    Args:
        model: Causal LM with float32 weights.
        tokens: Token ids, shape (windows, length).
        forward_dtype: `torch.bfloat16` where the device is fast at it, else `torch.float32`.
        batch_size: Windows of a forward pass.

    Raises:
        UserError: Activations are not finite.
    """
    device = next(model.parameters()).device
    tokens = tokens.to(device)
    batches = tokens.split(batch_size)
    arguments = layer_arguments(model, tokens)
    states = first_inputs(model, batches)
    for index, layer in enumerate(model.model.layers):
        grams = _Gram(layer.self_attn.o_proj), _Gram(layer.mlp.down_proj)
        cosine = torch.zeros((), device=device)
        try:
            after = []
            for state in states:
                with torch.autocast(device.type, dtype=forward_dtype, enabled=forward_dtype != torch.float32):
                    after.append(layer(state, **arguments[index]).float())
                cosine += F.cosine_similarity(state, after[-1], dim=-1).sum()
        finally:
            for gram in grams:
                gram.close()
        count = tokens.numel()
        attention, mlp = (gram.total / count for gram in grams)
        places = {"its o_proj reads": attention, "its down_proj reads": mlp, "it hands on": cosine}
        _require_finite(index, places, forward_dtype)
        yield LayerStatistics(index, attention, mlp, 1 - cosine.item() / count, states, arguments[index])
        states = after


def _require_finite(index: int, places: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Refuses activations that are not finite, in the first of a layer's places where what is made of them is not."""
    for place, values in places.items():
        if not values.isfinite().all():
            advice = "check that it writes sensible text in transformers, and that its config.json is its own"
            if dtype == torch.float16:
                advice = "float16 ends at 65,504; set model.dtype=bfloat16 or float32"
            raise UserError(
                f"Expected finite activations of the dense model on the calibration text, but in layer {index} what "
                f"{place} is not, in {str(dtype).removeprefix('torch.')}, though all weights are: {advice}."
            )
