"""What a server takes on at once; free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from space.checks import require_least
from space.errors import UserError


@dataclass(frozen=True)
class Limits:
    """What a server takes on at once.

    Attributes:
        active: Requests that are written at a time, over all points.
        queue: Requests that wait for that, at most; others are told to come again.
        context: Tokens of a request, those of its prompt and new ones; None for what the model was made for.
        new_tokens: New ones of a request, at most.
        prefill_tokens: Of a prompt that are read between two steps of those who are being written.
        timeout_s: Seconds from a request's arrival to its end.
        body_bytes: Of a request over HTTP.
    """

    active: int = 8
    queue: int = 64
    context: int | None = None
    new_tokens: int = 1024
    prefill_tokens: int = 256
    timeout_s: float = 300.0
    body_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        require_least(self, "limits.", ("active", "queue", "new_tokens", "prefill_tokens", "body_bytes"))
        if self.context is not None and self.context < 2:
            raise UserError(
                f"limits.context: expected at least 2 tokens, or null for the model's own, got {self.context}."
            )
        if not self.timeout_s > 0:
            raise UserError(f"limits.timeout_s: expected seconds above 0, got {self.timeout_s}.")
