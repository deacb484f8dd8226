"""The device checks: every one on tiny models through the command, as a machine with a GPU runs them."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import gpu
from benchmarks.device.machine import Machine
from benchmarks.device.models import sliced_supernet, workload
from benchmarks.device.report import Report
from space.candidate import Candidate

SHAPE = "llama-3.2-1b"
ALL = ("facts", "parity", "compile", f"truth:{SHAPE}", f"shape:{SHAPE}", f"again:{SHAPE}", "checkpoint:qwen2.5-7b")
FAMILIES = {"llama", "gemma3_text", "qwen3", "qwen2", "mistral"}
QUESTIONS = {"divergence of 4 windows", "divergence of 4 quarters", "correct", "train 8 steps"}


def entries(found: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value of nested mappings by its path."""
    for name, value in found.items():
        yield (*path, name), value
        if isinstance(value, dict):
            yield from entries(value, (*path, name))


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are of single calls, without a pause to flush large caches: none of them is looked at."""
    monkeypatch.setattr("evaluators.latency.clocks.REPEATS", {"prefill": 1, "decode": 1})
    monkeypatch.setattr("evaluators.latency.clocks._FLUSHED_BYTES", 1)
    for module in ("shapes", "truth", "compiling"):
        monkeypatch.setattr(f"benchmarks.device.{module}.workload", partial(workload, rounds=1))


@pytest.mark.usefixtures("hurried")
def test_every_check_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "report.json"
    monkeypatch.setattr(sys, "argv", ["gpu", str(file), "600", *(f"{check}@300" for check in ALL), "--dry"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with warnings.catch_warnings():
        gpu.main()
    report = json.loads(file.read_text(encoding="utf-8"))

    assert {*report["checks"]} == {*ALL}
    broken = [(path, value) for path, value in entries(report) if path[-1] == "error" and "where" in value]
    assert broken == []
    assert [path for path, value in entries(report) if path[-1] == "skipped" or "left out" in str(value)] == []

    assert report["facts"]["versions"]["torch"] != "missing"
    for rows in (report["truth"][SHAPE][phase]["rows"] for phase in ("prefill x 1", "decode x 1", "prefill x 8")):
        assert {*rows} == {"dense", "uniform", "depth", "mixed", "random-0", "random-1"}
        assert rows["dense"]["removed"] == 0 < rows["depth"]["removed"]
        assert all(row[way] > 0 for row in rows.values() for way in ("product_ms", "wall_ms", "event_ms", "queued_ms"))
    for phase in ("prefill x 1", "decode x 1", "prefill x 8", "decode x 32"):
        of_phase = report["shape"][SHAPE][phase]
        assert {*of_phase["speed_up"]} == {"uniform", "depth", "mixed", "uniform-25%", "uniform-38%"}
        peaks = of_phase["peak_bytes"]
        assert max(peaks.values()) == peaks["dense"]
        assert ("table" in of_phase) == phase.endswith(" x 1")
    table, counts = report["shape"][SHAPE]["prefill x 1"]["table"], report["shape"][SHAPE]["space"]
    assert len(table["attention_ms"]) == counts["attention_shapes"]
    assert len(table["mlp_ms"]) == counts["mlp_shapes"]
    assert {*table["share"]} == {"base", "attention", "mlp"}
    for scenario in ("prefill", "decode"):
        assert {*report["compile"][scenario]} == {"dense", "uniform", "mixed", "seconds"}
    for kind in ("uniform", "mixed"):
        answers = report["again"][SHAPE][kind]
        assert {*answers} == QUESTIONS
        assert all(answer["same"] for answer in answers.values())
    parity = report["parity"]
    assert {*parity} == FAMILIES | {"products"}
    assert {*parity["llama"]} == {*parity["gemma3_text"]} == {"float32", "bfloat16"}
    assert parity["products"]["head torch.float32"]["expected_off"] < 1e-5
    for pair in (dtypes[name] for family, dtypes in parity.items() if family in FAMILIES for name in dtypes):
        assert pair["orders_equal"] == "12 of 12"
        assert {"dense", "cut", "holes", "first gone"} <= {*pair["divergence"]}
        assert all(row["same_again"] and abs(row["kl_off"]) < 1e-4 for row in pair["divergence"].values())
        assert all(caches["dynamic"][1] == 8 for caches in pair["generate"].values())
    assert parity["llama"]["float32"]["divergence"]["cut"]["kl"] > 0.1
    assert parity["llama"]["float32"]["losses"]["same_again"]
    assert {*parity["llama"]["float32"]["clock"]} == {"prefill", "prefill cold", "decode", "decode cold"}

    directory = report["checkpoint"]["qwen2.5-7b"]
    assert Path(directory).is_relative_to(tmp_path)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(directory), AutoTokenizer.from_pretrained(directory)
    assert tokenizer.decode(tokenizer("Grüße")["input_ids"]) == "Grüße"
    assert len(tokenizer) <= model.config.vocab_size


@pytest.fixture
def machine() -> Machine:
    return Machine.here(dry=True)


def test_a_level_is_a_slice_of_a_random_model() -> None:
    supernet = sliced_supernet(SHAPE, Machine(torch.device("cpu"), torch.float32, dry=True))
    model = supernet.view(Candidate.from_rows([[2, 2, 128], [4, 1, 64], [0, 0, 256]]))
    dense = supernet.model.model.layers
    heads = supernet.spec.head_dim
    half, merged = model.model.layers[0], model.model.layers[1]
    for found, whole in (
        (half.self_attn.q_proj, dense[0].self_attn.q_proj.weight.view(2, 2, heads, -1)[:, :1].flatten(0, 2)),
        (half.self_attn.k_proj, dense[0].self_attn.k_proj.weight),
        (half.self_attn.o_proj, dense[0].self_attn.o_proj.weight.view(-1, 2, 2, heads)[:, :, 0].flatten(1)),
        (half.mlp.down_proj, dense[0].mlp.down_proj.weight[:, :128]),
        (merged.self_attn.q_proj, dense[1].self_attn.q_proj.weight),
        (merged.self_attn.v_proj, dense[1].self_attn.v_proj.weight[:heads]),
        (merged.self_attn.o_proj, dense[1].self_attn.o_proj.weight),
    ):
        assert torch.equal(found.weight, whole)
        assert found.weight.is_contiguous()  # as a refit is, or its time would be another
    assert model(torch.arange(10)[None]).logits.isfinite().all()


def test_what_fails_is_a_finding_and_the_next_check_goes_on(
    tmp_path: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(report: Report, machine: Machine) -> None:
        report.put("facts", "first", value=float("nan"))
        raise RuntimeError("no such card")

    monkeypatch.setitem(gpu.CHECKS, "facts", fails)
    monkeypatch.setitem(gpu.CHECKS, "parity", lambda report, machine: report.put("parity", value=1.23456789))
    report = Report(tmp_path / "report.json", 60)
    gpu.ask([gpu.Check.parse("facts"), gpu.Check.parse("parity@30")], report, machine)
    found = json.loads(report.file.read_text(encoding="utf-8"))
    error = found["checks"]["facts"]["error"]
    assert error["what"] == "RuntimeError: no such card"
    assert "fails" in "".join(error["where"])
    assert found["facts"] == {"first": None}
    assert found["parity"] == 1.23457
    assert {*found["checks"]["parity"]} == {"seconds"}


def test_what_has_no_time_left_is_skipped(tmp_path: Path, machine: Machine) -> None:
    late, report = Report(tmp_path / "late.json", 1), Report(tmp_path / "report.json", 60)
    gpu.ask([gpu.Check.parse("parity@30")], late, machine)
    gpu.ask([gpu.Check.parse("parity@1")], report, machine)
    for asked in (late, report):
        found = json.loads(asked.file.read_text(encoding="utf-8"))
        assert found["skipped"] == {"parity": "no time left"}
        assert "checks" not in found


@pytest.mark.parametrize("word", ["fact", "facts:llama-3-8b", "truth", "truth:llama-4", "parity@soon"])
def test_a_word_that_is_no_check_is_refused(word: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"expected facts, parity, compile or truth.*, got "):
        gpu.Check.parse(word)
