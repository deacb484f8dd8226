"""The default search on a problem that can be computed: better fronts for less, repeatable, and honest about itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_surrogate import CHEAP, COSTS, KL, KV, LAYERS, OBJECTIVES, SIZE, SPACES, SPEC, free, kl, search, starts
from scipy.stats import kendalltau

from evaluators.base import Evaluation
from search.algorithms import NSGA2
from search.loop import Budget
from search.pareto import hypervolume, minimised, non_dominated
from search.protocol import Task
from search.surrogate.forecast import Forecast
from search.surrogate.surrogate import SurrogateNSGA2
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace


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
