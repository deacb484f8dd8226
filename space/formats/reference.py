"""What an exported checkpoint is compared with: the subnet itself in float32 on the CPU, and its logits."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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


def float32_copy(model: nn.Module) -> nn.Module:
    """The model once more, in float32 on the CPU; a GPU has no copy of it meanwhile."""
    memo: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        host = tensor.detach().to("cpu", copy=True)
        wide = host.float() if host.is_floating_point() else host
        memo[id(tensor)] = nn.Parameter(wide, requires_grad=False) if isinstance(tensor, nn.Parameter) else wide
    return copy.deepcopy(model, memo)


def reference_of(model: nn.Module, vocab: int) -> Reference:
    """The logits of a causal language model on random tokens, the same ones each time."""
    tokens = torch.randint(vocab, (_SEQUENCES, _TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return Reference(tokens, float32_copy(model)(tokens, use_cache=False).logits)
