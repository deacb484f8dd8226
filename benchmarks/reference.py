"""The default search on the kept run's latency table, beside what that run found.

    python -m benchmarks.reference --out DIR

DIR becomes a run directory with the table of results/reference/run, said to be of this machine, so that
`python run_search.py run_dir=DIR`, with its defaults, asks and answers as it did then: on the same kind of processor to
the last bit, on another one nearly so. Hypervolumes are of KL against table latency, below a KL of 3 nats a token and
the dense model's latency, one a fidelity. Run it again with the same DIR to go on.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from conf.compose import composed
from conf.settings import session_settings
from evaluators.paths import Paths
from evaluators.session import Session
from search.archive import Archive
from search.pareto import hypervolume

ROOT = Path(__file__).resolve().parent.parent
KEPT = ROOT / "results" / "reference" / "run"
WORST_KL = 3.0


def put_table(run_dir: Path) -> None:
    """Gives a run directory the stored table, as if it had been measured here."""
    session = Session.open(session_settings(composed()), Paths(run_dir))
    table = json.loads((KEPT / "latency.json").read_text(encoding="utf-8"))
    table["device"] = session.bench.clock.describe()
    (run_dir / "latency.json").write_text(json.dumps(table, indent=1), encoding="utf-8")


def volumes(run_dir: Path) -> dict[str, float]:
    """The hypervolume by fidelity of a run's archive, of the fidelities that tell a divergence and a latency."""
    answers: dict[str, list[tuple[float, float]]] = {}
    with Archive.reopen(run_dir / "archive.jsonl") as archive:
        for evaluation in archive.evaluations():
            values = evaluation.values
            if evaluation.status == "ok" and {"kl", "latency_ms"} <= values.keys():
                answers.setdefault(evaluation.fidelity, []).append((values["kl"], values["latency_ms"]))
    dense_ms = max(latency for points in answers.values() for _, latency in points)
    return {fidelity: hypervolume(points, [WORST_KL, dense_ms]) for fidelity, points in answers.items()}


def main() -> None:
    """Searches, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    run_dir: Path = parser.parse_args().out
    run_dir.mkdir(parents=True, exist_ok=True)
    if not (run_dir / "latency.json").exists():
        put_table(run_dir)
    subprocess.run([sys.executable, str(ROOT / "run_search.py"), f"run_dir={run_dir}"], check=True)
    then = volumes(KEPT)
    table = Table("fidelity", "hypervolume", "then", "difference")
    for fidelity, now in volumes(run_dir).items():
        table.add_row(fidelity, f"{now:.2f}", f"{then[fidelity]:.2f}", f"{now / then[fidelity] - 1:+.2%}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
