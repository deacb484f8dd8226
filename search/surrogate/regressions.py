"""Regressions: rows of what a surrogate may be made of, behind one protocol, each as sure of a value as it says."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from scipy.interpolate import RBFInterpolator
from scipy.spatial.distance import cdist
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel
from sklearn.linear_model import BayesianRidge
from sklearn.neural_network import MLPRegressor

from search.pareto import Floats


class Regression(Protocol):
    """A regression on centred features `(candidates, features)` and values `(candidates,)`."""

    def fit(self, features: Floats, values: Floats) -> None:
        """Learns from scratch."""
        ...

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation of each value, both `(candidates,)`."""
        ...

    def sibling(self) -> Regression:
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
        """See `Regression`."""
        self._model = BayesianRidge().fit(features, values)

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """See `Regression`."""
        mean, deviation = self._model.predict(features, return_std=True)
        return mean, deviation

    def sibling(self) -> Ridge:
        """See `Regression`."""
        return Ridge()


class GaussianProcess:
    """A Matérn-5/2 process with noise; one length scale for all features."""

    tunes = True

    def __init__(self, kernel: Kernel | None = None) -> None:
        first = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(10.0, (1.0, 1e3), nu=2.5) + WhiteKernel(0.1, (1e-6, 1.0))
        optimizer = "fmin_l_bfgs_b" if kernel is None else None
        self._process = GaussianProcessRegressor(kernel or first, optimizer=optimizer, normalize_y=True)

    def fit(self, features: Floats, values: Floats) -> None:
        """See `Regression`."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a scale at its bound is a fine answer
            self._process.fit(features, values)

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """See `Regression`."""
        mean, deviation = self._process.predict(features, return_std=True)
        return mean, deviation

    def sibling(self) -> GaussianProcess:
        """See `Regression`."""
        return GaussianProcess(self._process.kernel_)


class RadialBasis:
    """Cubic radial basis functions with a linear tail (Powell 1992; as in RBFOpt), smoothed against noise.

    The deviation grows with the distance to the nearest known candidate, scaled to the spread of the values.
    """

    tunes = False

    def __init__(self, smoothing: float = 10.0) -> None:
        self._smoothing = smoothing

    def fit(self, features: Floats, values: Floats) -> None:
        """See `Regression`."""
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
        """See `Regression`."""
        points = self._project(features)
        nearest = cdist(points, self._points).min(1)
        mean = np.full(len(points), self._mean) if self._interpolator is None else self._interpolator(points)
        return mean, self._spread * np.minimum(1.0, nearest / self._reach)

    def sibling(self) -> RadialBasis:
        """See `Regression`."""
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
        """See `Regression`."""
        self._shift, self._scale = float(values.mean()), float(values.std()) or 1.0
        scaled = (values - self._shift) / self._scale
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the iterations are limited on purpose
            self._models = [self._member(seed).fit(features, scaled) for seed in range(self._members)]

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """See `Regression`."""
        each = np.stack([model.predict(features) for model in self._models]) * self._scale + self._shift
        return each.mean(0), each.std(0)

    def sibling(self) -> Regression:
        """See `Regression`."""
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


ROWS: Mapping[str, Callable[[], Regression]] = {
    "ridge": Ridge,
    "trees": BoostedTrees,
    "gp": GaussianProcess,
    "rbf": RadialBasis,
    "mlp": MLPEnsemble,
}
