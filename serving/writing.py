"""Text out of tokens as they come: whole characters, and nothing of a stop sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BEFORE = 6  # tokens of the prompt that are decoded with what follows: alone, some tokenizers would drop its first blank
PART = "\ufffd"  # what a decoder makes of the first bytes of a character


class Writing:
    """The text of one sequence."""

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str]) -> None:
        """Has no text yet.

        Args:
            tokenizer: What decodes.
            prompt: The tokens before.
            stop: Texts that end it, none of them empty.
        """
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._tokens = [*prompt[-BEFORE:]]
        self._told = self._decoded(self._tokens)  # of the tokens from `_tokens[0]` on, what is told or held
        self._from = len(self._tokens)  # tokens whose text is in `_told`
        self._held = ""  # what may be the beginning of a stop sequence
        self.stopped = False

    def push(self, token: int) -> str:
        """Takes in a token; the text that is certain by it."""
        self._tokens.append(token)
        text = self._decoded(self._tokens)
        if text.endswith(PART) or len(text) <= len(self._told):
            return ""
        new = text[len(self._told) :]
        self._tokens = self._tokens[self._from :]  # the last ones that were told stay, for what follows
        self._from, self._told = len(self._tokens), self._decoded(self._tokens)
        return self._passed(new)

    def end(self) -> str:
        """What is left at the end: what was held, and bytes that are no character."""
        if self.stopped:
            return ""
        new = self._decoded(self._tokens)[len(self._told) :]
        text = self._passed(new) + ("" if self.stopped else self._held)
        self._held = ""
        return text

    def _passed(self, new: str) -> str:
        """What may be told, up to a stop sequence or what may become one."""
        text = self._held + new
        ends = [at for at in (text.find(stop) for stop in self._stop) if at >= 0]
        if ends:
            self.stopped, self._held = True, ""
            return text[: min(ends)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def _decoded(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))


def _overlap(text: str, stop: str) -> int:
    """How many of a text's last characters are the first ones of a stop sequence, though not all of that."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
