"""What it costs points of a front to share their healed weights, or what they gain: the loss of each nested and alone.

    python -m benchmarks.nested --run-dir RUN [--points fastest KEY ...] [--tokens 2716 32592] [--out FILE.json]

RUN has ended, and has healed the weights that all its points share (`distillation=default`). On its held-out text each
point is scored with its refit, as it was before anything was trained; nested, as it stands on the front; and alone:
healed anew from the same start, by the run's own recipe and on the same text, but through this one design, so that its
weights are good for nothing else. By default it is healed alone twice: on its part of the run's tokens, as if each of
the designs that the run has healed through had been trained by itself for as much work in all, and on as many as all
of these had together. The learning rate falls over the steps that there are, so each is a training of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

from rich.console import Console
from rich.table import Table

from conf.settings import ended_settings
from evaluators.comparisons import comparison
from evaluators.paths import Paths
from evaluators.session import Session
from evaluators.training.healing import Healer
from search.run.finished import FinishedRun
from search.run.front import is_dense
from search.run.picks import candidate_of
from space.candidate import Candidate
from space.errors import UserError
from space.size import removed_params
from space.supernet.supernet import Supernet

REFIT, NESTED = "refit", "nested"
Scores = Mapping[str, float]


def alone(tokens: int) -> str:
    """What the scores of points that are healed by themselves are called."""
    return f"alone, {tokens:,} tokens"


def healer_of(session: Session) -> Healer:
    """What has healed the shared weights of a run.

    Raises:
        UserError: Nothing has.
    """
    if session.healer is None:
        raise UserError(
            "--run-dir: expected a run that has healed the weights that its points share, got one that trains "
            "otherwise, or not at all. Give a run with distillation=default and search.distillation=loop or final."
        )
    return session.healer


def scores(
    session: Session, designs: Sequence[Candidate], counts: Sequence[int]
) -> Iterator[tuple[Candidate, str, Scores]]:
    """Held-out quality of designs in every way, one after the other as it is known, by the task's names for it.

    Args:
        session: Of a run that has healed its shared weights.
        designs: Which.
        counts: Tokens on which each is healed alone.

    Raises:
        UserError: See `healer_of` and `Healer.heal`.
    """
    healer, supernet = healer_of(session), session.supernet
    heldout = comparison(supernet, session.windows("heldout"), batch_size=session.settings.evaluators.together)

    def score(design: Candidate, of: Supernet) -> Scores:
        return dict(heldout.heldout_values(design, of.view(design)))

    for design in designs:
        yield design, REFIT, score(design, supernet)
        yield design, NESTED, score(design, healer.supernet())
        for count in counts:
            with TemporaryDirectory() as directory:
                by_itself = healer.anew(replace(healer.settings, tokens=count), Path(directory))
                yield design, alone(count), score(design, by_itself.heal([design]))


def main() -> None:
    """Heals each point alone, prints the table, and stores the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--points", nargs="+", metavar="PICK", help="as of export_subnet.py; the whole front without")
    parser.add_argument("--tokens", type=int, nargs="+", help="of each point's own healing")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    arguments = parser.parse_args()
    try:
        measured(arguments)
    except UserError as error:
        sys.exit(f"error: {error}")


def measured(arguments: argparse.Namespace) -> None:
    """Does what the command is told, for errors see `scores` and `FinishedRun`."""
    run = FinishedRun.open(arguments.run_dir)
    session = Session.open(ended_settings(run, run.config), Paths(arguments.run_dir))
    healer = healer_of(session)
    front = run.front[~is_dense(run.front)]
    rows = [run.row(pick) for pick in arguments.points] if arguments.points else [row for _, row in front.iterrows()]
    points = {candidate_of(row).blocks: str(row["key"]) for row in rows}  # with the whole vocabulary
    whole, taught = healer.settings.total, {design.blocks.unrounded for design in healer.designs}
    counts = arguments.tokens or [-(-whole // len(healer.designs)), whole]
    values: dict[Candidate, dict[str, Scores]] = {design: {} for design in points}
    console = Console(width=160)
    for design, way, quality in scores(session, [*points], counts):
        values[design][way] = quality
        console.print(f"{points[design]} {way}: {written(quality)}", highlight=False)
    ways = [REFIT, NESTED, *map(alone, counts)]
    table = Table("point", "removed", "healed through", *ways)
    for design, key in points.items():
        cells = [written(values[design][way]) for way in ways]
        removed = f"{removed_params(session.spec, design):.1%}"
        table.add_row(key, removed, "yes" if design.unrounded in taught else "no", *cells)
    names = session.spec.use.heldout_quality
    means = {way: {name: fmean(each[way][name] for each in values.values()) for name in names} for way in ways}
    table.add_row("mean", "", "", *(written(means[way]) for way in ways))
    console.print(
        f"{', '.join(names)}; nested: {whole:,} tokens through {len(healer.designs)} designs, "
        f"{healer.trainable} shared weights",
        highlight=False,
    )
    console.print(table)
    console.print(*verdicts({way: means[way][names[0]] for way in ways}), sep="\n", highlight=False)
    if arguments.out:
        numbers = {points[design]: each for design, each in values.items()}
        arguments.out.write_text(json.dumps(numbers, indent=1), encoding="utf-8")


def written(quality: Scores) -> str:
    """The first of some scores, and the others in brackets."""
    first, *others = (f"{value:.4g}" for value in quality.values())
    return f"{first} ({', '.join(others)})" if others else first


def verdicts(means: Mapping[str, float]) -> list[str]:
    """What each training alone comes to beside the shared one, in words.

    Args:
        means: Of the points, how far they are from the dense model, by the way in which they were trained.
    """
    return [
        f"{way}: {mean - means[NESTED]:+.4f} beside nested; healing takes away {1 - mean / means[REFIT]:.1%} of what "
        f"points lose with their refit, nested {1 - means[NESTED] / means[REFIT]:.1%}"
        for way, mean in means.items()
        if way not in (REFIT, NESTED)
    ]


if __name__ == "__main__":
    main()
