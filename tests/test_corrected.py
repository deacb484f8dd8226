"""The fidelity behind the corrective refit: what it says, of which text, and what becomes of a failure."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from conftest import random_tokens

from evaluators.corrected import Corrected, Corrections, CorrectiveRefit
from evaluators.divergence import Divergence
from space.candidate import Candidate
from space.correction import Correction
from space.supernet import Supernet

MakeSupernet = Callable[..., Supernet]
CUT = Candidate.from_json([[6, 3, 16], [4, 2, 48], [0, 0, 24], [3, 3, 16]])
GONE = Candidate.from_json([[6, 3, 48], [0, 0, 0], [6, 3, 48], [6, 3, 48]])
TOKENS, UNSEEN = random_tokens(16, 24, seed=5), random_tokens(4, 24, seed=6)


def made(supernet: Supernet) -> tuple[Corrections, Corrected]:
    corrections = Corrections(CorrectiveRefit(len(TOKENS), batch=4), supernet, TOKENS)
    return corrections, Corrected(corrections, Divergence(supernet, UNSEEN, batch=2))


def test_it_scores_what_materialise_gives_with_the_same_correction(family: str, make_supernet: MakeSupernet) -> None:
    supernet = make_supernet(family)
    corrections, corrected = made(supernet)
    with torch.inference_mode():
        dense = supernet.model(UNSEEN, use_cache=False).logits.log_softmax(-1)
    for evaluation, correction in zip(corrected([CUT, GONE]), corrections.of([CUT, GONE]), strict=True):
        assert (evaluation.fidelity, evaluation.status) == ("corrected", "ok")
        assert evaluation.tokens == TOKENS.numel() + UNSEEN.numel()
        model = supernet.materialise(evaluation.candidate, correction)
        with torch.inference_mode():
            found = model(UNSEEN, use_cache=False).logits.log_softmax(-1)
        kl = (dense.exp() * (dense - found)).sum(-1).mean().item()
        nll = -found[:, :-1].gather(-1, UNSEEN[:, 1:, None]).mean().item()
        assert evaluation.values["heldout_kl"] == pytest.approx(kl, rel=1e-3, abs=1e-5)
        assert evaluation.values["heldout_ppl"] == pytest.approx(math.exp(nll), rel=1e-4)


def test_together_or_alone_is_the_same_and_dense_needs_none(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    _, corrected = made(supernet)
    dense = Candidate.dense(supernet.spec)
    together = corrected([CUT, dense, GONE])
    alone = [evaluation for candidate in (CUT, dense, GONE) for evaluation in corrected([candidate])]
    assert [e.values for e in together] == [e.values for e in alone]
    assert together[1].values["heldout_kl"] == pytest.approx(0.0, abs=1e-6)
    assert [metric.name for metric in corrected.metrics] == list(together[0].values)


def test_a_correction_is_not_mixed_up_with_remembered_streams(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    corrections, _ = made(supernet)
    (correction,) = corrections.of([CUT])
    divergence = Divergence(supernet, UNSEEN, batch=2, cache_bytes=1 << 20)
    plain = divergence(CUT)
    changed = divergence(CUT, correction)
    assert changed != plain
    assert divergence(CUT) == plain
    assert divergence(CUT, correction) == changed


def test_a_failure_is_recorded_with_the_candidate_that_it_belongs_to(
    make_supernet: MakeSupernet, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Corrections.of

    def of(self: Corrections, candidates: Sequence[Candidate], *show: Any) -> list[Correction]:
        if GONE in candidates:
            raise torch.linalg.LinAlgError("not positive-definite")
        return real(self, candidates, *show)

    supernet = make_supernet("llama")
    _, corrected = made(supernet)
    (expected,) = corrected([CUT])
    monkeypatch.setattr(Corrections, "of", of)
    good, bad = corrected([CUT, GONE])
    assert good.values == expected.values
    assert (bad.status, bad.values, bad.candidate) == ("failed", {}, GONE)
    assert "not positive-definite" in (bad.error or "")
