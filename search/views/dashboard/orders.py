"""What a browser may ask for: each order checked against the run, and turned into a command."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from search.run.commands import setting
from space.errors import UserError

TASK = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_*-]*", re.ASCII)  # a name or a pattern, never a path
NUMBER = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)
MOST_TASKS = 50

Order = tuple[str, list[str]]  # title and command


@dataclass(frozen=True)
class Orders:
    """Makes commands for one run; nothing but a pick, names of tasks and a number comes from the browser.

    Attributes:
        run_dir: The run.
        scripts: Where the entry scripts lie.
        include_path: A directory with task files of the user's own, or None.
        places: Settings of both commands: where the run's model and text are now, where they are not where they were.
    """

    run_dir: Path
    scripts: Path
    include_path: str | None = None
    places: Sequence[str] = ()

    def why_no_export(self, pick: object, keys: frozenset[str]) -> str:
        """Why a pick cannot be exported; empty when it can.

        Args:
            pick: What the browser says was picked.
            keys: The points that can be.
        """
        if why := why_not(pick, keys):
            return why
        out = self.run_dir / "exports" / str(pick)
        return f"Exported: {out}" if out.exists() else ""

    def export(self, pick: object, keys: frozenset[str]) -> Order:
        """An export, which is verified in a fresh process before it says that it is done.

        Raises:
            UserError: See `why_no_export`.
        """
        if why := self.why_no_export(pick, keys):
            raise UserError(why)
        return f"Export {pick}", self._command("export_subnet.py", str(pick))

    def score(self, pick: object, keys: frozenset[str], tasks: object, limit: object) -> Order:
        """Scores of a pick on tasks of lm-eval, the dense model beside it.

        Args:
            pick: What the browser says was picked.
            keys: The points that can be scored.
            tasks: Names of tasks with commas or blanks between them.
            limit: Items of each task; None or empty for all, below 1 a part of them.

        Raises:
            UserError: See `why_not`, or tasks or limit are not what they should be.
        """
        if why := why_not(pick, keys):
            raise UserError(why)
        names = tasks.replace(",", " ").split() if isinstance(tasks, str) else []
        if not 0 < len(names) <= MOST_TASKS or not all(TASK.fullmatch(name) for name in names):
            raise UserError("Tasks: expected names of tasks of lm-eval with commas between, such as piqa, arc_easy.")
        command = [*self._command("score_subnet.py", str(pick)), f"tasks=[{','.join(names)}]"]
        if limit not in (None, ""):
            if not isinstance(limit, str) or not NUMBER.fullmatch(limit.strip()) or float(limit) == 0:
                raise UserError("Items: expected a number above 0, or nothing for all.")
            command.append(f"limit={limit.strip()}")
        if self.include_path is not None:
            command.append(setting("include_path", self.include_path))
        return f"Score {pick} on {', '.join(names)}", command

    def _command(self, script: str, key: str) -> list[str]:
        return [
            sys.executable,
            str(self.scripts / script),
            setting("run_dir", str(self.run_dir)),
            f"pick={key}",
            "progress=json",
            *self.places,
        ]


def why_not(pick: object, keys: frozenset[str]) -> str:
    """Why nothing can be asked about a pick; empty when something can.

    Args:
        pick: What the browser says was picked.
        keys: The points that can be exported and scored.
    """
    if not keys:
        return "Possible once the search has ended and its front is written."
    return "" if isinstance(pick, str) and pick in keys else "Choose a point of this run."
