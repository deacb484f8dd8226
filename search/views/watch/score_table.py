"""Task scores for the terminal: a line an answer, and a table beside the dense model's."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from rich import box
from rich.table import Table

from evaluators.base import STDERR, Evaluation, Evaluator
from search.archive import Archive
from search.run.scores import Retention, column_title
from space.candidate import Candidate


def score_table(
    archive: Archive, evaluators: Sequence[Evaluator], dense: Candidate, candidates: Sequence[Candidate]
) -> Table:
    """Scores of candidates beside the dense model's, for the terminal; all have been asked.

    The last line of a candidate is the mean over tasks of `acc_norm`, or `acc` of those without.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in ("key", "task", "metric"):
        table.add_column(name, no_wrap=True)
    for name in ("shots", "items", "score", "dense", "of dense"):
        table.add_column(name, justify="right", no_wrap=True)
    for candidate in candidates:
        judged: list[tuple[tuple[Evaluation, Evaluation], str]] = []
        for evaluator in evaluators:
            subnet, reference = (archive.get(one.key, evaluator.fidelity) for one in (candidate, dense))
            assert subnet is not None
            assert reference is not None
            pair, facts = (subnet, reference), subnet.facts
            for column, goal in facts["goals"].items():
                if column in reference.values and column in subnet.values:
                    metric = column.removeprefix(f"{facts['task']}_") + (" ↓" if goal == "min" else " ↑")
                    cells = str(facts["num_fewshot"]), str(facts["items"]), *_cells([pair], [column])
                    table.add_row(candidate.key, column_title(archive, {"": subnet}, facts["task"]), metric, *cells)
            if facts["accuracy"]:
                judged.append((pair, facts["accuracy"]))
        if len(judged) > 1:
            means = _cells([pair for pair, _ in judged], [column for _, column in judged])
            table.add_row(candidate.key, "mean", "accuracy ↑", "", "", *means, style="bold", end_section=True)
    return table


def answer_line(answer: Evaluation) -> str:
    """One answer for people."""
    facts = answer.facts
    scores = ", ".join(
        f"{column.removeprefix(facts['task'] + '_')} {_said(answer.values[column], answer.values.get(column + STDERR))}"
        for column in facts["goals"]
    )
    return f"{answer.candidate.key}, {facts['task']}: {scores} ({facts['items']} items, {answer.seconds:.0f} s)"


def _cells(pairs: Sequence[tuple[Evaluation, Evaluation]], columns: Sequence[str]) -> list[str]:
    """Score, dense score and retention of the mean over tasks, each with its standard error."""
    cells = []
    for answers in zip(*pairs, strict=True):
        scores = [answer.values[column] for answer, column in zip(answers, columns, strict=True)]
        errors = [answer.values.get(column + STDERR, math.nan) for answer, column in zip(answers, columns, strict=True)]
        cells.append(_said(float(np.mean(scores)), math.hypot(*errors) / len(errors)))
    retention = Retention.of(pairs, columns)
    return [*cells, _said(retention.value, retention.stderr)]


def _said(value: float, stderr: float | None) -> str:
    """A value and its standard error."""
    form = "{:.3f}" if abs(value) < 100 else "{:.0f}" if abs(value) < 1e6 else "{:.2e}"
    error = "" if stderr is None or math.isnan(stderr) else " ± " + form.format(stderr)
    return "–" if math.isnan(value) else form.format(value) + error
