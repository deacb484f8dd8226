"""Exported checkpoints against the dense model, paired: what a user measures beside what front.csv says.

    python -m benchmarks.exported_latency RUN_DIR CHECKPOINT [CHECKPOINT ...]

Loads the dense default model and each checkpoint with transformers alone, in the dtype of the checkpoint, times a
prefill of 1 x 512 tokens, with the logits that the run's `latency.logits` names, in interleaved rounds, and prints
milliseconds and the ratio to dense, beside the ratio of `latency_e2e_ms` in the run's front.csv.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

from search.run.finished import FinishedRun
from space.models.embedded import default_model_dir

ROUNDS = 11


@torch.inference_mode()
def main() -> None:
    """Times and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("checkpoints", type=Path, nargs="+")
    arguments = parser.parse_args()
    subnets = [AutoModelForCausalLM.from_pretrained(p, trust_remote_code=True) for p in arguments.checkpoints]
    dense = AutoModelForCausalLM.from_pretrained(default_model_dir(), dtype=subnets[0].dtype)
    tokens = torch.randint(dense.config.vocab_size, (1, 512), generator=torch.Generator().manual_seed(1))
    run = FinishedRun.open(arguments.run_dir)
    logits = {"logits_to_keep": 1} if run.config["latency"].get("logits", "all") == "last" else {}  # once always all
    rounds: list[list[float]] = []
    for _ in range(ROUNDS):
        row = []
        for model in (dense, *subnets):
            model(tokens, **logits)
            start = time.perf_counter()
            model(tokens, **logits)
            row.append(1e3 * (time.perf_counter() - start))
        rounds.append(row)
    front = run.front.set_index("key")["latency_e2e_ms"]
    for index, path in enumerate((None, *arguments.checkpoints)):
        milliseconds = statistics.median(row[index] for row in rounds)
        ratio = statistics.median(row[index] / row[0] for row in rounds)
        if path is None:
            print(f"dense: {milliseconds:.1f} ms, front.csv {front.iloc[0]:.1f} ms")
        else:
            said = front[path.name] / front.iloc[0]
            off = f"front.csv {said:.3f}, off by {ratio / said - 1:+.1%}"
            print(f"{path.name}: {milliseconds:.1f} ms, {ratio:.3f} x dense, {off}")


if __name__ == "__main__":
    main()
