"""Limits on what costs nothing to know, and what they make of a search space; and limits in text."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from evaluators.metrics import METRICS
from search.protocol import Free
from search.tables import tabulate
from space.errors import UserError
from space.space import SearchSpace

_CONSTRAINT = re.compile(r"\s*(\w+)\s*(<=|>=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(x?)\s*")
_BOUNDS = {"max": "<=", "min": ">="}

# Of which no candidate has as little as 1.
_SIZED = {m.name for m in METRICS if m.is_cost and (m.format in ("count", "bytes") or m.unit == "ms")}


@dataclass(frozen=True)
class Constraint:
    """A limit in text, such as `params<=0.6` or `heldout_ppl<=1.1x`.

    Attributes:
        name: Of a metric.
        relation: `<=` or `>=`.
        value: The number.
        of_dense: Whether the limit is so many times the dense model's value.
    """

    name: str
    relation: str
    value: float
    of_dense: bool

    @classmethod
    def parsed(cls, text: str) -> Constraint | None:
        """What a text says, a value with an `x` behind it being times the dense model's; None for no constraint."""
        match = _CONSTRAINT.fullmatch(text)
        if match is None:
            return None
        name, relation, number, times = match.groups()
        return cls(name, relation, float(number), bool(times) or relative(name, float(number)))

    def __str__(self) -> str:
        times = "x" * (self.of_dense and not relative(self.name, self.value))
        return f"{self.name}{self.relation}{self.value:g}{times}"

    def limit(self, dense: float) -> float:
        """The largest, or the smallest, value that satisfies it, where the dense model has this one."""
        return self.value * dense if self.of_dense else self.value


def relative(name: str, value: float) -> bool:
    """Whether the value is a fraction of the dense model's: at most 1, for counts and latencies."""
    return name in _SIZED and 0 < value <= 1


def limits(constraints: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Name, relation (`<=` or `>=`) and value of every limit that is set, in the order of the mapping.

    Args:
        constraints: Metric name to an upper bound; or to `{min: ..., max: ...}`, of which one may be left out; or to
            None for no limit.

    Raises:
        UserError: A bound is none of these.
    """
    triples = []
    for name, bound in constraints.items():
        if bound is None:
            continue
        bounds = bound if isinstance(bound, Mapping) else {"max": bound}
        if not bounds or not bounds.keys() <= _BOUNDS.keys() or not all(map(_is_number, bounds.values())):
            raise UserError(
                f"constraints.{name}: expected a number, which is an upper bound, or bounds such as "
                f"{{min:0.5,max:0.8}}, got {bound}."
            )
        if "min" in bounds and "max" in bounds and bounds["min"] > bounds["max"]:
            raise UserError(f"constraints.{name}: expected min at most max, got {bound}. Lower min, or raise max.")
        if name in _SIZED and bounds.get("max", 1) <= 0:
            raise UserError(
                f"constraints.{name}: expected an upper bound above 0, got {bounds['max']:g}. Up to 1 it is a "
                "fraction of the dense model's, above that a number of its own."
            )
        triples += [(name, _BOUNDS[side], float(bounds[side])) for side in _BOUNDS if side in bounds]
    return triples


def limits_on(constraints: Mapping[str, Any], names: Collection[str]) -> list[tuple[str, str, float]]:
    """The limits that are set, see `limits`, all of them on some metrics.

    Raises:
        UserError: One is on another metric, or a bound is none.
    """
    bounds = limits(constraints)
    for name, _, _ in bounds:
        if name not in names:
            raise UserError(
                f"constraints: expected bounds on {', '.join(names)}, got one on {name}. "
                "What is measured on text, such as kl, is an objective: pick from the front by it, such as "
                "pick='heldout_ppl<=1.1x'."
            )
    return bounds


def limits_text(constraints: Mapping[str, Any]) -> str:
    """The limits for people, such as `latency_ms<=0.7, params>=0.5`; `none` where there are none."""
    return ", ".join(f"{name}{relation}{value:g}" for name, relation, value in limits(constraints)) or "none"


def constrained(space: SearchSpace, constraints: Mapping[str, Any], free: Free) -> SearchSpace:
    """The designs of a space that are within limits.

    Args:
        space: The space.
        constraints: See `limits`; on metrics that are sums over blocks and cost nothing to know. Values of `relative`
            are fractions of the dense model's.
        free: These metrics, of any candidate.

    Raises:
        UserError: There is no such metric, a bound is none, or no design is within them.
    """
    for name, relation, value in limits_on(constraints, free(space.decode(space.levels - 1))):
        table = tabulate(space, free, [name])[name]
        limit = value * table.base if relative(name, value) else value
        if relation == ">=":
            table, limit = -table, -limit
        space = space.limited(f"{name}{relation}{value:g}", table.base, table.steps, limit)
    return space


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
