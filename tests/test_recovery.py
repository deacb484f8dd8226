"""Distillation of one model: that it learns in the dtype of the run, and goes on after a kill to the same weights."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import fitting, random_tokens, tiny_model
from helpers_data import stream_of
from helpers_forked import forked

from evaluators.training.progress import RecoveryProgress
from evaluators.training.rates import USUAL
from evaluators.training.recipes import SHARED_TRAINABLE, Recovery
from evaluators.training.recovery import measured_speed, recover, trained_row
from space.candidate import Candidate
from space.errors import UserError
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]
CUT = Candidate.from_rows([[6, 3, 16], [4, 2, 48], [0, 0, 24], [3, 3, 16]])
LENGTH = 12
TOKENS = random_tokens(40, LENGTH, seed=5)
UNSEEN = random_tokens(8, LENGTH, seed=6)
# past the text's end
SETTINGS = Recovery(tokens=60 * 2 * LENGTH, learning_rate=3e-3, batch_size=2, save_tokens=20 * 2 * LENGTH)

SHARED = replace(SETTINGS, tokens=5 * 8 * LENGTH, batch_size=4, accumulation=2)


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
    products = set()
    student.model.layers[0].mlp.down_proj.register_forward_hook(lambda *call: products.add(call[-1].dtype))
    done = recover(student, supernet.model, stream_of(TOKENS), SETTINGS, tmp_path / "r", told.append)
    assert done.tokens == SETTINGS.tokens
    assert [*done.curve[0]] == [2 * LENGTH * step for step in range(1, 21)]  # then the text comes again
    assert products == {dtype}
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


@pytest.mark.parametrize("row", ["outputs", "norms"])
def test_what_memory_allows_for_is_trained_and_nothing_else(
    row: str, make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet = make_supernet("llama", dtype=torch.bfloat16)
    student = supernet.view(CUT, own=True)
    start, before = weights(student), divergence(supernet, student)
    dense, own = (sum(p.nbytes for p in model.parameters()) for model in (supernet.model, student))
    named = {name: p.numel() for name, p in student.named_parameters() if name.startswith("model.")}
    limit = dense + own + 16 * sum(count for name, count in named.items() if SHARED_TRAINABLE[row](name))
    settings = replace(SETTINGS, memory_bytes=limit, learning_rate=1e-2)
    assert trained_row(student, supernet.model, settings) == row
    recover(student, supernet.model, stream_of(TOKENS), settings, tmp_path / "r")
    changed = {name for name, tensor in weights(student).items() if not torch.equal(tensor, start[name])}
    assert changed
    assert all(SHARED_TRAINABLE[row](name) for name in changed)
    assert {tensor.dtype for tensor in student.parameters()} == {torch.bfloat16}
    assert divergence(supernet, student) < before


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_a_killed_recovery_goes_on_to_the_same_weights(
    family: str, make_supernet: MakeSupernet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    supernet, settings = make_supernet(family), replace(SETTINGS, batch_size=1, accumulation=2)
    whole, killed, again = (supernet.view(fitting(family, CUT), own=True) for _ in range(3))
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


def test_a_step_is_as_large_a_part_of_every_tensor(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    student = supernet.view(CUT, own=True)
    with torch.no_grad():
        student.model.layers[0].mlp.up_proj.weight.mul_(0.01)
    before = weights(student)
    recover(
        student,
        supernet.model,
        stream_of(TOKENS),
        replace(SETTINGS, tokens=2 * LENGTH, learning_rate=0.01, warmup=0.0),
        tmp_path / "recovery",
    )
    for name, weight in weights(student).items():
        step = (weight - before[name]).abs().max().item()
        trained = "embed_tokens" not in name and "lm_head" not in name
        size = before[name].square().mean().sqrt().item()
        assert step == pytest.approx(0.01 / USUAL * size if trained else 0.0, rel=0.02), name


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


def test_less_memory_is_the_same_training(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    settings, runs, students = replace(SETTINGS, tokens=4 * 2 * LENGTH), list[bool](), list[Any]()
    for again in (False, True):
        students.append(student := supernet.view(CUT, own=True))
        student.model.layers[0].mlp.register_forward_pre_hook(lambda *call, again=again: runs.append(again))
        recover(
            student, supernet.model, stream_of(TOKENS), replace(settings, checkpointing=again), tmp_path / f"{again}"
        )
    assert (runs.count(False), runs.count(True)) == (4, 8)  # a second time in each backward pass
    plain, checkpointed = students
    assert all(torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(checkpointed).items())


def share_each_step(directory: Path, rank: int, port: int) -> None:
    """What each of two processes does."""
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "GLOO_SOCKET_IFNAME": "lo"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    model, spec = tiny_model("llama")
    supernet = Supernet.prepare(model, spec, random_tokens(12, 24), directory / f"s{rank}", dtype=torch.float32)
    student = supernet.view(CUT, own=True)
    recover(student, supernet.model, stream_of(TOKENS), SHARED, directory / "checkpoints")
    torch.save(student.state_dict(), directory / f"{rank}.pt")


def test_processes_share_each_step(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    jobs = [forked(share_each_step, tmp_path, rank, port) for rank in range(2)]
    for job in jobs:
        job.start()
    try:
        for job in jobs:
            job.join(600)
        assert [job.exitcode for job in jobs] == [0, 0]
    finally:
        for job in jobs:
            job.kill()
    supernet = make_supernet("llama")
    alone = supernet.view(CUT, own=True)
    recover(alone, supernet.model, stream_of(TOKENS), SHARED, tmp_path / "alone")
    for rank in range(2):
        for name, tensor in torch.load(tmp_path / f"{rank}.pt").items():
            torch.testing.assert_close(tensor, alone.state_dict()[name], rtol=1e-3, atol=1e-4)
    assert (tmp_path / "checkpoints" / "checkpoint-5" / "position.json").exists()


def test_a_batch_that_does_not_divide_is_refused(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    supernet = make_supernet("llama")
    with pytest.raises(UserError, match="expected a multiple of 3"):
        recover(supernet.view(CUT, own=True), supernet.model, stream_of(TOKENS), SETTINGS, tmp_path / "r")


def test_a_speed_is_measured_on_a_copy(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    student = supernet.view(CUT)
    before = weights(supernet.model), weights(student)
    assert measured_speed(student, supernet.model, stream_of(TOKENS), SETTINGS) > 0
    for model, old in zip((supernet.model, student), before, strict=True):
        assert all(torch.equal(tensor, old[name]) for name, tensor in model.state_dict().items())
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_it_is_never_silent_for_long(
    make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluators.training.progress.QUIET_S", -1)
    supernet, told = make_supernet("llama"), list[RecoveryProgress]()
    settings = replace(SETTINGS, tokens=4 * 2 * LENGTH, save_tokens=2 * 2 * LENGTH)
    recover(supernet.view(CUT, own=True), supernet.model, stream_of(TOKENS), settings, tmp_path / "r", told.append)
    assert [one.tokens for one in told if not one.saved] == [24, 48, 72, 96]
    assert [one.tokens for one in told if one.saved] == [48, 96]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tokens": -1}, "tokens of at least 0"),
        ({"save_tokens": 0, "tokens": None}, "tokens of at least 0"),
        ({"batch_size": 0}, r"recover\.batch_size: expected at least 1, got 0"),
        ({"warmup": 1.0}, "warmup from 0 to below 1"),
        ({"learning_rate": 0.0}, "learning_rate and clip above 0"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        replace(SETTINGS, **changes)  # type: ignore[arg-type]
