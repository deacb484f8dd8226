"""The commands as a person runs them: a measured front, resuming after a kill, clear errors, exported picks."""

from __future__ import annotations

import copy
import json
import math
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from helpers_run import TINY_RUN, ended, save_tiny, start
from helpers_tasks import write_tasks
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from evaluators.base import Evaluation
from evaluators.data import split_tokens
from search.run.directory import FRONT_FILE, PAGE_FILE, POINTS_FILE, REPORT_FILE, SUMMARY_FILE
from search.run.finish import REFERENCE_POINTS
from search.run.front import is_dense, read_front_csv

Done = subprocess.CompletedProcess[str]
Process = subprocess.Popen[str]
EVALUATIONS = 60
COLUMNS = (
    *("key", "kl", "refit_kl", "refit_ppl", "heldout_kl", "heldout_ppl", "latency_ms", "latency_e2e_ms", "params"),
    *("decoder_params_removed", "macs_per_token", "kv_bytes", "query_heads", "kv_heads", "mlp_channels"),
)


class Place:
    """A directory with a model, its text and a cache, in which the commands run."""

    def __init__(self, directory: Path, family: str) -> None:
        self.directory = directory
        self.model = save_tiny(family, directory / f"tiny-{family}")
        self.cache = directory / "cache"
        self.cwd = directory / "cwd"
        self.cwd.mkdir()

    def search(
        self, run: str, *changes: str, cache: str = "cache", preexec: Callable[[], None] | None = None
    ) -> Process:
        """A search in the run directory `run`; later settings win, so `changes` may say anything anew."""
        settings = {
            "model.path": str(self.model),
            "data.path": str(self.model / "text.txt"),
            "run_dir": str(self.run(run)),
            "budget.evaluations": str(EVALUATIONS),
        }
        settings |= dict(item.split("=", 1) for item in (*TINY_RUN, *changes))
        if settings.get("correction") == "none":
            del settings["correction.windows"]
        overrides = [f"{name}={value}" for name, value in settings.items()]
        return start("run_search.py", *overrides, cwd=self.cwd, cache=self.directory / cache, preexec=preexec)

    def export(self, run: str, *settings: str) -> Process:
        return start("export_subnet.py", f"run_dir={self.run(run)}", *settings, cwd=self.cwd, cache=self.cache)

    def score(self, run: str, *settings: str) -> Process:
        return start("score_subnet.py", f"run_dir={self.run(run)}", *settings, cwd=self.cwd, cache=self.cache)

    def run(self, name: str) -> Path:
        return self.directory / name

    def copy(self, run: str, name: str) -> Path:
        return shutil.copytree(self.run(run), self.run(name))


def good(done: Done) -> Done:
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done


def whole_lines(file: Path) -> list[str]:
    return [line for line in file.read_text().splitlines(keepends=True) if line.endswith("\n")]


def archived(run: Path, fidelity: str = "search") -> list[Evaluation]:
    records = [json.loads(line) for line in whole_lines(run / "archive.jsonl")[1:]]
    return [Evaluation.from_json(record) for record in records if record["fidelity"] == fidelity]


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def two_at_a_time(jobs: dict[str, Callable[[], Process]]) -> dict[str, Done]:
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(jobs, pool.map(lambda job: ended(job()), jobs.values()), strict=True))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A Llama with a run, `run`, that was never disturbed."""
    place = Place(tmp_path_factory.mktemp("llama"), "llama")
    good(ended(place.search("run")))
    return place


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """The same of the family that is least like a Llama."""
    place = Place(tmp_path_factory.mktemp("gemma"), "gemma3_text")
    good(ended(place.search("run", "budget.evaluations=30")))
    return place


@pytest.fixture(scope="module", params=["llama", "gemma"])
def place(request: pytest.FixtureRequest) -> Place:
    chosen: Place = request.getfixturevalue(request.param)
    return chosen


def test_a_run_leaves_its_front_and_nothing_beside_its_directory(place: Place) -> None:
    assert {path.name for path in place.run("run").iterdir()} == {
        *(FRONT_FILE, POINTS_FILE, PAGE_FILE, SUMMARY_FILE, REPORT_FILE),
        *("archive.jsonl", "config.yaml", "latency.json", "supernet", "tuned"),
    }
    assert list(place.cwd.iterdir()) == []
    assert {path.name for path in place.directory.iterdir()} >= {"cache", "run"}
    assert "https://" not in (place.run("run") / PAGE_FILE).read_text().split("<script", 1)[0]


def test_the_front_has_its_columns_in_order_and_quality_falls_with_latency(place: Place) -> None:
    front = read_front_csv(place.run("run") / FRONT_FILE)
    assert [name for name in front.columns if name in COLUMNS] == list(COLUMNS)
    assert not front.isna().to_numpy().any()
    assert is_dense(front).tolist() == [True] + [False] * (len(front) - 1)
    pruned = front[1:]
    assert len(pruned) >= 1  # timings of so small a model are noise on a busy machine, and rule points out
    assert pruned["latency_ms"].is_monotonic_decreasing
    assert pruned["heldout_ppl"].is_monotonic_increasing
    assert (pruned["heldout_kl"] > 0).all()
    assert (pruned["params"] < front["params"][0]).all()
    removed = 1 - pruned["decoder_params"] / front["decoder_params"][0]
    assert pruned["decoder_params_removed"].tolist() == pytest.approx(removed.tolist())
    assert pruned["decoder_params_removed"].between(0, 0.6).all()


def test_points_are_all_that_was_evaluated(place: Place) -> None:
    points = read_front_csv(place.run("run") / POINTS_FILE)
    assert sorted(points["key"]) == sorted(e.candidate.key for e in archived(place.run("run")) if e.status == "ok")


def test_the_summary_and_the_page_tell_of_the_run(place: Place) -> None:
    summary = json.loads((place.run("run") / SUMMARY_FILE).read_text())
    front = read_front_csv(place.run("run") / FRONT_FILE)
    assert summary["model"]["name"] == place.model.name
    assert summary["front_points"] == len(front) - 1
    assert summary["dense"]["params"] == front["params"][0]
    assert 0 <= summary["latency_table_error"]["median"] <= summary["latency_table_error"]["worst"]
    assert summary["evaluations"] == len(archived(place.run("run")))
    page = (place.run("run") / PAGE_FILE).read_text()
    report = (place.run("run") / REPORT_FILE).read_text()
    assert all(key in page and f"| `{key}` |" in report for key in front["key"])
    assert f"run_dir={place.run('run')}" in report


def wait_for(process: Process, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)


LOOP = (
    *("search.distillation=loop", "distillation.tokens=[320,640]", "budget.evaluations=null", "budget.tokens=45000"),
    *("search.algorithm.starts=6", "search.algorithm.sweep_levels=1", "search.algorithm.round_size=8"),
)
LOOPED = ("distilled-320", "distilled-640")
KILLED = {
    "final": ((), (("search", 12), ("heldout", 1), ("tuned", 1)), ("search", "heldout", "tuned")),
    "loop": (LOOP, (("distilled-320", 3), ("distilled-640", 2)), ("search", "distilled-320", "distilled-640", "tuned")),
}


def with_the_table_of_the_first_run(llama: Place, name: str) -> Path:
    """A new run directory with a latency table, without which runs can not be compared."""
    run = llama.run(name)
    run.mkdir()
    shutil.copy(llama.run("run") / "latency.json", run)
    return run


@pytest.fixture(scope="module")
def looped(llama: Place) -> Path:
    run = with_the_table_of_the_first_run(llama, "loop")
    good(ended(llama.search("loop", *LOOP)))
    return run


@pytest.mark.parametrize("mode", KILLED)
def test_a_run_that_was_killed_ends_like_one_never_killed(llama: Place, looped: Path, mode: str) -> None:
    changes, kills, fidelities = KILLED[mode]
    undisturbed = looped if mode == "loop" else llama.run("run")
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
    run, rungs = looped, ("search-8", "search", *LOOPED)
    spent = {name: sum(e.tokens for e in archived(run, name)) for name in rungs}
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


def test_a_longer_budget_goes_on_with_a_run_that_has_ended(llama: Place) -> None:
    longer = llama.copy("run", "longer")
    done = good(ended(llama.search("longer", f"budget.evaluations={EVALUATIONS + 20}", "name=other")))
    assert f"{EVALUATIONS + 20} of {EVALUATIONS + 20} evaluations" in done.stdout
    asked = EVALUATIONS + len(archived(llama.run("run"), "search-8"))
    replayed = re.findall(r"\((\d+) replayed\)", done.stdout)[-1]
    assert asked <= int(replayed) <= asked + REFERENCE_POINTS
    assert "block shapes, spread between rounds" in done.stdout
    old, new = archived(llama.run("run")), archived(longer)
    assert new[: len(old)] == old
    assert len(new) <= len(old) + 20  # uniform designs, which the end of the first run looked at, may be among them


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


OTHERS = {
    "three objectives": ("objectives=[kl,latency_ms,kv_bytes]", "constraints.kv_bytes=0.8"),
    "depth": ("space=depth", "constraints.latency_ms=0.95"),
    "heads": ("space=heads", "correction=none", "search.distillation=off"),
    "uniform": ("space=uniform", "objectives=[nll,params]"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_questions_to_the_same_model_of_four_layers(llama: Place, name: str) -> None:
    changes = OTHERS[name]
    good(ended(llama.search(name, "budget.evaluations=25", "space.min_decoder_params=0.3", *changes)))
    front = read_front_csv(llama.run(name) / FRONT_FILE)
    searched = [e.values for e in archived(llama.run(name))]
    assert len(front) >= 1
    assert ("refit_kl" in front) == ("correction=none" not in changes)
    dense = front[is_dense(front)].iloc[0]
    for change in changes:
        if change.startswith("constraints."):
            metric, limit = change.removeprefix("constraints.").split("=")
            inside = [values[metric] <= float(limit) * dense[metric] + 1e-9 for values in searched]
            assert inside.count(False) <= 1  # the dense model, which is measured beside


def full_after(size: int) -> Callable[[], None]:
    """A disk on which no file grows beyond `size` bytes."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


ERRORS: dict[str, tuple[str, ...]] = {
    "garbage path": ("no-such-model",),
    "empty text": ("is empty",),
    "wrong family": ("gpt2", "llama", "gemma3_text"),
    "impossible bounds": ("min_decoder_params", "0.9", "0.1"),
    "run directory in the way": ("run_dir=", "Choose another run_dir"),
    "changed setting": ("seed: 0 -> 1", "search.algorithm.population: 10 -> 12", "new run_dir"),
    "changed text": ("text:", "->"),
    "changed device": ("threads: 64 -> 1", "device: Imaginary 9000 -> ", "another run_dir"),
    "full disk in calibration": ("File too large", "Free"),
    "full disk in the search": ("File too large", "free some space", "run again"),
}
KEPT = (
    "changed setting",
    "changed text",
    "changed device",
    "full disk in the search",
)  # which start from a finished run


def on_another_device(run: Path) -> None:
    """As if a run's latencies had been measured on another machine."""
    table = json.loads((run / "latency.json").read_text())
    table["device"] |= {"threads": 64, "device": "Imaginary 9000"}
    (run / "latency.json").write_text(json.dumps(table))


@pytest.fixture(scope="module")
def failed(llama: Place) -> dict[str, Done]:
    """What each mistake is told."""
    directory = llama.directory
    (directory / "empty.txt").write_text("\n\n")
    (directory / "other.txt").write_text((llama.model / "text.txt").read_text()[::-1])
    gpt2 = shutil.copytree(llama.model, directory / "gpt2")
    GPT2Config(n_layer=2, n_embd=32, n_head=2, vocab_size=64).save_pretrained(gpt2)
    (directory / "in-the-way").write_text("thesis")
    for name in KEPT:
        llama.copy("run", name)
    own = llama.run("changed text") / "own.txt"
    shutil.copy(llama.model / "text.txt", own)
    config = llama.run("changed text") / "config.yaml"
    config.write_text(config.read_text().replace(str(llama.model / "text.txt"), str(own)))
    shutil.copy(directory / "other.txt", own)
    on_another_device(llama.run("changed device"))
    more = f"budget.evaluations={EVALUATIONS + 20}"
    limit = (llama.run("run") / "archive.jsonl").stat().st_size + 2000
    jobs: dict[str, Callable[[], Process]] = {
        "garbage path": lambda: llama.search("garbage", "model.path=no-such-model"),
        "empty text": lambda: llama.search("empty", f"data.path={directory / 'empty.txt'}"),
        "wrong family": lambda: llama.search("gpt2 run", f"model.path={gpt2}"),
        "impossible bounds": lambda: llama.search(
            "impossible", "space.min_decoder_params=0.9", "space.max_decoder_params=0.1"
        ),
        "run directory in the way": lambda: llama.search("in-the-way"),
        "changed setting": lambda: llama.search("changed setting", "seed=1", "search.algorithm.population=12"),
        "changed text": lambda: llama.search("changed text", f"data.path={own}"),
        "changed device": lambda: llama.search("changed device", more),
        "full disk in calibration": lambda: llama.search("calibrated", cache="full cache", preexec=full_after(6000)),
        "full disk in the search": lambda: llama.search("full disk in the search", more, preexec=full_after(limit)),
    }
    return two_at_a_time(jobs)


@pytest.mark.parametrize("mistake", ERRORS)
def test_a_mistake_is_told_once_and_clearly(failed: dict[str, Done], mistake: str) -> None:
    done = failed[mistake]
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr + done.stdout
    assert [line.startswith("error: ") for line in done.stderr.splitlines()].count(True) == 1
    assert [words for words in ERRORS[mistake] if words not in done.stderr] == []


def test_a_mistake_loses_nothing(llama: Place, failed: dict[str, Done]) -> None:
    assert (llama.directory / "in-the-way").read_text() == "thesis"
    finished = contents(llama.run("run"))
    assert contents(llama.run("changed setting")) == finished
    text = contents(llama.run("changed text"))
    assert {name: text[name] for name in finished if name != "config.yaml"} == {
        name: content for name, content in finished.items() if name != "config.yaml"
    }
    device = contents(llama.run("changed device"))
    assert device["archive.jsonl"] == finished["archive.jsonl"]  # nothing was asked
    assert device[FRONT_FILE] == finished[FRONT_FILE]
    calibrations = llama.directory / "full cache" / "supernets"
    assert not calibrations.exists() or list(calibrations.iterdir()) == []


def test_a_full_disk_ends_the_search_where_the_next_run_goes_on(llama: Place, failed: dict[str, Done]) -> None:
    run = llama.run("full disk in the search")
    before = whole_lines(run / "archive.jsonl")
    assert len(before) > len(whole_lines(llama.run("run") / "archive.jsonl"))
    assert len(archived(run)) < EVALUATIONS + 20
    assert (run / FRONT_FILE).read_bytes() == (llama.run("run") / FRONT_FILE).read_bytes()
    good(ended(llama.search(run.name, f"budget.evaluations={EVALUATIONS + 20}")))
    assert whole_lines(run / "archive.jsonl")[: len(before)] == before
    assert EVALUATIONS + 20 <= len(archived(run)) <= EVALUATIONS + 20 + REFERENCE_POINTS  # uniform designs at its end


def beside_the_front(place: Place) -> pd.Series:
    """A point that the search evaluated and the front does not hold, with layers of unequal shape."""
    points = read_front_csv(place.run("run") / POINTS_FILE)
    front = set(read_front_csv(place.run("run") / FRONT_FILE)["key"])
    unequal = points["mlp_channels"].map(lambda channels: len(set(channels)) > 1)
    return points[unequal & ~points["key"].isin(front)].iloc[0]


def merging(place: Place) -> Place:
    """The same model and run with a tokenizer that has a merge, without which llama.cpp reads none."""
    other = copy.copy(place)
    other.directory = place.directory / "merging"
    model = shutil.copytree(place.model, other.directory / place.model.name)
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["aa"] = tokenizer["model"]["vocab"].pop("9")
    tokenizer["model"]["merges"] = [["a", "a"]]
    (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = shutil.copytree(place.run("run"), other.run("run")) / "config.yaml"
    config.write_text(config.read_text().replace(str(place.model), str(model)))
    return other


@pytest.fixture(scope="module")
def exported(llama: Place, gemma: Place) -> dict[str, Done]:
    """What exporting says, by what is picked."""
    (llama.directory / "taken").mkdir()
    (llama.directory / "taken" / "thesis.txt").write_text("mine")
    key = read_front_csv(llama.run("run") / FRONT_FILE)["key"].iloc[1]
    on_another_device(llama.copy("run", "timed elsewhere"))
    out = llama.directory / "out"
    jobs: dict[str, Callable[[], Process]] = {
        "knee": lambda: llama.export("run"),
        "constraint": lambda: llama.export("run", "pick=params<=0.9", f"out={out / 'constraint'}"),
        "beside": lambda: llama.export("run", f"pick={beside_the_front(llama)['key']}", f"out={out / 'beside'}"),
        "front key": lambda: llama.export("run", f"pick={key}", f"out={out / 'front key'}"),
        "another device": lambda: llama.export("timed elsewhere", f"pick={key}", f"out={out / 'another device'}"),
        "gguf": lambda: merging(llama).export("run", "format=gguf", f"out={out / 'gguf'}"),
        "no merges": lambda: llama.export("run", "format=gguf", f"out={out / 'no merges'}"),
        "not uniform": lambda: llama.export(
            "run", "format=hf_uniform", f"pick={beside_the_front(llama)['key']}", f"out={out / 'not uniform'}"
        ),
        "unknown format": lambda: llama.export("run", "format=onnx", f"out={out / 'unknown format'}"),
        "gemma knee": lambda: gemma.export("run", f"out={out / 'gemma knee'}"),
        "taken": lambda: llama.export("run", f"out={llama.directory / 'taken'}"),
        "unknown key": lambda: llama.export("run", "pick=sffffffffff", f"out={out / 'unknown key'}"),
        "no run": lambda: llama.export("nowhere", f"out={out / 'no run'}"),
    }
    return two_at_a_time(jobs)


def load(directory: Path, monkeypatch: pytest.MonkeyPatch, modules: Path) -> Any:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    return AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)


@pytest.mark.parametrize("pick", ["knee", "constraint", "beside", "front key", "another device", "gemma knee"])
def test_a_pick_loads_and_is_as_large_as_its_row_says(
    llama: Place,
    gemma: Place,
    exported: dict[str, Done],
    pick: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    done = good(exported[pick])
    assert "in a fresh process" in done.stdout
    key = done.stdout.split("pick ", 1)[1].split(": ", 1)[1].split(",", 1)[0]
    directory = llama.run("run") / "exports" / key if pick == "knee" else llama.directory / "out" / pick
    row = read_front_csv((gemma if pick == "gemma knee" else llama).run("run") / POINTS_FILE).set_index("key").loc[key]
    model = load(directory, monkeypatch, tmp_path)
    assert model.num_parameters() == row["params"]
    tokens = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)("some words", return_tensors="pt")
    with torch.inference_mode():
        assert model.generate(**tokens, max_new_tokens=5, do_sample=False).shape[1] == tokens["input_ids"].shape[1] + 5
    card = (directory / "README.md").read_text()
    assert "| params |" in card
    assert "| kl |" in card
    assert ("| heldout_ppl |" in card) == (pick != "beside")  # measured for the points of the front alone


def test_an_exported_front_member_is_as_good_as_its_row_says(
    llama: Place, exported: dict[str, Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is the tuned subnet that the run stored."""
    directory = llama.directory / "out" / "front key"
    front = read_front_csv(llama.run("run") / FRONT_FILE)
    text = split_tokens(
        {"text.txt": (llama.model / "text.txt").read_text()}, AutoTokenizer.from_pretrained(llama.model)
    )
    tokens = text.blocks("heldout", 24, 32)
    with torch.inference_mode():
        logits = load(directory, monkeypatch, tmp_path)(tokens).logits[:, :-1].float()
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert math.exp(nll) == pytest.approx(front["heldout_ppl"][1], rel=1e-3)
    assert front["heldout_ppl"][1] != pytest.approx(front["refit_ppl"][1], rel=1e-2)
    assert "| corrective refit | 512 tokens |" in (directory / "README.md").read_text()


def test_a_pick_is_written_for_llama_cpp(llama: Place, exported: dict[str, Done]) -> None:
    assert "200 greedy tokens" in good(exported["gguf"]).stdout
    assert sorted(path.suffix for path in (llama.directory / "out" / "gguf").iterdir()) == [".gguf", ".md"]


def test_a_killed_recovery_ends_in_the_same_checkpoint(llama: Place) -> None:
    out = {name: llama.directory / "recovered" / name for name in ("whole", "killed")}
    steps = 60
    recover = (f"recover.tokens={steps * 64}", "recover.save_tokens=640", "recover.learning_rate=1e-3")
    whole = llama.export("run", f"out={out['whole']}", *recover)
    killed = llama.export("run", f"out={out['killed']}", *recover)
    checkpoints = out["killed"].with_name("killed.recovery")
    try:
        wait_for(killed, lambda: (checkpoints / "checkpoint-20" / "trainer_state.json").exists())
    finally:
        killed.kill()
        ended(killed)
    assert not out["killed"].exists()
    told = good(ended(whole)).stdout
    again = good(ended(llama.export("run", f"out={out['killed']}", *recover))).stdout
    assert "\n640/3840 tokens: loss" in told
    assert "\n640/3840 tokens: loss" not in again
    assert (out["killed"] / "model.safetensors").read_bytes() == (out["whole"] / "model.safetensors").read_bytes()
    assert not checkpoints.exists()
    card = (out["killed"] / "README.md").read_text()
    assert f"| recovery | {steps * 64} tokens of" in card
    before, after = (
        float(card.split(f"| held-out perplexity {when} recovery | ")[1].split(" ")[0]) for when in ("before", "after")
    )
    assert after < before
    assert f"| heldout_ppl | {after:.4g}"[:20] in card


def test_the_picks_are_those_that_were_named(llama: Place, exported: dict[str, Done]) -> None:
    front = read_front_csv(llama.run("run") / FRONT_FILE)
    assert beside_the_front(llama)["key"] in exported["beside"].stdout
    allowed = front[~is_dense(front) & (front["params"] <= 0.9 * front["params"][0])]
    best = allowed["key"].to_numpy()[allowed["heldout_kl"].to_numpy(dtype=float).argmin()]
    assert best in exported["constraint"].stdout


@pytest.mark.parametrize(
    ("pick", "words"),
    [
        ("taken", "new or empty directory"),
        ("unknown key", "names no point"),
        ("no run", "there is no such file"),
        ("not uniform", "The nearest point of this run that it can hold is"),
        ("unknown format", "hf, hf_uniform, deci, gguf"),
        ("no merges", "a BPE without merges"),
    ],
)
def test_an_export_that_cannot_be_is_told_why(llama: Place, exported: dict[str, Done], pick: str, words: str) -> None:
    done = exported[pick]
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr + done.stdout
    assert words in done.stderr
    assert contents(llama.directory / "taken") == {"thesis.txt": b"mine"}
    assert not (llama.directory / "out" / pick).exists()


def test_no_command_left_anything_in_the_working_directory(
    llama: Place, failed: dict[str, Done], exported: dict[str, Done]
) -> None:
    assert list(llama.cwd.iterdir()) == []


def test_task_scores_are_kept_shown_and_not_asked_again(llama: Place) -> None:
    run, tasks = llama.copy("run", "scored"), write_tasks(llama.directory / "tasks")
    table = (run / "latency.json").read_bytes()
    on_another_device(run)  # scores need no timing
    done = good(ended(llama.score("scored", "tasks=[choose]", f"include_path={tasks}", "limit=8")))
    (run / "latency.json").write_bytes(table)
    before = read_front_csv(llama.run("run") / FRONT_FILE)
    front = read_front_csv(run / FRONT_FILE)
    assert front[before.columns].equals(before)
    (scored,) = front.index[front["choose_acc_norm"].notna() & ~is_dense(front)]
    assert f"pick knee: {front['key'][scored]}" in done.stdout
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
    done = ended(llama.score("scored", "tasks=[gone]", f"include_path={tasks}"))
    assert done.returncode == 1
    assert done.stderr.startswith("error: Task scores: expected to load gone and its data")
    assert "Traceback" not in done.stderr
