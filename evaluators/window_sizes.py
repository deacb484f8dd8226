"""How much of a search window each fidelity sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from space.errors import UserError


def window_sizes(parts: Sequence[float], length: int) -> list[int]:
    """Tokens of a search window that each fidelity sees, the whole one last.

    Args:
        parts: Of the window, that the cheaper ones see.
        length: Tokens of the window.

    Raises:
        UserError: The parts do not rise from above 0 to below 1, or give less than two tokens.
    """
    sizes = [*(round(part * length) for part in parts), length]
    if sizes != sorted(set(sizes)) or sizes[0] < 2:
        raise UserError(
            f"evaluators.fidelities: expected rising fractions of a window above 0 and below 1, of at least 2 of "
            f"data.length={length} tokens, got {list(parts)}. Change one of them; [] leaves the full one alone."
        )
    return sizes


def beginning(windows: Tensor, tokens: int, length: int, *, ended: bool = False) -> Tensor:
    """What a fidelity sees: the first tokens of each window of text, or as large a part of the images.

    Args:
        windows: Token ids (windows, length), or images (images, channels, height, width).
        tokens: Of a window.
        length: Of a whole one.
        ended: Whether windows end with a token that ends a text; then their beginnings do, too.
    """
    if windows.ndim > 2:
        return windows[: max(1, len(windows) * tokens // length)]
    return torch.cat([windows[:, : tokens - ended], windows[:, length - ended :]], 1)
