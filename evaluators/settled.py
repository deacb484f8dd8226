"""What a run keeps of its minutes in its directory: speeds as they were measured, and what they came to."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

from evaluators.amounts import Amounts, Work, amounts_of
from evaluators.speeds import Speeds
from space.errors import UserError


@dataclass(frozen=True)
class Settled:
    """What a run keeps of its minutes, so that nothing is measured twice.

    Attributes:
        minutes: That were given.
        speeds: What was measured.
        amounts: What the minutes have come to.
    """

    minutes: float
    speeds: Speeds
    amounts: Amounts

    @classmethod
    def of(cls, minutes: float, speeds: Speeds, work: Work) -> Self:
        """Divides minutes."""
        return cls(minutes, speeds, amounts_of(minutes, speeds, work))

    def with_minutes(self, minutes: float, work: Work) -> Self:
        """The same with other minutes for the search alone: what its answers depend on stays as it was."""
        before = self.amounts
        amounts = amounts_of(minutes, self.speeds, replace(work, windows=before.search_windows, healing=before.healing))
        return replace(self, minutes=minutes, amounts=amounts)

    def remarks(self) -> list[str]:
        """What a person should know of it, in lines."""
        speeds, amounts = self.speeds, self.amounts
        paces = [f"{speeds.evaluation[amounts.batch_size]:,.0f} tokens a second, {amounts.batch_size} windows at once"]
        paces += [f"{speeds.training[size]:,.0f} in training, {size} at once"] if (size := speeds.step_windows) else []
        left = [f"{amounts.tokens:,} tokens of search with {amounts.search_windows} windows a design"]
        left += [f"{amounts.healing:,} tokens of healing"] * bool(amounts.healing)
        lines = [
            f"budget of {self.minutes:g} minutes: {speeds.elapsed_s / 60:.1f} are gone, and the end of the run, with "
            f"up to {amounts.points} points, takes some {amounts.end_s / 60:.1f}; at {', '.join(paces)} this leaves "
            f"{' and '.join(left)}"
        ]
        short = ["no longer windows are scored"] * (not amounts.long)
        short += ["no samples are written"] * (not amounts.samples)
        short += [] if amounts.plain is None else [f"{amounts.plain} plain designs stand beside the front"]
        short += [] if amounts.front_rounds is None else [f"points are timed in {amounts.front_rounds} rounds"]
        lines += [f"as minutes are short: {', '.join(short)}"] * bool(short)
        if amounts.seconds > 60 * self.minutes:
            needed = math.ceil(amounts.seconds / 60)
            lines.append(
                f"WARNING: budget.minutes: expected at least {needed} for this run on this machine, got "
                f"{self.minutes:g}. It has the least search that makes a front, and takes some {needed} minutes. Set "
                "more of them for more search."
            )
        return lines

    def to_json(self) -> str:
        """As the run's directory keeps it."""
        return json.dumps(asdict(self), indent=1) + "\n"

    @classmethod
    def read(cls, path: Path) -> Self:
        """The inverse of `to_json`.

        Raises:
            UserError: The file does not read as such.
        """
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            speeds = stored["speeds"]
            curves = {
                name: {int(windows): float(speed) for windows, speed in speeds[name].items()}
                for name in ("evaluation", "training")
            }
            asking = tuple((int(questions), float(seconds)) for questions, seconds in speeds["asking"])
            return cls(
                float(stored["minutes"]),
                Speeds(**speeds | curves | {"asking": asking}),
                Amounts(**stored["amounts"]),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"Expected {path} to say what the run's minutes come to, but it does not read as that "
                f"({type(error).__name__}: {error}). Start a new run with another run_dir."
            ) from error
