"""What a controller may ask the models: a first look at a prompt, and what a point has lost against the dense model."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from serving.controllers import DENSE
from serving.difficulty import Fit, Look, LossModel
from serving.scheduler import Scheduler

LOOK_TOKENS = 32  # of a prompt's end, that a look reads at most: all of it would say no more, and takes longer
COMPARED_TOKENS, BEFORE = 64, 448  # of an answer, that are compared at most, and what is read before them
_log = logging.getLogger(__name__)


class Senses:
    """Asks the models in the scheduler's thread; from any thread.

    Attributes:
        smallest: The point that looks at prompts.
        fit: See `serving.fitting.fitted_losses`.
        place: Where a controller may keep what it has learned.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        smallest: str,
        scheduler: Scheduler,
        fit: Callable[[], tuple[LossModel, Fit]],
        place: Path,
    ) -> None:
        """Asks nothing yet.

        Args:
            models: By point, causal language models.
            smallest: See above.
            scheduler: Who works with them.
            fit: See above.
            place: See above.
        """
        self.smallest, self.fit, self.place = smallest, fit, place
        self._models, self._scheduler = models, scheduler

    def look(self, prompt: Sequence[int]) -> Look:
        """What the smallest point thinks of a prompt.

        Raises:
            CancelledError: The server has ended.
        """
        return self._scheduler.call(partial(first_look, self._models[self.smallest], prompt), soon=True).result()

    def compare(
        self, point: str, prompt: Sequence[int], answer: Sequence[int], tell: Callable[[float | None], None]
    ) -> None:
        """Compares what a point thinks of its answer with what the dense model does, in two forward passes.

        Args:
            point: Who has answered.
            prompt: Token ids.
            answer: Token ids, at least one.
            tell: Told the loss of the answer's first tokens, see `divergence`, in the scheduler's thread; None where it
                could not be had.
        """
        answer = answer[:COMPARED_TOKENS]
        ids, count = [*prompt[-BEFORE:], *answer[:-1]], len(answer)

        def compared(dense: Tensor) -> None:
            tell(divergence(dense, next_logits(self._models[point], ids, count)))

        def begun() -> None:
            dense = next_logits(self._models[DENSE], ids, count)
            self._scheduler.call(partial(compared, dense)).add_done_callback(ended)

        def ended(done: Future[None]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                _log.warning("an answer was not compared: %s: %s", type(error).__name__, error)
                tell(None)

        self._scheduler.call(begun).add_done_callback(ended)


@torch.inference_mode()
def first_look(model: Any, prompt: Sequence[int]) -> Look:
    """A look at a prompt, of which the last tokens are read.

    Args:
        model: The smallest point's.
        prompt: Token ids, at least one.
    """
    tokens = prompt[-LOOK_TOKENS:]
    logprobs = next_logits(model, tokens, len(tokens)).log_softmax(-1)  # (time, vocab)
    largest = math.log(logprobs.shape[-1])
    entropy = -(logprobs.exp() * logprobs).sum(-1) / largest
    said = -logprobs[:-1].gather(-1, torch.tensor(tokens[1:], device=logprobs.device)[:, None]) / largest
    mean = float(entropy.mean())
    return Look(
        length=math.log2(len(prompt)) / 16,
        entropy=mean,
        last_entropy=float(entropy[-1]),
        surprise=float(said.mean()) if len(said) else mean,  # of a single token: what it would be on average
    )


@torch.inference_mode()
def next_logits(model: Any, ids: Sequence[int], count: int) -> Tensor:
    """Logits at the last positions of a text, shape (count, vocab), in float32, on the model's device."""
    tokens = torch.tensor([[*ids]], device=model.device)
    return model(input_ids=tokens, use_cache=False, logits_to_keep=count).logits[0].float()


def divergence(dense: Tensor, other: Tensor) -> float:
    """Mean KL from the dense model over positions, in nats, of logits of shape (positions, vocab)."""
    ours, theirs = other.log_softmax(-1), dense.log_softmax(-1)
    return float((theirs.exp() * (theirs - ours)).sum(-1).mean())
