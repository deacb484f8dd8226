"""The modelling code of a pruned checkpoint: stock layers of unequal width, and holes where blocks are gone.

An exported checkpoint of unequal layers carries this file, with the imports and names marked below set for its family.
It needs torch and transformers only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, DummyLayer

# Set for the family on export.
from transformers.models.llama.configuration_llama import LlamaConfig as StockConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer as StockDecoderLayer
from transformers.models.llama.modeling_llama import LlamaForCausalLM as StockForCausalLM
from transformers.models.llama.modeling_llama import LlamaModel as StockModel

MODEL_TYPE = "pruned_llama"
ATTENTION_NORMS = ("input_layernorm",)
MLP_NORMS = ("post_attention_layernorm",)


class _CacheHole(nn.Module):
    """A module in the place of attention: stores nothing in the key-value cache, and says so."""

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx

    def mark(self, cache: Cache | None) -> None:
        """Marks this layer of the cache as empty, so that lengths and masks are read from another one."""
        if cache is None or (self.layer_idx < len(cache.layers) and cache.is_dummy[self.layer_idx]):
            return
        while len(cache.layers) <= self.layer_idx:  # a cache made without a config grows as layers report
            cache.layers.append(cache.layer_class_to_replicate())
        cache.layers[self.layer_idx] = DummyLayer()


class NoAttention(_CacheHole):
    """Stands where an attention block was: adds nothing to the residual stream."""

    def forward(
        self, hidden_states: torch.Tensor, past_key_values: Cache | None = None, **kwargs: Any
    ) -> tuple[torch.Tensor, None]:
        """A zero of shape `()`, which broadcasts in the residual addition, and no attention weights."""
        self.mark(past_key_values)
        return hidden_states.new_zeros(()), None


class NoLayer(_CacheHole):
    """Stands where a whole decoder layer was: hands the residual stream on."""

    def forward(self, hidden_states: torch.Tensor, past_key_values: Cache | None = None, **kwargs: Any) -> torch.Tensor:
        """The input itself, `(batch, time, hidden)`."""
        self.mark(past_key_values)
        return hidden_states


class NoMLP(nn.Module):
    """Stands where an MLP block was: adds nothing to the residual stream."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """A zero of shape `()`, which broadcasts in the residual addition."""
        return hidden_states.new_zeros(())


class PrunedConfig(StockConfig):
    """The family's configuration; `per_layer_config` says what each layer keeps.

    Its `model_type` is its own, so that stock classes refuse the checkpoint; they would fill its holes with random
    weights.
    """

    model_type = MODEL_TYPE


class PrunedDecoderLayer(StockDecoderLayer):
    """One stock layer in its own widths, with holes for the blocks named in `skip`."""

    def __init__(self, config: PrunedConfig, layer_idx: int) -> None:
        shape = config.per_layer_config[layer_idx]
        super().__init__(shape, layer_idx)
        skip = getattr(shape, "skip", ())
        if "attention" in skip:
            self.self_attn = NoAttention(layer_idx)
            for name in ATTENTION_NORMS:
                setattr(self, name, nn.Identity())
        if "mlp" in skip:
            self.mlp = NoMLP()
            for name in MLP_NORMS:
                setattr(self, name, nn.Identity())
        for module in self.modules():  # the attention backend is looked up, and may be changed later, on the shared one
            if hasattr(module, "config"):
                module.config = config


@contextmanager
def _no_stock_layers(config: PrunedConfig) -> Iterator[None]:
    """Keeps a stock constructor from building dense layers that would be thrown away."""
    count = config.num_hidden_layers
    config.num_hidden_layers = 0
    try:
        yield
    finally:
        config.num_hidden_layers = count


class PrunedModel(StockModel):
    """The decoder stack."""

    config_class = PrunedConfig
    _no_split_modules = ["PrunedDecoderLayer"]  # noqa: RUF012  (the name and kind are transformers')

    def __init__(self, config: PrunedConfig) -> None:
        with _no_stock_layers(config):
            super().__init__(config)
        self.layers = nn.ModuleList(PrunedDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        self.post_init()


class PrunedForCausalLM(StockForCausalLM):
    """The decoder stack and the LM head."""

    config_class = PrunedConfig
    _no_split_modules = ["PrunedDecoderLayer"]  # noqa: RUF012

    def __init__(self, config: PrunedConfig) -> None:
        with _no_stock_layers(config):
            super().__init__(config)
        self.model = PrunedModel(config)
        self.post_init()
