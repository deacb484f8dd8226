"""Two processes in one directory of tuned subnets: none deletes what the other could be reading, or is just writing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_tokens, tiny_model
from helpers_forked import forked

from evaluators.output_head import OutputHead
from evaluators.training.distillation import Student
from evaluators.training.recipes import CorrectiveRefit, Distillation
from evaluators.training.teacher import Teacher
from evaluators.training.tuning import SAVED_EVERY, Tuning
from space.candidate import Candidate
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]
CUT = Candidate.from_rows([[6, 3, 16], [4, 2, 48], [0, 0, 24], [3, 3, 16]])
OTHER = Candidate.from_rows([[6, 3, 48], [0, 0, 0], [6, 3, 48], [6, 3, 48]])
LENGTH = 12
UNSEEN = random_tokens(4, LENGTH, seed=6)


class Text:
    """The calibration part of some text."""

    def blocks(self, part: str, windows: int, length: int) -> torch.Tensor:
        return random_tokens(64, length, seed=5)[:windows]


def tuning_of(supernet: Supernet, directory: Path) -> Tuning:
    settings = Distillation(tokens=(8 * LENGTH, 24 * LENGTH), rank=2, learning_rate=2e-3)
    return Tuning(supernet, directory, CorrectiveRefit(16, batch_size=4), settings, Text, LENGTH)  # type: ignore[arg-type]


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(UNSEEN, use_cache=False).logits
    return found


def wait_for(file: Path, process: Any = None) -> None:
    deadline = time.monotonic() + 120
    while not file.exists():
        assert process is None or process.is_alive(), "the other process has ended"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stops(real: Callable[..., Any], at: int, signals: Path) -> Callable[..., Any]:
    """A function that, when it is called for the time `at`, says so and waits until it may go on."""
    calls: list[None] = []

    def function(*arguments: Any, **others: Any) -> Any:
        if len(calls) == at:
            (signals / "stopped").touch()
            wait_for(signals / "go on")
        calls.append(None)
        return real(*arguments, **others)

    return function


def tune(name: str, at: int, supernet: Path, directory: Path, signals: Path) -> None:
    """The other process: tunes a subnet, and stops on the way for a while."""
    torch.set_num_threads(1)
    owner = {"learn": Student, "expected": OutputHead}[name]
    setattr(owner, name, stops(getattr(owner, name), at, signals))
    model, spec = tiny_model("llama")
    own = Supernet.load(model, spec, supernet, dtype=torch.float32)
    torch.save(logits(tuning_of(own, directory).model(CUT, 2)), signals / "logits.pt")


@contextmanager
def tuning_elsewhere(name: str, at: int, tmp_path: Path) -> Iterator[Path]:
    """Another process that tunes in the directory `tuned`, stopped at a call of a method; it ends with this."""
    signals = tmp_path / "signals"
    signals.mkdir()
    arguments = name, at, tmp_path / "supernet-llama", tmp_path / "tuned", signals
    process = forked(tune, *arguments)
    process.start()
    try:
        wait_for(signals / "stopped", process)
        yield signals / "logits.pt"
        (signals / "go on").touch()
        process.join(120)
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()


def stored(directory: Path) -> set[str]:
    return {file.stem for file in directory.glob("s*.pt")}


def test_the_end_of_a_run_deletes_nothing_while_another_process_trains(
    make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet, directory = make_supernet("llama"), tmp_path / "tuned"
    expected = logits(tuning_of(supernet, tmp_path / "alone").model(CUT, 2))
    tuning = tuning_of(supernet, directory)
    tuning.model(OTHER, 1)
    (directory / f".{OTHER.key}.pt.1-0.unfinished").touch()  # of a process that was killed
    before = (directory / f"{OTHER.key}.pt").read_bytes()
    with tuning_elsewhere("learn", SAVED_EVERY + 2, tmp_path) as elsewhere:
        tuning.keep({OTHER.key})
        assert stored(directory) == {CUT.key, OTHER.key}
        assert (directory / f"{OTHER.key}.pt").read_bytes() == before
    assert torch.equal(torch.load(elsewhere), expected)
    tuning.keep({OTHER.key})
    assert stored(directory) == {OTHER.key}
    assert not list(directory.glob(".*.unfinished"))
    assert (directory / f"{OTHER.key}.pt").stat().st_size < len(before)  # what only going on would need is gone


def test_two_processes_ask_the_teacher_at_once_and_both_learn_the_same(
    make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet, directory = make_supernet("llama"), tmp_path / "tuned"
    expected = logits(tuning_of(supernet, tmp_path / "alone").model(CUT, 2))
    tuning = tuning_of(supernet, directory)
    with tuning_elsewhere("expected", 5, tmp_path) as elsewhere:  # in the midst of writing its lessons
        first = logits(tuning.model(CUT, 1))
        tuning.keep({CUT.key})
    assert torch.equal(torch.load(elsewhere), expected)
    lessons = list((directory / "teacher").iterdir())
    assert len(lessons) == 1
    assert torch.equal(logits(tuning_of(supernet, tmp_path / "again").model(CUT, 1)), first)
    assert torch.equal(logits(tuning.model(CUT, 2)), expected)


@pytest.mark.parametrize("changed", ["text", "temperature"])
def test_lessons_of_another_kind_do_not_replace_what_is_being_read(
    changed: str, make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet, tokens = make_supernet("llama"), random_tokens(6, LENGTH, seed=5)
    model, digest = supernet.model, supernet.spec.digest
    first = Teacher(model, digest, tokens, tmp_path / "teacher", batch_size=2)
    before = first.lesson(1).known
    other = {"text": {"tokens": tokens.flip(0)}, "temperature": {"temperature": 2.0}}[changed]
    Teacher(model, digest, **({"tokens": tokens, "directory": tmp_path / "teacher", "batch_size": 2} | other))
    assert torch.equal(first.lesson(1).known, before)
    again = Teacher(model, digest, tokens, tmp_path / "teacher", batch_size=2)
    assert torch.equal(again.lesson(1).known, before)
    assert len(list((tmp_path / "teacher").iterdir())) == 2
