"""What a model's configuration says of it, without its weights and its tokenizer: for what is planned, not run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from space.candidate import Candidate
from space.errors import UserError
from space.locations import is_local, model_directory
from space.models.adapters import base_of, is_adapter
from space.models.embedded import embedded_model, given_or_default, quiet_transformers
from space.models.facts import checked_spec
from space.models.hub import PROCESSOR_FILE, WEIGHT_FILES, config_snapshot
from space.models.images import with_image_size
from space.models.language_part import language_config
from space.models.loading import WITHOUT_HUB, read_processor
from space.models.refusals import UNREADABLE, checked_config, require_lengths
from space.models.stack import loader_of, row_of
from space.models.weights import headers_of, lossless_dtype
from space.size import total_params
from space.spec import ModelSpec
from space.task import CAUSAL_LM, TASKS

_SHARD_BYTES = 5_000_000_000  # of a file, as checkpoints on the hub have it


@dataclass(frozen=True)
class Outline:
    """A model that need not be there.

    Attributes:
        spec: Its facts, without a digest.
        config: transformers' configuration.
        dtype: What its checkpoint is in; where there are no weights, what the configuration says.
        files: Bytes of the checkpoint's files; where there are none, by estimate.
        there: Whether the weights are.
    """

    spec: ModelSpec
    config: Any
    dtype: torch.dtype
    files: tuple[int, ...]
    there: bool


def outlined(
    path: str | None,
    *,
    revision: str | None,
    trust_remote_code: bool,
    lengths: Mapping[str, int],
    task: str = CAUSAL_LM,
) -> Outline:
    """Reads the configuration of a model, and of its weights, where there are any, the headers.

    Args:
        path: See `space.models.loading.load_model`, as the next ones.
        revision: Of a hub id.
        trust_remote_code: Whether code that comes with the model may run.
        lengths: Tokens that are asked of the model at once, by the settings that say so.
        task: What the model is for.

    Raises:
        UserError: There is no configuration, or it is of no model that can be pruned here.
    """
    path = given_or_default(path, task)
    embedded = embedded_model(path)
    if embedded:
        directory, name = embedded.directory(), embedded.name
    elif is_local(path):
        directory = model_directory(path)
        name = directory.resolve().name
        directory = base_of(directory) if is_adapter(directory) else directory  # of equal size
    else:
        directory, name = config_snapshot(path, revision, trust_remote_code, WITHOUT_HUB), path
    whole = checked_config(directory, trust_remote_code, lengths, task)
    config = language_config(whole)
    try:
        with quiet_transformers(), torch.device("meta"):
            model = loader_of(task).from_config(config, trust_remote_code=trust_remote_code)
    except UNREADABLE as error:
        raise UserError(f"Expected a model that transformers can make of {directory}, but got: {error}") from error
    read = TASKS[task].reads == "images" and (directory / PROCESSOR_FILE).is_file()
    processor = read_processor(directory, trust_remote_code) if read else None
    spec = with_image_size(checked_spec(model, name, "", row_of(config)), config, processor)
    require_lengths(spec, lengths)
    if list(directory.glob(WEIGHT_FILES)):
        headers = headers_of(directory)
        sizes = tuple(file.stat().st_size for file in sorted({header.file for header in headers.values()}))
        return Outline(spec, config, lossless_dtype(headers, type(model)), sizes, there=True)
    dtype = whole.dtype or torch.float32
    whole = total_params(spec, Candidate.dense(spec)) * dtype.itemsize
    full, rest = divmod(whole, _SHARD_BYTES)
    return Outline(spec, config, dtype, (_SHARD_BYTES,) * full + (rest,), there=False)
