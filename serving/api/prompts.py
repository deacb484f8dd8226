"""From the texts and chats of requests to tokens."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from serving.api.errors import ApiError
from serving.api.schema import Message

Prompt = str | list[str] | list[int] | list[list[int]]


class Prompts:
    """Encodes, one request at a time: a tokenizer is not safe between threads."""

    def __init__(self, tokenizer: Any, vocab: int) -> None:
        """Encodes nothing yet.

        Args:
            tokenizer: Its own.
            vocab: How many tokens the model knows.
        """
        self._tokenizer, self._vocab = tokenizer, vocab
        self._lock = threading.Lock()

    def texts(self, prompt: Prompt) -> list[tuple[int, ...]]:
        """Token ids of each text of a completion; texts get the special tokens with which the tokenizer begins.

        Raises:
            ApiError: There is no text, one has no tokens, or a token is none of the model's.
        """
        if isinstance(prompt, str):
            rows: Sequence[Any] = [prompt]
        else:
            rows = [prompt] if prompt and isinstance(prompt[0], int) else prompt
        if not rows:
            raise ApiError(
                400, "prompt: expected a text, a list of texts, or tokens, got an empty list.", param="prompt"
            )
        with self._lock:
            ids = [self._tokenizer(row, verbose=False)["input_ids"] if isinstance(row, str) else row for row in rows]
        return [self._checked(row, "prompt") for row in ids]

    def chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Token ids of a chat, up to where the assistant is to speak.

        Raises:
            ApiError: The tokenizer has no chat template, or it refuses the messages.
        """
        if not self._tokenizer.chat_template:
            raise ApiError(
                400,
                "Expected a model whose tokenizer has a chat template, but this one has none: it was not made for "
                "chats. Ask /v1/completions instead.",
                code="no_chat_template",
            )
        turns = [{"role": message.role, "content": message.text} for message in messages]
        try:
            with self._lock:
                text = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
                ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        except TemplateError as error:
            raise ApiError(
                400, f"messages: the model's chat template refuses them: {error}", param="messages"
            ) from error
        return self._checked(ids, "messages")

    def _checked(self, ids: Sequence[int], param: str) -> tuple[int, ...]:
        if not ids:
            raise ApiError(400, f"{param}: expected text, but the tokenizer makes no tokens of it.", param=param)
        if (most := max(ids)) >= self._vocab:
            raise ApiError(400, f"{param}: expected tokens below {self._vocab}, got {most}.", param=param)
        return tuple(ids)
