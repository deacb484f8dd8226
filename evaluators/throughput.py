"""How fast this machine is at a run's own work, measured once before its search: what minutes are made tokens by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from torch.utils.benchmark.utils.timer import timer

from evaluators.amounts import EPOCHS, LONG, STEPS
from evaluators.base import GROUP
from evaluators.closing import long_text
from evaluators.comparisons import comparison
from evaluators.latency.workload import BETWEEN_DENSE
from evaluators.samples import Samples
from evaluators.session import Session
from evaluators.speeds import GAIN, STEP_GAIN, Speeds
from evaluators.training.recipes import Distillation, Healing
from evaluators.training.shared_training import SharedTraining
from evaluators.training.tuning import make_tuning
from space.candidate import Candidate
from space.errors import UserError

LOOK_S = 1.0  # that is timed of an evaluation at least
DESIGNS = 2  # random ones, that are asked about and trained
SHARE = (1 + 1 / BETWEEN_DENSE) / 3  # of a round of one model between two timings of the dense one
TIMED = 2  # steps of training; so many before them are not,
SLOW_S = 10.0  # where these do not take so long that what a first time takes besides is little of it


def measured_speeds(session: Session, elapsed: Callable[[], float], minutes: float) -> Speeds:
    """Speeds of a run's evaluations, its training and its end.

    Args:
        session: With its supernet and its latency table.
        elapsed: Seconds since the command began.
        minutes: Of the whole command, of which too many may be gone for longer windows.
    """
    settings, designs = session.settings, [design.blocks for design in session.space.samples(DESIGNS)]
    long = None if elapsed() > LONG * 60 * minutes else long_text(session).windows
    supernet = session.supernet
    making_s = _seconds(lambda: supernet.view(designs[0])) if session.healer else 0.0  # first: nothing is remembered
    trying_s, timing_s = (0.0, 0.0) if settings.latency.table else _timing_s(session, designs[0])
    return Speeds(
        evaluation=_evaluation(session),
        long=0.0 if long is None else _looks(session, long[:1], 1, designs[:1]),
        training=_training(session, designs),
        timing_s=timing_s,
        writing_s=_writing_s(session),
        making_s=making_s,
        trying_s=trying_s,
        elapsed_s=elapsed(),
    )


def _seconds(work: Callable[[], object]) -> float:
    """How long something takes, on whatever device."""
    begun = timer()
    work()
    return timer() - begun


def _evaluation(session: Session) -> dict[int, float]:
    """Tokens a second by windows of a forward pass, doubled as long as it is worth it and memory allows.

    On a CPU, where it was never worth it, it stays at what the settings say.

    Raises:
        UserError: There is no memory for a single window.
    """
    text, length, told = session.text, session.settings.text.length, session.settings.evaluators
    room = text.room("search", length)
    designs = [design.blocks for design in session.space.samples(GROUP if session.loaded.streamed else 1)]

    def speed(windows: int) -> float:
        return _looks(session, text.blocks("search", windows, length), windows, designs)

    first = most = min(told.together, room)
    if told.batch_size is None and _waits(session):
        most = room
    while True:
        try:
            return _doubled(speed, first, most, GAIN)
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            if told.batch_size is not None or first == 1:
                raise UserError(
                    f"Expected memory for {first} windows of data.length={length} tokens at once, got: {error} "
                    "Set a smaller evaluators.batch_size or data.length."
                ) from error
            first = most = first // 2


def _waits(session: Session) -> bool:
    """Whether the device may be waiting for work, so that more at once takes little longer; on a CPU it never was."""
    return session.loaded.device.type != "cpu"


def _doubled(speed: Callable[[int], float], first: int, most: int, gain: float) -> dict[int, float]:
    """Tokens a second by windows that go together, doubled as long as that is worth it and memory allows.

    Args:
        speed: Of so many windows.
        first: To begin with.
        most: Not to be exceeded.
        gain: Times the speed that twice the windows must bring.

    Raises:
        torch.OutOfMemoryError: There is no memory for the first ones.
    """
    windows, speeds = first, {first: speed(first)}
    while 2 * windows <= most and speeds[windows] >= gain * speeds.get(windows // 2, 0.0):
        windows *= 2
        try:
            speeds[windows] = speed(windows)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
    return speeds


def _looks(session: Session, windows: Tensor, batch: int, designs: Sequence[Candidate]) -> float:
    """Tokens a second of an evaluation of designs that are asked about together, warm."""
    divergence, looks, seconds = comparison(session.supernet, windows, batch_size=batch), 0, 0.0

    def look() -> None:
        divergence.ahead(designs)
        for design in designs:
            divergence.divergence(design)

    look()  # with the dense model's side, and refits that are solved once
    while seconds < LOOK_S:
        seconds += _seconds(look)
        looks += len(designs)
    return looks * divergence.tokens / seconds


def _training(session: Session, designs: Sequence[Candidate]) -> dict[int, float]:
    """Tokens a second of what follows the cached refit, by windows of a step; empty where nothing does."""
    settings = session.settings
    if session.healer and isinstance(settings.distillation, Healing):
        return _healing(session, settings.distillation, designs)
    if session.tuning:
        with TemporaryDirectory() as directory:
            return _tuning(session, designs[0], Path(directory))
    return {}


def _healing(session: Session, settings: Healing, designs: Sequence[Candidate]) -> dict[int, float]:
    """Of steps of healing: of more windows than one where the text makes enough of such steps, see `amounts`."""
    length = session.settings.text.length
    room = session.text.room("calibration", length)
    blocks = [*dict.fromkeys(design.blocks.unrounded for design in designs)]  # what is trained is not rounded
    training = SharedTraining(session.supernet, blocks, settings)

    def speed(windows: int) -> float:
        text = session.text.blocks("calibration", windows, length)

        def learn() -> None:
            for _ in range(TIMED):
                training.learn(text, 0.0)

        seconds = _seconds(learn)  # a first time with each of the designs
        return TIMED * windows * length / (seconds if seconds > SLOW_S else _seconds(learn))

    first = most = min(settings.step_windows, room)
    if settings.batch_size is None and _waits(session):
        tokens = EPOCHS * room * length if settings.tokens is None else settings.tokens
        most = max(first, min(room, tokens // (STEPS * length)))
    return _doubled(speed, first, most, STEP_GAIN)


def _tuning(session: Session, design: Candidate, directory: Path) -> dict[int, float]:
    """Of a design's own: its corrective refit, and training whose time is that of a few steps in proportion."""
    settings, text = session.settings, session.settings.text
    own = settings.distillation if isinstance(settings.distillation, Distillation) else None
    few = replace(own, tokens=(TIMED * own.batch_size * text.length,)) if own else None
    tuning = make_tuning(
        settings.training, session.supernet, directory, settings.correction, few, lambda: session.text, text.length
    )
    assert tuning is not None
    seconds = _seconds(lambda: tuning.model(design, 0))
    assert session.tuning is not None
    tokens = session.tuning.all_tokens
    if tuning.stage_tokens:
        seconds += _seconds(lambda: tuning.model(design, 1)) * (tokens - tuning.new_tokens(0)) / tuning.stage_tokens[0]
    return {own.batch_size if own else 1: tokens / seconds}


def _writing_s(session: Session) -> float:
    """Seconds in which the dense model writes its samples, once it has begun to."""
    tokenizer, settings, dense = session.loaded.tokenizer, session.settings.samples, session.supernet.dense()
    if not settings.prompts:
        return 0.0
    Samples(tokenizer, replace(settings, tokens=1)).texts(dense)
    return _seconds(lambda: Samples(tokenizer, settings).texts(dense))


def _timing_s(session: Session, design: Candidate) -> tuple[float, float]:
    """Seconds that one more model adds to the end-to-end timings of a front: in no round, and in all of them.

    A round of the plain clock times the model between two timings of the dense one, which a front has every few models.
    Engines that load models, and compilers, take their time once, so that these are asked for all rounds, of which
    fewer are taken to be no shorter.
    """
    workload, clock = session.settings.latency, session.bench.clock
    plain = workload.engine == "torch" and not workload.compile
    rounds = 1 if plain else workload.front_rounds

    def time() -> None:
        for phase in workload.phases.values():
            clock.session(phase, {design.key: design}, rounds, lambda done, of: None)

    tried, seconds = _seconds(lambda: clock.try_out(design)), _seconds(time)
    if not plain:
        return tried + seconds, tried + seconds
    return tried, tried + seconds * workload.front_rounds * SHARE
