"""Tuned subnets: what their fidelities say, how they go on after a promotion or a kill, and what is kept of them."""

from __future__ import annotations

import errno
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import fitting, random_tokens

from evaluators.base import Evaluator
from evaluators.divergence import Divergence
from evaluators.training import tuning as tuning_module
from evaluators.training.distillation import Student
from evaluators.training.recipes import CorrectiveRefit, Distillation
from evaluators.training.teacher import Lesson
from evaluators.training.tuned import TunedEvaluator
from evaluators.training.tuning import SAVED_EVERY, Tuning, make_tuning
from space.candidate import Candidate
from space.errors import UserError
from space.supernet.correction import Correction
from space.supernet.corrective_refit import correct
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]
CUT = Candidate.from_rows([[6, 3, 16], [4, 2, 48], [0, 0, 24], [3, 3, 16]])
SMALL = Candidate.from_rows([[3, 3, 16]] * 4)
GONE = Candidate.from_rows([[6, 3, 48], [0, 0, 0], [6, 3, 48], [6, 3, 48]])
LENGTH = 12
SETTINGS = Distillation(tokens=(8 * LENGTH, 40 * LENGTH), rank=2, learning_rate=2e-3)
REFIT = CorrectiveRefit(16, batch_size=4)
UNSEEN = random_tokens(4, LENGTH, seed=6)


class Text:
    """The calibration part of some text."""

    def blocks(self, part: str, windows: int, length: int) -> torch.Tensor:
        assert part == "calibration"
        return random_tokens(64, length, seed=5)[:windows]


def tuning_of(
    supernet: Supernet,
    directory: Path,
    correction: CorrectiveRefit | None = REFIT,
    distillation: Distillation | None = SETTINGS,
) -> Tuning:
    return Tuning(supernet, directory, correction, distillation, Text, LENGTH)  # type: ignore[arg-type]


def asked(supernet: Supernet, tuning: Tuning, stage: int) -> Evaluator:
    heldout = Divergence(supernet, UNSEEN, batch_size=2)
    return TunedEvaluator("tuned", tuning, stage, lambda models: [heldout.heldout_measure(models)])


def quality(supernet: Supernet, model: Any) -> tuple[float, float]:
    """KL to the dense model and perplexity, as torch computes them."""
    with torch.inference_mode():
        dense, found = (m(UNSEEN, use_cache=False).logits.log_softmax(-1) for m in (supernet.model, model))
    nll = -found[:, :-1].gather(-1, UNSEEN[:, 1:, None]).mean().item()
    return (dense.exp() * (dense - found)).sum(-1).mean().item(), math.exp(nll)


@pytest.mark.parametrize("stage", [0, 1])
def test_a_fidelity_scores_the_model_that_is_handed_out(
    stage: int, unlike_family: str, make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet = make_supernet(unlike_family)
    tuning = tuning_of(supernet, tmp_path / "tuned")
    cuts = [fitting(unlike_family, design) for design in (CUT, GONE)]
    for evaluation in [e for c in cuts for e in asked(supernet, tuning, stage).evaluate([c])]:
        kl, ppl = quality(supernet, tuning.model(evaluation.candidate, stage))
        assert evaluation.status == "ok"
        assert evaluation.values["heldout_kl"] == pytest.approx(kl, rel=1e-3, abs=1e-5)
        assert evaluation.values["heldout_ppl"] == pytest.approx(ppl, rel=1e-4)
        assert evaluation.tokens == UNSEEN.numel() + (16 + 8 * stage) * LENGTH
    assert tuning.new_tokens(2) == 32 * LENGTH


def test_the_corrective_refit_comes_first_and_training_after(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    plain = quality(supernet, supernet.view(CUT, own=True))[0]
    (correction,) = correct(
        supernet, [CUT], Text().blocks("calibration", 16, LENGTH), damping=REFIT.damping, batch_size=REFIT.batch_size
    )
    tuning = tuning_of(supernet, tmp_path / "tuned")
    corrected = tuning.model(CUT, 0)
    assert quality(supernet, corrected) == quality(supernet, supernet.view(CUT, correction))
    alone = tuning_of(supernet, tmp_path / "alone", correction=None)
    assert quality(supernet, alone.model(CUT, 0))[0] == plain
    assert quality(supernet, alone.model(CUT, 2))[0] < plain
    assert quality(supernet, tuning.model(CUT, 2))[0] < quality(supernet, corrected)[0]


def test_the_dense_model_needs_no_tuning(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    tuning = tuning_of(supernet, tmp_path / "tuned")
    (evaluation,) = asked(supernet, tuning, 1).evaluate([Candidate.dense(supernet.spec)])
    assert evaluation.values["heldout_kl"] == pytest.approx(0.0, abs=1e-6)
    assert not list((tmp_path / "tuned").glob("s*"))


def counted(monkeypatch: pytest.MonkeyPatch, name: str, owner: type) -> list[Any]:
    """What a method was called with, from here on."""
    calls: list[Any] = []
    real = getattr(owner, name)

    def method(self: Any, given: Any) -> Any:
        calls.append(given)
        return real(self, given)

    monkeypatch.setattr(owner, name, method)
    return calls


def test_those_asked_about_are_corrected_together(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernet = make_supernet("llama")
    tuning = tuning_of(supernet, tmp_path / "alone")
    alone = [e.values for c in (CUT, GONE) for e in asked(supernet, tuning, 0).evaluate([c])]
    groups: list[list[Candidate]] = []

    def counting(net: Supernet, candidates: Sequence[Candidate], *arguments: Any, **settings: Any) -> list[Correction]:
        groups.append([*candidates])
        return correct(net, candidates, *arguments, **settings)

    monkeypatch.setattr(tuning_module, "correct", counting)
    evaluator = asked(supernet, tuning_of(supernet, tmp_path / "tuned"), 0)
    together = [evaluation.values for evaluation in evaluator.evaluate([CUT, GONE])]
    assert groups == [[CUT, GONE]]
    assert together == alone


def test_a_promoted_subnet_goes_on_where_it_was(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernet = make_supernet("llama")
    whole = quality(supernet, tuning_of(supernet, tmp_path / "whole").model(CUT, 2))
    steps = counted(monkeypatch, "learn", Student)
    first = quality(supernet, tuning_of(supernet, tmp_path / "tuned").model(CUT, 1))
    assert len(steps) == 8
    later = tuning_of(supernet, tmp_path / "tuned")  # another process
    assert quality(supernet, later.model(CUT, 1)) == first
    assert len(steps) == 8
    assert quality(supernet, later.model(CUT, 2)) == whole
    assert len(steps) == 40


def test_a_run_that_was_killed_in_a_stage_loses_a_few_steps_and_no_bit(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernet = make_supernet("llama")
    whole = quality(supernet, tuning_of(supernet, tmp_path / "whole").model(CUT, 2))
    steps = counted(monkeypatch, "learn", Student)
    real = Student.learn

    def killed(self: Student, lesson: Lesson) -> float:
        if self.step == SAVED_EVERY + 5:
            raise KeyboardInterrupt
        return real(self, lesson)

    with monkeypatch.context() as patch:
        patch.setattr(Student, "learn", killed)
        with pytest.raises(KeyboardInterrupt):
            tuning_of(supernet, tmp_path / "tuned").model(CUT, 2)
    assert len(steps) == SAVED_EVERY + 5
    assert quality(supernet, tuning_of(supernet, tmp_path / "tuned").model(CUT, 2)) == whole
    assert len(steps) == SAVED_EVERY + 5 + 40 - SAVED_EVERY


def test_what_is_not_on_the_front_is_deleted_and_the_rest_made_small(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernet, directory = make_supernet("llama"), tmp_path / "tuned"
    tuning = tuning_of(supernet, directory)
    qualities = [quality(supernet, tuning.model(c, 1)) for c in (CUT, GONE)]
    longer = quality(supernet, tuning_of(supernet, tmp_path / "longer").model(CUT, 2))
    size = (directory / f"{CUT.key}.pt").stat().st_size
    tuning.keep({CUT.key})
    assert [file.stem for file in directory.glob("s*")] == [CUT.key]
    assert (directory / f"{CUT.key}.pt").stat().st_size < size
    steps = counted(monkeypatch, "learn", Student)
    assert quality(supernet, tuning.model(CUT, 1)) == qualities[0]
    assert not steps
    assert quality(supernet, tuning.model(CUT, 2)) == longer  # from the start again: its optimizer is gone
    assert len(steps) == 40
    assert quality(supernet, tuning.model(GONE, 1)) == qualities[1]


def test_a_failure_is_recorded_with_the_candidate_that_it_belongs_to(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernet = make_supernet("llama")
    (expected,) = asked(supernet, tuning_of(supernet, tmp_path / "alone"), 0).evaluate([CUT])

    def failing(net: Supernet, candidates: Sequence[Candidate], *arguments: Any, **settings: Any) -> list[Correction]:
        if GONE in candidates:
            raise torch.linalg.LinAlgError("not positive-definite")  # type: ignore[attr-defined]
        return correct(net, candidates, *arguments, **settings)

    monkeypatch.setattr(tuning_module, "correct", failing)
    first, bad, good = asked(supernet, tuning_of(supernet, tmp_path / "tuned"), 0).evaluate([CUT, GONE, SMALL])
    assert first.values == expected.values
    assert good.status == "ok"
    assert (bad.status, bad.values, bad.candidate) == ("failed", {}, GONE)
    assert "not positive-definite" in (bad.error or "")


def test_training_that_diverges_is_a_failed_evaluation(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    wild = Distillation(tokens=(40 * LENGTH,), trainable="all", learning_rate=50.0, warmup=0)
    (evaluation,) = asked(supernet, tuning_of(supernet, tmp_path / "tuned", None, wild), 1).evaluate([CUT])
    assert (evaluation.status, evaluation.values) == ("failed", {})
    assert "Lower distillation.learning_rate" in (evaluation.error or "")


def test_a_full_disk_ends_the_run_and_is_no_failure_of_the_candidate(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supernet = make_supernet("llama")

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match="Free some space"):
        list(asked(supernet, tuning_of(supernet, tmp_path / "tuned"), 0).evaluate([CUT]))


def test_a_broken_file_says_what_to_do(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    (tmp_path / f"{CUT.key}.pt").write_bytes(b"not a state")
    with pytest.raises(UserError, match="Delete it"):
        tuning_of(supernet, tmp_path).model(CUT, 0)


def test_the_mode_decides_what_is_done(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet, refit = make_supernet("llama"), CorrectiveRefit(16)

    def made(mode: str, correction: CorrectiveRefit | None) -> Tuning | None:
        return make_tuning(mode, supernet, tmp_path, correction, SETTINGS, Text, LENGTH)  # type: ignore[arg-type]

    assert made("off", None) is None
    for mode, correction, stages in (
        ("off", refit, ()),
        ("final", None, SETTINGS.tokens),
        ("loop", refit, SETTINGS.tokens),
    ):
        tuning = made(mode, correction)
        assert tuning is not None
        assert tuning.stage_tokens == stages
