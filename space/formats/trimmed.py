"""A subnet with fewer tokens: its tokenizer, configurations and matrices of some rows alone, for any format."""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from space.errors import UserError
from space.formats.checkpoint import Subnet, write_tokenizer
from space.models.stack import family_of, put_stack, stack_of
from space.supernet.modules import put_module, put_parameter, twin
from space.vocabulary.trimmed import trimmed

_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids")  # of generation settings


def tokenizer_contents(tokenizer: Any) -> dict[str, Any]:
    """The contents of a tokenizer's tokenizer.json.

    Raises:
        UserError: It has none.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"Expected a tokenizer with a tokenizer.json to trim its vocabulary, got a {type(tokenizer).__name__}. "
            "Keep its whole vocabulary."
        )
    contents: dict[str, Any] = json.loads(backend.to_str())
    return contents


def named_tokens(*settings: Any) -> set[int]:
    """The ids that configurations name, such as `eos_token_id`."""
    ids: set[int] = set()
    for each in settings:
        for name, value in each.to_dict().items() if each is not None else ():
            if _is_of_tokens(name):
                ids.update(_flat(value))
    return ids


def trimmed_tokenizer(tokenizer: Any, kept: Sequence[int]) -> Any:
    """A tokenizer of transformers with some tokens alone; see `space.vocabulary.trimmed.trimmed`.

    Raises:
        UserError: The tokenizer is of no kind that can be trimmed, or brings code of its own.
    """
    contents = trimmed(tokenizer_contents(tokenizer), kept)
    new = {old: place for place, old in enumerate(kept)}
    with tempfile.TemporaryDirectory(prefix="paretoprune-tokenizer-") as name:
        directory = Path(name)
        write_tokenizer(directory, tokenizer)
        (directory / "tokenizer.json").write_text(json.dumps(contents, ensure_ascii=False), encoding="utf-8")
        file = directory / "tokenizer_config.json"
        values = json.loads(file.read_text(encoding="utf-8"))
        if "auto_map" in values:
            raise UserError(
                f"Expected a tokenizer that is all in its tokenizer.json to trim its vocabulary, got a "
                f"{type(tokenizer).__name__} with code of its own. Keep its whole vocabulary."
            )
        if "added_tokens_decoder" in values:  # by their ids
            added = values["added_tokens_decoder"].items()
            values["added_tokens_decoder"] = {str(new[int(old)]): token for old, token in added}
        file.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
        for whole in ("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "added_tokens.json"):
            (directory / whole).unlink(missing_ok=True)
        small = AutoTokenizer.from_pretrained(directory)
    small.name_or_path = tokenizer.name_or_path
    return small


def trimmed_subnet(subnet: Subnet, kept: Sequence[int]) -> Subnet:
    """What is exported, with some tokens alone; nothing of the given one changes."""
    new = {old: place for place, old in enumerate(kept)}
    config = _renumbered(subnet.config, new)
    config.vocab_size = len(kept)
    return replace(
        subnet,
        config=config,
        tokenizer=trimmed_tokenizer(subnet.tokenizer, kept),
        spec=replace(subnet.spec, vocab=len(kept)),
        generation_config=_renumbered(subnet.generation_config, new),
    )


def trimmed_model(model: Any, kept: Sequence[int]) -> Any:
    """A model with some rows of its embedding and of its LM head, if any, alone; all else is the given one's.

    Raises:
        ValueError: Positions are counted from the padding token's id, and that would be another one.
    """
    new, names = {old: place for place, old in enumerate(kept)}, family_of(model).stack
    small = stack = twin(model)
    if stack_of(model) is not model:
        stack = twin(stack_of(model))
        put_stack(small, stack)
    small.config = stack.config = _renumbered(model.config, new)
    small.config.vocab_size = len(kept)
    if names.behind_padding and small.config.pad_token_id != model.config.pad_token_id:
        raise ValueError(f"Expected the padding token to keep its id, {model.config.pad_token_id}, got {kept[:8]}.")
    before, head_before = model.get_input_embeddings(), model.get_output_embeddings()
    embedding = twin(before)
    put_parameter(embedding, "weight", _rows(before.weight.detach(), kept))
    embedding.num_embeddings = len(kept)
    if before.padding_idx is not None:
        embedding.padding_idx = new.get(before.padding_idx)
    put_module(stack, names.embedding, embedding)
    if head_before is None:
        return small
    small.generation_config = _renumbered(model.generation_config, new)
    head = twin(head_before)
    if head_before.weight is before.weight:
        put_parameter(head, "weight", embedding.weight)
        head._parameters["weight"] = embedding._parameters["weight"]
    else:
        put_parameter(head, "weight", _rows(head_before.weight.detach(), kept))
    if head_before.bias is not None:
        put_parameter(head, "bias", _rows(head_before.bias.detach(), kept))
    small.set_output_embeddings(head)
    return small


def _rows(weight: torch.Tensor, kept: Sequence[int]) -> torch.Tensor:
    """Some rows of a matrix; the first ones are not copied."""
    return weight[: kept.stop] if isinstance(kept, range) else weight[torch.tensor(kept, device=weight.device)]


def _is_of_tokens(name: str) -> bool:
    return name.endswith(("_token_id", "_token_ids")) or name in _LISTS


def _flat(value: Any) -> set[int]:
    if isinstance(value, list | tuple):
        return set().union(*map(_flat, value))
    return set() if value is None else {int(value)}


def _renumbered(settings: Any, new: Mapping[int, int]) -> Any:
    """A copy of a configuration whose token ids are the new ones; an id that is no token's is None, or not listed."""
    if settings is None:
        return None

    def renumbered(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [place for each in value if (place := renumbered(each)) is not None]
        return None if value is None else new.get(int(value))

    own = copy.deepcopy(settings)
    for name, value in settings.to_dict().items():
        if _is_of_tokens(name) and value is not None:
            setattr(own, name, renumbered(value))
    return own
