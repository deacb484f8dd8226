"""What an exported checkpoint is compared with: the subnet itself in float32 on the CPU, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from space.formats.hf.reload_check import in_float32, output_of
from space.spec import ModelSpec

_SEQUENCES, _TOKENS = 2, 48


@dataclass(frozen=True)
class Reference:
    """What a checkpoint must give.

    Attributes:
        input_ids: Tokens, `(batch, time)`.
        attention_mask: 0 behind the end of a sequence, `(batch, time)`.
        expected: The output of the task that the subnet gives for them in float32, `(batch, time, vocab or hidden)`
            or `(batch, classes)`.
    """

    input_ids: Tensor
    attention_mask: Tensor
    expected: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """All by name, for a fresh process."""
        return {"input_ids": self.input_ids, "attention_mask": self.attention_mask, "expected": self.expected}


def reference_of(model: nn.Module, spec: ModelSpec) -> Reference:
    """What a model gives for random tokens, the same ones each time; the second sequence is shorter where it may be."""
    tokens = torch.randint(spec.vocab, (_SEQUENCES, _TOKENS), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(tokens)
    if not spec.use.writes:
        mask[1, _TOKENS // 2 :] = 0
    with torch.inference_mode(), in_float32(model):
        return Reference(tokens, mask, output_of(model, tokens, mask, spec.use.output))
