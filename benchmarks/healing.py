"""Healing the supernet against training each design by itself, and against training the front's members at the end.

    python -m benchmarks.healing --out DIR [--seeds 0 1 2] [--tokens 440000] [--overrides SETTING=VALUE ...]

Whole runs of run_search.py, at equal tokens in all, with one latency table: what a run ends with is the hypervolume of
held-out KL, below 3 nats a token, against the table's latency as a part of the dense model's, over all members that the
end of the run has scored; no timing of their own, so that the ways differ in quality alone. Ways that a run lacks are
made; run it again with the same DIR to go on. Prints a row a way, and the gain of healing over each of the others.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from search.archive import Archive
from search.pareto import hypervolume
from search.run.directory import SUMMARY_FILE
from search.run.finished import FinishedRun

ROOT = Path(__file__).parents[1]
WORST_KL = 3.0
# Part of the tokens that goes to training, and to questions about what was trained.
TRAINED = 0.55
QUALITY, LATENCY = "heldout_kl", "latency_ms"
MEMBERS = 16  # of a front
SHORT_END = [
    f"front_points={MEMBERS}",
    "latency.front_rounds=1",
    "samples.prompts=[]",
    "data.long=null",
    "progress=quiet",
]
WAYS = {
    "nothing": ["search.distillation=off", "correction=none"],
    "corrective refit": ["search.distillation=off", "correction=default"],
    "healed": ["search.distillation=loop", f"search.algorithm.trained={TRAINED}"],
    "each by itself": ["search.distillation=loop", "distillation=own", f"search.algorithm.trained={TRAINED}"],
    "members at the end": ["search.distillation=final", "distillation=own"],
}


def volume(run_dir: Path) -> float:
    """Of the designs that a run has scored on held-out text; 1 would be a dense model that takes no time."""
    with Archive.reopen(run_dir / "archive.jsonl") as archive:
        answers = [evaluation for evaluation in archive.evaluations() if evaluation.status == "ok"]
    # of several the last one is after all training
    quality = {answer.candidate.key: answer.values[QUALITY] for answer in answers if QUALITY in answer.values}
    latency = {answer.candidate.key: answer.values[LATENCY] for answer in answers if LATENCY in answer.values}
    dense = latency[FinishedRun.open(run_dir).dense.key]
    points = np.array([[quality[key] / WORST_KL, latency[key] / dense] for key in quality])
    return hypervolume(points, [1.0, 1.0])


def made(out: Path, way: str, seed: int, tokens: int, overrides: list[str]) -> Path:
    """The directory of the run of a way and a seed."""
    run_dir, first = out / f"{way}-{seed}".replace(" ", "-"), out / "latency.json"
    if not (run_dir / "latency.json").exists() and first.exists():
        run_dir.mkdir(parents=True, exist_ok=True)
        shutil.copy(first, run_dir)
    if not (run_dir / SUMMARY_FILE).exists():
        settings = [f"run_dir={run_dir}", f"seed={seed}", *WAYS[way], *shares(way, tokens)]
        command = [sys.executable, str(ROOT / "run_search.py"), *settings, *SHORT_END, *overrides]
        subprocess.run(command, check=True)
    if not first.exists():
        shutil.copy(run_dir / "latency.json", first)
    return run_dir


def shares(way: str, tokens: int) -> list[str]:
    """Settings by which all that a run sends through candidates is about so many tokens."""
    trained = round(tokens * TRAINED)
    if way == "healed":  # and asks about healed designs with as many
        return [f"budget.tokens={tokens}", f"distillation.tokens={trained // 2}"]
    if way == "members at the end":
        return [f"budget.tokens={tokens - trained}", f"distillation.tokens=[{trained // MEMBERS}]"]
    return [f"budget.tokens={tokens}"]


def main() -> None:
    """Makes the runs that are missing, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tokens", type=int, default=440_000)
    parser.add_argument("--ways", nargs="+", default=[*WAYS], choices=WAYS)
    parser.add_argument("--overrides", nargs="*", default=[], help="settings of run_search.py, for all ways")
    arguments = parser.parse_args()
    volumes: dict[str, list[float]] = {way: [] for way in arguments.ways}
    console = Console(width=120)
    for seed in arguments.seeds:
        for way in arguments.ways:
            run = made(arguments.out, way, seed, arguments.tokens, arguments.overrides)
            volumes[way].append(volume(run))
            console.print(f"seed {seed}, {way}: {volumes[way][-1]:.4f}", highlight=False)
    table = Table("way", *(f"seed {seed}" for seed in arguments.seeds), "mean", "healed is ahead by")
    healed = np.array(volumes.get("healed", [np.nan] * len(arguments.seeds)))
    for way, values in volumes.items():
        ahead = f"{np.mean(healed / np.array(values)) - 1:.1%}"
        table.add_row(way, *(f"{value:.4f}" for value in values), f"{np.mean(values):.4f}", ahead)
    console.print(table)


if __name__ == "__main__":
    main()
