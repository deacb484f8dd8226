"""A front with types of matrices beside the dense model in each type: who loses less at equal bytes, and at equal time.

    python -m benchmarks.bits --run-dir RUN [--structure RUN]

RUN is one with `space.types`. The front and the dense model in each type are asked about the run's held-out text, in
the weights of their files, and timed end to end in turns. The dense model in a type is what llama.cpp's own tool would
write. With the run of a search without types on the same model, text and engine, the hypervolumes of both fronts are
compared, below the dense model in F16 and a KL of 1 nat.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from conf.settings import ended_settings
from evaluators.base import Evaluation, Evaluator
from evaluators.paths import Paths
from evaluators.session import Session
from search.pareto import hypervolume
from search.run.finished import FinishedRun
from search.run.picks import candidate_of
from space.candidate import Candidate
from space.types import GGUF_TYPES

WORST = 1.0  # nats of KL, from which on a design counts for nothing


@dataclass(frozen=True)
class Point:
    """What a design costs and loses.

    Attributes:
        name: Its key, or the dense model's type.
        bytes: Of its file's tensors.
        ms: End to end.
        kl: To the dense model on held-out text, nats a token.
    """

    name: str
    bytes: float
    ms: float
    kl: float


def asked(evaluator: Evaluator, candidates: Sequence[Candidate]) -> list[Evaluation]:
    """Answers, in order.

    Raises:
        SystemExit: One failed.
    """
    answers = [*evaluator.evaluate(candidates)]
    for answer in answers:
        if answer.status == "failed":
            raise SystemExit(f"{answer.candidate.key} failed: {answer.error}")
    return answers


def points_of(run_dir: Path) -> tuple[list[Point], list[Point]]:
    """The dense model in each type, F16 first, and the rest of the front of a run, all measured now.

    Args:
        run_dir: The run.
    """
    run = FinishedRun.open(run_dir)
    session = Session.open(ended_settings(run, run.config), Paths(run_dir))
    space = session.space
    ladder = dict(
        zip(("f16", *(GGUF_TYPES[t] for t in space.types)), [session.dense, *space.rounded_ladder()], strict=True)
    )
    named = {candidate: name for name, candidate in ladder.items()}
    front = [candidate_of(row) for _, row in run.front.iterrows()]
    named |= {candidate: candidate.key for candidate in front if candidate not in named}
    candidates = [*named]
    timed = session.timed()
    assert timed is not None, "a run whose latency table is of another device"
    text = asked(session.fidelities.tuned or session.fidelities.heldout, candidates)
    times = asked(timed, candidates)
    points = [
        Point(name, session.fidelities.free(c)["weights_bytes"], t.values["latency_e2e_ms"], k.values["heldout_kl"])
        for (c, name), k, t in zip(named.items(), text, times, strict=True)
    ]
    return points[: len(ladder)], points[len(ladder) :]


def volumes(points: Sequence[Point], dense: Point) -> Mapping[str, float]:
    """Hypervolumes of points in a cost and the KL, both as parts of the reference's."""
    costs = {"bytes": [p.bytes / dense.bytes for p in points], "time": [p.ms / dense.ms for p in points]}
    kl = [p.kl / WORST for p in points]
    return {name: hypervolume([*zip(each, kl, strict=True)], (1.0, 1.0)) for name, each in costs.items()}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--structure", type=Path, help="a run without space.types")
    arguments = parser.parse_args()
    ladder, front = points_of(arguments.run_dir)
    table = Table("design", "MB", "ms", "KL", "another of the front at its bytes", "at its time")
    for point in ladder:
        small = min((p for p in front if p.bytes <= point.bytes), key=lambda p: p.kl, default=None)
        fast = min((p for p in front if p.ms <= point.ms), key=lambda p: p.kl, default=None)
        best = [f"{p.kl:.4f} ({p.name})" if p else "none" for p in (small, fast)]
        table.add_row(f"dense {point.name}", f"{point.bytes / 1e6:.1f}", f"{point.ms:.1f}", f"{point.kl:.4f}", *best)
    for point in sorted(front, key=lambda p: p.kl):
        table.add_row(point.name, f"{point.bytes / 1e6:.1f}", f"{point.ms:.1f}", f"{point.kl:.4f}", "", "")
    console = Console(width=160)
    console.print(table)
    parts = {"types and structure": volumes([*ladder, *front], ladder[0]), "dense in types": volumes(ladder, ladder[0])}
    if arguments.structure:
        plain, others = points_of(arguments.structure)
        parts["structure alone"] = volumes([*plain, *others], plain[0])
    for name, each in parts.items():
        console.print(f"{name}: hypervolume in bytes {each['bytes']:.3f}, in time {each['time']:.3f}", highlight=False)


if __name__ == "__main__":
    main()
