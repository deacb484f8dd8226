"""What training in the loop costs beside its forward and backward passes.

    python -m benchmarks.training_speed --run-dir RUN [--candidates 8]

RUN is a finished run of run_search.py. Designs of its front are trained for the first tokens of its distillation:

    bare      forward and backward of the same text through the same subnets with the same trained parameters, and
              transformers' own language-model loss: no teacher, no optimizer, nothing made, stored or scored
    trained   as the search does without a corrective refit: the teacher's lessons are computed, subnets made, trained,
              stored and handed out; nothing was there before
    scored    besides, each is scored on the text of the search

The corrective refit of the run, which comes first in a search, is timed by itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from conf.sessions import run_session
from evaluators.divergence import Divergence
from evaluators.training.distillation import Student
from evaluators.training.recipes import Distillation
from evaluators.training.tuning import Tuning
from search.run.finished import FinishedRun
from search.run.front import is_dense
from search.run.picks import candidate_of


def seconds(job: Callable[[], Any]) -> float:
    """How long a job takes."""
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def main() -> None:
    """Times every way and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--candidates", type=int, default=8)
    arguments = parser.parse_args()
    run = FinishedRun.open(arguments.run_dir)
    session, front = run_session(arguments.run_dir), run.front[~is_dense(run.front)]
    candidates = [candidate_of(row) for _, row in front.head(arguments.candidates).iterrows()]
    supernet, text, settings = session.supernet, session.text, session.settings.distillation
    if not isinstance(settings, Distillation):
        raise SystemExit(f"expected a run with distillation=own, got {settings}")
    length, batch = session.settings.text.length, settings.batch_size
    steps = -(-settings.tokens[0] // (batch * length))
    parts = text.blocks("calibration", steps * batch, length).split(batch)
    refit = session.settings.correction

    def bare() -> float:
        total = 0.0
        for candidate in candidates:
            model = Student(supernet.view(candidate, own=True), settings, batch * length).model
            model(parts[0], labels=parts[0], use_cache=False).loss.backward()  # warm
            start = time.perf_counter()
            for part in parts:
                model(part, labels=part, use_cache=False).loss.backward()
            total += time.perf_counter() - start
        return total

    with tempfile.TemporaryDirectory() as scratch:

        def tuning(name: str, correction: Any) -> Tuning:
            where = Path(scratch) / name
            return Tuning(supernet, where, correction, settings if name != "refit" else None, lambda: text, length)

        own = tuning("trained", None)
        unseen = Divergence(supernet, session.windows("search"))
        times = {"bare": bare(), "trained": seconds(lambda: [own.model(candidate, 1) for candidate in candidates])}
        models = [own.model(candidate, 1) for candidate in candidates]
        _ = unseen(candidates[0])  # the dense model's part
        ask = partial(zip, candidates, models, strict=True)
        scores = seconds(lambda: [unseen(candidate, model) for candidate, model in ask()])
        times["scored"] = times["trained"] + scores
        if refit:
            refits = tuning("refit", refit)
            corrected = refits.models(candidates, 0)
            times["corrective refit"] = seconds(lambda: [corrected(candidate) for candidate in candidates])
    count = len(candidates) * len(parts) * batch * length
    table = Table("way", "seconds", "training tokens a second", "against bare")
    for way, took in times.items():
        table.add_row(way, f"{took:.1f}", f"{count / took:.0f}", f"{took / times['bare']:.2f}")
    Console(width=120).print(f"{len(candidates)} designs, {count} training tokens", table)


if __name__ == "__main__":
    main()
