"""The fidelities look at the beginnings of the same windows, and the refit error is what the refits lose."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import fitting, random_tokens

from evaluators.divergence import Divergence
from evaluators.fidelities import Fidelities, fidelities
from evaluators.latency.table import LatencyTable, PhaseTable
from evaluators.latency.workload import Workload
from evaluators.refit_error import refit_error_measure
from evaluators.training.recipes import CorrectiveRefit
from evaluators.training.tuning import Tuning
from space.candidate import Candidate
from space.errors import UserError
from space.supernet.supernet import Supernet

SMALLER = Candidate.from_rows([[4, 2, 16], [0, 0, 32], [6, 3, 0], [3, 3, 48]])
BLOCKS = {"attention": {(4, 2): 1.0, (6, 3): 2.0, (3, 3): 1.5}, "mlp": {(16,): 1.0, (32,): 2.0, (48,): 3.0}}
PREFILL = PhaseTable(20.0, 1.0, BLOCKS, 0.0)
TABLE = LatencyTable({"prefill": PREFILL}, {}, Workload(length=8))


def made(supernet: Supernet, parts: list[float], tuning: Tuning | None = None) -> Fidelities:
    search, heldout = random_tokens(4, 12, seed=3), random_tokens(2, 12, seed=4)
    return fidelities(
        supernet, TABLE, search, heldout, tuning, context=16, batch_size=2, parts=parts, cache_bytes=1 << 20
    )


def test_each_fidelity_is_the_divergence_on_its_windows(make_supernet: Callable[..., Supernet]) -> None:
    supernet = make_supernet("llama")
    asked = made(supernet, [0.25, 0.5])
    assert [evaluator.fidelity for evaluator in asked.search] == ["search-3", "search-6", "search"]
    for evaluator, tokens in zip(asked.search, (3, 6, 12), strict=True):
        (evaluation,) = evaluator.evaluate([SMALLER])
        expected, _ = Divergence(supernet, random_tokens(4, 12, seed=3)[:, :tokens], batch_size=2)(SMALLER)
        assert evaluation.values["kl"] == expected
        assert evaluation.tokens == 4 * tokens
        assert evaluation.values["latency_ms"] == PREFILL.ms(SMALLER)
    (heldout,) = asked.heldout.evaluate([SMALLER])
    assert set(heldout.values) == {"heldout_kl", "heldout_ppl"}
    assert {"latency_ms", "params", "kv_bytes", "refit_error"} <= set(asked.free(SMALLER))


class Text:
    """Some text."""

    def blocks(self, part: str, windows: int, length: int) -> torch.Tensor:
        return random_tokens(windows, length, seed=5)


def test_where_nothing_is_trained_a_search_may_ask_about_corrected_subnets(
    make_supernet: Callable[..., Supernet], tmp_path: Path
) -> None:
    supernet = make_supernet("llama")
    tuning = Tuning(supernet, tmp_path, CorrectiveRefit(16), None, Text, 12)  # type: ignore[arg-type]
    (corrected,) = made(supernet, [], tuning).trained
    (evaluation,) = corrected.evaluate([SMALLER])
    kl = Divergence(supernet, random_tokens(4, 12, seed=3), batch_size=2)
    assert evaluation.fidelity == "corrected"
    assert evaluation.values["kl"] == kl(SMALLER, tuning.model(SMALLER, 0))[0] != kl(SMALLER)[0]
    assert evaluation.values["latency_ms"] == PREFILL.ms(SMALLER)
    assert evaluation.tokens == (4 + 16) * 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_are_those_of_the_dtype_that_runs(dtype: torch.dtype, make_supernet: Callable[..., Supernet]) -> None:
    supernet = make_supernet("llama", dtype)
    asked = made(supernet, [])
    (evaluation,) = asked.search[-1].evaluate([SMALLER])
    for values in (asked.free(SMALLER), evaluation.values):
        assert values["weights_bytes"] == dtype.itemsize * values["params"]
        kept = sum(shape.kv_heads for shape in SMALLER.layers)
        assert values["kv_bytes"] == 2 * kept * supernet.spec.head_dim * 16 * dtype.itemsize


@pytest.mark.parametrize("parts", [[1.0], [0.5, 0.25], [0.5, 0.5], [0.1, 0.5], [0.0]])
def test_parts_that_do_not_rise_below_a_whole_window_are_refused(
    parts: list[float], make_supernet: Callable[..., Supernet]
) -> None:
    with pytest.raises(UserError, match=r"evaluators\.fidelities"):
        made(make_supernet("llama"), parts)


def test_refit_error_adds_up_over_blocks(family: str, make_supernet: Callable[..., Supernet]) -> None:
    supernet = make_supernet(family)
    error = refit_error_measure(supernet).values

    def of(layers: list[list[int]]) -> float:
        return error(fitting(family, layers))["refit_error"]

    dense = [[6, 3, 48]] * 4
    assert of(dense) == pytest.approx(0.0, abs=1e-6)
    assert of([[6, 3, 0], *dense[1:]]) == pytest.approx(1.0, rel=1e-5)
    assert of([[0, 0, 48], *dense[1:]]) == pytest.approx(1.0, rel=1e-5)
    smaller = [of([[6, 3, channels], *dense[1:]]) for channels in (0, 16, 32, 48)]
    assert smaller == sorted(smaller, reverse=True)
    one, two = of([[4, 2, 16], *dense[1:]]), of([*dense[:3], [3, 3, 32]])
    assert of([[4, 2, 16], *dense[1:3], [3, 3, 32]]) == pytest.approx(one + two, rel=1e-5)
    assert torch.isfinite(torch.tensor([one, two])).all()
