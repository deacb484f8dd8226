"""What an exported checkpoint is compared with: the subnet itself in float32 on the CPU, and its logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from space.formats.hf.reload_check import in_float32

_SEQUENCES, _TOKENS = 2, 48


@dataclass(frozen=True)
class Reference:
    """Logits that a checkpoint must give.

    Attributes:
        input_ids: Tokens, `(batch, time)`.
        expected_logits: What the subnet gives for them in float32, `(batch, time, vocab)`.
    """

    input_ids: Tensor
    expected_logits: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Both by name, for a fresh process."""
        return {"input_ids": self.input_ids, "expected_logits": self.expected_logits}


def reference_of(model: nn.Module, vocab: int) -> Reference:
    """The logits of a causal language model on random tokens, the same ones each time."""
    tokens = torch.randint(vocab, (_SEQUENCES, _TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), in_float32(model):
        return Reference(tokens, model(tokens, use_cache=False).logits)
