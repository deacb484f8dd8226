"""Writes a pruned model as a checkpoint directory that loads with transformers alone, verified before it appears."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import save_torch_state_dict
from torch import nn

from space.candidate import Candidate
from space.formats.model_card import model_card
from space.formats.reveal import revealed_when_complete
from space.formats.verify import Verification, verify_checkpoint
from space.models.pruned import MODELING_FILE, checkpoint_config, modeling_text
from space.spec import ModelSpec

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
        write_checkpoint(directory, checkpoint_state(source), config, tokenizer, generation_config)
        if own_code:
            _write(directory / f"{MODELING_FILE}.py", modeling_text(spec.family))
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


def checkpoint_state(view: nn.Module) -> dict[str, torch.Tensor]:
    """The tensors to save: all of a view's, but for an LM head that is the embedding."""
    tied = view.config.tie_word_embeddings  # type: ignore[union-attr]
    return {name: tensor for name, tensor in view.state_dict().items() if not (tied and name == "lm_head.weight")}


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
