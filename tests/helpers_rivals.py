"""A problem that can be computed, the spaces to search it in, and rivals that are asked and answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from helpers_toy import toy_spec

from evaluators.base import Evaluation, Metric
from evaluators.cost import cost_measure
from evaluators.metrics import metric_named
from search.protocol import Algorithm, Question, Task
from search.rivals.additive import AdditiveDesigns
from search.rivals.baselines import Ladders, RandomSearch
from search.rivals.evolution import Evolution
from search.rivals.greedy import GreedyRemoval
from search.rivals.script import Rival
from space.candidate import Candidate
from space.space import SearchSpace

LAYERS = 6
SPEC = toy_spec(layers=LAYERS)
DENSE = Candidate.dense(SPEC)
ERROR = Metric("error", "", "min", "quality")
SIZE = metric_named("decoder_params")
KV = metric_named("kv_bytes")
SPEED = Metric("speed", "", "max", "latency", free=True)
OBJECTIVES = (ERROR, SIZE)
LOSS = np.random.default_rng(7).uniform(0.05, 1.0, (LAYERS, 2)) ** 2
PAIR = np.random.default_rng(8).uniform(0.0, 1.0, (2 * LAYERS, 2 * LAYERS))  # what two blocks lose together

COSTS = cost_measure(SPEC, context=64).values

RIVALS: dict[str, type[Rival]] = {
    "random": RandomSearch,
    "ladders": Ladders,
    "greedy": GreedyRemoval,
    "evolution": Evolution,
    "dp": AdditiveDesigns,
}
FIXED = {"attention_widths": False, "mlp_widths": False, "remove_attention": False, "remove_mlp": False}
SPACES: dict[str, dict[str, Any]] = {
    "full": {"mlp_step": 2, "min_decoder_params": 0.3},
    "depth": {**FIXED, "whole_layers": True, "min_decoder_params": 0.3},
    "width": {"mlp_step": 4, "remove_attention": False, "remove_mlp": False, "min_decoder_params": 0.4},
    "heads": {"mlp_widths": False, "remove_mlp": False, "min_decoder_params": 0.8},
    "uniform": {"mlp_step": 4, "remove_attention": False, "remove_mlp": False, "same_for_all_layers": True},
    "blocks": {"attention_widths": False, "mlp_widths": False, "min_layers": 4, "freeze_layers": [0]},
    "without dense": {"mlp_step": 4, "min_decoder_params": 0.35, "max_decoder_params": 0.7},
}


def lost(candidate: Candidate) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The part that each block has lost, `(2 * layers,)`."""
    kept = [[s.query_heads / SPEC.query_heads, s.mlp_channels / SPEC.mlp_channels] for s in candidate.layers]
    return 1 - np.array(kept).ravel()


def free(candidate: Candidate) -> dict[str, float]:
    speed = sum(1.0 - 0.04 * s.query_heads - 0.02 * s.mlp_channels for s in candidate.layers)
    return {**COSTS(candidate), "speed": speed, "refit_error": float((lost(candidate) ** 2).sum())}


def separable(candidate: Candidate) -> float:
    """A sum over blocks, each linear in what the blocks' refit errors are."""
    return float((LOSS.ravel() * lost(candidate) ** 2).sum())


def entangled(candidate: Candidate) -> float:
    """Blocks that are lost together hurt more than the sum."""
    part = lost(candidate)
    return separable(candidate) + float(part @ PAIR @ part) / LAYERS


Answer = Callable[[Question], Evaluation]


def answering(error: Callable[[Candidate], float] = entangled, *, noise: float = 0.0, failures: float = 0.0) -> Answer:
    """Answers that are functions of the question: cheap fidelities are off by `noise`, and a part fails for good."""

    def answer(question: Question) -> Evaluation:
        candidate = question.candidate
        rng = np.random.default_rng([int(candidate.key[1:], 16), question.fidelity + 1])
        if rng.random() < failures:
            return Evaluation(candidate, str(question.fidelity), status="failed", error="RuntimeError: no")
        off = 1.0 if question.fidelity == -1 else 1.0 + noise * rng.standard_normal()
        return Evaluation(
            candidate, str(question.fidelity), values={**free(candidate), "error": error(candidate) * off}
        )

    return answer


def run(
    algorithm: Algorithm, *, most: int = 400, batch: int = 10, answer: Answer | None = None
) -> list[tuple[Question, Evaluation]]:
    answer = answer or answering()
    told: list[tuple[Question, Evaluation]] = []
    while len(told) < most and (asked := algorithm.ask(batch)):
        assert len(asked) <= batch
        answers = [answer(question) for question in asked]
        algorithm.tell(answers)
        told += zip(asked, answers, strict=True)
    return told[:most]


def names(told: Sequence[tuple[Question, Evaluation]]) -> list[tuple[str, int]]:
    return [(question.candidate.key, question.fidelity) for question, _ in told]


def full(told: Sequence[tuple[Question, Evaluation]]) -> list[Evaluation]:
    return [evaluation for question, evaluation in told if question.fidelity == -1]


def make(name: str, space: SearchSpace, objectives: Sequence[Metric] = OBJECTIVES, **settings: Any) -> Rival:
    starts = [DENSE, *space.uniform_ladder(), *space.depth_ladder([3, 1, 4, 2, 0, 5])]
    quick = {"tries": 10} if name == "evolution" else {}
    given = {"starts": starts, "free": free, **settings}
    task = Task(
        space,
        objectives,
        **{field: given.pop(field) for field in ("seed", "starts", "free", "fidelities") if field in given},
    )
    return RIVALS[name](task, **{**quick, **given})


def space_of(name: str) -> SearchSpace:
    return SearchSpace(SPEC, **SPACES[name])
