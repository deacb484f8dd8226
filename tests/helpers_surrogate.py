"""A problem that can be computed, and the default search of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from helpers_toy import toy_spec

from evaluators.base import Evaluation, Measure, MeasureEvaluator, Metric
from evaluators.cost import cost_measure
from evaluators.metrics import metric_named
from search.archive import Archive
from search.loop import Budget, SearchProgress, run_loop
from search.protocol import Algorithm
from space.candidate import Candidate
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
