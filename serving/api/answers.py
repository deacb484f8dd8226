"""Answers in OpenAI's form, whole and in pieces."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.requests import Likely

Json = dict[str, Any]


class Tokens:
    """The tokens of log-probabilities as text."""

    def __init__(self, tokenizer: Any) -> None:
        """Decodes with a tokenizer of its own, one token at a time."""
        self._tokenizer = tokenizer

    def text(self, token: int) -> str:
        """A token's text; a part of a character is shown as such."""
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))


@dataclass
class Written:
    """One answer, as far as it is there.

    Attributes:
        text: Its text, or the new part of it.
        likely: What was drawn of that, where this is asked for.
        finish: Why it ended; None before.
    """

    text: str = ""
    likely: list[Likely] = field(default_factory=list)
    finish: str | None = None


def usage(prompt: int, new: int) -> Json:
    """Tokens that were read and written."""
    return {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}


class Form(Protocol):
    """One of the two kinds of answer."""

    def whole(self, written: Sequence[Written], counts: Json) -> Json:
        """All answers, complete."""

    def piece(self, index: int, written: Written) -> Json:
        """More of one."""

    def opening(self, index: int) -> Json | None:
        """What comes before the first piece of one, if anything."""

    def counts(self, counts: Json) -> Json:
        """A last piece, with the tokens."""


class CompletionForm:
    """Of `/v1/completions`."""

    def __init__(self, model: str, tokens: Tokens, logprobs: bool) -> None:
        """Of one request.

        Args:
            model: The id of the point that answers.
            tokens: As text.
            logprobs: Whether they are asked for.
        """
        self._head = {"id": f"cmpl-{secrets.token_hex(12)}", "object": "text_completion", "created": int(time.time())}
        self._head["model"] = model
        self._tokens, self._logprobs = tokens, logprobs
        self._offsets: dict[int, int] = {}  # characters of each answer that log-probabilities have gone over

    def whole(self, written: Sequence[Written], counts: Json) -> Json:
        """See `Form`."""
        return self._head | {"choices": [self._choice(*each) for each in enumerate(written)], "usage": counts}

    def piece(self, index: int, written: Written) -> Json:
        """See `Form`."""
        return self._head | {"choices": [self._choice(index, written)]}

    def opening(self, index: int) -> Json | None:
        """See `Form`: nothing."""
        return None

    def counts(self, counts: Json) -> Json:
        """See `Form`."""
        return self._head | {"choices": [], "usage": counts}

    def _choice(self, index: int, written: Written) -> Json:
        logprobs = self._likely(index, written.likely) if self._logprobs else None
        return {"index": index, "text": written.text, "logprobs": logprobs, "finish_reason": written.finish}

    def _likely(self, index: int, likely: Sequence[Likely]) -> Json:
        texts, offsets = [self._tokens.text(each.token) for each in likely], []
        for text in texts:
            offsets.append(self._offsets.get(index, 0))
            self._offsets[index] = offsets[-1] + len(text)
        return {
            "tokens": texts,
            "token_logprobs": [each.logprob for each in likely],
            "top_logprobs": [{self._tokens.text(token): value for token, value in each.top} for each in likely],
            "text_offset": offsets,
        }


class ChatForm:
    """Of `/v1/chat/completions`."""

    def __init__(self, model: str, tokens: Tokens, logprobs: bool) -> None:
        """See `CompletionForm`."""
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._tokens, self._logprobs = tokens, logprobs

    def whole(self, written: Sequence[Written], counts: Json) -> Json:
        """See `Form`."""
        choices = [
            self._choice(index, each) | {"message": {"role": "assistant", "content": each.text, "refusal": None}}
            for index, each in enumerate(written)
        ]
        return self._head | {"object": "chat.completion", "choices": choices, "usage": counts}

    def piece(self, index: int, written: Written) -> Json:
        """See `Form`."""
        return self._chunk(
            [self._choice(index, written) | {"delta": {"content": written.text} if written.text else {}}]
        )

    def opening(self, index: int) -> Json | None:
        """See `Form`: who speaks."""
        return self._chunk([self._choice(index, Written()) | {"delta": {"role": "assistant", "content": ""}}])

    def counts(self, counts: Json) -> Json:
        """See `Form`."""
        return self._chunk([]) | {"usage": counts}

    def _chunk(self, choices: list[Json]) -> Json:
        return self._head | {"object": "chat.completion.chunk", "choices": choices}

    def _choice(self, index: int, written: Written) -> Json:
        logprobs = {"content": [self._likely(each) for each in written.likely]} if self._logprobs else None
        return {"index": index, "logprobs": logprobs, "finish_reason": written.finish}

    def _likely(self, likely: Likely) -> Json:
        top = [self._token(token, value) for token, value in likely.top]
        return self._token(likely.token, likely.logprob) | {"top_logprobs": top}

    def _token(self, token: int, logprob: float) -> Json:
        text = self._tokens.text(token)
        part = "\ufffd" in text  # of a character: its bytes are not known
        return {"token": text, "logprob": logprob, "bytes": None if part else [*text.encode()]}
