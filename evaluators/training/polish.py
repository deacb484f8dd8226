"""The polish of one pick: more calibration text for its corrective refit, then minutes of distillation of all weights.

A front of sixteen cannot have these tokens; an export is one model. Each step is judged on windows of the search's part
of the text, on which nothing was trained or refit, and is taken back where it makes the divergence larger. Held-out
text decides nothing, so that what is reported of it stays true.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from evaluators.comparisons import comparison
from evaluators.data.splits import skipped_rows
from evaluators.data.stream import TokenStream
from evaluators.paths import Stage
from evaluators.session import Session
from evaluators.training.objectives import objective_of
from evaluators.training.power_law import FitError, fit_power_law
from evaluators.training.progress import RecoveryProgress
from evaluators.training.recipes import CorrectiveRefit, Polish, Recovery
from evaluators.training.recovery import Recovered, measured_speed, recover, student_of, trained_row
from space.candidate import Candidate
from space.errors import UserError
from space.files import kept, write_whole
from space.supernet.correction import Correction
from space.supernet.corrective_refit import correct
from space.supernet.supernet import Supernet

_SETTINGS_FILE, _TOKENS_FILE, _REFIT_FILE = "polish.json", "tokens.json", "refit.pt"
_ADVICE = "Free some space or check the place, and export again."
_JUDGED_WINDOWS = 8  # at most, of the search's part of the text
_LATER = 10  # times the tokens of the training, at which the loss is foretold


@dataclass
class Polished:
    """A pick on its way through the steps of its polish.

    Attributes:
        model: What is kept so far.
        heldout: The held-out quality of that; empty where nothing was to be done.
        facts: What a model card should say.
    """

    model: Any
    heldout: Mapping[str, float] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


class _Judge:
    """Looks at each step, says what it sees, and takes back what did harm."""

    def __init__(self, session: Session, candidate: Candidate, front: Any, say: Callable[[str], None]) -> None:
        text, settings = session.text, session.settings.text
        room = min(_JUDGED_WINDOWS, text.room("search", settings.length))
        self._unseen = comparison(session.supernet, text.blocks("search", room, settings.length))
        self._heldout = comparison(session.supernet, session.windows("heldout"))
        self.candidate, self._say, self._dtype = candidate, say, session.supernet.model.dtype
        self._best = self._kl(front)
        self.polished = Polished(front, self.look(front))
        self._tell("before", self.polished.heldout)

    def look(self, model: Any) -> Mapping[str, float]:
        """The held-out quality of a model."""
        with self._as_in_the_run(model):
            return dict(self._heldout.heldout_values(self.candidate, model))

    def judge(self, step: str, model: Any) -> bool:
        """Whether a model is kept in place of the one before."""
        kl, heldout = self._kl(model), self.look(model)
        self._tell(f"after {step}", heldout)
        if not kl < self._best:
            line = f"the divergence on the search's text was {self._best:.4g} before it, {kl:.4g} after it"
            self._say(f"{step} made the model worse and is taken back: {line}")
            self.polished.facts[f"taken back: {step}"] = line
            return False
        self._best, self.polished.model, self.polished.heldout = kl, model, heldout
        return True

    def _tell(self, when: str, heldout: Mapping[str, float]) -> None:
        self._say(f"{when}: {shown(heldout)}")
        self.polished.facts[f"held-out {when}"] = shown(heldout)

    def _kl(self, model: Any) -> float:
        with self._as_in_the_run(model):
            return self._unseen.divergence(self.candidate, model)

    def _as_in_the_run(self, model: Any) -> torch.autocast:
        """A model in training is in float32, whatever the run is in."""
        wider = model.dtype != self._dtype and self._dtype == torch.bfloat16
        return torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=wider)


def shown(heldout: Mapping[str, float]) -> str:
    """Metrics for people."""
    return ", ".join(f"{name} {value:.4g}" for name, value in heldout.items())


def polish(
    session: Session,
    candidate: Candidate,
    front: Any,
    settings: Polish,
    recovery: Recovery,
    directory: Path,
    say: Callable[[str], None],
    stage: Stage,
) -> Polished:
    """A pick's own model after its polish, which goes on after a kill to the same end.

    Where the run has healed its supernet or trained the pick there is no refit: towards the dense model's residual
    stream, it would take back some of what was taught, unless that was the stream itself.

    Args:
        session: Of the run.
        candidate: The pick.
        front: Its model after the run's own tuning, which is left as it is.
        settings: How much of it.
        recovery: How it is trained; its tokens, where it has some, stand in place of the minutes.
        directory: Of the checkpoints; it is the caller's to delete once the result is safe.
        say: Called with a line of progress.
        stage: Opened around the corrective refit.

    Raises:
        UserError: See `recover`; or the directory holds another polish, or cannot be written.
    """
    if candidate == session.dense or not settings.wanted(recovery):
        return Polished(front)
    settings, recovery = settings.of_task(session.spec.use), recovery.of_task(session.spec.use)
    text, length, stream = session.text, session.settings.text.length, session.stream(recovery.data, recovery.seed)
    recipe = {"pick": candidate.key, "text": text.digest, "stream": stream.digest, "length": length}
    _claim(directory, recipe | asdict(settings) | asdict(recovery))
    if stream.without:
        say(f"no text to train on in {', '.join(stream.without)}: all of it is for the search or held out")
    judge = _Judge(session, candidate, front, say)
    windows, tuning = min(settings.windows or 0, text.room("calibration", length)), session.tuning
    taught = session.healer is not None or (tuning is not None and bool(tuning.stage_tokens))
    taught &= not objective_of(session.spec).streams
    if windows > 1 and not taught:
        with stage("corrective refit") as show:
            layers = session.spec.layers
            correction = _refit(session, candidate, windows, directory, lambda layer: show(layer + 1, layers))
        count = f"{windows * length} tokens"
        if judge.judge(f"a corrective refit on {count}", session.newest().view(candidate, correction)):
            judge.polished.facts["corrective refit"] = count
    _train(session.supernet, stream, judge, settings, recovery, directory, say)
    return judge.polished


def _refit(
    session: Session, candidate: Candidate, windows: int, directory: Path, on_layer: Callable[[int], None]
) -> Correction:
    """The corrective refit on so many windows, as it is stored."""
    file = directory / _REFIT_FILE
    if not file.exists():
        how = session.settings.correction or CorrectiveRefit(windows)
        tokens = session.text.blocks("calibration", windows, session.settings.text.length)
        (correction,) = correct(
            session.newest(), [candidate], tokens, damping=how.damping, batch_size=how.batch_size, on_layer=on_layer
        )
        state = [dict(layer) for layer in correction.weights]
        write_whole(file, lambda path: torch.save(state, path), advice=_ADVICE, failures=(RuntimeError,))
    home = session.supernet.place.home
    return Correction(candidate, tuple(torch.load(file, map_location=home, weights_only=True)))


def _train(
    supernet: Supernet,
    stream: TokenStream,
    judge: _Judge,
    settings: Polish,
    recovery: Recovery,
    directory: Path,
    say: Callable[[str], None],
) -> None:
    """Trains what is kept so far, for what the recovery says or the minutes give."""
    if recovery.tokens == 0:
        return
    teacher, start, objective = supernet.dense(), judge.polished.model, objective_of(supernet.spec)
    left = judge.candidate.kept
    if supernet.place.streamed:
        start = copy.deepcopy(start).to(supernet.place.device)
    if recovery.tokens is None:

        def measure() -> str:
            speed = measured_speed(start, teacher, stream, recovery, objective, left)
            return json.dumps({"tokens_per_s": speed, "tokens": settings.minutes * 60 * speed})

        measured = json.loads(kept(directory / _TOKENS_FILE, measure))
        recovery = replace(recovery, tokens=measured["tokens"])
        say(f"{settings.minutes:g} minutes at {measured['tokens_per_s']:.0f} tokens a second")
    student = student_of(start, teacher, recovery)

    def on_progress(progress: RecoveryProgress) -> None:
        line = f"{progress.tokens}/{progress.of} tokens: loss {progress.loss:.4g}"
        if progress.saved and progress.tokens < progress.of:
            say(f"{line}, {shown(judge.look(student))}")
        else:
            say(f"{line}, {progress.tokens_per_s:.0f} tokens a second, {progress.seconds_left / 60:.0f} min left")

    done = recover(student, teacher, stream, recovery, directory, on_progress, objective, left)
    for line in skipped_rows(stream.skipped):
        say(line)
    facts = judge.polished.facts
    row = trained_row(start, teacher, recovery)
    facts["training"] = f"{done.tokens} tokens of {', '.join(stream.names)}, {row} weights"
    judge.judge(f"training on {done.tokens} tokens", student)
    facts[f"after {_LATER} times the training"] = prediction = _prediction(done)
    say(f"after {_LATER} times the training: {prediction}")


def _prediction(done: Recovered) -> str:
    """What longer training would bring."""
    try:
        law = fit_power_law(*done.curve)
    except FitError as error:
        return f"no prediction, as {error}"
    loss = law.loss(_LATER * done.tokens)
    if loss >= law.end:
        return f"no prediction, as the loss ends at {law.end:.3g}, and a power law through it leads to {loss:.3g}"
    return (
        f"a loss of {loss:.3g} on training text is predicted, now {law.end:.3g}; the power law was {law.error:.0%} off "
        "on the last third"
    )


def _claim(directory: Path, recipe: Mapping[str, Any]) -> None:
    """Marks a directory as a polish's, so that no other goes on from its checkpoints."""
    file = directory / _SETTINGS_FILE
    if not file.exists():
        write_whole(file, json.dumps(recipe, indent=2), advice=_ADVICE)
    there, recipe = json.loads(file.read_text(encoding="utf-8")), json.loads(json.dumps(recipe))
    other = [f"{name} {there.get(name)}, now {value}" for name, value in recipe.items() if there.get(name) != value]
    if other:
        raise UserError(
            f"Expected {directory} to hold checkpoints of the same polish, but it was begun with {'; '.join(other)}. "
            "Give the settings that it was begun with, or delete the directory, or export to another with out."
        )
