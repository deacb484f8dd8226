"""What each gene chooses: the options of every block in a search space, and the settings that make them; torch-free."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import Literal

import numpy as np

from space.candidate import Candidate
from space.errors import UserError
from space.repair import Rules
from space.size import attention_params, decoder_params, mlp_params
from space.spec import ModelSpec

TILE = 64  # channels; whole tiles of tensor cores in half precision, and of the matrix units of CPUs
MLP_LEVELS = 12

Kind = Literal["attention", "mlp", "layer"]

# the columns of a candidate's rows [query_heads, kv_heads, mlp_channels] that a block of each kind sets
COLUMNS: dict[Kind, slice] = {"attention": slice(0, 2), "mlp": slice(2, 3), "layer": slice(0, 3)}

MEANING: dict[Kind, str] = {
    "attention": "[query_heads, kv_heads]",
    "mlp": "mlp_channels",
    "layer": "[query_heads, kv_heads, mlp_channels]",
}


@dataclass(frozen=True)
class Block:
    """One choice of a search space; with a single option, a part of the model that stays dense.

    Attributes:
        kind: What is chosen.
        layers: The layers that share the choice.
        options: Values of the columns `COLUMNS[kind]`, from the smallest to the dense one.
        params: Parameters of every option, in all of `layers` together.
    """

    kind: Kind
    layers: tuple[int, ...]
    options: tuple[tuple[int, ...], ...]
    params: tuple[int, ...]

    @property
    def free(self) -> bool:
        """Whether there is anything to choose."""
        return len(self.options) > 1

    @property
    def vanishes(self) -> bool:
        """Whether the smallest option leaves nothing."""
        return self.options[0][0] == 0

    def level_of(self, rows: Sequence[Sequence[int]], name: str) -> int:
        """The option that these rows [query_heads, kv_heads, mlp_channels] take, one row a layer of the model.

        Raises:
            UserError: They take none, or not the same one in all layers of the block; the message starts with `name`.
        """
        first = tuple(rows[self.layers[0]][COLUMNS[self.kind]])
        for layer in self.layers:
            value = tuple(rows[layer][COLUMNS[self.kind]])
            options = self.options if layer == self.layers[0] else (first,)
            if value not in options:
                raise UserError(
                    f"{name}, layer {layer}: expected {MEANING[self.kind]} to be one of {_listing(options)}, "
                    f"got {_listing([value])}. Take a design of this space, or another space."
                )
        return self.options.index(first)


def _listing(options: Sequence[tuple[int, ...]]) -> str:
    return ", ".join(str(list(option)) if len(option) > 1 else str(option[0]) for option in options)


def attention_options(spec: ModelSpec, *, widths: bool, merge: bool, remove: bool) -> list[tuple[int, ...]]:
    """Pairs (query_heads, kv_heads) by parameters, ties towards more KV groups: every count of groups times every count
    of query heads a group, and all query heads in merged groups.
    """
    pairs = [(spec.query_heads, spec.kv_heads)]
    if widths:
        pairs = [
            (groups * queries, groups)
            for groups in range(1, spec.kv_heads + 1)
            for queries in range(1, spec.queries_per_group + 1)
        ]
    if merge:
        pairs += [(spec.query_heads, groups) for groups in spec.merged_kv_heads]
    pairs.sort(key=lambda pair: (attention_params(spec, *pair), pair[1]))
    return [(0, 0), *pairs] if remove else [*pairs]


def default_mlp_step(channels: int, multiple: int) -> int:
    """The smallest step that makes at most `MLP_LEVELS` levels of so many channels; all of them where that is less.

    Args:
        channels: The dense model's.
        multiple: What an engine wants a multiple of; it is one of that and of `TILE`.
    """
    tile = math.lcm(TILE, multiple)
    return min(channels, tile * math.ceil(channels / (MLP_LEVELS * tile)))


def least_mlp_step(step: int, channels: int, multiple: int, deploy: str) -> int:
    """The least common multiple of a step and of what an engine wants; raises UserError when that is more than all."""
    step = check_count("mlp_step", step, 1, channels)
    common = math.lcm(step, multiple)
    if common > channels:
        raise UserError(
            f"space.mlp_step={step} with space.deploy={deploy}: expected a common multiple with {multiple}, which that "
            f"engine wants, of at most {channels} channels, got {common}. Set mlp_step to null, or to a multiple of it."
        )
    return common


def mlp_options(spec: ModelSpec, *, step: int | None, remove: bool) -> list[tuple[int, ...]]:
    """Counts of MLP channels as 1-tuples: the multiples of `step` (none without a step) and the dense count."""
    counts = [*range(step, spec.mlp_channels, step), spec.mlp_channels] if step else [spec.mlp_channels]
    return [(count,) for count in ([0, *counts] if remove else counts)]


def make_blocks(
    spec: ModelSpec, kind: Kind, options: Sequence[tuple[int, ...]], frozen: frozenset[int], *, shared: bool
) -> list[Block]:
    """One block a layer, or one for all layers that are not frozen; frozen layers keep the last, dense option only."""
    free = [layer for layer in range(spec.layers) if layer not in frozen]
    groups = [tuple(free)] if shared and free else [(layer,) for layer in free]
    return [_block(spec, kind, group, options) for group in groups] + [
        _block(spec, kind, (layer,), options[-1:]) for layer in sorted(frozen)
    ]


def _block(spec: ModelSpec, kind: Kind, layers: tuple[int, ...], options: Sequence[tuple[int, ...]]) -> Block:
    def params(option: tuple[int, ...]) -> int:
        attention = attention_params(spec, option[0], option[1]) if kind != "mlp" else 0
        return attention + (mlp_params(spec, option[-1]) if kind != "attention" else 0)

    return Block(kind, layers, tuple(options), tuple(len(layers) * params(option) for option in options))


def make_rules(
    spec: ModelSpec, blocks: Sequence[Block], *, min_layers: int, min_fraction: float, max_fraction: float
) -> Rules:
    """The rules of the genes of these blocks; the free blocks, in order, are the genes."""
    free = [block for block in blocks if block.free]
    alive = {layer for block in blocks if not block.vanishes for layer in block.layers}
    open_layers = [layer for layer in range(spec.layers) if layer not in alive]
    attention_stays = any(block.kind != "mlp" and not block.vanishes for block in blocks)
    width = max(len(block.params) for block in free)
    dense = decoder_params(spec, Candidate.dense(spec))
    slack = 1e-9 * dense  # a fraction such as 29/30 stands for a whole number of parameters
    return Rules(
        levels=np.array([len(block.options) for block in free], dtype=np.int64),
        params=np.array([[*b.params, *b.params[-1:] * (width - len(b.params))] for b in free], dtype=np.int64),
        fixed_params=sum(block.params[-1] for block in blocks if not block.free),
        minimum=math.ceil(min_fraction * dense - slack),
        maximum=math.floor(max_fraction * dense + slack),
        keeps=np.array([[layer in b.layers for b in free] for layer in open_layers], dtype=bool).reshape(-1, len(free)),
        min_open=max(0, min_layers - len(alive)),
        carriers=np.array([block.kind != "mlp" and not attention_stays for block in free]),
    )


def check_flag(name: str, value: bool) -> None:
    """Raise UserError unless `value` is true or false."""
    if not isinstance(value, bool):
        raise UserError(f"space.{name}: expected true or false, got {value!r}. Set one of the two.")


def check_count(name: str, value: int, least: int, most: int) -> int:
    """`value` as an int; raises UserError unless it is a whole number from `least` to `most`."""
    try:
        count = index(value)
    except TypeError:
        count = least - 1
    if isinstance(value, bool) or not least <= count <= most:
        raise UserError(
            f"space.{name}: expected a whole number from {least} to {most}, got {value!r}. Choose one in that range."
        )
    return count


def check_fraction(name: str, value: float) -> float:
    """`value` as a float; raises UserError unless it is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(
            f"space.{name}: expected a fraction from 0 to 1 of the dense decoder-layer parameters, got {value!r}. "
            "Choose one in that range."
        )
    return float(value)


def check_layers(name: str, values: object, layers: int) -> frozenset[int]:
    """Layer indices from 0, negative ones counted from the end; raises UserError for anything else."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(f"space.{name}: expected a list of layers such as [0, -1], got {values!r}. Write it as a list.")
    return frozenset(check_count(name, value, -layers, layers - 1) % layers for value in values)
