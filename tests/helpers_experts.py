"""Where tiny mixtures of experts have what, and a design of one."""

from __future__ import annotations

from typing import Any

from space.models.architectures import ARCHITECTURES

DENSE = (6, 3, 48)
CUT = [(6, 3, 9), DENSE, (6, 3, 5), (4, 2, 20)]


def mlp_of(family: str, layer: Any) -> Any:
    return layer.get_submodule(ARCHITECTURES[family].mlp.module)


def router_of(family: str, mlp: Any) -> Any:
    row = ARCHITECTURES[family].mlp.routed
    assert row is not None
    return mlp.get_submodule(row.router)
