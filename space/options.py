"""The options of a block: which heads and groups, and which counts of MLP channels, a space lets a layer keep.

Every function gives the options by parameters, from the smallest to the dense one; free of torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from space.candidate import LayerShape, Option
from space.checks import check_count
from space.errors import UserError
from space.size import attention_params, block_params
from space.spec import ModelSpec
from space.types import require_whole_blocks

MULTIPLE = 8  # of which counts of tokens and of experts' channels are one: 16 bytes of bfloat16, as fast products want
TILE = 64  # channels; whole tiles of tensor cores in half precision, and of the matrix units of CPUs
MLP_LEVELS = 12
EXPERT_LEVELS = 4  # of the channels of a mixture's experts, which come with each level of these


def attention_options(spec: ModelSpec, *, widths: bool, merge: bool, remove: bool) -> list[Option]:
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


def default_mlp_step(channels: int, multiple: int, levels: int = MLP_LEVELS) -> int:
    """The smallest step that makes at most so many levels of so many channels; all of them where that is less.

    Args:
        channels: The dense model's.
        multiple: What an engine wants a multiple of; it is one of that and of `TILE`.
        levels: At most.
    """
    tile = math.lcm(TILE, multiple)
    return min(channels, tile * math.ceil(channels / (levels * tile)))


def default_expert_step(experts: int) -> int:
    """The smallest power of two that makes at most `MLP_LEVELS` levels of so many experts."""
    return 1 << max(0, math.ceil(math.log2(experts / MLP_LEVELS)))


def expert_step_of(spec: ModelSpec, step: int | None) -> int | None:
    """The channels of experts between two levels, a default for None; None where experts keep all of theirs.

    Raises:
        UserError: A step is given where there is nothing to choose, or it is more than all channels, or no multiple of
            what fast products want.
    """
    if not spec.narrow_experts:
        if step is not None:
            raise UserError(
                f"space.expert_step: expected null for {spec.name}, whose family {spec.family} has no experts that can "
                f"have fewer channels, got {step}. docs/families.md says which have."
            )
        return None
    if step is None:
        return default_mlp_step(spec.expert_channels, 1, EXPERT_LEVELS)
    step = check_count("expert_step", step, 1, spec.expert_channels)
    if step % MULTIPLE and step != spec.expert_channels:
        raise UserError(
            f"space.expert_step: expected a multiple of {MULTIPLE}, of which products of all experts at once want "
            f"counts of channels to be, got {step}. Set it to one, or to null."
        )
    return step


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


def mlp_options(spec: ModelSpec, *, step: int | None, remove: bool, expert_step: int | None = None) -> list[Option]:
    """Counts of MLP channels, or of experts, as 1-tuples: the multiples of `step` (none without a step), and all.

    There are never fewer experts than each token goes through, and this many are always an option beside the multiples.
    With an `expert_step`, each count of experts is there with each multiple of that as the channels of an expert, too.
    """
    least, most = spec.least_mlp_channels, spec.mlp_channels
    counts = {most}
    if step:
        counts |= {count for count in range(step, most, step) if count >= least}
        counts |= {least} if spec.routed else set()
    options: list[Option] = [(count,) for count in sorted(counts)]
    if expert_step:
        widths = range(expert_step, spec.expert_channels, expert_step)
        options += [(count, 0, width) for count in counts for width in widths]
        options.sort(key=lambda option: (block_params(spec, "mlp", option), option))
    return [(0,), *options] if remove else options


def vocabulary_options(spec: ModelSpec, levels: Sequence[float]) -> list[int]:
    """Counts of tokens, rising: of a level up to 1 a part of the model's rows, above it as many, in whole `MULTIPLE`s.

    Raises:
        UserError: A level leaves nothing, or all, or two are the same.
    """
    counts = [
        math.ceil(round(level * spec.vocab if level <= 1 else level, 3) / MULTIPLE) * MULTIPLE for level in levels
    ]
    if len(set(counts)) < len(counts) or any(not 0 < count < spec.vocab for count in counts):
        raise UserError(
            f"space.vocabulary: expected different levels, each a part of the {spec.vocab} tokens below 1 or a number "
            f"of them, got {list(levels)}. The whole vocabulary is always one: name the smaller ones."
        )
    return sorted(counts)


def plain_options(spec: ModelSpec, *, remove: bool) -> list[Option]:
    """Those of a plain MLP among mixtures, which is kept whole, or leaves."""
    return [*([(0,)] if remove else []), (spec.plain_channels,)]


def layer_options(spec: ModelSpec, mlp_channels: int) -> list[Option]:
    """All blocks of a layer at once, in the order of `KINDS`: gone, or dense, with so many units of its MLP."""
    shapes = LayerShape.of(), LayerShape(spec.query_heads, spec.kv_heads, mlp_channels)
    return [shape.row for shape in shapes]


def typed(options: Sequence[Option], types: Sequence[int], fields: int = 1) -> list[Option]:
    """Options of a block in each of some types and the first one: by parameters still, and of those by bits.

    Args:
        options: Without types, from the smallest to the dense one.
        types: But for the first one, rising, which are of ever fewer bits.
        fields: How many of an option's values are types.
    """
    fewest_first = [(number,) * fields for number in reversed(types)] + [()]
    return [(*option, *kind) for option in options for kind in (fewest_first if option[0] else [()])]


def require_types_fit(spec: ModelSpec, attention: Sequence[Option], mlp: Sequence[Option]) -> None:
    """Refuses types where rows of matrices are no whole blocks of them.

    Args:
        spec: The dense model.
        attention: Options of an attention block.
        mlp: Options of an MLP.

    Raises:
        UserError: The residual stream is so wide, or all heads of an option, or all channels.
    """
    require_whole_blocks([spec.hidden], "a hidden size", "Set space.types=[]: llama.cpp keeps such matrices in F16.")
    heads = sorted({option[0] * spec.head_dim for option in attention})
    remedy = "Set space.attention_widths=false, or space.types=[]."
    require_whole_blocks(heads, "heads, times their width,", remedy)
    remedy = "Set space.mlp_step to a multiple of it, or space.mlp_widths=false, or space.types=[]."
    require_whole_blocks([option[0] for option in mlp], "counts of MLP channels", remedy)
