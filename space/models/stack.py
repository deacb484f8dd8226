"""Where a causal language model keeps its decoder stack, by the row of its family: the dense model's or a subnet's."""

from __future__ import annotations

from typing import Any

from space.models.architectures import architecture_of
from space.models.layout import Architecture

PRUNED = "pruned_"  # what `model_type` of a subnet has before its family's


def family_of(model: Any) -> Architecture:
    """The row of a model, or of its stack."""
    return architecture_of(model.config.model_type.removeprefix(PRUNED))


def stack_of(model: Any) -> Any:
    """The decoder stack of a causal language model: all but its head."""
    return getattr(model, family_of(model).stack.module)


def put_stack(model: Any, stack: Any) -> None:
    """Gives a causal language model another stack."""
    setattr(model, family_of(model).stack.module, stack)


def layers_of(model: Any) -> Any:
    """The decoder layers of a causal language model."""
    return getattr(stack_of(model), family_of(model).stack.layers)


def norm_of(model: Any) -> Any:
    """The norm behind the last decoder layer."""
    return getattr(stack_of(model), family_of(model).stack.norm)


def is_outside(model: Any, name: str) -> bool:
    """Whether a child of that name, of a causal language model or of its stack, is neither the stack nor the layers."""
    names = family_of(model).stack
    return name not in (names.module, names.layers)


def is_in_stack(model: Any, name: str) -> bool:
    """Whether a causal language model's parameter of that name is in its stack."""
    return name.startswith(f"{family_of(model).stack.module}.")


def is_in_layers(model: Any, name: str) -> bool:
    """Whether a causal language model's parameter of that name is in a decoder layer."""
    names = family_of(model).stack
    return name.startswith(f"{names.module}.{names.layers}.")
