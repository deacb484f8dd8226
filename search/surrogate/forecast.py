"""What each fidelity will say of a design: a surrogate for every learned objective, each fidelity's on the one below.

A dear fidelity has few answers, a cheap one many. So the surrogate of a fidelity sees, beside the design, what that of
the next cheaper one says of it, and learns the difference: the autoregressive scheme of Kennedy and O'Hagan,
"Predicting the output from a complex computer code when fast approximations are available", Biometrika 87(1), 2000.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from evaluators.base import Evaluation, Metric
from evaluators.metrics import ALIKE as OF_DIVERGENCES
from evaluators.metrics import DIVERGENCES
from search.pareto import Floats, minimised
from search.surrogate.features import BlockFeatures, Described
from search.surrogate.predictor import Surrogate
from search.tables import Genes, Table
from space.candidate import Candidate
from space.space import SearchSpace

FEWEST = 10  # answers of a fidelity to learn from
ALIKE = 0.1  # of a learned metric that is no divergence: below this, designs are about equally good


class Forecast:
    """Objectives of designs at every fidelity: learned where they cost tokens, read from tables where they do not.

    Attributes:
        learned: The objectives that cost tokens.
        priced: The others.
    """

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Metric],
        tables: Mapping[str, Table],
        fidelities: int,
        predictor: str,
    ) -> None:
        """Learns nothing yet.

        Args:
            space: The genes.
            objectives: All objectives.
            tables: The priced ones among them, by name.
            fidelities: How many fidelities there are.
            predictor: See `search.surrogate.predictor.Surrogate`.
        """
        self._space = space
        self._objectives = tuple(objectives)
        self._tables = tables
        self.learned = [metric for metric in objectives if not metric.free]
        self.priced = [metric for metric in objectives if metric.free]
        self._surrogates = [{metric.name: Surrogate(predictor) for metric in self.learned} for _ in range(fidelities)]
        # of each fidelity, how many answers there were for it and each one below when it was last fit
        self._answers: list[tuple[int, ...]] = [()] * fidelities
        self._genes: dict[str, Genes] = {}  # of every design that was asked about, by key: encoded once

    def describe_by(self, features: BlockFeatures) -> None:
        """Sets what surrogates see of a design."""
        self._features = features

    def fit(self, fidelity: int, evaluations: Sequence[Evaluation]) -> None:
        """Learns anew from all answers of a fidelity, when there are enough, and more here or below than the last time.

        The fidelities below are to be fit first.
        """
        genes = self.genes(evaluations)
        pruned = (genes < self._space.levels - 1).any(1)  # dense diverges by 0, which has no logarithm
        answers = (int(pruned.sum()), *(self._answers[fidelity - 1] if fidelity else ()))
        if answers[0] < (FEWEST if fidelity else 1) or answers == self._answers[fidelity]:
            return
        self._answers[fidelity] = answers
        described = self._described(genes[pruned], fidelity)
        for metric in self.learned:
            values = np.array([e.values[metric.name] for e in evaluations])
            self._surrogates[fidelity][metric.name].fit(described, values[pruned])

    def knows(self, fidelity: int) -> bool:
        """Whether this fidelity's surrogates have learned anything."""
        return bool(self._answers[fidelity])

    def surrogate(self, metric: Metric, fidelity: int) -> Surrogate:
        """The surrogate of a learned objective at a fidelity."""
        return self._surrogates[fidelity][metric.name]

    def values(self, genes: Genes, fidelity: int) -> Floats:
        """Expected objectives of designs at a fidelity that is known, to be minimised, `(designs, objectives)`."""
        described = self._described(genes, fidelity)
        columns = []
        for metric in self._objectives:
            if metric in self.learned:
                values, _ = self._surrogates[fidelity][metric.name].predict(described)
            else:
                values = self._tables[metric.name].total(genes)
            columns.append(values if metric.goal == "min" else -values)
        return np.stack(columns, axis=-1)

    def truth(self, evaluations: Sequence[Evaluation]) -> Floats:
        """Measured objectives, to be minimised, `(evaluations, objectives)`."""
        return minimised([e.values for e in evaluations], self._objectives)

    def evened(self, values: Floats) -> Floats:
        """Objectives with the learned ones, which are not negative, as logarithms of themselves and `ALIKE`.

        So all of a front counts about alike: neither its worst end, nor the many designs that differ little from dense.
        """
        columns = [
            np.log(np.maximum(column, 0.0) + OF_DIVERGENCES.get(metric.name, ALIKE))
            if metric in self.learned and metric.goal == "min"
            else column
            for metric, column in zip(self._objectives, values.T, strict=True)
        ]
        return np.stack(columns, axis=-1)

    def wanted(self, values: Floats, most: float) -> NDArray[np.bool_]:
        """Which designs are not too far from the dense model for anybody to pick them; all where that holds for none.

        Args:
            values: As `values` gives them.
            most: The largest divergence, in nats a token; other objectives have no limit.
        """
        columns = [metric.name in DIVERGENCES for metric in self._objectives]
        near = np.asarray((values[:, columns] <= most).all(axis=1))
        return near if near.any() else np.ones_like(near)

    def place_of(self, metric: Metric) -> int:
        """The column of an objective."""
        return self._objectives.index(metric)

    def learned_part(self, values: Floats) -> Floats:
        """The columns of the learned objectives alone."""
        return np.asarray(values[:, [metric in self.learned for metric in self._objectives]])

    def named(self, values: Floats) -> dict[str, float]:
        """The learned objectives of one design by name, from a row of `values`."""
        signs = [1.0 if metric.goal == "min" else -1.0 for metric in self._objectives]
        pairs = zip(self._objectives, signs, values, strict=True)
        return {metric.name: float(sign * value) for metric, sign, value in pairs if metric in self.learned}

    def genes(self, evaluations: Sequence[Evaluation]) -> Genes:
        """Of evaluated designs, `(evaluations, genes)`."""
        rows = [self._encoded(e.candidate) for e in evaluations]
        return np.stack(rows) if rows else self._space.levels[None][:0]

    def _encoded(self, candidate: Candidate) -> Genes:
        if candidate.key not in self._genes:
            self._genes[candidate.key] = self._space.encode(candidate)
        return self._genes[candidate.key]

    def _described(self, genes: Genes, fidelity: int) -> Described:
        described = self._features(genes)
        if fidelity == 0 or not self.knows(fidelity - 1):
            return described
        below = self.learned_part(self.evened(self.values(genes, fidelity - 1)))
        return Described(np.hstack([described.sums, below]), described.blocks)
