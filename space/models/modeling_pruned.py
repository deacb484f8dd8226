"""The modelling code of a pruned checkpoint: stock layers of unequal width, and holes where blocks are gone.

A search runs this very text, and an exported checkpoint of unequal layers carries it; only lines of names differ from
family to family. It takes the shapes of its layers from config.json and needs torch and transformers alone.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import Cache, PreTrainedModel, __version__
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.configuration_llama import LlamaConfig as StockConfig
from transformers.models.llama.modeling_llama import LlamaDecoderLayer as StockDecoderLayer
from transformers.models.llama.modeling_llama import LlamaForCausalLM as StockForCausalLM
from transformers.models.llama.modeling_llama import LlamaForSequenceClassification as StockForSequenceClassification
from transformers.models.llama.modeling_llama import LlamaModel as StockModel

STACK = "model"  # where the family keeps its stack, and in it its layers
LAYERS = "layers"  # of the stack
SIZES = ("num_attention_heads", "num_key_value_heads", "intermediate_size")  # as its configuration calls them
RATIO = ""  # what it has in place of the last of these, as so many times the residual stream's width
ATTENTION_OUTPUT = "o_proj"  # attention's output projection
TRANSPOSED = False  # whether weights are stored as (inputs, outputs)
QK_NORMS = ()  # norms of queries and keys
HEADS_FILL = False  # whether stock classes take heads to be as wide together as the residual stream
STAYING = {"attention": "", "mlp": ""}  # by block, the norm inside that stays and norms the stream where it is gone
ADDS_IN_PLACE = False  # whether a layer adds to what its MLP gives in place
MLP_IN_PAIRS = False  # whether an MLP gives something else beside that
NUMBERED = True  # whether a layer is told its number
WRITES = True  # whether models write: then no checkpoint has a classifier
LEAST = (4, 57)  # before, static caches have one head count for all layers, and configurations may ignore `layer_types`

if tuple(int(part) for part in __version__.split(".")[:2]) < LEAST:
    raise ImportError(f"Expected transformers {LEAST[0]}.{LEAST[1]} or newer for a pruned model, got {__version__}.")


class Hole(nn.Sequential):  # not `nn.Module`: a file's attention class that is one would forbid other backends
    """Stands where a block was: adds nothing to the residual stream. Has inside the norm that has stayed, if any."""

    def forward(self, hidden_states: Any, paired: bool = MLP_IN_PAIRS) -> Any:
        """A zero of shape `()`, which broadcasts in the residual addition; of the stream's where that is in place."""
        zero = hidden_states.new_zeros(hidden_states.shape if ADDS_IN_PLACE else ())
        return (zero, None) if paired else zero


class AttentionHole(Hole):
    """Stands where an attention block was."""

    query_heads = 0

    def __init__(self, stock: Any, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.config: Any = getattr(stock, "config", None)
        asked = ("is_sliding", "attention_type")  # by layers of older versions
        vars(self).update({name: getattr(stock, name) for name in asked if hasattr(stock, name)})

    def forward(self, hidden_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, None]:  # type: ignore[override]
        """What is added, or where blocks add themselves the stream behind the norm; and no attention weights."""
        if self.query_heads:  # never; but vLLM runs a model only if it reads this call in the text of every layer
            attend = ALL_ATTENTION_FUNCTIONS[self.config._attn_implementation]
            return attend(self, hidden_states, hidden_states, hidden_states, None)
        if STAYING["attention"]:
            return nn.Sequential.forward(self, hidden_states), None
        cache = next((value for value in kwargs.values() if isinstance(value, Cache)), None)  # its name has changed
        if cache is not None:  # so that lengths and masks may be read from any of its layers
            nothing = torch.zeros_like(hidden_states[:, None, :, :1])
            position = {"cache_position": kwargs["cache_position"]} if "cache_position" in kwargs else {}
            cache.update(nothing, nothing, self.layer_idx, *([position] if position else []))
        return super().forward(hidden_states, paired=True)


class PassedBy(nn.Sequential):
    """Stands where a norm of a block was, or what adds to the residual stream: hands on its last input, the stream."""

    def forward(self, *inputs: Any) -> Any:  # noqa: D102
        return super().forward(inputs[-1])


def rope_of_transformers_4(rope: dict[str, Any]) -> dict[str, Any]:
    """What transformers 4 reads in place of `rope_parameters`, which it ignores; transformers 5 reads both alike."""
    full = rope.get("full_attention", rope)  # Gemma 3 has one by type of layer, of which the sliding one is not scaled
    scaled = full["rope_type"] != "default"
    values = {
        "rope_theta": full["rope_theta"],
        "rope_scaling": {name: value for name, value in full.items() if name != "rope_theta"} if scaled else None,
    }
    if "partial_rotary_factor" in full:  # of which families have defaults of their own, and GPT-NeoX names of its own
        values["partial_rotary_factor"] = values["rotary_pct"] = full["partial_rotary_factor"]
        values["rotary_emb_base"] = full["rope_theta"]
    if full["rope_type"] == "longrope":
        values["original_max_position_embeddings"] = full["original_max_position_embeddings"]
    if "sliding_attention" in rope:
        values["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    return values


ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function", "activation")  # as families call its name
ACTIVATION = next(name for name in ACTIVATIONS if hasattr(StockConfig(), name))
NOT_STOCK = "layers of different sizes, for from_pretrained of an automatic class with trust_remote_code=True alone"


def guarded(values: dict[str, Any]) -> dict[str, Any]:
    """The contents of config.json as no stock class takes them; one would fill the holes with random weights."""
    # where the activation's name belongs, which each looks up, a sentence says so
    moved = {"own_activation": values[ACTIVATION]} if ACTIVATION in values else {}
    return {**values, **moved, ACTIVATION: NOT_STOCK}


class PrunedConfig(StockConfig):
    """The family's configuration; `per_layer_config` says what each layer keeps, and skips.

    Its `model_type` is its own, so that transformers' automatic classes refuse the checkpoint where its code is not
    trusted. `block_modules` says which modules of a layer belong to a block: the block itself, then its norms.
    """

    model_type = f"pruned_{StockConfig.model_type}"
    if isinstance(getattr(StockConfig, "head_dim", None), property):  # of sizes that a layer has of its own
        head_dim = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As the stock one, of guarded values too."""
        values = dict(config_dict)
        place = next((name for name, value in values.items() if value == NOT_STOCK), None)
        if place is not None:  # which another version may call differently
            del values[place]
            if "own_activation" in values:
                values[place] = values.pop("own_activation")
        return super().from_dict(values, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """As the stock one, guarded: what config.json is written from."""
        return guarded(super().to_diff_dict())

    def to_dict(self) -> dict[str, Any]:
        """As the stock one, for both generations of transformers."""
        values = {**super().to_dict(), "num_hidden_layers": self.num_hidden_layers}  # whatever the family calls it
        rope = values.get("rope_parameters")  # a stock one of transformers 4 has none
        return rope_of_transformers_4(rope) | values if rope else values


def layer_config(config: Any, layer_idx: int) -> Any:
    """The configuration of one layer: the model's, with what its entry of `per_layer_config` says instead."""
    layers = getattr(config, "per_layer_config", None) or {}
    if not isinstance(layers, dict):
        return layers[layer_idx]  # newer transformers put the two together themselves
    own = copy.copy(config)
    for name, value in {int(index): entry for index, entry in layers.items()}.get(layer_idx, {}).items():
        setattr(own, name, value)
    return own


class LayerConfig:
    """The configuration as a layer's modules see it: its own sizes, and all else as the model's is at that time."""

    def __init__(self, config: Any, sizes: dict[str, int]) -> None:
        vars(self).update(sizes, shared_config=config)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "shared_config":  # while it is copied
            raise AttributeError(name)
        return getattr(self.shared_config, name)


def seen_config(config: Any, own: Any) -> LayerConfig:
    """What modules see of the model's configuration, with the sizes of the layer's own or of another such view."""
    return LayerConfig(config, {name: getattr(own, name) for name in SIZES})


def with_narrow_heads(stock: Any, own: Any, layer_idx: int) -> Any:
    """A block like a stock one, whose class takes heads to fill the residual stream, with the heads of `own`."""
    inner = copy.copy(own)
    inner.hidden_size = getattr(own, SIZES[0]) * own.head_dim
    attention = type(stock)(inner, **({"layer_idx": layer_idx} if NUMBERED else {}))
    for path, module in stock.named_modules():
        parent, _, name = path.rpartition(".")
        if hasattr(module, "weight") and name not in QK_NORMS:
            if module.weight.ndim == 2:  # a projection, where norms are of the stream's width in the stock one already
                inputs, outputs = attention.get_submodule(path).weight.shape[:: 1 if TRANSPOSED else -1]
                sizes = (inputs, own.hidden_size) if path == ATTENTION_OUTPUT else (own.hidden_size, outputs)
                bias = {} if TRANSPOSED else {"bias": module.bias is not None}  # a Conv1D always has one
                module = type(module)(*(sizes[::-1] if TRANSPOSED else sizes), **bias)
            setattr(attention.get_submodule(parent), name, module)
    return attention


class PrunedDecoderLayer(StockDecoderLayer):
    """One stock layer in its own widths, with holes for the blocks that it skips."""

    def __init__(self, config: Any, layer_idx: int) -> None:
        stock = copy.copy(own := layer_config(config, layer_idx))
        if HEADS_FILL:
            setattr(stock, SIZES[0], 1)
        if RATIO:
            stock = LayerConfig(stock, {RATIO: (getattr(own, SIZES[-1]) + 0.5) / own.hidden_size})  # it rounds down
        super().__init__(stock, **({"layer_idx": layer_idx} if NUMBERED else {}))
        if HEADS_FILL:
            name = config.block_modules["attention"][0]
            setattr(self, name, with_narrow_heads(getattr(self, name), own, layer_idx))
        if getattr(own, "normed", False):  # its attention, where it has become the first layer, whose class has no norm
            norm, like = (config.block_modules[block][-1] for block in ("attention", "mlp"))
            setattr(self, norm, copy.deepcopy(getattr(self, like)))
        for block in getattr(own, "skip", None) or ():
            self.skip(block, config.block_modules[block], layer_idx)
        for module in self.modules():
            if hasattr(module, "config"):
                module.config = seen_config(config, own)

    def skip(self, block: str, modules: list[str], layer_idx: int) -> None:
        """Puts a hole in the place of a block; its norms go with it, but for one that stays."""
        staying, (name, *others) = STAYING[block], modules
        norm = self.get_submodule(staying)  # an empty path is the layer itself
        setattr(self, name, AttentionHole(getattr(self, name), layer_idx) if block == "attention" else Hole())
        for other in others:
            setattr(self, other, PassedBy())
        if staying:
            (*path, name), hole = staying.split("."), self
            for part in path:
                hole = hole._modules.setdefault(part, PassedBy())
            setattr(hole, name, norm)


@contextmanager
def _no_stock_layers(config: Any) -> Iterator[None]:
    """Keeps a stock constructor from building dense layers that would be thrown away."""
    count, config.num_hidden_layers = config.num_hidden_layers, 0
    try:
        yield
    finally:
        config.num_hidden_layers = count


class PrunedModel(StockModel):
    """The decoder stack."""

    config_class = PrunedConfig
    _no_split_modules = ["PrunedDecoderLayer"]  # noqa: RUF012  (the name and kind are transformers')

    def __init__(self, config: Any, **arguments: Any) -> None:
        with _no_stock_layers(config):
            super().__init__(config, **arguments)
        layers = nn.ModuleList(PrunedDecoderLayer(config, index) for index in range(config.num_hidden_layers))
        place, _, name = LAYERS.rpartition(".")
        setattr(self.get_submodule(place), name, layers)
        self.post_init()

    @functools.wraps(StockModel.forward)  # whose arguments vLLM looks for
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the stock one; where attention weights are asked for, they have None in the place of each hole."""
        outputs = super().forward(*args, **kwargs)
        weights, layers = getattr(outputs, "attentions", None) or (), self.get_submodule(LAYERS).children()
        holes = [any(isinstance(module, AttentionHole) for module in layer.children()) for layer in layers]
        if weights and len(weights) == holes.count(False):  # transformers collects those that there are
            collected = iter(weights)
            outputs.attentions = tuple(None if hole else next(collected) for hole in holes)
        return outputs


class PrunedForCausalLM(StockForCausalLM):
    """The decoder stack and the LM head."""

    config_class = PrunedConfig
    _no_split_modules = ["PrunedDecoderLayer"]  # noqa: RUF012

    def __init__(self, config: Any) -> None:
        with _no_stock_layers(config):
            super().__init__(config)
        setattr(self, STACK, PrunedModel(config))
        name = next(name for name, child in self.named_children() if child is self.get_output_embeddings())
        if name != "lm_head":  # as another version calls it, which still looks it up so
            self.__dict__[name] = self.lm_head = self._modules.pop(name)
        self.post_init()


class PrunedForSequenceClassification(StockForSequenceClassification):
    """The stack and a head: an encoder's own, or a classifier of the last token, which no export holds: train it."""

    config_class = PrunedConfig
    _no_split_modules = ["PrunedDecoderLayer"]  # noqa: RUF012

    def __init__(self, config: Any) -> None:
        if WRITES:
            PreTrainedModel.__init__(self, config)  # the stock class would look for the stack's class by the config
            self.num_labels, stack = config.num_labels, PrunedModel(config)
            self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)
        else:
            with _no_stock_layers(config):
                super().__init__(config)
            pools = [stock.pooler is not None for stock in [getattr(self, STACK)] if hasattr(stock, "pooler")]
            stack = PrunedModel(config, **({"add_pooling_layer": pools[0]} if pools else {}))
        setattr(self, STACK, stack)
        self.post_init()
