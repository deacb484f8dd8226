"""The part of the parity check that needs no model: output head, order and refit at the default model's sizes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.device.machine import Machine
from benchmarks.device.report import Report
from benchmarks.device.stopwatch import seconds_of
from evaluators.output_head import OutputHead
from space.supernet.compensation import factor, maps, refits, solving_dtype
from space.supernet.importance import damped, mlp_order, rule_of
from space.supernet.sizes import PACKED_ROWS

_SIZES = (2048, 576, 49152, 1536)  # tokens, hidden, vocabulary, MLP channels
_DRY_SIZES = (64, 48, 300, 96)


@torch.no_grad()
def products(report: Report, machine: Machine) -> None:
    """How far the head is off from float64 in both dtypes, and seconds of what calibration solves."""
    tokens, hidden, vocab, channels = _DRY_SIZES if machine.dry else _SIZES
    generator = torch.Generator(machine.device).manual_seed(0)

    def random(*size: int, scale: float = 1.0) -> Tensor:
        return scale * torch.randn(*size, generator=generator, device=machine.device)

    for dtype in (torch.float32, torch.bfloat16):
        head = nn.Linear(hidden, vocab, bias=False, device=machine.device, dtype=dtype)
        head.weight.copy_(random(vocab, hidden, scale=0.1))
        states = random(tokens, hidden).to(dtype).float()
        report.put("parity", "products", f"head {dtype}", value=_head(machine, head, states))
    rows = random(4 * channels, channels) @ random(channels, channels, scale=channels**-0.5)
    gram, weight = damped(rows.T @ rows, 0.01), random(hidden, channels, scale=0.1)
    solved: dict[str, Callable[[], Tensor]] = {
        "order": lambda: mlp_order(gram, weight, rule_of("obs"), 48),
        "factor": lambda: factor(gram),
        "refit": lambda: _refit(gram, weight.to(machine.dtype)),
    }
    seconds = {name: seconds_of(machine, solve, 2)[1][-1] for name, solve in solved.items()}
    report.put("parity", "products", "solve_s", value=seconds)


def _refit(gram: Tensor, weight: Tensor) -> Tensor:
    """A refit to half of the columns, with the maps that it takes."""
    blocks = maps(factor(gram), PACKED_ROWS, solving_dtype(weight.dtype))
    return dict(refits(weight, reversed(blocks), [weight.shape[1] // 2]))[weight.shape[1] // 2]


def _head(machine: Machine, head: nn.Linear, states: Tensor) -> dict[str, object]:
    """Largest errors of the head's sums over the vocabulary, and their seconds."""
    exact = states.double() @ head.weight.double().T
    lse, embedding = exact.logsumexp(-1), exact.softmax(-1) @ head.weight.double()
    output = OutputHead(head, len(states))
    (found,), (lse_s,) = seconds_of(machine, lambda: output.log_sum_exp(states), 1)
    ((found_too, expected),), (expected_s,) = seconds_of(machine, lambda: output.expected(states), 1)
    return {
        "lse_off": (found - lse).abs().max(),
        "expected_lse_off": (found_too - lse).abs().max(),
        "expected_off": (expected - embedding).norm() / embedding.norm(),
        "lse_s": lse_s,
        "expected_s": expected_s,
    }
