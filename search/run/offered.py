"""Which points of a front are offered: confirmed on held-out text and end to end, told apart, within reach."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from evaluators.base import SPREAD, Evaluation, Metric
from evaluators.metrics import divergence_in, judged_in
from search.pareto import minimised, spread_subset
from search.run.front import deciding, is_dense, objective_values
from search.run.recommended import QUALITY, Recommend, rises
from space.candidate import Candidate


def thinned(
    front: Sequence[Evaluation],
    objectives: Sequence[Metric],
    dense: Candidate,
    points: int,
    recommend: Recommend,
    nll: float = 0.0,
) -> list[Evaluation]:
    """At most so many members of a front, most of them where people pick; the dense model is none.

    The search's divergence, or the rise of its own loss, stands in for the held-out one, not known yet. Members beyond
    `recommend.most` are left out unless there are no others. The rest is covered evenly in log(1 + rise /
    `recommend.rise`): up to the rise that a person would take in equal steps, beyond it in equal ratios, as what is
    half as good again is another offer wherever one stands. With the defaults, 6 of 10 lie below a rise of 0.5. Two
    objectives rise and fall together along a front, so that the rise alone says where a member is; where there are
    three, the costs count too.

    Args:
        front: Evaluations with a divergence, or with `nll` alone.
        objectives: What the front is about.
        dense: The dense model.
        points: How many at most.
        recommend: What is offered.
        nll: The dense model's.
    """

    def lost(values: Mapping[str, float]) -> float:
        divergence = divergence_in(values)
        return values["nll"] - nll if divergence is None else values[divergence]

    members = [evaluation for evaluation in front if evaluation.candidate.key != dense.key]
    near = [evaluation for evaluation in members if lost(evaluation.values) <= recommend.most] or members
    if len(near) <= points:
        return near
    rise = np.log1p([max(0.0, lost(evaluation.values)) / recommend.rise for evaluation in near])
    others = [metric for metric in objectives if metric.role != "quality"] if len(objectives) > 2 else []
    places = np.column_stack([rise, minimised([evaluation.values for evaluation in near], others)])
    return [near[index] for index in spread_subset(places, points)]


def within(frame: pd.DataFrame, most: float) -> pd.DataFrame:
    """The rows with a rise of at most `most` nats a token, and the dense model; all where that leaves no other."""
    near = rises(frame) <= most
    return frame[near].reset_index(drop=True) if (near & ~is_dense(frame)).any() else frame


def confirmed(frame: pd.DataFrame, objectives: Sequence[Metric]) -> pd.DataFrame:
    """The points that are worth having beside one another and beside the dense model, and the dense model.

    The search's quality objectives give way to what points are judged by, such as `heldout_ppl`, the others stay. From
    the best quality on, each point is kept that is better in some objective than every point kept before it, and in
    some cost than the dense model. Where a column says by how much an objective's values spread, better is by more than
    both spreads: of two points that timings do not tell apart, the one of better quality stays. In a chain of points of
    which each lies within the spread of the next, only those that were kept rule others out, so that its far end stays
    too. Where no point is better than the dense model in a cost, those that are told from one another stay, so that a
    person sees what there is; none is recommended then. A point without a held-out value is not confirmed.
    """
    quality = judged_in(frame.columns) or QUALITY
    judged = deciding(objectives, quality)
    values = objective_values(frame, objectives, quality)
    doubt = np.stack([frame.get(f"{name}{SPREAD}", pd.Series(0.0, frame.index)).fillna(0.0) for name in judged], axis=1)
    low, high = values - doubt, values + doubt
    costs = np.array([metric.is_cost for metric in judged.values()])
    # a point comes behind all that may rule it out: what does not spread is compared as it is, what does breaks ties
    sharp = sorted(range(len(judged)), key=lambda column: (bool(doubt[:, column].any()), costs[column]))
    order = np.lexsort([values[:, column] for column in reversed(sharp)]).tolist()
    dense = np.flatnonzero(is_dense(frame)).tolist()

    def better(index: int, other: int, columns: np.ndarray) -> bool:
        """Whether a point is beyond doubt better than another in one of some columns."""
        return bool((high[index] < low[other])[columns].any())

    def chain(points: Sequence[int]) -> list[int]:
        kept: list[int] = []
        for index in points:
            if all(better(index, other, np.ones_like(costs)) for other in kept):
                kept.append(index)
        return kept

    finite = [index for index in order if np.isfinite(values[index]).all()]
    gained = [index for index in finite if not costs.any() or all(better(index, other, costs) for other in dense)]
    kept = chain(gained) or chain([index for index in finite if index not in dense])
    return frame.iloc[sorted({*kept, *dense})].reset_index(drop=True)
