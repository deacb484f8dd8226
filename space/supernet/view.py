"""Views: model objects of the classes that an export ships, whose tensors are the supernet's.

What is dear about a subnet, its narrower blocks with their refits, is kept as modules by (layer, block, option) in a
`BlockMemory`, and beyond its limit for as long as a view has them. A view puts such modules, and the dense model's own
for what is whole, into containers of its own: it copies no tensor, and nothing of the supernet or of another view
changes. Modules below a block are shared, and so not to be hooked or changed; `layer` and `view(own=True)` give modules
of one's own. Where layers wait on the host, see `placement`, those of a view come to the device when they run.
"""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from space.candidate import EMBEDDING, HEAD, KINDS, Candidate, LayerShape, Option
from space.models.architectures import architecture_of
from space.models.block_layout import BlockLayout
from space.models.modeling import modeling_of
from space.models.pruned import PrunedConfigs, start_midway
from space.models.stack import holders, layers_of, norm_of, outside, put_stack, stack_of
from space.spec import ModelSpec
from space.supernet.block_memory import BlockMemory
from space.supernet.correction import Correction
from space.supernet.modules import own_modules, put_module, put_parameter, twin
from space.supernet.placement import HomeEmbedding, Passing, PassingLayer
from space.supernet.units import BlockWeights, upright
from space.task import TASKS

Weights = Callable[[int, str, LayerShape], BlockWeights]  # of a layer's block of a kind, neither as it came nor gone
Outer = Callable[[str, int], Tensor]  # the embedding or the head, a row of `space.candidate.WHOLE`, in a type


class Views:
    """Makes the views of one supernet; safe between threads."""

    def __init__(
        self,
        model: Any,
        spec: ModelSpec,
        weights: Weights,
        outer: Outer,
        memory: BlockMemory[nn.Module],
        passing: Passing | None = None,
    ) -> None:
        """Builds what all views have in common.

        Args:
            model: The permuted dense model.
            spec: The same in numbers.
            weights: Of a layer's block of a kind at a shape, where it is neither as it came nor gone.
            outer: The weight of the embedding or of the LM head in a type.
            memory: Where the narrower blocks are remembered.
            passing: Brings layers to the device; None where they are on it.
        """
        self._spec = spec
        self._dense = Candidate.dense(spec).layers
        self._classes = modeling_of(spec.family)
        self._family = architecture_of(spec.family)
        self._configs = PrunedConfigs(model.config, spec)
        self._weights, self._outer = weights, outer
        self._memory, self._name = memory, object()
        self._alive = weakref.WeakValueDictionary[tuple[int, str, Option], nn.Module]()  # that views have
        self._passing = passing
        self._home = next(layers_of(model).parameters()).device
        weakref.finalize(self, memory.forget, self._name)
        with torch.device("meta"):
            self._whole = getattr(self._classes, TASKS[spec.task].pruned)(self._configs.dense)
        for path, child in outside(model):
            place, _, name = path.rpartition(".")
            setattr(self._whole.get_submodule(place), name, child)
        for path in holders(model):
            self._whole.get_submodule(path)._buffers.update(model.get_submodule(path)._buffers)
        self._layers: list[Any] = [*layers_of(self._whole)]
        for layer, dense in zip(self._layers, layers_of(model), strict=True):
            for name, child in dense.named_children():
                setattr(layer, name, child)
        if TASKS[spec.task].writes:
            self._whole.generation_config = model.generation_config
        self._whole.eval().requires_grad_(False)

    def view(
        self, candidate: Candidate, correction: Correction | None = None, *, own: bool = False, start: int = 0
    ) -> Any:
        """See `space.supernet.supernet.Supernet.view`."""
        kept = [index for index in range(start, self._spec.layers) if not candidate.layers[index].gone]
        blocks = [] if self._passing else [each for index in kept for each in self._narrower(index, candidate)]
        layers: list[Any] = []
        for position, index in enumerate(kept):
            outputs = correction.weights[index] if correction is not None else {}
            make = partial(self._layer, index, candidate.layers[index], position, outputs)
            layers.append(
                PassingLayer(make, partial(self._on_device, index), self._layers[index]) if self._passing else make()
            )
        model = stack = twin(self._whole)
        if stack_of(self._whole) is not self._whole:
            stack = twin(stack_of(self._whole))
            put_stack(model, stack)
        model.config = stack.config = self._configs.of(candidate.unrounded, start)
        names = self._family.stack
        put_module(stack, names.layers, nn.ModuleList(layers).eval())
        for path, child in outside(stack):
            if any(True for _ in child.buffers()):  # some rotary frequencies follow the length
                put_module(stack, path, own_modules(child))
        self._put_outer(model, stack, candidate)
        if self._passing is not None:
            embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
            if head is None or embedding.weight is not head.weight:
                put_module(stack, names.embedding, HomeEmbedding(embedding, self._passing.device))
        if start:
            start_midway(stack)
        if own:
            return self._owned(model).to(self._home)
        vars(stack)["_narrower_blocks"] = blocks  # another view finds them, whatever the memory has room for
        return model

    def _put_outer(self, model: Any, stack: Any, candidate: Candidate) -> None:
        """Gives a model the embedding and the LM head of its types."""
        tied = self._spec.tied_embeddings
        if candidate.embedding_type:
            embedding = twin(model.get_input_embeddings())
            put_parameter(embedding, "weight", self._outer(EMBEDDING, candidate.embedding_type))
            put_module(stack, self._family.stack.embedding, embedding)
        if number := candidate.logits_type(tied=tied):
            head = twin(model.get_output_embeddings())
            put_parameter(head, "weight", self._outer(EMBEDDING if tied else HEAD, number))
            model.set_output_embeddings(head)

    @property
    def norm(self) -> Any:
        """The norm behind the last layer."""
        return norm_of(self._whole)

    def forget(self) -> None:
        """See `space.supernet.supernet.Supernet.forget`."""
        self._memory.forget(self._name)

    @property
    def remembered(self) -> list[nn.Module]:
        """The narrower blocks that need not be made again."""
        return self._memory.of(self._name)

    def layer(self, index: int, shape: LayerShape) -> Any:
        """A decoder layer at a shape with modules of its own, which may be hooked; its tensors are the supernet's.

        Where layers wait on the host, they are copies on the device.
        """
        layer = self._layer(index, shape, index)
        return own_modules(layer) if self._passing is None else self._on_device(index, layer)

    def _owned(self, model: Any) -> Any:
        """A copy of a view whose modules, tensors and configuration are all its own."""
        seen = [module.config for module in model.modules() if hasattr(module, "config")]
        shared = [getattr(config, "shared_config", config) for config in seen]
        own = copy.deepcopy(model, {id(config): model.config for config in shared})
        own.config = copy.deepcopy(model.config)
        for module in own.modules():
            if hasattr(module, "config"):
                of_layer = hasattr(module.config, "shared_config")
                module.config = self._classes.seen_config(own.config, module.config) if of_layer else own.config
        return own

    def _on_device(self, index: int, layer: Any) -> Any:
        assert self._passing is not None
        return self._passing.layer(index, layer, self._layers[index])

    def _layer(self, index: int, shape: LayerShape, position: int, outputs: Mapping[str, Tensor] | None = None) -> Any:
        """A decoder layer whose container is its own, at a position in the key-value cache.

        Args:
            index: Which.
            shape: What it keeps.
            position: Its number among those that are left.
            outputs: By kind of block, weights of output projections to use in place of the refits.
        """
        layer = twin(self._layers[index])
        for kind, layout in self._family.blocks.items():
            if not shape.keeps(kind):
                layer.skip(kind, layout.modules, position)
            elif shape.option(kind) != self._dense[index].option(kind):
                for name, child in self._block(index, kind, shape.option(kind)).named_children():
                    setattr(layer, name, child)
        name = self._family.attention.module
        attention = getattr(layer, name)
        if getattr(attention, "layer_idx", position) != position:  # which tells places in a KV cache apart
            attention = twin(attention)
            attention.layer_idx = position
            setattr(layer, name, attention)
        for kind, weight in (outputs or {}).items():
            _put_output(layer, index, self._family.blocks[kind], weight)
        return layer

    def _block(self, index: int, kind: str, option: Option) -> nn.Module:
        """A narrower block, by the children of a layer that it is made of: remembered, or made now."""
        key = (self._name, index, kind, option)
        block = self._memory.get(key)
        if block is None:
            block = self._alive.get(key[1:])
        if block is None:
            block, size = self._new_block(index, kind, option)
            self._memory.put(key, block, size)
            self._alive[key[1:]] = block
        return block

    def _narrower(self, index: int, candidate: Candidate) -> Iterator[nn.Module]:
        """The blocks of a layer of a candidate that are neither as they came nor gone."""
        shape = candidate.layers[index]
        for kind in self._family.blocks:
            if shape.keeps(kind) and shape.option(kind) != self._dense[index].option(kind):
                yield self._block(index, kind, shape.option(kind))

    def _new_block(self, index: int, kind: str, option: Option) -> tuple[nn.Module, int]:
        """A stock block made in the candidate's widths without memory, and given its tensors; and what it holds."""
        layout, dense = self._family.blocks[kind], self._layers[index]
        with torch.inference_mode(False), torch.no_grad():  # whoever asks first, for whatever use
            weights = self._weights(index, kind, LayerShape.of(**{kind: option}))
        options = {other: self._dense[index].option(other) for other in KINDS} | {kind: option}
        config = self._configs.layer(index, LayerShape.of(**options).unrounded)
        with torch.device("meta"):
            layer = self._classes.PrunedDecoderLayer(config, index)
        block = nn.ModuleDict({name: getattr(layer, name) for name in layout.children})
        projections = {layout.path(name): tensors for name, tensors in weights.parameters.items()}
        for path, module in [*block.named_modules()][1:]:
            own: Any = module
            if hasattr(own, "config"):
                own.config = self._classes.seen_config(dense.get_submodule(path).config, own.config)
            given = projections.get(path, {})
            for key, tensor in given.items():
                said, made = f"{path}.{key}: {tuple(tensor.shape)} by the row of {self._spec.family}", getattr(own, key)
                assert made.shape == tensor.shape, f"{said}, and here {tuple(made.shape)}"
                if key in own._parameters:
                    put_parameter(own, key, tensor)
            own._buffers.update(dense.get_submodule(path)._buffers)
            own._buffers.update({key: tensor for key, tensor in given.items() if key in own._buffers})
            if path not in projections and not own._modules:  # norms of queries and keys, activations
                parent, _, name = path.rpartition(".")
                setattr(block.get_submodule(parent), name, dense.get_submodule(path))
        assert not any(tensor.is_meta for tensor in (*block.parameters(), *block.buffers()))
        return block.eval(), weights.owned_bytes


def _put_output(layer: Any, index: int, layout: BlockLayout, weight: Tensor) -> None:
    """Gives a layer's block an output projection of its own.

    Raises:
        ValueError: The weight has no place, or another shape than the one in its place.
    """
    path = layout.path(layout.output)
    try:
        projection: Any = layer.get_submodule(path)
    except AttributeError:  # the block is gone
        projection = None
    if projection is None or upright(layout, projection.weight).shape != weight.shape:
        shape = None if projection is None else tuple(upright(layout, projection.weight).shape)
        raise ValueError(
            f"Correction: layer {index}: expected {layout.output} of shape {tuple(weight.shape)}, got {shape}."
        )
    own = twin(projection)
    put_parameter(own, "weight", upright(layout, weight.to(projection.weight)).contiguous())
    put_module(layer, path, own)
