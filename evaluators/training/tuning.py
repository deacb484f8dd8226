"""Subnets after what follows their cached refit: the corrective refit and distillation, kept on disk as they go.

A subnet that is promoted goes on where it was: weights, optimizer and position in the text are its own. What is stored
is what was fit or trained alone; the rest are views of the supernet.

A run and any number of exports and scores may work in one directory at once. What they store of a subnet follows from
its name, so that it does not matter who stored it last; and none of it is deleted while another is at work there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from evaluators.base import ModelOf
from evaluators.data.splits import TokenSplits
from evaluators.training.distillation import Student
from evaluators.training.recipes import CORRECTED_AT_ONCE, CorrectiveRefit, Distillation
from evaluators.training.states import State, TunedStates
from evaluators.training.teacher import Teacher, spread_layers
from space.candidate import Candidate
from space.supernet.correction import Correction
from space.supernet.corrective_refit import correct
from space.supernet.supernet import Supernet

SAVED_EVERY = 16  # steps of a student between two states on disk: what a killed run loses at most
_TUNED = "tuned"


class Tuning:
    """Makes and remembers the tuned subnets of one run.

    Attributes:
        stage_tokens: Training tokens of each stage of the distillation, in total; empty without distillation.
    """

    def __init__(
        self,
        supernet: Supernet,
        directory: Path,
        correction: CorrectiveRefit | None,
        distillation: Distillation | None,
        text: Callable[[], TokenSplits],
        length: int,
    ) -> None:
        """Runs nothing yet.

        Args:
            supernet: The model.
            directory: Where tuned subnets are kept.
            correction: The corrective refit, which comes first; None for none.
            distillation: What follows; None for nothing.
            text: The run's, of which the calibration part is used; asked for when it is needed first.
            length: Tokens in a window.
        """
        self.stage_tokens: tuple[int, ...] = distillation.tokens if distillation else ()
        self._distillation = distillation
        self._supernet = supernet
        self._states = TunedStates(directory)
        self._correction = correction
        self._text = text
        self._length = length

    def check_text(self) -> None:
        """Looks, before any work is done, whether there is text enough.

        Raises:
            UserError: There is not.
        """
        _ = self._correction_tokens, self._windows

    def facts(self) -> dict[str, object]:
        """What a model card should say of it."""
        settings, correction = self._distillation, self._correction
        return {
            "corrective refit": f"{correction.windows * self._length} tokens" if correction else "none",
            "distillation": f"{self._tokens(len(self.stage_tokens))} tokens, {settings.trainable}"
            if settings
            else "none",
        }

    def new_tokens(self, stage: int) -> int:
        """Tokens of text that a stage takes of a candidate that was at the one before; 0 is the corrective refit."""
        if stage == 0:
            return self._correction_tokens.numel() if self._correction_tokens is not None else 0
        return self._tokens(stage) - (self._tokens(stage - 1) if stage > 1 else -self.new_tokens(0))

    @property
    def all_tokens(self) -> int:
        """Tokens of text that all of it takes of a candidate."""
        stages = range(1, len(self.stage_tokens) + 1) if self.stage_tokens else (0,)
        return sum(map(self.new_tokens, stages))

    def models(self, candidates: Sequence[Candidate], stage: int) -> ModelOf:
        """The models of several candidates, each of which is made when it is asked for, best in this order.

        Corrective refits that are still to be made share the dense model's passes over the text.

        Args:
            candidates: Who will be asked for.
            stage: See `model`.

        Returns:
            From one of the candidates to its model, with the whole vocabulary. What it raises, see `model`, concerns
            that candidate alone.
        """
        together = [*dict.fromkeys(candidate.blocks for candidate in candidates)]

        def model(candidate: Candidate) -> Any:
            candidate = candidate.blocks
            if candidate == Candidate.dense(self._supernet.spec):  # its own teacher
                return self._supernet.view(candidate)
            with self._states.in_use():
                return self._model(candidate, stage, together[together.index(candidate) + 1 :])

        return model

    def model(self, candidate: Candidate, stage: int) -> Any:
        """A candidate's own model after some stage.

        Args:
            candidate: Who; where it was tuned before, to this stage or less, it goes on from there.
            stage: 0 for the corrective refit alone, 1 and up for those of `distillation.tokens`.

        Returns:
            The model, in evaluation mode and without gradients.

        Raises:
            ArithmeticError: Training diverged.
            UserError: The text is too short or has changed, or a state cannot be stored.
        """
        return self.models([candidate], stage)(candidate)

    def keep(self, keys: Collection[str]) -> None:
        """Deletes what is stored of other candidates, what only going on with these would need, and unfinished files.

        While another process is at work in the directory this deletes nothing: the run's next end does.

        Args:
            keys: Of candidates.

        Raises:
            UserError: A state cannot be read or stored.
        """
        self._states.keep(keys)

    def _model(self, candidate: Candidate, stage: int, later: Sequence[Candidate]) -> Any:
        """See `model`; `later` are those that will be asked for after it."""
        state, last = self._states.get(candidate), self._steps(stage)
        if state is None:
            state = self._corrected(candidate, later)
        elif state["step"] > last or (0 < state["step"] < last and "optimizer" not in state["student"]):
            state |= {"step": 0, "student": None}
        weights = state["correction"]
        correction = Correction(candidate, weights) if weights else None
        if not last:
            return self._supernet.view(candidate, correction)
        assert self._distillation is not None
        own = self._supernet.view(candidate, correction, own=True)
        student = Student(own, self._distillation, self._distillation.batch_size * self._length, candidate.kept)
        if state["step"]:
            student.restore(state["student"])
        while student.step < last:
            student.learn(self._teacher.lesson(student.step))
            if student.step % SAVED_EVERY == 0 or student.step == last:
                state |= {"step": student.step, "student": student.state()}
                self._states.put(candidate, state)
        return student.merged()

    @cached_property
    def _correction_tokens(self) -> Tensor | None:
        """Text of the corrective refit, `(windows, length)`."""
        settings = self._correction
        return self._text().blocks("calibration", settings.windows, self._length) if settings else None

    @cached_property
    def _windows(self) -> Tensor | None:
        """Text of the distillation, `(windows, length)`."""
        if self._distillation is None:
            return None
        count = self._steps(len(self._distillation.tokens)) * self._distillation.batch_size
        return self._text().blocks("calibration", count, self._length)

    @cached_property
    def _teacher(self) -> Teacher:
        assert self._distillation is not None
        assert self._windows is not None
        settings, layers = self._distillation, self._supernet.spec.layers
        return Teacher(
            self._supernet.view(Candidate.dense(self._supernet.spec)),
            self._supernet.spec.digest,
            self._windows,
            self._states.teacher,
            batch_size=settings.batch_size,
            temperature=settings.temperature,
            layers=spread_layers(settings.stream_layers, layers) if settings.streams else (),
        )

    def _steps(self, stage: int) -> int:
        if stage == 0:
            return 0
        assert self._distillation is not None
        return -(-self._distillation.tokens[stage - 1] // (self._distillation.batch_size * self._length))

    def _tokens(self, stage: int) -> int:
        assert self._distillation is not None
        return self._steps(stage) * self._distillation.batch_size * self._length

    def _corrected(self, candidate: Candidate, later: Sequence[Candidate]) -> State:
        """Corrects a candidate, and with it some that will be asked for later, and stores them."""
        group = [candidate]
        if self._correction is None:
            weights: list[Any] = [None]
        else:
            waiting = [c for c in later if c != candidate and not self._states.has(c)]
            group += waiting[: CORRECTED_AT_ONCE - 1]
            try:
                weights = self._corrections(group)
            except RuntimeError:  # perhaps another's fault
                group = [candidate]
                weights = self._corrections(group)
        states: list[State] = [{"step": 0, "student": None, "correction": each} for each in weights]
        for member, state in zip(group, states, strict=True):
            self._states.put(member, state)
        return states[0]

    def _corrections(self, candidates: Sequence[Candidate]) -> list[Any]:
        """Weights of corrections, in order; they share the dense model's pass over the text."""
        settings, tokens = self._correction, self._correction_tokens
        assert settings is not None
        assert tokens is not None
        corrections = correct(
            self._supernet, candidates, tokens, damping=settings.damping, batch_size=settings.batch_size
        )
        return [correction.weights for correction in corrections]


def make_tuning(
    mode: str,
    supernet: Supernet,
    run_dir: Path,
    correction: CorrectiveRefit | None,
    distillation: Distillation | None,
    text: Callable[[], TokenSplits],
    length: int,
) -> Tuning | None:
    """The tuning of a run that does not heal its supernet; None when nothing follows the cached refit.

    Args:
        mode: One of `MODES`. `off`: subnets are not trained; `final`: those of the front are; `loop`: the search looks
            at trained ones.
        supernet: The run's.
        run_dir: Its directory.
        correction: See `Tuning`.
        distillation: Settings for where the mode wants it; None for no training.
        text: See `Tuning`.
        length: See `Tuning`.
    """
    settings = None if mode == "off" else distillation
    if not correction and not settings:
        return None
    return Tuning(supernet, run_dir / _TUNED, correction, settings, text, length)


def finished_model(supernet: Supernet, tuning: Tuning | None, candidate: Candidate, *, own: bool = False) -> Any:
    """A candidate's model as it is exported: after all of the run's tuning.

    Args:
        supernet: The run's.
        tuning: The run's, if it has any.
        candidate: Which.
        own: Whether all of its tensors are to be the caller's own, to train further.

    Raises:
        ArithmeticError: See `Tuning.model`.
        UserError: See `Tuning.model`.
    """
    model = tuning.model(candidate, len(tuning.stage_tokens)) if tuning else supernet.view(candidate)
    return copy.deepcopy(model) if own else model
