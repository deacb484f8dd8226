"""Hub id, local directory or embedded default -> dense model, tokenizer and ModelSpec.

Everything that can be refused is refused before the weights are read (`refusals`), and every refusal is a `UserError`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoImageProcessor, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from space.errors import UserError
from space.locations import is_local, model_directory
from space.models.adapters import is_adapter, merged
from space.models.base_card import base_card
from space.models.device import is_streamed, resolve_device, resolve_dtype
from space.models.digest import checkpoint_digest
from space.models.embedded import embedded_model, given_or_default, quiet_transformers
from space.models.facts import checked_spec, mask_token
from space.models.hub import PROCESSOR_FILE, model_snapshot
from space.models.images import with_image_size
from space.models.language_part import COMPANIONS, Surroundings, language_config, loader_for, separated
from space.models.refusals import UNREADABLE, check_files, check_weights, checked_config, require_lengths, unloadable
from space.models.stack import row_of, task_of
from space.models.vector_math import settle_vector_math
from space.models.weights import check_finite
from space.spec import ModelSpec
from space.task import CAUSAL_LM, TASKS

WITHOUT_HUB = "leave model.path unset for the embedded default, or set it to a local directory"


@dataclass(frozen=True)
class LoadedModel:
    """A dense model, ready for the search.

    Attributes:
        model: The model in its checkpoint's own dtype, on the CPU, in eval mode, without gradients.
            Its weights are mapped from the files: what is not looked at takes no memory, and what is changed in place
            changes here alone.
        tokenizer: Its tokenizer; None where it reads images.
        spec: Its facts.
        dtype: What forward passes of the search are to run in.
        device: Where the search is to run.
        source: The directory or hub id that it came from.
        commit: Of the hub id; None for a directory.
        streamed: Whether it is larger than the device, or than what it may take of it: its layers stay on the host.
        card: What of its model card's front matter holds for a pruned one too.
        companions: Files of its directory that go into exports as they are, by their path there.
        processor: transformers' image processor of a model that reads images, else None.
        surroundings: What the model is a part of, and is carried into exports; None where it is all that there is.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    spec: ModelSpec
    dtype: torch.dtype
    device: torch.device
    source: str
    commit: str | None = None
    streamed: bool = False
    card: Mapping[str, Any] = field(default_factory=dict)
    companions: Mapping[str, bytes] = field(default_factory=dict)
    processor: Any = None
    surroundings: Surroundings | None = None


@dataclass(frozen=True)
class Understood:
    """A checkpoint whose configuration, tokenizer and headers fit each other; its weights are not read.

    Attributes:
        directory: Where it is.
        config: transformers' configuration.
        outline: The model, or the language part that is pruned, on the meta device, in the checkpoint's dtype.
        tokenizer: Its tokenizer, or None.
        spec: Its facts, without a digest.
        commit: Of a hub id; None for a directory.
        processor: Its image processor, or None.
        surroundings: What the outline is a part of, without weights, or None.
    """

    directory: Path
    config: Any
    outline: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    spec: ModelSpec
    commit: str | None
    processor: Any = None
    surroundings: Surroundings | None = None


def understood(
    path: str | None,
    revision: str | None,
    trust_remote_code: bool,
    lengths: Mapping[str, int],
    task: str | None = CAUSAL_LM,
) -> Understood:
    """What of `load_model` needs no weights; arguments and errors are its own, and without a task any will do."""
    check = partial(checked_config, trust_remote_code=trust_remote_code, lengths=lengths, task=task)
    place = given_or_default(path, task or CAUSAL_LM)
    directory, name, commit = _locate(place, revision, trust_remote_code, check)
    if is_adapter(directory):
        directory = merged(directory, task, trust_remote_code)
    check_files(directory)
    config = check(directory)
    own = language_config(config)
    use = TASKS[task or task_of(own)]
    text = use.reads == "text"
    tokenizer = _read(AutoTokenizer, "a tokenizer (tokenizer.json)", directory, trust_remote_code) if text else None
    processor = None if text else read_processor(directory, trust_remote_code)
    outline, surroundings = check_weights(directory, config, trust_remote_code, task or task_of(own))
    spec = with_image_size(checked_spec(outline, name, "", row_of(own)), own, processor)
    require_lengths(spec, lengths)
    return Understood(directory, config, outline, tokenizer, spec, commit, processor, surroundings)


def load_model(
    path: str | None = None,
    *,
    task: str = CAUSAL_LM,
    revision: str | None = None,
    digest: str | None = None,
    dtype: str = "auto",
    device: str = "auto",
    device_bytes: int | None = None,
    trust_remote_code: bool = False,
    lengths: Mapping[str, int] | None = None,
    check_spec: Callable[[ModelSpec], object] = lambda spec: None,
) -> LoadedModel:
    """Loads a dense model.

    Args:
        path: Local directory with `config.json` and safetensors, or with a LoRA adapter whose base is at hand, hub id,
            or `embedded:` and the name of an embedded model; None is the embedded default of the task.
        task: What it is for, a row of `space.task.TASKS`.
        revision: Branch, tag or commit of a hub id.
        digest: That the checkpoint must have, see `space.models.digest`; None for any.
        dtype: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 where the device is fast at it, else float32.
        device: A torch device, or `auto`: CUDA where there is one, else the CPU.
        device_bytes: That a run may take of the device's memory; None for what is there. On a CPU, which is its own
            host, a limit is kept as if it were another device.
        trust_remote_code: Whether modelling code that comes with the checkpoint may run.
        lengths: By a setting as one writes it (`data.length=512`), the tokens that it asks of the model at once.
        check_spec: Called with the facts of the model, without its digest, before weights are read.

    Raises:
        UserError: An argument is wrong, the model can not be had, it is not one that can be pruned here, has fewer
            positions than a length, or weights that are not finite; or `check_spec` raises it.
    """
    settle_vector_math()
    run_device = resolve_device(device)
    run_dtype = resolve_dtype(dtype, run_device)
    seen = understood(path, revision, trust_remote_code, lengths or {}, task)
    directory, name, commit, family = seen.directory, seen.spec.name, seen.commit, seen.spec.family
    check_spec(seen.spec)
    own_digest = checkpoint_digest(directory)
    if digest not in (None, own_digest):
        raise UserError(
            f"Expected the model of the run, with the digest {digest}, but {name} in {directory} has {own_digest}: "
            "other weights or another config.json. Set model.path to where the run's model is now (of a hub id, also "
            "model.revision to its commit; config.yaml of the run says both), or start a new run."
        )
    model, surroundings = _read_model(seen, trust_remote_code, task)
    spec = replace(
        checked_spec(model, name, own_digest, family),
        image_size=seen.spec.image_size,
        image_tokens=seen.spec.image_tokens,
    )
    model.eval().requires_grad_(False)
    check_finite(directory, run_dtype)
    streamed = is_streamed(spec, run_dtype, run_device, device_bytes)
    if streamed and spec.use.reads == "images":
        raise UserError(f"Expected {spec.use.title} that fits on {run_device}, got {name}. Use a larger device.")
    source = name if commit else str(directory)
    embedded = embedded_model(given_or_default(path, task))
    card = embedded.card if embedded else base_card(directory, name if commit else None)
    companions = {
        file.relative_to(directory).as_posix(): file.read_bytes()
        for pattern in (*spec.use.companions, *(COMPANIONS if surroundings else ()))
        for file in sorted(directory.glob(pattern))
    }
    spec = replace(
        spec, pooling=_pooling(companions, spec.use.pools), mask_token=mask_token(seen.tokenizer, name, spec.use)
    )
    return LoadedModel(
        *(model, seen.tokenizer, spec, run_dtype, run_device, source, commit, streamed, card, companions),
        processor=seen.processor,
        surroundings=surroundings,
    )


def _pooling(companions: Mapping[str, bytes], default: str) -> str:
    """How an embedder makes one vector of a sequence, as sentence-transformers says it, where that is there.

    Raises:
        UserError: In another way than those that are known here.
    """
    modules = json.loads(companions.get("modules.json", b"[]"))
    places = [f"{module['path']}/config.json" for module in modules if module["type"].endswith(".Pooling")]
    said = json.loads(companions.get(places[0], b"{}")) if places else {}
    modes = {name.removeprefix("pooling_mode_") for name, value in said.items() if value is True and "_mode_" in name}
    known = {"mean_tokens": "mean", "cls_token": "cls"}
    if modes and not (len(modes) == 1 and modes <= {*known}):
        raise UserError(
            f"Expected a sentence embedder that pools {' or '.join(known)} alone, but {places[0]} says "
            f"{', '.join(sorted(modes))}. Use another model."
        )
    return known[modes.pop()] if modes else default


def _locate(
    path: str, revision: str | None, trust_remote_code: bool, check: Callable[[Path], object]
) -> tuple[Path, str, str | None]:
    """The checkpoint's directory and name, and the commit where it comes from the hub, if `check` lets it pass."""
    embedded, local = embedded_model(path), is_local(path)
    if revision is not None and (embedded or local):
        raise UserError(f"model.revision={revision} is for hub ids, got model.path={path}. Leave one of them unset.")
    if embedded:
        return embedded.directory(), embedded.name, None
    if not local:
        directory = model_snapshot(path, revision, trust_remote_code, check, WITHOUT_HUB)
        return directory, path, directory.name
    directory = model_directory(path)
    return directory, directory.resolve().name, None


def read_processor(directory: Path, trust_remote_code: bool) -> Any:
    """transformers' image processor of a directory.

    Raises:
        UserError: There is none.
    """
    return _read(AutoImageProcessor, f"an image processor ({PROCESSOR_FILE})", directory, trust_remote_code)


def _read(kind: Any, what: str, directory: Path, trust_remote_code: bool) -> Any:
    """A tokenizer or an image processor."""
    try:
        with quiet_transformers():
            return kind.from_pretrained(directory, trust_remote_code=trust_remote_code, local_files_only=True)
    except Exception as error:  # a broken tokenizer.json raises no narrower class
        raise UserError(f"Expected {what} in {directory}, but got: {error}") from error


def _read_model(seen: Understood, trust_remote_code: bool, task: str) -> tuple[PreTrainedModel, Surroundings | None]:
    """The model with its weights; its attention is PyTorch's, where that can do what the family's does."""
    try:
        with quiet_transformers():
            whole = loader_for(seen.config, task).from_pretrained(
                seen.directory,
                dtype=seen.outline.dtype,
                use_safetensors=True,
                attn_implementation="sdpa" if seen.outline._supports_sdpa else "eager",
                trust_remote_code=trust_remote_code,
                local_files_only=True,
            )
            return separated(whole)
    except UNREADABLE as error:
        raise unloadable(seen.directory, error) from error
