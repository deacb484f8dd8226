"""The default search: a sensitivity sweep, knapsack designs, then NSGA-II on a surrogate that true evaluations correct.

    starts     dense, uniform and depth-only designs: a front that anyone could have, for little
    sweep      every gene alone at a few levels, at the cheapest fidelity: what each block is worth on its own
    designs    the knapsack of that additive model along the whole budget axis
    rounds     fit a surrogate on all answers; let NSGA-II minimise its prediction and the free costs; ask the most
               promising new candidates at the cheapest fidelity; promote those on the front to the next one; repeat

An answer at one fidelity is never compared with one at another. The order of questions is a function of the seed and
the answers, so that a replay asks the same.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence

import numpy as np

from evaluators.base import Evaluation
from search.agreement import agreement, rung_agreement
from search.algorithms import minimise
from search.features import BlockFeatures
from search.knapsack import improved_designs, spread_designs
from search.operators import Operators
from search.pareto import Floats, fill_front, minimised, non_dominated, ranks, reference_point, spread_subset
from search.predictor import Surrogate
from search.protocol import Question, Task
from search.script import FREE_RANK, Answers, Script, Scripted, at
from search.sensitivity import REFIT_ERROR, Sweep
from search.tables import Genes, Table, tabulate
from space.candidate import Candidate
from space.errors import UserError
from space.space import evenly

SIZE = "decoder_params"
PROMOTABLE = 60  # candidates of a rung, those of lowest rank, of which the next one's are chosen
CHILDREN = 15  # looked at by the surrogate for each new candidate of a round


class SurrogateNSGA2(Scripted):
    """See the module. The learned objectives are those that cost tokens; the others are priced exactly."""

    def __init__(
        self,
        task: Task,
        *,
        predictor: str = "auto",
        starts: int = 32,
        sweep_levels: int = 4,
        designs: int = 20,
        improved: int = 12,
        population: int = 100,
        generations: int = 30,
        round_size: int = 20,
        explored: float = 0.5,
        promoted: float = 0.4,
        moves: float = 1.0,
        crossover: float = 0.7,
    ) -> None:
        """Set up; nothing is asked yet.

        Args:
            task: What to search: at least one objective that costs tokens (`cost_rank` above 1) and one that does not,
                `refit_error` among the free metrics.
            predictor: Row of `search.predictor.ROWS`, or `auto`.
            starts: How many of the task's starts are evaluated, evenly chosen, before all others.
            sweep_levels: Levels at which a gene is looked at alone, the dense one not counted.
            designs: Knapsack designs of what these say.
            improved: Designs of the front that are improved by knapsacks of the surrogate's single changes, in every
                round; the results are parents of NSGA-II.
            population: Parents of NSGA-II on the surrogate.
            generations: Its generations in every round.
            round_size: New candidates of a round.
            explored: Part of them that are neighbours of the front; the others are the surrogate's own optimum.
            promoted: Part of a round's candidates that go on to the next fidelity.
            moves: Moves that make a mutation, on average.
            crossover: Chance that a child has two parents.

        Raises:
            UserError: An argument is out of its range, no objective has to be learned, or there is nothing else.
        """
        super().__init__(task)
        counts = {
            "sweep_levels": sweep_levels,
            "designs": designs,
            "improved": improved,
            "population": population,
            "generations": generations,
            "round_size": round_size,
        }
        for name, count in counts.items():
            if count < 1:
                raise UserError(f"search=surrogate: expected {name} of at least 1, got {count}.")
        if starts < 0 or not 0 < promoted <= 1 or not 0 <= crossover <= 1 or not 0 <= explored <= 1:
            raise UserError(
                "search=surrogate: expected starts of at least 0, promoted above 0 and at most 1, and crossover "
                f"and explored from 0 to 1, got {starts}, {promoted}, {crossover} and {explored}."
            )
        self._learned = [metric for metric in self.objectives if metric.cost_rank > FREE_RANK]
        self._priced = [metric for metric in self.objectives if metric.cost_rank <= FREE_RANK]
        if not self._learned or not self._priced:
            raise UserError(
                "search=surrogate: expected at least one objective that is measured on text (kl, nll) and one that "
                f"is not, got {', '.join(m.name for m in self.objectives)}. Change the objectives, or search=nsga2."
            )
        self._rng = np.random.default_rng(task.seed)
        self._sweep_levels = sweep_levels
        self._designs = designs
        self._starts = starts
        self._improved = improved
        self._population = population
        self._generations = generations
        self._round_size = round_size
        self._explored = explored
        self._promoted = promoted
        self._tables = tabulate(self.space, task.free, [*(m.name for m in self._priced), REFIT_ERROR, SIZE])
        self._operators = Operators(self.space, self._tables[SIZE].steps, moves=moves, crossover=crossover)
        self._surrogates = {metric.name: Surrogate(predictor) for metric in self._learned}
        self._worth: dict[str, Table] = {}  # what each level of each gene adds to a learned metric on its own
        self._answers: list[dict[str, Evaluation]] = [{} for _ in range(task.rungs)]  # by rung and key

    def script(self) -> Script:
        """See `Scripted`."""
        starts = [candidate for candidate in self.task.starts if self.space.contains(candidate)]
        yield from self._first(evenly(starts, self._starts))
        yield from self._sweep()
        found = spread_designs(self.space, list(self._worth.values()), self._costs(), self._designs)
        yield from self._first([self.space.decode(genes) for genes in found])
        while (yield from self._round()):
            pass

    def _sweep(self) -> Script:
        """Looks at every gene alone and sets `_worth`; the answers are not a part of what the surrogate learns from."""
        sweep = Sweep(self.space, self._tables[REFIT_ERROR].steps, self._sweep_levels)
        answers = yield at(0, sweep.designs)
        for metric in self._learned:
            values = [None if e is None else float(minimised([e.values], [metric])[0, 0]) for e in answers]
            self._worth[metric.name] = Table(0.0, sweep.losses(values))
        self._features = BlockFeatures(self.space.kinds, self._tables[REFIT_ERROR], list(self._worth.values()))

    def _first(self, designs: Sequence[Candidate]) -> Script:
        """Designs that no surrogate chose, and the best of them at the next fidelity."""
        yield from self._ask_at(0, designs)
        yield from self._promote(round(self._promoted * len(designs)))

    def _round(self) -> Generator[list[Question], Answers, bool]:
        """One fit and what it leads to; False when nothing new was found."""
        known = list(self._answers[0].values())
        genes = np.stack([self.space.encode(e.candidate) for e in known]) if known else self.space.levels[None][:0]
        pruned = (genes < self.space.levels - 1).any(1)  # dense diverges by 0, which has no logarithm
        if not pruned.any():
            return False
        truth = self._truth(known)
        on_front = non_dominated(truth)
        features = self._features(genes[pruned])
        for metric in self._learned:
            values = np.array([e.values[metric.name] for e in known])
            self._surrogates[metric.name].fit(features, values[pruned])
        front = genes[on_front]
        around = list(front[spread_subset(self._evened(truth[on_front]), self._improved)])
        better = improved_designs(self.space, self._learned_loss, self._costs(), around)
        found, values = minimise(
            self.space,
            self._predict,
            np.stack([*front, *better]),
            child=self._operators.child,
            population=self._population,
            generations=self._generations,
            rng=self._rng,
        )
        children = self._children(front)
        explored = round(self._explored * self._round_size)
        picks = self._infill(found, values, truth[on_front], self._round_size - explored)
        picks += self._explore(children, truth[on_front], explored)
        if not picks:  # what is left to learn is what cheap answers got wrong
            return (yield from self._promote(self._round_size)) > 0
        predicted = {candidate.key: expected for candidate, expected in picks}
        unseen = yield from self._ask_at(0, [candidate for candidate, _ in picks], predicted)
        notes = [agreement(metric.name, self._surrogates[metric.name], unseen) for metric in self._learned]
        notes += rung_agreement(self._learned[0].name, self._answers)
        self.remark = "; ".join(notes)
        yield from self._promote(max(1, round(self._promoted * len(picks))))
        return True

    def _ask_at(
        self,
        rung: int,
        candidates: Sequence[Candidate],
        predicted: Mapping[str, Mapping[str, float]] | None = None,
    ) -> Generator[list[Question], Answers, list[Evaluation]]:
        """Asks, neighbours in the trie of layers together, and keeps the answers."""
        ordered = sorted(candidates, key=lambda candidate: candidate.to_json(), reverse=True)
        answers = yield [Question(c, rung, (predicted or {}).get(c.key, {})) for c in ordered]
        succeeded = [e for e in answers if e is not None]
        self._answers[rung].update((e.candidate.key, e) for e in succeeded)
        return succeeded

    def _promote(self, count: int) -> Generator[list[Question], Answers, int]:
        """Sends the best of each rung to the next one, fewer from rung to rung.

        They are those that should raise the next rung's hypervolume most, if its answers differ from this rung's as
        they do for most designs that have both; when none should, those of the lowest rank.

        Returns:
            How many were sent.
        """
        sent = 0
        for rung in range(self.task.rungs - 1):
            answered, above = self._answers[rung], self._answers[rung + 1]
            waiting = [e for e in answered.values() if not self.was_asked(e.candidate, rung + 1)]
            if not waiting:
                break
            rank = ranks(self._truth(waiting))
            best = [waiting[i] for i in np.argsort(rank, kind="stable")[: max(PROMOTABLE, count)]]
            known = [(self._even(e), self._even(above[key])) for key, e in answered.items() if key in above]
            shift = np.median([high - low for low, high in known], axis=0) if known else 0.0
            expected = np.stack([self._even(e) for e in best]) + shift
            front = np.stack([high for _, high in known]) if known else expected[:0]
            chosen = fill_front(expected, front, reference_point(np.vstack([front, expected])), count)
            chosen += [i for i in range(len(best)) if i not in chosen][: count - len(chosen)]
            yield from self._ask_at(rung + 1, [best[i].candidate for i in chosen])
            sent += len(chosen)
            count = max(1, count // 2)
        return sent

    def _costs(self) -> list[Table]:
        """Of the priced objectives, less being cheaper."""
        return [self._tables[m.name] if m.goal == "min" else -self._tables[m.name] for m in self._priced]

    def _learned_loss(self, genes: Genes) -> Floats:
        """The sum of the learned objectives of designs, as far as they can be as logarithms, `(designs,)`."""
        learned = [metric in self._learned for metric in self.objectives]
        return np.asarray(self._evened(self._predict(genes))[:, learned].sum(-1))

    def _predict(self, genes: Genes) -> Floats:
        """Expected objectives of designs, to be minimised, `(candidates, objectives)`."""
        features = self._features(genes)
        columns = []
        for metric in self.objectives:
            if metric in self._learned:
                values, _ = self._surrogates[metric.name].predict(features)
            else:
                values = self._tables[metric.name].total(genes)
            columns.append(values if metric.goal == "min" else -values)
        return np.stack(columns, axis=-1)

    def _truth(self, evaluations: Sequence[Evaluation]) -> Floats:
        return minimised([e.values for e in evaluations], self.objectives)

    def _infill(
        self, genes: Genes, values: Floats, front: Floats, count: int
    ) -> list[tuple[Candidate, dict[str, float]]]:
        """The candidates, with what is expected of them, that together promise the largest gain of hypervolume.

        Learned objectives are taken as logarithms where they can, so that the whole front is filled and not its worst
        end alone.
        """
        rows = self._fresh(genes)
        if not rows:
            return []
        front, expected = self._evened(front), self._evened(values[rows])
        order = fill_front(expected, front, reference_point(np.vstack([front, expected])), count)
        return [self._expecting(genes[rows[i]], values[rows[i]]) for i in order]

    def _children(self, front: Genes) -> Genes:
        """Neighbours of designs on the front, `(children, genes)`: answers tell apart what a surrogate cannot."""
        children = []
        for one, other in self._rng.integers(len(front), size=(CHILDREN * self._round_size, 2)):
            child = self._operators.child(front[one], front[other], self._rng)
            children.append(self.space.repair(child, self._rng))
        return np.stack(children)

    def _explore(self, genes: Genes, front: Floats, count: int) -> list[tuple[Candidate, dict[str, float]]]:
        """Of new designs, those that are expected to be least far behind the front, spread along it."""
        rows = self._fresh(genes)
        if not rows or count < 1:
            return []
        values = self._predict(genes[rows])
        front, expected = self._evened(front), self._evened(values)
        span = np.ptp(front, axis=0)
        scale = np.where(span > 0, span, 1.0)
        behind = ((expected[:, None] - front[None]) / scale).min(-1).max(-1)  # below 0: not dominated
        # each part of the front sends its best: parts are cut along the first priced objective
        axis = expected[:, self.objectives.index(self._priced[0])]
        parts = np.array_split(np.argsort(axis, kind="stable"), min(count, len(rows)))
        best = [int(part[behind[part].argmin()]) for part in parts]
        return [self._expecting(genes[rows[i]], values[i]) for i in best]

    def _fresh(self, genes: Genes) -> list[int]:
        """Rows of designs that were not asked yet, each design once."""
        fresh: dict[str, int] = {}
        for index, row in enumerate(genes):
            candidate = self.space.decode(row)
            if not self.was_asked(candidate, 0):
                fresh.setdefault(candidate.key, index)
        return list(fresh.values())

    def _expecting(self, genes: Genes, values: Floats) -> tuple[Candidate, dict[str, float]]:
        """A design with what is expected of its learned objectives."""
        signs = [1.0 if metric.goal == "min" else -1.0 for metric in self.objectives]
        expected = zip(self.objectives, signs, values, strict=True)
        return self.space.decode(genes), {m.name: float(s * v) for m, s, v in expected if m in self._learned}

    def _even(self, evaluation: Evaluation) -> Floats:
        """Objectives of one evaluation, see `_evened`; shape `(objectives,)`."""
        return self._evened(self._truth([evaluation]))[0]

    def _evened(self, values: Floats) -> Floats:
        """Objectives with the learned ones, as far as they are positive, as logarithms."""
        columns = [
            np.log(np.maximum(column, 1e-4)) if metric in self._learned and metric.goal == "min" else column
            for metric, column in zip(self.objectives, values.T, strict=True)
        ]
        return np.stack(columns, axis=-1)
