"""Fits the prediction of losses on the run's own text, once, and keeps it beside the run.

It is the search's part of the text: on the calibration part, on which the points may have been trained, they lose less.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluators.data.places import Part
from evaluators.data.splits import TokenSplits
from evaluators.paths import Show
from serving.controllers import DENSE
from serving.difficulty import Fit, Look, LossModel
from serving.senses import divergence, first_look, next_logits
from space.errors import UserError
from space.files import kept

PROMPT, ANSWER = 128, 32  # tokens of a window: of the prompt, at most, and of what comes behind it
WINDOWS: Mapping[Part, int] = {"search": 128, "heldout": 48}  # to fit, and to check; fewer where there is less text
LEAST_WINDOWS, LEAST_PROMPT = 8, 4
_FORMAT = 2  # raised when what is fitted becomes another thing


def fitted_losses(
    models: Mapping[str, Any], smallest: str, text: Callable[[], TokenSplits], digest: str, place: Path, show: Show
) -> tuple[LossModel, Fit]:
    """The prediction of what points lose, and how well it holds on held-out text.

    Args:
        models: By point, the dense one among them.
        smallest: The point that looks at prompts.
        text: The run's, where it has to be read.
        digest: Of the text.
        place: Where it is kept, for these points and this text.
        show: Told how many windows are done, of how many.

    Raises:
        UserError: There is too little text, or what is kept cannot be read.
    """
    about = {
        "format": _FORMAT,
        "points": sorted(models),
        "smallest": smallest,
        "text": digest,
        "tokens": [PROMPT, ANSWER],
        "windows": dict(WINDOWS),
    }
    name = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
    file = place / f"difficulty-{name}.json"
    content = kept(file, lambda: json.dumps({"about": about, **_fit(models, smallest, text(), show)}, indent=1))
    try:
        facts = json.loads(content)
        return LossModel(**facts["model"]), Fit(**facts["heldout"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"Expected {file} to be a prediction of losses, got: {type(error).__name__}: {error}. Delete it; it is "
            "fitted again."
        ) from error


def _fit(models: Mapping[str, Any], smallest: str, text: TokenSplits, show: Show) -> dict[str, Any]:
    windows = {part: _windows(text, part) for part in WINDOWS}
    total, done = sum(map(len, windows.values())), 0
    looks: dict[Part, list[Look]] = {}
    losses: dict[Part, dict[str, list[float]]] = {}
    for number, (part, rows) in enumerate(windows.items()):
        lengths = np.random.default_rng(number).integers(LEAST_PROMPT, PROMPT, len(rows), endpoint=True)
        looks[part], losses[part] = [], {point: [] for point in models if point != DENSE}
        for row, length in zip(rows.tolist(), lengths.tolist(), strict=True):
            prompt, answer = row[:length], row[length : length + ANSWER]
            looks[part].append(first_look(models[smallest], prompt))
            for point, loss in losses_of(models, prompt, answer).items():
                losses[part][point].append(loss)
            show(done := done + 1, total)
    model = LossModel.fitted(looks["search"], losses["search"])
    return {"model": model.to_json(), "heldout": asdict(model.checked(looks["heldout"], losses["heldout"]))}


@torch.inference_mode()
def losses_of(models: Mapping[str, Any], prompt: Sequence[int], answer: Sequence[int]) -> dict[str, float]:
    """What each point but the dense one loses on a text behind a prompt, see `serving.senses.divergence`."""
    ids, count = [*prompt, *answer[:-1]], len(answer)
    dense = next_logits(models[DENSE], ids, count)
    return {
        point: divergence(dense, next_logits(model, ids, count)) for point, model in models.items() if point != DENSE
    }


def _windows(text: TokenSplits, part: Part) -> Tensor:
    length = PROMPT + ANSWER
    room = text.room(part, length)
    if room < LEAST_WINDOWS:
        raise UserError(
            f"controller=difficulty: expected at least {LEAST_WINDOWS} windows of {length} tokens of the run's {part} "
            f"text, to fit what points lose, got {room}. Take another controller, or search with more text (data.path)."
        )
    return text.blocks(part, min(WINDOWS[part], room), length)
