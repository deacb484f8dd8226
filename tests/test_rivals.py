"""Rival algorithms: never asking twice, repeatable, ending, and honest about their settings."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers_rivals import (
    DENSE,
    ERROR,
    FIXED,
    KV,
    RIVALS,
    SIZE,
    SPACES,
    SPEC,
    SPEED,
    answering,
    entangled,
    free,
    full,
    make,
    names,
    run,
    space_of,
)

from evaluators.base import Evaluation, Metric
from evaluators.metrics import metric_named
from search.protocol import Question
from search.rivals.script import Rival
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace


@pytest.mark.parametrize("fidelities", [1, 3])
@pytest.mark.parametrize("space_name", SPACES)
@pytest.mark.parametrize("name", RIVALS)
def test_nothing_is_asked_twice_and_full_questions_are_within_the_space(
    name: str, space_name: str, fidelities: int
) -> None:
    space = space_of(space_name)
    told = run(make(name, space, fidelities=fidelities), most=250, answer=answering(noise=0.1))
    assert told
    assert len(set(names(told))) == len(told)
    assert {question.fidelity for question, _ in told} <= {-1, *range(fidelities - 1)}
    # single changes and removals look beyond an upper bound; with one fidelity alone, they do so at that one
    if fidelities > 1 or space.contains(DENSE) or name not in ("greedy", "dp"):
        assert all(space.contains(evaluation.candidate) for evaluation in full(told))


@pytest.mark.parametrize("fidelities", [1, 3])
@pytest.mark.parametrize("name", RIVALS)
def test_the_same_seed_asks_the_same_questions_whatever_the_batch(name: str, fidelities: int) -> None:
    first, again = (run(make(name, space_of("full"), fidelities=fidelities), batch=batch) for batch in (10, 7))
    assert names(first) == names(again)


@pytest.mark.parametrize("name", ["random", "evolution"])
def test_another_seed_asks_other_questions(name: str) -> None:
    first, other = (set(names(run(make(name, space_of("full"), seed=seed), most=150))) for seed in (0, 1))
    assert len(first & other) < 75


@pytest.mark.parametrize("fidelities", [1, 2])
@pytest.mark.parametrize("name", RIVALS)
def test_failures_teach_nothing_and_stop_nothing(name: str, fidelities: int) -> None:
    space = space_of("full")
    algorithm = make(name, space, fidelities=fidelities)
    told = run(algorithm, answer=answering(failures=0.4))
    assert len(set(names(told))) == len(told)
    assert len(told) >= min(200, len(run(make(name, space, fidelities=fidelities))) // 3)


@pytest.mark.parametrize("fidelities", [1, 2])
@pytest.mark.parametrize("name", RIVALS)
def test_when_all_fails_a_small_space_still_ends(name: str, fidelities: int) -> None:
    algorithm = make(name, SearchSpace(SPEC, **FIXED, whole_layers=True), fidelities=fidelities)
    told = run(algorithm, answer=answering(failures=1.0))
    assert 0 < len(told) < 400
    assert algorithm.ask(10) == []


@pytest.mark.parametrize("name", RIVALS)
def test_a_question_without_an_answer_counts_as_failed(name: str) -> None:
    """The loop may stop in a batch; who asks on regardless gets neither the same question nor an error."""
    algorithm = make(name, space_of("full"), fidelities=2)
    told = []
    for turn in range(30):
        asked = algorithm.ask(10)
        told += asked
        if turn % 3:
            algorithm.tell([answering()(question) for question in asked[:4]])
    assert len({(question.candidate.key, question.fidelity) for question in told}) == len(told)


@pytest.mark.parametrize("objectives", [(ERROR, KV, SIZE), (SPEED, ERROR), (ERROR, metric_named("nll"))])
@pytest.mark.parametrize("space_name", ["full", "heads", "depth"])
@pytest.mark.parametrize("name", RIVALS)
def test_other_objectives_work(name: str, space_name: str, objectives: tuple[Metric, ...]) -> None:
    told = run(make(name, space_of(space_name), objectives, fidelities=2), most=100)
    assert full(told)
    assert len(set(names(told))) == len(told)


@pytest.mark.parametrize("name", RIVALS)
def test_a_goal_of_max_is_maximised(name: str) -> None:
    """The same problem with its signs turned leads to the same questions."""
    good, light = Metric("good", "", "max", "quality"), Metric("light", "", "max", "cost", free=True)

    def turned_free(candidate: Candidate) -> dict[str, float]:
        values = free(candidate)
        return {"light": -values["decoder_params"], "refit_error": values["refit_error"]}

    def turned(question: Question) -> Evaluation:
        values = {"good": -entangled(question.candidate), **turned_free(question.candidate)}
        return Evaluation(question.candidate, "", values=values)

    plain = run(make(name, space_of("full")))
    other = run(make(name, space_of("full"), (good, light), free=turned_free), answer=turned)
    assert names(plain) == names(other)


@pytest.mark.parametrize("name", RIVALS)
def test_nothing_is_printed(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run(make(name, space_of("full")), most=60)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_one_objective_and_no_fidelity_are_refused() -> None:
    with pytest.raises(UserError, match="at least two objectives"):
        make("ladders", space_of("full"), [ERROR])
    with pytest.raises(UserError, match="at least 1 fidelity"):
        make("ladders", space_of("full"), fidelities=0)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("random", {"tries": 0}, "expected tries"),
        ("evolution", {"targets": [0.5, 1.0]}, "expected targets above 0 and below 1"),
        ("evolution", {"targets": []}, "expected targets"),
        ("evolution", {"tolerance": 1.0}, "tolerance"),
        ("evolution", {"keep": 0.0}, "expected keep"),
        ("evolution", {"offspring": 0}, "expected offspring"),
        ("evolution", {"exchanges": 0}, "expected exchanges"),
        ("evolution", {"tries": 0}, "expected tries"),
        ("evolution", {"axis": "weight"}, "expected an axis among .*decoder_params"),
        ("dp", {"levels": 0}, "expected levels"),
        ("dp", {"designs": 1}, "at least 2 designs"),
    ],
)
def test_settings_out_of_range_are_named(name: str, settings: Mapping[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        make(name, space_of("full"), **settings)


@pytest.mark.parametrize("name", RIVALS)
def test_the_config_spells_out_every_setting_at_its_default(name: str) -> None:
    config = yaml.safe_load(
        (Path(__file__).parents[1] / "conf" / "search" / f"{name}.yaml").read_text(encoding="utf-8")
    )
    settings = config["algorithm"]
    module, _, cls = settings.pop("_target_").rpartition(".")
    assert getattr(importlib.import_module(module), cls) is RIVALS[name]
    assert settings.pop("_partial_") is True
    common = set(inspect.signature(Rival).parameters)
    defaults = {key: p.default for key, p in inspect.signature(RIVALS[name]).parameters.items() if key not in common}
    assert {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()} == settings
    assert config["ask"] == 10
