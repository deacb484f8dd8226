"""The formats of an export by name: what each refuses before any work is done, and what writes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from torch import nn

from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.deci.export import check_deci, export_deci
from space.formats.gguf.export import check_gguf, export_gguf
from space.formats.hf.export import check_hf, check_hf_uniform, export_checkpoint
from space.formats.model_card import Card
from space.formats.requirements import DECI_FLAVOURS, ENGINES, FORMATS, require_format
from space.formats.traced.export import check_traced, export_traced
from space.rounding.rounded import Rounded
from space.types import GGUF_TYPES


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
        check: Raises ShapeError where the format holds other shapes of the model than the subnet's, and another
            UserError where it holds none.
        export: Called with the subnet's model, the subnet, a directory, and `card` and `tolerance` as of
            `space.formats.hf.export`.
        releases: Whether `export` takes `release` too.
        rounds: The type of a GGUF file whose matrices in blocks `export` takes as `rounded`, if there are such.
    """

    suffix: str
    check: Callable[[Subnet], object]
    export: Callable[..., Exported]
    releases: bool = False
    rounds: str | None = None


def _alone(name: str, check: Callable[[Subnet], object]) -> Callable[[Subnet], object]:
    """The check of a format that holds a language model alone."""

    def checked(subnet: Subnet) -> None:
        if subnet.surroundings is not None:
            raise UserError(
                f"format: expected hf or hf_uniform for a model of which language is a part, got {name}, which would "
                f"lack {subnet.surroundings.remark}. Save the language part by itself, see docs/families.md, and "
                "search that."
            )
        check(subnet)

    return checked


def _gguf(kind: str) -> Format:
    """The row of a type of GGUF file, which has tolerances of its own."""

    def export(
        model: nn.Module,
        subnet: Subnet,
        out_dir: Path,
        *,
        card: Card,
        tolerance: float = 0.0,
        rounded: Mapping[str, Rounded] | None = None,
    ) -> Exported:
        return export_gguf(model, subnet, out_dir, kind=kind, card=card, rounded=rounded)

    return Format(f"-gguf-{kind}", _alone("gguf", check_gguf), export, rounds=None if kind == "f16" else kind)


def _traced(engine: str) -> Format:
    """The row of an engine for traced graphs, which have a tolerance of their own."""

    def export(model: nn.Module, subnet: Subnet, out_dir: Path, *, card: Card, tolerance: float = 0.0) -> Exported:
        return export_traced(engine, model, subnet, out_dir, card=card)

    return Format(f"-{engine}", _alone(engine, partial(check_traced, engine)), export)


_ROWS = {
    "hf": Format("", check_hf, export_checkpoint, releases=True),
    "hf_uniform": Format("", check_hf_uniform, export_checkpoint, releases=True),
    **{engine: _traced(engine) for engine in ENGINES},
}
_DECI_ROWS = {
    flavour: Format(f"-deci{ending}", _alone("deci", partial(check_deci, flavour)), partial(export_deci, flavour))
    for flavour, ending in zip(DECI_FLAVOURS, ("", "-ffn_mult"), strict=True)
}
_GGUF_ROWS = {kind: _gguf(kind) for kind in GGUF_TYPES}


def checks() -> dict[str, Callable[[Subnet], object]]:
    """By name of a format, what refuses what it cannot hold, whether or not what it is checked with is installed."""
    rows = {**_ROWS, "deci": _DECI_ROWS["vllm"], "gguf": _GGUF_ROWS["f16"]}
    return {name: rows[name].check for name in FORMATS}


def format_of(name: str, gguf_type: str, deci_flavour: str = "vllm") -> Format:
    """A format by its name.

    Args:
        name: One of `space.formats.requirements.FORMATS`.
        gguf_type: Type of the matrices of a GGUF file.
        deci_flavour: Which loaders are to read a `block_configs` checkpoint.

    Raises:
        UserError: There is no such format, or what it is checked with is not installed.
    """
    require_format(name, gguf_type, deci_flavour)
    if name == "deci":
        return _DECI_ROWS[deci_flavour]
    return _GGUF_ROWS[gguf_type] if name == "gguf" else _ROWS[name]
