"""The blocks of Llama's layers, of which those of many families are variants."""

from __future__ import annotations

from space.models.block_layout import BlockLayout, Projection

QK_NORMS = ("q_norm", "k_norm")
GATED = (Projection("gate_proj", ("gate",)), Projection("up_proj", ("up",)))
ATTENTION = BlockLayout(
    "self_attn",
    tuple(Projection(name, (part,)) for name, part in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"))),
    "o_proj",
    before="input_layernorm",
)
MLP = BlockLayout("mlp", GATED, "down_proj", before="post_attention_layernorm")
WIDE_NORMS = (Projection("q_norm", ("query",)), Projection("k_norm", ("key",)))
