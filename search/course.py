"""The course of a search: counts, front and hypervolume as a fold over its evaluations, as they are made or read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evaluators.base import Evaluation, Metric
from search.pareto import Floats, hypervolume, minimised, non_dominated, reference_point

Curve = list[tuple[int, float]]  # tokens, and a value


class Course:
    """What follows from the evaluations of a search so far, in their order, and from nothing else.

    Whoever adds the evaluations of an archive gets the numbers that the loop had when it made them. Evaluations that no
    generation asked for come after the search: they count for nothing.

    Attributes:
        objectives: What the front is about.
        counts: Evaluations so far by fidelity, cheapest first.
        generation: Of the last evaluation, from 1.
        failed: Evaluations that failed.
        tokens: Tokens sent through candidates.
        seconds: Time that the evaluations took.
        fidelity: Whose the front is: the dearest one with an answer that succeeded.
        front: The evaluations of this fidelity that no other dominates.
    """

    def __init__(self, objectives: Sequence[Metric], fidelities: Sequence[str]) -> None:
        """Nothing has happened yet.

        Args:
            objectives: What the front is about.
            fidelities: Those of the search, cheapest first.

        Raises:
            ValueError: There is no fidelity.
        """
        if not fidelities:
            raise ValueError("Course: expected at least 1 fidelity, got none.")
        self.objectives = tuple(objectives)
        self.counts = dict.fromkeys(fidelities, 0)
        self.generation = 0
        self.failed = 0
        self.tokens = 0
        self.seconds = 0.0
        self.fidelity = fidelities[0]
        self.front: list[Evaluation] = []
        self._values = np.empty((0, len(self.objectives)))  # of the front, to be minimised
        self._over = False  # whether the generation has ended, as far as is known
        # What the generations before this one have led to.
        self._reference: Floats | None = None
        self._volumes: list[float] = []
        self._curves: dict[str, Curve] = {}
        self._done_before = 0

    @property
    def done(self) -> int:
        """Evaluations at the full fidelity, the dearest one."""
        return [*self.counts.values()][-1]

    @property
    def reference(self) -> Floats | None:
        """Below it is the hypervolume: the worst of the front at the end of the first generation that had one."""
        if self._reference is None and self._over and self.front:
            return reference_point(self._values)
        return self._reference

    @property
    def hypervolume(self) -> float | None:
        """The front's; None before its reference is fixed."""
        reference = self.reference
        return None if reference is None else hypervolume(self._values, reference)

    @property
    def volumes(self) -> list[float]:
        """Hypervolumes at the ends of the generations with evaluations at the full fidelity."""
        volume = self.hypervolume if self._over and self.done > self._done_before else None
        return self._volumes if volume is None else [*self._volumes, volume]

    @property
    def curves(self) -> dict[str, Curve]:
        """By fidelity, cheapest first: tokens and hypervolume at the ends of its generations, and now.

        Each has a reference of its own, so that the hypervolumes of two fidelities cannot be compared.
        """
        curves = {name: [*self._curves[name]] for name in self.counts if name in self._curves}
        volume = self.hypervolume
        if volume is not None:
            curve = curves.setdefault(self.fidelity, [])
            if not curve or curve[-1][0] < self.tokens:
                curve.append((self.tokens, volume))
        return curves

    def add(self, evaluation: Evaluation) -> None:
        """Takes one more evaluation in; values of different fidelities are never in one front.

        Raises:
            ValueError: The search has no such fidelity.
        """
        if evaluation.generation == 0:
            self.end_generation()  # a search that goes on with a larger budget may add to it
            return
        fidelity, order = evaluation.fidelity, [*self.counts]
        if fidelity not in self.counts:
            raise ValueError(f"Course: expected an evaluation of {', '.join(order)}, got one of {fidelity}.")
        if evaluation.generation > self.generation:
            self._keep()
            self.generation = evaluation.generation
        self._over = False
        self.counts[fidelity] += 1
        self.failed += evaluation.status == "failed"
        self.tokens += evaluation.tokens
        self.seconds += evaluation.seconds
        if evaluation.status == "failed":
            return
        if order.index(fidelity) > order.index(self.fidelity):
            self.fidelity, self.front, self._values, self._reference = fidelity, [], self._values[:0], None
        if fidelity == self.fidelity:
            front = [*self.front, evaluation]
            values = np.vstack([self._values, minimised([evaluation.values], self.objectives)])
            mask = non_dominated(values)
            self.front = [each for each, kept in zip(front, mask, strict=True) if kept]
            self._values = values[mask]

    def end_generation(self) -> None:
        """Says that the generation has ended, where the loop knows it before the next one begins."""
        self._over = True

    def _keep(self) -> None:
        """Keeps what the generation that has ended now has led to."""
        self._over = True
        volume = self.hypervolume
        if volume is None:
            return
        self._reference = self.reference
        self._curves.setdefault(self.fidelity, []).append((self.tokens, volume))
        if self.done > self._done_before:
            self._volumes.append(volume)
        self._done_before = self.done
