"""A search of a model that its device does not hold: the same questions and answers, the same front, and an export."""

from __future__ import annotations

import pytest
from helpers_commands import Place, archived, good
from helpers_run import ended

from search.run.front import read_front_csv

LIMIT = "model.device_bytes=10_000"
HEALED = ("distillation=default", "search.distillation=loop", "distillation.tokens=960", "correction=none")
SHORT = ("budget.evaluations=30", "data.heldout_windows=8")


def test_the_front_is_that_of_a_device_that_holds_the_model_and_exports(llama: Place) -> None:
    table = f"latency.table={llama.run('run') / 'latency.json'}"  # no timings of which two runs differ
    runs = [llama.search(name, table, *HEALED, *SHORT, *more) for name, more in (("holds", ()), ("passes", (LIMIT,)))]
    done = [good(ended(run)) for run in runs]
    assert ["its layers wait on the host" in out.stdout for out in done] == [False, True]
    for fidelity in ("search", "healed", "heldout"):
        holds, passes = (archived(llama.run(name), fidelity) for name in ("holds", "passes"))
        assert holds
        assert [answer.candidate.key for answer in passes] == [answer.candidate.key for answer in holds]
        for expected, got in zip(holds, passes, strict=True):
            assert got.values == pytest.approx(expected.values, rel=1e-4)
    fronts = [read_front_csv(llama.run(name) / "front.csv")["key"].tolist() for name in ("holds", "passes")]
    assert fronts[0] == fronts[1]
    exported = good(ended(llama.export("passes", "pick=smallest", "polish.minutes=0.02")))
    assert "loads again" in exported.stdout or "reloaded" in exported.stdout


def test_what_needs_a_whole_model_on_the_device_is_refused(llama: Place) -> None:
    done = ended(llama.search("refused", LIMIT))  # trains each design by itself
    assert done.returncode == 1
    assert "distillation=own: expected a model that fits on cpu" in done.stderr
    assert not llama.run("refused").exists() or not (llama.run("refused") / "archive.jsonl").exists()
