"""What a row of `space.models.architectures` is made of: blocks, their projections, the names of what is around them.

A decoder layer has an attention block and an MLP block, each of which reads the residual stream through its input
projections and adds to it through its output projection. A row says what these are called, which norms belong to which
block, and what transformers calls the family's classes and sizes. All is data, free of torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from space.candidate import LayerShape
from space.models.block_layout import BlockLayout
from space.task import CAUSAL_LM, TASKS, Task


class StackNames(NamedTuple):
    """What is in the decoder stack: layers, last norm if any, embeddings of tokens, and of positions if learned.

    `module` is what a model with a head calls the stack itself. `entry` is what makes the residual stream of the
    embeddings of tokens, where that is not the stack itself. `behind_padding` says that positions are counted from the
    padding token's id, and so is what `max_position_embeddings` allows. `registers` is the configuration's key of
    how many tokens of an image have no position.
    """

    layers: str = "layers"
    norm: str | None = "norm"
    embedding: str = "embed_tokens"
    positions: str | None = None
    module: str = "model"
    entry: str | None = None
    behind_padding: bool = False
    registers: str | None = None


class SizeNames(NamedTuple):
    """What a configuration calls the sizes of a layer, by the fields of a `LayerShape`.

    There may be no name for groups: as many as query heads then, None, or one, 1. `mlp_channels` is the name of the
    number of experts where an MLP is a mixture of them. Where stock configurations have a `ratio` in its place, the
    channels are so many times the residual stream's width, and only those of layers that differ have the name. There is
    no name for the channels of experts where there are none, or where these are to keep all of theirs.
    """

    query_heads: str = "num_attention_heads"
    kv_heads: str | int | None = "num_key_value_heads"
    mlp_channels: str = "intermediate_size"
    ratio: str | None = None
    expert_channels: str | None = None

    @property
    def grouped(self) -> bool:
        """Whether how many groups there are is a size of its own."""
        return isinstance(self.kv_heads, str)

    @property
    def names(self) -> tuple[str, ...]:
        """Those that there are."""
        names = (self.query_heads, self.kv_heads, self.mlp_channels, self.expert_channels)
        return tuple(name for name in names if isinstance(name, str))

    def groups(self, query_heads: int) -> int:
        """How many there are under so many query heads, where that is no size of its own."""
        return min(1, query_heads) if self.kv_heads == 1 else query_heads

    def of(self, shape: LayerShape) -> dict[str, int]:
        """The sizes of a shape by these names, but for the channels of experts that keep all."""
        fields = zip(self._fields[:3], self[:3], strict=True)
        sizes = {name: getattr(shape, field) for field, name in fields if isinstance(name, str)}
        narrow = {} if self.expert_channels is None else {self.expert_channels: shape.expert_channels}
        return sizes | {name: size for name, size in narrow.items() if size}

    def channels(self, config: Any) -> int:
        """How many channels, or experts, a stock configuration says."""
        if self.ratio is not None:
            return int(getattr(config, self.ratio) * config.hidden_size)
        return getattr(config, self.mlp_channels) or 4 * config.hidden_size

    def stock(self, values: Mapping[str, Any], hidden: int) -> dict[str, Any] | None:
        """Sizes by these names as a stock configuration has them; None where it cannot."""
        if self.ratio is None:
            return dict(values)
        times, rest = divmod(values[self.mlp_channels], hidden)
        others = {name: value for name, value in values.items() if name != self.mlp_channels}
        return None if rest else others | {self.ratio: times}


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
        any_size: Whether it reads images of other sizes than its configuration says, with positions made for them.
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
    any_size: bool = False
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
