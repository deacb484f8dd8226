"""Questions that workers are asked together: what waits, what is answered, and of whom workers died."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import replace

from evaluators.base import Evaluation
from space.candidate import Candidate

DEATHS = 2  # of workers that were alone with a candidate, after which it has failed

Part = tuple[Candidate, ...]  # candidates that one worker is handed together


class Round:
    """Questions that are asked together, and what has become of them so far.

    Attributes:
        fidelity: The evaluator's name.
        waiting: Parts that no worker has.
        answers: By candidate, those that nobody has taken yet.
    """

    def __init__(self, fidelity: str, parts: Sequence[Sequence[Candidate]]) -> None:
        """All parts wait."""
        self.fidelity = fidelity
        self.waiting = deque(tuple(part) for part in parts)
        self.answers: dict[Candidate, Evaluation] = {}
        self._deaths: Counter[Candidate] = Counter()

    def answer(self, found: Sequence[Evaluation], worker: str) -> None:
        """Takes in what a worker has answered, with its name."""
        self.answers |= {answer.candidate: replace(answer, worker=worker) for answer in found}

    def lose(self, part: Part, worker: str) -> None:
        """Asks again for candidates whose worker has died, or gives one up that it was alone with."""
        if len(part) > 1:  # one of them may be to blame
            self.waiting.extendleft((candidate,) for candidate in reversed(part))
            return
        (candidate,) = part
        self._deaths[candidate] += 1
        if self._deaths[candidate] < DEATHS:
            self.waiting.appendleft(part)
            return
        error = f"{DEATHS} workers died as they evaluated it."
        self.answer([Evaluation(candidate, self.fidelity, "failed", error=error)], worker)
