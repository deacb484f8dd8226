"""Where a model family keeps its projections, norms and layers: rows of data, free of torch.

All supported families share the layer layout `layers.i.{self_attn.{q,k,v,o}_proj, mlp.{gate,up,down}_proj}`; what
differs is which norms belong to which block, and the names of transformers' stock classes.
"""

from __future__ import annotations

from dataclasses import dataclass

from space.errors import UserError


@dataclass(frozen=True)
class Architecture:
    """Where one family of models keeps what, and what transformers calls it.

    Attributes:
        attention_norms: Names, inside a decoder layer, of the norms that leave with its attention block.
        mlp_norms: Names of the norms that leave with its MLP block.
        qk_norm: Whether queries and keys are normed by a weight of `head_dim` values each.
        module: transformers package of the family, below `transformers.models`.
        classes: Stock class names: configuration, decoder layer, model, model with a classifier, model with LM head.
    """

    attention_norms: tuple[str, ...]
    mlp_norms: tuple[str, ...]
    qk_norm: bool
    module: str
    classes: tuple[str, ...]


def _pre_norm(module: str, name: str, *, qk_norm: bool = False) -> Architecture:
    """A family with one norm before each block, named as Llama names them."""
    return Architecture(
        attention_norms=("input_layernorm",),
        mlp_norms=("post_attention_layernorm",),
        qk_norm=qk_norm,
        module=module,
        classes=tuple(
            f"{name}{part}" for part in ("Config", "DecoderLayer", "Model", "ForSequenceClassification", "ForCausalLM")
        ),
    )


ARCHITECTURES: dict[str, Architecture] = {
    "llama": _pre_norm("llama", "Llama"),
    "mistral": _pre_norm("mistral", "Mistral"),
    "qwen2": _pre_norm("qwen2", "Qwen2"),
    "qwen3": _pre_norm("qwen3", "Qwen3", qk_norm=True),
    "smollm3": _pre_norm("smollm3", "SmolLM3"),
    "seed_oss": _pre_norm("seed_oss", "SeedOss"),
    "gemma3_text": Architecture(
        attention_norms=("input_layernorm", "post_attention_layernorm"),
        mlp_norms=("pre_feedforward_layernorm", "post_feedforward_layernorm"),
        qk_norm=True,
        module="gemma3",
        classes=(
            "Gemma3TextConfig",
            "Gemma3DecoderLayer",
            "Gemma3TextModel",
            "Gemma3TextForSequenceClassification",
            "Gemma3ForCausalLM",
        ),
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
