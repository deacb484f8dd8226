"""Where a model family keeps its projections, norms and layers: rows of data, free of torch.

All supported families share the layer layout `layers.i.{self_attn.{q,k,v,o}_proj, mlp.{gate,up,down}_proj}`; what
differs is which norms belong to which block, and the names of transformers' stock classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from space.errors import UserError


@dataclass(frozen=True)
class BlockNorms:
    """The norms of a kind of block, by their names in a decoder layer, with which they leave.

    Attributes:
        before: What normalises the residual stream for the block; None where nothing does.
        after: What normalises what the block adds to it; None likewise.
    """

    before: str | None = None
    after: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Those that there are."""
        return tuple(name for name in (self.before, self.after) if name is not None)


class StockClasses(NamedTuple):
    """Names of transformers' classes of a family; the classifier's is None where there is none."""

    config: str
    layer: str
    model: str
    causal_lm: str
    classifier: str | None = None

    @classmethod
    def alike(cls, name: str, *, classifier: bool = True) -> StockClasses:
        """Those of a family that names them all alike."""
        parts = ("Config", "DecoderLayer", "Model", "ForCausalLM", *(["ForSequenceClassification"] * classifier))
        return cls(*(f"{name}{part}" for part in parts))


@dataclass(frozen=True)
class Architecture:
    """Where one family of models keeps what, and what transformers calls it.

    Attributes:
        module: transformers package of the family, below `transformers.models`.
        classes: Stock class names.
        attention: Norms of an attention block.
        mlp: Norms of an MLP block.
        qk_norms: Names, inside an attention block, of the norms of queries and of keys, by a weight of `head_dim`
            values each; none where they are not normed.
    """

    module: str
    classes: StockClasses
    attention: BlockNorms
    mlp: BlockNorms
    qk_norms: tuple[str, ...] = ()


_QK_NORMS = ("q_norm", "k_norm")


def _pre_norm(module: str, classes: StockClasses, qk_norms: tuple[str, ...] = ()) -> Architecture:
    """A family with one norm before each block, named as Llama names them."""
    before = BlockNorms("input_layernorm"), BlockNorms("post_attention_layernorm")
    return Architecture(module, classes, *before, qk_norms)


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
        BlockNorms(after="post_attention_layernorm"),
        BlockNorms(after="post_feedforward_layernorm"),
        _QK_NORMS,
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
        BlockNorms("input_layernorm", "post_attention_layernorm"),
        BlockNorms("pre_feedforward_layernorm", "post_feedforward_layernorm"),
        _QK_NORMS,
    ),
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
