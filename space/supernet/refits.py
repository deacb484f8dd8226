"""Weights of narrower blocks: refits of one set of dense weights, from maps that are stored once for all sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from space.candidate import LayerShape, Option
from space.models.architectures import architecture_of
from space.models.layout import Architecture
from space.models.stack import layers_of, stack_of
from space.supernet.compensation import refits, solving_dtype
from space.supernet.modules import own_modules, put_parameter
from space.supernet.sizes import merged_name, merges
from space.supernet.solved import NOTHING, OnDisk, SolvedLevels
from space.supernet.store import StoredLayers
from space.supernet.units import (
    BlockWeights,
    attention_columns,
    first_experts,
    narrower,
    output_weight,
    own_parameters,
)

Solved = dict[tuple[int, str, Option], Tensor]  # by layer, kind of block and option, shape (hidden, columns kept)


class Refits:
    """The narrower blocks of some dense layers."""

    def __init__(
        self,
        layers: Sequence[Any],
        files: StoredLayers,
        learned: Mapping[str, Tensor],
        device: torch.device,
        on_disk: OnDisk = NOTHING,
        given: Solved | None = None,
    ) -> None:
        """Makes nothing yet.

        Args:
            layers: Decoder layers, units in their order.
            files: What is stored of the supernet.
            learned: Other weights of merged groups than the stored ones, by `shared_name`.
            device: Where refits are solved; they are put where their layer is.
            on_disk: What is kept there of what was solved.
            given: Output projections that need not be solved, in the layers' dtype.
        """
        self._layers = layers
        self._files = files
        self._learned = learned
        self._device = device
        self._solved, self._given = SolvedLevels(files, on_disk), {} if given is None else given
        self._family: Architecture = architecture_of(files.spec.family)

    def block(self, index: int, kind: str, shape: LayerShape) -> BlockWeights:
        """Weights of a layer's block of a kind at a shape at which it is neither whole nor gone."""
        spec, layout = self._files.spec, self._family.blocks[kind]
        if merges(spec, kind, shape):
            return self._merged(index, shape.kv_heads)
        block = self._layers[index].get_submodule(layout.module)
        if layout.routed:
            return first_experts(block, layout, shape)
        dense = output_weight(block, layout)
        option = shape.option(kind)
        output = self._given.get((index, kind, option))
        output = self._solved.get(index, kind, option, dense.device) if output is None else output.to(dense.device)
        if output is None:
            solve = self._mlp_output if kind == "mlp" else self._attention_output
            output = solve(index, shape, dense.to(self._device)).to(dense.device)
        return narrower(block, layout, spec, shape, output)

    def _mlp_output(self, index: int, shape: LayerShape, dense: Tensor) -> Tensor:
        """The refit output projection at a shape, and all that are to be kept with it, if it is to be kept itself."""
        kept = self._solved.kept_channels(dense.dtype)
        levels = kept if shape.mlp_channels in kept else [shape.mlp_channels]
        blocks = self._files.maps(index, self._device, last_first=True)
        for level, output in refits(dense, blocks, levels):
            if level in kept:
                self._solved.put(index, "mlp", (level,), output)
            if level == shape.mlp_channels:
                asked = output
        return asked

    def _attention_output(self, index: int, shape: LayerShape, dense: Tensor) -> Tensor:
        """The refit output projection at a shape whose groups are not merged."""
        spec, exact = self._files.spec, solving_dtype(dense.dtype)
        columns = attention_columns(spec, shape.queries_per_group).to(dense.device)
        kept, dropped = columns.split([(first := shape.query_heads * spec.head_dim), len(columns) - first])
        solved = self._files.dropped_map(index, "attention", shape, self._device, exact)
        output = torch.addmm(dense[:, kept].to(exact), dense[:, dropped].to(exact), solved).to(dense.dtype)
        self._solved.put(index, "attention", shape.option("attention"), output)
        return output

    def _merged(self, index: int, groups: int) -> BlockWeights:
        """A layer's attention with merged KV groups, as it is stored or was learned."""
        layout = self._family.attention
        attention = self._layers[index].get_submodule(layout.module)
        device = attention.get_submodule(layout.output).weight.device

        def tensor(name: str) -> Tensor:
            learned = self._learned.get(shared_name(index, groups, name))
            return self._files.tensor(index, merged_name(groups, name), device) if learned is None else learned

        parameters = {
            name: {key: tensor(f"{name}.{key}") for key, _ in own_parameters(attention.get_submodule(name))}
            for name in layout.projections
        }
        owned = sum(tensor.nbytes for held in parameters.values() for tensor in held.values())
        return BlockWeights(parameters, owned)


MERGED = "layers."  # before the number of a layer, in names of weights of its merged groups


def shared_name(index: int, groups: int, parameter: str) -> str:
    """What a weight of a layer's attention with so many merged groups is called among shared weights."""
    return f"{MERGED}{index}.merged_{groups}.{parameter}"


def partly_learned(
    model: Any, files: StoredLayers, learned: Mapping[str, Tensor], strength: float
) -> tuple[Any, dict[str, Tensor]]:
    """A causal LM with a part of what subnets have learned together: W + strength · (learned − W), in W's dtype.

    Args:
        model: The dense one, which keeps its weights.
        files: What is stored of merged groups.
        learned: Shared weights by name.
        strength: From 0 to 1.

    Returns:
        The model, with modules of its own, and the weights of merged groups.

    Raises:
        ValueError: A name or a shape is not that of a weight of the model.
    """
    other, merged = own_modules(model), {}
    for name, tensor in learned.items():
        place, _, key = name.rpartition(".")
        if ".merged_" in name:
            _, index, groups, parameter = name.split(".", 3)
            device = next(layers_of(model).parameters()).device
            stored = files.tensor(int(index), merged_name(int(groups.removeprefix("merged_")), parameter), device)
            merged[name] = _between(stored, tensor, strength)
            continue
        module = stack_of(other).get_submodule(place)
        here = module._parameters.get(key)
        if here is None or here.shape != tensor.shape:
            raise ValueError(f"Supernet: expected {name} as in the model, got shape {tuple(tensor.shape)}.")
        put_parameter(module, key, _between(here.detach(), tensor, strength))
    return other, merged


def _between(weight: Tensor, learned: Tensor, strength: float) -> Tensor:
    if strength == 1:
        return learned.to(weight)
    return torch.lerp(weight.float(), learned.to(weight.device).float(), strength).to(weight.dtype)
