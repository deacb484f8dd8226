"""Names of modules that mean the same in every family that has them."""

from __future__ import annotations

from collections.abc import Iterable

from space.models.architectures import ARCHITECTURES

_ROWS = tuple(ARCHITECTURES.values())


def _own_names(names: Iterable[str | None]) -> frozenset[str]:
    """What each is called where it is, without what leads there."""
    return frozenset(name.rpartition(".")[2] for name in names if name is not None)


# With what leads to them.
OUTPUTS = frozenset(block.output for row in _ROWS for block in row.blocks.values() if block.output)
PROJECTIONS = _own_names(name for row in _ROWS for block in row.blocks.values() for name in block.projections)
NORMS = _own_names(
    name for row in _ROWS for name in (row.stack.norm, *row.norms, *row.attention.norms, *row.mlp.norms, *row.qk_norms)
) | {norm.name for row in _ROWS for norm in row.attention.row_norms}
EMBEDDINGS = _own_names(name for row in _ROWS for name in (row.stack.embedding, row.stack.positions, row.stack.entry))
