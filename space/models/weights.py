"""What a checkpoint's safetensors hold: names, shapes and dtypes of tensors, and whether their values are numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from space.errors import UserError

_HALVES = {"BF16": torch.bfloat16, "F16": torch.float16}


@dataclass(frozen=True)
class Header:
    """What a file says of one of its tensors."""

    file: Path
    shape: tuple[int, ...]
    dtype: str  # as safetensors names it


def lossless_dtype(headers: Mapping[str, Header], model_class: Any) -> torch.dtype:
    """The dtype that holds all of these tensors; float32 stands for all that are not of one 16-bit kind.

    Args:
        headers: By the name of their tensor.
        model_class: Of transformers, which keeps some in float32 whatever the others are in.
    """
    apart = tuple(getattr(model_class, "_keep_in_fp32_modules_strict", None) or ())
    kinds = {header.dtype for name, header in headers.items() if not any(part in name for part in apart)}
    (first, *others) = kinds or {"F32"}
    return torch.float32 if others else _HALVES.get(first, torch.float32)


def headers_of(directory: Path) -> dict[str, Header]:
    """The header of each tensor, of the files that transformers reads."""
    headers = {}
    for file in _weight_files(directory):
        try:
            with safe_open(file, framework="pt") as stored:
                for name in stored.keys():  # noqa: SIM118  (it is no dict)
                    tensor = stored.get_slice(name)
                    headers[name] = Header(file, tuple(tensor.get_shape()), tensor.get_dtype())
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"Expected {file} to be a whole safetensors file, but got: {error}. Copy or download it again."
            ) from error
    return headers


def _weight_files(directory: Path) -> list[Path]:
    """The one file of a checkpoint, else the shards that its index names."""
    single, index = directory / "model.safetensors", directory / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    try:
        files = sorted({directory / name for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"Expected {index.name} in {directory} to say where each tensor is, but got: {error!r}. Copy or download "
            "the checkpoint again."
        ) from error
    lost = [file.name for file in files if not file.is_file()]
    if lost:
        raise UserError(
            f"Expected in {directory} the {len(files)} files that its {index.name} names, but {', '.join(lost)} "
            "is not there. Copy or download the checkpoint again."
        )
    return files


def stored_weights(directory: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Floating-point tensors of a checkpoint by name, mapped from its files until the next is asked for."""
    for file in _weight_files(directory):
        with safe_open(file, framework="pt") as stored:
            for name in stored.keys():  # noqa: SIM118  (it is no dict)
                weight = stored.get_tensor(name)
                if weight.is_floating_point() and weight.numel():
                    yield name, weight


def check_finite(directory: Path, dtype: torch.dtype) -> None:
    """Refuses weights that are no numbers, or none in the dtype that the model is to run in."""
    limit, broken, too_large = torch.finfo(dtype).max, dict[str, str](), dict[str, float]()
    for name, weight in stored_weights(directory):
        weight = weight.float() if weight.itemsize < 2 else weight
        largest = torch.stack(torch.aminmax(weight)).abs().max().item()
        if not math.isfinite(largest):
            broken[name] = f"{int((~weight.isfinite()).sum()):,} of {weight.numel():,}"
        elif largest > limit:
            too_large[name] = largest
    if broken:
        name, count = next(iter(broken.items()))
        raise UserError(
            f"Expected finite weights in {directory}, but {count} values in {name} are "
            f"NaN or infinite{f', and some in {len(broken) - 1} other tensors' * (len(broken) > 1)}. Get the "
            "checkpoint again, or use one from before its training went wrong."
        )
    if too_large:
        name, largest = next(iter(too_large.items()))
        raise UserError(
            f"Expected weights of at most {limit:g}, which is where {str(dtype).removeprefix('torch.')} ends, but "
            f"{name} reaches {largest:g}. Set model.dtype=bfloat16 or float32."
        )
