"""Rows of decoders laid out otherwise than Llama: fused or transposed projections, biases, learned positions."""

from __future__ import annotations

from dataclasses import replace

from space.models.block_layout import BlockLayout, Projection
from space.models.layout import Architecture, SizeNames, StackNames, StockClasses

_FUSED = ("query", "key", "value")
_WHEN = (("alibi", False, None),)  # whose bias of a head goes by its number, and by how many heads there are

_FALCON = Architecture(
    "falcon",
    StockClasses.alike("Falcon"),
    BlockLayout("self_attention", (Projection("query_key_value", _FUSED, grouped=True),), "dense"),
    BlockLayout("mlp", (Projection("dense_h_to_4h", ("up",)),), "dense_4h_to_h"),
    parallel=True,
    stack=StackNames("h", "ln_f", "word_embeddings", module="transformer"),
    sizes=SizeNames("num_attention_heads", "num_kv_heads", "ffn_hidden_size"),
    heads_fill=True,
    repeats_groups=True,
    in_tuples=True,
    adds_in_place=True,
    when=(*_WHEN, ("new_decoder_architecture", True), ("num_ln_in_parallel_attn", 1)),
    norms=("input_layernorm",),
)

_SEPARATE = tuple(Projection(f"{part[0]}_proj", (part,)) for part in _FUSED)
_FC = BlockLayout("mlp", (Projection("fc1", ("up",)),), "fc2")

EARLIER: dict[str, Architecture] = {
    "gpt2": Architecture(
        "gpt2",
        StockClasses("GPT2Config", "GPT2Block", "GPT2Model", "GPT2LMHeadModel", "GPT2ForSequenceClassification"),
        BlockLayout("attn", (Projection("c_attn", _FUSED),), "c_proj", before="ln_1", transposed=True),
        BlockLayout("mlp", (Projection("c_fc", ("up",)),), "c_proj", before="ln_2", transposed=True),
        stack=StackNames("h", "ln_f", "wte", "wpe", "transformer"),
        sizes=SizeNames("n_head", None, "n_inner"),
        depth="n_layer",
        heads_fill=True,
    ),
    "gpt_neox": Architecture(
        "gpt_neox",
        StockClasses(
            "GPTNeoXConfig",
            "GPTNeoXLayer",
            "GPTNeoXModel",
            "GPTNeoXForCausalLM",
            "GPTNeoXForSequenceClassification",
        ),
        BlockLayout(
            "attention", (Projection("query_key_value", _FUSED, grouped=True),), "dense", before="input_layernorm"
        ),
        BlockLayout("mlp", (Projection("dense_h_to_4h", ("up",)),), "dense_4h_to_h", before="post_attention_layernorm"),
        parallel="use_parallel_residual",
        stack=StackNames("layers", "final_layer_norm", "embed_in", module="gpt_neox"),
        sizes=SizeNames(kv_heads=None),
        head="embed_out",
        heads_fill=True,
    ),
    "opt": Architecture(
        "opt",
        StockClasses.alike("OPT"),
        BlockLayout(
            "self_attn",
            _SEPARATE,
            "out_proj",
            before="self_attn_layer_norm",
        ),
        BlockLayout("", (Projection("fc1", ("up",)),), "fc2", before="final_layer_norm", parts=("fc1", "fc2")),
        stack=StackNames(
            "decoder.layers", "decoder.final_layer_norm", "decoder.embed_tokens", "decoder.embed_positions"
        ),
        sizes=SizeNames("num_attention_heads", None, "ffn_dim"),
        heads_fill=True,
        when=(("do_layer_norm_before", True),),  # else norms stand behind the sums, as those of its 350M model
    ),
    "falcon": replace(
        _FALCON,
        sizes=SizeNames("num_attention_heads", 1, "ffn_hidden_size"),
        repeats_groups=False,
        when=(*_WHEN, ("new_decoder_architecture", False), ("multi_query", True), ("parallel_attn", True)),
    ),
    "falcon:one_norm": _FALCON,
    "falcon:two_norms": replace(
        _FALCON,
        attention=replace(_FALCON.attention, before="ln_attn"),
        mlp=replace(_FALCON.mlp, before="ln_mlp"),
        norms=(),
        when=(*_WHEN, ("new_decoder_architecture", True), ("num_ln_in_parallel_attn", None, 2)),
    ),
    "gptj": Architecture(
        "gptj",
        StockClasses("GPTJConfig", "GPTJBlock", "GPTJModel", "GPTJForCausalLM", "GPTJForSequenceClassification"),
        BlockLayout("attn", _SEPARATE, "out_proj"),
        BlockLayout("mlp", (Projection("fc_in", ("up",)),), "fc_out"),
        norms=("ln_1",),
        parallel=True,
        stack=StackNames("h", "ln_f", "wte", module="transformer"),
        sizes=SizeNames("n_head", None, "n_inner"),
        depth="n_layer",
        heads_fill=True,
        neighbours=True,
        in_tuples=True,
    ),
    "phi": Architecture(
        "phi",
        StockClasses.alike("Phi"),
        BlockLayout("self_attn", _SEPARATE, "dense"),
        _FC,
        norms=("input_layernorm",),
        parallel=True,
        stack=StackNames(norm="final_layernorm"),
        when=(("qk_layernorm", False),),
    ),
    "persimmon": Architecture(
        "persimmon",
        StockClasses.alike("Persimmon"),
        BlockLayout(
            "self_attn", (Projection("query_key_value", _FUSED, grouped=True),), "dense", before="input_layernorm"
        ),
        BlockLayout("mlp", (Projection("dense_h_to_4h", ("up",)),), "dense_4h_to_h", before="post_attention_layernorm"),
        ("q_layernorm", "k_layernorm"),
        stack=StackNames(norm="final_layernorm"),
        sizes=SizeNames(kv_heads=None),
        heads_fill=True,
        when=(("qk_layernorm", True),),
    ),
    "gpt_bigcode": Architecture(
        "gpt_bigcode",
        StockClasses(
            "GPTBigCodeConfig",
            "GPTBigCodeBlock",
            "GPTBigCodeModel",
            "GPTBigCodeForCausalLM",
            "GPTBigCodeForSequenceClassification",
        ),
        BlockLayout("attn", (Projection("c_attn", _FUSED),), "c_proj", before="ln_1"),
        BlockLayout("mlp", (Projection("c_fc", ("up",)),), "c_proj", before="ln_2"),
        stack=StackNames("h", "ln_f", "wte", "wpe", "transformer"),
        sizes=SizeNames("n_head", 1, "n_inner"),
        depth="n_layer",
        heads_fill=True,
        when=(("multi_query", True),),
    ),
}
