"""What the routes take: the parts of OpenAI's requests that this server does, and those that change nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

MOST_STOPS, MOST_TOP_COMPLETION, MOST_TOP_CHAT = 4, 5, 20
Token = Annotated[int, Field(strict=True, ge=0)]


def _clean(text: str) -> str:
    """Text that is Unicode: JSON may name halves of characters, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"expected Unicode text, got half of a surrogate pair at character {error.start}") from error
    return text


Text = Annotated[str, Field(strict=True), AfterValidator(_clean)]
StopText = Annotated[Text, Field(min_length=1, max_length=256)]

# What clients send that this server has one way of doing: other values than these are refused, not forgotten.
SINGLE: Mapping[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "service_tier": ("auto", "default"),
    "store": (False,),
}
UNREAD = ("user", "metadata", "safety_identifier", "prompt_cache_key")  # of people and accounts


class StreamOptions(BaseModel):
    """How an answer comes piece by piece."""

    include_usage: bool = False


class Asked(BaseModel):
    """What both kinds of request have."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: Text
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, ge=0, le=1)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stop: StopText | Annotated[list[StopText], Field(max_length=MOST_STOPS)] | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    slo_ms: float | None = Field(None, gt=0)
    slo_token_ms: float | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _without_what_changes_nothing(cls, values: Any) -> Any:
        """Takes out nulls, which stand for defaults, what is not read, and what has its only value.

        Raises:
            ValueError: That has another one.
        """
        if not isinstance(values, dict):
            return values
        left = {name: value for name, value in values.items() if value is not None and name not in UNREAD}
        for name, allowed in SINGLE.items():
            if name in left and name not in cls.model_fields:
                value = left.pop(name)
                if value not in allowed:
                    raise ValueError(f"{name}: this server takes {' or '.join(map(repr, allowed))} alone")
        return left

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop sequences."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())


class CompletionAsked(Asked):
    """Of `/v1/completions`."""

    prompt: Text | list[Text] | list[Token] | list[list[Token]]
    max_tokens: int = Field(16, ge=1)
    logprobs: int | None = Field(None, ge=0, le=MOST_TOP_COMPLETION)


class TextPart(BaseModel):
    """A part of a message; no other kind is read."""

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """Of a chat."""

    model_config = ConfigDict(extra="ignore")  # names and refusals of earlier answers

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    @property
    def text(self) -> str:
        """All of it."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatAsked(Asked):
    """Of `/v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=MOST_TOP_CHAT)

    @property
    def top(self) -> int | None:
        """How many of the likeliest tokens are reported; None for none, and no log-probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None
