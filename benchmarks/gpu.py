"""Device checks: what a GPU has to answer, or a machine without one; every finding is stored as it comes.

    python -m benchmarks.gpu REPORT.json SECONDS CHECK [CHECK ...] [--dry]

A check is `facts`, `parity`, `compile`, `truth:SHAPE`, `shape:SHAPE`, `again:SHAPE` or `checkpoint:SHAPE`, and behind
an @ the seconds that it may take at most; SECONDS is for all. `--dry` runs the same code on tiny models, to try the
checks themselves. Models have random weights, and nothing is downloaded. What fails is a finding, and the next check
goes on.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.device.again import again
from benchmarks.device.compiling import compiling
from benchmarks.device.facts import facts
from benchmarks.device.machine import Machine
from benchmarks.device.models import SHAPES
from benchmarks.device.parity import parity
from benchmarks.device.report import Report
from benchmarks.device.shapes import checkpoint, shape
from benchmarks.device.truth import truth

CHECKS: Mapping[str, Callable[[Report, Machine], None]] = {"facts": facts, "parity": parity, "compile": compiling}
SHAPE_CHECKS: Mapping[str, Callable[[Report, Machine, str], None]] = {
    "truth": truth,
    "shape": shape,
    "again": again,
    "checkpoint": checkpoint,
}
_LEAST_S = 5  # that a check needs to begin


@dataclass(frozen=True)
class Check:
    """One word of the command line.

    Attributes:
        name: Of the check, a row of `CHECKS` or `SHAPE_CHECKS`.
        shape: A row of `SHAPES`; empty for those of `CHECKS`.
        seconds: That it may take at most.
    """

    name: str
    shape: str
    seconds: float

    @classmethod
    def parse(cls, text: str) -> Check:
        """Reads `NAME[:SHAPE][@SECONDS]`.

        Raises:
            argparse.ArgumentTypeError: There is no such check.
        """
        question, _, seconds = text.partition("@")
        name, _, shape_name = question.partition(":")
        known = shape_name in SHAPES if name in SHAPE_CHECKS else name in CHECKS and not shape_name
        try:
            most = float(seconds or math.inf)
        except ValueError:
            known = False
        if not known:
            raise argparse.ArgumentTypeError(
                f"expected {', '.join(CHECKS)} or {'|'.join(SHAPE_CHECKS)}:SHAPE with a SHAPE of {', '.join(SHAPES)}, "
                f"and perhaps @SECONDS, got {text!r}"
            )
        return cls(name, shape_name, most)

    def __str__(self) -> str:
        """As it was asked, without its seconds."""
        return f"{self.name}:{self.shape}" if self.shape else self.name

    def run(self, report: Report, machine: Machine) -> None:
        """Asks it."""
        if self.shape:
            SHAPE_CHECKS[self.name](report, machine, self.shape)
        else:
            CHECKS[self.name](report, machine)


def ask(checks: Sequence[Check], report: Report, machine: Machine) -> None:
    """Asks one check after another; those for which no time is left are said to be skipped."""
    report.put("device", value=machine.name)
    for check in checks:
        report.limit(check.seconds)
        if report.left < _LEAST_S:
            report.put("skipped", str(check), value="no time left")
            continue
        with report.check("checks", str(check)):
            check.run(report, machine)
        machine.tidy()


def main() -> None:
    """Reads the command line, and asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path, help="JSON file to write")
    parser.add_argument("seconds", type=float, help="that all checks may take")
    parser.add_argument("checks", type=Check.parse, nargs="+", metavar="CHECK")
    parser.add_argument("--dry", action="store_true", help="tiny models, the same code")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")  # a report is read, not a log
    ask(arguments.checks, Report(arguments.report, arguments.seconds), Machine.here(dry=arguments.dry))


if __name__ == "__main__":
    main()
