"""Windows cut into shorter texts for training: a model of short texts is not trained on long ones alone."""

from __future__ import annotations

from torch import Tensor

Marks = tuple[bool, bool]  # whether windows begin, and whether they end, with a token that is no text


def marks_of(start: int | None, end: int | None) -> Marks:
    """Those of windows that begin and end with these tokens, if any."""
    return start is not None, end is not None


def cut(windows: Tensor, texts: int, marks: Marks) -> Tensor:
    """Texts of equal length out of windows, each between the tokens that windows begin and end with.

    Args:
        windows: Token ids, shape (windows, length).
        texts: How many are made of a window; fewer of one with fewer tokens of text. What they leave of it is left out.
        marks: Of the windows.

    Returns:
        Token ids, shape (windows · texts, shorter length), the windows themselves where each is one text.
    """
    if texts == 1:
        return windows
    first, last = int(marks[0]), windows.shape[1] - int(marks[1])
    size = max(1, (last - first) // texts)
    within = windows[:, first:last].unfold(1, size, size)[:, :texts]  # (windows, texts, size)
    rows = within.new_empty(*within.shape[:2], size + sum(marks))
    rows[..., first : first + size] = within
    rows[..., :first] = windows[:, None, :first]
    rows[..., first + size :] = windows[:, None, last:]
    return rows.flatten(0, 1)
