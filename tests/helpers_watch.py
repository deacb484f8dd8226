"""What is seen of a search in the tests of its views: a state on its way, and an end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from helpers_toy import toy_spec

from evaluators.base import Evaluation
from evaluators.latency.table_error import TableError
from evaluators.metrics import metric_named
from search.loop import Budget, SearchProgress
from search.run.finish import Finish
from search.run.front import front_table
from search.run.measured import Measured
from search.run.recommended import Advice
from search.views.watch.events import (
    Event,
    Opened,
    Remarks,
    Searched,
    SearchEnded,
    StageBegun,
    StageEnded,
    StageStep,
)
from space.candidate import Candidate, LayerShape

KL, LATENCY = metric_named("kl"), metric_named("latency_ms")
DENSE = Candidate.dense(toy_spec(3))
NAME = "model\x1b[31m [bold]x[/bold] " + "long" * 30
RUN_DIR = Path("results/a run")


def narrow(channels: int) -> Candidate:
    return Candidate((LayerShape(4, 2, channels),) * 3)


def answer(channels: int, fidelity: str = "search") -> Evaluation:
    removed = 1 - channels / 16
    values = {"kl": removed**2, "latency_ms": 200.0 + channels, "decoder_params_removed": removed}
    candidate = DENSE if channels == 16 else narrow(channels)
    return Evaluation(candidate, fidelity, values=values, tokens=100, predicted={"kl": removed})


PROGRESS = SearchProgress(
    budget=Budget(tokens=1_000_000),
    objectives=(KL, LATENCY),
    generation=3,
    generation_done=True,
    latest=answer(4),
    counts={"search-128": 500, "search": 40},
    replayed=7,
    failed=2,
    tokens=250_000,
    seconds=60.0,
    fidelity="search",
    hypervolume=0.75,
    front=tuple(answer(channels) for channels in (16, 14, 8, 4)),
    remark="kl by gp (cross-validated tau 0.91): tau 0.87; fidelity 0 to 1: tau 0.95",
)


def search_ended() -> SearchEnded:
    size = {"decoder_params": 1000.0, "params": 2000.0, "heldout_ppl": 10.0, "latency_e2e_ms": 200.0}
    faster = {n: {"decoder_params": 60.0 * n, "latency_e2e_ms": 150.0 + n} for n in (8, 4)}
    points = [(answer(n).candidate, {**answer(n).values, **size, **faster[n]}) for n in faster]
    front = front_table(points, (DENSE, {**answer(16).values, **size}))
    advice = Advice.of(front, (KL, LATENCY), 0.15)
    error, taus = TableError(0.02, 0.05, float("nan")), {"kl, heldout_kl": float("nan")}
    result = Finish(front, advice, error, 1, taus, Measured({"device": "toy"}, {"device": "toy"}))
    return SearchEnded(RUN_DIR, NAME, (KL, LATENCY), result)


EVENTS: tuple[Event, ...] = (
    StageBegun("latency table"),
    StageStep("latency table", 3, 12),
    StageEnded("latency table", 12.0),
    Opened(RUN_DIR, NAME),
    Remarks(["the table is good", "WARNING: it is not"]),
    StageBegun("search"),
    Searched(PROGRESS, 120.0),
    Searched(replace(PROGRESS, tokens=500_000, hypervolume=0.9), 60.0),
)
