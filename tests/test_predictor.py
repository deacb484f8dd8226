"""Each surrogate learns what it should, says how sure it is, and the best one is taken."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from search.surrogate.features import Described
from search.surrogate.predictor import Surrogate, Trend
from search.surrogate.regressions import ROWS
from space.errors import UserError


def problem(count: int, seed: int, shift: float = 0.0) -> tuple[Described, np.ndarray]:
    """Positive values over three decades, mostly additive in the logarithm, of ten blocks that differ in weight.

    The sums are that of all blocks, which explains a part, and one that never changes.
    """
    rng = np.random.default_rng(seed)
    blocks = rng.uniform(0, 1, (count, 10)) + shift
    weights = np.random.default_rng(1).uniform(-1, 3, 10)
    values = np.exp(blocks @ weights + 1.5 * blocks[:, 0] * blocks[:, 1])
    return Described(np.stack([blocks.sum(1), np.full(count, 7.0)], 1), blocks), values


@pytest.mark.parametrize("row", [*ROWS, "auto"])
def test_unseen_candidates_are_ranked_and_valued(row: str) -> None:
    surrogate = Surrogate(row)
    surrogate.fit(*problem(120, seed=2))
    features, values = problem(200, seed=3)
    mean, deviation = surrogate.predict(features)
    assert mean.shape == deviation.shape == (200,)
    assert kendalltau(mean, values).statistic > 0.75
    assert np.median(np.abs(np.log(mean / values))) < 0.5
    assert (deviation >= 0).all()
    assert surrogate.chosen in ROWS
    assert surrogate.taus[surrogate.chosen] == max(surrogate.taus.values()) > 0.75


def test_auto_takes_the_row_that_fits() -> None:
    rng = np.random.default_rng(0)
    blocks = rng.uniform(-1, 1, (80, 6))
    surrogate, again = Surrogate(), Surrogate()
    features = Described(blocks.sum(1, keepdims=True), blocks)
    values = blocks @ np.array([5.0, -3.0, 2.0, 1.0, 0.5, 4.0]) + 1e-3 * rng.normal(size=80)
    for each in (surrogate, again):
        each.fit(features, values)
    assert set(surrogate.taus) == set(ROWS)
    assert surrogate.chosen in ("ridge", "gp", "rbf")  # those that hold a linear function
    assert surrogate.taus["trees"] < surrogate.taus["ridge"]
    assert again.taus == surrogate.taus  # the same in a run that goes on
    assert np.array_equal(again.predict(features), surrogate.predict(features))


def test_rows_are_compared_again_when_much_more_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def tau(model: Trend, features: Described, target: np.ndarray) -> float:
        compared.append(len(target))
        return {ROWS["gp"]: 1.0, ROWS["ridge"]: len(target) / 20}.get(type(model._model), 0.0)

    monkeypatch.setattr("search.surrogate.predictor._cross_validated", tau)
    surrogate = Surrogate()
    for count, chosen in ((12, "gp"), (17, "gp"), (18, "gp"), (26, "gp"), (27, "ridge")):
        surrogate.fit(*problem(count, seed=2))
        assert surrogate.chosen == chosen
    assert compared == [12] * 5 + [18] * 5 + [27] * 5
    few, values = problem(27, seed=2)
    surrogate.fit(few, values - values.min())  # no logarithms of these
    assert len(compared) == 20


def test_the_trend_reaches_beyond_what_is_known_and_blocks_add_to_it() -> None:
    features, values = problem(100, seed=7)
    far, far_values = problem(50, seed=8, shift=1.0)
    surrogate = Surrogate("trees")  # which alone would say the mean of what it knows
    surrogate.fit(features, values)
    assert surrogate.predict(far)[0].min() > np.median(values)
    assert far_values.min() > np.median(values)
    alone = Surrogate("trees")
    alone.fit(Described(features.sums, np.zeros_like(features.blocks)), values)
    mean, _ = alone.predict(Described(features.sums, np.zeros_like(features.blocks)))
    off = [np.abs(np.log(guess / values)).mean() for guess in (mean, surrogate.predict(features)[0])]
    assert off[1] < off[0] / 2


@pytest.mark.parametrize("row", ["gp", "rbf"])
def test_far_candidates_are_less_certain(row: str) -> None:
    features, values = problem(60, seed=4)
    surrogate = Surrogate(row)
    surrogate.fit(features, np.log(values))
    near, far = surrogate.predict(features)[1], surrogate.predict(problem(60, seed=4, shift=10.0)[0])[1]
    assert far.min() > 2 * np.median(near)


def test_values_that_are_not_positive_are_learned_as_they_are() -> None:
    features, values = problem(60, seed=5)
    surrogate = Surrogate("ridge")
    surrogate.fit(features, np.log(values) - 3.0)
    mean, _ = surrogate.predict(features)
    assert mean.min() < 0
    np.testing.assert_allclose(mean, np.log(values) - 3.0, atol=0.5)


@pytest.mark.parametrize("row", ROWS)
def test_few_candidates_and_equal_values_are_no_error(row: str) -> None:
    features, values = problem(4, seed=6)
    surrogate = Surrogate(row)
    surrogate.fit(features, values)
    assert np.isfinite(surrogate.predict(features)[0]).all()
    surrogate.fit(features, np.full(4, 2.0))
    np.testing.assert_allclose(surrogate.predict(features)[0], 2.0, rtol=1e-3)
    alike = Described(features.sums, np.zeros_like(features.blocks))  # blocks that say nothing
    surrogate.fit(alike, values)
    assert np.isfinite(surrogate.predict(alike)[0]).all()


def test_an_unknown_row_is_refused() -> None:
    with pytest.raises(UserError, match="auto or one of ridge"):
        Surrogate("oracle")
