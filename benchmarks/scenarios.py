"""Searched for prefill and for decoding: is each front better on its own latency than the other one?

    python -m benchmarks.scenarios [--tokens 400000] [--length 960] [--new-tokens 128] [--settings model.path=DIR ...]

Two runs of run_search.py in one scenario, whose table has both latencies (decoding after length + new_tokens / 2
tokens), one on KL and prefill_ms and one on KL and decode_ms, without training. Hypervolume of each search's front in
both planes, below a KL of 3 and the dense model's latency, in percent of that area.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from moocore import hypervolume
from rich.console import Console
from rich.table import Table

from benchmarks.quality import ROOT
from search.pareto import non_dominated
from search.run.front import CANDIDATE, dense_row, read_front_csv

WORST_KL = 3.0
LATENCIES = ("prefill_ms", "decode_ms")


def main() -> None:
    """Searches twice and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=400_000)
    parser.add_argument("--length", type=int, default=960)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--run-dir", type=Path, default=Path("results/scenarios"))
    parser.add_argument("--settings", nargs="*", default=[], help="further Hydra overrides of both runs")
    arguments = parser.parse_args()
    table = Table("searched for", *(f"hypervolume in KL and {latency}" for latency in LATENCIES), "KV groups kept")
    for searched in LATENCIES:
        directory = arguments.run_dir / searched
        command = [
            sys.executable, str(ROOT / "run_search.py"), f"run_dir={directory}", f"objectives=[kl,{searched}]",
            "latency=serving", f"latency.length={arguments.length}", f"latency.new_tokens={arguments.new_tokens}",
            "search.distillation=off", f"budget.tokens={arguments.tokens}", *arguments.settings,
        ]  # fmt: skip
        subprocess.run(command, check=True)
        points = read_front_csv(directory / "points.csv")
        dense, front = dense_row(points), points[non_dominated(points[["kl", searched]])]
        areas = [
            hypervolume(front[["kl", latency]].to_numpy(dtype=float), ref=[WORST_KL, dense[latency]])
            / (WORST_KL * dense[latency])
            for latency in LATENCIES
        ]
        kept = [sum(shape.kv_heads for shape in one.layers) for one in (dense[CANDIDATE], *front[CANDIDATE])]
        groups = sum(kept[1:]) / len(front) / kept[0]
        table.add_row(searched, *(f"{area:.2%}" for area in areas), f"{groups:.0%}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
