"""The default search on a problem that can be computed: better fronts for less, repeatable, and honest about itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_toy import toy_spec
from scipy.stats import kendalltau

from evaluators.base import Evaluation, Measure, MeasureEvaluator, Metric
from evaluators.cost import cost_measure
from evaluators.metrics import metric_named
from search.algorithms import NSGA2
from search.archive import Archive
from search.loop import Budget, SearchProgress, run_loop
from search.pareto import hypervolume, minimised, non_dominated, spread_subset
from search.protocol import Algorithm, Task
from search.surrogate.forecast import Forecast
from search.surrogate.surrogate import SurrogateNSGA2
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace

LAYERS = 8
SPEC = toy_spec(layers=LAYERS)
KL = metric_named("kl")
SIZE = metric_named("decoder_params")
KV = metric_named("kv_bytes")
OBJECTIVES = (KL, SIZE)
LOSS = np.random.default_rng(7).uniform(0.05, 1.0, (LAYERS, 2)) ** 3
COSTS = cost_measure(SPEC, context=64)
CHEAP: dict[str, Any] = {"predictor": "ridge", "population": 30, "generations": 8}
SPACES: dict[str, dict[str, Any]] = {
    "full": {"mlp_step": 2, "min_decoder_params": 0.3},
    "depth": {"attention_widths": False, "mlp_widths": False, "whole_layers": True, "min_decoder_params": 0.3},
    "heads": {"mlp_widths": False, "remove_mlp": False, "min_decoder_params": 0.8},
    "uniform": {"mlp_step": 4, "same_for_all_layers": True, "remove_attention": False, "remove_mlp": False},
    "without dense": {"mlp_step": 4, "min_decoder_params": 0.35, "max_decoder_params": 0.7},
}


def lost(candidate: Candidate) -> np.ndarray:
    kept = np.array([[s.query_heads / 4, s.mlp_channels / 16] for s in candidate.layers])
    return (1 - kept) ** 2


def free(candidate: Candidate) -> dict[str, float]:
    return {**COSTS.values(candidate), "refit_error": float(lost(candidate).sum())}


def kl(candidate: Candidate, noise: float = 0.0) -> float:
    """What blocks lose, and more where neighbours and many lose together."""
    error = LOSS * lost(candidate)
    value = error.sum() + 2 * (error[:-1] * error[1:]).sum() + 3 * error.sum() ** 2
    return float(value * (1 + noise * np.sin(int(candidate.key[1:], 16))))


def evaluator(name: str, tokens: int, noise: float = 0.0, fails: Callable[[Candidate], bool] = lambda c: False) -> Any:
    def values(candidate: Candidate) -> dict[str, float]:
        if fails(candidate):
            raise RuntimeError("does not fit")
        return {"kl": kl(candidate, noise), **COSTS.values(candidate)}

    return MeasureEvaluator(name, [Measure((KL, *COSTS.metrics), values, tokens)])


def search(
    path: Path,
    algorithm: Algorithm,
    budget: Budget,
    *,
    fidelities: int = 2,
    objectives: tuple[Metric, ...] = OBJECTIVES,
    fails: Callable[[Candidate], bool] = lambda c: False,
    noise: float = 0.05,
) -> tuple[list[Evaluation], list[SearchProgress]]:
    seen: list[SearchProgress] = []
    ladder = [evaluator("search-1", 100, noise, fails), evaluator("search", 400, fails=fails)][-fidelities:]
    with Archive(path, {}) as archive:
        run_loop(algorithm, ladder, archive, objectives, budget, ask=10, on_progress=seen.append)
        return archive.evaluations(), seen


def starts(space: SearchSpace) -> list[Candidate]:
    return [Candidate.dense(SPEC), *space.uniform_ladder(), *space.depth_ladder(range(LAYERS))]


def test_a_design_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SearchSpace(SPEC, **SPACES["full"])
    forecast = Forecast(space, OBJECTIVES, {}, fidelities=2, predictor="ridge")
    answers = [Evaluation(candidate, "search", values={"kl": 1.0}) for candidate in space.samples(6)]
    expected = [space.encode(answer.candidate).tolist() for answer in answers]
    encoded: list[str] = []
    encode = SearchSpace.encode

    def counted(self: SearchSpace, candidate: Candidate) -> Any:
        encoded.append(candidate.key)
        return encode(self, candidate)

    monkeypatch.setattr(SearchSpace, "encode", counted)
    assert forecast.genes(answers[:4]).tolist() == expected[:4]
    assert forecast.genes(answers[::-1]).tolist() == expected[::-1]
    assert forecast.genes(answers[:0]).shape == (0, len(space.levels))
    assert sorted(encoded) == sorted(answer.candidate.key for answer in answers)


def volume(made: list[Evaluation], tokens: int) -> float:
    spent = np.cumsum([e.tokens for e in made])
    full = [e.values for e, cost in zip(made, spent, strict=True) if e.fidelity == "search" and cost <= tokens]
    reference = [2.0, COSTS.values(Candidate.dense(SPEC))["decoder_params"]]
    return hypervolume(minimised(full, OBJECTIVES), reference)


def test_a_quarter_of_the_tokens_gives_more_than_plain_nsga2(tmp_path: Path) -> None:
    space = SearchSpace(SPEC, **SPACES["full"])
    plain = NSGA2(Task(space, OBJECTIVES, 0, starts=starts(space)))
    theirs, _ = search(tmp_path / "theirs.jsonl", plain, Budget(tokens=80_000))
    ours = SurrogateNSGA2(Task(space, OBJECTIVES, 0, free, starts(space), 2), predictor="gp")
    made, _ = search(tmp_path / "ours.jsonl", ours, Budget(tokens=20_000))
    assert volume(made, 20_000) > volume(theirs, 80_000)


def test_the_surrogate_is_right_about_what_it_has_not_seen_and_says_how_right(tmp_path: Path) -> None:
    space = SearchSpace(SPEC, **SPACES["full"])
    algorithm = SurrogateNSGA2(Task(space, OBJECTIVES, 1, free, starts(space), 2), predictor="gp")
    made, seen = search(tmp_path / "archive.jsonl", algorithm, Budget(tokens=25_000))
    predicted = [e for e in made if e.predicted]
    assert {e.fidelity for e in predicted} == {"search-1", "search"}
    assert all(set(e.predicted) == {"kl"} for e in predicted)
    pairs = np.array([[e.predicted["kl"], e.values["kl"]] for e in predicted[20:]])
    assert kendalltau(*pairs.T).statistic > 0.8
    assert 0.6 < np.median(pairs[:, 0] / pairs[:, 1]) < 1.5
    assert "kl by gp (cross-validated tau 0." in seen[-1].remark
    assert "fidelity 0 to 1: tau" in seen[-1].remark


@pytest.mark.parametrize(("noise", "skipped"), [(0.5, True), (0.0, False)])
def test_a_cheap_fidelity_is_skipped_when_it_tells_less_than_the_surrogate(
    noise: float, skipped: bool, tmp_path: Path
) -> None:
    space = SearchSpace(SPEC, **SPACES["full"])
    algorithm = SurrogateNSGA2(Task(space, OBJECTIVES, 1, free, starts(space), 2), **CHEAP)
    made, seen = search(tmp_path / "archive.jsonl", algorithm, Budget(tokens=60_000), noise=noise)
    assert any("is skipped from here on" in progress.remark for progress in seen) == skipped
    last = made[-40:]
    assert all(e.fidelity == "search" for e in last) == skipped
    if skipped:
        assert all(e.predicted for e in last)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("fidelities", [1, 2])
def test_every_space_is_searched_without_repeats_and_within_its_bounds(
    name: str, fidelities: int, tmp_path: Path
) -> None:
    space = SearchSpace(SPEC, **SPACES[name])
    algorithm = SurrogateNSGA2(Task(space, OBJECTIVES, 2, free, starts(space), fidelities), **CHEAP)
    made, _ = search(tmp_path / "archive.jsonl", algorithm, Budget(evaluations=60), fidelities=fidelities)
    full = [e for e in made if e.fidelity == "search"]
    assert len(full) >= 4
    if fidelities == 2:  # with one fidelity the sweep, which may look beyond the bounds, is at the full fidelity too
        assert all(space.contains(e.candidate) for e in full)


def test_a_small_space_is_searched_to_its_front_and_ends(tmp_path: Path) -> None:
    space = SearchSpace(SPEC, **{**SPACES["depth"], "freeze_layers": range(3, LAYERS), "min_decoder_params": 0.0})
    algorithm = SurrogateNSGA2(Task(space, OBJECTIVES, 0, free, starts(space), 2), **CHEAP)
    made, _ = search(tmp_path / "archive.jsonl", algorithm, Budget(evaluations=1000))
    everything = [space.decode(genes) for genes in np.ndindex(*space.levels)]
    values = np.array([[kl(candidate), COSTS.values(candidate)["decoder_params"]] for candidate in everything])
    front = {everything[i].key for i in np.flatnonzero(non_dominated(values)) if space.contains(everything[i])}
    assert len(front) > 2
    assert front <= {e.candidate.key for e in made if e.fidelity == "search"}


def test_replay_asks_the_same_whatever_the_budget_was(tmp_path: Path) -> None:
    space = SearchSpace(SPEC, **SPACES["full"])

    def run(path: str, tokens: int) -> list[tuple[str, str]]:
        algorithm = SurrogateNSGA2(Task(space, OBJECTIVES, 3, free, starts(space), 2), **CHEAP)
        made, _ = search(tmp_path / path, algorithm, Budget(tokens=tokens))
        return [(e.candidate.key, e.fidelity) for e in made]

    whole = run("whole.jsonl", 18_000)
    first = run("parts.jsonl", 11_000)
    assert first == whole[: len(first)]
    assert run("parts.jsonl", 18_000) == whole


def test_failures_teach_nothing_and_the_search_goes_on(tmp_path: Path) -> None:
    space = SearchSpace(SPEC, **SPACES["full"])
    algorithm = SurrogateNSGA2(Task(space, OBJECTIVES, 4, free, starts(space), 2), **CHEAP)
    made, _ = search(
        tmp_path / "archive.jsonl", algorithm, Budget(tokens=15_000), fails=lambda c: int(c.key[1:], 16) % 5 == 0
    )
    assert sum(e.status == "failed" for e in made) > 5
    assert sum(e.fidelity == "search" and e.status == "ok" for e in made) > 5


def test_three_objectives(tmp_path: Path) -> None:
    space = SearchSpace(SPEC, **SPACES["full"])
    objectives = (KL, SIZE, KV)
    algorithm = SurrogateNSGA2(Task(space, objectives, 5, free, starts(space), 2), **CHEAP)
    made, seen = search(tmp_path / "archive.jsonl", algorithm, Budget(tokens=25_000), objectives=objectives)
    assert len(seen[-1].front) > 10
    shares = [e.values["kv_bytes"] / e.values["decoder_params"] for e in made if e.fidelity == "search"]
    assert np.std(shares) > 0.05 * np.mean(shares)  # both costs are traded, not one alone


@pytest.mark.parametrize(
    ("objectives", "settings", "message"),
    [
        ((SIZE, KV), {}, "measured on text"),
        (OBJECTIVES, {"predictor": "oracle"}, "auto or one of"),
        (OBJECTIVES, {"promoted": 0.0}, "promoted above 0"),
        (OBJECTIVES, {"round_size": 0}, "round_size of at least 1"),
    ],
)
def test_what_cannot_work_is_refused(objectives: Any, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        SurrogateNSGA2(Task(SearchSpace(SPEC, mlp_step=4), objectives, 0, free), **settings)


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
    for seed in range(3):
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
    assert sum(gained) / 3 > 1.02
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


def test_what_is_too_far_from_the_dense_model_is_asked_about_last(tmp_path: Path) -> None:
    parts = []
    for most in (0.5, 1e9):
        space = SearchSpace(SPEC, **SPACES["full"])
        task = Task(space, OBJECTIVES, 0, free, starts(space), fidelities=2)
        algorithm = SurrogateNSGA2(task, **CHEAP, most=most)
        made, _ = search(tmp_path / f"{most:g}.jsonl", algorithm, Budget(tokens=40_000))
        late = [e.values["kl"] for e in made if e.fidelity == "search"][-30:]
        parts.append(sum(value > 0.5 for value in late) / len(late))
    assert parts[0] < 0.2 < parts[1]
