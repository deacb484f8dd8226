"""Picks of a run as checkpoints: they load, are what their rows say, and go on after a kill of their polish."""

from __future__ import annotations

import copy
import json
import math
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from helpers_commands import (
    Done,
    Place,
    Process,
    contents,
    good,
    on_another_device,
    timed_as_tabled,
    two_at_a_time,
    wait_for,
)
from helpers_hub import TOKEN, FakeHub, fake_hub
from helpers_run import add_merges, ended
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.data.places import TextPlace
from evaluators.data.splits import read_text
from search.run.directory import FRONT_FILE, POINTS_FILE
from search.run.front import is_dense, read_front_csv


def beside_the_front(place: Place) -> pd.Series:
    """A point that the search evaluated and the front does not hold, with layers of unequal shape."""
    points = read_front_csv(place.run("run") / POINTS_FILE)
    front = set(read_front_csv(place.run("run") / FRONT_FILE)["key"])
    unequal = points["candidate"].map(lambda candidate: len({shape.mlp_channels for shape in candidate.layers}) > 1)
    return points[unequal & ~points["key"].isin(front)].iloc[0]


def pruned_front(place: Place) -> pd.DataFrame:
    """The front without the dense model, the smallest first; how many there are is up to noisy timings."""
    front = read_front_csv(place.run("run") / FRONT_FILE)
    return front[~is_dense(front)].sort_values("params")


def merging(place: Place, merges: int = 1) -> Place:
    """The same model and run with a tokenizer that has merges, in place of digits; llama.cpp reads none without."""
    other = copy.copy(place)
    other.directory = place.directory / f"merging {merges}"
    model = shutil.copytree(place.model, other.directory / place.model.name)
    add_merges(model, merges)
    file = shutil.copytree(place.run("run"), other.run("run")) / "config.yaml"
    config = yaml.safe_load(file.read_text())
    config["model"]["path"] = str(model)
    config["data"] |= {"path": str(model / "text.txt"), "digest": None}  # it is other tokens now
    file.write_text(yaml.safe_dump(config))
    return other


@pytest.fixture(scope="module")
def hub() -> Iterator[FakeHub]:
    with fake_hub() as server:
        yield server


@pytest.fixture(scope="module")
def exported(llama: Place, gemma: Place, hub: FakeHub) -> dict[str, Done]:
    """What exporting says, by what is picked; from a copy of the run, which exports add to."""
    timed_as_tabled(llama.copy("run", "exported"))
    timed_as_tabled(gemma.copy("run", "gemma exported"))
    (llama.directory / "taken").mkdir()
    (llama.directory / "taken" / "thesis.txt").write_text("mine")
    pruned = pruned_front(llama)
    key, middle = pruned["key"].iloc[0], pruned["params"].iloc[len(pruned) // 2]
    on_another_device(llama.copy("run", "timed elsewhere"))  # which no export needs
    hub.files["me/taken"] = {"config.json": b"{}"}
    online = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_TOKEN": TOKEN}
    out = llama.directory / "out"
    jobs: dict[str, Callable[[], Process]] = {
        "recommended": lambda: llama.export("exported"),
        "constraint": lambda: llama.export("timed elsewhere", f"pick=params<={middle}", f"out={out / 'constraint'}"),
        "beside": lambda: llama.export("exported", f"pick={beside_the_front(llama)['key']}", f"out={out / 'beside'}"),
        "gguf": lambda: merging(llama).export(
            "run", "format=gguf", "gguf.type=q4_0", f"pick={key}", f"out={out / 'gguf'}"
        ),
        "no merges": lambda: llama.export("exported", "format=gguf", f"out={out / 'no merges'}"),
        "not uniform": lambda: llama.export(
            "exported", "format=hf_uniform", f"pick={beside_the_front(llama)['key']}", f"out={out / 'not uniform'}"
        ),
        "push": lambda: llama.export("exported", f"pick={key}", f"out={out / 'push'}", "push=lab/pruned", hub=online),
        "push to a taken place": lambda: llama.export(
            "exported", f"out={out / 'push to a taken place'}", "push=me/taken", hub=online
        ),
        "unknown format": lambda: llama.export("exported", "format=zip", f"out={out / 'unknown format'}"),
        "gemma": lambda: gemma.export("gemma exported", "pick=heldout_ppl<=90x", f"out={out / 'gemma'}"),
        "taken": lambda: llama.export("exported", f"out={llama.directory / 'taken'}"),
        "unknown key": lambda: llama.export("exported", "pick=sffffffffff", f"out={out / 'unknown key'}"),
        "no run": lambda: llama.export("nowhere", f"out={out / 'no run'}"),
    }
    return two_at_a_time(jobs)


def load(directory: Path, monkeypatch: pytest.MonkeyPatch, modules: Path) -> Any:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(modules))
    return AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True)


@pytest.mark.parametrize("pick", ["recommended", "constraint", "beside", "push", "gemma"])
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
    directory = llama.run("exported") / "exports" / key if pick == "recommended" else llama.directory / "out" / pick
    row = read_front_csv((gemma if pick == "gemma" else llama).run("run") / POINTS_FILE).set_index("key").loc[key]
    model = load(directory, monkeypatch, tmp_path)
    assert model.num_parameters() == row["params"]
    tokens = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)("some words", return_tensors="pt")
    with torch.inference_mode():
        assert model.generate(**tokens, max_new_tokens=5, do_sample=False).shape[1] == tokens["input_ids"].shape[1] + 5
    card = (directory / "README.md").read_text()
    assert "| params |" in card
    assert "| kl |" in card
    measured_of_the_front_alone = ("heldout_ppl", "heldout_long_ppl")
    assert all((f"| {name} |" in card) == (pick != "beside") for name in measured_of_the_front_alone)
    assert "## What it writes\n\n| prompt | the dense model goes on | this one does |" in card
    assert len(re.findall(r"^\| The capital of France is \|.*\|.*\|$", card, flags=re.MULTILINE)) == 1


def test_an_exported_front_member_is_as_good_as_its_row_says(
    llama: Place, exported: dict[str, Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It is the tuned subnet that the run stored."""
    directory = llama.directory / "out" / "push"
    row = pruned_front(llama).iloc[0]
    text = read_text(TextPlace(str(llama.model / "text.txt")), AutoTokenizer.from_pretrained(llama.model))
    tokens = text.blocks("heldout", 24, 32)
    with torch.inference_mode():
        logits = load(directory, monkeypatch, tmp_path)(tokens).logits[:, :-1].float()
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).item()
    assert math.exp(nll) == pytest.approx(row["heldout_ppl"], rel=1e-3)
    assert row["heldout_ppl"] != pytest.approx(row["refit_ppl"], rel=1e-2)
    assert "| corrective refit | 512 tokens |" in (directory / "README.md").read_text()


def test_a_pushed_export_is_on_the_hub(llama: Place, exported: dict[str, Done], hub: FakeHub) -> None:
    done, directory = good(exported["push"]), llama.directory / "out" / "push"
    assert f"pushed: {hub.address}/lab/pruned" in done.stdout
    assert TOKEN not in done.stdout
    assert hub.files["lab/pruned"] == contents(directory)
    assert hub.private == {"lab/pruned": True}
    card = ModelCard.load(directory / "README.md")
    assert 'from_pretrained("lab/pruned"' in card.text
    assert "![What is left of each layer](layers.svg)" in card.text
    row = pruned_front(llama).iloc[0]
    results = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert results["Perplexity, held-out"] == pytest.approx(row["heldout_ppl"])
    assert card.data.license == "mit"  # the base model's


def test_a_pick_is_written_for_llama_cpp(llama: Place, exported: dict[str, Done]) -> None:
    assert "200 greedy tokens" in good(exported["gguf"]).stdout
    assert sorted(path.suffix for path in (llama.directory / "out" / "gguf").iterdir()) == [".gguf", ".md", ".svg"]


def test_a_killed_polish_ends_in_the_same_checkpoint(llama: Place) -> None:
    """Its tokens are those of the speed that was measured before it was killed."""
    out = {name: llama.directory / "polished" / name for name in ("killed", "whole")}
    key = pruned_front(llama)["key"].iloc[0]
    settings = (f"pick={key}", "polish.minutes=0.05", "recover.save_tokens=640", "recover.learning_rate=1e-3")
    killed = llama.export("run", f"out={out['killed']}", *settings)
    checkpoints = out["killed"].with_name("killed.polish")
    try:
        wait_for(killed, lambda: (checkpoints / "checkpoint-20" / "position.json").exists())
    finally:
        killed.kill()
        told = ended(killed).stdout
    assert not out["killed"].exists()
    measured = (checkpoints / "tokens.json").read_text()
    out["whole"].with_name("whole.polish").mkdir(parents=True)
    (out["whole"].with_name("whole.polish") / "tokens.json").write_text(measured)
    whole = good(ended(llama.export("run", f"out={out['whole']}", *settings))).stdout
    again = good(ended(llama.export("run", f"out={out['killed']}", *settings))).stdout
    assert "640/" in told
    assert "\n640/" in whole
    assert "\n640/" not in again
    assert (out["killed"] / "model.safetensors").read_bytes() == (out["whole"] / "model.safetensors").read_bytes()
    assert not checkpoints.exists()
    card = (out["killed"] / "README.md").read_text()
    tokens = -(-json.loads(measured)["tokens"] // 64) * 64
    assert f"| training | {tokens:.0f} tokens of" in card
    assert "| kl |" not in card
    assert "heldout_long_ppl" not in card  # which was measured before
    steps = re.findall(r"\| held-out (.*?) \| heldout_kl (.*?), heldout_ppl (.*?) \|", card)
    assert [name.partition(" on ")[0] for name, *_ in steps] == ["before", "after training"]
    assert float(steps[-1][1]) < float(steps[0][1])
    (ppl,) = re.findall(r"\| heldout_ppl \| ([\d.]+)", card)
    assert float(ppl) == pytest.approx(float(steps[-1][2]), rel=1e-3)  # the step's has four digits


def test_the_picks_are_those_that_were_named(llama: Place, exported: dict[str, Done]) -> None:
    assert beside_the_front(llama)["key"] in exported["beside"].stdout
    pruned = pruned_front(llama)
    allowed = pruned[: len(pruned) // 2 + 1]
    best = allowed["key"].to_numpy()[allowed["heldout_kl"].to_numpy(dtype=float).argmin()]
    assert best in exported["constraint"].stdout
    fastest = pruned["key"].to_numpy()[pruned["latency_ms"].to_numpy(dtype=float).argmin()]
    assert f"pick recommended: {fastest}" in exported["recommended"].stdout  # all are within so large a rise


@pytest.mark.parametrize(
    ("pick", "words"),
    [
        ("taken", "new or empty directory"),
        ("unknown key", "names no point"),
        ("no run", "there is no such file"),
        ("not uniform", "The nearest point of this run that it can hold is"),
        ("unknown format", "hf, hf_uniform, deci, gguf, onnx, openvino"),
        ("push to a taken place", "new or empty, but it has 1 files"),
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


def test_exports_left_nothing_in_the_working_directory(llama: Place, exported: dict[str, Done]) -> None:
    assert list(llama.cwd.iterdir()) == []


def test_an_export_keeps_a_part_of_the_vocabulary(llama: Place, tmp_path: Path) -> None:
    place, out = merging(llama, 10), tmp_path / "small"
    done = good(ended(place.export("run", "pick=smallest", "vocabulary.keep=56", f"out={out}")))
    assert "tokens kept 56 of 64" in done.stdout
    assert "in a fresh process" in done.stdout
    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    whole = AutoTokenizer.from_pretrained(place.directory / place.model.name)
    assert len(tokenizer) == json.loads((out / "config.json").read_text())["vocab_size"] == 56
    text = "aabb jj."
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == whole.decode(whole(text)["input_ids"])
    before, after = (figure(done.stdout, f"{name} ") for name in ("whole vocabulary", "this one"))
    assert 0 < after != before > 0  # a random model may be better without a token
    card = (out / "README.md").read_text()
    assert "## Vocabulary" in card
    metrics = card.partition("## Metrics\n")[2].partition("\n## ")[0]
    assert "| params |" in metrics
    assert "| kl |" not in metrics
    assert "| kl |" in card.partition("## Metrics with the whole vocabulary")[2]


def test_a_vocabulary_that_cannot_be_as_small_is_refused_before_any_work(llama: Place, tmp_path: Path) -> None:
    done = ended(llama.export("run", "vocabulary.keep=0.5", f"out={tmp_path / 'none'}"))
    assert done.returncode == 1
    assert "vocabulary.keep: expected from 64 to 64 tokens" in done.stderr
    assert not (tmp_path / "none").exists()


def figure(told: str, name: str) -> float:
    """The number behind some words."""
    return float(re.findall(rf"{name}([0-9.]+)", told)[0])
