"""Numbers, times and names as people read them, for all views."""

from __future__ import annotations

import math
import re
import textwrap

from evaluators.base import Format, Metric

DIGITS = {"fine": 4, "plain": 2, "percent": 1}  # behind the point, by format
STEPS = {"count": (1000.0, ("", "k", "M", "G", "T")), "bytes": (1024.0, ("B", "KiB", "MiB", "GiB", "TiB"))}


def scale_of(form: Format, largest: float) -> tuple[float, str, int]:
    """How numbers of a format are written.

    Args:
        form: The format.
        largest: The largest size among the numbers.

    Returns:
        The size of the unit in which they are written, what it is called where the format says that, and the digits
        behind the point.
    """
    if form == "percent":
        return 0.01, "%", DIGITS[form]
    if form not in STEPS:
        return 1.0, "", DIGITS[form]
    base, units = STEPS[form]
    power = min(int(math.log(max(largest, 1.0)) / math.log(base) + 1e-9), len(units) - 1)
    return base**power, units[power], min(power, 1)


def written(metric: Metric, value: float) -> str:
    """A metric's value without its unit, which stands in the head: `0.0310`, `98.3M`; a dash when it is not known."""
    if not math.isfinite(value):
        return "–"
    scale, unit, digits = scale_of(metric.format, abs(value))
    return f"{value / scale:.{digits}f}{' ' * (metric.format == 'bytes')}{unit}"


def number(value: float, form: str) -> str:
    """A number as text; a dash when there is none."""
    return form.format(value) if math.isfinite(value) else "–"


def broken(head: str, width: int = 9) -> str:
    """The head of a column over several lines, its unit left out where that is wider than numbers are."""
    return textwrap.fill(re.sub(rf" \(\S{{{width},}}\)$", "", head), width, break_long_words=False)


def duration(seconds: float) -> str:
    """A time span for people: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def clock(seconds: float) -> str:
    """A time span that is seen to grow: `0:45`, `12:00`, `3:05:00`."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"


def printable(text: str, instead: str = "?") -> str:
    """Text on one line that does nothing to a terminal: what is not printable becomes a question mark, or another."""
    return "".join(character if character.isprintable() else instead for character in text)
