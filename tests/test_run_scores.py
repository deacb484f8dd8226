"""Task scores of a finished run: kept in its files, shown, and not asked again."""

from __future__ import annotations

import re

from helpers_commands import Place, good, on_another_device, timed_as_tabled, whole_lines
from helpers_run import ended
from helpers_tasks import write_tasks

from search.run.directory import FRONT_FILE, PAGE_FILE
from search.run.front import is_dense, read_front_csv


def test_task_scores_are_kept_shown_and_not_asked_again(llama: Place) -> None:
    run, tasks = timed_as_tabled(llama.copy("run", "scored")), write_tasks(llama.directory / "tasks")
    table, before = (run / "latency.json").read_bytes(), read_front_csv(run / FRONT_FILE)
    on_another_device(run)  # scores need no timing
    done = good(ended(llama.score("scored", "tasks=[choose]", f"include_path={tasks}", "limit=8")))
    (run / "latency.json").write_bytes(table)
    front = read_front_csv(run / FRONT_FILE)
    assert front[before.columns].equals(before)
    (scored,) = front.index[front["choose_acc_norm"].notna() & ~is_dense(front)]
    assert f"pick recommended: {front['key'][scored]}" in done.stdout
    assert front["choose_acc_norm_stderr"].notna().tolist() == [row in (0, scored) for row in front.index]
    assert f"{front['choose_acc'][scored]:.3f} ± " in done.stdout
    assert re.search(r'"name":"choose_acc","label":"choose_acc",[^}]*"goal":"max"', (run / PAGE_FILE).read_text())
    settings = (
        "evaluate.tasks=[choose,last]",
        f"evaluate.include_path={tasks}",
        "evaluate.limit=8",
        "evaluate.picks=1",
    )
    lines = whole_lines(run / "archive.jsonl")
    done = good(ended(llama.search("scored", *settings)))
    after = read_front_csv(run / FRONT_FILE)
    members = min(2, len(after) - 1)
    assert after["last_acc"].notna().sum() == after["choose_acc"].notna().sum() == 1 + members
    assert after["choose_acc"][scored] == front["choose_acc"][scored]
    assert done.stdout.count(", last: ") == 1 + members
    assert done.stdout.count(", choose: ") == members - 1
    assert whole_lines(run / "archive.jsonl")[: len(lines)] == lines
    key = front["key"][scored]  # so small a model's timings may recommend none
    done = ended(llama.score("scored", f"pick={key}", "tasks=[gone]", f"include_path={tasks}"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: Task scores: expected to load gone and its data")
    assert "Traceback" not in done.stderr
