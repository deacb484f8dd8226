"""The next token of a sequence: the likeliest, or one that is drawn from generators of the sequence's own."""

from __future__ import annotations

import secrets

import torch
from torch import Tensor

from serving.requests import Likely, Sampling

SEEDS = 1 << 63


class Sampler:
    """Draws the tokens of one sequence: what others draw beside it changes nothing."""

    def __init__(self, settings: Sampling) -> None:
        """Draws nothing yet."""
        self._settings = settings
        seed = secrets.randbelow(SEEDS) if settings.seed is None else settings.seed % SEEDS
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, logits: Tensor) -> tuple[int, Likely | None]:
        """The next token, and what is reported of it.

        Args:
            logits: Of the last position, shape (vocab,), in float32, on the CPU.

        Raises:
            ArithmeticError: They are no numbers.
        """
        if not logits.max().isfinite():
            raise ArithmeticError("Expected logits that are numbers, but the model gave others.")
        token = self._token(logits)
        return token, self._likely(logits, token)

    def _token(self, logits: Tensor) -> int:
        settings = self._settings
        if settings.temperature == 0:
            return int(logits.argmax())
        scaled = (logits - logits.max()).double() / settings.temperature  # the likeliest at 0: nothing overflows
        chances = scaled.softmax(-1)
        if settings.top_p < 1:
            ordered, tokens = chances.sort(descending=True, stable=True)
            before = ordered.cumsum(-1) - ordered  # what likelier tokens come to
            ordered[before >= settings.top_p] = 0.0
            ordered[0] = chances[tokens[0]]  # top_p=0 leaves the likeliest
            return int(tokens[torch.multinomial(ordered, 1, generator=self._generator)])
        return int(torch.multinomial(chances, 1, generator=self._generator))

    def _likely(self, logits: Tensor, token: int) -> Likely | None:
        if self._settings.top is None:
            return None
        logprobs = logits.log_softmax(-1)
        values, tokens = logprobs.topk(min(self._settings.top, len(logprobs)))
        top = tuple(zip(tokens.tolist(), values.tolist(), strict=True))
        return Likely(token, float(logprobs[token]), top)
