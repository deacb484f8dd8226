"""The data of front.html of made-up points."""

from __future__ import annotations

from typing import Any

import pandas as pd
from helpers_front import finished_run

from evaluators.base import Metric
from evaluators.metrics import metric_named
from search.run.finished import FinishedRun
from search.run.front import Point, front_table, points_table
from search.views.page.plot import front_figure_data
from space.candidate import Candidate, LayerShape

KL = metric_named("kl")
LATENCY = metric_named("latency_ms")
DENSE: Point = (
    Candidate((LayerShape(4, 2, 256),) * 3),
    {"kl": 0.0, "heldout_ppl": 10.0, "latency_ms": 9.0, "params": 2000.0, "decoder_params": 1000.0},
)


def point(channels: int, **values: float) -> Point:
    """A pruned point with a whole layer and an attention block gone."""
    layers = (LayerShape(2, 1, channels), LayerShape(0, 0, 0), LayerShape(0, 0, channels))
    return Candidate(layers), {**DENSE[1], "decoder_params": 2.0 * channels, **values}


FRONT = front_table([point(n, kl=1 / n, latency_ms=n / 10, heldout_ppl=10 + 9 / n) for n in (16, 32, 64)], DENSE)
DOMINATED = points_table([(c, {k: v for k, v in m.items() if k != "heldout_ppl"}) for c, m in [point(48)]], DENSE)
HOSTILE = "</script><script>alert(1)</script><!--<script> & \" ' {{data}} \u2028"
FACTS: dict[str, Any] = {
    "model": {"name": "tiny", "digest": "r1"},
    "text": "t",
    "dtype": "d",
    "latency": {"device": "cpu"},
}


def figure(
    front: pd.DataFrame = FRONT,
    evaluated: pd.DataFrame = DOMINATED,
    objectives: tuple[Metric, ...] = (KL, LATENCY),
    title: str = "tiny",
    run_dir: str = "results/run",
    compared: tuple[FinishedRun, ...] = (),
    scores: tuple[Metric, ...] = (),
    texts: dict[str, list[str]] | None = None,
) -> dict[str, Any]:
    facts = {**FACTS, "model": {**FACTS["model"], "name": title}}
    if texts is not None:
        facts["samples"] = {"prompts": [HOSTILE], "new_tokens": 3, "texts": texts}
    run = finished_run(run_dir, front, evaluated, objectives, facts, scores=scores)
    return front_figure_data(run, compared)


def series(data: dict[str, Any], role: str, run: int = 0) -> dict[str, Any]:
    (found,) = [one for one in data["series"] if (one["role"], one["run"]) == (role, run)]
    assert isinstance(found, dict)
    return found
