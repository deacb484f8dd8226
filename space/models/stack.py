"""Where a model keeps its stack of layers, by the row of its family: the dense model's or a subnet's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import transformers
from torch import Tensor, nn

from space.errors import UserError
from space.models.architectures import architecture_of, rows_of
from space.models.block_layout import BlockLayout
from space.models.layout import Architecture
from space.task import TASKS

PRUNED = "pruned_"  # what `model_type` of a subnet has before its family's


def row_of(config: Any) -> str:
    """The name of the row of a model's configuration, the dense model's or a subnet's.

    Raises:
        UserError: There is none of its family, or none of its family that is as it says.
    """
    rows = rows_of(config.model_type.removeprefix(PRUNED))
    for name, row in rows.items():
        if all(getattr(config, key) in values for key, *values in row.when):
            return name
    asked = "; or ".join(", ".join(f"{key}={values[-1]}" for key, *values in row.when) for row in rows.values())
    keys = dict.fromkeys(key for row in rows.values() for key, *_ in row.when)
    got = ", ".join(f"{key}={getattr(config, key)}" for key in keys)
    raise UserError(
        f"Expected a {config.model_type} model whose config.json says {asked}, got one with {got}: it is built "
        "otherwise, in a way that has no row in space/models/architectures.py. Use another model."
    )


def family_of(model: Any) -> Architecture:
    """The row of a model, or of its stack."""
    return architecture_of(row_of(model.config))


def task_of(config: Any) -> str:
    """What a model of a configuration is for, by the class that it says; the family's first task where it says none."""
    return architecture_of(row_of(config)).task_of(config.architectures or ())


def loader_of(task: str) -> Any:
    """transformers' automatic class that loads a model for a task."""
    return getattr(transformers, TASKS[task].loader)


def stack_of(model: Any) -> Any:
    """The stack of a model: all but its head, and the very model where it has none."""
    return getattr(model, family_of(model).stack.module, model)


def whole(model: Any, batch: Any) -> dict[str, Any]:
    """Token ids, or pixels, as arguments of a model or of its stack."""
    return {model.main_input_name: batch}


def midway(model: Any, stream: Any) -> dict[str, Any]:
    """A residual stream as arguments of a model, or of its stack, that takes one: after `start_midway`."""
    return {"inputs_embeds" if model.main_input_name == "input_ids" else model.main_input_name: stream}


def experts_of(layer: Any, layout: BlockLayout) -> Any:
    """The module with all experts of a layer's mixture; None where its MLP is none."""
    if layout.routed is None:
        return None
    block = layer.get_submodule(layout.module)
    return block.get_submodule(layout.routed.experts) if hasattr(block, layout.routed.experts) else None


def put_stack(model: Any, stack: Any) -> None:
    """Gives a model with a head another stack."""
    setattr(model, family_of(model).stack.module, stack)


def layers_of(model: Any) -> Any:
    """The layers of a model."""
    return stack_of(model).get_submodule(family_of(model).stack.layers)


def norm_of(model: Any) -> Any:
    """The norm behind the last layer; where a family has none, what hands on the residual stream as it is."""
    name = family_of(model).stack.norm
    return stack_of(model).get_submodule(name) if name is not None else nn.Identity()


def outside(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The modules of a model, or of its stack, that are neither its layers nor hold them, by their paths in it."""
    layers = f"{_prefix(model)}{family_of(model).stack.layers}"
    paths = {*holders(model), layers}
    for holder in holders(model):
        for name, child in model.get_submodule(holder).named_children():
            path = f"{holder}.{name}" if holder else name
            if path not in paths:
                yield path, child


def holders(model: Any) -> list[str]:
    """The paths, in a model or in its stack, of the modules that hold its layers, itself first."""
    steps = f"{_prefix(model)}{family_of(model).stack.layers}".split(".")
    return [".".join(steps[:count]) for count in range(len(steps))]


def stream_of(output: Any) -> Tensor:
    """The residual stream that a layer hands on, alone or as the first of what it gives."""
    stream: Tensor = output[0] if isinstance(output, tuple) else output
    return stream


def is_in_stack(model: Any, name: str) -> bool:
    """Whether a model's parameter of that name is in its stack."""
    return name.startswith(_prefix(model))


def is_in_layers(model: Any, name: str) -> bool:
    """Whether a model's parameter of that name is in a layer."""
    return name.startswith(f"{_prefix(model)}{family_of(model).stack.layers}.")


def _prefix(model: Any) -> str:
    """What the names of parameters of a model's stack begin with."""
    return "" if stack_of(model) is model else f"{family_of(model).stack.module}."
