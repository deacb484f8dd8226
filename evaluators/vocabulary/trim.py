"""A smaller vocabulary for one export: chosen by what text uses, checked, and its loss measured in bits per byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from evaluators.data.chats import renderer
from evaluators.data.sources import text_sources
from evaluators.data.splits import encoder
from evaluators.paths import Stage
from evaluators.session import Session
from evaluators.vocabulary.bits import bits_per_byte
from evaluators.vocabulary.counts import TokenCounts, token_counts
from evaluators.vocabulary.settings import VocabularySettings
from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.trimmed import named_tokens, tokenizer_contents, trimmed_model, trimmed_subnet
from space.vocabulary.check import CHARACTERS, Comparison, compared
from space.vocabulary.kinds import ids_of
from space.vocabulary.levels import Levels

_WINDOWS = 32  # at most, of held-out text
_CHATS = (  # of which a template takes one at least
    [{"role": role, "content": "Hello"} for role in ("system", "user", "assistant")],
    [{"role": role, "content": "Hello"} for role in ("user", "assistant")],
)


@dataclass(frozen=True)
class Trim:
    """A level of a model's vocabulary.

    Attributes:
        subnet: What is exported, with the level's tokens alone.
        kept: Their ids in the whole vocabulary.
        rows: Of the dense model's embedding matrix.
        counts: By which they were chosen.
        texts: Held-out ones.
        comparison: How the trimmed tokenizer cuts these.
        start: The token that stands before each of them, by its id in the whole vocabulary.
        whole: The whole vocabulary's tokenizer.
    """

    subnet: Subnet
    kept: tuple[int, ...]
    rows: int
    counts: TokenCounts
    texts: tuple[str, ...]
    comparison: Comparison
    start: int
    whole: Any

    def trimmed(self, model: Any, say: Callable[[str], None]) -> tuple[Any, dict[str, object]]:
        """A model with the level's tokens alone, and what its card should say of them."""
        small = trimmed_model(model, self.kept)
        before = bits_per_byte(model, _cut(self.whole, self.texts), self.texts, self.start)
        start = self.kept.index(self.start)
        after = bits_per_byte(small, _cut(self.subnet.tokenizer, self.texts), self.texts, start)
        rows = {
            "tokens kept": f"{len(self.kept)} of {self.rows}",
            "chosen by": f"{self.counts.tokens} tokens of {', '.join(self.counts.sources)}",
            "bits a byte of held-out text, whole vocabulary": f"{before:.4f}",
            "bits a byte of held-out text, this one": f"{after:.4f} ({after / before - 1:+.1%})",
            "words of that text cut otherwise": f"{self.comparison.recut_share:.1%}",
            "tokens of that text": f"{self.comparison.tokens_now}, {self.comparison.longer:+.1%}",
        }
        say("; ".join(f"{what} {value}" for what, value in rows.items()))
        return small, dict(rows)


def prepared_trim(session: Session, subnet: Subnet, settings: VocabularySettings, stage: Stage) -> Trim:
    """Chooses a level, and checks its tokenizer.

    Args:
        session: Of the run.
        subnet: What is exported, with the whole vocabulary.
        settings: What of it stays.
        stage: Opened around the count.

    Raises:
        UserError: The tokenizer is of no kind that can be trimmed, or there are too few tokens left, or the trimmed
            tokenizer does not pass its check.
    """
    tokenizer, spec = subnet.tokenizer, subnet.spec
    if tokenizer is None:
        raise UserError("vocabulary.keep: expected a model with a tokenizer, got none. Leave it null.")
    contents = tokenizer_contents(tokenizer)
    always = named_tokens(subnet.config, subnet.generation_config) | _of_chats(tokenizer)
    make = partial(Levels.of, contents, always=always)
    make(()).count(settings.keep or 1.0)  # refused before text is read
    if (last := max(ids_of(contents).values())) >= spec.vocab:
        raise UserError(
            f"vocabulary.keep: expected a tokenizer of at most {spec.vocab} tokens, which the model embeds, but it "
            f"has one with the id {last}. Leave it null."
        )
    counts = _counts(session, settings, contents, stage)
    levels = make(counts.counts)
    kept = levels.kept(levels.count(settings.keep or 1.0))
    small = trimmed_subnet(subnet, kept)
    texts = _heldout(session)
    whole, trimmed = tokenizer.backend_tokenizer, small.tokenizer.backend_tokenizer
    compared(whole, trimmed, kept, [CHARACTERS, *(token["content"] for token in contents["added_tokens"])])
    comparison = compared(whole, trimmed, kept, texts)
    start = next((index for index in (tokenizer.bos_token_id, tokenizer.eos_token_id) if index is not None), kept[0])
    return Trim(small, kept, spec.vocab, counts, texts, comparison, start, tokenizer)


def _counts(session: Session, settings: VocabularySettings, contents: dict[str, Any], stage: Stage) -> TokenCounts:
    tokenizer, rows = session.loaded.tokenizer, session.spec.vocab
    place = session.settings.text if settings.data.path is None else settings.data
    with stage("counting tokens") as show:
        return token_counts(
            text_sources(place, render=renderer(tokenizer)),
            encoder(tokenizer, rows),
            rows,
            reserved=session.text.reserved,
            characters=int(settings.characters),
            tokenizer=hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest(),
            cache=session.paths.cache / "vocabulary",
            show=show,
        )


def _of_chats(tokenizer: Any) -> set[int]:
    """The tokens of a chat's frame, which its template may write in words of the vocabulary."""
    render = renderer(tokenizer)
    for chat in _CHATS if tokenizer.chat_template else ():
        try:
            return set(tokenizer(render(chat, "a chat of one turn"), add_special_tokens=False)["input_ids"])
        except UserError:
            if chat is _CHATS[-1]:
                raise
    return set()


def _heldout(session: Session) -> tuple[str, ...]:
    """Held-out windows as text, without a character that a window's bounds cut."""
    length, text = session.settings.text.length, session.text
    windows = text.blocks("heldout", min(_WINDOWS, text.room("heldout", length)), length)
    rows = windows[:, 0 if text.start is None else 1 :].tolist()
    texts = session.loaded.tokenizer.batch_decode(rows, clean_up_tokenization_spaces=False)
    return tuple(whole for each in texts if (whole := each.strip("\N{REPLACEMENT CHARACTER}")))


def _cut(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    cut: list[list[int]] = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
    return cut
