"""Writes a pruned model as a checkpoint directory that loads with transformers alone, verified before it appears."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from huggingface_hub.errors import StrictDataclassError
from torch import nn

from space.candidate import Candidate, LayerShape
from space.errors import ShapeError
from space.formats.model_card import model_card
from space.formats.reveal import revealed_when_complete
from space.formats.verify import Verification, verify_checkpoint
from space.models.architectures import architecture_of
from space.spec import ModelSpec

MODELING_FILE = "modeling_pruned"
_AUTO_MAP = {
    "AutoConfig": f"{MODELING_FILE}.PrunedConfig",
    "AutoModel": f"{MODELING_FILE}.PrunedModel",
    "AutoModelForCausalLM": f"{MODELING_FILE}.PrunedForCausalLM",
}
_OWN_CODE = (
    "Its layers differ in size, so the checkpoint brings a small modelling file that subclasses the stock classes."
)
_PLAIN = "Its layers are equal, so it is a plain checkpoint of its family."


@dataclass(frozen=True)
class Export:
    """A finished checkpoint.

    Attributes:
        directory: Where it is.
        trust_remote_code: Whether it brings its own modelling file, because its layers are unequal.
        verification: How it compares with the model that it came from.
    """

    directory: Path
    trust_remote_code: bool
    verification: Verification

    def remarks(self) -> list[str]:
        """What a person should know of it, in lines."""
        checked = self.verification
        flag = ", trust_remote_code=True" if self.trust_remote_code else ""
        return [
            f"reloaded in a fresh process: logits within {checked.logits_difference:.1e} of the search's own subnet,",
            f"generate() with the dynamic cache within {checked.dynamic_cache_difference:.1e} (relative) of without, "
            f"with the static one {checked.static_cache_difference:.1e}",
            f'exported; load with AutoModelForCausalLM.from_pretrained("{self.directory}"{flag})',
        ]


def export_checkpoint(
    source: nn.Module,
    tokenizer: Any,
    spec: ModelSpec,
    candidate: Candidate,
    out_dir: Path,
    *,
    input_ids: torch.Tensor,
    expected_logits: torch.Tensor,
    card: Mapping[str, Mapping[str, object]],
    generation_config: Any = None,
    tolerance: float = 1e-4,
) -> Export:
    """Writes, verifies and only then reveals a checkpoint.

    Args:
        source: The candidate as a causal language model of its own: the family's stock classes, with the holes of
            `space.models.modeling_pruned` where blocks are gone, and the dense model's config. Saved in its own dtype.
        tokenizer: The dense model's, or None.
        spec: The dense model.
        candidate: What `source` is.
        out_dir: Must not exist, or be an empty directory.
        input_ids: Tokens to compare on, `(batch, time)`.
        expected_logits: What the weights of `source` give for them, computed in float32, `(batch, time, vocab)`.
        card: Tables of the model card: title to rows of name and value.
        generation_config: The dense model's, or None.
        tolerance: Largest difference that passes, see `verify_checkpoint`.

    Raises:
        ExportError: `out_dir` is taken or cannot be written.
        ShapeError: Nothing that runs is left of the model.
        VerificationError: The checkpoint does not load, or computes something else.
    """
    config = checkpoint_config(source.config, candidate, spec)
    own_code = "auto_map" in config
    with revealed_when_complete(out_dir) as directory:
        write_checkpoint(directory, checkpoint_state(source, candidate), config, tokenizer, generation_config)
        if own_code:
            _write(directory / f"{MODELING_FILE}.py", render_modeling(spec.family))
        verification = verify_checkpoint(
            directory, expected_logits, input_ids, trust_remote_code=own_code, tolerance=tolerance
        )
        argument = ", trust_remote_code=True" if own_code else ""
        text = model_card(
            spec,
            candidate,
            {**card, "Checked on export, in float32": verification.rows()},
            kind=_OWN_CODE if own_code else _PLAIN,
            library="transformers",
            use="from transformers import AutoModelForCausalLM\n\n"
            f'model = AutoModelForCausalLM.from_pretrained("path/to/this/directory"{argument})',
        )
        _write(directory / "README.md", text)
    return Export(out_dir, own_code, verification)


def write_checkpoint(
    directory: Path, state: Mapping[str, torch.Tensor], config: Mapping[str, Any], tokenizer: Any, generation: Any
) -> None:
    """Writes weights, config.json, tokenizer and generation settings, the last two unless they are None.

    Args:
        directory: An empty one.
        state: The tensors by name, all of one dtype, which goes into the config.
        config: The contents of config.json.
        tokenizer: Saved as transformers does.
        generation: transformers' GenerationConfig.
    """
    dtype = str(next(iter(state.values())).dtype).removeprefix("torch.")
    save_torch_state_dict(dict(state), directory, metadata={"format": "pt"})
    _write(directory / "config.json", json.dumps({**config, "dtype": dtype}, indent=2, sort_keys=True) + "\n")
    for weights in directory.glob("*.safetensors"):  # safetensors makes files that only their owner may read
        shutil.copymode(directory / "config.json", weights)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    if generation is not None:
        generation.to_json_file(directory / "generation_config.json")


def checkpoint_config(dense_config: Any, candidate: Candidate, spec: ModelSpec) -> dict[str, Any]:
    """The contents of `config.json`: the stock family's where all layers left are equal, else with `per_layer_config`.

    Args:
        dense_config: The dense model's transformers config.
        candidate: The layers to describe; those that are gone do not count as layers any more.
        spec: The dense model.

    Raises:
        ShapeError: No layer keeps attention.
    """
    kept = [index for index, shape in enumerate(candidate.layers) if not shape.gone]
    shapes = [candidate.layers[index] for index in kept]
    if not any(shape.query_heads for shape in shapes):
        raise ShapeError(
            f"Expected a candidate that keeps attention in at least one layer, got {candidate.key} with none: "
            "without attention there is no key-value cache to generate with. Pick another point."
        )
    values: dict[str, Any] = dense_config.to_diff_dict()
    values |= {"num_hidden_layers": len(kept), "head_dim": spec.head_dim}
    if values.get("layer_types") is not None:
        values["layer_types"] = [values["layer_types"][index] for index in kept]

    family = architecture_of(spec.family)
    if len(set(shapes)) == 1 and shapes[0].mlp_channels:
        uniform = values | _overrides(shapes[0]) | {"architectures": [family.classes[-1]]}
        if _is_valid(type(dense_config), uniform):
            return uniform
    dense = LayerShape(spec.query_heads, spec.kv_heads, spec.mlp_channels)
    per_layer = {str(index): _overrides(shape, dense) for index, shape in enumerate(shapes) if shape != dense}
    return (
        values
        | _overrides(dense)
        | {
            "model_type": f"pruned_{spec.family}",
            "architectures": ["PrunedForCausalLM"],
            "auto_map": _AUTO_MAP,
            "allow_global_per_layer_attribute_access": True,  # the stock config's own validation reads a head count
            "per_layer_config": per_layer,
        }
    )


def render_modeling(family_name: str) -> str:
    """The text of `space/models/modeling_pruned.py` with the imports and names of a family.

    Raises:
        UserError: There is no such family.
    """
    family = architecture_of(family_name)
    text = resources.files("space.models").joinpath("modeling_pruned.py").read_text(encoding="utf-8")
    llama = architecture_of("llama")
    for kind, old, new in zip(
        ("configuration", "modeling", "modeling", "modeling"), llama.classes, family.classes, strict=True
    ):
        text = _replace_once(
            text,
            f"from transformers.models.{llama.module}.{kind}_{llama.module} import {old} as ",
            f"from transformers.models.{family.module}.{kind}_{family.module} import {new} as ",
        )
    for name, old_value, new_value in (
        ("MODEL_TYPE", "pruned_llama", f"pruned_{family_name}"),
        ("ATTENTION_NORMS", llama.attention_norms, family.attention_norms),
        ("MLP_NORMS", llama.mlp_norms, family.mlp_norms),
    ):
        text = _replace_once(text, f"{name} = {_literal(old_value)}\n", f"{name} = {_literal(new_value)}\n")
    return text


def _is_valid(config_class: Any, values: dict[str, Any]) -> bool:
    """Whether a family's config takes these values; some want a hidden size that is a multiple of the heads."""
    try:
        config_class.from_dict(values)
    except StrictDataclassError:
        return False
    return True


def _literal(value: str | tuple[str, ...]) -> str:
    """A Python literal as the formatter writes it."""
    if isinstance(value, str):
        return json.dumps(value)
    return "(" + ", ".join(map(json.dumps, value)) + ("," if len(value) == 1 else "") + ")"


def _replace_once(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, f"space/models/modeling_pruned.py must have one {old!r}"
    return text.replace(old, new)


def _overrides(shape: LayerShape, dense: LayerShape | None = None) -> dict[str, Any]:
    """A shape under the config's names; with `dense`, only what differs from it, and `skip` for holes."""
    values: dict[str, Any] = {}
    if dense is None or (shape.query_heads and shape.query_heads != dense.query_heads):
        values["num_attention_heads"] = shape.query_heads
    if dense is None or (shape.kv_heads and shape.kv_heads != dense.kv_heads):
        values["num_key_value_heads"] = shape.kv_heads
    if dense is None or (shape.mlp_channels and shape.mlp_channels != dense.mlp_channels):
        values["intermediate_size"] = shape.mlp_channels
    skip = [name for name, size in (("attention", shape.query_heads), ("mlp", shape.mlp_channels)) if not size]
    return values | ({"skip": skip} if skip else {})


def checkpoint_state(source: nn.Module, candidate: Candidate) -> dict[str, torch.Tensor]:
    """The state to save: layers that are gone left out and the rest renumbered, a tied LM head left out."""
    kept = [index for index, shape in enumerate(candidate.layers) if not shape.gone]
    new_index = {str(old): str(new) for new, old in enumerate(kept)}
    state = {}
    for name, tensor in source.state_dict().items():
        if name == "lm_head.weight" and source.config.tie_word_embeddings:  # type: ignore[union-attr]
            continue
        parts = name.split(".")
        if parts[:2] == ["model", "layers"]:
            parts[2] = new_index[parts[2]]
        state[".".join(parts)] = tensor
    return state


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
