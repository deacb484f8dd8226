"""Recovery of a pick: what it was worth before and is after, on text that it was not trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from evaluators.data.splits import TokenSplits
from evaluators.data.stream import TokenStream
from evaluators.divergence import Divergence
from evaluators.training.recovery import Recovery, RecoveryProgress, recover
from space.candidate import Candidate
from space.errors import UserError
from space.files import write_whole
from space.supernet.supernet import Supernet

_SETTINGS_FILE = "recovery.json"


def recover_pick(
    settings: Recovery,
    source: Any,
    supernet: Supernet,
    candidate: Candidate,
    stream: TokenStream,
    text: TokenSplits,
    length: int,
    heldout_windows: int,
    directory: Path,
    say: Callable[[str], None],
) -> tuple[dict[str, float], dict[str, str]]:
    """`recover` on a stream of text, looked at on the held-out part of the run's.

    Args:
        settings: How long, and how.
        source: The pick's own model, trained in place.
        supernet: The run's, for the teacher.
        candidate: The pick.
        stream: What it learns from.
        text: The run's.
        length: Tokens in a window.
        heldout_windows: How many are looked at.
        directory: Of the checkpoints.
        say: Called with a line of progress.

    Returns:
        `heldout_kl` and `heldout_ppl` after it, and what a model card should say.

    Raises:
        UserError: See `recover`; or the directory holds checkpoints of another recovery.
    """
    heldout = Divergence(supernet, text.blocks("heldout", heldout_windows, length))

    def look() -> dict[str, float]:
        model = supernet.model
        with torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=model.dtype == torch.bfloat16):
            return dict(heldout.heldout_measure(lambda candidate: source).values(candidate))

    def on_progress(progress: RecoveryProgress) -> None:
        line = f"{progress.tokens}/{progress.of} tokens: loss {progress.loss:.4g}"
        if progress.saved:
            say(", ".join([line, *(f"{name} {value:.4g}" for name, value in look().items())]))
        else:
            say(f"{line}, {progress.tokens_per_s:.0f} tokens a second, {progress.seconds_left / 60:.0f} min left")

    recipe = {"pick": candidate.key, "text": text.digest, "stream": stream.digest, "length": length}
    _claim(directory, recipe | asdict(settings))
    if stream.without:
        say(f"no text to train on in {', '.join(stream.without)}: all of it is for the search or held out")
    before = look()
    say(f"before: {', '.join(f'{name} {value:.4g}' for name, value in before.items())}")
    tokens = recover(source, supernet.model, stream, settings, directory, on_progress)
    after = look()
    facts = {
        "recovery": f"{tokens} tokens of {', '.join(stream.names)}",
        "held-out perplexity before recovery": f"{before['heldout_ppl']:.4g}",
        "held-out perplexity after recovery": f"{after['heldout_ppl']:.4g}",
    }
    return after, facts


def _claim(directory: Path, recipe: Mapping[str, Any]) -> None:
    """Marks a directory as a recovery's, so that no other goes on from its checkpoints."""
    file = directory / _SETTINGS_FILE
    if not file.exists():
        write_whole(file, json.dumps(recipe, indent=2), advice="Free some space or check the place, and export again.")
    there = json.loads(file.read_text(encoding="utf-8"))
    other = [f"{name} {there.get(name)}, now {value}" for name, value in recipe.items() if there.get(name) != value]
    if other:
        raise UserError(
            f"Expected {directory} to hold checkpoints of the same recovery, but it was begun with {'; '.join(other)}. "
            "Give the settings that it was begun with, or delete the directory, or export to another with out."
        )
