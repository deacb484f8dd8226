"""What the layers of a mixture of experts are, read from their modules: experts, what is beside them, plain MLPs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from torch import Tensor

from space.models.block_layout import BlockLayout
from space.models.stack import experts_of


class PlainMLPs(NamedTuple):
    """The layers whose MLP is no mixture where others' are.

    Attributes:
        layers: Their numbers.
        channels: Of each of these MLPs, with a gate.
        params: Parameters of each, without norms.
    """

    layers: tuple[int, ...] = ()
    channels: int = 0
    params: int = 0


def plain_mlps(layers: Iterable[Any], layout: BlockLayout, hidden: int) -> PlainMLPs:
    """The layers without experts among those that have them; none where no layer is to have any.

    Args:
        layers: Of the dense model.
        layout: Of their MLPs.
        hidden: Width of the residual stream.

    Raises:
        ValueError: None has experts, or those without are unlike each other, or others than exports can name.
    """
    routed = layout.routed
    every = [*layers]
    plain = tuple(index for index, layer in enumerate(every) if routed and experts_of(layer, layout) is None)
    if routed is None or not plain:
        return PlainMLPs()
    without = f"layers {', '.join(map(str, plain))} have no {routed.experts} in their {layout.module}"
    if len(plain) == len(every) or routed.plain is None:
        raise ValueError(f"{without}, and no mixture of experts is known that is so.")
    if routed.plain.says(plain) is None:
        raise ValueError(f"{without}; of this family only first layers may be so, which {routed.plain.first} counts.")
    held = [[*every[index].get_submodule(layout.module).parameters()] for index in plain]
    (params, *others) = {sum(p.numel() for p in each) for each in held}
    channels, rest = divmod(sum(p.numel() for p in held[0] if p.ndim > 1), 3 * hidden)
    if others or rest:
        raise ValueError(f"{without}, and MLPs that are not of one size, with a gate.")
    return PlainMLPs(plain, channels, params)


def check_experts(layers: Iterable[Any], layout: BlockLayout, count: int) -> None:
    """Looks for mixtures of so many experts in all layers, but for those with a plain MLP.

    Raises:
        AttributeError: A layer has no router.
        ValueError: One has others.
    """
    for index, layer in enumerate(layers):
        for name, axis, tensor in _of_experts(layer, layout) if experts_of(layer, layout) is not None else ():
            if tensor.shape[axis] != count:
                raise ValueError(f"in layer {index} {name} is of {tensor.shape[axis]} experts, not of {count}.")


def shared_of(layer: Any, layout: BlockLayout) -> list[str]:
    """Where in a layer that is which tokens go through beside experts, as far as it has such."""
    if layout.routed is None:
        return []
    block = layer.get_submodule(layout.module)
    return [layout.path(name) for name in layout.routed.shared if getattr(block, name, None) is not None]


def correction_of(layer: Any, layout: BlockLayout) -> Tensor | None:
    """What is added to the scores of a layer's experts where these are chosen; None for nothing."""
    if layout.routed is None or layout.routed.correction is None or experts_of(layer, layout) is None:
        return None
    place, _, name = layout.path(layout.routed.correction).rpartition(".")
    tensor: Tensor = getattr(layer.get_submodule(place), name)
    return tensor


def have_bias(layer: Any, layout: BlockLayout) -> bool:
    """Whether a layer's router and experts have biases."""
    biased = [name for name, _, tensor in _of_experts(layer, layout) if "bias" in name.rpartition(".")[2]]
    assert layout.routed is not None
    return all(
        any(name.startswith(f"{module}.") and name != layout.routed.correction for name in biased)
        for module in layout.routed.modules
    )


def _of_experts(layer: Any, layout: BlockLayout) -> Iterator[tuple[str, int, Tensor]]:
    """All tensors with an entry for each expert, by their places in the block, and which axis that is."""
    assert layout.routed is not None
    correction = layout.routed.correction
    for module in layout.routed.modules:
        for name, tensor in layer.get_submodule(layout.path(module)).named_parameters():
            if f"{module}.{name}" != correction:
                yield f"{module}.{name}", 0, tensor
    added = correction_of(layer, layout)
    if added is not None and correction is not None:
        yield correction, -1, added
