"""Markdown as GitHub reads it: text that stays text, tables, and code that nothing in it can end."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence


def escaped(text: object) -> str:
    """Text on one line that neither Markdown nor HTML gives a meaning to; it may stand in a table's cell."""
    line = "".join(character if character.isprintable() else " " for character in str(text))
    line = html.escape(line, quote=False)
    return re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", line)


def table(heads: Sequence[str], rows: Iterable[Iterable[str]], *, left: int = 1) -> str:
    """A table of cells that are Markdown already.

    Args:
        heads: Of the columns.
        rows: As long as `heads`.
        left: Columns, the first ones, that are set left; numbers are set right.
    """
    rules = [":--" if column < left else "--:" for column in range(len(heads))]
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rules, *rows)) + "\n"


def code(text: str, language: str = "") -> str:
    """A block of code, its fence longer than any in the text."""
    longest = max(map(len, re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}\n"
