"""Blocks in types of fewer bits: refit first, then rounded, so that a view computes what a file of its codes computes.

A projection is rounded with the Gram matrix of what the dense model's reads, of which later columns make up for earlier
ones (`space.rounding.gram_rounding`). That of an output projection is stored for refits, and those of input projections
where the supernet was prepared for types; else these are rounded to the nearest values, and so are output projections
of merged KV groups, whose inputs are others. Rows are rounded by themselves, so that input projections are rounded once
for all widths: a narrower block has the first of the codes.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from space.candidate import Candidate, LayerShape, widths
from space.models.architectures import architecture_of
from space.models.layout import Architecture
from space.rounding.gram_rounding import gram_rounded, gram_rounded_together
from space.rounding.rounded import GGML, Rounded
from space.supernet.block_memory import BlockMemory
from space.supernet.grams import output_gram, read_gram
from space.supernet.refits import Refits
from space.supernet.sizes import merges
from space.supernet.store import StoredLayers
from space.supernet.units import BlockWeights, kept_rows, own_parameters
from space.types import GGUF_TYPES

Codes = dict[str, Rounded]  # of a block's projections, by name


class RoundedBlocks:
    """The narrower blocks of some dense layers, as `Refits` gives them, and all blocks in other types."""

    def __init__(
        self,
        layers: Sequence[Any],
        refits: Refits,
        files: StoredLayers,
        memory: BlockMemory[Codes],
        device: torch.device,
    ) -> None:
        """Makes nothing yet.

        Args:
            layers: Decoder layers, units in their order.
            refits: Of these.
            files: What is stored of the supernet.
            memory: Where codes are remembered.
            device: Where they are made.
        """
        self._layers, self._refits, self._files = layers, refits, files
        self._memory, self._name, self._device = memory, object(), device
        weakref.finalize(self, memory.forget, self._name)
        self._family: Architecture = architecture_of(files.spec.family)
        self._dense = Candidate.dense(files.spec).layers[0]

    def block(self, index: int, kind: str, shape: LayerShape) -> BlockWeights:
        """Weights of a layer's block of a kind at a shape at which it is not gone."""
        if not shape.type_of(kind):
            return self._refits.block(index, kind, shape)
        codes, rest = self.codes(index, kind, shape), self._rest(index, kind, shape)
        like = next(self._layers[index].parameters())
        parameters = {name: {"weight": each.values.to(like), **rest[name]} for name, each in codes.items()}
        return BlockWeights(parameters, sum(held["weight"].nbytes for held in parameters.values()))

    def codes(self, index: int, kind: str, shape: LayerShape) -> Codes:
        """The rounded matrices of a layer's block of a kind that has a type, by the names of its projections."""
        key = (self._name, index, kind, shape.option(kind))
        codes = self._memory.get(key)
        if codes is None:
            with torch.inference_mode(False), torch.no_grad():  # whoever asks first, for whatever use
                codes = self._rounded(index, kind, shape)
            self._memory.put(key, codes, sum(each.codes.nbytes for each in codes.values()))
        return codes

    def _rounded(self, index: int, kind: str, shape: LayerShape) -> Codes:
        spec, layout = self._files.spec, self._family.blocks[kind]
        ggml, plain = GGML[GGUF_TYPES[shape.type_of(kind)]], self._plain(index, kind, shape)
        if merges(spec, kind, shape):
            output = nearest(plain[layout.output]["weight"], ggml)
            return {**self._inputs(index, kind, plain, ggml), layout.output: output}
        gram = output_gram(self._files, index, kind, shape.unrounded, self._device)
        output = gram_rounded(plain[layout.output]["weight"].to(self._device, torch.float32), gram, ggml)
        if widths(kind, shape.option(kind)) == self._dense.option(kind):
            return {**self._inputs(index, kind, plain, ggml), layout.output: output}
        whole = LayerShape.of(**{kind: (*self._dense.option(kind), shape.type_of(kind))})
        dense = self.codes(index, kind, whole)
        inputs = {
            each.name: Rounded(ggml, kept_rows(spec, shape, layout, each, dense[each.name].codes))
            for each in layout.inputs
        }
        return inputs | {layout.output: output}

    def _inputs(self, index: int, kind: str, plain: Mapping[str, Mapping[str, Tensor]], ggml: Any) -> Codes:
        """The rounded input projections of a block whose parameters before that are given."""
        weights = {each.name: plain[each.name]["weight"] for each in self._family.blocks[kind].inputs}
        gram = read_gram(self._files, kind, self._device, index)
        if gram is None:
            return {name: nearest(weight, ggml) for name, weight in weights.items()}
        wide = {name: weight.to(self._device, torch.float32) for name, weight in weights.items()}
        return gram_rounded_together(wide, gram, ggml)

    def _plain(self, index: int, kind: str, shape: LayerShape) -> dict[str, dict[str, Tensor]]:
        """The parameters of a block before it is rounded, by projection."""
        plain = LayerShape.of(**{kind: widths(kind, shape.option(kind))})
        if plain.option(kind) != self._dense.option(kind):
            return self._refits.block(index, kind, plain).parameters
        block = self._layers[index].get_submodule(self._family.blocks[kind].module)
        return {name: dict(own_parameters(block.get_submodule(name))) for name in self._family.blocks[kind].projections}

    def _rest(self, index: int, kind: str, shape: LayerShape) -> dict[str, dict[str, Tensor]]:
        """What projections of a block have beside their matrices: biases, if anything."""
        spec, layout = self._files.spec, self._family.blocks[kind]
        if merges(spec, kind, shape):
            held = self._plain(index, kind, shape)
        else:
            block = self._layers[index].get_submodule(layout.module)
            held = {name: dict(own_parameters(block.get_submodule(name))) for name in layout.projections}
            for each in layout.inputs:
                biases = {key: tensor for key, tensor in held[each.name].items() if key != "weight"}
                held[each.name] = {key: kept_rows(spec, shape, layout, each, tensor) for key, tensor in biases.items()}
        return {name: {k: t for k, t in parameters.items() if k != "weight"} for name, parameters in held.items()}


def nearest(weight: Tensor, ggml: Any) -> Rounded:
    """A weight of any dtype, anywhere, rounded to the nearest values."""
    return Rounded.nearest(weight.detach().float().cpu().contiguous(), ggml)
