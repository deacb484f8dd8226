"""Bits per byte of a text: what models are compared by that cut it into different tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from evaluators.output_head import OutputHead
from space.models.stack import stack_of


@torch.inference_mode()
def bits_per_byte(model: Any, tokens: Sequence[Sequence[int]], texts: Sequence[str], start: int) -> float:
    """What a model needs of all text, its first token too, in bits a byte of UTF-8.

    Args:
        model: A causal language model.
        tokens: Of each text, which is a context of its own.
        texts: What the tokens are of.
        start: A token that is put before each text.
    """
    device = model.get_output_embeddings().weight.device
    nats = 0.0
    for ids in tokens:
        row = torch.tensor([[start, *ids]], device=device)  # (1, time + 1)
        hidden = stack_of(model)(row[:, :-1], use_cache=False).last_hidden_state[0].float()  # (time, hidden)
        head = OutputHead.of(model, len(hidden))
        target = head.mean_logit(hidden, row[0, 1:])
        nats += (head.log_sum_exp(hidden) - target).sum(dtype=torch.float64).item()
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)
