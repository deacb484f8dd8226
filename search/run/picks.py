"""Picks: the words by which a person names one point of the front, from a key to `params<=0.6`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from evaluators.base import Metric
from evaluators.metrics import METRICS
from search.constraints import Constraint
from search.run.front import CANDIDATE, dense_row, is_dense, latency_column, quality_column
from search.run.recommended import RECOMMENDED, Advice, landmarks
from space.candidate import Candidate
from space.errors import UserError

NAMED = (RECOMMENDED, "smallest", "fastest")
SHORTEST_PREFIX = 4
_LIMITS = "'params<=0.6', 'latency_ms<=25' or 'heldout_ppl<=1.1x'"


def select(frame: pd.DataFrame, pick: str, objectives: Sequence[Metric], advice: Advice) -> pd.Series:
    """The point of the front that a pick names.

    A pick is one of:

    * a key, or the start of one (at least 4 characters) that only one point has;
    * `recommended`, see `search.run.recommended`, `smallest` (fewest bytes of weights) or `fastest`;
    * `metric<=value` or `metric>=value` on any numeric column. A constraint on a cost takes the point of best quality
      (`heldout_kl`, else `kl`) that satisfies it; one on quality takes the fastest. A value with an `x` behind it is
      times the dense model's: `heldout_ppl<=1.1x`. For latencies, parameters, MACs and bytes, so is one of at most 1:
      `params<=0.6`, but `latency_ms<=25` is in ms.

    The dense model is picked by its key alone.

    Raises:
        UserError: The pick names no point; the message says what would.
    """
    text = pick.strip()
    if text in NAMED:
        return _landmark(frame, text, advice)
    if constraint := Constraint.parsed(text):
        return _constrained(frame, constraint, objectives)
    return _keyed(frame, text)


def candidate_of(row: pd.Series) -> Candidate:
    """The architecture that a row of the front is about."""
    candidate: Candidate = row[CANDIDATE]
    return candidate


def require_whole_vocabulary(candidates: Iterable[Candidate], aim: str) -> None:
    """Refuses designs with vocabularies of their own, for what one tokenizer does.

    Args:
        candidates: That were picked.
        aim: What for, in words.

    Raises:
        UserError: There is one.
    """
    for candidate in candidates:
        if candidate.vocabulary:
            raise UserError(
                f"Expected points with the whole vocabulary {aim}, got {candidate.key} with {candidate.vocabulary} "
                "tokens of its own. Export it, and use the export: it has its own tokenizer."
            )


def require_unrounded(candidates: Iterable[Candidate], aim: str) -> None:
    """Refuses designs with types of matrices, for what has no such types.

    Args:
        candidates: That were picked.
        aim: What for, in words.

    Raises:
        UserError: There is one.
    """
    for candidate in candidates:
        if candidate.is_rounded:
            raise UserError(
                f"Expected points without types of matrices {aim}, got {candidate.key} with some. Export it with "
                "format=gguf, and serve that file with llama.cpp."
            )


def _landmark(frame: pd.DataFrame, name: str, advice: Advice) -> pd.Series:
    """The recommended, the smallest or the fastest point."""
    marks = landmarks(frame, advice)
    if name == RECOMMENDED and name not in marks and advice.trade:
        further = "Give one of these picks, or say how far it may be, such as pick='heldout_ppl<=1.5x'."
        raise UserError("\n".join([*advice.lines, further]))
    if name not in marks:
        why = "the run did not measure it"
        if is_dense(frame).all():
            why = "the front holds the dense model alone"
        elif name == RECOMMENDED and advice.known:
            why = "none is faster or smaller than the dense model by more than timings spread"
        others = "".join(f"{other}, " for other in NAMED if other in marks)
        raise UserError(
            f"pick={name}: there is no such point, {why}. "
            f"Expected {others}a limit such as {_LIMITS}, or a key of front.csv."
        )
    return frame[frame["key"] == marks[name]].iloc[0]


def _keyed(frame: pd.DataFrame, text: str) -> pd.Series:
    """The point whose key is `text` or, alone among all, starts with it."""
    keys = frame["key"].astype(str)
    hits = frame[keys == text]
    if hits.empty and len(text) >= SHORTEST_PREFIX:
        hits = frame[keys.str.startswith(text)]
    if len(hits) > 1:
        raise UserError(f"pick={text}: expected the start of one key, but {', '.join(hits['key'])} all start with it.")
    if hits.empty:
        keys_now = ", ".join(frame["key"].astype(str))
        raise UserError(
            f"pick={text}: that names no point. Expected {', '.join(NAMED)}, a limit such as {_LIMITS}, or a key, "
            f"or its first {SHORTEST_PREFIX} characters or more. Keys of the front: {keys_now}."
        )
    return hits.iloc[0]


def _constrained(frame: pd.DataFrame, constraint: Constraint, objectives: Sequence[Metric]) -> pd.Series:
    """The best point that satisfies a constraint."""
    name, relation = constraint.name, constraint.relation
    if name not in _metrics(frame):
        metrics = ", ".join(_metrics(frame))
        raise UserError(f"pick={constraint}: expected a metric of the front before {relation}, one of {metrics}.")
    dense = float(dense_row(frame)[name])
    if constraint.of_dense and not (math.isfinite(dense) and dense):
        raise UserError(
            f"pick={constraint}: expected a metric that the dense model has more of than 0, to be so many times that, "
            f"but its {name} is {dense:g}. Give a number without x."
        )
    points = frame[~is_dense(frame) & frame[name].notna()]
    if points.empty:
        raise UserError(f"pick={constraint}: no pruned point of the front has a value of {name}.")
    limit, values = constraint.limit(dense), points[name].to_numpy(dtype=float)
    satisfied = points[values <= limit] if relation == "<=" else points[values >= limit]
    if satisfied.empty:
        nearest = points.iloc[int(values.argmin() if relation == "<=" else values.argmax())]
        said = ("", "")
        if constraint.of_dense:
            said = (f" ({constraint.value:g} × dense)", f" ({nearest[name] / dense:.3f} × dense)")
        raise UserError(
            f"No pruned point of the front has {name}{relation}{_said(limit)}{said[0]}; "
            f"the nearest has {_said(float(nearest[name]))}{said[1]}: pick={nearest['key']}."
        )
    column, sign = _preference(frame, name, objectives)
    preference = sign * satisfied[column].to_numpy(dtype=float)
    if np.isnan(preference).all():
        return satisfied.iloc[0]
    return satisfied.iloc[int(np.nanargmin(preference))]


def _preference(frame: pd.DataFrame, constrained: str, objectives: Sequence[Metric]) -> tuple[str, float]:
    """What to ask of the points that satisfy a constraint: a column, and 1 to want it low or -1 high."""
    costs = [m for m in objectives if m.is_cost and m.name in frame]
    quality = quality_column(frame)
    if constrained in {m.name for m in (*METRICS, *costs) if m.is_cost} and quality is not None:
        return quality, 1.0
    fastest = latency_column(frame)
    if fastest is not None:
        return fastest, 1.0
    if costs:
        return costs[0].name, 1.0 if costs[0].goal == "min" else -1.0
    return constrained, 1.0


def _metrics(frame: pd.DataFrame) -> list[str]:
    """The columns that a constraint may speak of."""
    return [name for name in frame.columns if pd.api.types.is_numeric_dtype(frame[name])]


def _said(value: float) -> str:
    """A value as one reads it: all digits of a count, six of a measurement."""
    return f"{value:.0f}" if abs(value) >= 1e5 else f"{value:.6g}"
