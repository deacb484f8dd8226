"""Task scores: asked once, kept in the archive, columns of the front's tables, and a part of the dense model's."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluators.base import OPTIMISED, STDERR, Evaluation, Evaluator, Metric
from evaluators.metrics import task_score
from search.archive import Archive, by_fidelity
from search.run.front import CANDIDATE
from space.candidate import Candidate
from space.errors import UserError


def score(
    evaluators: Sequence[Evaluator],
    archive: Archive,
    candidates: Iterable[Candidate],
    on_answer: Callable[[Evaluation], None] = lambda answer: None,
) -> None:
    """Asks about each candidate what the archive does not know yet; every answer is on disk before the next question.

    Args:
        evaluators: One a task.
        archive: Where scores are looked up and stored.
        candidates: Whom to score.
        on_answer: Called with every new answer.

    Raises:
        UserError: A candidate cannot be scored; nothing is stored of that.
    """
    for candidate in candidates:
        for evaluator in evaluators:
            if archive.get(candidate.key, evaluator.fidelity) is not None:
                continue
            (answer,) = evaluator.evaluate([candidate])
            if answer.status == "failed":
                raise UserError(
                    f"Expected {evaluator.fidelity} to be answered by {candidate.key}, but it failed: {answer.error} "
                    "Other scores are kept. Where memory was short, set a smaller batch_size."
                )
            archive.add(answer)
            on_answer(answer)


def with_scores(frame: pd.DataFrame, archive: Archive) -> pd.DataFrame:
    """A table of points with a column for each task score in the archive, and for its standard error.

    Of several questions about one task, such as with other numbers of items, the column is of the one with most items,
    then of the latest, for all points; where it was not asked, the cell is empty. A task that was an objective of the
    search is no held-out one: its columns' names begin with `optimised_`.
    """
    scores = _scored(archive)
    values = [(fidelity, name) for fidelity in scores for name in _columns(scores[fidelity].values())]
    stale = {column_title(archive, scores[fidelity], name) for fidelity, name in values}
    frame = frame.drop(columns=[name for name in frame.columns if name in stale])
    place = list(frame.columns).index(CANDIDATE)
    for fidelity in _shown(scores).values():
        answers = scores[fidelity]
        for name in _columns(answers.values()):
            column = [answers[key].values.get(name, math.nan) if key in answers else math.nan for key in frame["key"]]
            if not np.isnan(column).all():
                frame.insert(place, column_title(archive, answers, name), column)
                place += 1
    return frame


def score_metrics(archive: Archive) -> list[Metric]:
    """What the columns of task scores mean, those of standard errors not among them."""
    scores = _scored(archive)
    goals: dict[str, str] = {}
    for fidelity in _shown(scores).values():
        for answer in scores[fidelity].values():
            goals |= {
                column_title(archive, scores[fidelity], name): goal for name, goal in answer.facts["goals"].items()
            }
    return [task_score(name, "min" if goal == "min" else "max") for name, goal in goals.items()]


@dataclass(frozen=True)
class Retention:
    """A score as a part of the dense model's, and its standard error.

    Where both have a right or wrong for every item, the error is that of a ratio of means over paired items, and else
    that of a ratio of independent scores, which is larger.
    """

    value: float
    stderr: float

    @classmethod
    def of(cls, pairs: Sequence[tuple[Evaluation, Evaluation]], columns: Sequence[str]) -> Retention:
        """Of the mean over tasks.

        Args:
            pairs: For each task, the subnet's answer and the dense model's.
            columns: For each task, which of its scores.

        Returns:
            NaN where the dense model scores 0, and a NaN error where a score has none.
        """
        subnet, dense = (
            np.mean([answer.values[column] for answer, column in zip(answers, columns, strict=True)])
            for answers in zip(*pairs, strict=True)
        )
        if dense == 0:
            return cls(math.nan, math.nan)
        ratio = float(subnet / dense)
        errors = [_difference_stderr(*pair, column, ratio) for pair, column in zip(pairs, columns, strict=True)]
        return cls(ratio, math.hypot(*errors) / len(errors) / abs(float(dense)))


def column_title(archive: Archive, answers: Mapping[str, Evaluation], name: str) -> str:
    """The name of a column, or of the task, of answers to one question; it says so where the search optimised that."""
    (task, *_) = {answer.facts["task"] for answer in answers.values()}
    return f"{OPTIMISED}_{name}" if task in archive.settings.get(OPTIMISED, {}) else name


def _scored(archive: Archive) -> dict[str, dict[str, Evaluation]]:
    """The answers to questions about tasks, by fidelity and key."""
    return by_fidelity(answer for answer in archive.evaluations() if "task" in answer.facts)


def _shown(scores: Mapping[str, Mapping[str, Evaluation]]) -> dict[str, str]:
    """For each task, the fidelity that its columns are of."""
    shown: dict[str, tuple[int, str]] = {}
    for fidelity, answers in scores.items():
        facts = next(iter(answers.values())).facts
        if facts["items"] >= shown.get(facts["task"], (0, ""))[0]:
            shown[facts["task"]] = facts["items"], fidelity
    return {task: fidelity for task, (_, fidelity) in shown.items()}


def _columns(answers: Iterable[Evaluation]) -> list[str]:
    """The columns that answers to one question have."""
    return list(dict.fromkeys(name for answer in answers for name in answer.values))


def _difference_stderr(subnet: Evaluation, dense: Evaluation, column: str, ratio: float) -> float:
    """Standard error of the subnet's score less `ratio` times the dense model's."""
    outcomes = [answer.facts["outcomes"].get(column) for answer in (subnet, dense)]
    if None not in outcomes and len(outcomes[0]) > 1:
        items = [np.array([int(digit) for digit in digits], dtype=float) for digits in outcomes]
        return float(np.std(items[0] - ratio * items[1], ddof=1) / math.sqrt(len(items[0])))
    one, other = (answer.values.get(column + STDERR, math.nan) for answer in (subnet, dense))
    return math.hypot(one, ratio * other)
