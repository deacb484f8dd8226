"""The default search on a stored latency table, beside what it gave when the table was stored.

    python -m benchmarks.reference --out DIR

DIR becomes a run directory with the table of results/reference/latency.json, said to be of this machine, so that
`python run_search.py run_dir=DIR latency.logits=all`, its defaults else, asks and answers as it did then: on the same
kind of processor to the last bit, on another one nearly so. Hypervolumes are of KL against table latency, below a KL of
3 nats a token and the dense model's latency, of subnets as they are and of trained ones; those of then stand in
results/reference/hypervolume.json. Run it again with the same DIR to go on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from conf.compose import composed
from conf.settings import session_settings
from evaluators.base import Evaluation
from evaluators.paths import Paths
from evaluators.session import Session
from search.archive import Archive
from search.pareto import hypervolume

ROOT = Path(__file__).resolve().parent.parent
REFERENCE = ROOT / "results" / "reference"
WORST_KL = 3.0
LOGITS = "latency.logits=all"  # as the stored table was timed


def put_table(run_dir: Path) -> None:
    """Gives a run directory the stored table, as if it had been measured here."""
    session = Session.open(session_settings(composed(LOGITS)), Paths(run_dir))
    table = json.loads((REFERENCE / "latency.json").read_text(encoding="utf-8"))
    table["device"] = session.bench.clock.describe()
    (run_dir / "latency.json").write_text(json.dumps(table, indent=1), encoding="utf-8")


def volume(evaluations: Sequence[Evaluation], dense_ms: float) -> float:
    """The hypervolume of evaluations that succeeded."""
    values = [(e.values["kl"], e.values["latency_ms"]) for e in evaluations if e.status == "ok"]
    return hypervolume(values, [WORST_KL, dense_ms])


def volumes(run_dir: Path) -> dict[str, float]:
    """The hypervolume by fidelity of a run's archive."""
    with Archive.reopen(run_dir / "archive.jsonl") as archive:
        search, trained = (archive.evaluations(name) for name in ("search", "distilled-4096"))
    dense_ms = max(e.values["latency_ms"] for e in search if e.status == "ok")
    return {"search": volume(search, dense_ms), "distilled-4096": volume(trained, dense_ms)}


def main() -> None:
    """Searches, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    run_dir: Path = parser.parse_args().out
    run_dir.mkdir(parents=True, exist_ok=True)
    if not (run_dir / "latency.json").exists():
        put_table(run_dir)
    subprocess.run([sys.executable, str(ROOT / "run_search.py"), f"run_dir={run_dir}", LOGITS], check=True)
    then = json.loads((REFERENCE / "hypervolume.json").read_text(encoding="utf-8"))
    table = Table("fidelity", "hypervolume", "then", "difference")
    for fidelity, now in volumes(run_dir).items():
        table.add_row(fidelity, f"{now:.2f}", f"{then[fidelity]:.2f}", f"{now / then[fidelity] - 1:+.2%}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
