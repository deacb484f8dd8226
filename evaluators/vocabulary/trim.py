"""A smaller vocabulary for one export: chosen by what text uses, checked, and its loss measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators.classes import class_divergence, classified
from evaluators.data.places import Part, TextPlace
from evaluators.embeddings import embedded
from evaluators.paths import Stage
from evaluators.session import Session
from evaluators.training.recipes import Recovery
from evaluators.vocabulary.bits import bits_per_byte
from evaluators.vocabulary.contexts import Contexts
from evaluators.vocabulary.pieces import Pieces
from evaluators.vocabulary.ranked import Ranked, Vocabulary, cut, texts_of
from evaluators.vocabulary.settings import VocabularySettings
from evaluators.vocabulary.spelling import Amount, learned_spelling, require_spelling
from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.trimmed import trimmed_model, trimmed_subnet
from space.task import CAUSAL_LM
from space.vocabulary.check import Comparison

_WINDOWS = 32  # at most, of held-out text


@dataclass(frozen=True)
class Lessons:
    """What a trimmed model is to learn.

    Attributes:
        pieces: What stands for dropped tokens.
        contexts: Where text uses these.
        amount: How much of it.
        judged: Texts that nothing is learned from, of which the model must lose less after it.
    """

    pieces: Pieces
    contexts: Contexts
    amount: Amount
    judged: tuple[str, ...]


@dataclass(frozen=True)
class Trim:
    """A level of a model's vocabulary.

    Attributes:
        subnet: What is exported, with the level's tokens alone.
        kept: Their ids in the whole vocabulary.
        ranked: By what they were chosen.
        texts: Held-out ones.
        comparison: How the trimmed tokenizer cuts these.
        whole: The whole vocabulary.
        lessons: What is learned; None for nothing.
    """

    subnet: Subnet
    kept: tuple[int, ...]
    ranked: Ranked
    texts: tuple[str, ...]
    comparison: Comparison
    whole: Vocabulary
    lessons: Lessons | None = None

    def taught(self, model: Any, recovery: Recovery, say: Callable[[str], None], stage: Stage) -> Any:
        """A model whose blocks have learned to do with the level's tokens, where that is better; else the given one.

        Args:
            model: With the whole vocabulary, as what is returned; it stays as it is.
            recovery: How it is trained, as filled in for a task.
            say: Called with a line of what came of it.
            stage: Opened around the training.

        Raises:
            UserError: Training diverged.
        """
        if self.lessons is None:
            return model
        lessons = self.lessons
        with stage("learning to write dropped tokens") as show:
            taught = learned_spelling(
                model, lessons.pieces, lessons.contexts, self.whole.start, lessons.amount, recovery, show
            )
        before, after = (self._bits(each, lessons.judged) for each in (model, taught))
        better = after < before
        line = f"bits a byte of the search's text {before:.4f} before it, {after:.4f} after it"
        say(f"{lessons.amount.tokens} tokens around dropped ones: {line}" + ("" if better else "; it is taken back"))
        return taught if better else model

    def trimmed(self, model: Any, taught: Any, say: Callable[[str], None]) -> tuple[Any, dict[str, object]]:
        """A model with the level's tokens alone, and what its card should say of them.

        Args:
            model: With the whole vocabulary.
            taught: See `taught`.
            say: Called with a line for people.
        """
        small = trimmed_model(taught, self.kept)
        rows = {
            "tokens kept": f"{len(self.kept)} of {self.whole.rows}",
            "chosen by": f"{self.ranked.tokens} tokens of {', '.join(self.ranked.sources)}",
            **_LOSSES[self.subnet.spec.task](self, model, small),
            **self._learned(model, taught),
            "words of that text cut otherwise": f"{self.comparison.recut_share:.1%}",
            "tokens of that text": f"{self.comparison.tokens_now}, {self.comparison.longer:+.1%}",
        }
        for remark in self.ranked.remarks():
            say(f"vocabulary {remark}")
        say("; ".join(f"{what} {value}" for what, value in rows.items()))
        return small, dict(rows)

    def _learned(self, model: Any, taught: Any) -> dict[str, str]:
        """What a card should say of training."""
        if self.lessons is None:
            return {}
        tokens = f"{self.lessons.amount.tokens} tokens"
        if taught is model:
            return {"learning to write dropped tokens": f"taken back, after {tokens}"}
        before = f"{self._bits(model, self.texts):.4f} bits a byte of held-out text before it"
        return {"learned to write dropped tokens": f"from {tokens}; {before}"}

    def _bits(self, model: Any, texts: Sequence[str]) -> float:
        """Bits a byte of texts, by a model without the tokens that are dropped."""
        tokens, start = cut(self.subnet.tokenizer, texts), self.kept.index(self.whole.start)
        return bits_per_byte(trimmed_model(model, self.kept), tokens, texts, start)


def prepared_trim(
    session: Session, subnet: Subnet, settings: VocabularySettings, own: int, stage: Stage
) -> Trim | None:
    """Chooses a level, and checks its tokenizer; None where all tokens stay.

    Args:
        session: Of the run.
        subnet: What is exported, with the whole vocabulary.
        settings: What of it stays, where the design does not say.
        own: What the design says: so many tokens, by the run's own ranking, or 0 for nothing.
        stage: Opened around the count.

    Raises:
        UserError: The tokenizer is of no kind that can be trimmed, or there are too few tokens left, or the trimmed
            tokenizer does not pass its check; or both the design and the settings choose.
    """
    place: TextPlace = session.settings.text if settings.data.path is None else settings.data
    if settings.tokens:
        _require_lessons(session, chosen=bool(own) or settings.keep is not None)
    if own:
        settings.require_none(own)
        few = session.vocabulary
        assert few is not None, "a run whose designs have vocabularies has a space of these"
        whole, ranked, count = few.whole, few.ranked, own
    elif settings.keep is not None:
        if session.spec.task not in _LOSSES:
            raise UserError(
                f"vocabulary.keep: expected null for {session.spec.use.title}, got {settings.keep:g}: what it says of "
                "each token cannot be compared where texts are cut otherwise. Export it with its whole vocabulary."
            )
        whole = Vocabulary(session.loaded, "vocabulary.keep")
        count = whole.count(settings.keep)  # refused before text is read
        ranked = whole.ranked(place, session.text.reserved, settings.characters, session.paths.cache, stage)
    else:
        return None
    kept = ranked.levels.kept(count)
    small = trimmed_subnet(subnet, kept)
    texts, lessons = texts_of_part(session, "heldout"), None
    comparison = whole.compared(small.tokenizer, kept, texts)
    if settings.tokens:
        pieces, amount = Pieces.between(whole.tokenizer, small.tokenizer, kept), Amount.of(settings.tokens)
        contexts = whole.contexts(
            pieces,
            place,
            session.text.reserved,
            settings.characters,
            stage,
            uses=amount.uses,
            windows=amount.windows,
        )
        if not len(contexts.uses):
            raise UserError(
                "vocabulary.tokens: expected text that uses tokens which are dropped, got text without any. Leave it "
                "0, or set vocabulary.data.path to other text."
            )
        lessons = Lessons(pieces, contexts, amount, texts_of_part(session, "search"))
    return Trim(small, kept, ranked, texts, comparison, whole, lessons)


def _require_lessons(session: Session, *, chosen: bool) -> None:
    """Raises UserError where nothing can be learned of dropped tokens, or none are dropped."""
    if not chosen:
        raise UserError(
            "vocabulary.tokens: expected 0 where all tokens stay: what is learned is to do without some. Leave it 0, "
            "or set vocabulary.keep."
        )
    if session.spec.task != CAUSAL_LM:
        raise UserError(
            f"vocabulary.tokens: expected 0 for {session.spec.use.title}: what is learned is to write. Leave it 0."
        )
    require_spelling(session.loaded.model)


def texts_of_part(session: Session, part: Part) -> tuple[str, ...]:
    """Windows of a part of a run's text, as text."""
    length, text = session.settings.text.length, session.text
    windows = text.blocks(part, min(_WINDOWS, text.room(part, length)), length)
    return texts_of(session.loaded.tokenizer, windows, text.start, text.end)


def _lost_bits(trim: Trim, model: Any, small: Any) -> dict[str, str]:
    texts, start = trim.texts, trim.whole.start
    before = bits_per_byte(model, cut(trim.whole.tokenizer, texts), texts, start)
    after = bits_per_byte(small, cut(trim.subnet.tokenizer, texts), texts, trim.kept.index(start))
    return {
        "bits a byte of held-out text, whole vocabulary": f"{before:.4f}",
        "bits a byte of held-out text, this one": f"{after:.4f} ({after / before - 1:+.1%})",
    }


def _lost_cosine(trim: Trim, model: Any, small: Any) -> dict[str, str]:
    pooling = trim.subnet.spec.pooling
    whole, own = (
        embedded(each, tokenizer(list(trim.texts), verbose=False)["input_ids"], pooling)
        for each, tokenizer in ((model, trim.whole.tokenizer), (small, trim.subnet.tokenizer))
    )
    distance = 1 - (whole * own).sum(-1).mean().item()
    return {"1 − cosine to embeddings with the whole vocabulary, held-out text": f"{distance:.4f}"}


def _lost_class_probabilities(trim: Trim, model: Any, small: Any) -> dict[str, str]:
    whole, own = (
        classified(each, tokenizer(list(trim.texts), verbose=False)["input_ids"])
        for each, tokenizer in ((model, trim.whole.tokenizer), (small, trim.subnet.tokenizer))
    )
    divergence = class_divergence(own, whole).mean().item()
    return {"KL of class probabilities to those with the whole vocabulary, held-out text, nats": f"{divergence:.4f}"}


# By task: what its models lose with the rows of the others, as a card says it.
_LOSSES: Mapping[str, Callable[[Trim, Any, Any], dict[str, str]]] = {
    CAUSAL_LM: _lost_bits,
    "embeddings": _lost_cosine,
    "text_classification": _lost_class_probabilities,
}
