"""What a front and its exports lose on text of other sources than the run's: rises of loss, with intervals.

    python -m benchmarks.unseen --run-dir RUN --text FILE [--windows 4] [--speeds 1.3 1.6] [--checkpoints DIR ...]

Of every source of FILE the first windows of the run's length. The rise is the mean cross-entropy of a window's tokens
over the dense model's, averaged over windows, with a bootstrap's interval of 95 % over these. Rises at a speed are
interpolated between the points of the front, at the speed-ups that the run has measured. Checkpoints are exports of the
run, loaded with transformers alone, in their dtype.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from conf.settings import ended_settings
from evaluators.data.places import TextPlace
from evaluators.data.sources import read_documents
from evaluators.paths import Paths
from evaluators.session import Session
from search.run.finished import FinishedRun
from search.run.front import is_dense
from search.run.picks import candidate_of

RESAMPLES = 2000
CHARACTERS_A_TOKEN = 8  # at most, so that enough is read


def windows_of(tokenizer: Any, file: Path, count: int, length: int) -> dict[str, Tensor]:
    """The first windows of every source, `(count, length)`; sources with less are left out."""
    characters = count * length * CHARACTERS_A_TOKEN
    windows = {}
    for source, documents in read_documents(TextPlace(str(file)), characters=characters).items():
        ids = torch.tensor(
            [token for text in documents for token in tokenizer(text, add_special_tokens=False).input_ids]
        )
        if len(ids) >= count * length:
            windows[source] = ids[: count * length].view(count, length)
    return windows


@torch.inference_mode()
def losses(model: Any, windows: Tensor) -> np.ndarray:
    """The mean cross-entropy of each window's tokens, float64, shape (windows,)."""
    values = []
    for window in windows:
        logits = model(window[None].to(model.device), use_cache=False).logits[0, :-1].float()
        values.append(F.cross_entropy(logits, window[1:].to(logits.device)).item())
    return np.array(values)


def interval(rises: np.ndarray) -> tuple[float, float]:
    """95 % of the means of windows drawn again."""
    drawn = np.random.default_rng(0).choice(rises, (RESAMPLES, len(rises))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Scores and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True, help="JSON lines with text and source, or any text file")
    parser.add_argument("--windows", type=int, default=4, help="of each source")
    parser.add_argument("--speeds", type=float, nargs="*", default=[1.3, 1.6], help="times the dense model's")
    parser.add_argument("--checkpoints", type=Path, nargs="*", default=[])
    arguments = parser.parse_args()
    run = FinishedRun.open(arguments.run_dir)
    session = Session.open(ended_settings(run, run.config), Paths(arguments.run_dir))
    sources = windows_of(session.loaded.tokenizer, arguments.text, arguments.windows, session.settings.text.length)
    windows = torch.cat([*sources.values()])
    dense = losses(session.supernet.model, windows)
    table = Table("model", "speed", "removed", "rise", "95 %", *sources)

    def scored(name: str, speed: float, removed: float, model: Any) -> float:
        rises = losses(model, windows) - dense
        low, high = interval(rises)
        parts = [f"{part.mean():.2f}" for part in np.split(rises, len(sources))]
        table.add_row(name, f"{speed:.3f}", f"{removed:.1%}", f"{rises.mean():.3f}", f"{low:.3f} {high:.3f}", *parts)
        return float(rises.mean())

    front = run.front
    front = front.assign(speed=front["latency_e2e_ms"].iloc[0] / front["latency_e2e_ms"]).set_index("key", drop=False)
    points = []
    for key, row in front[~is_dense(front)].sort_values("speed").iterrows():
        model = session.finished_model(candidate_of(row))
        points.append((row["speed"], scored(str(key), row["speed"], row["decoder_params_removed"], model)))
    for directory in arguments.checkpoints:
        model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True).eval()
        row = front.loc[directory.name]
        scored(str(directory), row["speed"], row["decoder_params_removed"], model)
    console = Console(width=160)
    console.print(table)
    for speed in arguments.speeds:
        console.print(f"front at {speed} x: {between(points, speed)}", highlight=False)


def between(points: Sequence[tuple[float, float]], speed: float) -> str:
    """The rise at a speed, interpolated between points `(speed, rise)`."""
    speeds, rises = zip(*sorted(points), strict=True)
    if not speeds[0] <= speed <= speeds[-1]:
        return f"none, as the front goes from {speeds[0]:.2f} to {speeds[-1]:.2f}"
    return f"{np.interp(speed, speeds, rises):.3f}"


if __name__ == "__main__":
    main()
