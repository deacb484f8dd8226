"""Makes MKL's vectorised functions precise; needs torch alone, so that a fresh process can run it by its path."""

from __future__ import annotations

import torch


def settle_vector_math() -> None:
    """Calls each vectorised function once in a single thread, without which the first use of one can be imprecise.

    MKL chooses a function's kernel at its first call; where several threads make that call together, as they do for the
    cosines of RoPE, one of them may take a kernel of 12 bits for its share (pytorch issue 188792, open as of torch
    2.13), which moved logits by 0.004.
    """
    functions = (
        torch.cos,
        torch.sin,
        torch.exp,
        torch.expm1,
        torch.log,
        torch.log1p,
        torch.sqrt,
        torch.tanh,
        torch.erf,
    )
    for dtype in (torch.float32, torch.float64):
        for function in functions:
            function(torch.ones(1, dtype=dtype))
