"""How far the class probabilities of candidates are from the dense model's, on fixed texts or images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evaluators.comparison import Comparison
from space.candidate import Candidate
from space.models.pruned import start_midway
from space.models.stack import family_of, midway, put_stack, stack_of
from space.supernet.modules import put_module, twin


def class_head(model: Any) -> Callable[[Tensor], Tensor]:
    """What gives logits (examples, classes), float32, of last hidden states, normed, (examples, time, hidden).

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


@torch.inference_mode()
def classified(model: Any, texts: Sequence[Sequence[int]]) -> Tensor:
    """Logits (texts, classes), float32, of texts of any length.

    Args:
        model: A classifier.
        texts: The tokens of each, with those that begin and end it.
    """
    return torch.cat([model(torch.tensor([text], device=model.device)).logits.float() for text in texts])


def class_divergence(logits: Tensor, dense: Tensor) -> Tensor:
    """KL of class probabilities from the dense model's, in nats, (examples,), of logits (examples, classes)."""
    return F.kl_div(logits.log_softmax(-1), dense.log_softmax(-1), reduction="none", log_target=True).sum(-1)


class ClassDivergence(Comparison):
    """Compares the class probabilities of candidates with those of the dense model."""

    _head: Callable[[Tensor], Tensor] | None = None

    def values(self, candidate: Candidate, model: Any | None = None) -> Mapping[str, float]:
        """`class_kl`: the mean over examples, in nats."""
        return {"class_kl": self._in_memory(lambda: self._compared(candidate, model))[0]}

    def heldout_values(self, candidate: Candidate, model: Any | None = None) -> Mapping[str, float]:
        """The same as `heldout_class_kl`, and `heldout_agreement`: how many have the dense model's class."""
        divergence, agreement = self._in_memory(lambda: self._compared(candidate, model))
        return {"heldout_class_kl": divergence, "heldout_agreement": agreement}

    def _compared(self, candidate: Candidate, model: Any | None) -> tuple[float, float]:
        if self._references is None:
            self._references = [*self._logits(Candidate.dense(self._supernet.spec), None)]
        dense, logits = torch.cat(self._references), torch.cat([*self._logits(candidate, model)])
        same = logits.argmax(-1) == dense.argmax(-1)
        return max(0.0, class_divergence(logits, dense).double().mean().item()), same.double().mean().item()

    @torch.inference_mode()
    def _logits(self, candidate: Candidate, model: Any | None) -> Iterator[Tensor]:
        self._head = self._head or class_head(self._supernet.model)
        for states in self._hidden(candidate, model):
            yield self._head(states)
