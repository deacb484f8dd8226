"""Task scores beside the dense model's: asked once, compared with their errors, and columns of the tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from evaluators.base import OPTIMISED, Evaluation, Measure, MeasureEvaluator
from evaluators.metrics import task_score
from search.archive import Archive
from search.run.front import front_table
from search.run.scores import Retention, score, score_metrics, with_scores
from search.views.watch.score_table import answer_line, score_table
from space.candidate import Candidate, LayerShape
from space.errors import UserError

DENSE, SMALL, OTHER = (Candidate((LayerShape(4, 2, channels),) * 2) for channels in (32, 16, 8))
SCORES = {DENSE.key: "1111011101", SMALL.key: "1101010100", OTHER.key: "0000010001"}


def answer(candidate: Candidate, task: str = "piqa", items: int = 10, **values: float) -> Evaluation:
    """Made-up outcomes of a candidate on the first items of a task."""
    digits = SCORES[candidate.key][:items]
    right = np.array([int(digit) for digit in digits], dtype=float)
    column = f"{task}_acc"
    scores = {column: right.mean(), f"{column}_stderr": right.std(ddof=1) / math.sqrt(items)} | values
    facts: Mapping[str, Any] = {
        "task": task,
        "items": items,
        "num_fewshot": "0",
        "accuracy": column,
        "goals": {name: "min" if "perplexity" in name else "max" for name in scores if not name.endswith("_stderr")},
        "outcomes": {column: digits},
    }
    return Evaluation(candidate, f"lm-eval 1 {task} {items} items", values=scores, facts=facts)


class Asked:
    """An evaluator of made-up answers that remembers whom it was asked about."""

    def __init__(self, task: str, items: int = 10, **values: float) -> None:
        self.fidelity = answer(DENSE, task, items).fidelity
        self.metrics = ()
        self.asked: list[str] = []
        self._answer = lambda candidate: answer(candidate, task, items, **values)

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        for candidate in candidates:
            self.asked.append(candidate.key)
            yield self._answer(candidate)


def archive_of(path: Path, *answers: Evaluation, **settings: Any) -> Archive:
    archive = Archive(path / "archive.jsonl", settings)
    for each in answers:
        archive.add(each)
    return archive


def front() -> pd.DataFrame:
    points = [(c, {"kl": n / 10, "decoder_params": 100 - n}) for n, c in enumerate((DENSE, SMALL, OTHER))]
    return front_table(points, points[0])


def test_nothing_is_asked_twice_and_all_is_kept(tmp_path: Path) -> None:
    piqa, arc, told = Asked("piqa"), Asked("arc"), []
    with archive_of(tmp_path) as archive:
        score([piqa], archive, [DENSE, SMALL], told.append)
        score([piqa, arc], archive, [DENSE, SMALL, OTHER], told.append)
    assert piqa.asked == arc.asked == [DENSE.key, SMALL.key, OTHER.key]
    assert [each.facts["task"] for each in told] == ["piqa", "piqa", "arc", "arc", "piqa", "arc"]
    with Archive.reopen(tmp_path / "archive.jsonl") as archive:
        assert archive.get(SMALL.key, piqa.fidelity) == answer(SMALL)
        score([piqa, arc], archive, [DENSE, SMALL, OTHER])
    assert len(piqa.asked) == 3


def test_a_failure_is_told_and_not_kept(tmp_path: Path) -> None:
    def fail(candidate: Candidate) -> Mapping[str, float]:
        raise RuntimeError("out of memory")

    broken = MeasureEvaluator("lm-eval 1 piqa 10 items", [Measure((task_score("piqa_acc", "max"),), fail)])
    with archive_of(tmp_path) as archive:
        with pytest.raises(UserError, match="RuntimeError: out of memory"):
            score([broken], archive, [DENSE])
        assert len(archive) == 0


def test_an_archive_that_is_not_there_cannot_be_reopened(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="archive of a run"):
        Archive.reopen(tmp_path / "archive.jsonl")
    assert not list(tmp_path.iterdir())


def test_columns_are_of_the_question_with_most_items(tmp_path: Path) -> None:
    answers = answer(DENSE), answer(SMALL), answer(SMALL, items=5), answer(OTHER, items=5), answer(OTHER, "arc", 5)
    with archive_of(tmp_path, *answers) as archive:
        frame = with_scores(front(), archive)
        assert frame["piqa_acc"].tolist()[:2] == [0.8, 0.5]
        assert math.isnan(frame["piqa_acc"][2])
        assert frame["piqa_acc_stderr"][0] == answers[0].values["piqa_acc_stderr"]
        assert frame["arc_acc"].isna().tolist() == [True, True, False]
        assert frame.columns[-1] == "candidate"
        assert with_scores(frame, archive).equals(frame)  # as front.csv already has them
        assert score_metrics(archive) == [task_score("piqa_acc", "max"), task_score("arc_acc", "max")]
    assert with_scores(front()[:1], Archive(tmp_path / "none.jsonl", {})).equals(front()[:1])


def test_tasks_that_the_search_optimised_are_marked(tmp_path: Path) -> None:
    answers = answer(DENSE), answer(DENSE, "arc"), answer(SMALL), answer(SMALL, "arc")
    with archive_of(tmp_path, *answers, **{OPTIMISED: {"piqa": "any"}}) as archive:
        frame = with_scores(front(), archive)
        assert {name for name in frame if name.endswith("acc")} == {"optimised_piqa_acc", "arc_acc"}
        assert [metric.name for metric in score_metrics(archive)] == ["optimised_piqa_acc", "arc_acc"]
        assert with_scores(frame, archive).equals(frame)
        assert "optimised_piqa" in shown(archive, [Asked("piqa"), Asked("arc")])


def test_the_error_of_a_ratio_of_paired_items_is_that_of_many_samples() -> None:
    generator = np.random.default_rng(0)
    dense = generator.random(400) < 0.7
    small = np.where(generator.random(400) < 0.8, dense, generator.random(400) < 0.4)
    pair = tuple(
        Evaluation(
            candidate,
            "lm-eval",
            values={"acc": items.mean(), "acc_stderr": items.std(ddof=1) / 20},
            facts={"outcomes": {"acc": "".join(str(int(item)) for item in items)}},
        )
        for candidate, items in ((SMALL, small), (DENSE, dense))
    )
    found = Retention.of([pair], ["acc"])
    assert found.value == small.mean() / dense.mean()
    draws = generator.integers(400, size=(4000, 400))
    assert found.stderr == pytest.approx((small[draws].mean(1) / dense[draws].mean(1)).std(), rel=0.1)
    alone = tuple(Evaluation(e.candidate, "lm-eval", values=e.values, facts={"outcomes": {}}) for e in pair)
    apart = Retention.of([alone], ["acc"])
    assert apart.value == found.value
    one, other = (generator.integers(400, size=(4000, 400)) for _ in range(2))
    assert apart.stderr == pytest.approx((small[one].mean(1) / dense[other].mean(1)).std(), rel=0.1)
    assert apart.stderr > 1.3 * found.stderr
    both = Retention.of([pair, pair], ["acc", "acc"])
    assert (both.value, both.stderr) == (pytest.approx(found.value), pytest.approx(found.stderr / math.sqrt(2)))
    itself = Retention.of([(pair[1], pair[1])], ["acc"])
    assert (itself.value, itself.stderr) == (1.0, 0.0)
    nothing = Evaluation(DENSE, "lm-eval", values={"acc": 0.0}, facts={"outcomes": {}})
    assert math.isnan(Retention.of([(nothing, nothing)], ["acc"]).value)


def shown(archive: Archive, asked: list[Asked]) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(score_table(archive, asked, DENSE, [SMALL]))
    return capture.get()


def test_the_table_has_scores_dense_scores_ratios_and_their_mean(tmp_path: Path) -> None:
    asked = [Asked("piqa", piqa_perplexity=123456.0, piqa_perplexity_stderr=1000.0), Asked("a_task_with_a_long_name")]
    with archive_of(tmp_path) as archive:
        score(asked, archive, [DENSE, SMALL])
        text = shown(archive, asked)
        line = answer_line(archive.evaluations()[0])
    assert "…" not in text
    (piqa, perplexity, _, mean) = [row for row in text.splitlines() if SMALL.key in row]
    assert " ".join(piqa.split()[1:]) == "piqa acc ↑ 0 10 0.500 ± 0.167 0.800 ± 0.133 0.625 ± 0.180"
    assert " ".join(perplexity.split()[1:]) == "piqa perplexity ↓ 0 10 123456 ± 1000 123456 ± 1000 1.000 ± 0.011"
    assert "mean" in mean
    assert "0.625 ± 0.128" in mean
    assert line.startswith(f"{DENSE.key}, piqa: acc 0.800 ± 0.133, perplexity 123456 ± 1000 (10 items")
