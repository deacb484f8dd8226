"""Prints how a checkpoint is understood, or the first thing in it that is not: `python -m space.models.inspect DIR`.

It reads what loading reads before the weights, and refuses what loading refuses; only whether weights are finite is not
looked at. Of a model that lacks a row it prints what one would be written from. It stands above the formats, whose
refusals it prints.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any

from space.candidate import Candidate
from space.checks import dtype_name
from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.registry import checks
from space.formats.requirements import require_format_of_task
from space.locations import is_local, model_directory
from space.models.anatomy import anatomy
from space.models.architectures import architecture_of
from space.models.block_layout import BlockLayout
from space.models.hub import config_snapshot
from space.models.loading import Understood, understood
from space.models.pruned import logit_cap, logit_scale
from space.models.refusals import positions
from space.size import decoder_params, total_params
from space.spec import ModelSpec


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where the checkpoint is refused."""
    parser = argparse.ArgumentParser(prog="python -m space.models.inspect", description=__doc__.partition(":")[0])
    parser.add_argument("path", help="a directory with config.json and safetensors, or a hub id")
    parser.add_argument("--trust-remote-code", action="store_true", help="whether code that comes with it may run")
    told = parser.parse_args(arguments)
    try:
        seen = understood(told.path, None, told.trust_remote_code, {}, None)
    except UserError as error:
        print(f"not understood: {error}", file=sys.stderr)
        _print(_anatomy(told.path, told.trust_remote_code))
        return 1
    _print(lines_of(seen))
    return 0


def _print(lines: Iterable[tuple[str, str]]) -> None:
    for title, text in lines:
        print(f"{title + ':':<16} {text}")


def _anatomy(path: str, trust_remote_code: bool) -> Iterator[tuple[str, str]]:
    """What a row of a model that is not understood would be written from, if it is a row that it lacks."""
    try:
        directory = model_directory(path) if is_local(path) else config_snapshot(path, None, trust_remote_code, "")
    except UserError:  # which has been said
        return
    for number, line in enumerate(anatomy(directory, trust_remote_code)):
        if not number:
            yield "a row for it", "docs/families.md says what it is made of; the model's parts are these"
        yield line


def lines_of(seen: Understood) -> Iterator[tuple[str, str]]:
    """What is known of a checkpoint, each with a title."""
    spec, config = seen.spec, seen.outline.config
    row, dense = architecture_of(spec.family), Candidate.dense(spec)
    yield "model", f"{spec.name}, in {seen.directory}"
    if seen.surroundings is not None:
        yield "of which", f"the language part is pruned, and around it {seen.surroundings.remark}"
    yield "family", f"{spec.family}: {row.classes.of(spec.use)} of transformers.models.{row.module}"
    count, layers = total_params(spec, dense), decoder_params(spec, dense)
    dtype = dtype_name(seen.outline.dtype)
    yield "parameters", f"{count:,} in {dtype}, {layers:,} of them in {spec.layers} decoder layers"
    yield "widths", f"residual stream {spec.hidden:,}, vocabulary {spec.vocab:,}"
    yield "LM head" if spec.use.writes else "head", _head(config, spec)
    yield "positions", _positions(config, spec)
    heads = f"{spec.query_heads} query heads in {spec.kv_heads} groups, each {spec.head_dim} wide"
    yield "every layer", f"{heads}; {_mlp(spec)}"
    for first, last, kind in _kinds(config, spec.layers):
        yield f"layers {first}-{last}" if last > first else f"layer {first}", kind
    for kind, layout in row.blocks.items():
        yield kind, _block(layout)
    shared = f", through {' and '.join(row.norms)}" if row.norms else ""
    yield "blocks read", f"the stream before the layer, both{shared}" if spec.parallel else "one after the other"
    yield "to be pruned", _prunable(spec)
    yield from _formats(seen)


def _head(config: Any, spec: ModelSpec) -> str:
    if not spec.use.writes:
        return f"{spec.use.head}{f', of {config.num_labels} classes' * spec.use.classifies}"
    scale, cap = logit_scale(config), logit_cap(config)
    what = "the embedding matrix" if spec.tied_embeddings else "a matrix of its own"
    return what + (f", times {scale:g}" if scale != 1 else "") + (f", soft-capped at {cap:g}" if cap else "")


def _positions(config: Any, spec: ModelSpec) -> str:
    limit = positions(config)
    most = "" if limit is None else f", for {limit:,} tokens at most"
    if spec.positions:
        return f"{spec.positions:,} learned ones{most}"
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = {"all layers": rope} if "rope_type" in rope else rope
    told = [
        f"{each['rope_type']} (of {each['partial_rotary_factor']:.0%} of a head)"
        if each.get("partial_rotary_factor", 1) != 1
        else str(each["rope_type"])
        for each in kinds.values()
    ]
    return f"rotary, {' and '.join(dict.fromkeys(told))}{most}" if told else f"none{most}"


def _kinds(config: Any, layers: int) -> Iterator[tuple[int, int, str]]:
    """Runs of layers of one kind of attention, where the configuration lists kinds."""
    types, rotary = getattr(config, "layer_types", None), getattr(config, "no_rope_layers", None)
    names = ["" if types is None else str(types[index]).replace("_", " ") for index in range(layers)]
    if rotary is not None:  # 1 for layers that have it
        names = [name + " without rotary embedding" * (not on) for name, on in zip(names, rotary, strict=True)]
    if len(set(names)) > 1:
        for name, run in groupby(range(layers), lambda index: names[index]):
            indices = [*run]
            yield indices[0], indices[-1], name.strip() or "with rotary embedding"


def _mlp(spec: ModelSpec) -> str:
    count = f"{spec.mlp_channels:,} {spec.mlp_units}"
    each = f" of {spec.expert_channels:,} channels, {spec.active_experts} of them for each token"
    plain = f"; but {_plain(spec)}" if spec.plain_mlps else ""
    return count + each * spec.routed + ", gated" * spec.gated + plain


def _plain(spec: ModelSpec) -> str:
    layers = ", ".join(map(str, spec.plain_mlps))
    return f"a plain MLP of {spec.plain_channels:,} channels in layer{'s' * (len(spec.plain_mlps) > 1)} {layers}"


def _block(layout: BlockLayout) -> str:
    inputs = [f"{each.name} ({', '.join(each.parts)}{' by group' * each.grouped})" for each in layout.inputs]
    behind = "behind, which scales" if layout.scaled else "behind"
    norms = [f"{name} {where}" for name, where in ((layout.before, "before"), (layout.after, behind)) if name]
    inside = [f"{each.name} of all heads" for each in layout.row_norms]
    norm = f"; norms: {', '.join([*norms, *inside])}" if norms or inside else ""
    module = layout.module or " and ".join(layout.parts)
    if layout.routed:
        shared = f", beside {' and '.join(layout.routed.shared)}" if layout.routed.shared else ""
        return f"{module}: {layout.routed.router} chooses among {layout.routed.experts}{shared}{norm}"
    return f"{module}: {', '.join(inputs)} to {layout.output}{norm}"


def _prunable(spec: ModelSpec) -> str:
    parts = []
    if spec.kv_heads > 1:
        merged = ", ".join(map(str, spec.merged_kv_heads))
        parts.append(f"KV groups (dropped{f', or merged to {merged}' if merged else '; they are not merged'})")
    if spec.queries_per_group > 1:
        parts.append("query heads inside groups")
    whole = ["plain MLPs whole"] if spec.plain_mlps else []
    inside = ["channels inside experts"] if spec.narrow_experts else []
    return ", ".join([*parts, spec.mlp_units, *inside, *whole, "blocks", "layers"])


def _formats(seen: Understood) -> Iterator[tuple[str, str]]:
    """What each format says of the dense model, and of one whose layers differ."""
    spec, dense = seen.spec, Candidate.dense(seen.spec)
    place = next(layer for layer in range(spec.layers) if layer not in spec.plain_mlps)
    half = replace(dense.layers[place], mlp_channels=max(spec.least_mlp_channels, spec.mlp_channels // 2))
    uneven = replace(dense, layers=(*dense.layers[:place], half, *dense.layers[place + 1 :]))
    whole = Subnet(seen.outline.config, seen.tokenizer, spec, dense, surroundings=seen.surroundings)
    subnets = [whole, replace(whole, candidate=uneven)]
    for name, check in checks().items():
        equal, any_size = (_refusal(name, check, subnet) for subnet in subnets)
        held = "layers of any size" if any_size is None else "designs of equal layers" if equal is None else ""
        yield f"format={name}", held or f"no: {equal}"


def _refusal(name: str, check: Callable[[Subnet], object], subnet: Subnet) -> str | None:
    try:
        require_format_of_task(name, subnet.spec.use)
        check(subnet)
    except UserError as error:
        return str(error)
    return None


if __name__ == "__main__":
    sys.exit(main())
