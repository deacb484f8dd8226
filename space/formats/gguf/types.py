"""Types of the matrices in a GGUF file: which a file's matrices have, what they take, and values rounded to them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor, nn

from space.formats.greedy import Tolerance

_Type = gguf.GGMLQuantizationType
_EMBEDDING, _HEAD = "model.embed_tokens", "lm_head"


@dataclass(frozen=True)
class GGUFType:
    """A type that a file's matrices can be asked to have.

    Attributes:
        ggml: llama.cpp's number of it.
        file: llama.cpp's number of a file of it.
        tolerance: What passes for llama.cpp's arithmetic, against the rounded weights in float32.
    """

    ggml: gguf.GGMLQuantizationType
    file: gguf.LlamaFileType
    tolerance: Tolerance


# llama.cpp multiplies an F16 matrix by activations rounded to F16 (11 bits), and one of another type by activations of
# 8 bits with a scale for each 32. The same rounding done in PyTorch moved the default model's figures by at most 0.05
# and on average 0.003 (F16), 1.1 and 0.12 (8 bits); llama.cpp moved them by 0.04 and 0.004, 0.8 and 0.11, and those of
# its pruned subnets by up to 0.68 and 0.027, 2.6 and 0.13. Models with larger activations are allowed more. An export
# that computes something else is off by more on average.
_F16, _EIGHT_BITS = Tolerance(2.0, 0.04, 0.5), Tolerance(5.0, 0.3, 1.0)
_File = gguf.LlamaFileType
TYPES = {  # of ever fewer bits
    "f16": GGUFType(_Type.F16, _File.MOSTLY_F16, _F16),
    "q8_0": GGUFType(_Type.Q8_0, _File.MOSTLY_Q8_0, _EIGHT_BITS),
    "q5_1": GGUFType(_Type.Q5_1, _File.MOSTLY_Q5_1, _EIGHT_BITS),
    "q5_0": GGUFType(_Type.Q5_0, _File.MOSTLY_Q5_0, _EIGHT_BITS),
    "q4_1": GGUFType(_Type.Q4_1, _File.MOSTLY_Q4_1, _EIGHT_BITS),
    "q4_0": GGUFType(_Type.Q4_0, _File.MOSTLY_Q4_0, _EIGHT_BITS),
}


def matrix_type(module: str, columns: int, kind: str, *, tied: bool) -> gguf.GGMLQuantizationType:
    """The type of one matrix of a file, as llama.cpp's own tool chooses it.

    What gives the logits, the LM head or an embedding that is one, is Q8_0 in all files of fewer bits. The tool takes
    Q6_K where 256 divides its rows and Q8_0 elsewhere; Q6_K is left out, as the gguf package does not round to it. A
    matrix whose rows are no whole blocks is F16.

    Args:
        module: Its module by transformers' name.
        columns: Values of a row.
        kind: Row of `TYPES`, the file's.
        tied: Whether the embedding is the LM head.
    """
    logits = module == _HEAD or (tied and module == _EMBEDDING)
    chosen = _Type.Q8_0 if logits and kind != "f16" else TYPES[kind].ggml
    return chosen if columns % gguf.GGML_QUANT_SIZES[chosen][0] == 0 else _Type.F16


def row_bytes(columns: int, ggml: gguf.GGMLQuantizationType) -> int:
    """Bytes of a row of so many values, which are whole blocks of the type."""
    block, size = gguf.GGML_QUANT_SIZES[ggml]
    assert columns % block == 0
    return columns // block * size


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


def rounded_matrices(state: Mapping[str, Tensor], kind: str, *, tied: bool) -> dict[str, Rounded]:
    """The matrices of a checkpoint that a file of a kind rounds to blocks, by name; F16 ones are not among them.

    Args:
        state: Tensors by transformers' names.
        kind: Row of `TYPES`.
        tied: Whether the embedding is the LM head.
    """
    rounded = {}
    for name, tensor in state.items():
        if tensor.ndim == 2:
            ggml = matrix_type(name.rpartition(".")[0], tensor.shape[1], kind, tied=tied)
            if ggml is not _Type.F16:
                rounded[name] = Rounded.nearest(tensor.detach().cpu().float(), ggml)
    return rounded


@contextmanager
def holding(model: nn.Module, rounded: Mapping[str, Rounded]) -> Iterator[None]:
    """Has a model compute with rounded weights, held as float16; afterwards its tensors are what they were."""
    parameters: dict[str, Any] = dict(model.named_parameters())
    held = {name: parameters[name].data for name in rounded}
    try:
        for name, matrix in rounded.items():
            parameters[name].data = matrix.values.half()
        yield
    finally:
        for name, own in held.items():
            parameters[name].data = own
