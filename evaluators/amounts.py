"""What minutes come to in tokens: arithmetic on speeds that a run measures once, free of torch and of the clock.

    minutes = elapsed + search + training + end

The search sends candidates' text at the measured speed and pays what its algorithm takes to ask; training has its own
speed; the end of a run is known but for how many points its front will have, which follow from the questions. Where
minutes are short these are fewer, so that the end takes half of what is left at most, but not below `POINTS`; where
that is not enough, longer windows are not scored, then no samples are written, then fewer plain designs stand beside
the front, then points are timed in fewer rounds. What the end leaves is divided as the defaults in tokens divide
theirs: of 440,000 tokens 120,000 heal and the others are looked at, so 3 tokens of healing come with 8 of candidates;
where that is too much for the least search, healing is shorter, down to a half. Healing sees each window of its text
`EPOCHS` times at most (repeating text up to four times is about as good as new text: Muennighoff et al., "Scaling
data-constrained language models", 2023); what it leaves, the search has.

A faster device asks more questions, and each on more text: the windows that a candidate is asked on grow with the root
of the search's tokens, from `WINDOWS` at `TOKENS` on, as far as there is text. Where a search would ask more than
`QUESTIONS`, text alone grows, as the time of surrogates grows with the cube of what they know. A step of healing has as
many windows as take little longer than half of them, where its text makes `STEPS` of such steps: a device that waits
for work learns from more text in the same steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evaluators.speeds import Speeds

WINDOWS = 4  # of the search's text that a candidate is asked on, at `TOKENS`
TOKENS = 320_000  # of candidates' text, by default
HEALED = 3 / 8  # tokens of healing to one of candidates' text
EPOCHS = 4
QUESTIONS = 800
LEAST = 28  # questions that a search asks however short its minutes are
LEAST_HEALED = 1 / 2  # of the healing that comes with these, however short
CHEAP = 3 / 4  # of the questions, about, are at the cheapest fidelity, the others at the full one
FRONT = 1 / 5  # of the latter, about, end as points of the front
USED = 0.97  # of the minutes, that are planned with
STEPS = 200  # of healing, that all of its text must make where more than one window go together
POINTS = 4  # of the front, beside the dense model, that are scored and timed however short minutes are
CALIBRATION = 1 / 5  # of the minutes, in which calibration ends; a quarter of its text is read in any case
TABLE = 1 / 5  # of the minutes, in which the rounds of the latency table end; one round is timed in any case
PLAIN = 3  # designs that are evaluated beside it likewise
ROUNDS = 2  # in which its points are timed, at least
LONG = 0.36  # of the minutes: where more are gone before the search, longer windows are not scored
PAGES_S = 5.0  # to write front and pages


@dataclass(frozen=True)
class Work:
    """What a run has to do, as far as its settings say it.

    Attributes:
        sizes: Tokens of a window of the search's text at each untrained fidelity, the whole window last.
        windows: Of that text that a candidate is asked on; None for what the minutes allow.
        room: How many there are.
        healing: Tokens of healing; None for what the minutes allow.
        healing_text: Tokens of text that there are for it.
        kind: What follows the cached refit: `healing` of all, `tuning` of each design, or None.
        in_search: Whether that is a part of the search, and of its tokens; else it comes at the end.
        trained: Part of the search's tokens that goes into it, where designs are tuned in the search.
        tuning: Tokens of the tuning of a design.
        points: Of the front, at most.
        plain: Designs that are evaluated beside it, at most.
        rounded: How many of these are the dense model in another type, which healing changes too.
        heldout: Tokens of the held-out score of a member.
        long: Tokens of its score in longer windows.
        rounds: In which members are timed end to end.
        healed: Designs that heal the supernet, at most.
        judged: Tokens of text on which each of these is asked about as healing ends, see `evaluators.training.healing`.
    """

    sizes: Sequence[int]
    windows: int | None
    room: int
    healing: int | None
    healing_text: int
    kind: str | None
    in_search: bool
    trained: float
    tuning: int
    points: int
    plain: int
    rounded: int
    heldout: int
    long: int
    rounds: int
    healed: int = 0
    judged: int = 0


@dataclass(frozen=True)
class Amounts:
    """What minutes have come to.

    Attributes:
        tokens: Budget of the search.
        search_windows: Of the search's text that a candidate is asked on.
        healing: Of healing.
        step_windows: Of a step of healing; 0 where there is none.
        batch_size: Windows of a forward pass of an evaluation.
        points: Of the front, at most.
        long: Whether these are scored in longer windows, where there are any.
        samples: Whether they write samples, where these are wanted.
        plain: Designs that are evaluated beside it; None for as many as usual.
        front_rounds: In which they are timed end to end; None for as many as are asked for.
        end_s: Seconds that the end of the run takes, by estimate.
        seconds: Of the whole command, by estimate.
    """

    tokens: int
    search_windows: int
    healing: int
    step_windows: int
    batch_size: int
    points: int
    end_s: float
    seconds: float
    long: bool = True
    samples: bool = True
    plain: int | None = None
    front_rounds: int | None = None


def amounts_of(minutes: float, speeds: Speeds, work: Work) -> Amounts:
    """Divides minutes, as the module says; where they are too few, the search has its `LEAST`.

    Args:
        minutes: Of the whole command.
        speeds: What was measured.
        work: What is to be done.
    """
    if work.windows is not None:
        return _with_windows(work.windows, minutes, speeds, work)
    windows = min(WINDOWS, work.room)
    while windows < work.room:
        looked_at, _ = _split(windows + 1, _questions(windows + 1, minutes, speeds, work), work)
        enough = windows + 1 > WINDOWS * math.sqrt(looked_at / TOKENS)
        if enough and _questions(windows, minutes, speeds, work) <= QUESTIONS:
            break
        windows += 1
    return _with_windows(windows, minutes, speeds, work)


def question_tokens(windows: int, work: Work) -> float:
    """Tokens of a question, on average."""
    return windows * (CHEAP * work.sizes[0] + (1 - CHEAP) * work.sizes[-1])


def _split(windows: int, questions: int, work: Work) -> tuple[float, float]:
    """Tokens of candidates' text in so many questions, and those of training that come with them."""
    looked_at = questions * question_tokens(windows, work)
    if work.kind == "healing":
        healing = min(HEALED * looked_at, EPOCHS * work.healing_text) if work.healing is None else work.healing
        return looked_at, float(healing)
    if work.kind == "tuning" and work.in_search:
        return looked_at, looked_at * work.trained / (1 - work.trained)
    return looked_at, 0.0


@dataclass(frozen=True)
class _End:
    """What a run may end with; see `Amounts`."""

    points: int
    long: bool
    plain: int
    rounds: int
    samples: bool = True


def _end_s(windows: int, end: _End, speeds: Speeds, work: Work) -> float:
    """Seconds of the end of a run: its points and the dense model scored, tuned, timed and written."""
    members, evaluation, tunes = end.points + 1, speeds.evaluation[speeds.batch_size], work.kind == "tuning"
    text = (end.plain + work.rounded) * windows * work.sizes[-1] + members * work.heldout * (2 if tunes else 1)
    if work.kind and work.in_search:  # members are asked about as they were before it
        text += (end.points + work.rounded) * windows * work.sizes[-1]
    timing = speeds.trying_s + (speeds.timing_s - speeds.trying_s) * end.rounds / work.rounds
    seconds = text / evaluation + PAGES_S + members * (timing + speeds.writing_s * end.samples)
    seconds += (end.points + work.rounded) * speeds.making_s
    if work.long and end.long:
        seconds += members * work.long / speeds.long
    if tunes and not work.in_search:
        seconds += end.points * work.tuning / speeds.training[speeds.step_windows]
    return seconds


def _ending(windows: int, minutes: float, speeds: Speeds, work: Work) -> _End:
    """The end of the run: what takes half of what is left with all of its points, or the least."""
    half, least = (USED * 60 * minutes - speeds.elapsed_s) / 2, min(POINTS, work.points)
    long = not work.long or speeds.long > 0
    ends = [_End(points, long, work.plain, work.rounds) for points in range(work.points, least - 1, -1)]
    if work.long and long:
        ends.append(replace(ends[-1], long=False))
    if speeds.writing_s:
        ends.append(replace(ends[-1], samples=False))
    ends.append(replace(ends[-1], plain=min(PLAIN, work.plain)))
    if speeds.timing_s > speeds.trying_s:
        ends += [replace(ends[-1], rounds=rounds) for rounds in range(work.rounds - 1, ROUNDS - 1, -1)]
    return next((end for end in ends if _end_s(windows, end, speeds, work) <= half), ends[-1])


def _found(end: _End, questions: int) -> _End:
    """The same with as many points as a search finds by so many questions, about."""
    found = math.ceil(FRONT * (1 - CHEAP) * questions)
    return replace(end, points=min(end.points, max(POINTS, found)))


def asked_s(looked_at: float, questions: int, speeds: Speeds) -> float:
    """Seconds in which candidates are asked about, on so many tokens of text in all."""
    return looked_at / speeds.evaluation[speeds.batch_size] + speeds.asking_s(questions)


def judged_s(questions: int, speeds: Speeds, work: Work) -> float:
    """Seconds in which it is found, as healing ends, which designs take half, see `evaluators.training.healing`."""
    healed = min(work.healed, math.ceil((1 - CHEAP) * questions)) if work.kind == "healing" else 0
    tokens = 2 * (healed + 1) * work.judged if healed else 0  # the dense model too
    return tokens / speeds.evaluation[speeds.batch_size] + 2 * healed * speeds.making_s


def _trained_s(training: float, speeds: Speeds) -> float:
    return training / speeds.training[speeds.step_windows] if training else 0.0


def _questions(windows: int, minutes: float, speeds: Speeds, work: Work) -> int:
    """How many questions there is time for, `LEAST` at the least."""
    left, end = USED * 60 * minutes - speeds.elapsed_s, _ending(windows, minutes, speeds, work)

    def seconds(questions: int) -> float:
        looked_at, training = _split(windows, questions, work)
        healed = judged_s(questions, speeds, work) + _trained_s(training, speeds)
        return asked_s(looked_at, questions, speeds) + healed + _end_s(windows, _found(end, questions), speeds, work)

    low, high = LEAST, LEAST
    while seconds(high) <= left:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if seconds(middle) <= left else (low, middle)
    return low


def _with_windows(windows: int, minutes: float, speeds: Speeds, work: Work) -> Amounts:
    questions = _questions(windows, minutes, speeds, work)
    end = _ending(windows, minutes, speeds, work)
    end_s = _end_s(windows, _found(end, questions), speeds, work)
    looked_at, training = _split(windows, questions, work)
    asked = speeds.elapsed_s + end_s + asked_s(looked_at, questions, speeds) + judged_s(questions, speeds, work)
    if questions == LEAST and work.kind == "healing" and work.healing is None:
        left = max(0.0, USED * 60 * minutes - asked) * speeds.training[speeds.step_windows]
        training = min(training, max(left, training * LEAST_HEALED))
    return Amounts(
        tokens=round(looked_at + (training if work.in_search else 0.0)),
        search_windows=windows,
        healing=round(training) if work.kind == "healing" else 0,
        step_windows=speeds.step_windows if work.kind == "healing" else 0,
        batch_size=speeds.batch_size,
        points=end.points,
        long=end.long,
        samples=end.samples,
        plain=None if end.plain == work.plain else end.plain,
        front_rounds=None if end.rounds == work.rounds else end.rounds,
        end_s=end_s,
        seconds=asked + _trained_s(training, speeds),
    )
