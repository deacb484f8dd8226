"""The closed form is KL and NLL as torch computes them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from conftest import each_kind, fitting, random_tokens
from torch.nn import functional as F

from evaluators.base import MeasureEvaluator
from evaluators.divergence import Divergence
from space.candidate import Candidate
from space.errors import UserError
from space.supernet.supernet import Supernet

SLICE_BYTES = {"a position": 1, "some positions": 24 * 4 * 7, "all": 1 << 20}
SMALLER = Candidate.from_rows([[4, 2, 16], [0, 0, 32], [6, 3, 0], [3, 3, 48]])


@pytest.mark.parametrize(("family", "slices"), each_kind(SLICE_BYTES))
def test_kl_and_nll_equal_torch(family: str, slices: str, make_supernet: Callable[..., Supernet]) -> None:
    supernet, smaller = make_supernet(family), fitting(family, SMALLER)
    tokens = random_tokens(5, 12, seed=8)
    with torch.inference_mode():
        teacher = supernet.model(tokens).logits.log_softmax(-1)
        model = supernet.view(smaller)
        student = model(tokens).logits.log_softmax(-1)
    expected_kl = F.kl_div(student, teacher, log_target=True, reduction="none").sum(-1).mean()
    expected_nll = F.nll_loss(student[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    divergence = Divergence(supernet, tokens, batch_size=2, slice_bytes=SLICE_BYTES[slices])
    kl, nll = divergence(smaller)
    assert kl == pytest.approx(expected_kl.item(), rel=1e-4)
    assert nll == pytest.approx(expected_nll.item(), rel=1e-5)
    dense = Candidate.dense(supernet.spec)
    assert divergence(dense) == (0.0, divergence.nll(dense))
    assert divergence.values(dense) == {"kl": 0.0, "nll": divergence.nll(dense)}


def test_the_dense_model_is_run_once(make_supernet: Callable[..., Supernet]) -> None:
    supernet = make_supernet("llama")
    divergence = Divergence(supernet, random_tokens(4, 8), batch_size=2)
    dense = Candidate.dense(supernet.spec)
    divergence.values(dense)
    divergence.heldout_values(dense)
    assert divergence._forward.layers_run == 2 * supernet.spec.layers  # two batches
    divergence(dense)
    assert divergence._forward.layers_run == 4 * supernet.spec.layers


def test_bfloat16_logits_are_not_rounded(make_supernet: Callable[..., Supernet]) -> None:
    supernet = make_supernet("gemma3_text", dtype=torch.bfloat16)
    tokens = random_tokens(4, 16, seed=8)

    def exact(model: Any) -> torch.Tensor:
        hidden = model.model(tokens, use_cache=False).last_hidden_state
        return (hidden.double() @ supernet.model.lm_head.weight.double().T).log_softmax(-1)

    with torch.inference_mode():
        teacher, student = exact(supernet.model), exact(supernet.view(SMALLER))
    expected = F.kl_div(student, teacher, log_target=True, reduction="none").sum(-1).mean()
    assert Divergence(supernet, tokens)(SMALLER)[0] == pytest.approx(expected.item(), rel=1e-5)


def test_a_failing_candidate_is_stored_and_the_others_go_on(make_supernet: Callable[..., Supernet]) -> None:
    supernet = make_supernet("llama")
    evaluator = MeasureEvaluator("search", [Divergence(supernet, random_tokens(2, 8)).measure()])
    broken = Candidate.from_rows([[0, 0, 48]] * 4)
    first, second, third = evaluator.evaluate([SMALLER, broken, SMALLER])
    assert (first.status, second.status, third.status) == ("ok", "failed", "ok")
    assert second.error is not None
    assert "at least one layer with attention" in second.error
    assert not second.values
    assert first.values == third.values
    assert first.tokens == 16


@dataclass
class Little:
    """A model on a device that has memory for so many windows at once."""

    windows: int
    own: Any
    seen: list[int] = field(default_factory=list)

    @property
    def config(self) -> Any:
        return self.own.config

    def model(self, tokens: torch.Tensor, use_cache: bool) -> Any:
        self.seen.append(len(tokens))
        if len(tokens) > self.windows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        return self.own.model(tokens, use_cache=use_cache)


def test_where_memory_is_short_fewer_windows_go_together(
    make_supernet: Callable[..., Supernet], caplog: pytest.LogCaptureFixture
) -> None:
    supernet, tokens = make_supernet("llama"), random_tokens(7, 12, seed=8)
    expected = Divergence(supernet, tokens, batch_size=1)(SMALLER)
    divergence, little = Divergence(supernet, tokens, batch_size=8), Little(2, supernet.view(SMALLER))
    assert divergence(SMALLER, little) == pytest.approx(expected, rel=1e-5)
    assert little.seen == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    assert [record.getMessage() for record in caplog.records] == [
        "memory is short for 7 windows of a forward pass: now 3",
        "memory is short for 3 windows of a forward pass: now 1",
    ]
    little.seen.clear()
    assert divergence(SMALLER, little) == pytest.approx(expected, rel=1e-5)
    assert little.seen == [1] * 7  # from then on
    assert divergence(SMALLER) == pytest.approx(expected, rel=1e-5)
    measure = Divergence(supernet, tokens, batch_size=4).measure(lambda candidate: Little(0, supernet.view(candidate)))
    with pytest.raises(UserError, match=r"got OutOfMemoryError: .*evaluators.batch_size"):
        [*MeasureEvaluator("search", [measure]).evaluate([SMALLER])]


def test_text_too_short_is_refused(make_supernet: Callable[..., Supernet]) -> None:
    with pytest.raises(UserError, match="at least 2 tokens"):
        Divergence(make_supernet("llama"), random_tokens(3, 1))
