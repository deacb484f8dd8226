"""Distillation of a pick: that it learns, goes on after a kill to the same weights, and mixes no two recoveries."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_tokens
from helpers_data import stream_of

from evaluators.data.splits import TokenSplits
from evaluators.training.pick_recovery import recover_pick
from evaluators.training.recovery import Recovery, RecoveryProgress, recover
from space.candidate import Candidate
from space.errors import UserError
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]
CUT = Candidate.from_rows([[6, 3, 16], [4, 2, 48], [0, 0, 24], [3, 3, 16]])
LENGTH = 12
TOKENS = random_tokens(40, LENGTH, seed=5)
UNSEEN = random_tokens(8, LENGTH, seed=6)
SETTINGS = Recovery(tokens=60 * 2 * LENGTH, learning_rate=3e-3, save_tokens=20 * 2 * LENGTH)  # past the text's end


def divergence(supernet: Supernet, model: Any) -> float:
    with torch.inference_mode():
        dense, found = (m(UNSEEN, use_cache=False).logits.float().log_softmax(-1) for m in (supernet.model, model))
    return (dense.exp() * (dense - found)).sum(-1).mean().item()


def weights(model: Any) -> Mapping[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_learns_and_leaves_the_teacher_and_the_embeddings(
    dtype: torch.dtype, make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet = make_supernet("llama", dtype=dtype)
    student, teacher = supernet.view(CUT, own=True), weights(supernet.model)
    before, start = divergence(supernet, student), weights(student)
    told: list[RecoveryProgress] = []
    done = recover(student, supernet.model, stream_of(TOKENS), SETTINGS, tmp_path / "r", told.append)
    assert done == SETTINGS.tokens
    assert [(one.tokens, one.of, one.saved) for one in told] == [
        (480, 1440, True),
        (960, 1440, True),
        (1440, 1440, True),
    ]
    assert told[-1].loss < told[0].loss
    assert told[0].seconds_left > told[-1].seconds_left == 0
    assert divergence(supernet, student) < 0.9 * before
    assert all(torch.equal(tensor, teacher[name]) for name, tensor in supernet.model.state_dict().items())
    after = weights(student)
    for name, tensor in after.items():
        assert tensor.dtype == start[name].dtype == dtype
        assert torch.equal(tensor, start[name]) == ("embed_tokens" in name or "lm_head" in name)
    assert not student.training
    plain = supernet.view(CUT, own=True)
    plain.load_state_dict(after)
    assert torch.equal(student.float()(UNSEEN).logits, plain.float()(UNSEEN).logits)
    assert not any(parameter.requires_grad for parameter in student.parameters())


def test_a_killed_recovery_goes_on_to_the_same_weights(
    family: str, make_supernet: MakeSupernet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    supernet, settings = make_supernet(family), replace(SETTINGS, batch_size=1, accumulation=2)
    whole, killed, again = (supernet.view(CUT, own=True) for _ in range(3))
    recover(whole, supernet.model, stream_of(TOKENS), settings, tmp_path / "whole")
    seen: list[int] = []

    def kill(told: RecoveryProgress) -> None:
        seen.append(told.tokens)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        recover(killed, supernet.model, stream_of(TOKENS), settings, tmp_path / "r", kill)
    half = shutil.copytree(tmp_path / "r" / "checkpoint-40", tmp_path / "r" / "checkpoint-50")
    (half / "position.json").unlink()  # killed while it was written
    capsys.readouterr()
    recover(again, supernet.model, stream_of(TOKENS), settings, tmp_path / "r", lambda told: seen.append(told.tokens))
    assert capsys.readouterr() == ("", "")
    assert seen == [480, 960, 1440]  # it did not begin again
    expected = weights(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in again.state_dict().items())


def test_accumulated_steps_are_those_of_a_larger_batch(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    found = []
    losses: list[float] = []
    for batch, accumulation in ((4, 1), (2, 2)):
        student = supernet.view(CUT, own=True)
        settings = replace(SETTINGS, tokens=4 * 4 * LENGTH, batch_size=batch, accumulation=accumulation)
        recover(
            student,
            supernet.model,
            stream_of(TOKENS),
            settings,
            tmp_path / f"{batch}",
            lambda told: losses.append(told.loss),
        )
        found.append(weights(student))
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for name, tensor in found[0].items():
        torch.testing.assert_close(tensor, found[1][name], rtol=1e-3, atol=1e-4)


def test_it_is_never_silent_for_long(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.training.recovery.QUIET_S", -1)
    supernet, told = make_supernet("llama"), list[RecoveryProgress]()
    settings = replace(SETTINGS, tokens=4 * 2 * LENGTH, save_tokens=2 * 2 * LENGTH)
    recover(supernet.view(CUT, own=True), supernet.model, stream_of(TOKENS), settings, tmp_path / "r", told.append)
    assert [one.tokens for one in told if not one.saved] == [24, 48, 72, 96]
    assert [one.tokens for one in told if one.saved] == [48, 96]


@pytest.fixture
def text() -> TokenSplits:
    return TokenSplits({"some": random_tokens(100, LENGTH, seed=5).flatten()})


def test_a_pick_is_scored_on_text_that_it_did_not_learn_from(
    text: TokenSplits, make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet = make_supernet("llama")
    student, said = supernet.view(CUT, own=True), list[str]()
    stream, rest = stream_of(TOKENS), (text, LENGTH, 8, tmp_path / "r", said.append)
    scores, facts = recover_pick(SETTINGS, student, supernet, CUT, stream, *rest)
    heldout = text.blocks("heldout", 8, LENGTH)
    with torch.inference_mode():
        logits = student(heldout).logits[:, :-1].float()
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), heldout[:, 1:].flatten())
    assert scores["heldout_ppl"] == pytest.approx(nll.exp().item(), rel=1e-4)
    assert facts["recovery"] == "1440 tokens of some"
    assert f"{scores['heldout_ppl']:.4g}" == facts["held-out perplexity after recovery"]
    assert facts["held-out perplexity before recovery"] in said[0]
    assert [line.split(":")[0] for line in said] == ["before", "480/1440 tokens", "960/1440 tokens", "1440/1440 tokens"]
    other = replace(SETTINGS, learning_rate=1e-4)
    with pytest.raises(UserError, match=r"begun with learning_rate 0\.003, now 0\.0001"):
        recover_pick(other, student, supernet, CUT, stream, *rest)
    with pytest.raises(UserError, match="begun with stream"):
        recover_pick(SETTINGS, student, supernet, CUT, stream_of(TOKENS[:-1]), *rest)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": -1}, "tokens of at least 0"),
        ({"batch_size": 0}, r"recover\.batch_size: expected at least 1, got 0"),
        ({"warmup": 1.0}, "warmup from 0 to below 1"),
        ({"learning_rate": 0.0}, "learning_rate and clip above 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(SETTINGS, **changes)  # type: ignore[arg-type]
