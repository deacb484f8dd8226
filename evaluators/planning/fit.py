"""What of a run does not fit into what there is, and which settings make it smaller; free of torch."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.planning.job import Stage
from space.supernet.sizes import Part, total

_SHOWN = 4  # settings, or parts, that a line names


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
    lines = []
    for stage in stages:
        for parts, room, name in ((stage.host, host, "of the host"), (stage.device, device, "of the device")):
            if room is not None and total(parts) > room:
                lines.append(_warning(f"{stage.title}, memory {name}", parts, room))
    return lines


def disk_misfits(parts: Sequence[Part], room: int) -> list[str]:
    """A warning where files do not fit on a disk with so many free bytes."""
    return [_warning("disk", parts, room)] if total(parts) > room else []


def _warning(what: str, parts: Sequence[Part], room: int) -> str:
    saved = {part.setting: part.bytes for part in sorted(parts, key=lambda part: part.bytes) if part.setting}
    settings = sorted(saved, key=lambda setting: -saved[setting])[:_SHOWN]
    advice = ", ".join(f"{setting} ({gigabytes(saved[setting])})" for setting in settings)
    enough = sum(saved.values()) > total(parts) - room
    lines = [f"WARNING: {what}: {gigabytes(total(parts))} are needed, {gigabytes(room)} are there."]
    if advice:
        lines.append(f"To change: {advice}.")
    if not enough:
        lines.append(f"These do not suffice: {listed(parts)}." if advice else f"It is {listed(parts)}.")
    return " ".join(lines)
