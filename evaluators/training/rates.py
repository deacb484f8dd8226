"""Learning rates by tensor: a step is as large a part of each, so that no model's scale needs a setting of its own.

AdamW's steps are as large as the learning rate, whatever the size of the numbers that they change. One and the same
function has other numbers where norm gains are folded into the projections behind them, and models differ from each
other by a factor of ten. Adafactor's relative steps (Shazeer and Stern 2018, section 8) are used for it here.
"""

from __future__ import annotations

import torch
from torch import Tensor

USUAL = 0.2  # root mean square of a tensor that takes the learning rate as it is: that of SmolLM2's projections
LEAST = 1e-3  # of a tensor that is about zero


@torch.no_grad()
def share_of(weight: Tensor) -> float:
    """The part of the learning rate that a tensor takes, by the root mean square of its numbers."""
    return max(LEAST, weight.float().square().mean().sqrt().item()) / USUAL
