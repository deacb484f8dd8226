"""Plain slices of dense weights in place of refits: blocks of the very shapes, for what depends on no values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from space.candidate import LayerShape
from space.spec import ModelSpec
from space.supernet.units import BlockWeights, attention_columns, narrower, own_parameters


class Slices:
    """The narrower blocks of some dense layers, with nothing solved and nothing read.

    An output projection is a contiguous copy of its kept columns, as refits and exports are.
    """

    def __init__(self, layers: Sequence[Any], spec: ModelSpec) -> None:
        """Makes nothing yet.

        Args:
            layers: Decoder layers, units in their order.
            spec: The model in numbers.
        """
        self._layers = layers
        self._spec = spec

    def block(self, index: int, kind: str, shape: LayerShape) -> BlockWeights:
        """See `space.supernet.refits.Refits.block`."""
        spec, layer = self._spec, self._layers[index]
        if kind == "mlp":
            weight = layer.mlp.down_proj.weight.detach()[:, : shape.mlp_channels].contiguous()
            return narrower(layer.mlp, spec, shape, "down_proj", weight)
        attention = layer.self_attn
        weight = attention.o_proj.weight.detach()
        if shape.queries_per_group > spec.queries_per_group:
            return self._merged(attention, shape.kv_heads)
        columns = attention_columns(spec, shape.queries_per_group)[: shape.query_heads * spec.head_dim]
        return narrower(attention, spec, shape, "o_proj", weight.index_select(1, columns.to(weight.device)))

    def _merged(self, attention: Any, groups: int) -> BlockWeights:
        """An attention block under whose query heads there are fewer groups of keys and values."""
        rows = dict.fromkeys(("k_proj", "v_proj"), groups * self._spec.head_dim)
        parameters = {
            name: {key: tensor[: rows.get(name)] for key, tensor in own_parameters(getattr(attention, name))}
            for name in ("q_proj", "k_proj", "v_proj", "o_proj")
        }
        return BlockWeights(parameters, 0)
