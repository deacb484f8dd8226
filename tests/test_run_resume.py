"""A run goes on: after a kill at any moment to the same end, with a longer budget, with other runs laid over."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from helpers_commands import EVALUATIONS, Place, archived, contents, good, wait_for
from helpers_run import ended

from evaluators.base import Evaluation
from search.run.directory import FRONT_FILE, PAGE_FILE, REPORT_FILE, SUMMARY_FILE
from search.run.finish import REFERENCE_POINTS
from search.run.front import is_dense, read_front_csv
from search.views.dashboard.live_run import LiveRun

SHORT = ("search.algorithm.starts=6", "search.algorithm.sweep_levels=1", "search.algorithm.round_size=8")
LOOP = (
    *("search.distillation=loop", "distillation.tokens=[320,640]", "budget.evaluations=null", "budget.tokens=45000"),
    *SHORT,
)
LOOPED = ("distilled-320", "distilled-640")
HEALED = (
    *("search.distillation=loop", "distillation=default", "distillation.tokens=384", "distillation.save_steps=4"),
    *("budget.evaluations=null", "budget.tokens=16000", *SHORT),
)
KILLED = {
    "final": ((), (("search", 12), ("tuned", 1)), ("search", "heldout", "tuned")),
    "loop": (LOOP, (("distilled-320", 3), ("distilled-640", 2)), ("search", "distilled-320", "distilled-640", "tuned")),
    "healed": (HEALED, (("healed", 3), ("healed", 14)), ("search", "healed", "heldout")),
}


def with_the_table_of_the_first_run(llama: Place, name: str) -> Path:
    """A new run directory with a latency table, without which runs can not be compared."""
    run = llama.run(name)
    run.mkdir(exist_ok=True)  # a worker that takes tests of several files may come back to this one
    shutil.copy(llama.run("run") / "latency.json", run)
    return run


@pytest.fixture(scope="module")
def looped(llama: Place) -> Path:
    run = with_the_table_of_the_first_run(llama, "loop")
    good(ended(llama.search("loop", *LOOP)))
    return run


@pytest.fixture(scope="module")
def healed(llama: Place) -> Path:
    run = with_the_table_of_the_first_run(llama, "healed")
    good(ended(llama.search("healed", *HEALED)))
    return run


@pytest.mark.parametrize("mode", KILLED)
def test_a_run_that_was_killed_ends_like_one_never_killed(llama: Place, looped: Path, healed: Path, mode: str) -> None:
    changes, kills, fidelities = KILLED[mode]
    undisturbed = {"loop": looped, "healed": healed, "final": llama.run("run")}[mode]
    run = with_the_table_of_the_first_run(llama, f"killed {mode}")
    archive = run / "archive.jsonl"

    def lines(fidelity: str) -> int:
        return archive.read_bytes().count(f'"fidelity": "{fidelity}"'.encode()) if archive.exists() else 0

    for fidelity, count in kills:
        process = llama.search(run.name, *changes, cache="cache of the killed run")
        try:
            wait_for(process, lambda fidelity=fidelity, count=count: lines(fidelity) >= count)
        finally:
            process.kill()
            ended(process)
        assert not (run / FRONT_FILE).exists()
        assert lines(fidelity) < len(archived(undisturbed, fidelity))
    before = archive.read_bytes()
    good(ended(llama.search(run.name, *changes, cache="cache of the killed run")))
    assert archive.read_bytes().startswith(before[: before.rfind(b"\n") + 1])  # what was there is still there

    for fidelity in fidelities:
        got, expected = archived(run, fidelity), archived(undisturbed, fidelity)
        assert [e.candidate for e in got] == [e.candidate for e in expected]
        assert [e.values for e in got] == [e.values for e in expected]
    timed = [{e.candidate.key for e in archived(place, "timed")} for place in (run, undisturbed)]
    assert timed[0] == timed[1]  # the same front, up to what the timings of either run leave out


def test_training_in_the_loop_keeps_its_share_and_makes_the_front(looped: Path) -> None:
    run, fidelities = looped, ("search-8", "search", *LOOPED)
    spent = {name: sum(e.tokens for e in archived(run, name)) for name in fidelities}
    trained = sum(spent[name] for name in LOOPED)
    assert 0.3 < trained / sum(spent.values()) < 0.7
    front = read_front_csv(run / FRONT_FILE)
    last = {e.candidate.key: e.values for e in archived(run, LOOPED[-1])}
    members = front[~is_dense(front)]
    assert len(members) >= 1  # how many depends on timings
    for _, row in members.iterrows():
        assert row["kl"] == last[row["key"]]["kl"] != row["untuned_kl"]
    assert {file.stem for file in (run / "tuned").glob("s*")} == set(members["key"])
    assert len(archived(run, LOOPED[0])) >= 10
    assert len(archived(run, LOOPED[0])) > len(last) >= len(members)


def test_a_search_goes_on_about_the_healed_supernet(healed: Path) -> None:
    lines = (healed / "archive.jsonl").read_text().splitlines()[1:]
    made = [e for e in map(Evaluation.from_json, map(json.loads, lines)) if e.generation]
    first = next(number for number, e in enumerate(made) if e.fidelity == "healed")
    assert {e.fidelity for e in made[first:]} == {"healed"}
    assert {e.fidelity for e in made[:first]} == {"search-8", "search"}
    designs = json.loads((healed / "healed" / "designs.json").read_text())["designs"]
    trained = [e for e in made[first:] if e.tokens > 8 * 32]
    assert [e.candidate.to_json() for e in trained] == designs
    assert sum(e.tokens for e in trained) == pytest.approx(384 + 8 * 32 * len(designs), abs=len(designs))
    others = [e for e in made[first:] if e not in trained]  # which cost their text alone
    assert len(others) > 5
    assert {e.tokens for e in others} == {8 * 32}
    asked = {e.candidate.key: e.values for e in archived(healed, "healed")}
    members = read_front_csv(healed / FRONT_FILE).loc[lambda front: ~is_dense(front)]
    assert len(members) >= 1
    for _, row in members.iterrows():
        assert row["kl"] == asked[row["key"]]["kl"] != row["untuned_kl"]


def test_a_search_that_does_not_heal_has_it_done_at_its_end(llama: Place) -> None:
    run = with_the_table_of_the_first_run(llama, "healed at the end")
    good(ended(llama.search(run.name, "distillation=default", "distillation.tokens=384")))
    asked = {e.candidate.key: e for e in archived(run, "healed")}
    front = read_front_csv(run / FRONT_FILE)
    assert set(front[~is_dense(front)]["key"]) <= asked.keys()
    assert {e.generation for e in asked.values()} == {0}
    designs = json.loads((run / "healed" / "designs.json").read_text())["designs"]
    assert [e.candidate.to_json() for e in asked.values() if e.tokens > 8 * 32] == designs
    for _, row in front[~is_dense(front)].iterrows():
        assert row["kl"] == asked[row["key"]].values["kl"] != row["untuned_kl"]
    good(ended(llama.export(run.name, f"pick={front['key'].iloc[-1]}")))


def test_a_longer_budget_goes_on_with_a_run_that_has_ended(llama: Place) -> None:
    longer = llama.copy("run", "longer")
    done = good(ended(llama.search("longer", f"budget.evaluations={EVALUATIONS + 20}", "name=other")))
    assert f"{EVALUATIONS + 20} of {EVALUATIONS + 20} evaluations" in done.stdout
    asked = EVALUATIONS + len(archived(llama.run("run"), "search-8"))
    replayed = re.findall(r"\((\d+) replayed\)", done.stdout)[-1]
    assert asked <= int(replayed) <= asked + REFERENCE_POINTS
    assert re.search(r"block shapes, (a single round|spread between \d rounds)", done.stdout)
    old, new = archived(llama.run("run")), archived(longer)
    assert new[: len(old)] == old
    assert len(new) <= len(old) + 20  # uniform designs, which the end of the first run looked at, may be among them
    (volumes,) = LiveRun(longer).view().volumes.values()
    said = re.findall(r"hypervolume (\S+) \(search, ", done.stdout)[-1]
    assert f"{volumes[-1][1]:.5g}" == said  # the dashboard reads along, and has the terminal's number


def test_fronts_of_other_runs_are_laid_over_after_the_end_without_a_new_evaluation(llama: Place) -> None:
    compared = llama.copy("run", "compared")
    before = contents(compared)
    good(ended(llama.search("compared", f"compare={llama.run('run')}")))
    after = contents(compared)
    changed = {name for name in after if after[name] != before.get(name)}
    assert {PAGE_FILE, "config.yaml"} <= changed <= {PAGE_FILE, "config.yaml", SUMMARY_FILE, REPORT_FILE}
    assert b'"name":"run"' in after[PAGE_FILE]
    done = ended(llama.search("compared", f"compare=[{llama.directory / 'nowhere'}]"))
    assert done.returncode == 1
    assert "nowhere/front.csv, but there is no such file" in done.stderr
    assert contents(compared) == after
