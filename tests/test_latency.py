"""The table adds up, is fitted and checked, and nothing known is timed again; no clock is asserted on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import helpers_formats
import pytest
import torch
from helpers_latency import CUT, HOLES, OPTIONS, SERVING, WORKLOAD, modern_table

from evaluators.base import Evaluation
from evaluators.latency.bench import LatencyBench
from evaluators.latency.clocks import TorchClock
from evaluators.latency.end_to_end import EndToEnd, end_to_end_here
from evaluators.latency.table import LatencyTable, PhaseTable
from evaluators.latency.table_error import TableError
from evaluators.latency.timings import Timings
from evaluators.latency.workload import Phase, Workload, models_together
from space.candidate import Candidate, Option
from space.errors import UserError
from space.supernet.placement import Placement
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]


def test_a_table_covers_the_shapes_and_survives_the_disk(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("qwen3")
    seen: list[tuple[int, int]] = []
    for workload, phases in ((WORKLOAD, ["prefill"]), (SERVING, ["prefill", "decode"])):
        designs = [CUT, HOLES][: workload.fit + workload.check]
        table = LatencyBench(supernet, workload).table(OPTIONS, designs, lambda *done: seen.append(done))
        assert [*table.phases] == phases
        for phase in table.phases.values():
            assert {kind: [*options] for kind, options in phase.block_ms.items()} == OPTIONS
        again = LatencyTable.from_json(table.to_json())
        assert again.to_json() == table.to_json()
        assert again.digest == table.digest
        assert again.values(HOLES) == table.values(HOLES)
    assert [done for done, of in seen if done == of] == [18, 14, 14]  # timings: rounds times models, of each phase


BLOCKS: dict[str, dict[Option, float]] = {"attention": {(6, 3): 2.0, (2, 1): 1.0}, "mlp": {(48,): 3.0}}
TABLE = PhaseTable(20.0, 5.0, BLOCKS, 0.01)
FOUR = Candidate.from_rows([[6, 3, 48], [0, 0, 48], [2, 1, 0], [0, 0, 0]])


def test_latency_is_base_plus_blocks() -> None:
    assert TABLE.ms(FOUR) == 5 + 2 + 3 + 3 + 1
    with pytest.raises(KeyError):
        TABLE.ms(Candidate.from_rows([[6, 3, 16]]))


def test_a_request_is_a_prefill_and_the_decoding_of_all_tokens_but_the_first() -> None:
    decode = PhaseTable(1.0, 0.5, {"attention": {(6, 3): 0.25, (2, 1): 0.1}, "mlp": {(48,): 0.5}}, 0)
    table = LatencyTable({"prefill": TABLE, "decode": decode}, {}, SERVING)
    values = table.values(FOUR)
    assert values == pytest.approx({"latency_ms": 14 + 4 * 1.85, "prefill_ms": 14, "decode_ms": 1.85})
    assert [metric.name for metric in SERVING.metrics] == [*values]
    assert SERVING.tokens_per_s(values["latency_ms"]) == pytest.approx(2 * 5 / (14 + 4 * 1.85) * 1000)
    assert SERVING.phases["decode"] == Phase("decode", 2, 8 + 2)


def test_the_fit_brings_the_sum_to_what_was_timed_whole() -> None:
    designs = [FOUR, Candidate.from_rows([[6, 3, 48]] * 4), Candidate.from_rows([[2, 1, 0]] * 4)]
    designs += [Candidate.from_rows([[2, 1, 48], [2, 1, 48], [6, 3, 0], [0, 0, 0]])]
    real = {
        design: 1.1 * base + 0.8 * attention + 1.3 * mlp
        for design in designs
        for base, attention, mlp in [TABLE.parts(design).values()]
    }
    plain = TABLE.checked(real)
    fitted = TABLE.fitted({design: real[design] for design in designs[:3]}).checked(real)
    assert plain.error.median > 0.08
    assert fitted.error.worst < 0.05
    assert 0.8 < fitted.fit["attention"] < 1.05 < fitted.fit["mlp"] < 1.3
    assert TABLE.fitted({}).ms(FOUR) == pytest.approx(TABLE.ms(FOUR))
    one = TABLE.fitted({FOUR: 2 * TABLE.ms(FOUR)})  # a single design does not turn a part to nothing
    assert [*one.fit] == ["base", "attention", "mlp"]
    assert min(one.fit.values()) > 1


def test_the_error_is_of_the_end_to_end_time() -> None:
    error = TableError.of([9.0, 22.0, 30.0], [10.0, 20.0, 40.0])
    assert (error.median, error.worst, error.rank_correlation) == pytest.approx((0.1, 0.25, 1.0))
    assert str(error) == "median error 10.0%, worst 25.0%, rank correlation 1.00"


@pytest.mark.parametrize(
    ("table", "timed"),
    [([9.0, 9.0, 9.0], [10.0, 20.0, 40.0]), ([9.0, 10.0, 11.0], [10.0] * 3), ([9.0, 8.0], [1.0, 2.0])],
)
def test_ranks_of_what_is_all_alike_are_undefined_without_a_warning(table: list[float], timed: list[float]) -> None:
    error = TableError.of(table, timed)
    assert math.isnan(error.rank_correlation)
    assert "rank" not in str(error)


def test_a_table_that_is_not_to_be_believed_says_so() -> None:
    device = {"device": "cpu", "dtype": "float32", "threads": 1, "engine": "torch 2"}

    def remarks(spread: float, timed: float) -> list[str]:
        table = PhaseTable(20.0, 5.0, BLOCKS, spread).checked({FOUR: timed})
        return LatencyTable({"prefill": table}, device, WORKLOAD).remarks()

    assert remarks(0.02, 14.0) == [
        "prefill of 1 x 8 tokens with the logits of the last position in torch 2 on cpu, float32, 1 threads: 3 block "
        "shapes, spread between rounds 2.0%; "
        "against designs timed whole: median error 0.0%, worst 0.0%"
    ]
    assert "WARNING: expected a spread of at most 10%" in remarks(0.4, 14.0)[1]
    assert "WARNING: expected a median error of at most latency.error_limit=8%" in remarks(0.02, 20.0)[1]


def test_the_time_of_the_lm_head_stands_beside_the_table_and_a_slow_product_of_one_row_is_told() -> None:
    device = {"device": "cpu", "dtype": "bfloat16", "threads": 1, "engine": "torch 2"}

    def remark(logits: Literal["last", "all"], **head_ms: float) -> str:
        table = LatencyTable({"prefill": replace(TABLE, head_ms=head_ms)}, device, replace(WORKLOAD, logits=logits))
        return LatencyTable.from_json(table.to_json()).remarks()[1]

    both = "prefill: the LM head alone takes {} ms for the last position and {} ms for all"
    assert remark("last", last=1.0, all=20.0) == both.format("1.00", "20.00")
    assert remark("last", last=30.0, all=20.0).startswith(both.format("30.00", "20.00") + "; a product of one row")
    assert remark("all", last=30.0, all=20.0) == both.format("30.00", "20.00")


def test_the_profile_says_what_is_to_be_had_from_each_kind_of_block() -> None:
    dense = Candidate.from_rows([[6, 3, 48]] * 4)
    lines = LatencyTable({"prefill": TABLE}, {}, WORKLOAD).profile(dense)
    assert [" ".join(line.split()) for line in lines] == [
        "prefill: 25.00 ms, sum of blocks (end to end 20.00 ms)",
        "embedding, last norm and LM head 5.00 ms 20% 1.25 x as fast without",
        "4 attention blocks of 6 heads in 3 groups 8.00 ms 32% 1.47 x as fast without",
        "4 MLP blocks of 48 channels 12.00 ms 48% 1.92 x as fast without",
        "time of these blocks by heads/groups: 6/3 100%, 2/1 50%",
        "time of these blocks by channels: 48 100%",
    ]


def keys(*designs: list[list[int]]) -> set[str]:
    return {Candidate.from_rows(design).key for design in designs}


def test_nothing_known_is_timed_again(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


def test_rounds_that_would_end_too_late_are_left_out_but_for_the_first(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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


@pytest.mark.parametrize("text", ["", "[]", '{"phases": 1}', '{"phases": {"prefill": {"base_ms": 1}}, "device": {}}'])
def test_a_garbled_table_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="latency table"):
        LatencyTable.from_json(text)


def test_a_table_of_old_is_read_with_its_very_numbers_once_it_has_todays_form() -> None:
    table = LatencyTable({"prefill": TABLE.fitted({FOUR: 2 * TABLE.ms(FOUR)})}, {"threads": 1}, WORKLOAD)
    stored = json.loads(table.to_json())
    phase = stored["phases"]["prefill"]
    phase |= {"attention_ms": phase["block_ms"]["attention"], "mlp_ms": phase.pop("block_ms")["mlp"]}
    phase["fit"] = [*phase["fit"].values()]
    with pytest.raises(UserError, match="latency table"):
        LatencyTable.from_json(json.dumps(stored))
    assert modern_table(json.dumps(stored)) == table.to_json()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"length": 0}, "at least 1"),
        ({"scenario": "training"}, "prefill, decode or serving"),
        ({"fit": -1}, "at least 0"),
        ({"engine": "onnx"}, "torch, llamacpp or vllm"),
        ({"gguf_type": "q4"}, "one of f16, q8_0, q5_1"),
        ({"engine": "llamacpp", "batch_size": 2}, "latency.batch_size=1"),
        ({"engine": "llamacpp", "logits": "all"}, "latency.logits=last"),
        ({"engine": "vllm", "logits": "all"}, "latency.logits=last"),
        ({"engine": "vllm", "cold": True}, "latency.cold=false"),
        ({"logits": "first"}, "last or all"),
    ],
)
def test_an_impossible_workload_is_refused(changes: dict[str, int | str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        Workload(**changes)  # type: ignore[arg-type]
