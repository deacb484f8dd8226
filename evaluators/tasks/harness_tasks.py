"""Tasks of lm-eval: looked up by name, loaded, their requests built, and named by all that their scores depend on."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.metadata import version
from pathlib import Path
from typing import Any

from evaluators.base import Goal, Metric
from evaluators.isolation import quiet, seeded
from evaluators.metrics import task_score
from space.errors import UserError

ACCURACIES = ("acc_norm", "acc")  # what a task is judged by: the first of these that it has
FEWSHOT_SEED = 1234  # lm-eval's own default
SEEDS = 0, 1234  # and these, of random, and of NumPy and torch
NO_FILTER = "none"


@contextmanager
def alone() -> Iterator[None]:
    """lm-eval with its own seeds, and without its prints and bars."""
    with quiet("lm_eval"), seeded(*SEEDS):
        yield


@dataclass(frozen=True)
class HarnessTask:
    """A task, or a group of tasks with a score of its own.

    Attributes:
        name: lm-eval's.
        loaded: lm-eval's objects, as its `TaskManager.load` gives them, with their requests built.
        metrics: One a column; where answers go through filters, lm-eval adds columns with their names.
        facts: What an answer depends on beside the model, JSON-ready.
        requests: How often a model is asked.
    """

    name: str
    loaded: Mapping[str, Any]
    metrics: tuple[Metric, ...]
    facts: Mapping[str, Any]
    requests: int

    @property
    def fidelity(self) -> str:
        """Under which answers are stored."""
        names = "lm_eval", "task", "num_fewshot", "items", "digest"
        return "lm-eval {} {} {}-shot {} items {}".format(*(self.facts[name] for name in names))


def load_tasks(
    tasks: list[str], num_fewshot: int | None, limit: float | None, include_path: str | None
) -> Iterator[HarnessTask]:
    """The tasks that names stand for, each once."""
    os.environ.setdefault("DISABLE_MULTIPROC", "1")  # lm-eval bootstraps in a pool of processes otherwise
    try:
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError(
            f"Task scores need lm-eval, which cannot be imported here ({error}). Install it with "
            "pip install -c constraints.txt lm-eval, or leave tasks out."
        ) from error
    manager = TaskManager(include_path=include_path, include_defaults=False) if include_path else None
    if manager is None or not set(tasks) <= set(manager.all_subtasks):  # reading all of lm-eval's own takes long
        manager = TaskManager(include_path=include_path)
    titles: set[str] = set()
    for name in (name for task in tasks for name in _named(task, manager)):
        loaded = _loaded(name, manager)
        groups, parts = loaded["groups"], loaded["tasks"]
        if name in groups and groups[name].has_aggregation:
            scored = {name: loaded}
        else:
            scored = {part: {"tasks": {part: parts[part]}, "groups": {}, "group_map": {}} for part in parts}
        for title, part in scored.items():
            if title not in titles:
                titles.add(title)
                yield _built(title, part, num_fewshot, limit)


def _named(task: str, manager: Any) -> list[str]:
    """The names that one entry of the list of tasks stands for."""
    if Path(task).is_file():
        return [task]
    names: list[str] = manager.match_tasks([task])
    if not names:
        near = get_close_matches(task, manager.all_tasks) or manager.all_tasks[:5]
        where = f"lm-eval {version('lm-eval')}" + (f" or {manager.include_path}" if manager.include_path else "")
        raise UserError(
            f"Task scores: expected tasks of {where}, got {task!r}. Near names: {', '.join(near)}. Tasks of your own "
            "are found with include_path=DIRECTORY."
        )
    return names


def _loaded(name: str, manager: Any) -> Any:
    """lm-eval's task or group with its data, which may come from the hub."""
    try:
        with seeded(*SEEDS):
            loaded = manager.load([name])
            for task in loaded["tasks"].values():
                len(task.eval_docs)  # what is loaded late, is loaded now
    except Exception as error:  # task files are code, and the errors of the hub have no common class
        raise UserError(
            f"Task scores: expected to load {name} and its data, got {type(error).__name__}: {error}\n"
            "Tasks of the hub need the network (and HF_HUB_OFFLINE unset) once. Tasks on local files are found with "
            "include_path=DIRECTORY; paths that they name are relative to the current directory."
        ) from error
    for part, task in loaded["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False) or getattr(task, "MULTIMODAL", False):
            raise UserError(
                f"Task scores: expected tasks on text whose answers are not run as programs, got {part}. Export the "
                "pick, and score it with lm_eval itself."
            )
    return loaded


def _built(name: str, loaded: Any, num_fewshot: int | None, limit: float | None) -> HarnessTask:
    """A task or group with its requests built."""
    from lm_eval.evaluator_utils import get_sample_size

    tasks, digest, requests, items = loaded["tasks"], hashlib.sha256(), 0, 0
    with seeded(*SEEDS):
        for part, task in tasks.items():
            own = task.get_config("num_fewshot")
            if num_fewshot is None or own == 0:  # a task that fixes it at 0 keeps it, as in lm-eval
                task.set_config(key="num_fewshot", value=own or 0)
            else:
                task.set_config(key="num_fewshot", value=num_fewshot)
            task.set_fewshot_seed(FEWSHOT_SEED)
            task.build_all_requests(limit=get_sample_size(task, limit))
            docs = {instance.doc_id: instance.doc for instance in task.instances}
            arguments = [(i.request_type, i.doc_id, i.args) for i in task.instances]
            filters = [each["name"] for each in task.get_config("filter_list") or []]
            scored = sorted(task.aggregation()), filters, str(task.VERSION)
            facts = part, scored, arguments, [task.doc_to_target(doc) for doc in docs.values()]
            digest.update(json.dumps(facts, default=str).encode())
            requests += sum(instance.repeats for instance in task.instances)
            items += len(docs)
    better = {metric: up for task in tasks.values() for metric, up in task.higher_is_better().items()}
    group = loaded["groups"].get(name)
    names = [each.metric for each in group.aggregate_metric_list] if group else list(tasks[name].aggregation())
    judged = next((metric for metric in ACCURACIES if metric in names), None)

    return HarnessTask(
        name=name,
        loaded=loaded,
        metrics=tuple(task_score(column_of(name, metric), goal_of(metric, better)) for metric in names),
        facts={
            "task": name,
            "lm_eval": version("lm-eval"),
            "version": str(group.version if group else tasks[name].VERSION),
            "num_fewshot": "/".join(sorted({str(task.get_config("num_fewshot")) for task in tasks.values()})),
            "items": items,
            "accuracy": column_of(name, judged) if judged else None,
            "digest": digest.hexdigest()[:12],
        },
        requests=requests,
    )


def goal_of(metric: str, higher_is_better: Mapping[str, bool]) -> Goal:
    """Which way a metric is better; the higher where lm-eval does not say."""
    return "min" if higher_is_better.get(metric) is False else "max"


def column_of(task: str, metric: str, key: str = NO_FILTER) -> str:
    """`piqa_acc`, with the filter's name behind it where there are filters."""
    return re.sub(r"\W+", "_", "_".join([task, metric, *([] if key == NO_FILTER else [key])]))
