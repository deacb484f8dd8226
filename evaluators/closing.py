"""What is asked last in a run, of the front's members as they are exported: long windows, and what they write."""

from __future__ import annotations

from dataclasses import dataclass

from evaluators.base import Evaluator
from evaluators.long_context import LongText
from evaluators.samples import SampleEvaluator, Samples
from evaluators.session import Session


@dataclass(frozen=True)
class Closing:
    """The last questions of a run.

    Attributes:
        evaluators: Who are asked.
        long_context: How many long windows there are, or why none, for people; empty where nobody wants any.
    """

    evaluators: tuple[Evaluator, ...]
    long_context: str

    @staticmethod
    def remarks(session: Session) -> list[str]:
        """What a person should know before the search, in lines: which of them cannot be asked."""
        return LongText.of(session.text, session.settings.text, session.loaded.model.config).remarks()

    @classmethod
    def of(cls, session: Session) -> Closing:
        """Those that a session's settings want."""
        settings, loaded = session.settings, session.loaded
        tokens = settings.evaluators.together * settings.text.length
        long = LongText.of(session.text, settings.text, loaded.model.config)
        asked = long.evaluators(session.supernet, session.finished_model, tokens)
        if settings.samples.prompts:
            asked.append(SampleEvaluator(Samples(loaded.tokenizer, settings.samples), session.finished_model))
        return cls(tuple(asked), long.words)
