"""What is timed, by which engine, and what is kept of it: nothing known is timed again; no clock is asserted on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import helpers_formats
import pytest
import torch
from helpers_latency import CUT, HOLES, OPTIONS, SERVING, WORKLOAD

from evaluators.base import Evaluation
from evaluators.latency.bench import LatencyBench
from evaluators.latency.clocks import TorchClock
from evaluators.latency.end_to_end import EndToEnd, end_to_end_here
from evaluators.latency.table import LatencyTable
from evaluators.latency.timings import Timings
from evaluators.latency.workload import Phase, Workload, models_together
from space.candidate import Candidate
from space.errors import UserError
from space.supernet.placement import Placement
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]


def keys(*designs: list[list[int]]) -> set[str]:
    return {Candidate.from_rows(design).key for design in designs}


def test_nothing_known_is_timed_again(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.latency.bench.OFF", 1e9)
    monkeypatch.setattr("evaluators.latency.bench.NOISY", 1e9)  # the machine of a test may be busy
    timed: list[Candidate] = []
    real = TorchClock.time_ms

    def counted(self: TorchClock, candidate: Candidate, phase: Phase) -> float:
        timed.append(candidate)
        return real(self, candidate, phase)

    monkeypatch.setattr(TorchClock, "time_ms", counted)
    first = LatencyBench(make_supernet("llama"), WORKLOAD, tmp_path).table(OPTIONS, [CUT, HOLES])
    assert timed
    timed.clear()
    again = LatencyBench(make_supernet("llama"), WORKLOAD, tmp_path).table(OPTIONS, [CUT, HOLES])
    assert again.to_json() == first.to_json()
    assert timed == []
    wider = {**OPTIONS, "attention": [*OPTIONS["attention"], (2, 2)]}
    more = LatencyBench(make_supernet("llama"), WORKLOAD, tmp_path).table(wider, [CUT, HOLES])
    dense = [[6, 3, 48]] * 4
    assert {candidate.key for candidate in timed} == keys(dense, [[2, 2, 0]] * 4)
    assert more.dense_ms == first.dense_ms
    timed.clear()
    smaller = {**OPTIONS, "attention": [*OPTIONS["attention"], (1, 1)]}
    LatencyBench(make_supernet("llama"), WORKLOAD, tmp_path).table(smaller, [CUT, HOLES])
    standing = [[[1, 1, mlp], *([[0, 0, mlp]] * 3)] for mlp in (0, 16, 48)]  # stacks that need one attention block
    assert {candidate.key for candidate in timed} == keys(dense, [[1, 1, 0]] * 4, *standing)
    timed.clear()
    for changed in (
        Workload(length=9, threads=1, rounds=2, fit=1, check=1),
        replace(WORKLOAD, logits="all"),
        Workload(**{**vars(WORKLOAD), "cache": False}),
    ):
        LatencyBench(make_supernet("llama"), changed, tmp_path).table(OPTIONS, [CUT, HOLES])
        assert timed
        timed.clear()


def test_timings_of_a_busy_machine_are_not_kept(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.latency.bench.NOISY", -1.0)
    LatencyBench(make_supernet("llama"), WORKLOAD, tmp_path / "cache").table(OPTIONS)
    assert not (tmp_path / "cache").exists()


def test_timings_that_stand_for_nothing_are_not_kept(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.latency.bench.NOISY", 1e9)
    for limit, kept in ((-1.0, False), (1e9, True)):
        monkeypatch.setattr("evaluators.latency.bench.OFF", limit)
        LatencyBench(make_supernet("llama"), WORKLOAD, tmp_path / "cache").table(OPTIONS, [CUT, HOLES])
        assert (tmp_path / "cache").exists() == kept


def test_rounds_that_would_end_too_late_are_left_out_but_for_the_first(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.latency.bench.OFF", 1e9)
    monkeypatch.setattr("evaluators.latency.bench.NOISY", 1e9)
    place = tmp_path / "cache"
    table = LatencyBench(make_supernet("llama"), WORKLOAD, place).table(OPTIONS, [CUT], seconds=0.0)
    assert table.phases["prefill"].rounds == 1
    assert ", a single round; against" in table.remarks()[0]
    assert not place.exists()  # a later run is not to go by it
    table = LatencyBench(make_supernet("llama"), WORKLOAD, place).table(OPTIONS, [CUT], seconds=1e6)
    assert table.phases["prefill"].rounds == 2
    assert "spread between 2 rounds" in table.remarks()[0]
    assert place.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"ratios": {}}', '{"dense_ms": 1, "ratios": {"one": []}}', "\xff"])
def test_a_broken_cache_says_what_to_do(text: str, tmp_path: Path) -> None:
    file = Timings.of({"a": 1}, tmp_path).file
    assert file is not None
    file.write_text(text, encoding="latin-1")
    with pytest.raises(UserError, match=r"Delete it, they are measured again"):
        Timings.of({"a": 1}, tmp_path)


def test_times_are_in_the_unit_of_the_table(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    (again,) = EndToEnd(LatencyBench(supernet, WORKLOAD), {"prefill": 1e6}).evaluate([Candidate.dense(supernet.spec)])
    assert 1e4 < again.values["latency_e2e_ms"] < 1e8  # about 1e6, and timings are noise here
    asked = EndToEnd(LatencyBench(supernet, SERVING), {"prefill": 100.0, "decode": 10.0})
    (request,) = asked.evaluate([HOLES])
    prefill, decode = (request.values[f"{name}_e2e_ms"] for name in ("prefill", "decode"))
    assert 0 <= request.values["latency_e2e_ms_spread"] < math.inf
    assert request.values["latency_e2e_ms"] == pytest.approx(prefill + 4 * decode)
    assert [metric.name for metric in asked.metrics] == [*request.values]


@pytest.mark.parametrize(("rounds", "expected"), [(2, 2), (None, WORKLOAD.front_rounds)])
def test_points_are_timed_in_so_many_rounds(rounds: int | None, expected: int, make_supernet: MakeSupernet) -> None:
    bench, told = LatencyBench(make_supernet("llama"), WORKLOAD), list[tuple[int, int]]()
    timed = EndToEnd(bench, {"prefill": 1.0}, lambda done, of: told.append((done, of)), rounds=rounds)
    assert [evaluation.status for evaluation in timed.evaluate([HOLES])] == ["ok"]
    assert told == [(round + 1, expected) for round in range(expected)]


def test_times_on_another_device_say_so_and_are_all_in_the_unit_of_the_first(make_supernet: MakeSupernet) -> None:
    calibrated = make_supernet("llama")
    table = LatencyBench(calibrated, SERVING).table(OPTIONS)
    answers: dict[str, list[Evaluation]] = {}
    model, spec = calibrated.model, calibrated.spec
    supernet = Supernet.of_slices(model, spec, dtype=torch.float32, place=Placement(model.device))
    dense, merged = Candidate.dense(spec), Candidate.from_rows([[6, 1, 16]] * 4)

    def ask(table: LatencyTable, *candidates: Candidate) -> EndToEnd:
        timer = end_to_end_here(LatencyBench(supernet, SERVING), table, lambda name: answers.get(name, []))
        answers.setdefault(timer.fidelity, []).extend(timer.evaluate(candidates))
        return timer

    assert ask(table, dense).fidelity == "timed"
    assert answers["timed"][0].facts == {}
    far = replace(table, device={**table.device, "device": "Phone 9"})
    other = ask(far, dense).fidelity
    assert re.fullmatch("timed-[0-9a-f]{8}", other)
    assert ask(far, HOLES, merged, Candidate.from_rows([[0, 0, 48]] * 4)).fidelity == other
    first, *more, failed = answers[other]
    assert first.facts["timed_on"] == table.device  # of the clock that is here
    assert [*first.facts["dense_ms"]] == ["prefill", "decode"]
    assert [answer.facts for answer in more] == [first.facts] * 2
    assert failed.status == "failed"
    assert json.loads(json.dumps(first.to_json())) == first.to_json()


def test_a_candidate_that_cannot_run_fails_alone(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    good, broken = Candidate.dense(supernet.spec), Candidate.from_rows([[0, 0, 48]] * 4)
    first, second, third = EndToEnd(LatencyBench(supernet, WORKLOAD), {"prefill": 1.0}).evaluate([good, broken, good])
    assert (first.status, second.status, third.status) == ("ok", "failed", "ok")
    assert "at least one layer with attention" in str(second.error)


def test_llama_cpp_times_what_it_will_run(tmp_path: Path) -> None:
    net = helpers_formats.supernet("llama", tmp_path / "supernet")
    tokenizer = helpers_formats.byte_level()
    workload = Workload("serving", length=24, new_tokens=4, threads=1, rounds=2, fit=0, check=0, engine="llamacpp")
    seen: list[tuple[int, int]] = []
    bench = LatencyBench(net, workload, tokenizer=tokenizer)
    table = bench.table({"attention": [(6, 3)], "mlp": [(64,)]}, on_timings=lambda *done: seen.append(done))
    assert [*table.phases] == ["prefill", "decode"]
    assert min(phase.dense_ms for phase in table.phases.values()) > 0
    assert "in llama.cpp of xllamacpp" in table.remarks()[0]
    assert ", f16, 1 threads" in table.remarks()[0]
    assert seen == [(6, 6)] * 2  # one block, and a stack of each shape, in one process
    bench.clock.together = 1
    short = bench.table({"attention": [(6, 3)], "mlp": [(64,)]}, seconds=0.0)
    assert [phase.rounds for phase in short.phases.values()] == [1, 1]  # the first model has all, later ones no time
    holes = Candidate.from_rows([[0, 0, 64], [4, 2, 0], [0, 0, 0], [6, 1, 32]])
    nothing = Candidate.from_rows([[0, 0, 64]] * 4)
    timed, failed = EndToEnd(bench, table.dense_ms).evaluate([holes, nothing])
    assert timed.values["latency_e2e_ms"] > 0
    assert failed.status == "failed"
    assert "keeps attention" in str(failed.error)
    plain = Supernet.of_slices(net.model, net.spec, dtype=net.model.dtype, place=net.place)
    elsewhere = replace(table, device={"device": "Phone 9"})
    bench = LatencyBench(plain, replace(workload, front_rounds=1), tokenizer=tokenizer)
    (again,) = end_to_end_here(bench, elsewhere, lambda fidelity: []).evaluate([holes])
    assert again.values.keys() == timed.values.keys()
    assert again.facts["timed_on"]["engine"].startswith("llama.cpp")


def test_what_llama_cpp_said_is_told_where_it_does_not_load_a_design(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = helpers_formats.supernet("llama", tmp_path / "supernet")
    workload = Workload(length=24, threads=1, rounds=1, fit=0, check=0, engine="llamacpp")
    bench = LatencyBench(net, workload, tokenizer=helpers_formats.byte_level())
    cut = Candidate.from_rows([[6, 3, 32]] * 4)
    written = bench.clock._write

    def write(file: Path, candidate: Candidate) -> Path:
        return file.write_bytes(b"no model") and file if candidate == cut else written(file, candidate)

    monkeypatch.setattr(bench.clock, "_write", write)
    said = rf"(?s)did not load .*0-{cut.key}\.gguf: exit code 1. It said last:\n.*magic"
    with pytest.raises(UserError, match=said):
        [*EndToEnd(bench, {"prefill": 1.0}).evaluate([cut])]


def test_few_large_models_are_in_memory_at_once() -> None:
    assert [models_together(params) for params in (10**7, 4 * 10**8, 10**9, 10**11)] == [4, 2, 1, 1]


def test_a_model_that_llama_cpp_does_not_hold_is_refused_before_any_work(tmp_path: Path) -> None:
    net = helpers_formats.supernet("gemma3_text", tmp_path / "supernet")
    net.model.config.layer_types = ["full_attention"] * net.spec.layers  # of which llama.cpp dies
    with pytest.raises(UserError, match="sliding"):
        LatencyBench(net, Workload(engine="llamacpp"), tokenizer=helpers_formats.byte_level())
