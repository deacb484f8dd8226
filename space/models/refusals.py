"""Refuses, before any weight is read, a checkpoint that is no dense model or that contradicts itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedModel

from space.errors import UserError
from space.models.architectures import ARCHITECTURES, rows_of
from space.models.embedded import quiet_transformers
from space.models.hub import WEIGHT_FILES
from space.models.kinds import check_classes, check_kind
from space.models.language_part import Surroundings, language_config, language_values, loader_for, separated
from space.models.stack import family_of, row_of
from space.models.weights import Header, headers_of, lossless_dtype
from space.spec import ModelSpec
from space.task import TASKS

# What transformers raises of files that it cannot make a model of.
UNREADABLE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError),
    *(SafetensorError, StrictDataclassError),
)

_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
# Rotary embeddings that reach beyond `max_position_embeddings`; the others have it counted in there.
_STRETCHED = ("linear", "dynamic", "yarn")
_INDICES = "position_ids"  # 0, 1, 2, …, which older versions of transformers stored beside weights
_ROWS = 4096  # of two matrices that are compared at once


def check_files(directory: Path) -> None:
    """Refuses a directory without a configuration and safetensors.

    Raises:
        UserError: One of the two is missing.
    """
    names = sorted(file.name for file in directory.iterdir())
    if "config.json" in names and list(directory.glob(WEIGHT_FILES)):
        return
    unread = [name for name in names if name.endswith((".bin", ".pt", ".pth", ".gguf"))]
    if not {*_ADAPTERS}.isdisjoint(names):
        hint = (
            "An adapter without adapter_config.json and adapter_model.safetensors is not merged here: merge it into "
            "its base model (merge_and_unload of peft) and save that."
        )
    elif unread:
        hint = f"{unread[0]} is not read: convert it with save_pretrained, which writes safetensors."
    else:
        hint = "Set model.path to a checkpoint directory."
    raise UserError(
        f"Expected config.json and model.safetensors (or its shards) in {directory}, "
        f"got {', '.join(names[:8]) or 'an empty directory'}. {hint}"
    )


def checked_config(directory: Path, trust_remote_code: bool, lengths: Mapping[str, int], task: str | None) -> Any:
    """The transformers config of a checkpoint that can be searched, whole or only in part; needs no weights.

    Args:
        directory: With config.json.
        trust_remote_code: Whether code that comes with the checkpoint may run.
        lengths: By a setting as one writes it (`data.length=512`), the tokens that it asks of the model at once.
        task: What the model is to be for; None for anything.

    Raises:
        UserError: The configuration is broken, of a family or kind that is not supported or of another task, stands
            beside an adapter, or has fewer positions than a length.
    """
    file = directory / "config.json"
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"Expected {file} to be JSON, but got: {error}.") from error
    if not isinstance(values, dict) or not isinstance(values.get("model_type"), str):
        raise UserError(f"Expected {file} to be a JSON object with a model_type, as transformers writes it.")
    check_kind(values, file)
    kind = (language_values(values) or values)["model_type"]
    family, *_ = rows_of(kind).values()
    if task is not None and task not in family.tasks:
        titles, said = [TASKS[each].title for each in family.tasks], values.get("architectures") or ()
        raise UserError(
            f"Expected {TASKS[task].title}, as model.task={task} says, but {file} is of the family "
            f"{kind}, whose models are each {' or '.join(titles)} here. Set "
            f"{TASKS[family.task_of(said)].settings} model.path={directory}."
        )
    adapter = next((name for name in _ADAPTERS if (directory / name).exists()), None)
    if adapter is not None:
        raise UserError(
            f"Expected one model in {directory}, but beside it there is an adapter, {adapter}, and it is not clear "
            "which is meant. Merge the adapter (merge_and_unload of peft) and save that elsewhere, or take its "
            "files out of the directory."
        )
    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code, local_files_only=True)
    except UNREADABLE as error:
        raise unloadable(directory, error) from error
    own = language_config(config)
    row_of(own)  # which may not be as any row of the family
    if task is not None and TASKS[task].classifies:
        check_classes(own, directory)
    limit = positions(own)
    beyond = [setting for setting, tokens in lengths.items() if limit is not None and tokens > limit]
    if beyond:
        raise UserError(
            f"Expected at most {limit:,} tokens at once, the positions of the model in {directory} by its config.json, "
            f"but got {', '.join(beyond)}. Beyond them its figures mean nothing: lower what is beyond, or use a model "
            "with more positions."
        )
    return config


def require_lengths(spec: ModelSpec, lengths: Mapping[str, int]) -> None:
    """Refuses other lengths than the tokens of an image, of a model that reads such.

    Args:
        spec: The model.
        lengths: By a setting as one writes it, the tokens that it asks of the model at once.
    """
    wrong = [setting for setting, tokens in lengths.items() if tokens != spec.image_length]
    right = [f"{setting.partition('=')[0]}={spec.image_length}" for setting in wrong]
    if spec.use.reads == "images" and wrong:
        raise UserError(
            f"Expected windows of {spec.image_length} tokens, as an image is to {spec.name}, but got "
            f"{', '.join(wrong)}. Set {' '.join(right)}."
        )


def positions(config: Any) -> int | None:
    """The longest sequence that a model is made for, in tokens; None where its config names no limit.

    Rotary embeddings that are scaled count as transformers documents them: `linear`, `dynamic` and `yarn` reach
    `factor` times as far as what they scale; other kinds have `max_position_embeddings` say so already.
    """
    limit = getattr(config, "max_position_embeddings", None)
    row = ARCHITECTURES.get(getattr(config, "model_type", ""))
    if limit and row is not None and row.stack.behind_padding:
        return int(limit - config.pad_token_id - 1)
    rope = getattr(config, "rope_parameters", None) or {}
    if not limit or rope.get("rope_type") not in _STRETCHED:
        return limit or None
    scaled = rope.get("original_max_position_embeddings") or limit
    return max(limit, int(scaled * (rope.get("factor") or 1)))


def check_weights(
    directory: Path, config: Any, trust_remote_code: bool, task: str
) -> tuple[PreTrainedModel, Surroundings | None]:
    """Compares a configuration with the names and shapes that the weights' headers state, by transformers' own rules.

    Args:
        directory: With the weights.
        config: The configuration.
        trust_remote_code: Whether code that comes with the checkpoint may run.
        task: What the model is for.

    Returns:
        The model without its weights, on the meta device, in the dtype that holds all of them without loss; and where
        it is a part of another, what that has besides.

    Raises:
        UserError: A header cannot be read, transformers makes no model of the configuration, tensors are missing, left
            over or of another shape, or the head is said to be tied and is not.
    """
    headers = headers_of(directory)
    integers = [
        name
        for name, header in headers.items()
        if header.dtype.startswith(("I", "U")) and header.shape and not name.endswith(_INDICES)
    ]
    if integers:
        raise UserError(
            f"Expected weights in {directory} that are floating-point numbers, but {len(integers)} are of whole ones, "
            f"such as {integers[0]} ({headers[integers[0]].dtype}): quantised weights, of which its config.json says "
            "nothing. Use the checkpoint that they were made from."
        )
    try:
        with quiet_transformers():
            with torch.device("meta"):
                model_class = type(loader_for(config, task).from_config(config, trust_remote_code=trust_remote_code))
            whole, report = model_class.from_pretrained(
                None,
                config=config,
                state_dict={name: torch.empty(header.shape, device="meta") for name, header in headers.items()},
                dtype=lossless_dtype(headers, model_class),
                device_map="meta",
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
            model, surroundings = separated(whole)
    except UNREADABLE as error:
        raise unloadable(directory, error) from error
    mismatched = report["mismatched_keys"]
    if mismatched:
        name, stored, configured = min(mismatched)
        raise UserError(
            f"Expected the weights in {directory} to fit its config.json, but {len(mismatched)} have another shape: "
            f"{name} is {tuple(stored)}, and config.json makes it {tuple(configured)}. Use the config.json that "
            "belongs to them."
        )
    stock = family_of(model).classes.of(TASKS[task])
    if TASKS[task].classifies and model_class.__name__ != stock:
        raise UserError(
            f"Expected a {stock} in {directory}, but its config.json says {model_class.__name__}, which has another "
            "head. Use a checkpoint of the former."
        )
    # transformers would fill what is missing with random numbers and drop what is left over.
    missing = report["missing_keys"]
    inside = f"{family_of(model).stack.layers}."
    left_over = {
        key
        for key in report["unexpected_keys"]
        if (key.startswith(inside) or f".{inside}" in key) and "rotary_emb" not in key
    }
    if missing == {"lm_head.weight"}:
        raise UserError(
            f"Expected the weights in {directory} to have an lm_head.weight, as config.json does not tie it to the "
            "embedding matrix, but they have none. Set tie_word_embeddings to true there if the model is tied, or get "
            "the missing weights."
        )
    for what, keys in (("missing", missing), ("left over", left_over)):
        if keys:
            raise UserError(
                f"Expected the weights in {directory} to fit its config.json, but {len(keys)} are {what}, such as "
                f"{min(keys)}. Use a checkpoint of {TASKS[task].title} whose config.json belongs to it."
            )
    head = model.get_output_embeddings()
    if head is not None and model.config.tie_word_embeddings and model.get_input_embeddings().weight is not head.weight:
        family = family_of(model)
        _check_tied(directory, headers, family.stack.embedding, family.head)
    return model, surroundings


def unloadable(directory: Path, error: Exception) -> UserError:
    """What to raise of one of `UNREADABLE`; its class is named where the message alone is a bare name."""
    told = f"{type(error).__name__}: {error}" if isinstance(error, KeyError | AttributeError) else f"{error}"
    return UserError(
        f"Expected a model that transformers can load in {directory}, but got: {' '.join(told.split())}. Mend its "
        "config.json, or get the checkpoint again."
    )


def _check_tied(directory: Path, headers: Mapping[str, Header], embedding: str, head: str) -> None:
    """Refuses a head that is stored beside the embedding matrix that it is said to be, and is another."""
    names = [next(name for name in headers if name.endswith(end)) for end in (f"{embedding}.weight", f"{head}.weight")]
    files = [headers[name].file for name in names]
    with safe_open(files[0], framework="pt") as first, safe_open(files[1], framework="pt") as second:
        one, other = first.get_slice(names[0]), second.get_slice(names[1])
        parts = [slice(start, start + _ROWS) for start in range(0, headers[names[0]].shape[0], _ROWS)]
        if all(torch.equal(one[part], other[part]) for part in parts):
            return
    raise UserError(
        f"Expected one matrix in {directory}, as its config.json ties the head to the embeddings "
        f"(tie_word_embeddings), but {names[1]} and {names[0]} differ. Set tie_word_embeddings to false there if the "
        f"head is its own, or take {names[1]} out of the weights."
    )
