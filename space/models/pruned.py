"""What a pruned model is in transformers: its classes, made from the text that exports carry, and its configuration."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from space.candidate import Candidate, LayerShape
from space.models.architectures import architecture_of, model_type_of
from space.models.layout import SizeNames
from space.models.modeling import auto_map, modeling_of
from space.models.stack import PRUNED, family_of
from space.spec import ModelSpec
from space.task import TASKS

LISTS = ("layer_types", "no_rope_layers", "mlp_layer_types")  # of a configuration, with an entry for every layer
_BY_NUMBER = ("out_features", "out_indices", "stage_names")  # layers that are read of a backbone, which no export is


def block_modules(family_name: str) -> dict[str, list[str]]:
    """By kind of block, the modules of a decoder layer that leave with it: the block itself, then its norms."""
    return {kind: layout.modules for kind, layout in architecture_of(family_name).blocks.items()}


def logit_scale(config: Any) -> float:
    """What a model multiplies its LM head's products by."""
    scale: float | None = getattr(config, "logit_scale", None)
    return 1.0 / getattr(config, "logits_scaling", 1.0) if scale is None else scale


def logit_cap(config: Any) -> float | None:
    """Where a model's logits end softly, at cap · tanh(logits / cap); None where they do not."""
    cap: float | None = getattr(config, "final_logit_softcapping", None)
    return cap


def block_scale(layer: Any) -> float:
    """What a decoder layer multiplies a block's output by before it is added to the residual stream."""
    return getattr(layer, "residual_multiplier", 1.0)


def set_groups(attention: Any, query_heads: int, groups: int) -> None:
    """Tells a stock attention module of fewer groups under its query heads, by what families call that."""
    sizes = {"num_key_value_groups": query_heads // groups, "num_key_value_heads": groups, "num_kv_heads": groups}
    for name, size in sizes.items():
        if hasattr(attention, name):
            setattr(attention, name, size)


def start_midway(stack: Any) -> None:
    """Has a decoder stack take embeddings that it is given as a residual stream: scaled, with positions in it."""
    if hasattr(stack, "embedding_multiplier"):
        stack.embedding_multiplier = 1.0
    names = family_of(stack).stack
    place, _, name = (names.entry or names.positions or "").rpartition(".")
    holder = stack.get_submodule(place)
    if name:
        setattr(holder, name, _AsGiven(getattr(holder, name)) if names.entry is not None else _NoPositions())


class _AsGiven(nn.Module):
    """Stands for what makes a residual stream of embeddings where these are one already.

    It has the children of that but for tables: stacks look up what their weights are in.
    """

    def __init__(self, entry: nn.Module) -> None:
        super().__init__()
        for name, child in entry.named_children():
            if not isinstance(child, nn.Embedding):
                setattr(self, name, child)

    def forward(self, *inputs: Tensor | None, inputs_embeds: Tensor | None = None, **arguments: Any) -> Tensor:
        """What it is given."""
        return next(each for each in (inputs_embeds, *inputs) if each is not None)


class _NoPositions(nn.Module):
    """Stands for embeddings of positions where these are in the residual stream already."""

    def forward(self, positions: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """A zero of shape `()`, which broadcasts."""
        return torch.zeros((), device=positions.device)


def layer_values(shape: LayerShape, names: SizeNames, dense: LayerShape | None = None) -> dict[str, Any]:
    """A layer's sizes under the configuration's names, and `skip` for the blocks that are gone.

    Attention that is gone counts as one head, for which vLLM then leaves room in its cache.

    Args:
        shape: What the layer keeps.
        names: What the configuration calls the sizes.
        dense: Leaves out what is as here; None for nothing.
    """
    values: dict[str, Any] = {}
    whole = names.of(dense) if dense else {}
    for name, kept in names.of(shape).items():
        size = kept or (0 if name == names.mlp_channels else 1)
        if dense is None or (size and size != whole.get(name)):
            values[name] = size
    skip = [name for name, size in (("attention", shape.query_heads), ("mlp", shape.mlp_channels)) if not size]
    return values | ({"skip": skip} if skip else {})


class PrunedConfigs:
    """Makes the configurations of one dense model's subnets."""

    def __init__(self, dense_config: Any, spec: ModelSpec) -> None:
        """Takes the dense model's own, which is not changed."""
        self._spec, self._dense = spec, Candidate.dense(spec).layers
        family = architecture_of(spec.family)
        self._sizes, self._depth, self._bare_first = family.sizes, family.depth, spec.bare_first
        every = LayerShape(spec.query_heads, spec.kv_heads, spec.mlp_channels)
        values = _values(dense_config) | layer_values(every, self._sizes)
        values |= {
            "model_type": f"{PRUNED}{model_type_of(spec.family)}",
            "head_dim": spec.head_dim,
            self._depth: spec.layers,
            "architectures": [TASKS[spec.task].pruned],
            "auto_map": auto_map(spec.family),
            "block_modules": block_modules(spec.family),
            "allow_global_per_layer_attribute_access": True,  # the stock config's own validation reads a head count
        }
        values |= {"normed": False} if spec.bare_first else {}
        values.pop("per_layer_config", None)
        values.pop("output_router_logits", None)  # of layers that differ, from which no one loss can be made
        if (scale := logit_scale(dense_config)) != 1:
            values["logit_scale"] = scale  # for vLLM's backend of models with their own code
        self._values = values
        self.dense = modeling_of(spec.family).PrunedConfig.from_dict(values)
        self.dense._attn_implementation = dense_config._attn_implementation
        self.dense._experts_implementation = dense_config._experts_implementation

    def json_values(self, candidate: Candidate, start: int = 0) -> dict[str, Any]:
        """What config.json says of a candidate without its first `start` layers; layers that are gone do not count."""
        layers = [index for index in range(start, len(candidate.layers)) if not candidate.layers[index].gone]
        depth = dict.fromkeys((self._depth, "num_hidden_layers"), len(layers))  # transformers reads the latter of any
        values = {**self._values, **depth, **_by_layer(self._values, layers, self._spec)}
        values["per_layer_config"] = {
            str(place): layer_values(candidate.layers[index], self._sizes, self._dense[index])
            for place, index in enumerate(layers)
            if candidate.layers[index] != self._dense[index]
        }
        if self._bare_first and layers[0] != 0:
            values["per_layer_config"].setdefault("0", {})["normed"] = True
        return values

    def of(self, candidate: Candidate, start: int = 0) -> Any:
        """The same as a configuration, made from the dense one's copy, which takes a part of a millisecond."""
        values, config = self.json_values(candidate, start), copy.deepcopy(self.dense)
        for name in (self._depth, *_by_layer(values, (), self._spec), "per_layer_config"):
            setattr(config, name, values[name])
        return config

    def layer(self, index: int, shape: LayerShape) -> Any:
        """The configuration of one of the dense model's layers at a shape, as its constructor takes it."""
        config = copy.copy(self.dense)
        for name, value in layer_values(shape, self._sizes, self._dense[index]).items():
            setattr(config, name, value)
        return config


def checkpoint_config(dense_config: Any, candidate: Candidate, spec: ModelSpec) -> dict[str, Any]:
    """The contents of `config.json`: the stock family's where all layers left are equal, else with `per_layer_config`.

    Args:
        dense_config: The dense model's transformers config.
        candidate: The layers to describe, some with attention; those that are gone do not count as layers any more.
        spec: The dense model.
    """
    kept, family = candidate.kept, architecture_of(spec.family)
    shape = next((candidate.layers[index] for index in kept if index not in spec.plain_mlps), LayerShape.of())
    # an MLP among mixtures, which is whole
    plain = replace(shape, mlp_channels=spec.plain_channels, expert_channels=0)
    alike = all(candidate.layers[index] == (plain if index in spec.plain_mlps else shape) for index in kept)
    # what the stock class cannot be: of fewer heads, where these fill the stream; with a norm that first layers lack
    other = (family.heads_fill and shape.query_heads != spec.query_heads) or (spec.bare_first and kept[0])
    sizes = family.sizes.stock(layer_values(shape, family.sizes), spec.hidden)
    if alike and shape.mlp_channels and not other and sizes is not None:
        values = _values(dense_config) | sizes
        values |= {family.depth: len(kept), **_by_layer(values, kept, spec)}
        if not isinstance(getattr(type(dense_config), "head_dim", None), property):
            values["head_dim"] = spec.head_dim
        values["architectures"] = [family.classes.of(spec.use)]
        if _is_valid(type(dense_config), values, spec.head_dim):
            return values
    own: dict[str, Any] = modeling_of(spec.family).guarded(PrunedConfigs(dense_config, spec).json_values(candidate))
    return own


def _values(dense_config: Any) -> dict[str, Any]:
    """What the dense model's configuration says that holds with fewer layers too."""
    return {name: value for name, value in dense_config.to_diff_dict().items() if name not in _BY_NUMBER}


def _by_layer(values: Mapping[str, Any], layers: Sequence[int], spec: ModelSpec) -> dict[str, Any]:
    """What a configuration lists by layer, of the ones that are left, or says of some of them."""
    routed = architecture_of(spec.family).mlp.routed
    plain = [place for place, index in enumerate(layers) if index in spec.plain_mlps]
    said = routed.plain.says(plain) if routed is not None and routed.plain is not None else {}
    assert said is not None, f"{spec.family}: layers that are gone change no order"
    lists = {name: [values[name][index] for index in layers] for name in LISTS if values.get(name) is not None}
    return lists | said


def _is_valid(config_class: Any, values: dict[str, Any], head_dim: int) -> bool:
    """Whether a family's config takes these values; some want a hidden size that is a multiple of the heads."""
    try:
        config = config_class.from_dict(values)
    except StrictDataclassError:
        return False
    return bool(getattr(config, "head_dim", head_dim) == head_dim)  # some make their own of hidden size and heads
