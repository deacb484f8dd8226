"""A model's decoder layers rounded one after the other, with Gram matrices of what their projections read of a text.

Those of a layer that read the same share one. It is gathered on the way and forgotten with the layer: one layer's are
in memory at a time, beside the residual streams of the text.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gguf
import torch
from torch import Tensor, nn

from space.formats.gguf.types import FileTypes
from space.models.stack import family_of, layers_of
from space.rounding.gram_rounding import gram_rounded_together
from space.rounding.rounded import Rounded
from space.supernet.calibration import first_inputs, layer_arguments
from space.supernet.hooks import InputGram
from space.supernet.importance import damp_
from space.supernet.placement import Placement

DAMPING = 0.01  # of the mean diagonal of a Gram matrix, as of a supernet's


def rounded_layers(
    model: Any, tokens: Tensor, types: FileTypes, on_layer: Callable[[int], None] = lambda index: None
) -> dict[str, Rounded]:
    """The matrices of decoder layers that a file has in blocks, by name.

    Args:
        model: A causal LM of a family that `space.formats.gguf.families` has, which stays as it is.
        tokens: Text that it is calibrated on, token ids, shape (windows, length).
        types: Of the file.
        on_layer: Called with the number of each layer that is done.
    """
    rounded = dict[str, Rounded]()
    for index, projections in enumerate(calibrated(model, tokens)):
        for weights, gram in projections:
            rounded |= rounded_together(weights, gram, types)
        on_layer(index)
    return rounded


def rounded_together(weights: Mapping[str, Tensor], gram: Tensor, types: FileTypes) -> dict[str, Rounded]:
    """Matrices that read the same, by name, rounded with its Gram matrix; none where their rows are no whole blocks.

    Args:
        weights: Float32, each of shape (rows, columns).
        gram: Damped, shape (columns, columns).
        types: Of the file, in which these have the same.
    """
    ggml = types.matrix(next(iter(weights)), len(gram))
    if ggml is gguf.GGMLQuantizationType.F16:
        return {}
    return gram_rounded_together(weights, gram, ggml)


@torch.no_grad()
def calibrated(model: Any, tokens: Tensor, batch_size: int = 8) -> Iterator[list[tuple[dict[str, Tensor], Tensor]]]:
    """Of every layer, the weights by name that read the same, and its damped Gram matrix, all float32.

    Args:
        model: See above.
        tokens: See above.
        batch_size: Windows of a forward pass.
    """
    place = Placement(model.device)
    arguments = layer_arguments(model, tokens, torch.float32, place.device)
    states = first_inputs(model, tokens.split(batch_size), torch.float32, place)
    for index, layer in enumerate(layers_of(model)):
        wide = copy.deepcopy(layer).to(place.device, torch.float32)
        readers = [*_readers(wide, model)]
        first = [wide.get_submodule(names[0]) for names in readers]
        grams = [InputGram(each, each.in_features, place.device) for each in first]
        states = [wide(state, **arguments[index]) for state in states]
        for gram in grams:
            gram.close()
            damp_(gram.total, DAMPING)
        weights = [
            {f"model.layers.{index}.{name}.weight": wide.get_submodule(name).weight.detach() for name in names}
            for names in readers
        ]
        yield [*zip(weights, (gram.total for gram in grams), strict=True)]


def _readers(layer: nn.Module, model: Any) -> Iterator[list[str]]:
    """Names of a layer's projections, those together that read the same."""
    for layout in family_of(model).blocks.values():
        if hasattr(getattr(layer, layout.module), layout.output):  # the block is there
            yield [f"{layout.module}.{each.name}" for each in layout.inputs]
            yield [f"{layout.module}.{layout.output}"]
