"""What the page draws while a search runs: the archive's points, as a front that it would end with now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluators.base import Evaluation, Metric
from evaluators.metrics import BEFORE_TUNING, REMOVED, metrics_of
from search.archive import front_of
from search.run.finished import FinishedRun
from search.run.front import Point, front_table, points_table
from search.views.page.plot import front_figure_data
from space.candidate import Candidate
from space.spec import ModelSpec

Evaluations = Mapping[str, Mapping[str, Evaluation]]  # by fidelity and key


def searching_figure(
    evaluations: Evaluations,
    settings: Mapping[str, Any],
    objectives: Sequence[Metric],
    run_dir: Path,
    compared: Sequence[FinishedRun],
) -> dict[str, Any] | None:
    """The front of the dearest fidelity that has answered, as the end of a search would take it from the archive.

    Args:
        evaluations: So far.
        settings: The archive's; its `fidelities` are those of the search, cheapest first.
        objectives: What the front is about.
        run_dir: As commands are to name it.
        compared: Other runs, whose fronts are laid over.

    Returns:
        See `search.views.page.plot.front_figure_data`; None before there is a point.
    """
    spec = ModelSpec(**settings["model"])
    key = Candidate.dense(spec).key
    searched = {name: evaluations[name] for name in settings["fidelities"] if name in evaluations}
    fronts = {name: front_of(answers.values(), objectives) for name, answers in searched.items()}
    answered = [name for name, front in fronts.items() if front]
    if not answered:
        return None
    # a dear fidelity begins with the dense model, which is no front yet
    fidelities = [name for name in answered if any(e.candidate.key != key for e in fronts[name])] or answered
    trained = _trained(fidelities[-1])
    plain = evaluations[next((name for name in reversed(fidelities) if not _trained(name)), fidelities[-1])]

    def values(evaluation: Evaluation) -> dict[str, float]:
        """An evaluation's, and where it is of a trained subnet, those from before."""
        before = plain.get(evaluation.candidate.key)
        if not trained or before is None:
            return dict(evaluation.values)
        untuned = {name: before.values[old] for old, name in BEFORE_TUNING.items() if old in before.values}
        return {**evaluation.values, **untuned}

    dense = _dense(Candidate.dense(spec), searched, plain)
    front = [(e.candidate, values(e)) for e in fronts[fidelities[-1]]]
    evaluated = [(e.candidate, dict(e.values)) for e in plain.values() if e.status == "ok"]
    facts = {name: settings.get(name) for name in ("model", "text", "dtype")}
    about = {"objectives": [m.name for m in objectives], "metrics": [asdict(m) for m in objectives]}
    tables = front_table(front, dense), points_table(evaluated, dense)
    return front_figure_data(FinishedRun(run_dir, {}, {**facts, **about}, *tables), compared)


def _trained(fidelity: str) -> bool:
    return fidelity.startswith("distilled")


def _dense(dense: Candidate, searched: Evaluations, plain: Mapping[str, Evaluation]) -> Point:
    """The dense model with what is known of it: its costs of any fidelity, its quality of the plain points' alone."""
    if dense.key in plain and plain[dense.key].status == "ok":
        return dense, dict(plain[dense.key].values)
    others = [answers[dense.key] for answers in searched.values() if dense.key in answers]
    for evaluation in others:
        if evaluation.status == "ok":
            costs = [metric.name for metric in metrics_of(evaluation.values) if metric.is_cost]
            return dense, {name: evaluation.values[name] for name in costs}
    values = next(e.values for e in plain.values() if e.status == "ok")
    return dense, {"decoder_params": round(values["decoder_params"] / (1 - values[REMOVED]))}
