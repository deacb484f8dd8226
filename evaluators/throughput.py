"""How fast this machine is at a run's own work, measured once before its search: what minutes are made tokens by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.utils.benchmark.utils.timer import timer

from evaluators.amounts import GAIN, Speeds
from evaluators.base import GROUP
from evaluators.divergence import Divergence
from evaluators.latency.clocks import BETWEEN_DENSE
from evaluators.long_context import LongText
from evaluators.samples import Samples
from evaluators.session import Session
from evaluators.settings import TOGETHER
from evaluators.training.recipes import Distillation, Healing
from evaluators.training.shared_training import SharedTraining
from evaluators.training.tuning import make_tuning
from space.candidate import Candidate
from space.errors import UserError

LOOK_S = 1.0  # that is timed of an evaluation at least
DESIGNS = 2  # random ones, that are asked about and trained
SHARE = (1 + 1 / BETWEEN_DENSE) / 3  # of a round of one model between two timings of the dense one
STEPS = 2  # of training that are timed; so many before them are not


def measured_speeds(session: Session, elapsed: Callable[[], float]) -> Speeds:
    """Speeds of a run's evaluations, its training and its end.

    Args:
        session: With its supernet and its latency table.
        elapsed: Seconds since the command began.
    """
    settings, designs = session.settings, session.space.samples(DESIGNS)
    long = LongText.of(session.text, settings.text, session.loaded.model.config).windows
    samples = Samples(session.loaded.tokenizer, settings.samples)
    return Speeds(
        evaluation=_evaluation(session),
        long=0.0 if long is None else _looks(session, long[:1], 1, designs[:1]),
        training=_training(session, designs),
        timing_s=0.0 if settings.latency.table else _timing_s(session, designs[0]),
        writing_s=_seconds(lambda: samples.texts(session.supernet.view(session.dense))) if samples.prompts else 0.0,
        elapsed_s=elapsed(),
    )


def _seconds(work: Callable[[], object]) -> float:
    """How long something takes, on whatever device."""
    begun = timer()
    work()
    return timer() - begun


def _evaluation(session: Session) -> dict[int, float]:
    """Tokens a second by windows of a forward pass, doubled as long as it is worth it and memory allows.

    On a CPU, where it was never worth it, it stays at `TOGETHER`.

    Raises:
        UserError: There is no memory for a single window.
    """
    text, length, given = session.text, session.settings.text.length, session.settings.evaluators.batch_size
    room = text.room("search", length)
    grows = given is None and session.loaded.device.type != "cpu"
    designs = session.space.samples(GROUP if session.loaded.streamed else 1)
    speeds: dict[int, float] = {}
    batch = min(given or TOGETHER, room)
    while True:
        try:
            speeds[batch] = _looks(session, text.blocks("search", batch, length), batch, designs)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if speeds:
                return speeds
            if given is not None or batch == 1:
                raise UserError(
                    f"Expected memory for {batch} windows of data.length={length} tokens at once, got: {error} "
                    "Set a smaller evaluators.batch_size or data.length."
                ) from error
            batch, grows = batch // 2, False
            continue
        worth = speeds[batch] >= GAIN * speeds.get(batch // 2, 0.0)
        if not grows or not worth or 2 * batch > room:
            return speeds
        batch *= 2


def _looks(session: Session, windows: Tensor, batch: int, designs: Sequence[Candidate]) -> float:
    """Tokens a second of an evaluation of designs that are asked about together, warm."""
    divergence, looks, seconds = Divergence(session.supernet, windows, batch_size=batch), 0, 0.0

    def look() -> None:
        divergence.ahead(designs)
        for design in designs:
            divergence(design)

    look()  # with the dense model's side, and refits that are solved once
    while seconds < LOOK_S:
        seconds += _seconds(look)
        looks += len(designs)
    return looks * windows.numel() / seconds


def _training(session: Session, designs: Sequence[Candidate]) -> float:
    """Tokens a second of what follows the cached refit; 0 where nothing does."""
    settings = session.settings
    if session.healer and isinstance(settings.distillation, Healing):
        return _healing(session, settings.distillation, designs)
    if session.tuning:
        with TemporaryDirectory() as directory:
            return _tuning(session, designs[0], Path(directory))
    return 0.0


def _healing(session: Session, settings: Healing, designs: Sequence[Candidate]) -> float:
    size, length = settings.batch_size, session.settings.text.length
    text = session.text.blocks("calibration", min(size, session.text.room("calibration", length)), length)
    training = SharedTraining(session.supernet, designs, settings)

    def learn() -> None:
        for _ in range(STEPS):
            training.learn(text, settings.learning_rate)

    learn()  # a first time with each of the designs
    return STEPS * text.numel() / _seconds(learn)


def _tuning(session: Session, design: Candidate, directory: Path) -> float:
    """Of a design's own: its corrective refit, and training whose time is that of a few steps in proportion."""
    settings, text = session.settings, session.settings.text
    own = settings.distillation if isinstance(settings.distillation, Distillation) else None
    few = replace(own, tokens=(STEPS * own.batch_size * text.length,)) if own else None
    tuning = make_tuning(
        settings.training, session.supernet, directory, settings.correction, few, lambda: session.text, text.length
    )
    assert tuning is not None
    seconds = _seconds(lambda: tuning.model(design, 0))
    assert session.tuning is not None
    tokens = session.tuning.all_tokens
    if tuning.stage_tokens:
        seconds += _seconds(lambda: tuning.model(design, 1)) * (tokens - tuning.new_tokens(0)) / tuning.stage_tokens[0]
    return tokens / seconds


def _timing_s(session: Session, design: Candidate) -> float:
    """Seconds that one more model adds to the end-to-end timings of a front.

    A round of the plain clock times the model between two timings of the dense one, which a front has every few models.
    Engines that load models, and compilers, take their time once, so that these are asked for all rounds.
    """
    workload, clock = session.settings.latency, session.bench.clock
    plain = workload.engine == "torch" and not workload.compile
    rounds = 1 if plain else workload.front_rounds

    def time() -> None:
        for phase in workload.phases.values():
            clock.session(phase, {design.key: design}, rounds, lambda done, of: None)

    tried, seconds = _seconds(lambda: clock.try_out(design)), _seconds(time)
    return tried + (seconds * workload.front_rounds * SHARE if plain else seconds)
