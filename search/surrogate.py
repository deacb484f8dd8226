"""The default search: a sensitivity sweep, knapsack designs, then NSGA-II on a surrogate that true evaluations correct.

    sweep      every gene alone at a few levels, at the cheapest fidelity: what each block is worth on its own
    designs    the knapsack of that additive model along the whole budget axis, beside the starts
    rounds     fit a surrogate on all answers; let NSGA-II minimise its prediction and the free costs; ask the most
               promising new candidates at the cheapest fidelity; promote those on the front to the next one; repeat

An answer at one fidelity is never compared with one at another. The order of questions is a function of the seed and
the answers, so that a replay asks the same.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy.stats import kendalltau

from evaluators.base import Evaluation, Metric
from search.algorithms import minimise
from search.knapsack import knapsack
from search.operators import Operators
from search.pareto import Floats, fill_front, minimised, non_dominated, ranks, reference_point, spread_subset
from search.predictor import Surrogate
from search.protocol import Question
from search.tables import Genes, Table, empty_steps, tabulate
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace

REFIT_ERROR = "refit_error"
_Item = TypeVar("_Item")
Script = Generator[list[Question], list[Evaluation], None]


class SurrogateNSGA2:
    """See the module. The learned objectives are those that cost tokens; the others are priced exactly."""

    def __init__(
        self,
        space: SearchSpace,
        objectives: Sequence[Metric],
        *,
        seed: int,
        free: Callable[[Candidate], Mapping[str, float]],
        starts: Sequence[Candidate] = (),
        rungs: int = 1,
        predictor: str = "auto",
        sweep_levels: int = 3,
        designs: int = 20,
        other_starts: int = 8,
        population: int = 100,
        generations: int = 30,
        round_size: int = 20,
        promoted: float = 0.4,
        moves: float = 1.5,
        crossover: float = 0.7,
    ) -> None:
        """Set up; nothing is asked yet.

        Args:
            space: Where to search.
            objectives: Two or three metrics, at least one of which costs tokens (`cost_rank` above 1).
            seed: Seed of the one random generator.
            free: The metrics of a candidate that cost nothing, `refit_error` among them; sums over blocks.
            starts: Evaluated beside the knapsack designs, thinned to `other_starts`.
            rungs: Fidelities of the loop.
            predictor: Row of `search.predictor.ROWS`, or `auto`.
            sweep_levels: Levels at which a gene is looked at alone, the dense one not counted.
            designs: Knapsack designs at first.
            other_starts: How many of `starts`.
            population: Parents of NSGA-II on the surrogate.
            generations: Its generations in every round.
            round_size: New candidates of a round.
            promoted: Part of a round's candidates that go on to the next fidelity.
            moves: Moves that make a mutation, on average.
            crossover: Chance that a child has two parents.

        Raises:
            UserError: No objective has to be learned, or there is nothing else.
        """
        self._learned = [metric for metric in objectives if metric.cost_rank > 1]
        self._priced = [metric for metric in objectives if metric.cost_rank <= 1]
        if not self._learned or not self._priced:
            raise UserError(
                "search=surrogate: expected at least one objective that is measured on text (kl, nll) and one that "
                f"is not, got {', '.join(m.name for m in objectives)}. Change the objectives, or search=nsga2."
            )
        self._space = space
        self._objectives = tuple(objectives)
        self._rng = np.random.default_rng(seed)
        self._starts = [candidate for candidate in starts if space.contains(candidate)]
        self._rungs = rungs
        self._round_size = round_size
        self._settings = (sweep_levels, designs, other_starts, population, generations, promoted)
        self._tables = tabulate(space, free, [*(m.name for m in self._priced), REFIT_ERROR, "decoder_params"])
        self._operators = Operators(space, self._tables["decoder_params"].steps, moves=moves, crossover=crossover)
        self._surrogates = {metric.name: Surrogate(predictor) for metric in self._learned}
        self._worth: dict[str, Table] = {}  # what each level of each gene adds to a learned metric on its own
        self._answers: dict[int, dict[str, Evaluation]] = {rung: {} for rung in range(rungs)}
        self._asked: set[tuple[str, int]] = set()
        self._remark = ""
        self._script = self._play()
        self._queue: list[Question] = next(self._script)
        self._told: list[Evaluation] = []
        self._open = 0
        self._ended = False

    @property
    def remark(self) -> str:
        """See `Algorithm`: the row in use, and how good it was at what it had not seen."""
        return self._remark

    def ask(self, n: int) -> list[Question]:
        """See `Algorithm`."""
        while not self._queue and not self._ended:
            answers, self._told = self._told, []
            try:
                self._queue = self._script.send(answers)
            except StopIteration:
                self._ended = True
        asked, self._queue = self._queue[:n], self._queue[n:]
        return asked

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """See `Algorithm`."""
        self._told += evaluations

    def _play(self) -> Script:
        yield from self._sweep()
        yield from self._first_designs()
        while (yield from self._round()):
            pass

    def _sweep(self) -> Script:
        """Looks at every gene alone and sets `_worth`; the answers are not a part of the front's archive."""
        dense = self._space.decode(self._space.levels - 1)
        chosen = [(gene, level) for gene, levels in enumerate(self._swept_levels()) for level in levels]
        changed = []
        for gene, level in chosen:
            genes = self._space.levels - 1
            genes[gene] = level
            changed.append(self._space.decode(genes))
        yardstick, *answers = yield [Question(candidate, 0) for candidate in (dense, *changed)]
        if yardstick.status == "failed":
            raise UserError(f"Expected the dense model to be evaluated, but it failed: {yardstick.error}")
        errors = self._tables[REFIT_ERROR].steps
        for metric in self._learned:
            sign = 1.0 if metric.goal == "min" else -1.0
            steps = empty_steps(self._space)
            for gene, row in enumerate(steps):
                known = {0.0: 0.0}  # refit error to loss; the dense level loses nothing
                for (at, level), answer in zip(chosen, answers, strict=True):
                    if at == gene and answer.status == "ok":
                        lost = sign * (answer.values[metric.name] - yardstick.values[metric.name])
                        known[float(errors[gene, level])] = lost
                    elif at == gene:
                        row[level] = np.inf
                levels = np.flatnonzero(np.isfinite(row))
                places = sorted(known)
                row[levels] = np.interp(errors[gene, levels], places, [known[place] for place in places])
            self._worth[metric.name] = Table(0.0, steps)

    def _swept_levels(self) -> list[list[int]]:
        """For each gene, the smallest level and those with about a third, a ninth, ... of its refit error."""
        count = self._settings[0]
        errors = self._tables[REFIT_ERROR].steps
        swept = []
        for gene, levels in enumerate(self._space.levels.tolist()):
            below = errors[gene, : levels - 1]
            swept.append(sorted({int(np.abs(below - below[0] / 3.0**step).argmin()) for step in range(count)}))
        return swept

    def _first_designs(self) -> Script:
        count, others = self._settings[1:3]
        kept = _evenly(self._starts, others)
        designs = [*kept, *(self._space.decode(genes) for genes in self._knapsack_designs(count))]
        yield from self._ask_at(0, designs, {})
        yield from self._promote(len(designs) // 2)

    def _knapsack_designs(self, count: int) -> list[Genes]:
        """Designs of the additive model along the range of the free costs, `count` of them."""
        losses = np.sum([table.steps / _scale(table) for table in self._worth.values()], axis=0)
        scaled = [self._tables[metric.name].steps / _scale(self._tables[metric.name]) for metric in self._priced]
        signs = [1.0 if metric.goal == "min" else -1.0 for metric in self._priced]
        mixes = np.vstack([np.eye(len(scaled)), np.full((1, len(scaled)), 1.0 / len(scaled))])[: 2 * len(scaled) - 1]
        designs: list[Genes] = []
        for mix in mixes:
            costs = np.sum([w * s * step for w, s, step in zip(mix, signs, scaled, strict=True)], axis=0)
            budgets = np.linspace(np.nanmin(costs, 1).sum(), np.nanmax(costs, 1).sum(), 20 * count)
            found = [genes for genes in knapsack(losses, costs, budgets) if genes is not None]
            valid = [genes for genes in found if self._space.contains(self._space.decode(genes))]
            distinct = list({genes.tobytes(): genes for genes in valid}.values())
            designs += _evenly(distinct, -(-count // len(mixes)))
        return designs

    def _round(self) -> Generator[list[Question], list[Evaluation], bool]:
        """One fit and what it leads to; False when nothing new was found."""
        population, generations, promoted = self._settings[3:]
        known = list(self._answers[0].values())
        if not known:
            return False
        genes = np.stack([self._space.encode(e.candidate) for e in known])
        features = self._features(genes)
        for metric in self._learned:
            self._surrogates[metric.name].fit(features, [e.values[metric.name] for e in known])
        found, values = minimise(
            self._space,
            self._predict,
            genes[non_dominated(self._truth(known))],
            child=self._operators.child,
            population=population,
            generations=generations,
            rng=self._rng,
        )
        picks = self._infill(found, values, self._truth(known))
        if not picks:
            return False
        predicted = {
            c.key: {m.name: float(v) for m, v in zip(self._objectives, row, strict=True) if m in self._learned}
            for c, row in picks
        }
        yield from self._ask_at(0, [candidate for candidate, _ in picks], predicted)
        yield from self._promote(max(1, round(promoted * len(picks))))
        return True

    def _ask_at(
        self, rung: int, candidates: Sequence[Candidate], predicted: Mapping[str, Mapping[str, float]]
    ) -> Generator[list[Question], list[Evaluation], None]:
        """Asks those that were not asked at this rung, neighbours in the trie of layers together, and keeps answers."""
        new = {c.key: c for c in candidates if (c.key, rung) not in self._asked}
        ordered = sorted(new.values(), key=lambda candidate: candidate.to_json(), reverse=True)
        self._asked.update((key, rung) for key in new)
        if not ordered:
            return
        answers = yield [Question(c, rung, dict(predicted.get(c.key, {}))) for c in ordered]
        succeeded = [e for e in answers if e.status == "ok"]
        self._answers[rung].update((e.candidate.key, e) for e in succeeded)
        if predicted:
            self._note([e for e in succeeded if e.predicted])

    def _promote(self, count: int) -> Script:
        """Sends the best of each rung to the next one, as many as `count` and fewer from rung to rung."""
        for rung in range(self._rungs - 1):
            answered = list(self._answers[rung].values())
            if not answered:
                return
            rank = ranks(self._truth(answered))
            waiting = [i for i, e in enumerate(answered) if (e.candidate.key, rung + 1) not in self._asked]
            front = [i for i in waiting if rank[i] == 0]
            if len(front) > count:
                chosen = [front[i] for i in spread_subset(self._truth([answered[i] for i in front]), count)]
            else:
                chosen = sorted(waiting, key=lambda i: (rank[i], i))[:count]
            yield from self._ask_at(rung + 1, [answered[i].candidate for i in chosen], {})
            count = max(1, count // 2)

    def _features(self, genes: Genes) -> Floats:
        """What a surrogate sees of designs `(candidates, genes)`: `(candidates, features)`."""
        columns = []
        for table in self._worth.values():
            each = np.maximum(np.where(np.isfinite(table.steps), table.steps, 0.0), 0.0)[
                np.arange(len(self._space.levels)), genes
            ]
            columns += [np.log(each.sum(-1, keepdims=True) + 1e-6), np.sqrt(each)]
        columns += [self._tables[REFIT_ERROR].total(genes)[:, None]]
        return np.hstack(columns)

    def _predict(self, genes: Genes) -> Floats:
        """Expected objectives of designs, to be minimised, `(candidates, objectives)`."""
        features = self._features(genes)
        columns = []
        for metric in self._objectives:
            if metric in self._learned:
                values, _ = self._surrogates[metric.name].predict(features)
            else:
                values = self._tables[metric.name].total(genes)
            columns.append(values if metric.goal == "min" else -values)
        return np.stack(columns, axis=-1)

    def _truth(self, evaluations: Sequence[Evaluation]) -> Floats:
        return minimised([e.values for e in evaluations], self._objectives)

    def _infill(self, genes: Genes, values: Floats, known: Floats) -> list[tuple[Candidate, Floats]]:
        """The candidates, with what is expected of them, that together promise the largest gain of hypervolume.

        Learned objectives are taken as logarithms where they can, so that the whole front is filled and not its worst
        end alone.
        """
        fresh: dict[str, int] = {}
        decoded = [self._space.decode(row) for row in genes]
        for index, candidate in enumerate(decoded):
            if (candidate.key, 0) not in self._asked:
                fresh.setdefault(candidate.key, index)
        rows = list(fresh.values())
        if not rows:
            return []
        front, expected = self._evened(known[non_dominated(known)]), self._evened(values[rows])
        order = fill_front(expected, front, reference_point(np.vstack([front, expected])), self._round_size)
        signs = np.array([1.0 if m.goal == "min" else -1.0 for m in self._objectives])
        return [(decoded[rows[i]], values[rows[i]] * signs) for i in order]

    def _evened(self, values: Floats) -> Floats:
        """Objectives with the learned ones, as far as they are positive, as logarithms."""
        columns = [
            np.log(np.maximum(column, 1e-4)) if metric in self._learned and metric.goal == "min" else column
            for metric, column in zip(self._objectives, values.T, strict=True)
        ]
        return np.stack(columns, axis=-1)

    def _note(self, answered: Sequence[Evaluation]) -> None:
        """Says how good the surrogates were at candidates that they had not seen."""
        notes = []
        for metric in self._learned:
            surrogate = self._surrogates[metric.name]
            pairs = np.array([[e.predicted[metric.name], e.values[metric.name]] for e in answered])
            tau = kendalltau(*pairs.T).statistic if len(pairs) > 1 else np.nan
            off = np.median(np.abs(pairs[:, 0] - pairs[:, 1]) / np.maximum(np.abs(pairs[:, 1]), 1e-9))
            notes.append(
                f"{metric.name} by {surrogate.chosen} (cross-validated tau {surrogate.taus[surrogate.chosen]:.2f}): "
                f"tau {tau:.2f} and {off:.0%} off on {len(pairs)} unseen"
            )
        for rung in range(self._rungs - 1):
            both = [(e, self._answers[rung + 1].get(key)) for key, e in self._answers[rung].items()]
            pairs_of = [(low, high) for low, high in both if high is not None]
            if len(pairs_of) > 2:
                name = self._learned[0].name
                values = [[low.values[name], high.values[name]] for low, high in pairs_of]
                tau = kendalltau(*np.array(values).T).statistic
                notes.append(f"fidelity {rung} to {rung + 1}: tau {tau:.2f} on {len(values)}")
        self._remark = "; ".join(notes)


def _scale(table: Table) -> float:
    """The largest sum of steps, to compare tables of unlike units."""
    finite = np.where(np.isfinite(table.steps), table.steps, 0.0)
    return float(np.abs(finite).max(axis=1).sum()) or 1.0


def _evenly(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most `count` items, evenly spread over the sequence, the first and the last among them."""
    places = np.unique(np.linspace(0, len(items) - 1, min(len(items), count)).round().astype(int))
    return [items[place] for place in places]
