"""What a text loses that goes on with another point than it began with, on the points of a finished run.

    python -m benchmarks.switching --run-dir RUN [--windows 64] [--begin 32] [--go-on 32] [--mlps]

Of held-out windows of the run's text, the first tokens are read by one point, and the next ones scored by another one
that can go on from its keys and values (`serving.switching`), in the batches of the server: all pairs with the dense
model, and neighbours on the front. Beside that stands what each of the two loses when it has read all itself. All in
nats a token on the same tokens, beyond the dense model's loss there; the loss is that of the text itself, not of what a
model writes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from conf.compose import composed
from entries.serve_settings import serve_settings
from evaluators.paths import Paths
from evaluators.session import Session
from serving.batch import Batch, Prefill
from serving.controllers import DENSE
from serving.difficulty import Floats
from serving.points import open_points
from serving.switching import Sources, sources
from space.candidate import Candidate
from space.errors import UserError


def _with_attention_of(dense: Candidate, other: Candidate) -> Candidate:
    """A point with another one's MLPs and all attention; not tuned."""
    pairs = zip(dense.layers, other.layers, strict=True)
    return Candidate(tuple(replace(whole, mlp_channels=shape.mlp_channels) for whole, shape in pairs))


@torch.inference_mode()
def nats(one: Any, other: Any, there: Sources | None, windows: Sequence[Sequence[int]], begin: int) -> Floats:
    """What a point loses on the ends of texts, in nats a token, shape (windows,).

    Args:
        one: The model that reads their beginnings.
        other: That which goes on.
        there: Where it finds keys and values; None where the two are one.
        windows: Tokens of the texts.
        begin: How many of them are the beginning.
    """
    batch = Batch(one)
    for ids in windows:
        prefill = Prefill(one, ids[:begin])
        prefill.step(begin)
        batch.join(prefill)
    if there is not None:
        handed = Batch(other)
        batch.hand_over(range(len(windows)), handed, there)
        batch = handed
    losses = list[Floats]()
    for tokens, following in pairwise([*zip(*windows, strict=True)][begin:]):
        chances = batch.step(tokens).log_softmax(-1)  # (windows, vocab)
        losses.append(-chances.gather(-1, torch.tensor(following)[:, None])[:, 0].double().numpy())
    return np.mean(losses, axis=0)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=64)
    parser.add_argument("--begin", type=int, default=32, help="tokens that the first point reads")
    parser.add_argument("--go-on", type=int, default=32, help="tokens behind them on which points are judged")
    parser.add_argument("--mlps", action="store_true", help="also points with the MLPs of each, and all attention")
    arguments = parser.parse_args()
    overrides = [f"run_dir={arguments.run_dir}"]
    try:
        settings = serve_settings(composed(*overrides, name="serve"), overrides)
        session = Session.open(settings.session, Paths(settings.run.run_dir))
        candidates = dict(settings.candidates)
        models = dict(open_points(session, candidates, lambda done, of: None).models)
        if arguments.mlps:
            candidates |= {
                f"MLPs of {point}": _with_attention_of(candidates[DENSE], each) for point, each in candidates.items()
            }
            del candidates[f"MLPs of {DENSE}"]
            models |= {point: session.newest().view(each) for point, each in candidates.items() if point not in models}
        length = arguments.begin + arguments.go_on + 1
        windows = session.text.blocks("heldout", arguments.windows, length).tolist()
    except UserError as error:
        sys.exit(f"error: {error}")

    def measured(one: str, other: str, there: Sources | None = None) -> Floats:
        return nats(models[one], models[other], there, windows, arguments.begin)

    alone = {point: measured(point, point) for point in models}
    dense = alone[DENSE]
    table = Table("begins", "goes on", "first alone", "second alone", "switched", "switched - second alone")
    facts, near = session.loaded.spec.to_json(), {*pairwise(settings.candidates)}
    for one, other in permutations(models, 2):
        there = sources(facts, candidates[one], candidates[other])
        if there is None or not (DENSE in (one, other) or (one, other) in near):
            continue
        switched = measured(one, other, there)
        more = switched - alone[other]
        spread = more.std(ddof=1) / np.sqrt(len(more))
        numbers = [each.mean() for each in (alone[one] - dense, alone[other] - dense, switched - dense)]
        table.add_row(one, other, *(f"{n:.3f}" for n in numbers), f"{more.mean():+.3f} ± {spread:.3f}")
    print(f"dense: {dense.mean():.3f} nats a token on {len(windows)} windows; all others are beyond that")
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
