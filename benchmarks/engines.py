"""The same subnets in PyTorch and in llama.cpp, side by side: milliseconds of prefill and decoding, and the speed-up.

    python -m benchmarks.engines --run-dir RUN [--removed 0.25 0.5] [--settings latency.rounds=5 ...]

RUN is a finished run of run_search.py; of its evaluated points, the best one with at least each fraction of the
decoder-layer parameters removed is timed as run_search.py times its front, in turns with the dense model.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.quality import best_of_size
from conf.compose import composed
from conf.sessions import run_session
from conf.settings import instantiated
from evaluators.latency.bench import make_clock
from evaluators.latency.workload import Workload
from search.run.finished import FinishedRun
from search.run.picks import candidate_of


def main() -> None:
    """Loads, times and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--removed", type=float, nargs="+", default=[0.25, 0.5])
    parser.add_argument("--settings", nargs="*", default=[], help="Hydra overrides of conf/latency")
    arguments = parser.parse_args()
    run = FinishedRun.open(arguments.run_dir)
    session = run_session(arguments.run_dir)
    points = {
        f"{removed:.1%} removed": candidate_of(best_of_size(run.points, removed)) for removed in arguments.removed
    }
    console = Console(width=120)
    table = Table("scenario", "engine", "dense, ms", *(f"{name}\n{c.key}" for name, c in points.items()))
    for scenario in ("prefill", "decode"):
        for engine in ("torch", "llamacpp"):
            settings = composed(f"latency={scenario}", f"latency.engine={engine}", *arguments.settings)
            workload: Workload = instantiated(settings["latency"])
            clock = make_clock(session.supernet, workload, session.loaded.tokenizer)
            phase = workload.phases[scenario]
            ratios, dense_ms = clock.session(phase, points, workload.front_rounds, lambda done, of: None)
            medians = [statistics.median(ratios[name]) for name in points]
            about = clock.describe()
            row = (
                f"{scenario}, {phase.batch_size} x {phase.tokens}", f"{about['engine']}, {about['dtype']}",
                f"{dense_ms:.2f}", *(f"{dense_ms * ratio:.2f} ms, {1 / ratio:.2f} x" for ratio in medians),
            )  # fmt: skip
            table.add_row(*row)
            console.print(*row, highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
