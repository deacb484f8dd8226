"""A request on its way: its tokens as they are drawn, its text as it becomes certain, and what is known at its end."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from typing import Any

from torch import Tensor

from serving.requests import End, Listener, Outcome, Piece, Request, Served
from serving.sampling import Sampler
from serving.writing import Writing


class Job:
    """One request of one point; all but `cancel` is for the scheduler alone.

    Attributes:
        point: Who answers.
        request: What was asked.
        tokens: That were drawn.
        outcome: Of its end; None before.
    """

    def __init__(self, point: str, request: Request, listener: Listener, tokenizer: Any, ends: Collection[int]) -> None:
        """Arrives.

        Args:
            point: See above.
            request: See above.
            listener: Told of each piece, and of the end.
            tokenizer: Decodes.
            ends: Tokens by which the model ends a text.
        """
        self.point, self.request = point, request
        self.tokens: list[int] = []
        self.outcome: Outcome | None = None
        self._listener, self._ends = listener, ends
        self._sampler = Sampler(request.sampling)
        self._writing = Writing(tokenizer, request.prompt, request.stop)
        self._cancelled = False
        self._arrived = time.monotonic()
        self._begun: float | None = None
        self._first = self._last = 0.0

    def cancel(self) -> None:
        """Says that nobody waits for it any more; from any thread."""
        self._cancelled = True

    def begin(self) -> None:
        """Says that work on it begins."""
        self._begun = time.monotonic()

    def lost(self, timeout_s: float) -> Outcome | None:
        """Why it is to be ended before its time, if it is.

        Args:
            timeout_s: Seconds that it may take from its arrival on.
        """
        if self._cancelled:
            return "cancelled"
        return "timeout" if time.monotonic() > self._arrived + timeout_s else None

    def take(self, logits: Tensor) -> None:
        """Draws the next token and tells of it; see `outcome` then.

        Args:
            logits: Of its last token, shape (vocab,), in float32, on the CPU.

        Raises:
            ArithmeticError: They are no numbers.
        """
        token, likely = self._sampler.draw(logits)
        self.tokens.append(token)
        self._last = time.monotonic()
        self._first = self._first or self._last
        if token in self._ends:
            self.outcome, likely, text = "stop", None, self._writing.end()
        else:
            text = self._writing.push(token)
            if len(self.tokens) == self.request.new_tokens:
                self.outcome = "length"
                text += self._writing.end()
            if self._writing.stopped:
                self.outcome = "stop"
        if text or likely is not None:
            self._listener(Piece(text, likely))

    def end(self, outcome: Outcome, error: str = "") -> Served:
        """Tells of its end, and gives what is known of it."""
        self.outcome = outcome
        now = time.monotonic()
        first_s = self._first - self._arrived if self._first else None
        token_s = (self._last - self._first) / (len(self.tokens) - 1) if len(self.tokens) > 1 else None
        slo, choice, part = self.request.slo, self.request.choice, None
        whole = outcome in ("stop", "length")
        if slo is not None and whole and first_s is not None:
            part = slo.part(1e3 * first_s, 1e3 * (token_s or 0.0))
        elif slo is not None and outcome in ("timeout", "error"):
            part = math.inf
        self._listener(End(outcome, len(self.tokens), error))
        if whole and choice is not None and choice.learn is not None:
            choice.learn(self.request.prompt, self.tokens)
        if part is not None and choice is not None and choice.took is not None:
            choice.took(part)
        return Served(
            point=self.point,
            prompt_tokens=len(self.request.prompt),
            new_tokens=len(self.tokens),
            outcome=outcome,
            seconds=now - self._arrived,
            waited_s=(now if self._begun is None else self._begun) - self._arrived,
            first_token_s=first_s,
            token_s=token_s,
            slo_kept=None if part is None else part <= 1,
            predicted_loss=choice.loss if choice else None,
            error=error,
        )
