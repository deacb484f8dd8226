"""What the corrective refit is worth: KL and perplexity on held-out text, by tokens of correction and damping.

    python -m benchmarks.correction --run-dir RUN --text TEXT.txt [--removed 0.25 0.375 0.5] [--windows 32 64 128]
        [--damping 0.001 0.01 0.1] [--uniform 1024 768 512] [--heldout 32]

RUN is a finished run of run_search.py: its model and prepared supernet, and its best point of at least each
size. `--uniform` adds designs of that many MLP channels in every layer. A text is split by position, as for a search:
corrections are made on its first 60 %, scores are from its last 20 %, and the prepared supernet may have seen no more
than its first 60 %.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.quality import best_of_size
from conf.settings import session_settings, stored_config
from evaluators.divergence import Divergence
from evaluators.paths import Paths
from evaluators.session import Session
from search.run.front import read_front_csv
from search.run.picks import candidate_of
from space.candidate import Candidate, LayerShape
from space.size import removed_params
from space.supernet.correction import Correction
from space.supernet.corrective_refit import correct

LENGTH = 512


def main() -> None:
    """Loads, corrects, scores and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--removed", type=float, nargs="*", default=[0.25, 0.375, 0.5])
    parser.add_argument("--uniform", type=int, nargs="*", default=[])
    parser.add_argument("--windows", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--damping", type=float, nargs="+", default=[0.001, 0.01, 0.1])
    parser.add_argument("--heldout", type=int, default=32, help=f"windows of {LENGTH} tokens to score on")
    arguments = parser.parse_args()
    console = Console(width=120)
    settings = session_settings(stored_config(arguments.run_dir))
    settings = replace(settings, text=replace(settings.text, path=arguments.text, length=LENGTH))
    session = Session.open(settings, Paths(arguments.run_dir))
    spec, supernet, text = session.spec, session.supernet, session.text
    candidates = [
        Candidate((LayerShape(spec.query_heads, spec.kv_heads, channels),) * spec.layers)
        for channels in arguments.uniform
    ]
    if arguments.removed:
        points = read_front_csv(arguments.run_dir / "points.csv")
        for size in arguments.removed:
            candidates.append(candidate_of(best_of_size(points, size)))
    corrections: dict[str, Correction] = {}
    divergence = Divergence(supernet, text.blocks("heldout", arguments.heldout, LENGTH))
    table = Table("tokens", "damping", *(f"{removed_params(spec, c):.1%} {c.key}" for c in candidates), "s")

    def score(tokens: str, damping: str, seconds: str) -> None:
        models = [supernet.view(candidate, corrections.get(candidate.key), own=True) for candidate in candidates]
        scores = [divergence(candidate, model) for candidate, model in zip(candidates, models, strict=True)]
        cells = [(kl, math.exp(nll)) for kl, nll in scores]
        table.add_row(tokens, damping, *(f"KL {kl:.4f} ppl {ppl:.2f}" for kl, ppl in cells), seconds)
        console.print(tokens, damping, *(f"{kl:.4f} {ppl:.2f}" for kl, ppl in cells), seconds, highlight=False)

    score("0", "refit alone", "")
    for windows in arguments.windows:
        tokens = text.blocks("calibration", windows, LENGTH)
        for damping in arguments.damping:
            start = time.perf_counter()
            fits = correct(supernet, candidates, tokens, damping=damping)
            seconds = time.perf_counter() - start
            corrections.update((correction.candidate.key, correction) for correction in fits)
            score(f"{tokens.numel()}", str(damping), f"{seconds:.0f}")
    console.print(table)


if __name__ == "__main__":
    main()
