"""Quality against published methods: one search, three sizes, perplexity of the exported checkpoints.

    python -m benchmarks.quality --calibration VALID.txt --test TEST.txt [--run-dir DIR] [--tokens 1500000]
    python -m benchmarks.quality --calibration VALID.txt --test TEST.txt --heal 240000 --recover 250000

One run of run_search.py calibrates and searches on VALID.txt alone, for KL against decoder-layer parameters. From all
that it evaluated, the best point with at least 25, 37.5 and 50 % of the decoder-layer parameters removed is exported:
without training, after the corrective refit; or of a supernet that was healed with `--heal` tokens of VALID.txt, each
trained with `--recover` more. Scored as the published figures were: TEST.txt as one string without special tokens,
its first 64 windows of 512 tokens, float32, exp of the mean cross-entropy over the 511 predicted tokens of each window.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.unseen import losses
from evaluators.metrics import REMOVED
from search.run.directory import FRONT_FILE, POINTS_FILE
from search.run.front import dense_row, read_front_csv
from space.models.embedded import default_model_dir

ROOT = Path(__file__).resolve().parent.parent
# Perplexity over dense of the best published training-free method that was run by this protocol (2SSP).
SIZES = {0.25: 1.84, 0.375: 3.01, 0.5: 5.22}
WINDOWS, LENGTH = 64, 512
ROUNDING = 1e-3  # 24.99 % counts as 25 %: published methods round the same way


def load(directory: Path) -> Any:
    """A checkpoint's model, in float32."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, trust_remote_code=True).eval()


def perplexity(model: Any, tokenizer: Any, text: str) -> float:
    """Perplexity of a float32 model by the protocol."""
    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids[0]
    return math.exp(losses(model, ids[: WINDOWS * LENGTH].view(WINDOWS, LENGTH)).mean())  # as all are of one length


def best_of_size(points: pd.DataFrame, removed: float) -> pd.Series:
    """The row of the lowest KL with at least this fraction of the decoder-layer parameters removed."""
    return points[points[REMOVED] >= removed - ROUNDING].sort_values("kl").iloc[0]


def main() -> None:
    """Searches, exports, scores and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=Path, required=True, help="text for calibration and search")
    parser.add_argument("--test", type=Path, required=True, help="text for scoring")
    parser.add_argument("--run-dir", type=Path, default=Path("results/quality"))
    parser.add_argument("--tokens", type=int, default=1_500_000, help="that the search may send through candidates")
    parser.add_argument("--correction", type=int, default=256, help="windows of an export's refit, without healing")
    parser.add_argument("--heal", type=int, default=0, help="tokens of healing, of --tokens; 0: nothing is trained")
    parser.add_argument("--recover", type=int, default=0, help="tokens of training of each exported model")
    arguments = parser.parse_args()
    if arguments.heal:  # members of a healed supernet's front are asked about anew
        how, picked_from = [f"distillation.tokens={arguments.heal}", "front_points=64"], FRONT_FILE
    else:  # picked by what the search said of all
        how, picked_from = ["search.distillation=off", "front_points=1"], POINTS_FILE
    command = [
        sys.executable, str(ROOT / "run_search.py"), f"run_dir={arguments.run_dir}",
        f"data.path={arguments.calibration.resolve()}", "data.calibration_windows=128", "data.search_windows=8",
        "objectives=[kl,decoder_params]", "space.min_decoder_params=0.48",
        f"budget.tokens={arguments.tokens}", "recommend.most=10", *how,
        "correction.windows=16", "latency.front_rounds=1", "samples.prompts=[]", "data.long=null",
    ]  # fmt: skip
    subprocess.run(command, check=True)
    points = read_front_csv(arguments.run_dir / picked_from)
    text = arguments.test.read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(default_model_dir())
    dense = perplexity(load(default_model_dir()), tokenizer, text)
    table = Table("removed", "key", "search KL", "perplexity", "÷ dense", "best published")
    table.add_row("0 %", str(dense_row(points)["key"]), "0", f"{dense:.2f}", "1.00", "")
    polish = [f"recover.tokens={arguments.recover}", f"polish.windows={arguments.correction}"]
    for size, published in SIZES.items():
        row = best_of_size(points, size)
        out = arguments.run_dir / "exports" / row["key"]
        if not out.exists():
            pick = [f"run_dir={arguments.run_dir}", f"pick={row['key']}", *polish]
            subprocess.run([sys.executable, str(ROOT / "export_subnet.py"), *pick], check=True)
        score = perplexity(load(out), tokenizer, text)
        table.add_row(
            f"{row[REMOVED]:.2%}", row["key"], f"{row['kl']:.4f}", f"{score:.2f}", f"{score / dense:.3f}",
            f"{published:.2f}",
        )  # fmt: skip
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
