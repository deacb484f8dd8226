"""Modules that hold the children and tensors of others: what a view is put together from."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_M = TypeVar("_M", bound=nn.Module)


def twin(module: _M) -> _M:
    """A module of its own with the very children and tensors of another one."""
    other = copy.copy(module)
    for name, value in vars(module).items():
        if isinstance(value, dict):  # parameters, buffers, children and hooks
            vars(other)[name] = value.copy()
    return other


def own_modules(module: _M) -> _M:
    """A module whose children are its own too, all the way down, with the tensors of another one."""
    other = twin(module)
    for name, child in module.named_children():
        setattr(other, name, own_modules(child))
    return other


def put_module(root: nn.Module, path: str, module: nn.Module) -> None:
    """Puts a module at a path below another one, whose modules on the way there become its own."""
    *steps, name = path.split(".")
    for step in steps:
        own = twin(getattr(root, step))
        setattr(root, step, own)
        root = own
    setattr(root, name, module)


def put_parameter(module: nn.Module, name: str, tensor: Tensor) -> None:
    """Makes a tensor a module's parameter without copying it; projections know their new sizes."""
    module._parameters[name] = nn.Parameter(tensor, requires_grad=False)
    if name == "weight" and isinstance(module, nn.Linear):
        module.out_features, module.in_features = tensor.shape
    if name == "weight" and isinstance(module, Conv1D):
        module.nx, module.nf = tensor.shape
