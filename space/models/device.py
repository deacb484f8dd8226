"""The device that a model runs on, what its numbers are there, and what of the model fits into its memory."""

from __future__ import annotations

from functools import cache
from time import perf_counter

import torch
from torch.nn import functional as F

from space.candidate import Candidate
from space.checks import require_dtype
from space.errors import UserError
from space.size import total_params
from space.spec import ModelSpec

FASTER = 1.25  # times as fast as float32 a CPU's bfloat16 products must be to be taken
WEIGHTS = 0.6  # of a device's memory, at most: beyond it layers wait on the host
_TRIED = (256, 1024, 1024)  # rows, inputs and outputs of the product that is timed
_TIMES = 5


def gpu_bytes(device: torch.device) -> int | None:
    """The memory of a GPU; None of another device."""
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def is_streamed(spec: ModelSpec, dtype: torch.dtype, device: torch.device, limit: int | None) -> bool:
    """Whether a model's layers wait on the host: a part of the device's memory is for what is computed with them.

    Args:
        spec: The model.
        dtype: What it runs in.
        device: Where.
        limit: Bytes that it may take of the device's memory; None for what is there.
    """
    limit = gpu_bytes(device) if limit is None else limit
    return limit is not None and total_params(spec, Candidate.dense(spec)) * dtype.itemsize > WEIGHTS * limit


def resolve_device(device: str) -> torch.device:
    """The device of that name, or for `auto` CUDA where there is one, else the CPU.

    Raises:
        UserError: There is no such device here.
    """
    name = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"Expected a device that works here (auto, cpu, cuda, cuda:1, mps), got device={device}: {reason}"
        ) from error
    return torch.device(name)


def resolve_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """The dtype of that name, or for `auto` bfloat16 where the device is fast at it, else float32.

    Raises:
        UserError: The name is not one of `space.checks.DTYPES`.
    """
    if dtype == "auto":
        return torch.bfloat16 if _fast_at_bfloat16(device) else torch.float32
    require_dtype(dtype)
    named: torch.dtype = getattr(torch, dtype)
    return named


@cache
def _fast_at_bfloat16(device: torch.device) -> bool:
    """Whether a device computes with bfloat16 faster than with float32.

    A CPU's tile instructions (AMX) make it several times as fast. With vectors of it alone (AVX512_BF16) one was
    measured to be 0.6 times as fast, so that this is measured, in turns.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    return torch.cpu._is_amx_tile_supported() or (torch.cpu._is_avx512_bf16_supported() and _bfloat16_speed() >= FASTER)


@torch.inference_mode()
def _bfloat16_speed() -> float:
    """How many times as fast as in float32 this CPU multiplies in bfloat16: the best of some, taken in turns."""
    rows, inputs, outputs = _TRIED
    factors = {
        dtype: (torch.ones(rows, inputs, dtype=dtype), torch.ones(outputs, inputs, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(factors, float("inf"))
    for time in range(1 + _TIMES):
        for dtype, (states, weight) in factors.items():
            start = perf_counter()
            F.linear(states, weight)
            if time:  # the first makes what the others find
                best[dtype] = min(best[dtype], perf_counter() - start)
    return best[torch.float32] / best[torch.bfloat16]
