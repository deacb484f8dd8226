"""The table adds up, is fitted and checked, and says what it is; no clock is asserted on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest
from helpers_latency import CUT, HOLES, OPTIONS, SERVING, WORKLOAD, modern_table

from evaluators.latency.bench import LatencyBench
from evaluators.latency.table import LatencyTable, PhaseTable
from evaluators.latency.table_error import TableError
from evaluators.latency.workload import Phase, Workload
from space.candidate import Candidate, Option
from space.errors import UserError
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
