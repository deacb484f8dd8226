"""Where device checks run: on CUDA, or without it on the CPU, in full or as a dry run on tiny models."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Machine:
    """What the checks have to know of it.

    Attributes:
        device: Where models are.
        dtype: What they run in.
        dry: Whether models are tiny, to try the checks themselves.
    """

    device: torch.device
    dtype: torch.dtype
    dry: bool

    @classmethod
    def here(cls, *, dry: bool) -> Machine:
        """CUDA in bfloat16 where there is one, else the CPU in float32."""
        if torch.cuda.is_available():
            return cls(torch.device("cuda"), torch.bfloat16, dry)
        return cls(torch.device("cpu"), torch.float32, dry)

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device.type == "cuda"

    @property
    def name(self) -> str:
        """The card's, or `cpu`."""
        return torch.cuda.get_device_name(self.device) if self.cuda else "cpu"

    def settle(self) -> None:
        """Waits until the device has done all that it was asked."""
        if self.cuda:
            torch.cuda.synchronize(self.device)

    def allocated_bytes(self) -> int:
        """Memory that tensors on the GPU take; 0 without one."""
        return torch.cuda.memory_allocated(self.device) if self.cuda else 0

    def tidy(self) -> None:
        """Gives the memory of what is gone back to the GPU."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()
