"""How far a latency table is from what it stands for."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class TableError:
    """How far a table is from end-to-end timings, as fractions of the latter.

    Attributes:
        median: Of the absolute errors.
        worst: The largest.
        rank_correlation: Spearman's, of the two; not a number where that is undefined, see `spearman`.
    """

    median: float
    worst: float
    rank_correlation: float

    @classmethod
    def of(cls, table: Sequence[float], timed: Sequence[float]) -> TableError:
        """The error of a table's latencies against end-to-end ones, one each a design."""
        errors = [abs(one / other - 1) for one, other in zip(table, timed, strict=True)]
        if not errors:
            return UNCHECKED
        return cls(statistics.median(errors), max(errors), spearman(table, timed))

    def __str__(self) -> str:
        rank = "" if math.isnan(self.rank_correlation) else f", rank correlation {self.rank_correlation:.2f}"
        return f"median error {self.median:.1%}, worst {self.worst:.1%}{rank}"


def spearman(one: Sequence[float], other: Sequence[float]) -> float:
    """Spearman's rank correlation of pairs; not a number for less than three, or where one side is constant."""
    if len(one) < 3 or len(set(one)) == 1 or len(set(other)) == 1:
        return math.nan
    return float(pd.Series(one).rank().corr(pd.Series(other).rank()))


UNCHECKED = TableError(math.nan, math.nan, math.nan)
