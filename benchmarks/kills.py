"""Random kills of workers and of the search itself, against the same search undisturbed in one process: equal archives?

    python -m benchmarks.kills --out DIR [--workers 1 2 5] [--seed 0] [--kills 6] [--overrides SETTING=VALUE ...]

DIR/undisturbed is searched without Ray, then DIR/workers-N by N workers with the same latency table, while workers
that have answered are killed at random (SIGKILL), and the search twice, which then goes on. In the end all answers
before the front is timed are compared, up to seconds and who gave them; the times decide who is asked after that.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from evaluators.base import TIMED

ROOT = Path(__file__).parents[1]
PAUSE_S = (1.0, 3.0)  # between two looks, each of which may kill
SEARCHES = 2  # that are killed


@dataclass(frozen=True)
class Search:
    """A search in a directory of its own."""

    run_dir: Path
    settings: Sequence[str]

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "run_search.py"), f"run_dir={self.run_dir}", "progress=quiet"]
        # one thread, as each worker has
        return subprocess.Popen(
            [*command, *self.settings], env=os.environ | {"OMP_NUM_THREADS": "1"}, stderr=subprocess.PIPE, text=True
        )

    def rows(self) -> list[dict[str, Any]]:
        """Answers that are on disk; the last line may be half written."""
        file = self.run_dir / "archive.jsonl"
        lines = file.read_text(encoding="utf-8").split("\n")[1:-1] if file.exists() else []
        return [json.loads(line) for line in lines]

    def compared(self) -> list[dict[str, Any]]:
        answers = takewhile(lambda row: row["fidelity"] != TIMED, self.rows())
        return [{name: value for name, value in row.items() if name not in ("seconds", "worker")} for row in answers]


def ended(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"The search ended with {process.returncode}: {errors}")


def disturbed(search: Search, kills: int, rng: random.Random) -> tuple[int, int]:
    """Searches to the end; gives how many workers, and searches, were killed on the way."""
    workers = searches = 0
    while True:
        process, known, killed = search.start(), len(search.rows()), False
        while process.poll() is None and not killed:
            time.sleep(rng.uniform(*PAUSE_S))
            new = [row["worker"] for row in search.rows()[known:] if row.get("worker")]
            if new and workers < kills and rng.random() < 0.5:
                (number,) = re.findall(r"process (\d+)", rng.choice(new[-5:]))
                try:
                    os.kill(int(number), signal.SIGKILL)
                    workers += 1
                except ProcessLookupError:
                    continue  # it was killed before
            elif new and searches < SEARCHES and rng.random() < 0.15:
                process.kill()
                process.communicate()
                searches, killed = searches + 1, True
        if not killed:
            ended(process)
            return workers, searches


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 5])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=6, help="of workers, at most")
    parser.add_argument("--overrides", nargs="*", default=["experiment=smoke"])
    given = parser.parse_args()
    reference = Search(given.out.absolute() / "undisturbed", given.overrides)
    ended(reference.start())
    rng = random.Random(given.seed)
    for count in given.workers:
        begun = time.monotonic()
        search = Search(
            given.out.absolute() / f"workers-{count}", [*given.overrides, "executor=ray", f"executor.workers={count}"]
        )
        search.run_dir.mkdir()
        shutil.copy(reference.run_dir / "latency.json", search.run_dir)
        workers, searches = disturbed(search, given.kills, rng)
        found, expected = search.compared(), reference.compared()
        failed = sum(row["status"] == "failed" for row in found)
        print(
            f"{count} workers: {workers} kills of workers, {searches} of the search; archives "
            f"{'equal' if found == expected else 'NOT EQUAL'}, {len(found)} answers, {failed} failed, "
            f"{time.monotonic() - begun:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
