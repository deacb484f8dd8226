"""Regular designs of a space, from nearly dense to its lower bound: pure functions on blocks and genes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from space.blocks import LAYER, Block
from space.candidate import EMBEDDING, HEAD, KINDS, Candidate, LayerShape, Option, widths
from space.limits import Genes
from space.repair import Rules
from space.types import GGUF_TYPES

LADDER_ATTENTION = (0.75, 0.5)  # fractions of dense attention that the ladder crosses with all MLP levels


def uniform_genes(free: Sequence[Block], rules: Rules) -> list[Genes]:
    """Genes of designs with one shape in all layers that are not frozen, the largest first.

    All MLP levels at dense attention and at about three quarters and half of it, and all attention levels at dense
    MLPs. None where a gene stands for a whole layer. Plain MLPs among mixtures, which have no levels, stay dense.

    Args:
        free: The blocks that are genes.
        rules: Which genes are valid.
    """
    if free[0].kind == LAYER:
        return []
    attention, mlp = _kept_levels(free, "attention"), _kept_levels(free, "mlp")
    crossed = [
        min(attention, key=lambda level: (abs(attention[level] - share * max(attention.values())), level))
        for share in (1.0, *LADDER_ATTENTION)
    ]
    pairs = {(a, m) for a in crossed for m in mlp} | {(a, max(mlp)) for a in attention}
    pairs.remove((max(attention), max(mlp)))
    levelled = {kind: _levelled(free, kind) for kind in KINDS}

    def level(block: Block, levels: dict[str, int]) -> int:
        return levels[block.kind] if block.options == levelled.get(block.kind) else len(block.options) - 1

    ladder = [np.array([level(block, {"attention": a, "mlp": m}) for block in free]) for a, m in pairs]
    ladder = [genes for genes in ladder if rules.valid(genes)]
    return sorted(ladder, key=lambda genes: (-rules.total(genes), genes.tolist()))


def _kept_levels(free: Sequence[Block], kind: str) -> dict[int, int]:
    """Levels that leave something, in the first type, and their parameters; without such a gene, one nothing reads."""
    for block in free:
        if block.kind == kind and block.options == _levelled(free, kind):
            kept = {level: option for level, option in enumerate(block.options) if option[0]}
            return {level: block.params[level] for level, option in kept.items() if option == widths(kind, option)}
    return {0: 0}


def _levelled(free: Sequence[Block], kind: str) -> tuple[Option, ...]:
    """The options of those of some blocks that have most; none without a gene of the kind."""
    return max((block.options for block in free if block.kind == kind), key=len, default=())


def rounded_genes(free: Sequence[Block], types: Sequence[int], *, tied: bool) -> list[Genes]:
    """Genes of the dense model in each of some types, as llama.cpp's own tool writes it.

    What gives the logits is in Q8_0 in all files of fewer bits, where the space has that type.

    Args:
        free: The blocks that are genes.
        types: The types of the space but the first.
        tied: Whether the embedding is the LM head.
    """
    eight_bits = GGUF_TYPES.index("q8_0")
    logits = EMBEDDING if tied else HEAD

    def level(block: Block, number: int) -> int:
        if block.kind == logits and eight_bits in types:
            number = eight_bits
        alike = [place for place, fields in enumerate(block.fields) if _type(fields) == number]
        return alike[-1]

    return [np.array([level(block, number) for block in free]) for number in types]


def _type(fields: dict[str, int]) -> int:
    """The largest number of a type among what an option sets."""
    return max((value for name, value in fields.items() if name.endswith("_type")), default=0)


def depth_designs(
    dense: Candidate, blocks: Sequence[Block], order: Sequence[int], contains: Callable[[Candidate], bool]
) -> list[Candidate]:
    """The dense model without the first layer of `order`, without the first two, and so on, where `contains` says yes.

    Args:
        dense: The dense model.
        blocks: All blocks of the space; a layer with one that cannot vanish is passed over.
        order: Layers from 0, the least important one first.
        contains: Whether a design is in the space.

    Raises:
        ValueError: `order` names a layer twice, or one that is not there.
    """
    layers = list(dense.layers)
    if len(set(order)) != len(order) or not set(order) <= set(range(len(layers))):
        raise ValueError(f"SearchSpace.depth_ladder: expected distinct layers below {len(layers)}, got {list(order)}.")
    fixed = {layer for block in blocks if not block.vanishes for layer in block.layers}
    ladder = []
    for layer in order:
        if layer not in fixed:
            layers[layer] = LayerShape.of()
            ladder.append(Candidate(tuple(layers)))
    return [candidate for candidate in ladder if contains(candidate)]
