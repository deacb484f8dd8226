"""Search algorithms that are asked for candidates and told what they are worth; the one file that knows pymoo."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pymoo.algorithms.moo import nsga2
from pymoo.config import Config
from pymoo.core.crossover import Crossover
from pymoo.core.duplicate import DuplicateElimination
from pymoo.core.mating import Mating
from pymoo.core.mutation import Mutation
from pymoo.core.population import Population
from pymoo.core.problem import Problem
from pymoo.core.repair import Repair
from pymoo.core.termination import NoTermination
from pymoo.operators.crossover.ux import UniformCrossover
from pymoo.operators.mutation.nom import NoMutation
from pymoo.operators.selection.tournament import TournamentSelection

from evaluators.base import Evaluation
from search.pareto import minimised
from search.protocol import Question, Task
from search.tables import Genes
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace


class NSGA2:
    """NSGA-II over the genes of a search space (Deb et al., IEEE Trans. Evol. Comput. 6(2), 2002).

    The starts come first, then random samples up to the population's size, then offspring: binary tournament,
    uniform crossover, ordinal mutation, repair; all at the full fidelity. `ask` may be called with any number; the
    survivors of `population` parents and what was told are the next parents. All randomness comes from the seed: the
    same answers to the same questions lead to the same next question, which is what makes replay possible.
    """

    def __init__(
        self,
        task: Task,
        *,
        population: int = 20,
        crossover_probability: float = 0.9,
        mutated_genes: float = 1.5,
        matings: int = 50,
    ) -> None:
        """Set up; nothing is asked yet.

        Args:
            task: What to search. Its starts are asked first, all of them, even when more than `population`; those
                outside of the space (the dense model, say, when a bound excludes it) and repeated ones are left out.
            population: Parents that survive each `tell`.
            crossover_probability: Chance that two parents mix their genes.
            mutated_genes: Genes that change in an offspring, on average.
            matings: Rounds of mating that one `ask` may spend on finding candidates that are new; as many random
                samples for each that is still missing follow.

        Raises:
            UserError: An argument is out of its range, or there are trained fidelities.
        """
        if population < 2:
            raise UserError(f"NSGA2: expected a population of at least 2, got {population}.")
        if not 0 <= crossover_probability <= 1:
            raise UserError(f"NSGA2: expected crossover_probability in 0..1, got {crossover_probability}.")
        if mutated_genes <= 0:
            raise UserError(f"NSGA2: expected mutated_genes above 0, got {mutated_genes}.")
        if matings < 1:
            raise UserError(f"NSGA2: expected matings of at least 1, got {matings}.")
        self._space = space = task.without_training().space
        self._objectives = tuple(task.objectives)
        self._rng = np.random.default_rng(task.seed)
        self._keys: set[str] = set()
        self._tries = matings
        self._starts = deque(self._new(candidate for candidate in task.starts if space.contains(candidate)))
        self._starts.extend(self._random(population - len(self._starts)))

        Config.warnings["not_compiled"] = False  # the pure Python routines are fast enough for populations of hundreds
        crossover = UniformCrossover(prob=crossover_probability)
        mutation = _OrdinalMutation(space.levels, mutated_genes)
        mating = Mating(
            TournamentSelection(func_comp=nsga2.binary_tournament),
            crossover,
            mutation,
            repair=_SpaceRepair(space),
            eliminate_duplicates=_Unseen(space, self._keys),
            n_max_iterations=matings,
        )
        self._nsga2 = nsga2.NSGA2(pop_size=population, mating=mating)
        problem = Problem(n_var=len(space.levels), n_obj=len(self._objectives), xl=0, xu=space.levels - 1, vtype=int)
        # The loop's budget decides when to stop, and pymoo draws from the same generator as the space.
        self._nsga2.setup(problem, termination=NoTermination())
        self._nsga2.random_state = self._rng

    @property
    def remark(self) -> str:
        """See `Algorithm`."""
        return ""

    def ask(self, n: int) -> list[Question]:
        """See `Algorithm`; all questions are at the full fidelity."""
        return [Question(candidate) for candidate in self._propose(n)]

    def _propose(self, n: int) -> list[Candidate]:
        if self._starts:
            return [self._starts.popleft() for _ in range(min(n, len(self._starts)))]
        if not self._nsga2.is_initialized:  # everything failed so far: there are no parents
            return self._random(n)
        offspring = self._new(self._space.decode(genes) for genes in self._offspring(n))
        return offspring + self._random(n - len(offspring))

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """See `Algorithm`."""
        succeeded = [e for e in evaluations if e.status == "ok"]
        if not succeeded:
            return
        genes = np.stack([self._space.encode(e.candidate) for e in succeeded])
        values = minimised([e.values for e in succeeded], self._objectives)
        self._nsga2.tell(infills=Population.new("X", genes, "F", values))

    def _offspring(self, n: int) -> list[Genes]:
        self._nsga2.n_offsprings = n
        offspring = self._nsga2.ask()
        if (
            offspring is None
        ):  # pymoo marks itself as finished when mating finds nothing new; random samples follow here
            self._nsga2.termination = NoTermination()
            return []
        return [individual.X for individual in offspring]

    def _random(self, n: int) -> list[Candidate]:
        """Up to `n` new random candidates, after a bounded number of tries."""
        candidates: list[Candidate] = []
        for _ in range(max(n, 0) * self._tries):
            candidates += self._new([self._space.sample(self._rng)])
            if len(candidates) == n:
                break
        return candidates

    def _new(self, candidates: Iterable[Candidate]) -> list[Candidate]:
        """Those never seen before, which are seen from now on."""
        new = []
        for candidate in candidates:
            if candidate.key not in self._keys:
                self._keys.add(candidate.key)
                new.append(candidate)
        return new


def minimise(
    space: SearchSpace,
    values: Callable[[Genes], npt.NDArray[np.float64]],
    start: Genes,
    *,
    child: Callable[[Genes, Genes, np.random.Generator], Genes],
    population: int,
    generations: int,
    rng: np.random.Generator,
) -> tuple[Genes, npt.NDArray[np.float64]]:
    """NSGA-II on a function that is cheap, such as a surrogate's prediction.

    Args:
        space: The genes and their bounds.
        values: Objectives to minimise of designs `(designs, genes)`, as `(designs, objectives)`.
        start: Designs to begin with, `(designs, genes)`, at least one; filled up with their children. They may be more
            than the population, which the first selection then is from.
        child: Makes a design of two others.
        population: Survivors of a generation.
        generations: How many.
        rng: The one source of chance.

    Returns:
        The last survivors, of all ranks, and their values.
    """
    first = [*start]
    while len(first) < population:
        one, other = start[rng.integers(len(start))], start[rng.integers(len(start))]
        first.append(space.repair(child(one, other, rng), rng))
    mating = Mating(
        TournamentSelection(func_comp=nsga2.binary_tournament), _Child(child), NoMutation(), repair=_SpaceRepair(space)
    )
    algorithm = nsga2.NSGA2(pop_size=population, mating=mating, eliminate_duplicates=_DistinctGenes())
    problem = Problem(n_var=len(space.levels), n_obj=values(start[:1]).shape[1], xl=0, xu=space.levels - 1, vtype=int)
    algorithm.setup(problem, termination=NoTermination())
    algorithm.random_state = rng
    designs = np.stack(first)
    algorithm.tell(infills=Population.new("X", designs, "F", values(designs)))
    for _ in range(generations):
        offspring = algorithm.ask()
        if offspring is None or len(offspring) == 0:
            break
        offspring.set("F", values(offspring.get("X").astype(np.int64)))
        algorithm.tell(infills=offspring)
    survivors = algorithm.pop
    return survivors.get("X").astype(np.int64), survivors.get("F")


class _Child(Crossover):
    """One offspring of two parents, by a function."""

    def __init__(self, child: Callable[[Genes, Genes, np.random.Generator], Genes]) -> None:
        super().__init__(2, 1, prob=1.0)
        self._child = child

    def _do(self, problem: Any, parents: Genes, *, random_state: np.random.Generator, **_: Any) -> Genes:
        children = [self._child(one, other, random_state) for one, other in zip(*parents, strict=True)]
        return np.stack(children)[None]


class _DistinctGenes(DuplicateElimination):
    """Drops designs that stand in the population, or earlier in the same offspring."""

    def do(self, population: Any, *others: Any) -> Any:
        taken = {individual.X.tobytes() for other in others if other is not None for individual in other}
        kept = []
        for index, individual in enumerate(population):
            genes = individual.X.tobytes()
            if genes not in taken:
                taken.add(genes)
                kept.append(index)
        return population[kept]


class _OrdinalMutation(Mutation):
    """Moves each gene with equal chance, up or down, by a step of geometric length: mostly 1, at times far.

    A step that would leave the gene's range goes the other way, and is cut at the end of the range.
    """

    def __init__(self, levels: npt.NDArray[np.int64], mutated_genes: float) -> None:
        super().__init__()
        self._top = levels - 1
        self._chance = mutated_genes / len(levels)

    def _do(self, problem: Any, genes: Genes, *, random_state: np.random.Generator, **_: Any) -> Genes:
        moved = random_state.random(genes.shape) < self._chance
        step = random_state.geometric(0.5, genes.shape) * random_state.choice([-1, 1], genes.shape)
        outside = (genes + step < 0) | (genes + step > self._top)
        target = np.clip(np.where(outside, genes - step, genes + step), 0, self._top)
        return np.where(moved, target, genes)


class _SpaceRepair(Repair):
    """`SearchSpace.repair` for pymoo."""

    def __init__(self, space: SearchSpace) -> None:
        super().__init__()
        self._space = space

    def _do(self, problem: Any, genes: Genes, *, random_state: np.random.Generator, **_: Any) -> Genes:
        return np.stack([self._space.repair(row, random_state) for row in genes])


class _Unseen(DuplicateElimination):
    """Drops offspring whose candidate was asked before in this run, or stands earlier in the same offspring.

    Candidates are compared by key: different genes can name one network.
    """

    def __init__(self, space: SearchSpace, keys: set[str]) -> None:
        super().__init__()
        self._space = space
        self._keys = keys

    def do(self, population: Any, parents: Any, offspring: Any) -> Any:
        taken = {self._key(individual) for individual in offspring}
        kept = []
        for index, individual in enumerate(population):
            key = self._key(individual)
            if key not in self._keys and key not in taken:
                taken.add(key)
                kept.append(index)
        return population[kept]

    def _key(self, individual: Any) -> str:
        return self._space.decode(individual.X).key
