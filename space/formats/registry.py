"""The formats of an export by name: what each refuses before any work is done, and what writes it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from space.candidate import Candidate
from space.errors import ShapeError, UserError
from space.formats.deci.export import check_deci, export_deci
from space.formats.gguf.export import check_gguf, export_gguf, require_gguf_kind
from space.formats.hf.export import checkpoint_config, export_checkpoint
from space.spec import ModelSpec


class Exported(Protocol):
    """What is finished."""

    def remarks(self) -> list[str]:
        """What a person should know of it, in lines."""
        ...


@dataclass(frozen=True)
class Format:
    """One way to write a pick.

    Attributes:
        suffix: Of the directory's name where none is given, behind the key.
        check: Called with the dense model's config and tokenizer, its ModelSpec and the candidate; raises ShapeError
            where the format holds other shapes of the model, and another UserError where it holds none.
        export: Called with the subnet as a model of its own, tokenizer, ModelSpec, candidate, directory, and `card`,
            `generation_config` and `tolerance` as of `space.formats.hf.export.export_checkpoint`.
    """

    suffix: str
    check: Callable[[Any, Any, ModelSpec, Candidate], object]
    export: Callable[..., Exported]


def _check_hf(config: Any, tokenizer: Any, spec: ModelSpec, candidate: Candidate) -> None:
    checkpoint_config(config, candidate, spec)


def _check_uniform(config: Any, tokenizer: Any, spec: ModelSpec, candidate: Candidate) -> None:
    """Refuses what the family's stock classes do not load."""
    if "auto_map" not in checkpoint_config(config, candidate, spec):
        return
    shapes = sorted({(s.query_heads, s.kv_heads, s.mlp_channels) for s in candidate.layers if not s.gone})
    raise ShapeError(
        "Expected a pick whose layers all keep the same, attention and MLP both, in numbers that the stock "
        f"{spec.family} config takes, for format=hf_uniform, but {candidate.key} has {len(shapes)} kinds of layers, of "
        f"query heads, KV groups and MLP channels {', '.join(map(str, shapes[:4]))}{' …' * (len(shapes) > 4)}. "
        "format=hf writes it, with a modelling file."
    )


def _check_deci(config: Any, tokenizer: Any, spec: ModelSpec, candidate: Candidate) -> None:
    check_deci(config, spec, candidate)


def _with_logits(
    write: Callable[..., Exported],
    source: nn.Module,
    tokenizer: Any,
    spec: ModelSpec,
    candidate: Candidate,
    out_dir: Path,
    **settings: Any,
) -> Exported:
    """Writes with a comparison of logits on random tokens."""
    tokens = torch.randint(spec.vocab, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = copy.deepcopy(source).float().cpu()(tokens, use_cache=False).logits
    return write(source, tokenizer, spec, candidate, out_dir, input_ids=tokens, expected_logits=logits, **settings)


def _gguf(
    kind: str,
    source: nn.Module,
    tokenizer: Any,
    spec: ModelSpec,
    candidate: Candidate,
    out_dir: Path,
    *,
    card: Mapping[str, Mapping[str, object]],
    **settings: Any,
) -> Exported:
    """A GGUF file has its own tolerances and no generation settings."""
    return export_gguf(source, tokenizer, spec, candidate, out_dir, kind=kind, card=card)


_ROWS = {
    "hf": Format("", _check_hf, partial(_with_logits, export_checkpoint)),
    "hf_uniform": Format("", _check_uniform, partial(_with_logits, export_checkpoint)),
    "deci": Format("-deci", _check_deci, partial(_with_logits, export_deci)),
}
FORMATS = (*_ROWS, "gguf")


def format_of(name: str, gguf_type: str) -> Format:
    """A format by its name.

    Args:
        name: One of `FORMATS`.
        gguf_type: Type of the matrices of a GGUF file.

    Raises:
        UserError: There is no such format, or what it is checked with is not installed.
    """
    if name not in FORMATS:
        raise UserError(f"Expected format to be one of {', '.join(FORMATS)}, got {name!r}.")
    if name == "gguf":
        require_gguf_kind(gguf_type)
        return Format(f"-gguf-{gguf_type}", check_gguf, partial(_gguf, gguf_type))
    return _ROWS[name]
