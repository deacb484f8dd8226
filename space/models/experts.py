"""Rows of decoders whose MLPs are mixtures of experts, in some layers or in all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from space.models.block_layout import BlockLayout, Plain, Routed
from space.models.layout import Architecture, SizeNames, StockClasses
from space.models.llama_blocks import ATTENTION, QK_NORMS, WIDE_NORMS

_OF_THEIR_OWN = "moe_intermediate_size"  # channels of experts, where plain MLPs have others
_KINDS = Plain()  # `mlp_layer_types` says of each layer which MLP it has
_FIRST = Plain(first="first_k_dense_replace")
_LISTED = Plain(listed="mlp_only_layers", rest=(("decoder_sparse_step", 1),))
_SHARED = Routed(channels=_OF_THEIR_OWN, shared=("shared_experts",), tied=True)
_CORRECTED = _SHARED._replace(correction="gate.e_score_correction_bias")

_MIXED = BlockLayout("mlp", (), "", before="post_attention_layernorm")


def _mixture(
    name: str,
    family: str,
    routed: Routed,
    *,
    count: str = "num_local_experts",
    attention: BlockLayout = ATTENTION,
    mlp: BlockLayout = _MIXED,
    **rest: Any,
) -> Architecture:
    """A family with layers like Llama's, but for experts in place of MLPs, which transformers 5 has in one tensor."""
    sizes = SizeNames(mlp_channels=count, expert_channels=None if routed.tied else routed.channels)
    classes = StockClasses.alike(name, classifier=False)
    blocks = (attention, replace(mlp, routed=routed))
    return Architecture(family, classes, *blocks, sizes=sizes, transformers=(5, 23), **rest)


_GLM4 = _mixture(
    "Glm4Moe",
    "glm4_moe",
    _CORRECTED._replace(plain=_FIRST),
    count="n_routed_experts",
    when=(("use_qk_norm", False),),
)

EXPERTS: dict[str, Architecture] = {
    "mixtral": _mixture("Mixtral", "mixtral", Routed()),
    "qwen2_moe": _mixture(
        "Qwen2Moe",
        "qwen2_moe",
        Routed(channels=_OF_THEIR_OWN, shared=("shared_expert", "shared_expert_gate"), plain=_LISTED),
        count="num_experts",
    ),
    "qwen3_moe": _mixture(
        "Qwen3Moe",
        "qwen3_moe",
        Routed(channels=_OF_THEIR_OWN, plain=_LISTED),
        qk_norms=QK_NORMS,
    ),
    "olmoe": _mixture(
        "Olmoe",
        "olmoe",
        Routed(),
        count="num_experts",
        attention=replace(ATTENTION, row_norms=WIDE_NORMS),
        heads_fill=True,
    ),
    "flex_olmo": _mixture(
        "FlexOlmo",
        "flex_olmo",
        Routed(),
        count="num_experts",
        attention=replace(ATTENTION, before=None, after="post_attention_layernorm", row_norms=WIDE_NORMS),
        mlp=replace(_MIXED, before=None, after="post_feedforward_layernorm"),
    ),
    "granitemoe": _mixture(
        "GraniteMoe", "granitemoe", Routed("router"), mlp=replace(_MIXED, module="block_sparse_moe")
    ),
    "minimax_m2": _mixture(
        "MiniMaxM2",
        "minimax_m2",
        Routed(correction="e_score_correction_bias"),
        attention=replace(ATTENTION, row_norms=WIDE_NORMS),
    ),
    "solar_open": _mixture("SolarOpen", "solar_open", _CORRECTED, count="n_routed_experts"),
    "gpt_oss": _mixture(
        "GptOss",
        "gpt_oss",
        Routed("router"),
        attention=replace(ATTENTION, sinks=True),
        mlp=replace(_MIXED, paired=True),
    ),
    "glm4_moe": _GLM4,
    "glm4_moe:normed": replace(_GLM4, qk_norms=QK_NORMS, when=(("use_qk_norm", True),)),
    "dots1": _mixture(
        "Dots1",
        "dots1",
        _CORRECTED._replace(plain=_FIRST),
        count="n_routed_experts",
        qk_norms=QK_NORMS,
    ),
    "ernie4_5_moe": _mixture(
        "Ernie4_5_Moe",
        "ernie4_5_moe",
        _SHARED._replace(
            active="moe_k",
            correction="gate.moe_statics.e_score_correction_bias",
            plain=Plain(first="moe_layer_start_index", rest=(("moe_layer_interval", 1),)),
        ),
        count="moe_num_experts",
        neighbours=True,
    ),
    "exaone_moe": _mixture(
        "ExaoneMoe",
        "exaone_moe",
        _CORRECTED._replace(plain=_KINDS),
        count="num_experts",
        qk_norms=QK_NORMS,
    ),
    "hy_v3": _mixture(
        "HYV3",
        "hy_v3",
        _SHARED._replace(correction="e_score_correction_bias", plain=_KINDS),
        count="num_experts",
        qk_norms=QK_NORMS,
    ),
}
