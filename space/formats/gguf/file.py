"""A pruned model as one GGUF file: sizes, tokenizer, and tensors under llama.cpp's names and in its order."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from space.candidate import LayerShape
from space.errors import UserError
from space.formats.checkpoint import CheckpointParts
from space.formats.equal_forms import widened
from space.formats.gguf.families import architecture, context_length, held_shapes, sliding_period
from space.formats.gguf.tokenizer import GGUFTokenizer
from space.formats.gguf.types import FileTypes, rounded_matrices
from space.rounding.rounded import Rounded
from space.spec import ModelSpec

_TENSORS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GEMMA_TENSORS = _TENSORS | {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_INTERLEAVED = ("llama", "deci")  # rotary pairs are neighbours there; transformers has them half a head apart
_GEMMA_27B = 62  # layers of a model whose attention llama.cpp scales by the width that a head has of the hidden size
_OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def write_gguf(
    path: Path,
    parts: CheckpointParts,
    spec: ModelSpec,
    tokenizer: GGUFTokenizer,
    types: FileTypes,
    name: str,
    rounded: Mapping[str, Rounded] | None = None,
) -> None:
    """Writes one file.

    Args:
        path: Of the file.
        parts: What to write.
        spec: The dense model.
        tokenizer: What the file says of it.
        types: Of the matrices. Norms and biases stay in float32.
        name: What the file calls itself.
        rounded: Matrices that are rounded already, by name; None to round all here.

    Raises:
        UserError: A weight is too large for F16.
    """
    config, held = parts.config, held_shapes(parts.shapes, spec)
    wide = widened(parts, held, spec).state
    if rounded is None:
        rounded = rounded_matrices(parts.state, types)
    of_zeros = {key: tensor for key, tensor in wide.items() if tensor is not parts.state.get(key)}
    rounded = {**rounded, **rounded_matrices(of_zeros, types)}
    coded = {key: matrix.ggml for key, matrix in rounded.items()}
    state = {key: rounded[key].codes if key in rounded else tensor for key, tensor in wide.items()}
    arch = architecture(held, spec)
    if arch == "openelm":
        state = _with_fused_attention(state, len(held))
        coded |= {key.replace(".q_proj.", ".qkv_proj."): ggml for key, ggml in coded.items()}
    if arch == "gemma3":
        state = _with_gemma_norms(state, config, spec, len(held), held[0].query_heads)
    writer = gguf.GGUFWriter(path, arch)
    try:
        writer.add_name(name)
        _describe(writer, held, config, spec, equal=len({shape.unrounded for shape in held}) == 1)
        writer.add_file_type(types.file)
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        _add_tokenizer(writer, tokenizer)
        if arch == "gemma3":
            _describe_windows(writer, parts)
        if config.rope_parameters.get("rope_type") == "llama3":
            writer.add_tensor("rope_freqs.weight", llama3_factors(config.rope_parameters, spec.head_dim))
        for key, tensor in state.items():
            _add_tensor(writer, key, tensor, held, arch, coded.get(key))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def llama3_factors(rope: dict[str, Any], head_dim: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What llama.cpp divides the rotary frequencies by, `(head_dim / 2,)`: Llama 3.1's stretch of the slow ones."""
    frequencies = rope["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim)
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # in the original context
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    fast = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - fast) / rope["factor"] + fast)).astype(np.float32)


def _describe(
    writer: gguf.GGUFWriter, held: Sequence[LayerShape], config: Any, spec: ModelSpec, *, equal: bool
) -> None:
    """Sizes and constants; by layer where the layers differ."""

    def sizes(values: list[int]) -> int | list[int]:
        return values[0] if equal else values

    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_block_count(len(held))
    writer.add_context_length(context_length(config, spec))
    writer.add_embedding_length(spec.hidden)
    writer.add_vocab_size(spec.vocab)
    writer.add_head_count(sizes([shape.query_heads for shape in held]))
    writer.add_head_count_kv(sizes([shape.kv_heads for shape in held]))
    writer.add_feed_forward_length(sizes([shape.mlp_channels for shape in held]))
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def _describe_windows(writer: gguf.GGUFWriter, parts: CheckpointParts) -> None:
    """Which layers attend to a sliding window, of what length, and their rotary embedding."""
    config = parts.config
    period = sliding_period([config.layer_types[index] for index in parts.layers])
    assert period is not None  # `require_arithmetic`
    writer.add_sliding_window(config.sliding_window)
    writer.add_sliding_window_pattern(period)
    writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])


def _with_fused_attention(state: Mapping[str, Tensor], layers: int) -> dict[str, Tensor]:
    """The state with one projection to queries, keys and values in each layer."""
    result = dict(state)
    for index in range(layers):
        prefix = f"model.layers.{index}.self_attn."
        parts = [result.pop(f"{prefix}{part}_proj.weight") for part in "qkv"]
        result[f"{prefix}qkv_proj.weight"] = torch.cat(parts)
    return result


def _with_gemma_norms(
    state: Mapping[str, Tensor], config: Any, spec: ModelSpec, layers: int, query_heads: int
) -> dict[str, Tensor]:
    """The state with norms that scale by their weights, where Gemma's scale by one more.

    The norm of the queries has in it what the config scales attention by beside what llama.cpp does.
    """
    width = spec.hidden / query_heads if layers == _GEMMA_27B else spec.head_dim
    result = {name: tensor.float() + 1 if "norm" in name else tensor for name, tensor in state.items()}
    for index in range(layers):
        result[f"model.layers.{index}.self_attn.q_norm.weight"] *= math.sqrt(width / config.query_pre_attn_scalar)
    return result


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: GGUFTokenizer) -> None:
    writer.add_tokenizer_model(tokenizer.model)
    writer.add_tokenizer_pre(tokenizer.pre)
    writer.add_token_list(tokenizer.tokens)
    writer.add_token_types(tokenizer.types)
    if tokenizer.model == "gpt2":
        writer.add_token_merges(tokenizer.merges)
    else:
        writer.add_token_scores(tokenizer.scores)
        writer.add_add_space_prefix(tokenizer.add_space_prefix)
    for name, index in tokenizer.ids.items():
        getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(tokenizer.add_bos)
    writer.add_add_eos_token(tokenizer.add_eos)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _add_tensor(
    writer: gguf.GGUFWriter,
    key: str,
    tensor: Tensor,
    held: Sequence[LayerShape],
    arch: str,
    ggml: gguf.GGMLQuantizationType | None,
) -> None:
    """Writes one tensor under llama.cpp's name, in its order of rows; where it is of bytes, these are of a type."""
    module, _, parameter = key.rpartition(".")
    coded = tensor.dtype == torch.uint8
    values = tensor if coded else tensor.detach().cpu().float()
    if module in _OUTER:
        name = f"{_OUTER[module]}.{parameter}"
    else:
        _, _, index, part = module.split(".", 3)
        name = f"blk.{index}.{(_GEMMA_TENSORS if arch == 'gemma3' else _TENSORS)[part]}.{parameter}"
        if arch in _INTERLEAVED and part in ("self_attn.q_proj", "self_attn.k_proj"):
            shape = held[int(index)]
            values = _interleaved(values, shape.query_heads if part.endswith("q_proj") else shape.kv_heads)
    if values.ndim == 1:
        writer.add_tensor(name, values.numpy())
    elif coded:
        writer.add_tensor(name, values.numpy(), raw_dtype=ggml)
    elif values.abs().max() <= torch.finfo(torch.float16).max:
        writer.add_tensor(name, values.half().numpy())
    else:
        raise UserError(
            f"Expected weights of at most {torch.finfo(torch.float16).max:g}, which is the largest in F16, but {key} "
            f"has {float(values.abs().max()):g}. Export it with gguf.type=q8_0 or format=hf."
        )


def _interleaved(values: Tensor, heads: int) -> Tensor:
    """Rows of a query or key projection with the two of each rotary pair as neighbours, head by head."""
    halves = values.view(heads, 2, -1, *values.shape[1:])  # (heads, half, pair, ...)
    return halves.transpose(1, 2).reshape(values.shape)
