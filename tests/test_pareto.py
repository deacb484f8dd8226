"""Pareto geometry against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from evaluators.base import Metric
from evaluators.metrics import metric_named
from search.pareto import (
    fill_front,
    hypervolume,
    minimised,
    non_dominated,
    ranks,
    reference_point,
    spread_subset,
)

# Small whole numbers make ties and duplicates common, and brute-force volumes exact.
GRID = st.integers(1, 3).flatmap(
    lambda objectives: arrays.arrays(
        np.float64, st.tuples(st.integers(0, 12), st.just(objectives)), elements=st.integers(-3, 4).map(float)
    )
)


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((a <= b).all() and (a < b).any())


@given(GRID)
def test_non_dominated_is_what_comparing_all_pairs_gives(values):
    expected = [
        not any(dominates(other, row) for other in values) and not any((row == first).all() for first in values[:index])
        for index, row in enumerate(values)
    ]
    assert non_dominated(values).tolist() == expected


@given(GRID, st.integers(-3, 6))
def test_hypervolume_counts_the_dominated_unit_cells(values, corner):
    reference = np.full(values.shape[1], float(corner))
    cells = itertools.product(range(-3, corner), repeat=values.shape[1])
    expected = sum(any((row <= np.array(cell)).all() for row in values) for cell in cells)
    assert hypervolume(values, reference) == pytest.approx(expected)


@given(GRID.filter(len))
def test_every_point_of_the_front_is_within_the_reference(values):
    front = values[non_dominated(values)]
    assert (front < reference_point(values)).all()


def test_reference_is_a_tenth_beyond_the_worst_of_the_front():
    values = [[1.0, -20.0], [2.0, -30.0], [9.0, 0.0]]  # the last one is dominated
    np.testing.assert_allclose(reference_point(values), [2.2, -18.0])


def test_minimised_turns_only_what_is_maximised():
    metrics = (metric_named("kl"), Metric("accuracy", "", "max", "score"))
    rows = [{"accuracy": 0.5, "kl": 1.0, "other": 7.0}, {"accuracy": 0.25, "kl": 2.0}]
    np.testing.assert_array_equal(minimised(rows, metrics), [[1.0, -0.5], [2.0, -0.25]])
    assert minimised([], metrics).shape == (0, 2)


@given(GRID, st.integers(0, 14))
def test_spread_subset_keeps_the_extremes_and_repeats_itself(values, count):
    rows = spread_subset(values, count)
    assert rows.tolist() == sorted(set(rows.tolist()))
    assert len(rows) == min(count, len(values))
    assert rows.tolist() == spread_subset(values.copy(), count).tolist()
    if values.shape[1] <= count < len(values):
        np.testing.assert_array_equal(values[rows].min(axis=0), values.min(axis=0))


def test_spread_subset_does_not_follow_the_crowd():
    crowd = np.linspace(0.0, 0.1, 50)
    first = np.concatenate([crowd, [0.5, 1.0]])
    rows = spread_subset(np.stack([first, 1.0 - first], axis=1), 3)
    assert rows.tolist() == [0, 50, 51]


@pytest.mark.parametrize("function", [non_dominated, reference_point, lambda values: spread_subset(values, 1)])
def test_values_that_are_not_numbers_are_refused(function):
    with pytest.raises(ValueError, match="leave failed points out"):
        function([[1.0, float("nan")]])
    with pytest.raises(ValueError, match="points, objectives"):
        function([1.0, 2.0])


@given(GRID)
def test_ranks_peel_one_front_after_the_other(values):
    rank = ranks(values)
    left = np.arange(len(values))
    for depth in range(len(values)):
        front = left[non_dominated(values[left])] if len(left) else left
        assert sorted(front) == sorted(np.flatnonzero(rank == depth))
        left = np.setdiff1d(left, front)
    assert len(left) == 0


def test_fill_front_takes_the_largest_gain_first_and_stops_when_there_is_none():
    front = np.array([[0.0, 4.0], [4.0, 0.0]])
    points = np.array([[3.0, 3.0], [1.0, 1.0], [5.0, 5.0], [2.0, 0.5], [1.0, 1.0]])
    assert fill_front(points, front, [5.0, 5.0], 5) == [1, 3]
    assert fill_front(points, front, [5.0, 5.0], 1) == [1]
    assert fill_front(points[:0], front, [5.0, 5.0], 3) == []
