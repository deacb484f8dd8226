"""Constraints as people write them: `latency_ms<=25, params<=0.6`, and what they make of a search space."""

from __future__ import annotations

import re
from collections.abc import Sequence

from evaluators.metrics import METRICS
from search.protocol import Free
from search.tables import tabulate
from space.errors import UserError
from space.space import SearchSpace

_CONSTRAINT = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*")

# Of which no candidate has as little as 1.
_SIZED = {m.name for m in METRICS if m.is_cost and (m.format in ("count", "bytes") or m.unit == "ms")}


def parsed(text: str) -> tuple[str, str, float] | None:
    """Name, relation and value of a constraint; None when this is not one."""
    match = _CONSTRAINT.fullmatch(text)
    return (match.group(1), match.group(2), float(match.group(3))) if match else None


def relative(name: str, value: float) -> bool:
    """Whether the value is a fraction of the dense model's: at most 1, for counts and latencies."""
    return name in _SIZED and 0 < value <= 1


def quoted(arguments: Sequence[str], key: str) -> list[str]:
    """Command-line arguments with the value of one setting quoted, as Hydra's grammar has no `<`."""
    start = f"{key}="
    return [
        f"{start}'{argument[len(start) :]}'" if argument.startswith(start) and "'" not in argument else argument
        for argument in arguments
    ]


def constrained(space: SearchSpace, text: str | None, free: Free) -> SearchSpace:
    """The designs of a space that are within constraints.

    Args:
        space: The space.
        text: None for all of them, or constraints with commas between them, on metrics that are sums over blocks and
            cost nothing to know; those of `relative` are fractions of the dense model's.
        free: These metrics, of any candidate.

    Raises:
        UserError: Something is no constraint, or no design is within it.
    """
    if text is None:
        return space
    known = free(space.decode(space.levels - 1))
    for part in text.split(","):
        constraint = parsed(part)
        if constraint is None or constraint[0] not in known:
            raise UserError(
                f"constraints: expected metric<=value or metric>=value on one of {', '.join(known)}, "
                f"got {part.strip()!r}. "
                "What is measured on text, such as kl, is an objective: pick from the front by it, pick='kl<=0.5'."
            )
        name, relation, value = constraint
        table = tabulate(space, free, [name])[name]
        limit = value * table.base if relative(name, value) else value
        if relation == ">=":
            table, limit = -table, -limit
        space = space.limited(part.strip(), table.base, table.steps, limit)
    return space
