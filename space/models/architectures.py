"""Where a model family keeps its projections, norms and layers: rows of data, free of torch.

A decoder layer has an attention block and an MLP block, each of which reads the residual stream through its input
projections and adds to it through its output projection. A row says what these are called, which norms belong to which
block, and what transformers calls the family's classes and sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

from space.candidate import LayerShape
from space.errors import UserError
from space.task import CAUSAL_LM

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
    """

    name: str
    parts: tuple[str, ...]

    def rows(self, shape: LayerShape, head_dim: int) -> list[int]:
        """How many rows each part has in a layer of a shape."""
        return [PARTS[part](shape, head_dim) for part in self.parts]


@dataclass(frozen=True)
class BlockLayout:
    """One kind of block, by names in a decoder layer, which may lead through modules: `attention.output`.

    Attributes:
        module: The block itself; empty where it is no module, but some children of the layer.
        inputs: Its input projections, all with a bias or none.
        output: Name, in the block, of the output projection.
        transposed: Whether weights are stored as (inputs, outputs), as those of transformers' `Conv1D`.
        before: The norm that the block reads the residual stream through; None where there is none.
        after: What normalises what the block adds to it, or, of a block that adds it itself, the sum; None likewise.
        adds: Whether the block itself adds to the residual stream, and gives the sum.
        parts: The children of the layer that it is made of, where it is no module.
    """

    module: str
    inputs: tuple[Projection, ...]
    output: str
    before: str | None = None
    after: str | None = None
    transposed: bool = False
    adds: bool = False
    parts: tuple[str, ...] = ()

    def path(self, name: str) -> str:
        """Where in a layer something of the block is."""
        return f"{self.module}.{name}" if self.module else name

    @property
    def children(self) -> tuple[str, ...]:
        """The children of a layer that the block is made of."""
        return self.parts or (self.module,)

    @property
    def norms(self) -> tuple[str, ...]:
        """Those norms that there are: they leave with the block."""
        return tuple(name for name in (self.before, self.after) if name is not None)

    @property
    def projections(self) -> tuple[str, ...]:
        """Names of its projections, the output one last."""
        return (*(projection.name for projection in self.inputs), self.output)

    @property
    def modules(self) -> list[str]:
        """The children of a layer that leave with the block: itself, then its norms that are not inside."""
        return [*self.children, *(name for name in self.norms if name.partition(".")[0] not in self.children)]


class StackNames(NamedTuple):
    """What is in the decoder stack: layers, last norm if any, embeddings of tokens, and of positions if learned.

    `module` is what a causal language model calls the stack itself. `entry` is what makes the residual stream of the
    embeddings of tokens, where that is not the stack itself.
    """

    layers: str = "layers"
    norm: str | None = "norm"
    embedding: str = "embed_tokens"
    positions: str | None = None
    module: str = "model"
    entry: str | None = None


class SizeNames(NamedTuple):
    """What a configuration calls the sizes of a layer, by the fields of a `LayerShape`; groups may be always heads."""

    query_heads: str = "num_attention_heads"
    kv_heads: str | None = "num_key_value_heads"
    mlp_channels: str = "intermediate_size"

    def of(self, shape: LayerShape) -> dict[str, int]:
        """The sizes of a shape by these names."""
        return {name: getattr(shape, field) for field, name in self._asdict().items() if name is not None}


class StockClasses(NamedTuple):
    """Names of transformers' classes of a family; None where there is none."""

    config: str
    layer: str
    model: str
    causal_lm: str | None
    classifier: str | None = None

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
        qk_norms: Names, inside an attention block, of the norms of queries and of keys, by a weight of `head_dim`
            values each; none where they are not normed.
        stack: Names in the decoder stack.
        sizes: Names of a layer's sizes in the configuration.
        depth: Name of the number of layers there.
        heads_fill: Whether stock attention takes its heads to be as wide together as the residual stream.
        task: What its models are for, a row of `space.task.TASKS`.
    """

    module: str
    classes: StockClasses
    attention: BlockLayout
    mlp: BlockLayout
    qk_norms: tuple[str, ...] = ()
    stack: StackNames = _STACK
    sizes: SizeNames = _SIZES
    depth: str = "num_hidden_layers"
    heads_fill: bool = False
    task: str = CAUSAL_LM

    @property
    def blocks(self) -> dict[str, BlockLayout]:
        """The kinds of blocks of a layer, in their order."""
        return {"attention": self.attention, "mlp": self.mlp}


_QK_NORMS = ("q_norm", "k_norm")
_QKV = tuple(Projection(name, (part,)) for name, part in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value")))
_GATED = (Projection("gate_proj", ("gate",)), Projection("up_proj", ("up",)))
_ATTENTION = BlockLayout("self_attn", _QKV, "o_proj", before="input_layernorm")
_MLP = BlockLayout("mlp", _GATED, "down_proj", before="post_attention_layernorm")


def _pre_norm(module: str, classes: StockClasses, qk_norms: tuple[str, ...] = ()) -> Architecture:
    """A family with the layers of Llama."""
    return Architecture(module, classes, _ATTENTION, _MLP, qk_norms)


def _post_norm_encoder(module: str, name: str) -> Architecture:
    """A family with the layers of BERT, whose blocks add to the residual stream themselves, and norm the sum."""
    inputs = tuple(Projection(f"self.{part}", (part,)) for part in ("query", "key", "value"))
    norm = "output.LayerNorm"
    return Architecture(
        module,
        StockClasses(f"{name}Config", f"{name}Layer", f"{name}Model", None),
        BlockLayout("attention", inputs, "output.dense", after=f"attention.{norm}", adds=True),
        BlockLayout(
            "",
            (Projection("intermediate.dense", ("up",)),),
            "output.dense",
            after=norm,
            adds=True,
            parts=("intermediate", "output"),
        ),
        stack=StackNames(
            "encoder.layer",
            None,
            "embeddings.word_embeddings",
            "embeddings.position_embeddings",
            module,
            entry="embeddings",
        ),
        sizes=SizeNames(kv_heads=None),
        heads_fill=True,
        task="embeddings",
    )


ARCHITECTURES: dict[str, Architecture] = {
    "llama": _pre_norm("llama", StockClasses.alike("Llama")),
    "mistral": _pre_norm("mistral", StockClasses.alike("Mistral")),
    "qwen2": _pre_norm("qwen2", StockClasses.alike("Qwen2")),
    "qwen3": _pre_norm("qwen3", StockClasses.alike("Qwen3"), _QK_NORMS),
    "smollm3": _pre_norm("smollm3", StockClasses.alike("SmolLM3")),
    "seed_oss": _pre_norm("seed_oss", StockClasses.alike("SeedOss")),
    "hunyuan_v1_dense": _pre_norm(
        "hunyuan_v1_dense", StockClasses.alike("HunYuanDenseV1"), ("query_layernorm", "key_layernorm")
    ),
    "granite": _pre_norm("granite", StockClasses.alike("Granite", classifier=False)),
    "exaone4": Architecture(
        "exaone4",
        StockClasses.alike("Exaone4"),
        replace(_ATTENTION, before=None, after="post_attention_layernorm"),
        replace(_MLP, before=None, after="post_feedforward_layernorm"),
        _QK_NORMS,
    ),
    "starcoder2": Architecture(
        "starcoder2",
        StockClasses.alike("Starcoder2"),
        _ATTENTION,
        replace(_MLP, inputs=(Projection("c_fc", ("up",)),), output="c_proj"),
    ),
    "nemotron": Architecture("nemotron", StockClasses.alike("Nemotron"), _ATTENTION, replace(_MLP, inputs=_GATED[1:])),
    "phi3": Architecture(
        "phi3",
        StockClasses.alike("Phi3"),
        replace(_ATTENTION, inputs=(Projection("qkv_proj", ("query", "key", "value")),)),
        replace(_MLP, inputs=(Projection("gate_up_proj", ("gate", "up")),)),
    ),
    "gpt2": Architecture(
        "gpt2",
        StockClasses("GPT2Config", "GPT2Block", "GPT2Model", "GPT2LMHeadModel", "GPT2ForSequenceClassification"),
        BlockLayout(
            "attn", (Projection("c_attn", ("query", "key", "value")),), "c_proj", before="ln_1", transposed=True
        ),
        BlockLayout("mlp", (Projection("c_fc", ("up",)),), "c_proj", before="ln_2", transposed=True),
        stack=StackNames("h", "ln_f", "wte", "wpe", "transformer"),
        sizes=SizeNames("n_head", None, "n_inner"),
        depth="n_layer",
        heads_fill=True,
    ),
    "gemma": _pre_norm("gemma", StockClasses.alike("Gemma")),
    "gemma3_text": Architecture(
        "gemma3",
        StockClasses(
            "Gemma3TextConfig",
            "Gemma3DecoderLayer",
            "Gemma3TextModel",
            "Gemma3ForCausalLM",
            "Gemma3TextForSequenceClassification",
        ),
        replace(_ATTENTION, after="post_attention_layernorm"),
        replace(_MLP, before="pre_feedforward_layernorm", after="post_feedforward_layernorm"),
        _QK_NORMS,
    ),
    "bert": _post_norm_encoder("bert", "Bert"),
    "roberta": _post_norm_encoder("roberta", "Roberta"),
    "xlm-roberta": _post_norm_encoder("xlm_roberta", "XLMRoberta"),
}


def architecture_of(model_type: str) -> Architecture:
    """The row of a family.

    Raises:
        UserError: There is none.
    """
    if model_type not in ARCHITECTURES:
        raise UserError(
            f"Expected a model of one of the families {', '.join(sorted(ARCHITECTURES))}, got "
            f"model_type={model_type!r}. Choose a model of a supported family, or add a row to "
            "space/models/architectures.py."
        )
    return ARCHITECTURES[model_type]
