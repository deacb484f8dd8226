"""Chats as text: lists of messages, rendered by the tokenizer's own template."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from space.errors import UserError

if TYPE_CHECKING:  # settings are read without what is slow to import
    from transformers import PreTrainedTokenizerBase

FIELDS = ("messages", "conversations")  # of a row, by custom
_ROLES = {"human": "user", "gpt": "assistant"}  # in chats that say who a message is `from`, and its `value`
# Some templates state the day. A run's text is the same on another one, so it is always the day that Llama's have.
_DAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}\n"

Message = Mapping[str, Any]
Render = Callable[[Sequence[Message], str], str]


def messages_of(value: Any) -> list[Message] | None:
    """The messages of a chat, each with a role and its content; None where the value is not a chat."""
    if not isinstance(value, list) or not all(isinstance(message, Mapping) for message in value):
        return None
    messages: list[Message] = []
    for given in value:
        message = dict(given)
        if "role" not in message and "from" in message:
            role = message.pop("from")
            message |= {"role": _ROLES.get(role, role), "content": message.pop("value", None)}
        if message.get("content") is None:
            message["content"] = ""  # of a message that calls a tool
        if isinstance(message["content"], list) and all(map(_is_text, message["content"])):
            message["content"] = "".join(part["text"] for part in message["content"])
        if not isinstance(message.get("role"), str) or not isinstance(message["content"], str):
            return None
        messages.append(message)
    return messages


def _is_text(part: Any) -> bool:
    """Whether a part of a message's content is text, not an image or a sound."""
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def unpacked(value: Any) -> Any:
    """The messages of a chat that is written as JSON, as tables have it; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        messages = json.loads(value)
    except ValueError:
        return value
    return value if messages_of(messages) is None else messages


def renderer(tokenizer: PreTrainedTokenizerBase) -> Render:
    """What makes text of messages, and of where they are, for messages to people.

    Returns:
        A function that raises a UserError where the tokenizer has no template for chats, or one that refuses these.
    """
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        return unrendered

    def render(messages: Sequence[Message], where: str) -> str:
        try:
            template = tokenizer.get_chat_template()
            if "strftime_now" in template:
                template = _DAY + template
            return tokenizer.apply_chat_template(list(messages), chat_template=template, tokenize=False)
        except (TemplateError, ValueError, TypeError) as error:
            raise UserError(
                f"Expected the tokenizer's chat template to render the chat in {where}, but got: {error}. Leave the "
                "chat out, or change it to what the template takes."
            ) from error

    return render


def unrendered(messages: Sequence[Message], where: str) -> str:
    """Refuses: there is no template."""
    raise UserError(
        f"Expected a tokenizer with a chat template for the chat in {where}, but the model's has none. Give the "
        "model's directory the template of a model of its kind (chat_template.jinja), or write chats as text into a "
        "field and name it with data.field."
    )
