"""What each feature and each kind of regression adds to the surrogate, on answers that it has not seen yet.

    python -m benchmarks.surrogate --run-dir RUN [--known 60 100 200 400] [--ahead 40]

RUN is a run of run_search.py with search=surrogate. Its cheapest fidelity's answers are taken in the order in which
they came: a surrogate learns from the first N and predicts the next few. Printed are Kendall's tau and the median
error, as a fraction, over those; means over the values of N.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table as Printed

from conf.sessions import run_session
from conf.settings import stored_config
from evaluators.refit_error import refit_error_measure
from search.agreement import rank_correlation
from search.surrogate.features import BlockFeatures, Described
from search.surrogate.predictor import Surrogate
from search.surrogate.regressions import ROWS
from search.surrogate.sensitivity import REFIT_ERROR, Sweep
from search.tables import Genes, Table, tabulate
from space.candidate import Candidate

Describe = Callable[[Genes], Described]


def without(describe: Describe, columns: Sequence[int], *, blocks: bool = False) -> Describe:
    """The same features without some sums, or without those of single blocks."""

    def fewer(genes: Genes) -> Described:
        sums, each = describe(genes)
        left = [column for column in range(sums.shape[1]) if column not in columns]
        return Described(sums[:, left], np.zeros_like(each) if blocks else each)

    return fewer


def with_holes(describe: Describe, kinds: Any) -> Describe:
    """The same features with how many blocks of each kind are gone."""

    def more(genes: Genes) -> Described:
        sums, each = describe(genes)
        holes = [(genes[:, kinds == kind] == 0).sum(-1, keepdims=True) for kind in dict.fromkeys(kinds)]
        return Described(np.hstack([sums, *holes]), each)

    return more


def with_blocks(describe: Describe, blocks: Callable[[Genes], Any]) -> Describe:
    """The same sums with other features of single blocks."""
    return lambda genes: Described(describe(genes).sums, np.asarray(blocks(genes), dtype=np.float64))


def main() -> None:
    """Computes and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--known", type=int, nargs="+", default=[60, 100, 200, 400])
    parser.add_argument("--ahead", type=int, default=40)
    arguments = parser.parse_args()
    session, config = run_session(arguments.run_dir), stored_config(arguments.run_dir)
    space = session.space
    errors = tabulate(space, refit_error_measure(session.supernet).values, [REFIT_ERROR])[REFIT_ERROR]
    records = [json.loads(line) for line in (arguments.run_dir / "archive.jsonl").read_text().splitlines()[1:]]
    searched = [r for r in records if r["fidelity"].startswith("search") and r["status"] == "ok"]
    cheapest = min(
        {r["fidelity"] for r in searched}, key=lambda name: next(r["tokens"] for r in searched if r["fidelity"] == name)
    )
    kl = {r["key"]: r["values"]["kl"] for r in searched if r["fidelity"] == cheapest}
    candidates = {r["key"]: Candidate.from_json(r["candidate"]) for r in searched}
    sweep = Sweep(space, errors.steps, config["search"]["algorithm"]["sweep_levels"])
    losses = Table(0.0, sweep.losses([kl.get(design.key) for design in sweep.designs]))
    swept = {design.key for design in sweep.designs}
    keys = [key for key in kl if key not in swept]
    genes = np.stack([space.encode(candidates[key]) for key in keys])
    values = np.array([kl[key] for key in keys])

    full = BlockFeatures(space.kinds, errors, [losses])
    lost = np.nan_to_num(losses.steps, nan=0.0, posinf=0.0).clip(0)
    rows = np.arange(len(space.levels))
    features: dict[str, Describe] = {
        "as the search has them": full,
        "no sums of losses": without(full, (0, 2, 4)),
        "no sums of refit errors": without(full, (1, 3, 5)),
        "also counts of holes": with_holes(full, np.array(space.kinds)),
        "sums alone": without(full, (), blocks=True),
        "blocks: genes": with_blocks(full, lambda g: g / (space.levels - 1)),
        "blocks: refit errors": with_blocks(full, errors.each),
        "blocks: losses, not their roots": with_blocks(full, lambda g: lost[rows, g]),
        "blocks: losses and refit errors": with_blocks(
            full, lambda g: np.hstack([np.sqrt(lost[rows, g]), errors.each(g)])
        ),
    }

    def judged(describe: Describe, row: str) -> tuple[float, float]:
        taus, off = [], []
        for known in arguments.known:
            ahead = slice(known, known + arguments.ahead)
            if len(values[ahead]) < arguments.ahead:
                continue
            surrogate = Surrogate(row)
            surrogate.fit(describe(genes[:known]), values[:known])
            guess, _ = surrogate.predict(describe(genes[ahead]))
            taus.append(rank_correlation(list(zip(guess, values[ahead], strict=True))))
            off.append(np.median(np.abs(guess / values[ahead] - 1)))
        return float(np.mean(taus)), float(np.mean(off))

    console = Console(width=120)
    for title, cases in (
        ("features, with the Gaussian process", {name: (describe, "gp") for name, describe in features.items()}),
        ("regressions, with all features", {row: (full, row) for row in (*ROWS, "auto")}),
    ):
        table = Printed(title, "tau", "off")
        for name, case in track(cases.items(), console=console, transient=True):
            tau, off = judged(*case)
            table.add_row(name, f"{tau:.3f}", f"{off:.1%}")
        console.print(table)


if __name__ == "__main__":
    main()
