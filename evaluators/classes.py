"""How far the class probabilities of candidates are from the dense model's, on fixed texts or images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.comparison import Comparison
from space.candidate import Candidate
from space.errors import UserError
from space.models.pruned import start_midway
from space.models.stack import family_of, midway, put_stack, stack_of
from space.spec import ModelSpec
from space.supernet.modules import put_module, twin


def class_head(model: Any) -> Callable[[Tensor], Tensor]:
    """What gives logits, float32, of last hidden states, normed, (examples, time, hidden).

    They are (examples, classes), or of a head that is asked about each token (examples, time, classes).

    It is the model itself, without layers: whatever a family has behind these is in it. Heads are not pruned, so that
    the dense model's is every subnet's.

    Args:
        model: A classifier.
    """
    names = family_of(model).stack
    head, stack = twin(model), twin(stack_of(model))
    put_module(stack, names.layers, nn.ModuleList())
    if names.norm is not None:
        put_module(stack, names.norm, nn.Identity())
    start_midway(stack)
    put_stack(head, stack)
    with torch.inference_mode(False):  # gradients go through it
        own: Any = copy.deepcopy(head).float()
    return lambda states: own(**midway(own, states)).logits


def asked(spec: ModelSpec, batch: Tensor, states: Tensor) -> Tensor:
    """Of last hidden states (examples, time, hidden), what a head reads: all of them, or those of hidden words.

    Args:
        spec: The model.
        batch: What it reads.
        states: Of that, normed.

    Returns:
        The states, or (1, hidden words, hidden).
    """
    return states if spec.mask_token is None else states[batch == spec.mask_token][None]


@torch.inference_mode()
def classified(model: Any, texts: Sequence[Sequence[int]]) -> Tensor:
    """Logits of a classifier of texts (texts, classes), float32, of texts of any length.

    Args:
        model: A classifier.
        texts: The tokens of each, with those that begin and end it.
    """
    return torch.cat([model(torch.tensor([text], device=model.device)).logits.float() for text in texts])


def class_divergence(logits: Tensor, dense: Tensor) -> Tensor:
    """KL of class probabilities from the dense model's, in nats, (...), of logits (..., classes)."""
    return F.kl_div(logits.log_softmax(-1), dense.log_softmax(-1), reduction="none", log_target=True).sum(-1)


class ClassDivergence(Comparison):
    """Compares the class probabilities of candidates with those of the dense model.

    Classes are an example's, or each token's; those of a hidden word are all words.
    """

    @cached_property
    def _head(self) -> Callable[[Tensor], Tensor]:
        return class_head(self._supernet.model)

    def values(self, candidate: Candidate, model: Any | None = None) -> Mapping[str, float]:
        """`class_kl`: the mean over what is asked about, in nats."""
        return {"class_kl": self._in_memory(lambda: self._compared(candidate, model))[0]}

    def heldout_values(self, candidate: Candidate, model: Any | None = None) -> Mapping[str, float]:
        """The same as `heldout_class_kl`, and `heldout_agreement`: how many have the dense model's class."""
        divergence, agreement = self._in_memory(lambda: self._compared(candidate, model))
        return {"heldout_class_kl": divergence, "heldout_agreement": agreement}

    @torch.inference_mode()
    def _compared(self, candidate: Candidate, model: Any | None) -> tuple[float, float]:
        if self._references is None:
            self._references = [*self._asked(Candidate.dense(self._supernet.spec), None)]
        count, divergence, agreement = 0, 0.0, 0
        # the dense model's logits are computed again, as those over words are many times what its head reads
        for asked, reference in zip(self._asked(candidate, model), self._references, strict=True):
            logits, dense = self._head(asked), self._head(reference)
            divergence += class_divergence(logits, dense).sum(dtype=torch.float64).item()
            agreement += int((logits.argmax(-1) == dense.argmax(-1)).sum())
            count += logits[..., 0].numel()
        if not count:
            raise UserError(
                "Expected windows long enough to have hidden words, but these have none. Set a larger data.length, or "
                "evaluators.fidelities=[] for none that see the beginnings of windows alone."
            )
        return max(0.0, divergence / count), agreement / count

    def _asked(self, candidate: Candidate, model: Any | None) -> Iterator[Tensor]:
        """What the head reads, of one batch after another."""
        for batch, states in zip(self._forward.batches, self._hidden(candidate, model), strict=True):
            yield asked(self._supernet.spec, batch, states)
