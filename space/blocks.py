"""What each gene chooses: one option for the layers that share it, of a block or of all blocks; free of torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from space.candidate import EMBEDDING, HEAD, KINDS, SHAPE, VOCABULARY, Candidate, Option, shortened
from space.errors import UserError
from space.repair import Rules
from space.size import bare_params, block_params, decoder_params, norm_params
from space.spec import ModelSpec

LAYER = "layer"

# The fields that a gene of each kind sets: of a layer's shape those of one block, or those of all blocks at once; or
# one of the candidate.
CHOICES: dict[str, tuple[str, ...]] = {
    **KINDS,
    LAYER: SHAPE,
    VOCABULARY: ("vocabulary",),
    EMBEDDING: ("embedding_type",),
    HEAD: ("head_type",),
}


@dataclass(frozen=True)
class Block:
    """One choice of a search space; with a single option, a part of the model that stays dense.

    Attributes:
        kind: What is chosen, a key of `CHOICES`.
        layers: The layers that share the choice; none where it is of the whole model.
        options: Values of the fields `CHOICES[kind]`, from the smallest to the dense one; types of matrices that are 0
            are left out at the end.
        params: Parameters of every option, in all of `layers` together.
    """

    kind: str
    layers: tuple[int, ...]
    options: tuple[Option, ...]
    params: tuple[int, ...]

    @cached_property
    def fields(self) -> tuple[dict[str, int], ...]:
        """What each option sets, by the names of fields of a layer's shape, or of the candidate."""
        return tuple(_fields(self.kind, option) for option in self.options)

    @property
    def free(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.options) > 1

    @property
    def vanishes(self) -> bool:
        """Whether the smallest option leaves nothing."""
        return not kept_blocks(self.kind, self.options[0])

    def level_of(self, candidate: Candidate) -> int:
        """The option that a candidate takes.

        Raises:
            UserError: It takes none, or not the same one in all layers of the block.
        """
        fields, layers, name = CHOICES[self.kind], candidate.layers, f"Candidate {candidate.key}"
        if not self.layers:
            own = tuple(getattr(candidate, field) for field in fields)
            if own not in self.options:
                raise UserError(
                    f"{name}: expected {', '.join(fields)} to be one of {_listing(self.options)}, got "
                    f"{_listing([own])}. Take a design of this space, or another space."
                )
            return self.options.index(own)
        taken = {layer: shortened(fields, [getattr(layers[layer], name) for name in fields]) for layer in self.layers}
        first = taken[self.layers[0]]
        for layer, option in taken.items():
            options = self.options if layer == self.layers[0] else (first,)
            if option not in options:
                names = fields[: max(map(len, options))]
                meaning = names[0] if len(names) == 1 else f"[{', '.join(names)}]"
                raise UserError(
                    f"{name}, layer {layer}: expected {meaning} to be one of {_listing(options)}, "
                    f"got {_listing([option])}. Take a design of this space, or another space."
                )
        return self.options.index(first)


def kept_blocks(kind: str, option: Option) -> dict[str, Option]:
    """The blocks that an option of a gene leaves, by kind of block, each with its own option."""
    values = _fields(kind, option)
    parts = {part: [values[name] for name in names] for part, names in KINDS.items() if names[0] in values}
    return {part: shortened(KINDS[part], chosen) for part, chosen in parts.items() if chosen[0]}


def _fields(kind: str, option: Option) -> dict[str, int]:
    """What an option of a gene sets, by the names of fields."""
    names = CHOICES[kind]
    return dict(zip(names, (*option, *(0,) * (len(names) - len(option))), strict=True))


def block_options(blocks: Sequence[Block]) -> dict[str, tuple[Option, ...]]:
    """All options that occur of each kind of block that is left, in ascending order."""
    kept = [kept_blocks(block.kind, option) for block in blocks for option in block.options]
    return {kind: tuple(sorted({parts[kind] for parts in kept if kind in parts})) for kind in KINDS}


def make_blocks(
    spec: ModelSpec,
    kind: str,
    options: Sequence[Option],
    frozen: frozenset[int],
    *,
    shared: bool,
    other: Mapping[int, Sequence[Option]],
) -> list[Block]:
    """One block a layer, or one for all layers that are not frozen; frozen layers keep the last, dense option only.

    Args:
        spec: The dense model.
        kind: What is chosen, a key of `CHOICES`.
        options: Of a layer.
        frozen: Layers that stay dense.
        shared: Whether there is one block for all layers.
        other: Of layers that have other options; where the rest shares one block, these stay dense.
    """
    free = [layer for layer in range(spec.layers) if layer not in frozen and not (shared and layer in other)]
    groups = [tuple(free)] if shared and free else [(layer,) for layer in free]
    dense = [layer for layer in range(spec.layers) if layer not in free]
    return [_block(spec, kind, group, other.get(group[0], options)) for group in groups] + [
        _block(spec, kind, (layer,), other.get(layer, options)[-1:]) for layer in dense
    ]


def vocabulary_block(counts: Sequence[int]) -> Block:
    """The choice of so many tokens of a vocabulary, or of all; it has no parameters of decoder layers."""
    options = tuple((count,) for count in (*counts, 0))
    return Block(VOCABULARY, (), options, (0,) * len(options))


def type_block(kind: str, types: Sequence[int]) -> Block:
    """The choice of a type, of those named or the first, for the embedding or the LM head: no layer's parameters."""
    options = tuple((number,) for number in (*sorted(types, reverse=True), 0))
    return Block(kind, (), options, (0,) * len(options))


def _block(spec: ModelSpec, kind: str, layers: tuple[int, ...], options: Sequence[Option]) -> Block:
    kept = [kept_blocks(kind, option) for option in options]
    norms = spec.layer_norms * norm_params(spec) if kind == LAYER else 0
    params = [sum(block_params(spec, *part) for part in parts.items()) + norms * bool(parts) for parts in kept]
    lacking = [bare_params(spec, attention="attention" in parts) if 0 in layers else 0 for parts in kept]
    whole = (len(layers) * count - less for count, less in zip(params, lacking, strict=True))
    return Block(kind, layers, tuple(options), tuple(whole))


def make_rules(
    spec: ModelSpec, blocks: Sequence[Block], *, min_layers: int, min_fraction: float, max_fraction: float, types: int
) -> Rules:
    """The rules of the genes of these blocks; the free blocks, in order, are the genes.

    Norms that two blocks of a layer share count as if they always stayed, where the blocks leave one by one.
    """
    free = [block for block in blocks if block.free]
    alive = {layer for block in blocks if not block.vanishes for layer in block.layers}
    open_layers = [layer for layer in range(spec.layers) if layer not in alive]
    attention_stays = any("attention" in kept_blocks(block.kind, block.options[0]) for block in blocks)
    carries = ["attention" in kept_blocks(block.kind, block.options[-1]) for block in free]
    width = max(len(block.params) for block in free)
    dense = decoder_params(spec, Candidate.dense(spec))
    slack = 1e-9 * dense  # a fraction such as 29/30 stands for a whole number of parameters
    parted = sum(len(block.layers) for block in blocks if block.kind == "attention")
    return Rules(
        levels=np.array([len(block.options) for block in free], dtype=np.int64),
        params=np.array([[*b.params, *b.params[-1:] * (width - len(b.params))] for b in free], dtype=np.int64),
        fixed_params=sum(block.params[-1] for block in blocks if not block.free)
        + parted * spec.layer_norms * norm_params(spec),
        minimum=math.ceil(min_fraction * dense - slack),
        maximum=math.floor(max_fraction * dense + slack),
        keeps=np.array([[layer in b.layers for b in free] for layer in open_layers], dtype=bool).reshape(-1, len(free)),
        min_open=max(0, min_layers - len(alive)),
        carriers=np.array([carrying and not attention_stays for carrying in carries]),
        types=types,
    )


def _listing(options: Sequence[Option]) -> str:
    return ", ".join(str(list(option)) if len(option) > 1 else str(option[0]) for option in options)
