"""Surrogates: what a candidate's quality will be, from features of its genes, and how sure that is.

A linear trend over sums of blocks comes first; every row of `ROWS` is one kind of regression, behind the same protocol,
of what the trend leaves. `auto` cross-validates them all, by Kendall's tau, and takes the best: a search needs to know
which of two candidates is better, before it needs to know by how much. That is dear beside a fit, and is done again
only when much more is known.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.stats import kendalltau
from sklearn.linear_model import BayesianRidge

from search.pareto import Floats
from search.surrogate.features import Described
from search.surrogate.regressions import ROWS, Regression
from space.errors import UserError

FOLDS = 5
MUCH_MORE = 1.5  # times the values that rows were compared on: then they are compared again


class Trend:
    """A linear trend over sums of blocks, and on what it leaves, a row of `ROWS` over the blocks themselves.

    The trend says how a design of a size that nobody has seen will do, where a flexible regression would fall back to
    the mean; the regression learns which blocks the trend gets wrong.
    """

    def __init__(self, model: Regression) -> None:
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
        """See `Regression`."""
        return self._model.tunes

    def sibling(self) -> Trend:
        """See `Regression`."""
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
