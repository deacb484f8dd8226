"""Which point of a front a person is told to take, and what the trade is where none is near the dense model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from evaluators.base import SPREAD, Metric
from evaluators.metrics import SEARCH_BITS, end_to_end, judged_in, metric_named
from search.run.front import dense_row, is_dense, latency_column, quality_column
from space.errors import UserError

RECOMMENDED = "recommended"
QUALITY = "heldout_ppl"  # its logarithm is the loss that a rise is of
_DISTANCES: Mapping[str, Callable[[float], str]] = {  # what is judged by a distance from the dense model, in words
    "heldout_cosine_distance": lambda rise: f"cosine {1 - rise:.3f} to the dense model's embeddings",
    "heldout_class_kl": lambda rise: f"{rise:.3f} nats from the dense model's class probabilities",
}
STEPS = (1.1, 1.25, 1.5, 2.0, 3.0)  # gains at which the trade is told


@dataclass(frozen=True)
class Recommend:
    """How much worse than the dense model a person would take on what was held out: in what points are judged by.

    Attributes:
        rise: The most that the recommended point may have.
        most: Points with more are not offered unless nothing else is.
    """

    rise: float = 0.15
    most: float = 1.5

    def __post_init__(self) -> None:
        if not 0 < self.rise <= self.most:
            raise UserError(f"recommend: expected 0 < rise <= most, got rise={self.rise} and most={self.most}.")

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Recommend:
        """What a run's configuration says, and the defaults where one of before does not."""
        return cls(**config.get("recommend", {}))


@dataclass(frozen=True)
class Offer:
    """A point of the front, as it is offered.

    Attributes:
        key: Its key.
        gain: The dense model's cost over its own: how many times as fast, or as small, it is.
        rise: Held-out loss above the dense model's, in nats a token; else the distance from it.
        size: What it is smaller in, for people; empty where it is faster.
        quality: What the rise is of.
    """

    key: str
    gain: float
    rise: float
    size: str = ""
    quality: str = QUALITY

    def __str__(self) -> str:
        gain = f"{self.size} {1 / self.gain:.2f} × dense" if self.size else f"{self.gain:.2f} × as fast"
        if self.quality in _DISTANCES:
            return f"{gain}, {_DISTANCES[self.quality](self.rise)}"
        return f"{gain}, rise {self.rise:.2f} nats a token ({math.exp(self.rise):.2f} × the dense perplexity)"


@dataclass(frozen=True)
class Advice:
    """What a person is told of a front.

    Attributes:
        recommended: The fastest point (smallest, where no objective is a latency) within the rise; None where none is.
        trade: The point with the least rise at each of some gains, the least gain first. Empty where no point is faster
            than the dense model, beyond the spread of their times.
        rise: The setting.
        known: Whether rises are known, as they are once a search has ended.
        scored: Whether tasks can be asked of its points: they write, and all in the tokens of the dense model.
    """

    recommended: Offer | None
    trade: tuple[Offer, ...]
    rise: float
    known: bool = True
    scored: bool = True

    @classmethod
    def of(cls, frame: pd.DataFrame, objectives: Sequence[Metric], rise: float) -> Advice:
        """The advice on a front.

        Args:
            frame: Its table.
            objectives: The search's.
            rise: See `Recommend`.
        """
        judged = judged_in(frame.columns)
        if judged is None:
            return cls(None, (), rise, known=False)
        offers = _offers(frame, objectives)
        near = [offer for offer in offers if offer.rise <= rise]
        best = max(near, key=lambda offer: (offer.gain, -offer.rise), default=None)
        least = [
            min(enough, key=lambda offer: (offer.rise, -offer.gain))
            for step in STEPS
            if (enough := [offer for offer in offers if offer.gain >= step])
        ]
        trade = least or sorted(offers, key=lambda offer: (offer.rise, -offer.gain))[:1]
        scored = is_perplexity(judged) and SEARCH_BITS[0] not in frame
        return cls(best, tuple(dict.fromkeys(trade)), rise, scored=scored)

    @property
    def pick(self) -> str | None:
        """What to pick first: `recommended`, else the key of the nearest point of the trade, else nothing."""
        if self.recommended is not None:
            return RECOMMENDED
        return self.trade[0].key if self.trade else None

    @property
    def first(self) -> str | None:
        """The key of what to look at first."""
        return self.recommended.key if self.recommended is not None else self.pick

    @property
    def summary(self) -> str:
        """The recommended point, or that there is none, in a sentence; empty where rises are not known."""
        if not self.known:
            return ""
        if self.recommended is not None:
            return f"Recommended: {self.recommended.key}, {self.recommended}."
        if not self.trade:
            return (
                "No point of the front is recommended: none is faster or smaller than the dense model by more than "
                "timings spread."
            )
        quality = self.trade[0].quality
        unit = " nats a token" if is_perplexity(quality) else f" {metric_named(quality).unit}".rstrip()
        return (
            f"No point of the front is recommended: none is within a rise of {self.rise:g}{unit} over the dense model "
            "on held-out text (recommend.rise)."
        )

    @property
    def lines(self) -> list[str]:
        """The summary, and the trade where nothing is recommended, each point of it with the words that pick it."""
        if self.recommended is not None or not self.known:
            return [self.summary] * self.known
        return [self.summary, *(f"  {offer}: pick={offer.key}" for offer in self.trade)]


def is_perplexity(column: str) -> bool:
    """Whether the logarithm of a column is a loss, in nats a token."""
    return column.endswith("ppl")


def rises(frame: pd.DataFrame, column: str | None = None) -> np.ndarray:
    """Loss of each row above the dense model's on the same text, shape `(rows,)`; NaN if not measured.

    Args:
        frame: The front's table.
        column: A perplexity, for nats a token, or a distance; None for what points are judged by.
    """
    column = column or judged_in(frame.columns) or QUALITY
    values, dense = frame[column].to_numpy(dtype=float), float(dense_row(frame)[column])
    return np.asarray(np.log(values) - math.log(dense) if is_perplexity(column) else values - dense)


def landmarks(frame: pd.DataFrame, advice: Advice) -> dict[str, str]:
    """Keys of the points with a name: `recommended`, `smallest` and `fastest`, as far as the table tells.

    Never the dense model; ties go to the better quality.
    """
    points = frame[~is_dense(frame)]
    quality = quality_column(points)
    if quality is not None:
        points = points.sort_values(quality, kind="stable")
    marks = {} if advice.recommended is None else {RECOMMENDED: advice.recommended.key}
    size = next(column for column in ("weights_bytes", "params", "decoder_params") if column in points)
    for mark, column in (("smallest", size), ("fastest", latency_column(points))):
        if column is not None and points[column].notna().any():
            marks[mark] = str(points["key"].iloc[int(np.nanargmin(points[column].to_numpy(dtype=float)))])
    return marks


def _offers(frame: pd.DataFrame, objectives: Sequence[Metric]) -> list[Offer]:
    """The points that are faster, or smaller, than the dense model by more than both spreads, with their rises.

    What counts is the first latency among the objectives, end to end where measured; without one the first cost to keep
    low, else the parameters.
    """
    chosen = next((metric for metric in objectives if metric.role == "latency"), None)
    size = ""
    if chosen is None:
        costs = [metric for metric in objectives if metric.is_cost and metric.goal == "min"]
        chosen = costs[0] if costs else metric_named("params" if "params" in frame else "decoder_params")
        size = chosen.label
    column = end_to_end(chosen.name, frame.columns) if chosen.role == "latency" else None
    cost = frame[column or chosen.name].to_numpy(dtype=float)
    doubt = frame.get(f"{column}{SPREAD}", pd.Series(0.0, frame.index)).fillna(0.0).to_numpy(dtype=float)
    dense = int(is_dense(frame).argmax())
    gained = (cost + doubt < cost[dense] - doubt[dense]) & np.isfinite(rises(frame))
    rows = zip(frame["key"][gained], cost[dense] / cost[gained], rises(frame)[gained], strict=True)
    quality = judged_in(frame.columns) or QUALITY
    return [Offer(str(key), float(gain), float(rise), size, quality) for key, gain, rise in rows]
