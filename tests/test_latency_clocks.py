"""What a clock times is what a subnet computes: full caches, the logits asked for, compiled steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import each_kind, fitting, random_tokens
from helpers_latency import CUT, HOLES, OPTIONS, SERVING, WORKLOAD
from transformers import DynamicCache

from evaluators.latency.bench import LatencyBench
from evaluators.latency.clocks import TorchClock
from evaluators.latency.standing_cache import made_up
from evaluators.latency.workload import Phase, Workload
from space.candidate import Candidate
from space.errors import UserError
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]
DECODED = {  # designs, and tokens in the cache; sliding windows are of 7
    **{"holes within the window": (HOLES, 4), "cut within the window": (CUT, 4)},
    **{"cut beyond the window": (CUT, 12), "holes beyond the window": (HOLES, 12)},
}


@pytest.mark.parametrize(("family", "case"), each_kind(DECODED))
def test_a_decoding_step_is_that_of_a_full_cache_and_the_same_each_time(
    case: str, family: str, make_supernet: MakeSupernet
) -> None:
    candidate, context = DECODED[case]
    supernet, candidate = make_supernet(family), fitting(family, candidate)
    clock, phase = TorchClock(supernet, WORKLOAD), Phase("decode", 2, context)
    model = supernet.sliced().view(candidate)
    with torch.inference_mode():
        step = clock.step(candidate, phase)
        standing, real = step.keywords["past_key_values"], DynamicCache(config=model.config)
        model(random_tokens(2, context), past_key_values=real)
        for ours, theirs in zip(standing.layers, real.layers, strict=True):
            for name in ("keys", "values"):
                past = getattr(theirs, name)
                getattr(ours, name)[:, :, : past.shape[2]].copy_(past)
        expected = model(*step.args, past_key_values=real).logits
        for _ in range(3):
            torch.testing.assert_close(step().logits, expected, rtol=1e-4, atol=1e-4)
    for layer in standing.layers:
        assert layer.keys.shape[2] == min(context + 1, 7 if layer.is_sliding else 99)
        assert layer.keys.is_contiguous()


def test_caches_of_all_designs_lie_in_the_memory_of_the_dense_ones(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    clock, phase = TorchClock(supernet, WORKLOAD), Phase("decode", 2, 8)
    with torch.inference_mode():
        dense, cut = (
            clock.step(candidate, phase).keywords["past_key_values"]
            for candidate in (Candidate.dense(supernet.spec), CUT)
        )
    for one, other in zip(dense.layers, cut.layers, strict=True):
        assert one.keys.data_ptr() == other.keys.data_ptr()
        assert one.values.data_ptr() == other.values.data_ptr()


def test_timing_solves_no_refit(make_supernet: MakeSupernet, monkeypatch: pytest.MonkeyPatch) -> None:
    supernet = make_supernet("qwen2")
    for solving in ("space.supernet.refits.refits", "space.supernet.store.StoredLayers.dropped_map"):
        monkeypatch.setattr(solving, lambda *_: pytest.fail("a refit was solved"))
    bench = LatencyBench(supernet, SERVING)
    bench.table(OPTIONS)
    bench.ratios([CUT])
    bench.clock.try_out(CUT)


def test_a_prefill_has_the_logits_that_are_asked_for(unlike_family: str, make_supernet: MakeSupernet) -> None:
    supernet, phase, holes = make_supernet(unlike_family), Phase("prefill", 2, 8), fitting(unlike_family, HOLES)
    with torch.inference_mode():
        last_step, full_step = (
            TorchClock(supernet, replace(WORKLOAD, logits=logits)).step(holes, phase) for logits in ("last", "all")
        )
        last, full = last_step(), full_step()
        plain = supernet.sliced().view(holes)(full_step.args[0]).logits
    torch.testing.assert_close(last.logits, full.logits[:, -1:])
    torch.testing.assert_close(full.logits, plain, rtol=1e-4, atol=1e-4)


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """torch.compile without a C++ compiler: what is traced runs as it is; the modes that were asked for."""
    compile_, modes = torch.compile, list[str]()

    def traced(model: Any, **settings: Any) -> Any:
        modes.append(settings.pop("mode"))
        return compile_(model, backend="eager", **settings)

    monkeypatch.setattr(torch, "compile", traced)
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    yield modes
    torch.compiler.reset()


@pytest.mark.parametrize("model", ["gemma3_text", "exaone4"])
def test_a_token_of_a_model_with_sliding_windows_is_not_compiled(model: str, make_supernet: MakeSupernet) -> None:
    with pytest.raises(UserError, match="a model without sliding windows"):
        TorchClock(make_supernet(model), Workload("decode", length=8, threads=1, compile=True))


@pytest.mark.parametrize(("scenario", "model"), [("prefill", "gemma3_text"), ("decode", "granite")])
def test_compiled_steps_are_the_same_steps(
    scenario: Any, model: str, make_supernet: MakeSupernet, compiling: list[str]
) -> None:
    clock = TorchClock(make_supernet(model), Workload(scenario, length=8, threads=1, compile=True))
    phase = Phase(scenario, 2, 8)
    for candidate in (HOLES, CUT):
        with torch.inference_mode():
            step = clock.step(candidate, phase)
            if scenario == "decode":
                for layer in step.keywords["past_key_values"].layers:  # as a static cache is filled
                    state = made_up((*layer.keys.shape[:2], 8, layer.keys.shape[3]), torch.float32, layer.keys.device)
                    layer.keys[:, :, :8], layer.values[:, :, :8] = state, state
            expected = step().logits
            for _ in range(2):  # the second one with the cache of the first
                found = clock._steps.compiled(candidate, phase)().logits
                torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert compiling == ["default"] * 2


def test_a_session_compiles_each_design_once(make_supernet: MakeSupernet, compiling: list[str]) -> None:
    clock = TorchClock(make_supernet("qwen3"), Workload("decode", length=8, threads=1, compile=True))
    phase = Phase("decode", 2, 8)
    ratios, dense_ms = clock.session(phase, {"holes": HOLES, "cut": CUT}, 3, lambda done, of: None)
    assert [len(times) for times in ratios.values()] == [3, 3]
    assert dense_ms > 0
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3  # the dense model's, and one each
    assert "compiled" in clock.describe()["engine"]


def test_a_model_that_does_not_compile_is_told_in_one_sentence(
    make_supernet: MakeSupernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler here")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, mode, **settings: compile_(model, backend=broken, **settings))
    bench = LatencyBench(make_supernet("llama"), replace(WORKLOAD, compile=True))
    with pytest.raises(UserError, match=r"expected torch.compile .* no compiler here.* set latency.compile=false"):
        bench.table({"attention": [(6, 3)], "mlp": [(48,)]})
    with pytest.raises(UserError, match=r"latency\.compile=false, as it is asked one thing at a time"):
        Workload(engine="llamacpp", compile=True)
