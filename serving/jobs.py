"""A request on its way: its tokens as they are drawn, its text as it becomes certain, and what is known at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor

from serving.demand import Expected
from serving.load import Underway
from serving.requests import End, Listener, Outcome, Piece, Request, Served
from serving.sampling import Sampler
from serving.switching import Move
from serving.writing import Writing


class Job:
    """One request of one point; all but `cancel` is for the scheduler alone.

    Attributes:
        point: Who answers now.
        request: What was asked.
        tokens: That were drawn.
        outcome: Of its end; None before.
    """

    def __init__(
        self,
        point: str,
        request: Request,
        listener: Listener,
        tokenizer: Any,
        ends: Collection[int],
        clock: Callable[[], float],
    ) -> None:
        """Arrives.

        Args:
            point: See above.
            request: See above.
            listener: Told of each piece, and of the end.
            tokenizer: Decodes.
            ends: Tokens by which the model ends a text.
            clock: Seconds.
        """
        self.point, self.request = point, request
        self.tokens: list[int] = []
        self.outcome: Outcome | None = None
        self._listener, self._ends = listener, ends
        self._sampler = Sampler(request.sampling)
        self._by: Counter[str] = Counter()  # tokens that each point has drawn
        self._moves: list[Move] = []
        self._writing = Writing(tokenizer, request.prompt, request.stop)
        self._cancelled = False
        self._clock = clock
        self._arrived = clock() if request.came is None else request.came
        self._begun: float | None = None
        self._first: float | None = None
        self._last = 0.0

    def cancel(self) -> None:
        """Says that nobody waits for it any more; from any thread."""
        self._cancelled = True

    @property
    def free(self) -> bool:
        """Whether it was left open who answers."""
        return self.request.choice is not None

    def go_on(self, point: str) -> None:
        """Says that another point goes on with it."""
        self._moves.append((self.point, point))
        self.point = point

    def begin(self) -> None:
        """Says that work on it begins."""
        self._begun = self._clock()

    def underway(self, unread: int, expected: Expected) -> Underway:
        """What it is for forecasts; from any thread.

        Args:
            unread: Tokens of its prompt that are not read.
            expected: How much is likely to be written.
        """
        written, first = len(self.tokens), self._first
        return Underway(
            point=self.point,
            unread=unread,
            unwritten=max(expected.length(self.request.new_tokens) - written, 1),
            written=written,
            age_ms=1e3 * (self._clock() - self._arrived),
            first_ms=0.0 if first is None else 1e3 * (first - self._arrived),
            slo=self.request.slo,
            free=self.free,
        )

    def lost(self, timeout_s: float) -> Outcome | None:
        """Why it is to be ended before its time, if it is.

        Args:
            timeout_s: Seconds that it may take from its arrival on.
        """
        if self._cancelled:
            return "cancelled"
        return "timeout" if self._clock() > self._arrived + timeout_s else None

    def take(self, logits: Tensor) -> None:
        """Draws the next token and tells of it; see `outcome` then.

        Args:
            logits: Of its last token, shape (vocab,), in float32, on the CPU.

        Raises:
            ArithmeticError: They are no numbers.
        """
        token, likely = self._sampler.draw(logits)
        self.tokens.append(token)
        self._by[self.point] += 1
        self._last = self._clock()
        self._first = self._last if self._first is None else self._first
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

    def end(self, outcome: Outcome, on_served: Callable[[Served], None], error: str = "") -> None:
        """Ends.

        Args:
            outcome: See above.
            on_served: Told what is known of it, before the listener, who may look at once at what was counted.
            error: Why, in words.
        """
        self.outcome = outcome
        now = self._clock()
        first_s = None if self._first is None else self._first - self._arrived
        token_s = None
        if self._first is not None and len(self.tokens) > 1:
            token_s = (self._last - self._first) / (len(self.tokens) - 1)
        slo, choice, kept = self.request.slo, self.request.choice, None
        whole = outcome in ("stop", "length")
        if slo is not None and whole and first_s is not None:
            kept = slo.part(1e3 * first_s, 1e3 * (token_s or 0.0)) <= 1
        elif slo is not None and outcome in ("timeout", "error"):
            kept = False
        began = self._moves[0][0] if self._moves else self.point
        served = Served(
            point=began,
            prompt_tokens=len(self.request.prompt),
            new_tokens=len(self.tokens),
            outcome=outcome,
            seconds=now - self._arrived,
            waited_s=(now if self._begun is None else self._begun) - self._arrived,
            first_token_s=first_s,
            token_s=token_s,
            slo_kept=kept,
            predicted_loss=choice.loss if choice else None,
            error=error,
            others={point: count for point, count in self._by.items() if point != began},
            moves=tuple(self._moves),
        )
        try:
            on_served(served)
        finally:
            self._listener(End(outcome, len(self.tokens), error))
        if whole and choice is not None and choice.learn is not None:
            choice.learn(self.request.prompt, self.tokens)
