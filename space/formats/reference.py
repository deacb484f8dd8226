"""What an exported checkpoint is compared with: the subnet itself in float32 on the CPU, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from space.formats.hf.reload_check import in_float32, output_of
from space.models.images import image_shape
from space.spec import ModelSpec

_SEQUENCES, _TOKENS = 2, 48


@dataclass(frozen=True)
class Reference:
    """What a checkpoint must give.

    Attributes:
        inputs: Tokens, `(batch, time)`, or images, `(batch, channels, height, width)`.
        attention_mask: 0 behind the end of a sequence, `(batch, time)`; of images, of nothing.
        expected: The output of the task that the subnet gives for them in float32, `(batch, time, vocab or hidden)`
            or `(batch, classes)`.
    """

    inputs: Tensor
    attention_mask: Tensor
    expected: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """All by name, for a fresh process."""
        return {"inputs": self.inputs, "attention_mask": self.attention_mask, "expected": self.expected}


def reference_of(model: nn.Module, spec: ModelSpec) -> Reference:
    """What a model gives for random inputs, the same ones each time; a second sequence is shorter where it may be."""
    generator = torch.Generator().manual_seed(0)
    if spec.use.reads == "images":
        tokens = torch.randn(_SEQUENCES, *image_shape(model.config, spec), generator=generator)
    else:
        tokens = torch.randint(spec.vocab, (_SEQUENCES, _TOKENS), generator=generator)
    mask = torch.ones(tokens.shape[:2], dtype=torch.int64)
    if not spec.use.writes and spec.use.reads == "text":
        mask[1, _TOKENS // 2 :] = 0
    with torch.inference_mode(), in_float32(model):
        return Reference(tokens, mask, output_of(model, tokens, mask, spec.use.output))
