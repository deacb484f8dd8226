"""What is asked of a point, and what comes back piece by piece; free of torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["stop", "length", "cancelled", "timeout", "error"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        temperature: 0 for the likeliest token.
        top_p: Of the likeliest tokens, so many that their probabilities come to this.
        seed: Of the draws; None for a new one.
        top: How many of the likeliest tokens are reported with each one that is drawn; None for no log-probabilities.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    top: int | None = None


@dataclass(frozen=True)
class Slo:
    """How fast an answer is to be, in milliseconds; None where that is left open.

    Attributes:
        first_token_ms: From arrival to the first token.
        token_ms: From one token to the next.
    """

    first_token_ms: float | None = None
    token_ms: float | None = None

    def part(self, first_token_ms: float, token_ms: float) -> float:
        """The largest part of a limit that such times take: above 1 where they are too long, 0 without limits."""
        pairs = (self.first_token_ms, first_token_ms), (self.token_ms, token_ms)
        return max((ms / limit for limit, ms in pairs if limit is not None), default=0.0)


@dataclass(frozen=True)
class Choice:
    """Who answers a request that has left it open.

    Attributes:
        point: Its id.
        loss: Nats a token that it is expected to lose against the dense model; None where nobody predicts that.
        learn: Told the prompt and the whole answer in tokens, in the scheduler's thread; None where nobody learns.
    """

    point: str
    loss: float | None = None
    learn: Callable[[Sequence[int], Sequence[int]], None] | None = None


@dataclass(frozen=True)
class Request:
    """A text to be continued.

    Attributes:
        prompt: Token ids, at least one.
        new_tokens: To be written at most.
        sampling: How.
        stop: Texts at which it ends, without them.
        slo: How fast the answer is to be; None where that is left open.
        choice: Who answers, where a controller has chosen.
        came: When it did, in seconds by the scheduler's clock; None for when that is told of it.
    """

    prompt: tuple[int, ...]
    new_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    slo: Slo | None = None
    choice: Choice | None = None
    came: float | None = None


@dataclass(frozen=True)
class Likely:
    """A token that was drawn, with the model's own log-probabilities, whatever the temperature.

    Attributes:
        token: Its id.
        logprob: Its own.
        top: The likeliest ones with theirs, likeliest first.
    """

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """More of an answer.

    Attributes:
        text: That is certain by now; empty while it may be the beginning of a stop sequence, or of a character.
        likely: What was drawn, where the request asks for that.
    """

    text: str
    likely: Likely | None = None


@dataclass(frozen=True)
class End:
    """The end of an answer, the last that is said of it.

    Attributes:
        outcome: `stop`: the model or a stop sequence ended it; `length`: all its tokens are written.
        new_tokens: That were written.
        error: What went wrong, where something did.
    """

    outcome: Outcome
    new_tokens: int
    error: str = ""


@dataclass(frozen=True)
class Served:
    """What a server knows of a request when that has ended: what it logs and counts.

    Attributes:
        point: Who answered, or began to.
        prompt_tokens: Of the prompt.
        new_tokens: That were written.
        outcome: See `End`.
        seconds: From arrival to end.
        waited_s: From arrival to the first work on it; to its end where there was none.
        first_token_s: From arrival to the first token; None where there was none.
        token_s: Between two tokens, on average; None with fewer than two.
        slo_kept: Whether it was as fast as was asked for; None where nothing was, or no answer came.
        predicted_loss: See `Choice.loss`.
        error: See `End`.
        others: New tokens that other points wrote, by point.
        moves: From which point to which other one it went, in order.
    """

    point: str
    prompt_tokens: int
    new_tokens: int
    outcome: Outcome
    seconds: float
    waited_s: float
    first_token_s: float | None
    token_s: float | None
    slo_kept: bool | None
    predicted_loss: float | None = None
    error: str = ""
    others: Mapping[str, int] = field(default_factory=dict)
    moves: Sequence[tuple[str, str]] = ()


Listener = Callable[[Piece | End], None]  # called in the scheduler's thread: it only passes on what it is told


class BusyError(Exception):
    """As many requests wait as may."""

    def __init__(self, retry_s: int) -> None:
        """Says when to come again.

        Args:
            retry_s: Seconds after which there should be room.
        """
        super().__init__(f"As many requests wait as may. Ask again in {retry_s} seconds.")
        self.retry_s = retry_s
