"""What a row of `space.models.architectures` says of a kind of block: its projections, its norms, or its experts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from space.candidate import LayerShape

# Rows that each part of an input projection has in a layer of a shape, by the width of a head.
PARTS: dict[str, Callable[[LayerShape, int], int]] = {
    "query": lambda shape, head_dim: shape.query_heads * head_dim,
    "key": lambda shape, head_dim: shape.kv_heads * head_dim,
    "value": lambda shape, head_dim: shape.kv_heads * head_dim,
    "gate": lambda shape, head_dim: shape.mlp_channels,
    "up": lambda shape, head_dim: shape.mlp_channels,
    "sink": lambda shape, head_dim: shape.query_heads,
}


@dataclass(frozen=True)
class Projection:
    """An input projection.

    Attributes:
        name: In its block.
        parts: What its rows are, keys of `PARTS`, in their order.
        grouped: Whether its parts take turns, group by group: the queries of one, its key and its value, then those of
            the next. Else each part is whole.
    """

    name: str
    parts: tuple[str, ...]
    grouped: bool = False

    def rows(self, shape: LayerShape, head_dim: int) -> list[int]:
        """How many rows each part has in a layer of a shape."""
        return [PARTS[part](shape, head_dim) for part in self.parts]


SINKS = Projection("", ("sink",))


class Plain(NamedTuple):
    """How a configuration says which layers have a plain MLP in the place of a mixture.

    Those that have a list of kinds, `mlp_layer_types`, need no more.

    Attributes:
        first: The key of how many first layers have.
        listed: The key of a list of them all.
        rest: Keys and what they have to be so that all others have mixtures.
    """

    first: str | None = None
    listed: str | None = None
    rest: tuple[tuple[str, Any], ...] = ()

    def says(self, layers: Sequence[int]) -> dict[str, Any] | None:
        """What a configuration says where these layers have one, of those that are left; None where it cannot."""
        rest = dict(self.rest)
        if self.first is not None:
            return rest | {self.first: len(layers)} if [*layers] == [*range(len(layers))] else None
        return rest | {self.listed: [*layers]} if self.listed is not None else rest


class Routed(NamedTuple):
    """A mixture of experts, whose units are these: every tensor of two modules has an entry for each of them first.

    Attributes:
        router: Name, in the block, of the module that chooses experts for each token.
        experts: Of the one with all experts, which is called with tokens, `(tokens, hidden)`, the experts chosen for
            each, and their weights, both `(tokens, active)`.
        channels: What a configuration calls the channels of an expert.
        active: And the experts that each token goes through.
        shared: What every token goes through besides, where there is such, which is carried whole.
        correction: What is added to scores of experts where these are chosen, by its place in the block: a buffer or a
            parameter that no gradient reaches, with an entry for each expert last.
        plain: What says of layers that they have a plain MLP in its place; None where all have mixtures.
        tied: Whether a configuration has what is shared be a number of times as wide as an expert, so that experts keep
            all of their channels.
    """

    router: str = "gate"
    experts: str = "experts"
    channels: str = "intermediate_size"
    active: str = "num_experts_per_tok"
    shared: tuple[str, ...] = ()
    correction: str | None = None
    plain: Plain | None = None
    tied: bool = False

    @property
    def modules(self) -> tuple[str, str]:
        """The two modules."""
        return self.router, self.experts

    def axis(self, module: str, name: str) -> int:
        """Which axis of a tensor of a module in the block has an entry for each expert."""
        return -1 if ".".join(filter(None, (module, name))) == self.correction else 0


@dataclass(frozen=True)
class BlockLayout:
    """One kind of block, by names in a layer, which may lead through modules: `attention.output`.

    Attributes:
        module: The block itself; empty where it is no module, but some children of the layer.
        inputs: Its input projections, all with a bias or none.
        output: Name, in the block, of the output projection; empty of a mixture of experts, which has none.
        transposed: Whether weights are stored as (inputs, outputs), as those of transformers' `Conv1D`.
        before: The norm that the block reads the residual stream through; None where there is none.
        after: What normalises what the block adds to it, or, of a block that adds it itself, the sum; None likewise.
        scaled: Whether that is no norm, but multiplies by a weight for each value of the stream.
        row_norms: Norms over all that parts of the input projections give, by a weight for each row of theirs.
        sinks: Whether the block itself has a number for each query head, of what attends to nothing.
        paired: Whether it gives something else beside what it adds.
        adds: Whether the norm behind it is of the sum with the residual stream, which the block itself adds to where
            that norm is a part of it, and else the layer: where it is gone, the stream still goes through the norm.
        parts: The children of the layer that it is made of, where it is no module.
        routed: Where it keeps experts in place of projections; None where it is no mixture of them.
    """

    module: str
    inputs: tuple[Projection, ...]
    output: str
    before: str | None = None
    after: str | None = None
    scaled: bool = False
    transposed: bool = False
    row_norms: tuple[Projection, ...] = ()
    sinks: bool = False
    paired: bool = False
    adds: bool = False
    parts: tuple[str, ...] = ()
    routed: Routed | None = None

    def path(self, name: str) -> str:
        """Where in a layer something of the block is; without a name, the block itself."""
        return ".".join(filter(None, (self.module, name)))

    @property
    def children(self) -> tuple[str, ...]:
        """The children of a layer that the block is made of."""
        return self.parts or (self.module,)

    @property
    def by_rows(self) -> dict[str, Projection]:
        """The modules, by name, whose tensors have rows that belong to units: inputs, `row_norms`, the block itself."""
        return {each.name: each for each in (*self.inputs, *self.row_norms, *([SINKS] if self.sinks else ()))}

    @property
    def norms(self) -> tuple[str, ...]:
        """Those norms that there are."""
        return tuple(name for name in (self.before, self.after) if name is not None)

    @property
    def leaving(self) -> tuple[str, ...]:
        """The norms that leave with the block."""
        return tuple(name for name in self.norms if name != self.staying)

    @property
    def staying(self) -> str | None:
        """The norm that the residual stream goes through where the block is gone, until the layer is; None for none."""
        return self.after if self.adds else None

    @property
    def inner(self) -> str | None:
        """The same norm where it is a part of the block, so that what stands in the block's place has it inside."""
        return self.staying if (self.staying or "").partition(".")[0] in self.children else None

    @property
    def projections(self) -> tuple[str, ...]:
        """Names of its projections, the output one last."""
        return (*(projection.name for projection in self.inputs), *([self.output] if self.output else []))

    @property
    def weighted(self) -> tuple[str, ...]:
        """Names of all modules in it whose tensors change with what is kept."""
        return (*self.by_rows, *([self.output] if self.output else []), *(self.routed.modules if self.routed else ()))

    @property
    def modules(self) -> list[str]:
        """The children of a layer that leave with the block: itself, then its norms that are not inside."""
        return [*self.children, *(name for name in self.leaving if name.partition(".")[0] not in self.children)]
