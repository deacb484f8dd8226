"""Types of the matrices in a GGUF file: which a file's matrices have, what they take, and values rounded to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import gguf
from torch import Tensor, nn

from space.candidate import Candidate, LayerShape
from space.formats.checkpoint import kept_shapes
from space.formats.greedy import Tolerance
from space.rounding.rounded import GGML, Rounded
from space.types import GGUF_TYPES

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
    "f16": GGUFType(GGML["f16"], _File.MOSTLY_F16, _F16),
    "q8_0": GGUFType(GGML["q8_0"], _File.MOSTLY_Q8_0, _EIGHT_BITS),
    "q5_1": GGUFType(GGML["q5_1"], _File.MOSTLY_Q5_1, _EIGHT_BITS),
    "q5_0": GGUFType(GGML["q5_0"], _File.MOSTLY_Q5_0, _EIGHT_BITS),
    "q4_1": GGUFType(GGML["q4_1"], _File.MOSTLY_Q4_1, _EIGHT_BITS),
    "q4_0": GGUFType(GGML["q4_0"], _File.MOSTLY_Q4_0, _EIGHT_BITS),
}


@dataclass(frozen=True)
class FileTypes:
    """The types that the matrices of a file are asked to have.

    Attributes:
        kind: Row of `TYPES`, of all of them.
        tied: Whether the embedding is the LM head.
        own: A design with types of its own, which stand in place of that; None for none.
    """

    kind: str
    tied: bool
    own: Candidate | None = None

    @classmethod
    def of(cls, candidate: Candidate, kind: str, *, tied: bool) -> FileTypes:
        """Those of a design, or of a kind where it has none."""
        return cls(kind, tied, candidate if candidate.is_rounded else None)

    @property
    def name(self) -> str:
        """What the file's name says of them."""
        return "MIXED" if self.own else self.kind.upper()

    @property
    def file(self) -> gguf.LlamaFileType:
        """llama.cpp's number of the file: of a design with types of its own, of that which most of its MLPs have."""
        if self.own is None:
            return TYPES[self.kind].file
        counts = Counter(shape.mlp_type for shape in self._shapes)
        return TYPES[GGUF_TYPES[counts.most_common(1)[0][0]]].file

    @property
    def tolerance(self) -> Tolerance:
        """What passes for llama.cpp's arithmetic."""
        return _EIGHT_BITS if self.own else TYPES[self.kind].tolerance

    def matrix(self, module: str, columns: int) -> gguf.GGMLQuantizationType:
        """The type of one matrix, as llama.cpp's own tool chooses it where a design does not.

        What gives the logits, the LM head or an embedding that is one, is Q8_0 in all files of fewer bits. The tool
        takes Q6_K where 256 divides its rows and Q8_0 elsewhere; Q6_K is left out, as the gguf package does not round
        to it. A matrix whose rows are no whole blocks is F16.

        Args:
            module: Its module by transformers' name, layers numbered as in the file.
            columns: Values of a row.
        """
        if self.own is not None:
            chosen = GGML[GGUF_TYPES[self._own_type(module, self.own)]]
        else:
            logits = module == _HEAD or (self.tied and module == _EMBEDDING)
            chosen = _Type.Q8_0 if logits and self.kind != "f16" else TYPES[self.kind].ggml
        return chosen if columns % gguf.GGML_QUANT_SIZES[chosen][0] == 0 else _Type.F16

    @cached_property
    def _shapes(self) -> tuple[LayerShape, ...]:
        """Of the layers that are left of a design."""
        return kept_shapes(self.own) if self.own else ()

    def _own_type(self, module: str, own: Candidate) -> int:
        if module == _EMBEDDING:
            return own.embedding_type
        if module == _HEAD:
            return own.head_type
        _, _, place, block = module.split(".")[:4]
        return self._shapes[int(place)].type_of("attention" if block == "self_attn" else "mlp")


def row_bytes(columns: int, ggml: gguf.GGMLQuantizationType) -> int:
    """Bytes of a row of so many values, which are whole blocks of the type."""
    block, size = gguf.GGML_QUANT_SIZES[ggml]
    assert columns % block == 0
    return columns // block * size


def rounded_matrices(state: Mapping[str, Tensor], types: FileTypes) -> dict[str, Rounded]:
    """The matrices of a checkpoint that a file has in blocks, by name; F16 ones are not among them.

    Args:
        state: Tensors by transformers' names.
        types: Of the file.
    """
    rounded = {}
    for name, tensor in state.items():
        if tensor.ndim == 2:
            ggml = types.matrix(name.rpartition(".")[0], tensor.shape[1])
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
