"""Types of matrices in a search: what sweeps ask, what tables price, and whether a search finds what pays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from evaluators.base import Evaluation
from evaluators.cost import cost_measure
from evaluators.latency.labels import label, option_of, outer_types, timed_options, times_of_all
from evaluators.latency.table import LatencyTable, PhaseTable
from evaluators.latency.workload import Workload
from evaluators.metrics import metrics_named
from evaluators.training.recipes import CorrectiveRefit, Distillation, Healing
from evaluators.typed import require_types
from search.algorithms import NSGA2
from search.pareto import non_dominated
from search.protocol import Algorithm, Task, starting_designs
from search.run.front import front_table, is_dense
from search.run.picks import require_unrounded
from search.surrogate.sensitivity import Sweep
from search.surrogate.surrogate import SurrogateNSGA2
from search.tables import tabulate
from space.candidate import Candidate
from space.errors import UserError
from space.limits import Limit, descend
from space.space import SearchSpace
from space.spec import ModelSpec
from space.types import GGUF_TYPES

SPEC = ModelSpec("tiny", "0", "llama", 4, 64, 4, 2, 32, 128, 400, True)
Q8, Q4 = GGUF_TYPES.index("q8_0"), GGUF_TYPES.index("q4_0")
BYTES = {0: 2.0, Q8: 34 / 32, Q4: 18 / 32}
LOST = {0: 0.0, Q8: 0.001, Q4: 0.03}
COSTS = cost_measure(SPEC, context=64)
SPACE, WIDTHS = SearchSpace(SPEC, mlp_step=32, types=["q8_0", "q4_0"]), SearchSpace(SPEC, mlp_step=32)


def toy_values(candidate: Candidate, dear: float = 1.0) -> dict[str, float]:
    """Bytes by type, and losses of widths and of types that add up; `dear` is how much the latter count."""
    kept = np.array([[shape.query_heads / 4, shape.mlp_channels / 128] for shape in candidate.layers])
    types = [(shape.attention_type, shape.mlp_type) for shape in candidate.layers]
    per_value = np.array([[BYTES[kind] for kind in pair] for pair in types])
    rounding = sum(LOST[kind] for pair in types for kind in pair) + LOST[candidate.embedding_type]
    size = float((kept * [24576, 24576] * per_value).sum()) + 25600 * BYTES[candidate.embedding_type]
    errors = float(((1 - kept) ** 2 * np.arange(1, 9).reshape(4, 2) / 8).sum())
    values = {"weights_bytes": size, "refit_error": errors + rounding, "kl": errors + dear * rounding}
    return {**COSTS.values(candidate), **values}


def task(dear: float) -> Task:
    def free(candidate: Candidate) -> Mapping[str, float]:
        return {name: value for name, value in toy_values(candidate, dear).items() if name != "kl"}

    starts = starting_designs(SPACE, range(4))
    return Task(SPACE, metrics_named("kl", "weights_bytes"), 0, free, starts, 1)


def asked(algorithm: Algorithm, count: int, dear: float) -> list[Evaluation]:
    answers: list[Evaluation] = []
    while len(answers) < count and (questions := algorithm.ask(10)):
        told = [Evaluation(each.candidate, "search", values=toy_values(each.candidate, dear)) for each in questions]
        algorithm.tell(told)
        answers += told
    return answers


@pytest.mark.parametrize("algorithm", ["nsga2", "surrogate"])
@pytest.mark.parametrize(("dear", "wanted"), [(0.1, Q4), (1000.0, 0)])
def test_a_search_finds_out_which_type_pays(algorithm: str, dear: float, wanted: int) -> None:
    asking = task(dear)
    made: Algorithm = NSGA2(asking)
    if algorithm == "surrogate":
        made = SurrogateNSGA2(asking, predictor="ridge", population=20, generations=3, improved=4)
    answers = asked(made, 110, dear)
    if algorithm == "surrogate":
        assert {design.key for design in SPACE.rounded_ladder()} <= {answer.candidate.key for answer in answers[:40]}
    values = np.array([[answer.values[name] for name in ("kl", "weights_bytes")] for answer in answers])
    front = [answer for answer, best in zip(answers, non_dominated(values), strict=True) if best]
    near = [answer.candidate for answer in front if 0.03 < answer.values["kl"] < 1.5]
    types = [kind for each in near for shape in each.layers for kind in (shape.attention_type, shape.mlp_type)]
    assert np.mean([kind == wanted for kind in types]) > (0.8 if algorithm == "surrogate" else 0.5)


def test_a_sweep_asks_about_types_at_the_dense_width_and_adds_what_widths_lose() -> None:
    errors = tabulate(SPACE, toy_values, ["refit_error"])["refit_error"].steps
    for levels, types in ((1, [Q4]), (4, [Q8, Q4])):
        sweep = Sweep(SPACE, errors, levels)
        plain = Sweep(WIDTHS, tabulate(WIDTHS, toy_values, ["refit_error"])["refit_error"].steps, levels)
        # one question for all blocks of a kind and type beside those of widths, and one for each type of the embedding
        assert len(sweep.designs) == len(plain.designs) + 2 * len(types) + 2
        losses = sweep.losses([toy_values(design)["kl"] for design in sweep.designs])
        exact = tabulate(SPACE, toy_values, ["kl"])["kl"].steps
        if levels == 4:
            np.testing.assert_allclose(losses, exact, atol=0.02)
        assert np.nanmax(np.abs(losses - exact)) < 0.3
        assert (np.isnan(losses) == np.isnan(exact)).all()


def test_a_table_prices_types_and_reads_back() -> None:
    assert outer_types(SPEC, (Q8, Q4)) == [(Q8, 0), (Q4, 0)]
    assert len(outer_types(replace(SPEC, tied_embeddings=False), (Q8, Q4))) == 8
    told: list[tuple[str, tuple[int, ...], str]] = [
        *(("mlp", (128, Q4), "128 q4_0"), ("mlp", (128,), "128"), ("mlp", (16, 0, 24), "16/24")),
        *(("attention", (4, 2), "4/2"), ("attention", (4, 2, Q4), "4/2 q4_0")),
    ]
    for kind, option, text in told:
        assert (label(kind, option), option_of(kind, text)) == (text, option)
    blocks = {"attention": {(4, 2): 2.0, (4, 2, Q8): 1.5}, "mlp": {(128,): 3.0, (128, Q4): 1.0}}
    table = PhaseTable(20.0, 5.0, blocks, 0.01, outer_ms={(Q4, 0): 4.0})
    whole = LatencyTable({"prefill": table}, {}, Workload())
    again = LatencyTable.from_json(whole.to_json())
    assert again.phases["prefill"].block_ms == blocks
    design = Candidate.from_rows([[4, 2, 128, Q8, Q4]], embedding_type=Q4)
    assert again.phases["prefill"].ms(design) == 6.5
    assert again.phases["prefill"].fitted({design: 13.0}).ms(design) > 9
    assert "outer_ms" not in LatencyTable({"prefill": replace(table, outer_ms={})}, {}, Workload()).to_json()
    (line,) = (line for line in whole.profile(Candidate.from_rows([[4, 2, 128]])) if "by channels" in line)
    assert "128 q4_0 33%, 128 100%" in line


def test_types_are_timed_at_the_full_width_alone() -> None:
    options: list[tuple[int, ...]] = [(32,), (64,), (32, Q4), (64, Q4), (64, Q8), (32, Q8)]
    timed = timed_options("mlp", options)
    assert timed == [(32,), (64,), (64, Q4), (64, Q8)]
    ms = dict(zip(timed, (2.0, 3.0, 1.0, 1.5), strict=True))
    assert times_of_all("mlp", ms, options) == ms | {(32, Q4): pytest.approx(2 / 3), (32, Q8): 1.0}
    assert times_of_all("mlp", ms | {(64,): 0.0}, options)[32, Q4] == 0
    heads: list[tuple[int, ...]] = [(9, 1), (9, 3), (9, 1, Q4), (9, 3, Q4)]
    assert timed_options("attention", heads) == [(9, 1), (9, 3), (9, 3, Q4)]


def test_a_limit_is_met_where_a_narrower_block_in_more_bits_has_more_of_it() -> None:
    steps = np.array([[-10.0, -4.0, 0.0, -6.0, -3.0, 0.0]])
    limit = Limit("ms", 20.0, steps, 13.0)
    for seed in range(4):
        genes = descend([limit], np.array([5]), np.array([0]), np.random.default_rng(seed))
        assert limit.holds(genes)
    assert genes[0] == 0


def test_the_dense_model_in_a_type_is_not_the_dense_model() -> None:
    dense = Candidate.dense(SPEC)
    rows = [(each, toy_values(each)) for each in (dense, *SPACE.rounded_ladder())]
    assert is_dense(front_table(rows, rows[0])).tolist() == [True, False, False]
    with pytest.raises(UserError, match="Expected points without types of matrices to serve"):
        require_unrounded([dense, *SPACE.rounded_ladder()], "to serve")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workload": Workload()}, "latency.engine=torch: expected llamacpp"),
        ({"workload": Workload(engine="llamacpp", gguf_type="q8_0")}, "gguf_type=q8_0: expected f16"),
        ({"distillation": Distillation(tokens=(64,))}, "expected healing, or neither"),
        ({"training": "off"}, "expected healing, or neither"),
    ],
)
def test_what_does_not_go_with_types_is_refused(changes: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {
        "workload": Workload(engine="llamacpp"),
        "correction": CorrectiveRefit(4),
        "distillation": Healing(),
        "training": "loop",
    }
    require_types(**given)
    require_types(**{**given, "correction": None, "training": "off"})
    with pytest.raises(UserError, match=said):
        require_types(**{**given, **changes})
