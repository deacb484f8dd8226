"""The facts of a model, read from its configuration and checked against its modules."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from space.candidate import LayerShape
from space.errors import UserError
from space.models.architectures import architecture_of
from space.models.layout import Architecture
from space.models.mixtures import check_experts, correction_of, have_bias, plain_mlps, shared_of
from space.models.stack import experts_of, layers_of, stack_of
from space.spec import ModelSpec
from space.task import TASKS, Task


def checked_spec(model: PreTrainedModel, name: str, digest: str, family: str) -> ModelSpec:
    """See `read_spec`.

    Raises:
        UserError: It has other layers than models of its family.
    """
    try:
        return read_spec(model, name, digest, family)
    except (AttributeError, ValueError) as error:
        raise UserError(f"Expected {name} to have the layers of a {family} model, but got: {error}") from error


def read_spec(model: PreTrainedModel, name: str, digest: str, family: str) -> ModelSpec:
    """The facts of a model, read from its configuration and checked against its modules.

    Args:
        model: Any.
        name: What to call it.
        digest: Of its checkpoint, see `space.models.digest`.
        family: Its row, a key of `space.models.architectures.ARCHITECTURES`.

    Raises:
        UserError: Its layers are not all of the same shape.
    """
    config: Any = model.config
    architecture = architecture_of(family)
    names, hidden, routed = architecture.sizes, config.hidden_size, architecture.mlp.routed
    heads = getattr(config, names.query_heads)
    kv_heads = getattr(config, names.kv_heads) if isinstance(names.kv_heads, str) else names.groups(heads)
    channels = names.channels(config)
    head_dim = getattr(config, "head_dim", None) or hidden // heads
    dense = LayerShape(heads, kv_heads, channels)
    expected = {
        layout.path(projection.name): (sum(projection.rows(dense, head_dim)), hidden)
        for layout in architecture.blocks.values()
        for projection in layout.inputs
    }
    columns = {"attention": heads * head_dim, "mlp": channels}
    outputs = {kind: layout.path(layout.output) for kind, layout in architecture.blocks.items() if layout.output}
    expected |= {path: (hidden, columns[kind]) for kind, path in outputs.items()}
    transposed = {
        layout.path(name) for layout in architecture.blocks.values() for name in layout.projections if layout.transposed
    }
    parallel = architecture.parallel
    norms, before = (*architecture.norms, *architecture.attention.norms), architecture.attention.before
    inside = [architecture.attention.path(name) for name in architecture.norms_inside]
    layers: nn.ModuleList = layers_of(model)
    norm = layers[-1].get_submodule(norms[0])
    weighed = getattr(norm, "weight", None) is not None
    normed = {name for path in inside for name, _ in layers[0].get_submodule(path).named_parameters()}
    biases = {path: layers[0].get_submodule(path).bias is not None for path in expected}
    plain = plain_mlps(layers, architecture.mlp, hidden)
    first = next(layer for index, layer in enumerate(layers) if index not in plain.layers)
    for layer in (first, *(layers[index] for index in plain.layers)):
        _check_modules(layer, architecture)
    if routed is not None:
        check_experts(layers, architecture.mlp, channels)
    for index, layer in enumerate(layers):
        for path, shape in expected.items():
            projection: Any = layer.get_submodule(path)
            got = tuple(projection.weight.mT.shape if path in transposed else projection.weight.shape)
            if got != shape or (projection.bias is not None) != biases[path]:
                raise UserError(
                    f"Expected every layer of {name} to have the same shape, {path} being {shape}, but in layer "
                    f"{index} it is {got}: an already pruned model? Use the dense model that it was made from."
                )
    head, places = model.get_output_embeddings(), architecture.stack.positions
    table = None if places is None else _table(stack_of(model), places)
    shared = [p for path in shared_of(first, architecture.mlp) for p in first.get_submodule(path).parameters()]
    registers = getattr(config, architecture.stack.registers) if architecture.stack.registers is not None else 0
    task = architecture.task_of([type(model).__name__])  # a class of remote code is another
    writes = TASKS[task].writes
    embedding = _table(stack_of(model), architecture.stack.embedding) if TASKS[task].reads == "text" else None
    counted = [*layers.parameters(), *(each for each in (embedding, table) if each is not None)]
    rest = 0 if writes else sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in counted)
    return ModelSpec(
        name=name,
        digest=digest,
        family=family,
        layers=len(layers),
        hidden=hidden,
        query_heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        mlp_channels=channels,
        vocab=0 if embedding is None else embedding.shape[0],
        tied_embeddings=head is not None and head.weight is embedding,
        head_bias=writes and getattr(head, "bias", None) is not None,
        qkv_bias=biases[architecture.attention.path(architecture.attention.inputs[0].name)],
        o_bias=biases[outputs["attention"]],
        mlp_bias=biases[outputs["mlp"]] if routed is None else have_bias(first, architecture.mlp),
        gated=routed is not None or "gate" in (part for each in architecture.mlp.inputs for part in each.parts),
        attention_norms=len(architecture.attention.leaving) - architecture.attention.scaled,
        mlp_norms=len(architecture.mlp.leaving) - architecture.mlp.scaled,
        shared_weights=sum(p.numel() for p in shared if p.ndim > 1),
        shared_biases=sum(p.numel() for p in shared if p.ndim == 1),
        score_bias=isinstance(correction_of(first, architecture.mlp), nn.Parameter),
        plain_mlps=plain.layers,
        plain_channels=plain.channels,
        plain_params=plain.params,
        sinks=architecture.attention.sinks,
        block_scales=architecture.attention.scaled,
        layer_norms=len(architecture.staying),
        bare_first=weighed and before is not None and not [*layers[0].get_submodule(before).parameters()],
        norm_weight=weighed,
        norm_bias=getattr(norm, "bias", None) is not None,
        qk_norm="weight" in normed,
        qk_norm_bias="bias" in normed,
        wide_qk_norm=bool(architecture.attention.row_norms),
        parallel=parallel if isinstance(parallel, bool) else getattr(config, parallel),
        positions=0 if table is None else table.shape[-2],
        image_tokens=table.shape[-2] + registers if table is not None and registers else 0,
        merges=names.grouped
        and not inside
        and not architecture.attention.sinks
        and not architecture.neighbours
        and not _is_partly_rotary(config),
        repeats_groups=architecture.repeats_groups,
        rest=rest,
        task=task,
        expert_channels=getattr(config, routed.channels) if routed else 0,
        active_experts=getattr(config, routed.active) if routed else 0,
        whole_experts=routed is not None and routed.tied,
    )


def mask_token(tokenizer: Any, name: str, task: Task) -> int | None:
    """The token in the place of a hidden word; None of a task without such.

    Raises:
        UserError: The tokenizer has none.
    """
    token: int | None = tokenizer.mask_token_id if task.masks else None
    if task.masks and token is None:
        raise UserError(
            f"Expected the tokenizer of {name} to have a mask token, for the words that {task.title} guesses, but it "
            "has none. Name it in tokenizer_config.json (mask_token), or use another model."
        )
    return token


def _table(stack: Any, path: str) -> Tensor:
    """Embeddings at a path, a module or a parameter, (rows, hidden) or (1, rows, hidden)."""
    found: Any = attrgetter(path)(stack)
    table: Tensor = getattr(found, "weight", found)
    return table


def _check_modules(layer: nn.Module, architecture: Architecture) -> None:
    """Compares a layer with its family's row.

    Raises:
        AttributeError: It lacks a norm.
        ValueError: It has parameters in other modules.
    """
    mlp, plain = architecture.mlp, architecture.mlp.routed is not None and experts_of(layer, architecture.mlp) is None
    held = {*architecture.norms, *(norm for layout in architecture.blocks.values() for norm in layout.norms)}
    for layout in (architecture.attention,) if plain else architecture.blocks.values():
        held |= {layout.path(name) for name in layout.weighted}
    held |= {architecture.attention.path(name) for name in architecture.qk_norms}
    for name in held:
        layer.get_submodule(name)
    if mlp.routed is not None and mlp.routed.correction is not None:
        held.add(mlp.path(mlp.routed.correction).rpartition(".")[0])
    carried = tuple(f"{path}." for path in ([mlp.module] if plain else shared_of(layer, mlp)))
    others = sorted(
        name
        for name, _ in layer.named_parameters()
        if name.rpartition(".")[0] not in held and not name.startswith(carried)
    )
    if others:
        raise ValueError(
            f"a layer has parameters that its family's others lack, such as {others[0]}; models with them are not "
            "supported."
        )


def _is_partly_rotary(config: Any) -> bool:
    """Whether rotary embedding leaves a part of each head as it is."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope] if "rope_type" in rope else [*rope.values()]  # one for all layers, or by kind of attention
    return any(each.get("partial_rotary_factor", 1) != 1 for each in kinds)
