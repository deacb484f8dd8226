"""Task scores by lm-eval (Gao et al., "A framework for few-shot language model evaluation"), of models in memory.

Each task is asked alone, so that what it scores does not depend on the tasks beside it. lm-eval is imported here and in
`harness_tasks` alone, and not before it is needed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any

import numpy as np

from evaluators.base import AUTO, STDERR, Evaluation, Measure, MeasureEvaluator, ModelOf
from evaluators.paths import Show
from evaluators.settings import ACC, TaskSettings
from evaluators.tasks.harness_tasks import (
    ACCURACIES,
    FEWSHOT_SEED,
    HarnessTask,
    alone,
    column_of,
    goal_of,
    load_tasks,
)
from evaluators.training.tuning import Tuning, finished_model
from space.candidate import Candidate
from space.errors import UserError
from space.supernet.supernet import Supernet

BOOTSTRAP = 1000  # resamples for the standard error of a metric that is no mean


class Harness:
    """Tasks of lm-eval under one set of settings, to be asked of models that share a tokenizer.

    Attributes:
        tasks: Loaded, with their requests built.
    """

    def __init__(
        self,
        tokenizer: Any,
        settings: TaskSettings,
    ) -> None:
        """Loads the tasks and their data, and builds all requests; without tasks, nothing.

        Args:
            tokenizer: Of the models that will be asked.
            settings: Which tasks, and how they are asked.

        Raises:
            UserError: lm-eval is missing, a task is unknown or its data cannot be had, or the tokenizer has neither a
                BOS nor an EOS token.
        """
        settings.require_place()
        limit = settings.limit
        if settings.tasks and tokenizer.bos_token_id is None and tokenizer.eos_token_id is None:
            raise UserError(
                "Task scores: expected a tokenizer with a BOS or EOS token, as lm-eval needs one, got neither. Set "
                "bos_token or eos_token in the model's tokenizer_config.json."
            )
        self._tokenizer = tokenizer
        self._limit = int(limit) if limit is not None and limit >= 1 else limit
        self._batch_size = settings.batch_size
        self._counts: dict[tuple[str, float], int] = {}  # tokens of a part of a task's items
        self.tasks: tuple[HarnessTask, ...] = ()
        if settings.tasks:
            with alone():
                self.tasks = tuple(
                    load_tasks([*settings.tasks], settings.num_fewshot, self._limit, settings.include_path)
                )

    def evaluators(
        self, supernet: Supernet, tuning: Tuning | None, show: Show = lambda done, of: None
    ) -> list[TaskEvaluator]:
        """One for each task, to score candidates as they are exported.

        Args:
            supernet: The run's.
            tuning: The run's, if it has any.
            show: Called with how many requests of a task are answered, of how many.
        """
        model_of = lru_cache(maxsize=1)(partial(finished_model, supernet, tuning))  # for all tasks
        return [TaskEvaluator(self, task, model_of, show) for task in self.tasks]

    @property
    def fidelities(self) -> dict[str, str]:
        """By task, under which name answers are stored."""
        return {task.name: task.fidelity for task in self.tasks}

    def remarks(self, objectives: Sequence[str]) -> list[str]:
        """What a person should know of a search with these objectives, in lines."""
        if ACC.name not in objectives:
            return []
        names = ", ".join(task.name for task in self.tasks)
        return [f"WARNING: scores on {names} will not be held out, as the search optimises them; judge by other tasks"]

    def measure(self, model_of: ModelOf, part: float = 1.0) -> Measure:
        """The mean over tasks of `acc_norm`, or `acc` of tasks without, as an objective named `acc`.

        Args:
            model_of: What is scored.
            part: Of the items of every task, from the first on.

        Raises:
            UserError: A task has neither.
        """
        columns = [(task, task.facts["accuracy"]) for task in self.tasks]
        for task, column in columns:
            if column is None:
                raise UserError(
                    f"objectives=[acc, ...]: expected tasks with {' or '.join(ACCURACIES)}, but {task.name} has "
                    f"{', '.join(metric.name for metric in task.metrics)}. Leave it out of evaluate.tasks."
                )

        def values(candidate: Candidate) -> Mapping[str, float]:
            model = model_of(candidate)
            scores = [self.scores(task, model, part=part)[0][column] for task, column in columns]
            return {ACC.name: sum(scores) / len(scores)}

        return Measure((ACC,), values, sum(self._tokens(task, part) for task in self.tasks))

    def scores(
        self,
        task: HarnessTask,
        model: Any,
        *,
        part: float = 1.0,
        show: Show = lambda done, of: None,
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """A model's scores.

        Args:
            task: One of `tasks`.
            model: A causal language model; scored in its own dtype, on its device.
            part: Of the items, from the first on.
            show: Called with how many requests are answered, of how many.

        Returns:
            Columns and their finite values, `_stderr` behind the name of a standard error; and facts of this answer:
            `batch_size`, `goals` of the columns, lm-eval's own `task_hash` of each task, and `outcomes`, a digit 0 or 1
            an item for each column where items have no other values, in the order of lm-eval's samples.
        """
        import lm_eval
        from lm_eval.models.huggingface import HFLM

        batch_size = self._batch_size
        if batch_size == AUTO and model.device.type != "cuda":
            batch_size = 1
        with alone():
            lm = HFLM(model, backend="causal", tokenizer=deepcopy(self._tokenizer), batch_size=batch_size)
            lm.set_cache_hook(_Counter(show, task.requests))
            for loaded in task.loaded["tasks"].values():
                loaded.set_fewshot_seed(FEWSHOT_SEED)
            done = lm_eval.evaluate(lm, task.loaded, limit=self._part(part), bootstrap_iters=BOOTSTRAP)
        name, hashes = task.name, {each: _task_hash(samples) for each, samples in done["samples"].items()}
        better = done["higher_is_better"].get(name) or {}
        values: dict[str, float] = {}
        goals, outcomes = {}, {}
        for result, value in done["results"][name].items():
            metric, _, key = result.partition(",")
            if not key or metric.endswith(STDERR) or not _finite(value):
                continue
            column, error = column_of(name, metric, key), done["results"][name].get(f"{metric}{STDERR},{key}")
            values |= {column: float(value)} | ({column + STDERR: float(error)} if _finite(error) else {})
            goals[column] = goal_of(metric, better)
            items = [sample.get(metric) for sample in done["samples"].get(name, ()) if sample["filter"] == key]
            if items and all(item in (0, 1) for item in items):
                outcomes[column] = "".join(str(int(item)) for item in items)
        return values, {"batch_size": batch_size, "task_hash": hashes, "goals": goals, "outcomes": outcomes}

    def _part(self, part: float) -> float | int | None:
        """lm-eval's limit for a part of the items."""
        if part >= 1:
            return self._limit
        if isinstance(self._limit, int):
            return math.ceil(self._limit * part)
        return part * (self._limit or 1.0)

    def _tokens(self, task: HarnessTask, part: float) -> int:
        """Tokens of all requests, what is generated not counted."""
        from lm_eval.evaluator_utils import get_sample_size

        if (task.name, part) not in self._counts:
            count = 0
            for loaded in task.loaded["tasks"].values():
                items = get_sample_size(loaded, self._part(part))
                texts = [_text(i) for i in loaded.instances if items is None or i.doc_id < items]
                count += sum(map(len, self._tokenizer(texts)["input_ids"]))
            self._counts[task.name, part] = count
        return self._counts[task.name, part]


class TaskEvaluator(MeasureEvaluator):
    """One task as an `Evaluator`: its evaluations have facts."""

    def __init__(self, harness: Harness, task: HarnessTask, model_of: ModelOf, show: Show) -> None:
        """Asks nothing yet; see `Harness.evaluators`."""
        self._facts: Mapping[str, Any] = {}  # of the last answer
        self._task = task

        def values(candidate: Candidate) -> Mapping[str, float]:
            scores, self._facts = harness.scores(task, model_of(candidate), show=show)
            return scores

        super().__init__(task.fidelity, [Measure(task.metrics, values)])

    def _evaluate(self, candidate: Candidate, shared: float) -> Evaluation:
        done = super()._evaluate(candidate, shared)
        return replace(done, facts={**self._task.facts, **self._facts}) if done.status == "ok" else done


class _Counter:
    """lm-eval's cache hook, which is told of every answer."""

    def __init__(self, show: Show, requests: int) -> None:
        self._show, self._requests, self._done = show, requests, 0

    def add_partial(self, *answer: object) -> None:
        self._done += 1
        self._show(self._done, self._requests)


def _text(instance: Any) -> str:
    """All text of a request."""
    return "".join(part for part in instance.args if isinstance(part, str))


def _task_hash(samples: Sequence[Mapping[str, Any]]) -> str:
    """As lm-eval's own results files have it."""
    text = "".join(sample["doc_hash"] + sample["prompt_hash"] + sample["target_hash"] for sample in samples)
    return hashlib.sha256(text.encode()).hexdigest()


def _finite(value: object) -> bool:
    """Whether this is a number; lm-eval writes `N/A` for others."""
    return isinstance(value, (int, float, np.number)) and math.isfinite(value)
