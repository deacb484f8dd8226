"""An algorithm told as a script that asks in stages, and never asks the same thing twice."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest

from evaluators.base import Evaluation
from search.protocol import FULL, Question, Task
from space.candidate import Candidate

Answers = Sequence[Evaluation | None]
Script = Generator[list[Question], Answers, None]


class Scripted(ABC):
    """An `Algorithm` that is written down as one function, `script`, from its first question to its last.

    The script yields one stage of questions after the other, each as long as it likes, and is sent the answers to all
    of a stage in order, None where the evaluation failed. Here the stages are cut into generations; what was asked
    before at the same fidelity is answered from memory. So what is asked does not depend on the size of a generation,
    and is a function of the seed and of the answers.

    Attributes:
        task: What to search.
        space: Where, as the task says.
        objectives: What the front is made of, as the task says.
        remark: See `Algorithm`.
        spent: Tokens that the answers at each fidelity took.
    """

    def __init__(self, task: Task) -> None:
        """Set up; nothing is asked yet."""
        self.task = task
        self.space = task.space
        self.objectives = tuple(task.objectives)
        self.remark = ""
        self.spent = [0] * task.fidelities
        self._answers: dict[tuple[str, int], Evaluation | None] = {}
        self._stage: list[Question] = []
        self._queue: deque[Question] = deque()
        self._pending: list[Question] = []
        self._script: Script | None = None
        self._ended = False

    @abstractmethod
    def script(self) -> Script:
        """The whole search; it ends when the script does."""

    def ask(self, n: int) -> list[Question]:
        """See `Algorithm`; fewer than `n` at the end of a stage."""
        self._store(self._pending, [])
        while not self._queue and not self._ended:
            self._next_stage()
        self._pending = [self._queue.popleft() for _ in range(min(n, len(self._queue)))]
        return list(self._pending)

    def tell(self, evaluations: Sequence[Evaluation]) -> None:
        """See `Algorithm`; a question that is left without an answer counts as failed."""
        self._store(self._pending, evaluations)
        self._pending = []

    def was_asked(self, candidate: Candidate, fidelity: int) -> bool:
        """Whether this was asked at this fidelity and answered, or failed."""
        return (candidate.key, fidelity % self.task.fidelities) in self._answers

    def _store(self, questions: Sequence[Question], evaluations: Sequence[Evaluation]) -> None:
        for question, evaluation in zip_longest(questions, evaluations):
            assert evaluation is None or evaluation.candidate == question.candidate
            self.spent[question.fidelity] += evaluation.tokens if evaluation is not None else 0
            ok = evaluation is not None and evaluation.status == "ok"
            self._answers[self._name(question)] = evaluation if ok else None

    def _next_stage(self) -> None:
        """Send the script what it asked for, and queue what is new of the questions that it then has."""
        try:
            if self._script is None:
                self._script = self.script()
                stage = next(self._script)
            else:
                stage = self._script.send([self._answers[self._name(question)] for question in self._stage])
        except StopIteration:
            self._ended = True
            return
        self._stage = stage
        new = {self._name(question): question for question in stage}
        self._queue.extend(
            replace(question, fidelity=FULL if fidelity == self.task.fidelities - 1 else fidelity)
            for (key, fidelity), question in new.items()
            if (key, fidelity) not in self._answers
        )

    def _name(self, question: Question) -> tuple[str, int]:
        return question.candidate.key, question.fidelity % self.task.fidelities


def at(fidelity: int, candidates: Iterable[Candidate]) -> list[Question]:
    """Questions about these candidates at one fidelity."""
    return [Question(candidate, fidelity) for candidate in candidates]
