"""A front with types of matrices beside the dense model in each type: who loses less at equal bytes, and at equal time.

    python -m benchmarks.bits --run-dir RUN [--structure RUN]

RUN is one with `space.types`. The front is asked about the run's held-out text, in the weights of its files, and timed
end to end in turns. The ladder is the dense model in each of the run's types as llama.cpp's own tool writes it, every
value rounded to the nearest; its files have the bytes and the times of the dense designs in these types, whose values
know the Gram matrices of what they multiply. With the run of a search without types on the same model, text and engine,
the hypervolumes of both fronts are compared, below the dense model in F16 and a KL of 1 nat.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from conf.settings import ended_settings
from evaluators.base import Evaluation, Evaluator
from evaluators.paths import Paths
from evaluators.session import Session
from search.pareto import hypervolume
from search.run.finished import FinishedRun
from search.run.picks import candidate_of
from space.candidate import Candidate
from space.formats.gguf.types import FileTypes, rounded_matrices
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


@torch.inference_mode()
def nearest_kl(session: Session, candidate: Candidate) -> float:
    """KL to the dense model of a design whose matrices are rounded each value to the nearest, on held-out text.

    Args:
        session: Of the run.
        candidate: The dense model in some types.
    """
    supernet = session.supernet
    model = supernet.view(candidate.unrounded, own=True)
    types = FileTypes.of(candidate, "f16", tied=supernet.spec.tied_embeddings)
    for name, rounded in rounded_matrices(model.state_dict(), types).items():
        model.get_parameter(name).copy_(rounded.values)
    total, windows = 0.0, session.windows("heldout")
    for batch in windows.split(1):
        dense = F.log_softmax(supernet.dense()(batch).logits.float(), -1)
        own = F.log_softmax(model(batch).logits.float(), -1)
        total += float((dense.exp() * (dense - own)).sum(-1).mean())
    return total / len(windows)


def points_of(run_dir: Path) -> tuple[list[Point], list[Point]]:
    """The ladder of the dense model, F16 first, and the front of a run, all measured now.

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
    rungs = [replace(p, kl=nearest_kl(session, c)) for p, c in zip(points, ladder.values(), strict=False)]
    return rungs, points


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
    table = Table("design", "MB", "ms", "KL", "of the front at its bytes", "at its time")
    for point in ladder:
        small = min((p for p in front if p.bytes <= point.bytes), key=lambda p: p.kl, default=None)
        fast = min((p for p in front if p.ms <= point.ms), key=lambda p: p.kl, default=None)
        best = [f"{p.kl:.4f} ({p.name})" if p else "none" for p in (small, fast)]
        table.add_row(f"dense {point.name}", f"{point.bytes / 1e6:.1f}", f"{point.ms:.1f}", f"{point.kl:.4f}", *best)
    dominated = [
        min((p.kl for p in front if p.bytes <= r.bytes and p.ms <= r.ms), default=WORST) < r.kl for r in ladder
    ]
    for point in sorted(front, key=lambda p: p.kl):
        table.add_row(point.name, f"{point.bytes / 1e6:.1f}", f"{point.ms:.1f}", f"{point.kl:.4f}", "", "")
    console = Console(width=160)
    console.print(table)
    console.print(f"{sum(dominated[1:])} of {len(ladder) - 1} types are dominated, in bytes, time and KL at once")
    parts = {"types and structure": volumes(front, ladder[0]), "the ladder": volumes(ladder, ladder[0])}
    if arguments.structure:
        plain, others = points_of(arguments.structure)
        parts["structure alone"] = volumes(others, plain[0])
    for name, each in parts.items():
        console.print(f"{name}: hypervolume in bytes {each['bytes']:.3f}, in time {each['time']:.3f}", highlight=False)


if __name__ == "__main__":
    main()
