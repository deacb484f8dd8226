"""A matrix in a type of blocks: its codes, as a GGUF file has them, and the values that they stand for."""

from __future__ import annotations

from dataclasses import dataclass

import gguf
import numpy as np
import torch
from torch import Tensor

from space.types import GGUF_TYPES

GGML = {name: gguf.GGMLQuantizationType[name.upper()] for name in GGUF_TYPES}  # llama.cpp's numbers of the types


@dataclass(frozen=True)
class Rounded:
    """A matrix in a type of blocks.

    Attributes:
        ggml: The type.
        codes: Its bytes, uint8, shape (rows, bytes of a row).
    """

    ggml: gguf.GGMLQuantizationType
    codes: Tensor

    @classmethod
    def nearest(cls, values: Tensor, ggml: gguf.GGMLQuantizationType) -> Rounded:
        """Each block of a matrix of shape (rows, columns) rounded by itself, as llama.cpp does."""
        return cls(ggml, torch.from_numpy(gguf.quants.quantize(values.numpy(), ggml)))

    @property
    def values(self) -> Tensor:
        """What they stand for, float32, shape (rows, columns)."""
        return torch.from_numpy(np.ascontiguousarray(gguf.quants.dequantize(self.codes.numpy(), self.ggml)))
