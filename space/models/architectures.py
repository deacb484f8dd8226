"""Where the families of models keep their projections, norms and layers: rows of data, free of torch.

What a row is made of is in `space.models.layout`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from space.errors import UserError
from space.models.block_layout import Projection
from space.models.earlier import EARLIER
from space.models.encoders import ENCODERS
from space.models.experts import EXPERTS
from space.models.layout import Architecture, StockClasses
from space.models.llama_blocks import ATTENTION, GATED, MLP, QK_NORMS, WIDE_NORMS


def _pre_norm(module: str, classes: StockClasses, qk_norms: tuple[str, ...] = (), **rest: Any) -> Architecture:
    """A family with the layers of Llama."""
    return Architecture(module, classes, ATTENTION, MLP, qk_norms, **rest)


_FUSED_MLP = replace(MLP, inputs=(Projection("gate_up_proj", ("gate", "up")),))
_GEMMA_ATTENTION = replace(ATTENTION, after="post_attention_layernorm")
_GEMMA_MLP = replace(MLP, before="pre_feedforward_layernorm", after="post_feedforward_layernorm")


def _parallel(module: str, name: str, *, heads_fill: bool = False) -> Architecture:
    """A family whose blocks read the stream through one norm, as Cohere's do."""
    return Architecture(
        module,
        StockClasses.alike(name, classifier=False),
        replace(ATTENTION, before=None),
        replace(MLP, before=None),
        norms=("input_layernorm",),
        parallel=True,
        heads_fill=heads_fill,
        neighbours=True,
    )


def _behind(module: str, name: str) -> Architecture:
    """A family with norms behind its blocks, and of all queries and all keys, as OLMo 2."""
    return Architecture(
        module,
        StockClasses.alike(name, classifier=False),  # which transformers 4 has none of
        replace(ATTENTION, before=None, after="post_attention_layernorm", row_norms=WIDE_NORMS),
        replace(MLP, before=None, after="post_feedforward_layernorm"),
    )


ARCHITECTURES: dict[str, Architecture] = {
    "llama": _pre_norm("llama", StockClasses.alike("Llama")),
    "mistral": _pre_norm("mistral", StockClasses.alike("Mistral")),
    "qwen2": _pre_norm("qwen2", StockClasses.alike("Qwen2")),
    "qwen3": _pre_norm("qwen3", StockClasses.alike("Qwen3"), QK_NORMS),
    "smollm3": _pre_norm("smollm3", StockClasses.alike("SmolLM3")),
    "seed_oss": _pre_norm("seed_oss", StockClasses.alike("SeedOss")),
    "hunyuan_v1_dense": _pre_norm(
        "hunyuan_v1_dense", StockClasses.alike("HunYuanDenseV1"), ("query_layernorm", "key_layernorm")
    ),
    "ministral": _pre_norm("ministral", StockClasses.alike("Ministral")),
    "cwm": _pre_norm("cwm", StockClasses.alike("Cwm", classifier=False)),
    "helium": _pre_norm("helium", StockClasses.alike("Helium"), heads_fill=True, neighbours=True),
    "olmo": _pre_norm("olmo", StockClasses.alike("Olmo", classifier=False)),
    "granite": _pre_norm("granite", StockClasses.alike("Granite", classifier=False)),
    "exaone4": Architecture(
        "exaone4",
        StockClasses.alike("Exaone4"),
        replace(ATTENTION, before=None, after="post_attention_layernorm"),
        replace(MLP, before=None, after="post_feedforward_layernorm"),
        QK_NORMS,
    ),
    "starcoder2": Architecture(
        "starcoder2",
        StockClasses.alike("Starcoder2"),
        ATTENTION,
        replace(MLP, inputs=(Projection("c_fc", ("up",)),), output="c_proj"),
    ),
    "nemotron": Architecture("nemotron", StockClasses.alike("Nemotron"), ATTENTION, replace(MLP, inputs=GATED[1:])),
    "jais2": Architecture(
        "jais2", StockClasses.alike("Jais2", classifier=False), ATTENTION, replace(MLP, inputs=GATED[1:])
    ),
    "phi3": Architecture(
        "phi3",
        StockClasses.alike("Phi3"),
        replace(ATTENTION, inputs=(Projection("qkv_proj", ("query", "key", "value")),)),
        _FUSED_MLP,
    ),
    **EARLIER,
    "stablelm": _pre_norm("stablelm", StockClasses.alike("StableLm"), heads_fill=True),
    "arcee": Architecture("arcee", StockClasses.alike("Arcee"), ATTENTION, replace(MLP, inputs=GATED[1:])),
    "ernie4_5": _pre_norm("ernie4_5", StockClasses.alike("Ernie4_5", classifier=False), neighbours=True),
    "glm": Architecture("glm", StockClasses.alike("Glm"), ATTENTION, _FUSED_MLP, neighbours=True),
    "glm4": Architecture(
        "glm4",
        StockClasses.alike("Glm4"),
        replace(ATTENTION, after="post_self_attn_layernorm"),
        replace(_FUSED_MLP, after="post_mlp_layernorm"),
        neighbours=True,
    ),
    "olmo2": _behind("olmo2", "Olmo2"),
    "olmo3": _behind("olmo3", "Olmo3"),
    "cohere": _parallel("cohere", "Cohere"),
    "cohere2": _parallel("cohere2", "Cohere2", heads_fill=True),
    "gemma": _pre_norm("gemma", StockClasses.alike("Gemma")),
    "vaultgemma": Architecture(
        "vaultgemma",
        StockClasses.alike("VaultGemma", classifier=False),
        ATTENTION,
        replace(MLP, before="pre_feedforward_layernorm"),
    ),
    "gemma2": Architecture("gemma2", StockClasses.alike("Gemma2"), _GEMMA_ATTENTION, _GEMMA_MLP),
    "gemma3_text": Architecture(
        "gemma3",
        StockClasses(
            "Gemma3TextConfig",
            "Gemma3DecoderLayer",
            "Gemma3TextModel",
            "Gemma3ForCausalLM",
            "Gemma3TextForSequenceClassification",
        ),
        _GEMMA_ATTENTION,
        _GEMMA_MLP,
        QK_NORMS,
    ),
    **EXPERTS,
    **ENCODERS,
}


def model_type_of(name: str) -> str:
    """transformers' `model_type` of a row: its name, without what tells rows of one family apart."""
    return name.partition(":")[0]


def rows_of(model_type: str) -> dict[str, Architecture]:
    """The rows of a family, by name.

    Raises:
        UserError: There is none.
    """
    rows = {name: row for name, row in ARCHITECTURES.items() if model_type_of(name) == model_type}
    if not rows:
        raise UserError(
            f"Expected a model of one of the families {', '.join(sorted({*map(model_type_of, ARCHITECTURES)}))}, got "
            f"model_type={model_type!r}. Choose a model of a supported family, or add a row to "
            "space/models/architectures.py."
        )
    return rows


def architecture_of(name: str) -> Architecture:
    """The row of a name, a key of `ARCHITECTURES`.

    Raises:
        UserError: There is none.
    """
    return ARCHITECTURES.get(name) or rows_of(name)[name]
