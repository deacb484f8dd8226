"""Kinds of models that are refused by what their configuration says of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
)

from space.errors import UserError
from space.models.architectures import ARCHITECTURES
from space.models.language_part import language_values

_PRUNED = (
    "layers of unequal shape (an already pruned model); search the dense model that it was made from, which the "
    "README.md of an export names. Of exports, those of equal layers (format=hf_uniform) can be searched again; with "
    "run_dir=... pick=... score_subnet.py scores any, and export_subnet.py writes it in another format"
)
# Keys of config.json that, when set, stand for something that the search does not do.
_REFUSED_CONFIG = {
    "quantization_config": "quantised weights; use the checkpoint that it was made from",
    "per_layer_config": _PRUNED,
    "block_configs": _PRUNED,
    "scale_attn_by_inverse_layer_idx": "attention scaled by the number of a layer, which changes when layers go",
    "add_cross_attention": "attention to an encoder, which is not supported",
}
# The same, but of the families that have that.
_REFUSED_EXPERTS = dict.fromkeys(
    ("num_experts", "num_local_experts", "n_routed_experts"),
    "a mixture of experts, which is supported of other families",
)
# Families whose decoder reads an encoder: t5, bart, whisper and the like.
_ENCODER_DECODERS = {*MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, *MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES}
_ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}  # of `layer_types`


def check_kind(values: Mapping[str, Any], file: Path) -> None:
    """Refuses what is no single stack of plain layers with attention and an MLP.

    Args:
        values: Of a configuration.
        file: Where it is.

    Raises:
        UserError: An encoder with a decoder, a pruned or otherwise special model, one whose language part is none that
            is pruned here, or one whose layers, or whose language part's, do not all have attention.
    """
    kind = values["model_type"]
    if kind in _ENCODER_DECODERS or values.get("is_encoder_decoder"):
        raise UserError(
            f"Expected a model that is one stack of layers, but {file} is of the family {kind}, an encoder and a "
            "decoder that reads it, which is not supported. Use a model that is one of the two: README names the "
            "families."
        )
    row = ARCHITECTURES.get(kind)
    mixture = row is not None and row.mlp.routed is not None
    groups = {key: values[key] for key in ("n_group", "topk_group") if values.get(key) not in (None, 1)}
    if mixture and groups:
        told = ", ".join(f"{key}={count}" for key, count in groups.items())
        raise UserError(
            f"Expected a mixture whose experts are chosen among all (n_group=1, topk_group=1), but {file} says {told}: "
            "they are chosen in groups of equal size, which dropping some would not leave. Use another model."
        )
    quantised = values.get("quantization_config")
    if isinstance(quantised, dict) and quantised.get("quant_method") == "mxfp4":  # of whose source there is no other
        raise UserError(
            f"Expected a plain dense model, but {file} has quantization_config set: weights in MXFP4. Load it with "
            "quantization_config=Mxfp4Config(dequantize=True), and search what save_pretrained then writes."
        )
    for key, meaning in (_REFUSED_CONFIG | ({} if mixture else _REFUSED_EXPERTS)).items():
        if values.get(key):
            raise UserError(f"Expected a plain dense model, but {file} has {key} set: {meaning}.")
    language = language_values(values)
    if language is not None:
        check_kind(language, file)
        return
    part = values.get("text_config")
    if isinstance(part, dict) and row is None:
        own = part.get("model_type")
        known = "is of a family that is pruned here" if own in ARCHITECTURES else "has no row here either"
        raise UserError(
            f"Expected a language model, or one that reads images too, but {file} is of a {kind}, of which language is "
            f"a part, a {own}, which {known}. Save the language part by itself, see docs/families.md, and set "
            "model.path to that."
        )
    others = sorted({*map(str, values.get("layer_types") or ())} - _ATTENTION)
    if others:
        raise UserError(
            f"Expected a model whose layers are all of attention and an MLP, but {file} has layers of "
            f"{', '.join(others)} (layer_types), which are not supported. Use another model."
        )


def check_classes(config: Any, directory: Path) -> None:
    """Refuses a classifier of something else than one of several classes."""
    kind, count = getattr(config, "problem_type", None), config.num_labels
    if count < 2 or kind in ("regression", "multi_label_classification"):
        raise UserError(
            f"Expected a classifier in {directory} that chooses one of at least two classes, whose probabilities are "
            f"compared, but its config.json has num_labels={count} and problem_type={kind}. Use another model."
        )
