"""Labels of held-out texts: rows of files with a field `label` beside their text, or with words and their `labels`."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evaluators.data.chats import unrendered
from evaluators.data.masking import NO_CLASS
from evaluators.data.places import FIELD, TextPlace
from evaluators.data.rows import READERS, rows_of
from evaluators.data.shards import WORDS, is_words, row_documents
from evaluators.data.splits import TokenSplits, digest_of
from space.errors import UserError

LABEL = "label"
WORD_LABELS = ("labels", "ner_tags", "tags")  # of each word, by custom


def class_of(label: object, classes: Mapping[str, int], where: str) -> int:
    """The number of a class that a label says, by its number or its name.

    Args:
        label: As it was read; tables have numbers as text.
        classes: Name to number, `label2id` of a configuration.
        where: For messages.

    Raises:
        UserError: There is no such class.
    """
    name = str(label).strip()
    number = classes.get(name, int(name) if name.isdecimal() else -1)
    if number not in classes.values():
        raise UserError(
            f"Expected the {LABEL} of {where} to be a class of the model by number or name, of "
            f"{', '.join(map(str, [*classes][:8]))}, got {name[:40]!r}. Mend the data, or the label2id of config.json."
        )
    return number


def labelled_texts(
    place: TextPlace,
    text: TokenSplits,
    tokenizer: PreTrainedTokenizerBase,
    classes: Mapping[str, int],
    length: int,
    most: int,
) -> list[tuple[Tensor, Tensor]]:
    """Held-out texts with a label, each whole and alone, so that none is padded.

    Args:
        place: Where the run's text is.
        text: The run's, which says what is held out.
        tokenizer: The model's.
        classes: See `class_of`.
        length: Tokens of a text, at most; what is longer is cut.
        most: How many texts.

    Returns:
        Token ids (1, time) and classes (1,) of the first ones; empty where the text has no labels.

    Raises:
        UserError: See `class_of`.
    """
    return [
        (torch.tensor([tokenizer(found, truncation=True, max_length=length)["input_ids"]]), torch.tensor([number]))
        for found, number in islice(_classes(place, text.heldout, classes), most)
    ]


def labelled_words(
    place: TextPlace,
    text: TokenSplits,
    tokenizer: PreTrainedTokenizerBase,
    classes: Mapping[str, int],
    length: int,
    most: int,
) -> list[tuple[Tensor, Tensor]]:
    """Held-out texts in words with a label each, see `labelled_texts`.

    Args:
        place: Where the run's text is, as the next ones.
        text: The run's.
        tokenizer: The model's.
        classes: See `class_of`.
        length: Tokens of a text, at most.
        most: How many texts.

    Returns:
        Token ids and classes, both (1, time): a word's first token has its class, all others `NO_CLASS`.

    Raises:
        UserError: See `class_of`; or there are not as many labels as words.
    """
    examples = []
    for _, row, where in islice(_rows(place, text.heldout, WORD_LABELS), most):
        words, labels = row.get(WORDS), next(row[name] for name in WORD_LABELS if row.get(name) is not None)
        if not (is_words(words) and isinstance(labels, list) and len(labels) == len(words)):
            raise UserError(
                f"Expected {where} to have a list of words, {WORDS}, and as long a list of their labels "
                f"({', '.join(WORD_LABELS)}), got {str(words)[:60]} and {str(labels)[:60]}. Mend it, or leave it out."
            )
        cut = tokenizer(" ".join(words), truncation=True, max_length=length, return_offsets_mapping=True)
        own, start = torch.full((1, len(cut["input_ids"])), NO_CLASS), 0
        spans = [(place, *span) for place, span in enumerate(cut["offset_mapping"]) if span[0] < span[1]]
        for word, label in zip(words, labels, strict=True):
            first = next((place for place, begin, end in spans if end > start and begin < start + len(word)), None)
            if first is not None:  # else what was cut
                own[0, first] = class_of(label, classes, where)
            start += len(word) + 1
        examples.append((torch.tensor([cut["input_ids"]]), own))
    return examples


def _classes(place: TextPlace, held: Collection[bytes], classes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for text, row, where in _rows(place, held, (LABEL,)):
        yield text, class_of(row[LABEL], classes, where)


def _rows(
    place: TextPlace, held: Collection[bytes], labels: Sequence[str]
) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Held-out texts with one of these labels, their rows, and where these are."""
    for entry in place.entries:
        for file in entry.files() if entry.is_local else ():
            if not file.name.endswith((*READERS,)):
                continue
            for where, row in rows_of(file, (entry.field or FIELD, WORDS, *labels)):
                labelled = any(row.get(name) not in (None, "") for name in labels)
                documents = [*row_documents(row, entry.field, where, unrendered)] if labelled else []
                if len(documents) == 1 and digest_of(documents[0]) in held:
                    yield documents[0].strip(), row, where
