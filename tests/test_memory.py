"""The peak of memory: what is held at once, freed or not, and what was there before."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from conftest import random_tokens, tiny_model
from torch import nn

from evaluators.latency.bench import LatencyBench
from evaluators.latency.end_to_end import EndToEnd
from evaluators.latency.memory import peak_bytes
from evaluators.latency.workload import Workload
from space.candidate import Candidate, LayerShape
from space.size import total_params
from space.supernet.supernet import Supernet

SIDE = 500
MATRIX = 4 * SIDE * SIDE  # bytes


@pytest.fixture
def linear() -> nn.Linear:
    return nn.Linear(SIDE, SIDE, bias=False)


def test_the_peak_is_of_what_is_held_at_once(linear: nn.Linear) -> None:
    def ones() -> torch.Tensor:
        return torch.ones(SIDE, SIDE)

    with torch.inference_mode():
        assert peak_bytes(linear, ones) == MATRIX
        assert peak_bytes(linear, lambda: [ones() for _ in range(5)]) == 5 * MATRIX
        assert peak_bytes(linear, lambda: [ones().shape for _ in range(5)]) == MATRIX  # freed as it goes
        assert peak_bytes(linear, lambda: linear(ones())) == 2 * MATRIX


def test_weights_and_views_take_nothing(linear: nn.Linear) -> None:
    with torch.inference_mode():
        assert peak_bytes(linear, lambda: linear.weight.t()[3:].reshape(-1, 1)[0]) == MATRIX - 4 * 3 * SIDE  # one copy
        assert peak_bytes(linear, lambda: linear.weight.t()[3:]) == 0


def test_a_smaller_design_has_a_lower_peak_in_every_scenario(make_supernet) -> None:
    supernet = make_supernet("llama")
    spec = supernet.spec
    dense = Candidate.dense(spec)
    half = Candidate((LayerShape(spec.queries_per_group, 1, 8),) * spec.layers)
    for scenario in ("prefill", "decode", "serving"):
        workload = Workload(scenario=scenario, length=32, new_tokens=4, rounds=1, fit=0, check=0, cache=False)
        timed = EndToEnd(LatencyBench(supernet, workload), dict.fromkeys(workload.phases, 1.0))
        assert timed.metrics[-1].name == "peak_bytes"
        gc.collect()
        large, small = (evaluation.values["peak_bytes"] for evaluation in timed.evaluate([dense, half]))
        weights = [supernet.model.dtype.itemsize * total_params(spec, candidate) for candidate in (dense, half)]
        cache = 2 * 32 * spec.head_dim * supernet.model.dtype.itemsize * spec.layers
        assert large - weights[0] > spec.kv_heads * cache
        assert weights[1] + cache < small < large


def test_the_peak_has_the_logits_that_are_timed(tmp_path: Path) -> None:
    model, spec = tiny_model("llama", vocab_size=2000)
    supernet = Supernet.prepare(model, spec, random_tokens(12, 24), tmp_path, dtype=torch.float32)
    last, full = (
        LatencyBench(supernet, Workload(length=32, logits=logits)).clock.try_out(Candidate.dense(spec))["peak_bytes"]
        for logits in ("last", "all")
    )
    assert full - last > 4 * 24 * 2000
