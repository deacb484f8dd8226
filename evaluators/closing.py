"""What is asked last in a run, of the front's members as they are exported: long windows, labels, texts to write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evaluators.accuracy import accuracy_evaluators
from evaluators.base import Evaluator, ModelOf
from evaluators.long_context import LongText
from evaluators.samples import SampleEvaluator, Samples
from evaluators.session import Session
from evaluators.settings import SampleSettings
from evaluators.vocabulary.of_run import RunVocabulary
from space.candidate import Candidate
from space.formats.trimmed import trimmed_model


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
        return long_text(session).remarks()

    @classmethod
    def of(cls, session: Session) -> Closing:
        """Those that a session's settings want."""
        settings, loaded = session.settings, session.loaded
        tokens = settings.evaluators.together * settings.text.length
        long = long_text(session)
        asked = long.evaluators(session.supernet, session.finished_model, tokens) + accuracy_evaluators(session)
        if settings.samples.prompts and (session.amounts is None or session.amounts.samples):
            whole = Samples(loaded.tokenizer, settings.samples)
            few, model_of = session.vocabulary, session.finished_model
            if few is None:
                asked.append(SampleEvaluator(whole, model_of))
            else:
                asked.append(_of_own_vocabularies(whole, model_of, few, settings.samples))
        return cls(tuple(asked), long.words)


def long_text(session: Session) -> LongText:
    """The long windows, of which there are none where candidates do not all read the same tokens."""
    if session.vocabulary is not None:
        return LongText(None, "none: designs have vocabularies of their own" * (session.settings.text.long is not None))
    return LongText.of(session.text, session.settings.text, session.loaded.model.config)


def _of_own_vocabularies(
    whole: Samples, model_of: ModelOf, vocabulary: RunVocabulary, settings: SampleSettings
) -> SampleEvaluator:
    """What asks each candidate with its own tokenizer."""

    def model(candidate: Candidate) -> Any:
        model = model_of(candidate)
        return trimmed_model(model, vocabulary.kept(candidate.vocabulary)) if candidate.vocabulary else model

    return SampleEvaluator(
        whole, model, lambda candidate: Samples(vocabulary.tokenizer(candidate.vocabulary), settings)
    )
