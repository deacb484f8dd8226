"""Float32 matrix products at bfloat16 speed, for factors that are bfloat16 numbers anyway."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def fast_products(dtype: torch.dtype, device: torch.device) -> Iterator[None]:
    """Lets float32 products round their factors to bfloat16 (TF32 on CUDA), where the model itself runs in bfloat16.

    Sums stay float32, and factors that are bfloat16 numbers, such as the model's weights and activations, lose nothing.

    Args:
        dtype: What the model runs in; nothing changes unless that is bfloat16.
        device: Where the factors are.
    """
    if dtype != torch.bfloat16:
        yield
        return
    cuda = device.type == "cuda"
    backend: Any = torch.backends.cuda.matmul if cuda else torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, backend.fp32_precision = backend.fp32_precision, "tf32" if cuda else "bf16"
    try:
        yield
    finally:
        backend.fp32_precision = before
