"""The choices that settings of a space leave to the blocks of a model: a gene each, or none where all stays dense."""

from __future__ import annotations

import math
from collections.abc import Sequence

from space.blocks import LAYER, Block, make_blocks
from space.checks import check_layers
from space.deploy import deployment_of
from space.errors import UserError
from space.options import (
    attention_options,
    default_expert_step,
    default_mlp_step,
    expert_step_of,
    layer_options,
    least_mlp_step,
    mlp_options,
    plain_options,
    require_types_fit,
    typed,
)
from space.spec import ModelSpec
from space.types import BLOCK


def choices(
    spec: ModelSpec,
    *,
    attention_widths: bool,
    merge_groups: bool,
    mlp_widths: bool,
    expert_widths: bool,
    remove_attention: bool,
    remove_mlp: bool,
    whole_layers: bool,
    same_for_all_layers: bool,
    deploy: str,
    mlp_step: int | None,
    expert_step: int | None,
    frozen: tuple[Sequence[int], Sequence[int], Sequence[int]],
    types: Sequence[int],
) -> tuple[list[Block], int | None, int | None]:
    """All blocks in the order of their layers, those that stay dense too, and the steps of MLPs and of experts.

    Args:
        spec: The dense model.
        attention_widths: See `space.space.SearchSpace`, as those up to `mlp_step`.
        merge_groups: Whether KV groups may be merged.
        mlp_widths: Whether MLP channels, or experts, may be dropped.
        expert_widths: Whether channels inside experts may.
        remove_attention: Whether an attention block may be removed.
        remove_mlp: Whether an MLP block may be removed.
        whole_layers: Whether a layer is dense or gone.
        same_for_all_layers: Whether all layers have one shape.
        deploy: By what the model is to be served.
        mlp_step: MLP channels, or experts, between two levels, None for a default.
        expert_step: Channels of each expert between two levels, None likewise.
        frozen: Layers that stay dense, those whose attention does, and those whose MLP does.
        types: Of matrices, but the first: rows of `space.types.GGUF_TYPES`, rising.

    Raises:
        UserError: Settings contradict each other, or leave nothing to choose.
    """
    deployment = deployment_of(deploy, spec)
    if types and spec.routed:
        raise UserError(
            f"space.types: expected [] for a mixture of experts, whose pruned layers llama.cpp does not hold, as "
            f"{spec.name} is one. Set space.types=[]."
        )
    if deployment.same_layers and not whole_layers:
        same_for_all_layers, remove_attention, remove_mlp = True, False, False
        if any(frozen):
            raise UserError(
                f"space.deploy={deploy}: expected no frozen layers, as all layers must have one shape. Set "
                "freeze_layers, freeze_attention and freeze_mlp to [], or space=depth to drop whole layers."
            )
    names = ("freeze_layers", "freeze_attention", "freeze_mlp")
    dense = [check_layers(name, given, spec.layers) for name, given in zip(names, frozen, strict=True)]
    frozen_attention, frozen_mlp = dense[0] | dense[1], dense[0] | dense[2]
    step = None
    if mlp_widths:
        channels, multiple = spec.mlp_channels, math.lcm(deployment.mlp_multiple, BLOCK if types else 1)
        step = default_expert_step(channels) if spec.routed else default_mlp_step(channels, multiple)
        if mlp_step is not None:
            step = least_mlp_step(mlp_step, channels, multiple, deploy)
    attention = attention_options(
        spec,
        widths=attention_widths and deployment.attention_widths,
        merge=merge_groups and deployment.merged_groups,
        remove=remove_attention,
    )
    narrower = expert_step_of(spec, expert_step)
    if not expert_widths:
        narrower = None
    mlp = mlp_options(spec, step=step, remove=remove_mlp, expert_step=narrower)
    if types:
        require_types_fit(spec, attention, mlp)
    if whole_layers:
        layer = typed(layer_options(spec, spec.mlp_channels), types, fields=2)
        plain = dict.fromkeys(spec.plain_mlps, layer_options(spec, spec.plain_channels))
        blocks = make_blocks(spec, LAYER, layer, frozen_attention | frozen_mlp, shared=False, other=plain)
    else:
        blocks = make_blocks(
            spec, "attention", typed(attention, types), frozen_attention, shared=same_for_all_layers, other={}
        )
        plain = dict.fromkeys(spec.plain_mlps, plain_options(spec, remove=remove_mlp))
        blocks += make_blocks(spec, "mlp", typed(mlp, types), frozen_mlp, shared=same_for_all_layers, other=plain)
    blocks.sort(key=lambda block: (block.layers[0], block.kind))
    if not any(block.free for block in blocks):
        raise UserError(
            "space: expected at least one block with more than one option, got only blocks that stay dense. Allow "
            "attention_widths, mlp_widths, remove_attention, remove_mlp or whole_layers, or freeze fewer layers."
        )
    return blocks, step, narrower
