"""A run directory that grows line by line, as a search leaves it, and its end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from helpers_front import meaning
from helpers_toy import toy_spec

from evaluators.base import Evaluation
from evaluators.metrics import metrics_named
from search.archive import FORMAT
from search.run.front import front_table, points_table, write_front_csv
from space.candidate import Candidate, LayerShape

SPEC = replace(toy_spec(layers=4), name="tiny", mlp_channels=96)
DENSE = Candidate.dense(SPEC)
OBJECTIVES = metrics_named("kl", "latency_ms")
FIDELITIES = ("search-16", "search", "distilled-96")


def design(channels: int) -> Candidate:
    """A design by the channels of its first layer."""
    return Candidate((LayerShape(4, 2, channels), *DENSE.layers[1:]))


def evaluation(candidate: Candidate, kl: float, latency: float, fidelity: str = "search", **more: Any) -> Evaluation:
    """An answer of the search."""
    size = float(sum(shape.mlp_channels + 10 * shape.query_heads for shape in candidate.layers))
    dense = float(sum(shape.mlp_channels + 10 * shape.query_heads for shape in DENSE.layers))
    values = {"kl": kl, "latency_ms": latency, "decoder_params": size, "decoder_params_removed": 1 - size / dense}
    more = {"generation": int(fidelity in FIDELITIES), **more}
    return Evaluation(candidate, fidelity, values=values, tokens=100, **more)


SEARCHED = [
    evaluation(DENSE, 0.0, 100.0),
    evaluation(design(64), 0.2, 80.0),
    evaluation(design(32), 0.6, 60.0),
    evaluation(design(16), 0.9, 70.0),
    evaluation(design(0), 2.0, 40.0),
]
KEYS = frozenset(each.candidate.key for each in SEARCHED)
HOSTILE = "../<script>alert(1)</script>{%config%}{{live}}"


def lines(evaluations: list[Evaluation]) -> str:
    """What an archive has of evaluations."""
    return "".join(json.dumps(each.to_json()) + "\n" for each in evaluations)


def header(model: dict[str, Any] | None = None, fidelities: Sequence[str] = FIDELITIES) -> str:
    """An archive's first line."""
    settings = {"model": model or SPEC.to_json(), "text": "t", "dtype": "float32", "latency": "l"}
    settings["fidelities"] = list(fidelities)
    return json.dumps({"format": FORMAT, "settings": settings}) + "\n"


def begin(run_dir: Path, evaluations: list[Evaluation], *, tokens: int = 2000, model: Any = None) -> Path:
    """A run that searches."""
    run_dir.mkdir(parents=True)
    config = {
        "budget": {"_target_": "search.loop.Budget", "evaluations": None, "tokens": tokens},
        "objectives": ["kl", "latency_ms"],
        "search": {"ask": 5, "distillation": "off"},
    }
    (run_dir / "config.yaml").write_text(yaml.safe_dump(config))
    (run_dir / "archive.jsonl").write_text(header(model) + lines(evaluations))
    return run_dir


def end(run_dir: Path, evaluations: list[Evaluation], *, model: Any = None) -> None:
    """The files with which a run ends."""
    points = [(e.candidate, {**e.values, "heldout_ppl": 10 + 20 * e.values["kl"]}) for e in evaluations]
    dense = next(point for point in points if point[0] == DENSE)
    front = [point for point in points if point[0] != design(16)]
    tables = front_table(front, dense), points_table(points, dense)
    for name, table in zip(("front.csv", "points.csv"), tables, strict=True):
        write_front_csv(run_dir / name, table)
    facts = {"model": model or SPEC.to_json(), "text": "t", "dtype": "float32", **meaning(tables, OBJECTIVES)}
    (run_dir / "summary.json").write_text(json.dumps({**facts, "evaluations": len(evaluations)}))
