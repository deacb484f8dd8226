"""Task files of lm-eval over random words, for tiny models that know characters alone."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml
from helpers_run import CHARACTERS

ITEMS = 12
TASKS: dict[str, dict[str, Any]] = {
    "choose": {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{gold}}",
        "doc_to_choice": "{{choices}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
        "fewshot_split": "test",
    },
    "last": {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": " {{choices[0]}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
        "num_fewshot": 0,
    },
    "write": {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["."], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match"}],
        "num_fewshot": 0,
    },
    "gone": {"output_type": "loglikelihood", "dataset_path": "nobody/nothing"},
}


def write_tasks(directory: Path) -> Path:
    """Task files over a file of random words."""
    generator = random.Random(0)

    def words(most: int) -> str:
        return "".join(generator.choice(CHARACTERS) for _ in range(generator.randint(1, most)))

    directory.mkdir()
    docs = [{"question": words(9), "choices": [words(4), words(4), words(4)], "gold": n % 3} for n in range(ITEMS)]
    (directory / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    data = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(directory / "docs.jsonl")}}}
    for name, task in TASKS.items():
        text = yaml.safe_dump(data | {"task": name, "test_split": "test", "metadata": {"version": 1.5}} | task)
        (directory / f"{name}.yaml").write_text(text)
    return directory
