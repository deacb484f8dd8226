"""How much of a search window each fidelity sees."""

from __future__ import annotations

from collections.abc import Sequence

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
