"""Plain slices of dense weights in place of refits: blocks of the very shapes, for what depends on no values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from space.candidate import LayerShape
from space.models.architectures import architecture_of
from space.models.block_layout import PARTS
from space.models.layout import Architecture
from space.spec import ModelSpec
from space.supernet.units import (
    BlockWeights,
    attention_columns,
    first_experts,
    joined_rows,
    narrower,
    output_weight,
    own_parameters,
    split_rows,
    weights_of,
)


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
        self._family: Architecture = architecture_of(spec.family)

    def block(self, index: int, kind: str, shape: LayerShape) -> BlockWeights:
        """See `space.supernet.refits.Refits.block`."""
        spec, layout = self._spec, self._family.blocks[kind]
        block = self._layers[index].get_submodule(layout.module)
        if layout.routed:
            return first_experts(block, layout, shape)
        weight = output_weight(block, layout)
        if kind == "mlp":
            return narrower(block, layout, spec, shape, weight[:, : shape.mlp_channels].contiguous())
        if shape.queries_per_group > spec.queries_per_group:
            return self._merged(block, shape)
        columns = attention_columns(spec, shape.queries_per_group)[: shape.query_heads * spec.head_dim]
        return narrower(block, layout, spec, shape, weight.index_select(1, columns.to(weight.device)))

    def _merged(self, attention: Any, shape: LayerShape) -> BlockWeights:
        """An attention block under whose query heads there are fewer groups of keys and values."""
        layout, width = self._family.attention, self._spec.head_dim
        parameters = {layout.output: dict(own_parameters(attention.get_submodule(layout.output)))}
        for projection in layout.inputs:
            parameters[projection.name] = {
                key: joined_rows(
                    projection,
                    [
                        rows[: PARTS[part](shape, width)]
                        for part, rows in split_rows(self._spec, projection, tensor).items()
                    ],
                    shape.kv_heads,
                )
                for key, tensor in own_parameters(attention.get_submodule(projection.name))
            }
        return weights_of(attention, parameters)
