"""A LoRA adapter whose base is at hand: the two merged into a checkpoint, which is kept in the cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from transformers import AutoConfig

from space.errors import UserError
from space.files import whole_directory
from space.locations import CACHE_ADVICE, cache_dir
from space.models.digest import checkpoint_digest
from space.models.embedded import quiet_transformers
from space.models.hub import SMALL_FILES
from space.models.language_part import language_config, loader_for
from space.models.stack import task_of

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_OF_THE_MODEL = ("config.json", CONFIG)  # and no files of its tokenizer
# What transformers and peft raise of files that do not fit each other.
_MISFITS = (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError)


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter alone."""
    return all((directory / name).is_file() for name in (CONFIG, WEIGHTS)) and not (directory / "config.json").exists()


def base_of(directory: Path) -> Path:
    """Where the model is that an adapter was trained for.

    Args:
        directory: With the adapter.

    Raises:
        UserError: It is another kind of adapter than LoRA, or its base is not on this machine.
    """
    file = directory / CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        kind, base = values["peft_type"], values["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"Expected {file} to say peft_type and base_model_name_or_path, got: {error!r}.") from error
    if kind != "LORA":
        raise UserError(
            f"Expected an adapter of the type LORA in {directory}, got {kind}. Merge it into its base model, {base} "
            "(merge_and_unload of peft), and save that."
        )
    for place in (Path(str(base)).expanduser(), directory / str(base)):
        if (place / "config.json").is_file():
            return place
    try:
        return Path(snapshot_download(str(base), local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"Expected the base model of the adapter in {directory}, {base}, on this machine, to merge the two, but it "
            "is neither a directory here nor among the hub's downloads. Download it, or set base_model_name_or_path "
            f"in {CONFIG} to where it is."
        ) from error


def merged(directory: Path, task: str | None, trust_remote_code: bool) -> Path:
    """Where a checkpoint of an adapter and its base is, merged at the first time and kept from then on.

    Args:
        directory: With the adapter.
        task: What the model is for; None for what its base says.
        trust_remote_code: Whether code that comes with the base may run.

    Raises:
        UserError: See `base_of`; or the two do not fit each other, or the cache cannot be written.
    """
    base = base_of(directory)
    own = hashlib.sha256(checkpoint_digest(base).encode())
    for name in (CONFIG, WEIGHTS):
        own.update((directory / name).read_bytes())
    place = cache_dir() / "merged" / f"{directory.resolve().name}-{own.hexdigest()[:16]}"
    if not _is_whole(place):
        with whole_directory(place, is_whole=_is_whole, advice=CACHE_ADVICE) as new:
            _copy_small(base, new)
            _copy_small(directory, new)
            _merge(base, directory, new, task, trust_remote_code)
    return place


def _is_whole(directory: Path) -> bool:
    return (directory / "config.json").is_file()


def _copy_small(source: Path, target: Path) -> None:
    """Copies what lies beside weights: files of a tokenizer, a template of chats, a card."""
    for file in (file for pattern in SMALL_FILES for file in source.glob(pattern)):
        if file.name not in _OF_THE_MODEL and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)


def _merge(base: Path, directory: Path, target: Path, task: str | None, trust_remote_code: bool) -> None:
    """Writes the weights of a model with those of an adapter in them, in the model's own dtype."""
    from peft import PeftModel  # slow to import, and only wanted here

    trusted: dict[str, Any] = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what peft asks transformers
            config = AutoConfig.from_pretrained(base, **trusted)
            loader = loader_for(config, task or task_of(language_config(config)))
            model = loader.from_pretrained(base, dtype="auto", use_safetensors=True, **trusted)
            PeftModel.from_pretrained(model, str(directory)).merge_and_unload(safe_merge=True).save_pretrained(target)
    except _MISFITS as error:
        raise UserError(
            f"Expected the adapter in {directory} to fit its base model in {base}, but got: "
            f"{' '.join(str(error).split())}. Merge it yourself (merge_and_unload of peft), and save that."
        ) from error
