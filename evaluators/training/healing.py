"""Healing of the supernet: the weights that its subnets share learn from the dense model through some of these subnets.

Each step sends a batch of windows through one of the designs, in turn, and lowers the divergence from the dense model,

    loss = KL(teacher ‖ student),

by the weights that all designs share (`space.supernet.shared`). What one design teaches them helps every other, those
that were never trained too: the weight-sharing training of one-shot architecture search (Yu et al., "BigNAS", 2020; Cai
et al., "Once-for-all", 2020), on designs that a search has found promising instead of on random ones.

What much smaller designs have taught does more harm than good to those that lack little: these take half of the change,
as an average of weights before and after training (Wortsman et al., "Robust fine-tuning of zero-shot models", 2022). Up
to where is found on text that was not trained on. What healing gives is on disk before it is used, and never
made twice; a killed one goes on from its last checkpoint, to the same bits.

What is trained is not rounded: designs with types of matrices teach as what they are before, and are rounded after.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evaluators.comparisons import comparison
from evaluators.data.cutting import Marks
from evaluators.training.objectives import objective_of
from evaluators.training.recipes import Healing
from evaluators.training.shared_training import SharedTraining, trainable_row
from space.candidate import Candidate
from space.errors import UserError
from space.files import write_whole
from space.size import removed_params
from space.supernet.supernet import Supernet

SPARE = 2  # windows of the text that are not trained on, times those of a step of the task
_WEIGHTS = "weights.safetensors"
_DESIGNS = "designs.json"
_STATE = "state.pt"
_GENTLE = "gentle.json"


class Healer:
    """Heals the supernet of one run, once."""

    def __init__(
        self,
        supernet: Callable[[], Supernet],
        settings: Healing,
        windows: Callable[[int], Tensor],
        marks: Callable[[], Marks],
        directory: Path,
        stage: Callable[[], AbstractContextManager[Callable[[int, int], None]]],
    ) -> None:
        """Runs nothing yet.

        Args:
            supernet: Gives the supernet as it was prepared.
            settings: How, and how long.
            windows: Gives so many windows of training text, `(windows, length)`, or all that there are.
            marks: Gives what windows begin and end with.
            directory: Where the healed weights are kept.
            stage: Opened around the training; gives a function to call with how many steps are done, of how many.
        """
        self.settings = settings
        self._supernet = supernet
        self._windows = windows
        self._directory = directory
        self._stage = stage
        self._marks = marks
        self._healed: Supernet | None = None

    def anew(self, settings: Healing, directory: Path) -> Healer:
        """One that heals the same supernet on the same text, by other settings and into another directory."""
        return Healer(self._supernet, settings, self._windows, self._marks, directory, self._stage)

    @property
    def designs(self) -> list[Candidate]:
        """What the supernet is, or is to be, healed through; none before that is known."""
        file = self._directory / _DESIGNS
        if not file.exists():
            return []
        return [Candidate.from_json(form) for form in json.loads(file.read_text(encoding="utf-8"))["designs"]]

    @property
    def trainable(self) -> str:
        """The row of `SHARED_TRAINABLE` that is trained."""
        return trainable_row(self._supernet(), self.settings)

    def facts(self) -> dict[str, object]:
        """What a model card should say of it."""
        tokens, count = self.settings.total, len(self.designs)
        return {"healing": f"{tokens} tokens through {count} designs, {self.trainable} shared weights"}

    def supernet(self) -> Supernet:
        """The healed supernet, from disk.

        Raises:
            UserError: It is not healed yet.
        """
        if self._healed is None:
            file = self._directory / _WEIGHTS
            if not file.exists():
                raise UserError(
                    f"Expected the healed weights of the run in {file}, but there are none. "
                    "Run the search again with the same run_dir: it goes on to where they are made."
                )
            gentle = json.loads((self._directory / _GENTLE).read_text(encoding="utf-8"))["removed"]
            self._healed = self._supernet().with_weights(load_file(file), gentle)
        return self._healed

    def heal(self, candidates: Sequence[Candidate]) -> Supernet:
        """The healed supernet; it is healed now, through these candidates, where it was not before.

        Raises:
            UserError: Training diverged, or the disk is full.
        """
        if not (self._directory / _WEIGHTS).exists():
            dense = Candidate.dense(self._supernet().spec)
            pruned = {c.blocks.unrounded: c for c in candidates if c.blocks.unrounded != dense}
            designs = self.designs or [*pruned.values()] or [dense]
            blocks = [design.blocks.unrounded for design in designs]
            self._write(_DESIGNS, json.dumps({"designs": [c.to_json() for c in designs], **asdict(self.settings)}))
            text, spare = self._text()
            training = SharedTraining(self._supernet(), blocks, self.settings)
            with self._stage() as show:
                self._train(training, text, show)
            weights = training.weights()
            del training  # and the optimizer's memory
            self._write(_GENTLE, json.dumps({"removed": gentle_until(self._supernet(), weights, blocks, spare)}))
            self._write(_WEIGHTS, lambda file: save_file(weights, file))
            (self._directory / _STATE).unlink(missing_ok=True)
        return self.supernet()

    @property
    def shares(self) -> dict[Candidate, int]:
        """The training's tokens by the designs that answer for them, so that they are counted once."""
        designs = self.designs
        return {design: -(-self.settings.total // len(designs)) for design in designs}

    def _text(self) -> tuple[Tensor, Tensor]:
        """Windows to train on, and others; where the text is very short, these are the same.

        Sources take turns in the windows that are given, as designs do in the training. Shuffled, with the same seed
        each time, so that a design does not meet the same source at each of its turns.
        """
        settings, length = self.settings, self._supernet().spec.tokens_of(self._windows(1).shape)
        held = SPARE * self._supernet().spec.use.step_windows
        windows = self._windows(settings.steps(length) * settings.step_windows + held)
        if len(windows) < 2 * held:
            return windows, windows
        spare = torch.zeros(len(windows), dtype=torch.bool)
        spare[len(windows) // held - 1 :: len(windows) // held] = True
        trained = windows[~spare]
        order = torch.randperm(len(trained), generator=torch.Generator().manual_seed(0))
        return trained[order], windows[spare][:held]

    def _train(self, training: SharedTraining, text: Tensor, show: Callable[[int, int], None]) -> None:
        settings, spec = self.settings, self._supernet().spec
        steps, size, file = settings.steps(spec.tokens_of(text.shape)), settings.step_windows, self._directory / _STATE
        objective, marks = objective_of(spec), self._marks()
        if file.exists():
            training.restore(torch.load(file, map_location="cpu", weights_only=True))
        for step in range(training.step, steps):
            rows = torch.arange(step * size, (step + 1) * size) % len(text)
            training.learn(objective.texts_of(text[rows], step, marks), settings.rate(step, steps))
            if training.step % settings.save_steps == 0 and training.step < steps:
                self._write(_STATE, lambda file: torch.save(training.state(), file))
            show(training.step, steps)

    def _write(self, name: str, content: Any) -> None:
        write_whole(self._directory / name, content, failures=(RuntimeError,))  # which torch raises on a full disk


def gentle_until(
    supernet: Supernet, learned: Mapping[str, Tensor], designs: Sequence[Candidate], text: Tensor
) -> float:
    """Up to which part of the decoder's parameters removed designs are better with half of what was learned.

    Args:
        supernet: As it was before.
        learned: Shared weights.
        designs: Those to go by.
        text: Windows `(windows, length)`.

    Returns:
        A fraction: 0 for none of the designs, 1 for all; else between two of them.
    """
    half, whole = (comparison(supernet.with_weights(learned, gentle), text) for gentle in (1.0, 0.0))
    alike, removed = supernet.spec.use.alike, {design: removed_params(supernet.spec, design) for design in designs}
    rows = sorted((removed[design], half.divergence(design), whole.divergence(design)) for design in designs)
    gains = [math.log((after + alike) / (before + alike)) for _, before, after in rows]
    sums = [sum(gains[:count]) for count in range(len(rows) + 1)]
    count = sums.index(max(sums))
    edges = [0.0, *((one[0] + other[0]) / 2 for one, other in pairwise(rows)), 1.0]
    return edges[count]
