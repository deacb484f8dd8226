"""The default search: a sensitivity sweep, knapsack designs, then NSGA-II on a surrogate that true evaluations correct.

    starts     dense, uniform and depth-only designs: a front that anyone could have, for little
    sweep      every gene alone, at the cheapest fidelity: what each block is worth on its own
    designs    the knapsack of that additive model along the whole budget axis; first of one level of each gene, which
               costs little, then of a few levels
    healing    once the untrained share of the budget is spent: the supernet learns through the most promising designs,
               and rounds go on about what it then gives
    training   instead, where each design is trained by itself: once most of the untrained budget is spent, and from
               then on after each round, the most promising designs at the trained fidelities; with ten answers there,
               rounds look for what training is expected to leave
    rounds     fit surrogates on all answers; let knapsacks around the front and NSGA-II minimise what they expect, the
               free costs beside it; ask the most promising new candidates, and neighbours of the front, at the cheapest
               fidelity; promote the best to the next one; repeat, without the cheap one once the surrogate knows more

An answer at one fidelity is never compared with one at another. The order of questions is a function of the seed and
the answers, so that a replay asks the same.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence

import numpy as np

from search.agreement import agreement, fidelity_agreements
from search.algorithms import minimise
from search.pareto import Floats, minimised, non_dominated, spread_subset
from search.protocol import Question, Task, some_of
from search.script import Answers, Script, Scripted, at
from search.surrogate.features import BlockFeatures
from search.surrogate.forecast import FEWEST, Forecast
from search.surrogate.halving import Halving
from search.surrogate.infill import Infill
from search.surrogate.knapsack import improved_designs, spread_designs
from search.surrogate.operators import Operators
from search.surrogate.sensitivity import REFIT_ERROR, Sweep, affordable
from search.tables import Genes, Table, tabulate
from space.candidate import Candidate
from space.errors import UserError

SIZE, BYTES = "decoder_params", "weights_bytes"  # what changes of equal size are equal in; bytes, of types too
CHILDREN = 15  # looked at by the surrogate for each new candidate of a round

FIRST_TRAINED = 0.8  # part of the untrained share of the budget after which the first designs are trained
TRAINED_AT_ONCE = 4


class SurrogateNSGA2(Scripted):
    """See the module. The learned objectives are those that cost tokens; the others are priced exactly."""

    def __init__(
        self,
        task: Task,
        *,
        predictor: str = "auto",
        starts: int = 16,
        sweep_levels: int = 4,
        designs: int = 12,
        improved: int = 12,
        population: int = 100,
        generations: int = 30,
        round_size: int = 16,
        explored: float = 0.5,
        promoted: float = 0.4,
        trained: float = 0.5,
        healed: int = 12,
        most: float = 2.0,
        moves: float = 1.0,
        crossover: float = 0.7,
    ) -> None:
        """Set up; nothing is asked yet.

        Args:
            task: What to search: at least one objective that costs tokens and one that is free,
                `refit_error` among the free metrics.
            predictor: Row of `search.surrogate.regressions.ROWS`, or `auto`.
            starts: How many of the task's starts are evaluated, evenly chosen, before all others.
            sweep_levels: Levels at which a gene is looked at alone, but the dense one; fewer if the budget is small.
            designs: Knapsack designs after one level of each gene, and again after all of these.
            improved: Designs of the front that are improved by knapsacks of the surrogate's single changes, in every
                round; the results are parents of NSGA-II.
            population: Parents of NSGA-II on the surrogate.
            generations: Its generations in every round.
            round_size: New candidates of a round.
            explored: Part of them that are neighbours of the front; the others are the surrogate's own optimum.
            promoted: Part of a stage's candidates that go on to the next fidelity.
            trained: Part of the budget in tokens that goes to trained fidelities, when there are any.
            healed: Designs of the front through which the supernet is healed, where it is.
            most: Of a learned objective that is a divergence, in nats a token: nobody picks what is beyond, so that it
                is asked about last.
            moves: Moves that make a mutation, on average.
            crossover: Chance that a child has two parents.

        Raises:
            UserError: An argument is out of its range, no objective has to be learned, there is nothing else, or there
                are trained fidelities and no budget in tokens.
        """
        super().__init__(task)
        counts = {"sweep_levels": sweep_levels, "designs": designs, "improved": improved, "population": population}
        counts |= {"generations": generations, "round_size": round_size, "healed": healed}
        for name, count in counts.items():
            if count < 1:
                raise UserError(f"search=surrogate: expected {name} of at least 1, got {count}.")
        if starts < 0 or not 0 < promoted <= 1 or not 0 <= crossover <= 1 or not 0 <= explored <= 1:
            raise UserError(
                "search=surrogate: expected starts of at least 0, promoted above 0 and at most 1, and crossover "
                f"and explored from 0 to 1, got {starts}, {promoted}, {crossover} and {explored}."
            )
        if not 0 < trained < 1 or (task.trained and task.tokens is None):
            raise UserError(
                "search=surrogate: expected trained above 0 and below 1, and a budget.tokens that it is a part of, got "
                f"{trained} and {task.tokens}. Set them, or search.distillation=final."
            )
        priced = [metric.name for metric in self.objectives if metric.free]
        if len(priced) in (0, len(self.objectives)):
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
        self._trained = trained
        self._healed = max(healed, FEWEST)
        size = BYTES if self.space.types else SIZE
        self._tables = tabulate(self.space, task.free, [*priced, REFIT_ERROR, size])
        self._operators = Operators(self.space, self._tables[size].steps, moves=moves, crossover=crossover)
        self._forecast = Forecast(self.space, self.objectives, self._tables, task.fidelities, predictor)
        self._aim = 0  # the fidelity by whose expected answers new designs are looked for
        self._halving = Halving(self._forecast, task.fidelities, task.trained, self.was_asked, most)
        self._infill = Infill(self.space, self._forecast, self.was_asked, most)

    def script(self) -> Script:
        """See `Scripted`."""
        starts = [candidate for candidate in self.task.starts if self.space.contains(candidate)]
        yield from self._first(some_of(starts, self._starts))
        worth = yield from self._built(1)
        if (levels := self._levels()) > 1:
            worth = yield from self._built(levels)
        self._forecast.describe_by(BlockFeatures(self.space.kinds, self._tables[REFIT_ERROR], worth))
        while True:
            explored = (yield from self._round()) if self._explores() else False
            if self.task.healed:
                trained = 0 if explored and self._explores() else (yield from self._heal())
            else:
                trained = (yield from self._train()) if self.task.trained else 0
            if not explored and not trained:
                return

    def _built(self, levels: int) -> Generator[list[Question], Answers, list[Table]]:
        """A sweep, whose tables are returned, and the designs that they say are best."""
        worth = yield from self._sweep(levels)
        designs = spread_designs(self.space, worth, self._costs(), self._designs)
        yield from self._first([self.space.decode(genes) for genes in designs])
        return worth

    def _levels(self) -> int:
        """Of the second sweep: no more than the untrained share of the budget allows."""
        questions = self._left * sum(fidelity == 0 for _, fidelity in self._answers) / max(1, self.spent[0])
        return affordable(self.space, self._tables[REFIT_ERROR].steps, self._sweep_levels, questions, self.was_asked)

    def _sweep(self, levels: int) -> Generator[list[Question], Answers, list[Table]]:
        """Looks at every gene alone; the answers are not a part of what the surrogate learns from.

        Returns:
            What each level of each gene adds on its own to the learned objectives.
        """
        sweep = Sweep(self.space, self._tables[REFIT_ERROR].steps, levels)
        answers = yield at(0, sweep.designs)
        worth = []
        for metric in self._forecast.learned:
            values = [None if e is None else float(minimised([e.values], [metric])[0, 0]) for e in answers]
            worth.append(Table(0.0, sweep.losses(values)))
        return worth

    def _first(self, designs: Sequence[Candidate]) -> Script:
        """Designs that no surrogate chose, and the best of them at the next fidelity."""
        yield from self._halving.ask(0, designs)
        yield from self._halving.promote(round(self._promoted * len(designs)), first=0)

    def _explores(self) -> bool:
        """Whether new designs are to be looked at; else all that is left of the budget is for training."""
        return self._is_healed or self._left > 0

    @property
    def _left(self) -> float:
        """Tokens of the untrained share of the budget; no end of them where nothing is trained."""
        if not self.task.trained or self.task.tokens is None:
            return float("inf")
        return (1 - self._trained) * self.task.tokens - sum(self.spent[: self.task.untrained])

    def _train(self) -> Generator[list[Question], Answers, int]:
        """Trains the most promising designs, when there is training to be done by now.

        At first so many that a surrogate learns what training does, once little of the untrained share of the budget is
        left; then a group whenever training is behind.

        Returns:
            How many designs were trained.
        """
        task, untrained = self.task, sum(self.spent[: self.task.untrained])
        assert task.tokens is not None
        due = (untrained / ((1 - self._trained) * task.tokens) - FIRST_TRAINED) / (1 - FIRST_TRAINED)
        spent = sum(self.spent[task.untrained :])
        if due < 0 or spent >= min(due, 1.0) * self._trained * task.tokens:
            return 0
        self._fit()
        sent = yield from self._halving.train(TRAINED_AT_ONCE if spent else FEWEST)
        self.remark = "; ".join(fidelity_agreements(self._forecast.learned[0].name, self._halving.answers))
        return sent

    @property
    def _is_healed(self) -> bool:
        return self._halving.entry == self.task.fidelities - 1 >= self.task.untrained

    def _heal(self) -> Generator[list[Question], Answers, int]:
        """Has the supernet healed through the most promising designs; from then on all are asked about what it gives.

        Returns:
            How many designs these were; 0 once it is healed.
        """
        if self._is_healed:
            return 0
        self._fit()
        sent = yield from self._halving.train(self._healed)
        self._halving.entry = self.task.fidelities - 1
        return sent

    def _round(self) -> Generator[list[Question], Answers, bool]:
        """One fit and what it leads to; False when nothing new was found."""
        forecast, fidelity = self._forecast, self._halving.entry
        self._fit()
        answers = list(self._halving.answers[fidelity].values())
        if not forecast.knows(fidelity):
            return False
        self._aim = max(each for each in range(self.task.fidelities) if each <= fidelity or self._steers(each))
        genes = forecast.genes(answers)
        values = forecast.truth(answers) if self._aim == fidelity else forecast.values(genes, self._aim)
        on_front = non_dominated(values)
        front, front_values = genes[on_front], forecast.evened(values[on_front])
        around = list(front[spread_subset(front_values, self._improved)])
        better = improved_designs(self.space, self._loss, self._costs(), around)
        proposals, _ = minimise(
            self.space,
            lambda genes: forecast.values(genes, self._aim),
            np.stack([*front, *better]),
            child=self._operators.child,
            population=self._population,
            generations=self._generations,
            rng=self._rng,
        )
        if fidelity:  # what was asked below is known well, and not here yet
            proposals = np.concatenate([proposals, forecast.genes(list(self._halving.answers[fidelity - 1].values()))])
        explored = round(self._explored * self._round_size)
        where = {"entry": fidelity, "aim": self._aim}
        picks = self._infill.best(proposals, front_values, self._round_size - explored, **where)
        picks += self._infill.near(self._children(front), front_values, explored, **where)
        if not picks:  # what is left to learn is what cheap answers got wrong
            return (yield from self._halving.promote(self._round_size, first=0)) > 0
        expected = forecast.values(np.stack([self.space.encode(pick) for pick in picks]), fidelity)
        predicted = {pick.key: forecast.named(row) for pick, row in zip(picks, expected, strict=True)}
        unseen = yield from self._halving.ask(fidelity, picks, predicted)
        notes = [agreement(m.name, forecast.surrogate(m, fidelity), unseen) for m in forecast.learned]
        notes += fidelity_agreements(forecast.learned[0].name, self._halving.answers)
        yield from self._halving.promote(max(1, round(self._promoted * len(picks))), first=fidelity)
        self.remark = "; ".join([*notes, *self._halving.enter_higher()])
        return True

    def _fit(self) -> None:
        for fidelity, answers in enumerate(self._halving.answers):
            self._forecast.fit(fidelity, list(answers.values()))

    def _steers(self, fidelity: int) -> bool:
        """Whether new designs are looked for by what a fidelity above the one where they enter is expected to say."""
        return fidelity >= self.task.untrained and self._forecast.knows(fidelity)

    def _costs(self) -> list[Table]:
        """Of the priced objectives, less being cheaper."""
        return [self._tables[m.name] if m.goal == "min" else -self._tables[m.name] for m in self._forecast.priced]

    def _loss(self, genes: Genes) -> Floats:
        """The sum of the learned objectives of designs, as far as they can be as logarithms, `(designs,)`."""
        values = self._forecast.evened(self._forecast.values(genes, self._aim))
        return np.asarray(self._forecast.learned_part(values).sum(-1))

    def _children(self, front: Genes) -> Genes:
        """Neighbours of designs on the front, `(children, genes)`: answers tell apart what a surrogate cannot."""
        children = []
        for one, other in self._rng.integers(len(front), size=(CHILDREN * self._round_size, 2)):
            child = self._operators.child(front[one], front[other], self._rng)
            children.append(self.space.repair(child, self._rng))
        return np.stack(children)
