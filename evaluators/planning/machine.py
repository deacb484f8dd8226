"""What there is on this machine for a run: memory, disk, and speeds of plain products, measured in a second or two."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.benchmark.utils.timer import timer

from evaluators.planning.times import Pace
from space.spec import ModelSpec

_LOOK_S = 0.3  # that each product is looked at
_TOKENS = 512  # of a product
_EXACT = 4096  # rows and columns of a float32 product, at most
_READ_BYTES = 1 << 28  # of weights that one token goes through, so that no cache holds them


def own_bytes() -> int:
    """Memory of this process, each page counted once; at its most where the system says no more."""
    file = Path("/proc/self/smaps_rollup")
    if file.exists():
        lines = file.read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) << 10
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most << 10


def free_host_bytes() -> int | None:
    """Memory of the host that a new process could have; None where the system does not say."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.exists() else []
    free = [int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")]
    return free[0] if free else None


def free_device_bytes(device: torch.device) -> int | None:
    """Memory of the device that is free; None where that is the host."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None


@torch.inference_mode()
def measured_pace(spec: ModelSpec, dtype: torch.dtype, device: torch.device) -> Pace:
    """What the device does in a second, of products as a decoder layer of the model has them.

    Args:
        spec: The model.
        dtype: What it runs in.
        device: Where.
    """
    hidden, channels = spec.hidden, spec.expert_channels or spec.mlp_channels
    weight = torch.ones(channels, hidden, dtype=dtype, device=device)
    rows = torch.ones(_TOKENS, hidden, dtype=dtype, device=device)
    products = 2 * rows.numel() * channels * _rate(lambda: rows @ weight.T)
    small = torch.ones(min(channels, _EXACT), min(hidden, _EXACT), device=device)
    wide = torch.ones(_TOKENS, small.shape[1], device=device)
    exact = 2 * wide.numel() * len(small) * _rate(lambda: wide @ small.T)
    copies = [weight.clone() for _ in range(max(1, _READ_BYTES // weight.nbytes))]
    read = sum(copy.nbytes for copy in copies) * _rate(lambda: [rows[:1] @ copy.T for copy in copies])
    moved = 0.0
    if device.type != "cpu":
        home = weight.cpu()
        moved = home.nbytes * _rate(lambda: home.to(device))
    return Pace(products, exact, read, moved)


def _rate(work: Callable[[], object]) -> float:
    """How often something is done in a second, warm."""
    work()
    begun, count = timer(), 0
    while (seconds := timer() - begun) < _LOOK_S:
        work()
        count += 1
    return count / seconds
