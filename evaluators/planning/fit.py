"""What of a run does not fit into what there is, and which settings make it smaller; free of torch."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.planning.job import Stage
from space.supernet.sizes import Part, total

_SHOWN = 4  # settings, or parts, that a line names
_SMALL = 0.02  # of what is too much, below which a part is not worth a word


def gigabytes(count: float) -> str:
    """Bytes for people."""
    return f"{count / 1e9:.2f} GB" if count < 1e9 else f"{count / 1e9:.1f} GB"


def listed(parts: Sequence[Part]) -> str:
    """The largest of some parts."""
    largest = sorted(parts, key=lambda part: -part.bytes)
    shown = [f"{part.what} {gigabytes(part.bytes)}" for part in largest[:_SHOWN] if part.bytes]
    return ", ".join([*shown, *([f"others {gigabytes(rest)}"] if (rest := total(largest[_SHOWN:])) else [])])


def misfits(stages: Sequence[Stage], host: int | None, device: int | None) -> list[str]:
    """Warnings, one for each stage and memory that it does not fit into.

    Args:
        stages: Of the run.
        host: Bytes that it may have of the host's memory; None where nobody knows.
        device: The same of the device's; None where that is the host.
    """
    return [
        _warning(f"{stage.title} needs", parts, f"{name} memory", room)
        for stage in stages
        for parts, room, name in ((stage.host, host, "host"), (stage.device, device, "device"))
        if room is not None and total(parts) > room
    ]


def disk_misfits(parts: Sequence[Part], room: int) -> list[str]:
    """A warning where files do not fit on a disk with so many free bytes."""
    return [_warning("the run and an export need", parts, "disk", room)] if total(parts) > room else []


def _warning(needs: str, parts: Sequence[Part], kind: str, room: int) -> str:
    excess = total(parts) - room
    large = sorted((p for p in parts if p.setting and p.bytes > _SMALL * excess), key=lambda part: -part.bytes)
    advice = [f"{part.setting} ({part.what}, {gigabytes(part.bytes)})" for part in large[:_SHOWN]]
    line = f"WARNING: {needs} {gigabytes(total(parts))} of {kind}, {gigabytes(room)} are free."
    if advice:
        line += f" Change {', '.join(advice)}."
    if total(large) <= excess:
        others = [part for part in parts if part not in large]
        line += f" {'That is not enough' if advice else 'No setting helps'}: {listed(others)}."
    return line
