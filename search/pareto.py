"""Pareto geometry as pure functions on arrays of shape (points, objectives); every objective is minimised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import moocore
import numpy as np
import numpy.typing as npt

from evaluators.base import Metric

Floats = npt.NDArray[np.float64]


def minimised(rows: Sequence[Mapping[str, float]], metrics: Sequence[Metric]) -> Floats:
    """The metrics of some points as an array to minimise: those with goal `max` change their sign.

    Args:
        rows: Metric values of each point, as in `Evaluation.values`.
        metrics: The columns.

    Returns:
        Shape (points, metrics), also without points.
    """
    signs = np.array([1.0 if metric.goal == "min" else -1.0 for metric in metrics])
    values = np.array([[row[metric.name] for metric in metrics] for row in rows], dtype=np.float64)
    return np.multiply(values.reshape(len(rows), len(metrics)), signs)


def non_dominated(values: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which points no other point dominates; of equal points the first one alone is marked.

    Args:
        values: Shape (points, objectives).

    Returns:
        Shape (points,).
    """
    points = _points(values)
    if len(points) == 0:
        return np.zeros(0, dtype=np.bool_)
    return np.asarray(moocore.is_nondominated(points), dtype=np.bool_)


def hypervolume(values: npt.ArrayLike, reference: npt.ArrayLike) -> float:
    """Volume that the points dominate below a reference point; points that are not below it add nothing.

    Args:
        values: Shape (points, objectives).
        reference: Shape (objectives,).
    """
    points = _points(values)
    reference = np.asarray(reference, dtype=np.float64)
    inside = points[(points < reference).all(axis=1)]
    return float(moocore.hypervolume(inside, ref=reference)) if len(inside) else 0.0


def reference_point(values: npt.ArrayLike) -> Floats:
    """A reference for `hypervolume`: beyond the worst value of each objective on the front by a tenth of its size.

    Args:
        values: Shape (points, objectives), at least one point.

    Returns:
        Shape (objectives,): 1.1 times the worst where that is positive; 0.1 where it is 0.
    """
    points = _points(values)
    worst = points[non_dominated(points)].max(axis=0)
    margin = 0.1 * np.abs(worst)
    return np.asarray(worst + np.where(margin > 0, margin, 0.1), dtype=np.float64)


def spread_subset(values: npt.ArrayLike, count: int) -> npt.NDArray[np.intp]:
    """Choose points that cover a front: each objective's best one, then repeatedly the one farthest from all chosen.

    Distances are taken with every objective scaled to 0..1 (the farthest-point heuristic of Gonzalez, "Clustering to
    minimize the maximum intercluster distance", 1985, which is within a factor 2 of the best cover).

    Args:
        values: Shape (points, objectives): the points of a front.
        count: How many to choose; all points when there are fewer.

    Returns:
        Rows in ascending order. Equal input gives equal output; ties go to the lower row.
    """
    points = _points(values)
    if count < 0:
        raise ValueError(f"spread_subset: expected a count of at least 0, got {count}.")
    if count >= len(points):
        return np.arange(len(points))
    scaled = _scaled(points)
    chosen: list[int] = []
    for extreme in scaled.argmin(axis=0).tolist():
        if extreme not in chosen and len(chosen) < count:
            chosen.append(extreme)
    while len(chosen) < count:
        distance = np.linalg.norm(scaled[:, None] - scaled[None, chosen], axis=2).min(axis=1)
        distance[chosen] = -1.0
        chosen.append(int(distance.argmax()))
    return np.array(sorted(chosen), dtype=np.intp)


def ranks(values: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Of each point, how many fronts must be taken away before it is on the front (non-dominated sorting).

    Args:
        values: Shape (points, objectives).

    Returns:
        Shape (points,); 0 for the front. Of equal points the later one ranks behind the first.
    """
    points = _points(values)
    rank = np.zeros(len(points), dtype=np.int64)
    left = np.arange(len(points))
    depth = 0
    while len(left):
        mask = non_dominated(points[left])
        rank[left[mask]] = depth
        left = left[~mask]
        depth += 1
    return rank


def fill_front(values: npt.ArrayLike, front: npt.ArrayLike, reference: npt.ArrayLike, count: int) -> list[int]:
    """Points that together add most hypervolume to a front: greedily, each the best beside those chosen before it.

    The greedy choice is within 1 - 1/e of the best one, as hypervolume is submodular (Ulrich and Thiele, "Bounding the
    effectiveness of hypervolume-based (mu + lambda)-archiving algorithms", 2012).

    Args:
        values: Shape (points, objectives).
        front: The front so far, shape (others, objectives).
        reference: Shape (objectives,).
        count: How many to choose at most; points that add nothing are not chosen.

    Returns:
        Rows of `values`, in the order of choice.
    """
    points, taken = _points(values), _points(front)
    volume = hypervolume(taken, reference)
    chosen: list[int] = []
    left = list(range(len(points)))
    while left and len(chosen) < count:
        gains = [hypervolume(np.vstack([taken, points[index]]), reference) - volume for index in left]
        best = int(np.argmax(gains))
        if gains[best] <= 0:
            break
        volume += gains[best]
        index = left.pop(best)
        chosen.append(index)
        taken = np.vstack([taken, points[index]])
    return chosen


def _scaled(points: Floats) -> Floats:
    """Each column mapped to 0..1; a column of equal values becomes 0."""
    low = points.min(axis=0)
    span = points.max(axis=0) - low
    return np.asarray((points - low) / np.where(span > 0, span, 1.0), dtype=np.float64)


def _points(values: npt.ArrayLike) -> Floats:
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] == 0:
        raise ValueError(f"Expected values of shape (points, objectives), got shape {points.shape}.")
    if not np.isfinite(points).all():
        raise ValueError("Expected finite objective values, got NaN or infinity; leave failed points out.")
    return points
