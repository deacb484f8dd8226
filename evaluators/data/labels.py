"""Labels of held-out texts: rows of files that have a field `label` beside their text, as data sets call it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from evaluators.data.chats import unrendered
from evaluators.data.places import FIELD, TextPlace
from evaluators.data.rows import READERS, rows_of
from evaluators.data.shards import row_documents
from evaluators.data.splits import TokenSplits, digest_of
from space.errors import UserError

LABEL = "label"


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
    held = text.heldout
    return [
        (torch.tensor([tokenizer(found, truncation=True, max_length=length)["input_ids"]]), torch.tensor([number]))
        for found, number in islice(_rows(place, held, classes), most)
    ]


def _rows(place: TextPlace, held: Collection[bytes], classes: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for entry in place.entries:
        for file in entry.files() if entry.is_local else ():
            if not file.name.endswith((*READERS,)):
                continue
            for where, row in rows_of(file, (entry.field or FIELD, LABEL)):
                label: Any = row.get(LABEL)
                documents = [] if label in (None, "") else [*row_documents(row, entry.field, where, unrendered)]
                if len(documents) == 1 and digest_of(documents[0]) in held:
                    yield documents[0].strip(), class_of(label, classes, where)
