"""The end of a search: its front scored on held-out text, timed end to end, and written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd

from evaluators.base import Evaluation, Evaluator, Metric
from evaluators.latency.table_error import TableError
from search.agreement import rank_correlation
from search.archive import Archive
from search.pareto import minimised, spread_subset
from search.run.directory import REPORT_FILE, SUMMARY_FILE
from search.run.finished import FinishedRun
from search.run.front import BEFORE_TUNING, confirmed, dense_row, front_table, is_dense, points_table
from search.run.front_files import write_front
from search.views.report.page import report_text, versions
from space.candidate import Candidate
from space.errors import UserError
from space.files import write_whole
from space.space import evenly

REFERENCE_POINTS = 8
HELDOUT_BEFORE_TUNING = {"heldout_kl": "refit_kl", "heldout_ppl": "refit_ppl"}

Show = Callable[[int, int], None]


@dataclass(frozen=True)
class Finish:
    """What a run ends with.

    Attributes:
        front: The front's table, the dense model's row in it.
        table_error: The latency table's error over all timed points.
        dropped: Front members of the search that held-out text or end-to-end timing showed to be dominated by another.
        agreement: Kendall's tau over the pruned members between a quality and the one that is dearer to ask: of the
            search's text and held-out text, and of held-out text before and after the corrective refit.
    """

    front: pd.DataFrame
    table_error: TableError
    dropped: int
    agreement: Mapping[str, float]

    def numbers(self) -> dict[str, float]:
        """The facts beside the front, by name; NaN where there is none."""
        error = {f"latency_table_error/{name}": value for name, value in asdict(self.table_error).items()}
        taus = {f"rank_correlation/{names.replace(', ', ' to ')}": tau for names, tau in self.agreement.items()}
        return {"front_points": len(self.front) - 1, "dropped": self.dropped, **error, **taus}

    def remarks(self) -> list[str]:
        """What a person should know of it beside the front, in lines."""
        taus = ", ".join(f"{names.replace(', ', ' to ')} {tau:.2f}" for names, tau in self.agreement.items())
        error = self.table_error
        return [
            f"latency table against end to end: {error}",
            f"rank correlation (Kendall's tau): {taus}",
            f"{self.dropped} points left out: on held-out text and end to end, another is better and faster",
        ]


def evaluate(
    evaluator: Evaluator,
    archive: Archive,
    candidates: Sequence[Candidate],
    *,
    together: bool = False,
    show: Show = lambda done, of: None,
) -> list[Evaluation]:
    """Evaluations of all candidates, from the archive as far as it has them.

    Args:
        evaluator: Asked about the rest.
        archive: Where its answers are stored.
        candidates: Which.
        together: Whether to ask about all in one call; else each answer is stored before the next question.
        show: Called with how many are evaluated, of how many.
    """
    missing = [candidate for candidate in candidates if archive.get(candidate.key, evaluator.fidelity) is None]
    size = max(1, len(missing)) if together else 1
    for start in range(0, len(missing), size):
        evaluator.expect(missing[start:])
        for evaluation in evaluator(missing[start : start + size]):
            archive.add(evaluation)
        show(start + size, len(missing))
    found = [archive.get(candidate.key, evaluator.fidelity) for candidate in candidates]
    return [evaluation for evaluation in found if evaluation is not None]


def finish(
    archive: Archive,
    objectives: Sequence[Metric],
    dense: Candidate,
    *,
    search: Evaluator,
    trained: Evaluator | None,
    heldout: Evaluator,
    tuned: Evaluator | None,
    timed: Evaluator,
    points: int,
    run_dir: Path,
    facts: Mapping[str, Any],
    config: Mapping[str, Any],
    reference: Sequence[Candidate] = (),
    compared: Sequence[FinishedRun] = (),
    show: Show = lambda done, of: None,
) -> Finish:
    """Scores, times and writes the front of a finished search.

    A thinned front is scored on held-out text, before and after the tuning that its exports will have; members that the
    last score shows to be dominated by another are left out. The rest is timed end to end beside the dense model, and
    members that the timings show to be dominated go too.

    Args:
        archive: With the search's evaluations; held-out scores and timings are stored there too.
        objectives: What the front is about.
        dense: The dense model.
        search: The search's full evaluator; the dense model is asked too, in case the space leaves it out.
        trained: Gives the same of trained subnets; then the front is theirs, and the untrained qualities have columns
            of their own.
        heldout: Gives `heldout_kl` and `heldout_ppl`.
        tuned: Gives the same of tuned subnets; then those of `heldout` are columns `refit_kl` and `refit_ppl`.
        timed: Gives `latency_e2e_ms`.
        points: How many members at most.
        run_dir: Where `front.csv`, `points.csv`, `front.html`, `summary.json` and `report.md` go; commands on the page
            name it so.
        facts: What `summary.json` says besides; the page and the report need `model`, `text`, `dtype` and `latency`.
        config: The run's configuration, nested mappings, for the report.
        reference: Plain designs that anyone would try, evaluated like the search's own at the end of every run, so that
            the page can show what the search is worth; `REFERENCE_POINTS` of them, evenly chosen.
        compared: Other runs, whose fronts the page lays over this one's.
        show: Called with how much of a step of this is done, of how much.

    Raises:
        UserError: The dense model cannot be evaluated.
    """
    dense_search, *_ = evaluate(search, archive, [dense, *evenly(reference, REFERENCE_POINTS)], show=show)
    if dense_search.status == "failed":
        raise UserError(f"Expected the dense model to be evaluated, but it failed: {dense_search.error}")
    deciding = trained or search
    members = [e for e in archive.front(objectives, deciding.fidelity) if e.candidate.key != dense.key]
    if len(members) > points:
        kept = spread_subset(minimised([e.values for e in members], objectives), points)
        members = [members[index] for index in sorted(kept)]
    merged = {e.candidate.key: (e.candidate, dict(e.values)) for e in [dense_search, *members]}
    if trained is not None:
        for key, (_, values) in merged.items():
            before = archive.get(key, search.fidelity)
            known = before.values if before is not None else {}
            values.update({name: known[old] for old, name in BEFORE_TUNING.items() if old in known})

    def add(evaluator: Evaluator, keys: Sequence[str], *, together: bool = False) -> None:
        for evaluation in evaluate(evaluator, archive, [merged[key][0] for key in keys], together=together, show=show):
            if evaluation.status == "ok":
                merged[evaluation.candidate.key][1].update(evaluation.values)
            elif evaluation.candidate.key == dense.key:  # the yardstick of all others
                raise UserError(f"Expected the dense model to be evaluated, but it failed: {evaluation.error}")

    add(heldout, list(merged))
    qualities = ["kl", "heldout_kl"]
    if tuned is not None:
        for _, values in merged.values():
            values.update({new: values.pop(old) for old, new in HELDOUT_BEFORE_TUNING.items() if old in values})
        add(tuned, list(merged))
        qualities.insert(1, HELDOUT_BEFORE_TUNING["heldout_kl"])
    if trained is not None:
        qualities = [BEFORE_TUNING["kl"], "kl", "heldout_kl"]
    agreement = {f"{low}, {high}": _agreement(merged.values(), low, high) for low, high in pairwise(qualities)}
    scored = front_table(merged.values(), merged[dense.key])
    kept_frame = confirmed(scored, objectives)
    add(timed, [str(key) for key in kept_frame["key"]], together=True)
    measured = front_table([merged[str(key)] for key in kept_frame["key"]], merged[dense.key])
    error = _table_error(measured)
    front = confirmed(measured, [_timed_for(metric, timed.metrics) for metric in objectives])
    evaluated = [(e.candidate, e.values) for e in archive.evaluations(search.fidelity) if e.status == "ok"]
    everything = points_table(evaluated, merged[dense.key])
    front = write_front(run_dir, archive, front, everything, objectives, facts, compared)
    summary = {
        **facts,
        "evaluations": len(archive.evaluations(search.fidelity)),
        "objectives": [asdict(metric) for metric in objectives],
        "latency_table_error": {name: None if value != value else value for name, value in asdict(error).items()},
        "rank_correlation": {names: None if tau != tau else tau for names, tau in agreement.items()},
        "front_points": len(front) - 1,
        "dropped": len(scored) - len(front),
        "versions": versions(),
        "dense": {name: float(value) for name, value in dense_row(front).items() if isinstance(value, Real)},
    }
    write_whole(run_dir / SUMMARY_FILE, json.dumps(summary, indent=1) + "\n")
    report = report_text(run_dir, front, objectives, summary, config, archive.evaluations())
    write_whole(run_dir / REPORT_FILE, report)
    return Finish(front, error, len(scored) - len(front), agreement)


def _agreement(members: Iterable[tuple[Candidate, Mapping[str, float]]], one: str, other: str) -> float:
    """Rank correlation of two qualities over pruned members, whose divergence is not 0."""
    return rank_correlation([(v[one], v[other]) for _, v in members if v.get(one, 0) > 0 and other in v])


def _timed_for(metric: Metric, timed: Sequence[Metric]) -> Metric:
    """What end-to-end timing has for a metric; the first of its metrics stands for the whole workload."""
    if not metric.name.endswith("_ms"):
        return metric
    names = {one.name: one for one in timed}
    return names.get(metric.name.replace("_ms", "_e2e_ms"), timed[0])


def _table_error(measured: pd.DataFrame) -> TableError:
    timed = measured.dropna(subset=["latency_e2e_ms"])
    timed = timed[~is_dense(timed)]  # which is the unit
    return TableError.of(timed["latency_ms"].tolist(), timed["latency_e2e_ms"].tolist())
