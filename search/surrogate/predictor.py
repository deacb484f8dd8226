"""Surrogates: what a candidate's quality will be, from features of its genes, and how sure that is.

A linear trend over sums of blocks comes first; every row of `ROWS` is one kind of regression, behind the same protocol,
of what the trend leaves. `auto` cross-validates them all, by Kendall's tau, and takes the best: a search needs to know
which of two candidates is better, before it needs to know by how much. That is dear beside a fit, and is done again
only when much more is known.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RBFInterpolator
from scipy.spatial.distance import cdist
from scipy.stats import kendalltau
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel
from sklearn.linear_model import BayesianRidge
from sklearn.neural_network import MLPRegressor

from search.pareto import Floats
from search.surrogate.features import Described
from space.errors import UserError

FOLDS = 5
MUCH_MORE = 1.5  # times the values that rows were compared on: then they are compared again


class Predictor(Protocol):
    """A regression on centred features `(candidates, features)` and values `(candidates,)`."""

    def fit(self, features: Floats, values: Floats) -> None:
        """Learns from scratch."""
        ...

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each value, both `(candidates,)`."""
        ...

    def sibling(self) -> Predictor:
        """One that has learned nothing, for cross-validation; what `fit` has tuned is kept."""
        ...

    @property
    def tunes(self) -> bool:
        """Whether `fit` tunes settings, so that it has to come before cross-validation."""
        ...


class Ridge:
    """Bayesian linear regression: additive in the features."""

    tunes = False

    def fit(self, features: Floats, values: Floats) -> None:
        """See `Predictor`."""
        self._model = BayesianRidge().fit(features, values)

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """See `Predictor`."""
        mean, deviation = self._model.predict(features, return_std=True)
        return mean, deviation

    def sibling(self) -> Ridge:
        """See `Predictor`."""
        return Ridge()


class GaussianProcess:
    """A Matérn-5/2 process with noise; one length scale for all features."""

    tunes = True

    def __init__(self, kernel: Kernel | None = None) -> None:
        first = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(10.0, (1.0, 1e3), nu=2.5) + WhiteKernel(0.1, (1e-6, 1.0))
        optimizer = "fmin_l_bfgs_b" if kernel is None else None
        self._process = GaussianProcessRegressor(kernel or first, optimizer=optimizer, normalize_y=True)

    def fit(self, features: Floats, values: Floats) -> None:
        """See `Predictor`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a scale at its bound is a fine answer
            self._process.fit(features, values)

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """See `Predictor`."""
        mean, deviation = self._process.predict(features, return_std=True)
        return mean, deviation

    def sibling(self) -> GaussianProcess:
        """See `Predictor`."""
        return GaussianProcess(self._process.kernel_)


class RadialBasis:
    """Cubic radial basis functions with a linear tail (Powell 1992; as in RBFOpt), smoothed against noise.

    The deviation grows with the distance to the nearest known candidate, scaled to the spread of the values.
    """

    tunes = False

    def __init__(self, smoothing: float = 10.0) -> None:
        self._smoothing = smoothing

    def fit(self, features: Floats, values: Floats) -> None:
        """See `Predictor`."""
        self._centre = features.mean(0)
        _, spread, axes = np.linalg.svd(features - self._centre, full_matrices=False)
        varied = int((spread > 1e-9 * max(float(spread.max(initial=0.0)), 1.0)).sum())
        self._axes = axes[: min(varied, max(1, len(features) // 4))]  # the linear tail needs more points than axes
        self._points = self._project(features)
        self._mean = float(np.mean(values))
        self._interpolator = None
        if len(self._axes):
            self._interpolator = RBFInterpolator(
                self._points, values, smoothing=self._smoothing, kernel="cubic", degree=1
            )
        distances = cdist(self._points, self._points)
        self._reach = max(float(np.median(distances[distances > 0])) if (distances > 0).any() else 1.0, 1e-12)
        self._spread = float(np.std(values))

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """See `Predictor`."""
        points = self._project(features)
        nearest = cdist(points, self._points).min(1)
        mean = np.full(len(points), self._mean) if self._interpolator is None else self._interpolator(points)
        return mean, self._spread * np.minimum(1.0, nearest / self._reach)

    def sibling(self) -> RadialBasis:
        """See `Predictor`."""
        return RadialBasis(self._smoothing)

    def _project(self, features: Floats) -> Floats:
        return np.asarray((features - self._centre) @ self._axes.T)


class _Ensemble:
    """The mean and the disagreement of several models, each of its own seed."""

    tunes = False

    def __init__(self, members: int = 3) -> None:
        self._members = members

    def _member(self, seed: int) -> GradientBoostingRegressor | MLPRegressor:
        raise NotImplementedError

    def fit(self, features: Floats, values: Floats) -> None:
        """See `Predictor`."""
        self._shift, self._scale = float(values.mean()), float(values.std()) or 1.0
        scaled = (values - self._shift) / self._scale
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are limited on purpose
            self._models = [self._member(seed).fit(features, scaled) for seed in range(self._members)]

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """See `Predictor`."""
        each = np.stack([model.predict(features) for model in self._models]) * self._scale + self._shift
        return each.mean(0), each.std(0)

    def sibling(self) -> Predictor:
        """See `Predictor`."""
        return type(self)(members=1)


class BoostedTrees(_Ensemble):
    """Gradient-boosted trees (Friedman 2001), subsampled."""

    def _member(self, seed: int) -> GradientBoostingRegressor:
        return GradientBoostingRegressor(
            n_estimators=150, max_depth=3, subsample=0.7, max_features=0.3, learning_rate=0.1, random_state=seed
        )


class MLPEnsemble(_Ensemble):
    """Small multi-layer perceptrons."""

    def _member(self, seed: int) -> MLPRegressor:
        return MLPRegressor(hidden_layer_sizes=(32,), solver="lbfgs", alpha=1.0, max_iter=150, random_state=seed)


ROWS: Mapping[str, Callable[[], Predictor]] = {
    "ridge": Ridge,
    "trees": BoostedTrees,
    "gp": GaussianProcess,
    "rbf": RadialBasis,
    "mlp": MLPEnsemble,
}


class Trend:
    """A linear trend over sums of blocks, and on what it leaves, a row of `ROWS` over the blocks themselves.

    The trend says how a design of a size that nobody has seen will do, where a flexible regression would fall back to
    the mean; the regression learns which blocks the trend gets wrong.
    """

    def __init__(self, model: Predictor) -> None:
        self._model = model

    def fit(self, features: Described, target: Floats) -> None:
        """Learns from scratch, from the features of candidates and values `(candidates,)`."""
        sums, blocks = features
        self._mean, deviation = sums.mean(0), sums.std(0)
        self._used = deviation > 1e-12  # features that never varied say nothing
        self._deviation = deviation[self._used]
        self._centre, self._scale = blocks.mean(0), max(float(blocks.std(0).mean()), 1e-12)  # one scale for all blocks
        self._trend = BayesianRidge().fit(self._sums(sums), target)
        self._model.fit(self._blocks(blocks), target - self._trend.predict(self._sums(sums)))

    def predict(self, features: Described) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each value; the trend itself is taken to be certain."""
        mean, deviation = self._model.predict(self._blocks(features.blocks))
        return self._trend.predict(self._sums(features.sums)) + mean, deviation

    @property
    def tunes(self) -> bool:
        """See `Predictor`."""
        return self._model.tunes

    def sibling(self) -> Trend:
        """See `Predictor`."""
        return Trend(self._model.sibling())

    def _sums(self, sums: Floats) -> Floats:
        return np.asarray((sums - self._mean)[:, self._used] / self._deviation)

    def _blocks(self, blocks: Floats) -> Floats:
        return (blocks - self._centre) / self._scale


class Surrogate:
    """A `Trend` with one row of `ROWS`, or with the best of them on what is known so far.

    Values that are all positive and span more than a decade are learned as logarithms.

    Attributes:
        chosen: The row in use; empty before the first fit.
        taus: Kendall's tau of the cross-validated predictions of each row that was tried, when they were compared.
    """

    def __init__(self, predictor: str = "auto") -> None:
        """Learns nothing yet.

        Args:
            predictor: A row of `ROWS`, or `auto`.

        Raises:
            UserError: There is no such row.
        """
        if predictor != "auto" and predictor not in ROWS:
            raise UserError(f"predictor: expected auto or one of {', '.join(ROWS)}, got {predictor!r}.")
        self._rows = tuple(ROWS) if predictor == "auto" else (predictor,)
        self.chosen = ""
        self.taus: dict[str, float] = {}
        self._compared = 0
        self._log = False

    def fit(self, features: Described, values: npt.ArrayLike) -> None:
        """Learns, from the features of candidates and their values `(candidates,)`, and now and then chooses a row."""
        measured = np.asarray(values, dtype=np.float64)
        logarithms, self._log = self._log, bool(measured.min() > 0 and measured.max() > 10 * measured.min())
        target = np.log(measured) if self._log else measured
        if logarithms == self._log and len(target) < MUCH_MORE * self._compared:
            self._model = Trend(ROWS[self.chosen]())
            self._model.fit(features, target)
            return
        self._compared = len(target)
        models = {row: Trend(ROWS[row]()) for row in self._rows}
        for model in models.values():
            if model.tunes:
                model.fit(features, target)
        self.taus = {row: _cross_validated(model, features, target) for row, model in models.items()}
        self.chosen = max(self.taus, key=lambda row: self.taus[row])
        self._model = models[self.chosen]
        if not self._model.tunes:
            self._model.fit(features, target)

    def predict(self, features: Described) -> tuple[Floats, Floats]:
        """Means and standard deviations, both `(candidates,)`; of a logarithm's, the values one deviation apart."""
        mean, deviation = self._model.predict(features)
        if not self._log:
            return mean, deviation
        value = np.exp(np.clip(mean, -50, 50))
        return value, value * np.expm1(np.minimum(deviation, 10.0))


def _cross_validated(model: Trend, features: Described, target: Floats) -> float:
    """Kendall's tau between values and what is predicted of them from the other folds; -1 where that is undefined."""
    if len(target) < 2 * FOLDS:
        return -1.0
    fold = np.arange(len(target)) % FOLDS
    predicted = np.empty_like(target)
    for number in range(FOLDS):
        fresh, rest, own = model.sibling(), fold != number, fold == number
        fresh.fit(Described(*(part[rest] for part in features)), target[rest])
        predicted[own], _ = fresh.predict(Described(*(part[own] for part in features)))
    tau = float(kendalltau(predicted, target).statistic)
    return tau if tau == tau else -1.0
