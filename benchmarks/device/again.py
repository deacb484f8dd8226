"""The device check that asks the same twice: evaluation, corrective refit and training at a real size."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.device.machine import Machine
from benchmarks.device.models import default_space, designs_of_size, sliced_supernet
from benchmarks.device.report import Report
from benchmarks.device.stopwatch import seconds_of
from evaluators.divergence import Divergence
from evaluators.training.distillation import Student
from evaluators.training.recipes import Distillation
from evaluators.training.teacher import Lesson
from space.candidate import Candidate
from space.supernet.corrective_refit import correct


def again(report: Report, machine: Machine, name: str) -> None:
    """Seconds of each question, and whether its second and third answers are the same to the last bit."""
    supernet = sliced_supernet(name, machine)
    spec, designs = supernet.spec, designs_of_size(default_space(supernet.spec))
    length, windows = (16, 8) if machine.dry else (512, 32)
    tokens = torch.randint(spec.vocab, (windows, length), generator=torch.Generator().manual_seed(0))
    generator = torch.Generator(machine.device).manual_seed(1)
    target = 0.02 * torch.randn(length, spec.hidden, generator=generator, device=machine.device)
    lesson = Lesson(tokens[:1].to(machine.device), target, torch.zeros(length, device=machine.device), {})
    whole, quarters = Divergence(supernet, tokens[:4]), Divergence(supernet, tokens[:4, : length // 4])

    def correction(design: Candidate) -> list[Tensor]:
        (found,) = correct(supernet, [design], tokens)
        return [weight.clone() for layer in found.weights for weight in layer.values()]

    def losses(design: Candidate) -> list[float]:
        student = Student(supernet.view(design, own=True), Distillation(tokens=(4096,)), length)
        return [student.learn(lesson) for _ in range(8)]

    questions: dict[str, Callable[[Candidate], Any]] = {
        "divergence of 4 windows": whole,
        "divergence of 4 quarters": quarters,
        "correct": correction,
        "train 8 steps": losses,
    }
    for kind in ("uniform", "mixed"):
        for question, ask in questions.items():
            with report.check("again", name, kind, question):
                (_, one, two), seconds = seconds_of(machine, partial(ask, designs[kind]), 3)
                same = all(map(torch.equal, one, two)) if isinstance(one[0], Tensor) else one == two
                report.put("again", name, kind, question, value={"each_s": seconds, "same": same})
