"""The default search with training or healing within it: when they come, what they take, and what they find."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from helpers_surrogate import (
    CHEAP,
    COSTS,
    KL,
    LOSS,
    OBJECTIVES,
    SPACES,
    SPEC,
    evaluator,
    free,
    kl,
    lost,
    search,
    starts,
)

from evaluators.base import Evaluation, Measure, MeasureEvaluator
from search.algorithms import NSGA2
from search.archive import Archive
from search.loop import Budget, run_loop
from search.pareto import hypervolume, minimised, non_dominated, spread_subset
from search.protocol import Task
from search.surrogate.surrogate import SurrogateNSGA2
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace

TRAINED = 2000  # tokens


def healed(candidate: Candidate) -> float:
    """Training makes up for most of what attention has lost, and for nothing that MLPs have."""
    left = LOSS * lost(candidate) * [0.1, 1.0]
    return float(kl(candidate) * left.sum() / max(float((LOSS * lost(candidate)).sum()), 1e-9))


def trained_evaluator() -> Any:
    return MeasureEvaluator(
        "trained", [Measure((KL, *COSTS.metrics), lambda c: {"kl": healed(c), **COSTS.values(c)}, TRAINED)]
    )


def looped(path: Path, tokens: int, seed: int) -> list[Evaluation]:
    space = SearchSpace(SPEC, **SPACES["full"])
    task = Task(space, OBJECTIVES, seed, free, starts(space), fidelities=3, trained=1, tokens=tokens)
    algorithm = SurrogateNSGA2(task, **CHEAP, most=math.inf)
    ladder = [evaluator("search-1", 100, 0.05), evaluator("search", 400), trained_evaluator()]
    with Archive(path, {}) as archive:
        run_loop(algorithm, ladder, archive, OBJECTIVES, Budget(tokens=tokens), ask=10)
        return archive.evaluations()


def trained_volume(designs: list[Candidate]) -> float:
    values = [{"kl": healed(c), **COSTS.values(c)} for c in designs]
    return hypervolume(minimised(values, OBJECTIVES), [2.0, COSTS.values(Candidate.dense(SPEC))["decoder_params"]])


def test_training_in_the_loop_finds_what_training_leaves(tmp_path: Path) -> None:
    tokens, gained = 100_000, []
    for seed in range(2):
        made = looped(tmp_path / f"loop-{seed}.jsonl", tokens, seed)
        trained = [e.candidate for e in made if e.fidelity == "trained"]
        space = SearchSpace(SPEC, **SPACES["full"])
        plain = SurrogateNSGA2(Task(space, OBJECTIVES, seed, free, starts(space), 2), **CHEAP, most=math.inf)
        budget = Budget(tokens=tokens - TRAINED * len(trained))
        found, _ = search(tmp_path / f"plain-{seed}.jsonl", plain, budget)
        full = [e for e in found if e.fidelity == "search"]
        values = minimised([e.values for e in full], OBJECTIVES)
        front = [e.candidate for e, on in zip(full, non_dominated(values), strict=True) if on]
        values = minimised([{"kl": kl(c), **COSTS.values(c)} for c in front], OBJECTIVES)
        after = [front[row] for row in spread_subset(values, len(trained))]
        gained.append(trained_volume(trained) / trained_volume(after))
    assert sum(gained) / 2 > 1.02
    assert min(gained) > 1


def test_training_waits_keeps_its_share_and_takes_the_usual_way(tmp_path: Path) -> None:
    made = looped(tmp_path / "archive.jsonl", 100_000, 0)
    first = next(number for number, e in enumerate(made) if e.fidelity == "trained")
    assert 0.8 * 50_000 <= sum(e.tokens for e in made[:first]) < 50_000
    assert sum(e.fidelity == "trained" for e in made[first : first + 10]) == 10  # enough to learn from
    assert sum(e.tokens for e in made if e.fidelity == "trained") == pytest.approx(50_000, abs=2 * TRAINED)
    for number, evaluation in enumerate(made):
        if evaluation.fidelity == "trained":
            assert any(e.candidate == evaluation.candidate and e.fidelity == "search" for e in made[:number])


def test_training_in_the_loop_needs_a_budget_in_tokens(tmp_path: Path) -> None:
    space = SearchSpace(SPEC, **SPACES["full"])
    with pytest.raises(UserError, match=r"a budget\.tokens"):
        SurrogateNSGA2(Task(space, OBJECTIVES, 0, free, starts(space), fidelities=3, trained=1))
    with pytest.raises(UserError, match=r"distillation=final"):
        NSGA2(Task(space, OBJECTIVES, 0, free, starts(space), fidelities=3, trained=1, tokens=1000))


@pytest.mark.parametrize("tokens", [8_000, 12_000])
def test_a_small_budget_leaves_something_for_healed_designs(tmp_path: Path, tokens: int) -> None:
    space = SearchSpace(SPEC, **SPACES["full"])
    task = Task(space, OBJECTIVES, 0, free, starts(space), fidelities=3, trained=1, healed=True, tokens=tokens)
    algorithm = SurrogateNSGA2(task, predictor="ridge", generations=4, trained=0.5, healed=11, starts=8)
    measure = Measure((KL, *COSTS.metrics), lambda c: {"kl": healed(c), **COSTS.values(c)}, 100)
    ladder = [evaluator("search-1", 50, 0.05), evaluator("search", 100), MeasureEvaluator("healed", [measure])]
    with Archive(tmp_path / "archive.jsonl", {}) as archive:
        run_loop(algorithm, ladder, archive, OBJECTIVES, Budget(tokens=tokens), ask=20)
        made = archive.evaluations()
    before = [e.tokens for e in made if e.fidelity != "healed"]
    assert sum(before) < 0.65 * tokens  # half of it, and the designs that the last sweep led to
    assert len(made) - len(before) > 20


def test_healing_comes_once_and_all_questions_after_it_are_about_what_it_gave(tmp_path: Path) -> None:
    space = SearchSpace(SPEC, **SPACES["full"])
    task = Task(space, OBJECTIVES, 0, free, starts(space), fidelities=3, trained=1, healed=True, tokens=60_000)
    algorithm = SurrogateNSGA2(task, **CHEAP, trained=0.4, healed=11)
    told: list[int] = []  # designs of each generation at the healed fidelity

    class Healed(MeasureEvaluator):
        def evaluate(self, candidates: Any) -> Any:
            told.append(len(candidates))
            return super().evaluate(candidates)

    after = Healed("healed", [Measure((KL, *COSTS.metrics), lambda c: {"kl": healed(c), **COSTS.values(c)}, 400)])
    ladder = [evaluator("search-1", 100, 0.05), evaluator("search", 400), after]
    with Archive(tmp_path / "archive.jsonl", {}) as archive:
        run_loop(algorithm, ladder, archive, OBJECTIVES, Budget(tokens=60_000), ask=20)
        made = archive.evaluations()
    first = next(number for number, e in enumerate(made) if e.fidelity == "healed")
    assert sum(e.tokens for e in made[:first]) == pytest.approx(36_000, abs=16 * 400 + 100 * 20)
    assert told[0] == 11
    assert {e.fidelity for e in made[first:]} == {"healed"}
    assert len(made) - first > 40
    earlier = {e.candidate for e in made[:first]}
    assert {e.candidate for e in made[first : first + 11]} <= earlier
    new = [e.candidate for e in made[first + 11 :] if e.candidate not in earlier]
    assert len(new) > 10
    assert trained_volume(new) > trained_volume([e.candidate for e in made[first : first + 11]])
