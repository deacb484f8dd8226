"""What of a subnet goes into a checkpoint of any format, and the directory that transformers reads it from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import save_torch_state_dict
from torch import Tensor, nn

from space.candidate import Candidate, LayerShape
from space.checks import dtype_name
from space.errors import ShapeError
from space.models.language_part import Surroundings
from space.models.modeling_pruned import rope_of_transformers_4
from space.spec import ModelSpec


@dataclass(frozen=True)
class Subnet:
    """What is exported: a candidate, and what formats want to know of the dense model beside it.

    Attributes:
        config: The dense model's transformers config.
        tokenizer: The dense model's, or None.
        spec: The dense model.
        candidate: What is written of it.
        generation_config: The dense model's, or None.
        companions: Files of the dense model's directory that go beside the weights, by their path there.
        surroundings: What the dense model is a part of, or None.
    """

    config: Any
    tokenizer: Any
    spec: ModelSpec
    candidate: Candidate
    generation_config: Any = None
    companions: Mapping[str, bytes] = field(default_factory=dict)
    surroundings: Surroundings | None = None


@dataclass(frozen=True)
class CheckpointParts:
    """What every format writes in its own words.

    Attributes:
        config: The dense model's transformers config.
        shapes: Of the layers that are left.
        layers: Their numbers in the dense model.
        state: The tensors by transformers' names, layers numbered as in `shapes`, a tied LM head left out.
    """

    config: Any
    shapes: tuple[LayerShape, ...]
    layers: tuple[int, ...]
    state: Mapping[str, Tensor]

    @property
    def elements(self) -> int:
        """Elements of all tensors."""
        return sum(tensor.numel() for tensor in self.state.values())


def kept_shapes(candidate: Candidate) -> tuple[LayerShape, ...]:
    """The shapes of the layers that are left.

    Raises:
        ShapeError: No layer keeps attention.
    """
    shapes = tuple(candidate.layers[index] for index in candidate.kept)
    if not any(shape.query_heads for shape in shapes):
        raise ShapeError(
            f"Expected a candidate that keeps attention in at least one layer, got {candidate.key} with none: "
            "without attention there is no key-value cache to generate with. Pick another point."
        )
    return shapes


def checkpoint_parts(model: nn.Module, config: Any, candidate: Candidate) -> CheckpointParts:
    """The parts of a subnet.

    Args:
        model: The candidate, a view of the supernet or one of its own.
        config: The dense model's.
        candidate: What `model` is.

    Raises:
        ShapeError: No layer keeps attention.
    """
    tied = {"lm_head.weight", *(getattr(model, "_tied_weights_keys", None) or ())}
    tied = tied if getattr(config, "tie_word_embeddings", False) else set()
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in tied}
    return CheckpointParts(config, kept_shapes(candidate), candidate.kept, state)


def write_checkpoint(
    directory: Path, state: Mapping[str, Tensor], config: Mapping[str, Any], tokenizer: Any, generation: Any
) -> None:
    """Writes weights, config.json, tokenizer and generation settings, the last two unless they are None.

    What transformers 4 and 5 call differently is said in both ways.

    Args:
        directory: An empty one.
        state: The tensors by name, all of one dtype, which goes into the config.
        config: The contents of config.json.
        tokenizer: Saved as transformers does.
        generation: transformers' GenerationConfig.
    """
    dtype = dtype_name(next(iter(state.values())).dtype)
    whole = {name: tensor if _is_whole(tensor) else tensor.clone() for name, tensor in state.items()}
    save_torch_state_dict(whole, directory, metadata={"format": "pt"})
    write_config(directory, config, dtype)
    for weights in directory.glob("*.safetensors"):  # safetensors makes files that only their owner may read
        shutil.copymode(directory / "config.json", weights)
    if tokenizer is not None:
        write_tokenizer(directory, tokenizer)
    if generation is not None:
        generation.to_json_file(directory / "generation_config.json")


def write_companions(directory: Path, companions: Mapping[str, bytes]) -> None:
    """Writes files as they are, by their path in a directory."""
    for name, content in companions.items():
        place = directory / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def write_config(directory: Path, config: Mapping[str, Any], dtype: str) -> None:
    """Writes config.json for old and new transformers; `dtype` is that of the weights, as torch names it."""
    rope = config.get("rope_parameters")
    both = {**(rope_of_transformers_4(rope) if rope else {}), **config, "dtype": dtype, "torch_dtype": dtype}
    _write_json(directory / "config.json", both)


def write_tokenizer(directory: Path, tokenizer: Any) -> None:
    """Saves a tokenizer so that transformers 4 knows its class, and makes the tokens of its tokenizer.json."""
    tokenizer.save_pretrained(directory)
    file = directory / "tokenizer_config.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    if not (directory / "tokenizer.json").exists() or "auto_map" in values:
        return  # a class of its own, which makes its tokens itself
    values["tokenizer_class"] = "PreTrainedTokenizerFast"  # other classes of transformers 4 put their own rules first
    if isinstance(values.get("extra_special_tokens"), list):
        values["additional_special_tokens"] = values.pop("extra_special_tokens")
    splitter = tokenizer.backend_tokenizer.pre_tokenizer
    state = json.loads(splitter.__getstate__()) if splitter is not None else {}
    if "add_prefix_space" in state:  # else transformers 4 turns it off
        values["add_prefix_space"] = state["add_prefix_space"]
    _write_json(file, values)


def _write_json(file: Path, values: Mapping[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _is_whole(tensor: Tensor) -> bool:
    """Whether a tensor is all of its memory, and not a slice of a supernet's."""
    return tensor.untyped_storage().nbytes() == tensor.nbytes
