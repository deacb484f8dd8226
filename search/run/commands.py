"""The commands that a person may want next, ready for a shell."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

PLAIN_VALUE = re.compile(r"[\w./+-]+", re.ASCII)
OF_ONE_START = ("run_dir", "progress", "tracker")  # settings that say nothing of the search


def override(key: str, value: str) -> str:
    """`key=value` for a shell and for Hydra, which both give a meaning to blanks, commas, quotes and brackets."""
    argument = setting(key, value)
    if "'" in argument and not set(argument) & set('"$`\\!'):
        return f'"{argument}"'  # as a person writes it
    return shlex.quote(argument)


def setting(key: str, value: str) -> str:
    """`key=value` for Hydra, as one argument of a process."""
    if PLAIN_VALUE.fullmatch(value):
        return f"{key}={value}"
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"{key}='{quoted}'"


def quoted(arguments: Sequence[str], key: str) -> list[str]:
    """Command-line arguments with the value of one setting quoted, as Hydra's grammar has no `<`."""
    start = f"{key}="
    return [
        f"{start}'{argument[len(start) :]}'" if argument.startswith(start) and "'" not in argument else argument
        for argument in arguments
    ]


def export_command(run_dir: Path) -> str:
    """The command that exports a point, up to what is picked."""
    return f"python export_subnet.py {override('run_dir', str(run_dir))} pick="


def timing_command(run_dir: Path) -> str:
    """The command that times a run's front end to end on the device where it is given."""
    return f"python time_front.py {override('run_dir', str(run_dir))}"


def next_commands(run_dir: Path, pick: str | None, *, untimed: bool = False, scored: bool = True) -> dict[str, str]:
    """What to do with a finished run, by what for: look at it, export a point, score it on tasks.

    Args:
        run_dir: Of the run.
        pick: A key, or a word that picks; None where there is nothing to take.
        untimed: Whether it is to be timed first, on the device that it is for.
        scored: Whether tasks can be asked of its points.
    """
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    look = {"look": f"{opener} {shlex.quote(str(run_dir / 'front.html'))}"}
    if untimed:
        look["time, on the device"] = timing_command(run_dir)
    if pick is None:
        return look
    known = look | {"export": f"{export_command(run_dir)}{pick}"}
    if scored:
        score = f"python score_subnet.py {override('run_dir', str(run_dir))} pick={pick}"
        known["score"] = f"{score} {shlex.quote('tasks=[hellaswag,piqa]')}"
    return known


def search_commands(run_dir: Path, arguments: Sequence[str]) -> dict[str, str]:
    """How a search is started anew, gone on with, and how its latencies alone are had, by what for.

    Args:
        run_dir: Of the run.
        arguments: Those that it was started with.
    """
    own = [argument for argument in arguments if argument.lstrip("+").partition("=")[0] not in OF_ONE_START]
    start = shlex.join(["python", "run_search.py", *own])
    return {
        "run": start,
        "resume": f"{start} {override('run_dir', str(run_dir))}",
        "profile": f"{start} profile_only=true",
    }
