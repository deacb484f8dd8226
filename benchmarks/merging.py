"""Merging KV groups against dropping them at equal bytes of KV cache: KL and perplexity on held-out text.

    python -m benchmarks.merging [--text TEXT.txt] [--layers 10 20 30] [--windows 32] [--heldout 16]

The default model is prepared as run_search.py does it (from the user's cache when it was before). Then so many layers,
those that lose the least by it, keep a smaller number of KV groups: merged with all query heads, or dropped with their
query heads. Scored with the first refit, and with the corrective one.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from rich.console import Console
from rich.table import Table

from conf.compose import composed
from conf.settings import session_settings
from evaluators.divergence import Divergence
from evaluators.paths import Paths
from evaluators.session import Session
from space.candidate import Candidate, LayerShape
from space.size import decoder_params
from space.supernet.corrective_refit import correct


def main() -> None:
    """Prepares, scores and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, help="instead of the default text")
    parser.add_argument("--layers", type=int, nargs="+", default=[10, 20, 30])
    parser.add_argument("--windows", type=int, default=32, help="of the corrective refit")
    parser.add_argument("--heldout", type=int, default=16, help="windows to score on")
    parser.add_argument("--run-dir", type=Path, default=Path("results/merging"), help="of the prepared supernet")
    arguments = parser.parse_args()
    overrides = [f"data.heldout_windows={arguments.heldout}"]
    overrides += [f"data.path={arguments.text.resolve()}"] if arguments.text else []
    session, console = (
        Session.open(session_settings(composed(*overrides)), Paths(arguments.run_dir)),
        Console(width=120),
    )
    spec, supernet, calibration = session.spec, session.supernet, session.windows("calibration")
    divergence = Divergence(supernet, session.windows("heldout"))
    lost = [supernet.lost_energy(index)[0] for index in range(spec.layers)]
    dense = session.dense
    title = ("layers", "[query heads, KV groups]", "KV cache", "decoder parameters", "refit", "corrective refit")
    table = Table(*title, title=f"KL to dense (perplexity), held-out text of {spec.name}")
    for count in arguments.layers:
        for groups in spec.merged_kv_heads:
            for heads in (spec.query_heads, groups * spec.queries_per_group):
                best = sorted(range(spec.layers), key=lambda index: lost[index][heads, groups])[:count]
                candidate = Candidate(
                    tuple(
                        LayerShape(heads, groups, shape.mlp_channels) if index in best else shape
                        for index, shape in enumerate(dense.layers)
                    )
                )
                (correction,) = correct(supernet, [candidate], calibration[: arguments.windows])
                scores = [divergence(candidate, supernet.view(candidate, c, own=True)) for c in (None, correction)]
                row = (
                    str(count), f"[{heads}, {groups}]" + (" merged" if heads == spec.query_heads else " dropped"),
                    f"{sum(s.kv_heads for s in candidate.layers) / (spec.layers * spec.kv_heads):.0%}",
                    f"{decoder_params(spec, candidate) / decoder_params(spec, dense):.0%}",
                    *(f"{kl:.4f} ({math.exp(nll):.2f})" for kl, nll in scores),
                )  # fmt: skip
                table.add_row(*row)
                console.print(*row, highlight=False)
    console.print(table)


if __name__ == "__main__":
    main()
