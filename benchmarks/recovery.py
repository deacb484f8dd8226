"""What training brings back at 50 %: perplexity of one design by tokens of distillation, and after recovery.

    python -m benchmarks.recovery --train CORPUS --test TEST.txt [--run-dir DIR] [--tokens 1000000]

One run of run_search.py calibrates and searches on CORPUS for KL against decoder-layer parameters. The point of the
lowest KL with at least half of them removed is scored as in benchmarks/quality.py, on text that is not of the corpus:
with its refit, after the corrective refit, after every count of tokens of distillation, and as export_subnet.py leaves
it after `recover.tokens`, which trains all weights from the last one on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.quality import ROOT, best_of_size, load, perplexity
from conf.sessions import run_session
from search.run.finished import FinishedRun
from search.run.picks import candidate_of

REMOVE = 0.5


def main() -> None:
    """Searches, trains, exports, scores and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="text for calibration, search and training")
    parser.add_argument("--test", type=Path, required=True, help="text for scoring")
    parser.add_argument("--run-dir", type=Path, default=Path("results/recovery"))
    parser.add_argument("--search-tokens", type=int, default=600_000)
    parser.add_argument(
        "--distillation-tokens", type=int, nargs="+", default=[4096, 16384, 65536], help="of distillation"
    )
    parser.add_argument("--tokens", type=int, default=1_000_000, help="of recovery; 0 for none")
    parser.add_argument("settings", nargs="*", help="of export_subnet.py, for example recover.learning_rate=1e-4")
    arguments = parser.parse_args()
    command = [
        sys.executable, str(ROOT / "run_search.py"), f"run_dir={arguments.run_dir}",
        f"data.path={arguments.train.resolve()}", "data.calibration_windows=128", "data.search_windows=8",
        "objectives=[kl,decoder_params]", "space.min_decoder_params=0.48", f"budget.tokens={arguments.search_tokens}",
        "correction.windows=256", "search.distillation=final", "distillation=own",
        f"distillation.tokens={arguments.distillation_tokens}", "front_points=1",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    run = FinishedRun.open(arguments.run_dir)
    candidate = candidate_of(best_of_size(run.points, REMOVE))
    test, session = arguments.test.read_text(encoding="utf-8"), run_session(arguments.run_dir)
    loaded, supernet, tuning = session.loaded, session.supernet, session.tuning
    assert tuning is not None
    console, table = Console(width=120), Table("after", "s", "perplexity", "÷ dense", "÷ refit")
    scores = {"dense": perplexity(loaded.model.float(), loaded.tokenizer, test)}
    loaded.model.to(loaded.dtype)

    def score(title: str, model: object, seconds: float) -> None:
        scores[title] = quality = perplexity(model, loaded.tokenizer, test)
        cells = f"{quality:.2f}", f"{quality / scores['dense']:.3f}", f"{quality / scores.get('refit', quality):.3f}"
        table.add_row(title, f"{seconds:.0f}", *cells)
        console.print(title, f"{seconds:.0f} s", *cells, highlight=False)

    score("refit", supernet.view(candidate, own=True).float(), 0.0)
    for stage, tokens in enumerate([0, *arguments.distillation_tokens]):
        start = time.perf_counter()
        model = tuning.model(candidate, stage)
        title = f"{tokens} tokens" if stage else "corrective refit"
        score(title, model.float(), time.perf_counter() - start)
    if arguments.tokens:
        start, out = time.perf_counter(), arguments.run_dir / "exports" / f"{candidate.key}-{arguments.tokens}"
        export = [f"run_dir={arguments.run_dir}", f"pick={candidate.key}", f"out={out}"]
        export += [f"recover.tokens={arguments.tokens}", *arguments.settings]
        if not out.exists():
            subprocess.run([sys.executable, str(ROOT / "export_subnet.py"), *export], check=True)
        score(f"recovery, {arguments.tokens} tokens", load(out), time.perf_counter() - start)
    console.print(f"{candidate.key}, trained on {arguments.train}; dense: {scores['dense']:.2f}", table)


if __name__ == "__main__":
    main()
