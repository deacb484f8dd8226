"""What a row of `space.models.architectures` is made of: blocks, their projections, the names of what is around them.

A decoder layer has an attention block and an MLP block, each of which reads the residual stream through its input
projections and adds to it through its output projection. A row says what these are called, which norms belong to which
block, and what transformers calls the family's classes and sizes. All is data, free of torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from space.candidate import LayerShape
from space.task import CAUSAL_LM, TASKS, Task

# Rows that each part of an input projection has in a layer of a shape, by the width of a head.
PARTS: dict[str, Callable[[LayerShape, int], int]] = {
    "query": lambda shape, head_dim: shape.query_heads * head_dim,
    "key": lambda shape, head_dim: shape.kv_heads * head_dim,
    "value": lambda shape, head_dim: shape.kv_heads * head_dim,
    "gate": lambda shape, head_dim: shape.mlp_channels,
    "up": lambda shape, head_dim: shape.mlp_channels,
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


class Routed(NamedTuple):
    """A mixture of experts, whose units are these: every tensor of two modules has an entry for each of them first.

    Attributes:
        router: Name, in the block, of the module that chooses experts for each token.
        experts: Of the one with all experts, which is called with tokens, `(tokens, hidden)`, the experts chosen for
            each, and their weights, both `(tokens, active)`.
        channels: What a configuration calls the channels of an expert.
        active: And the experts that each token goes through.
    """

    router: str = "gate"
    experts: str = "experts"
    channels: str = "intermediate_size"
    active: str = "num_experts_per_tok"

    @property
    def modules(self) -> tuple[str, str]:
        """The two modules."""
        return self.router, self.experts


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
        row_norms: Norms over all that parts of the input projections give, by a weight for each row of theirs.
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
    transposed: bool = False
    row_norms: tuple[Projection, ...] = ()
    adds: bool = False
    parts: tuple[str, ...] = ()
    routed: Routed | None = None

    def path(self, name: str) -> str:
        """Where in a layer something of the block is."""
        return f"{self.module}.{name}" if self.module else name

    @property
    def children(self) -> tuple[str, ...]:
        """The children of a layer that the block is made of."""
        return self.parts or (self.module,)

    @property
    def by_rows(self) -> dict[str, Projection]:
        """The modules, by name, whose tensors have rows that belong to units: input projections, and `row_norms`."""
        return {each.name: each for each in (*self.inputs, *self.row_norms)}

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


class StackNames(NamedTuple):
    """What is in the decoder stack: layers, last norm if any, embeddings of tokens, and of positions if learned.

    `module` is what a model with a head calls the stack itself. `entry` is what makes the residual stream of the
    embeddings of tokens, where that is not the stack itself. `behind_padding` says that positions are counted from the
    padding token's id, and so is what `max_position_embeddings` allows.
    """

    layers: str = "layers"
    norm: str | None = "norm"
    embedding: str = "embed_tokens"
    positions: str | None = None
    module: str = "model"
    entry: str | None = None
    behind_padding: bool = False


class SizeNames(NamedTuple):
    """What a configuration calls the sizes of a layer, by the fields of a `LayerShape`.

    There may be no name for groups: as many as query heads then, None, or one, 1. `mlp_channels` is the name of the
    number of experts where an MLP is a mixture of them.
    """

    query_heads: str = "num_attention_heads"
    kv_heads: str | int | None = "num_key_value_heads"
    mlp_channels: str = "intermediate_size"

    @property
    def grouped(self) -> bool:
        """Whether how many groups there are is a size of its own."""
        return isinstance(self.kv_heads, str)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that there are."""
        return tuple(name for name in self if isinstance(name, str))

    def groups(self, query_heads: int) -> int:
        """How many there are under so many query heads, where that is no size of its own."""
        return min(1, query_heads) if self.kv_heads == 1 else query_heads

    def of(self, shape: LayerShape) -> dict[str, int]:
        """The sizes of a shape by these names."""
        return {name: getattr(shape, field) for field, name in self._asdict().items() if isinstance(name, str)}


class StockClasses(NamedTuple):
    """Names of transformers' classes of a family; None where there is none."""

    config: str
    layer: str
    model: str
    causal_lm: str | None
    classifier: str | None = None
    token_classifier: str | None = None
    masked_lm: str | None = None

    def of(self, task: Task) -> str:
        """The one that a model for a task is."""
        name: str | None = getattr(self, task.stock)
        assert name is not None
        return name

    @classmethod
    def alike(cls, name: str, *, classifier: bool = True) -> StockClasses:
        """Those of a family that names them all alike."""
        parts = ("Config", "DecoderLayer", "Model", "ForCausalLM", *(["ForSequenceClassification"] * classifier))
        return cls(*(f"{name}{part}" for part in parts))


_STACK, _SIZES = StackNames(), SizeNames()


@dataclass(frozen=True)
class Architecture:
    """Where one family of models keeps what, and what transformers calls it.

    Attributes:
        module: transformers package of the family, below `transformers.models`.
        classes: Stock class names.
        attention: Its attention block.
        mlp: Its MLP block.
        norms: Norms that both blocks read the residual stream through; they leave with the layer alone.
        parallel: Whether both blocks read the residual stream before the layer, and neither the other's output: as the
            family is, or the name of what says so in the configuration.
        qk_norms: Names, inside an attention block, of the norms of queries and of keys, by a weight of `head_dim`
            values each; none where they are not normed, or all heads together, see `BlockLayout.row_norms`.
        stack: Names in the decoder stack.
        sizes: Names of a layer's sizes in the configuration.
        depth: Name of the number of layers there.
        head: What checkpoints call the LM head; modules have the name `lm_head`.
        heads_fill: Whether stock classes take an attention's heads to be as wide together as the residual stream.
        neighbours: Whether rotary embedding turns values of a head that are neighbours; else half a head apart.
        numbered: Whether a layer is made with its number.
        tasks: What its models may be for, rows of `space.task.TASKS`, the first one where nothing says which.
        when: What configurations of its models say where others of the family are built otherwise: a key, then its
            values.
        repeats_groups: Whether a KV cache holds keys and values of each query head, those of a group once for each.
        in_tuples: Whether a layer hands on the residual stream as the first of a tuple.
        adds_in_place: Whether a layer adds to what its MLP gives, in place.
        transformers: The oldest version that computes its exports rightly: what it does without some layers.
    """

    module: str
    classes: StockClasses
    attention: BlockLayout
    mlp: BlockLayout
    qk_norms: tuple[str, ...] = ()
    norms: tuple[str, ...] = ()
    parallel: bool | str = False
    stack: StackNames = _STACK
    sizes: SizeNames = _SIZES
    depth: str = "num_hidden_layers"
    head: str = "lm_head"
    heads_fill: bool = False
    neighbours: bool = False
    numbered: bool = True
    tasks: tuple[str, ...] = (CAUSAL_LM,)
    when: tuple[tuple[Any, ...], ...] = ()
    repeats_groups: bool = False
    in_tuples: bool = False
    adds_in_place: bool = False
    transformers: tuple[int, int] = (4, 57)

    @property
    def blocks(self) -> dict[str, BlockLayout]:
        """The kinds of blocks of a layer, in their order."""
        return {"attention": self.attention, "mlp": self.mlp}

    def task_of(self, classes: Sequence[str]) -> str:
        """What a model of one of these classes is for; the first of its tasks where they are others."""
        return next((task for task in self.tasks if self.classes.of(TASKS[task]) in classes), self.tasks[0])

    @property
    def norms_inside(self) -> tuple[str, ...]:
        """Names, inside an attention block, of the norms of queries and of keys."""
        return (*self.qk_norms, *(norm.name for norm in self.attention.row_norms))

    @property
    def writes(self) -> bool:
        """Whether its models write."""
        return all(TASKS[task].writes for task in self.tasks)

    @property
    def staying(self) -> tuple[str, ...]:
        """Norms that leave with the layer alone."""
        return (*self.norms, *(layout.staying for layout in self.blocks.values() if layout.staying))
