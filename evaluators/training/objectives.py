"""What a subnet learns from the dense model, by task: the divergence that it is judged by, as a loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluators.classes import asked, class_divergence, class_head
from evaluators.embeddings import pooled
from evaluators.output_head import OutputHead
from evaluators.training.distillation import cross_entropy
from evaluators.training.teacher import taught
from space.models.stack import stack_of
from space.spec import ModelSpec
from space.task import CAUSAL_LM

Loss = Callable[[Tensor], Tensor]  # of a student's last hidden states, normed, (windows, length, hidden)
Objective = Callable[[Any, Tensor], Loss]  # by the dense model and the windows that both read, (windows, length)


def of_words(teacher: Any, tokens: Tensor) -> Loss:
    """The mean divergence a token, in nats."""
    head = OutputHead.of(teacher, tokens.numel())
    lesson = taught(teacher, head, tokens)

    def loss(hidden: Tensor) -> Tensor:
        return cross_entropy(hidden.flatten(0, 1), head, lesson.known) - lesson.cross.mean()

    return loss


def of_embeddings(pooling: str) -> Objective:
    """1 − cosine to the dense model's embedding, the mean over windows, and the same of each token's last hidden state.

    Tokens say where a pooled vector comes from, which a few windows alone do not.

    Args:
        pooling: See `space.spec.ModelSpec`.
    """

    def objective(teacher: Any, tokens: Tensor) -> Loss:
        with torch.no_grad():
            states = stack_of(teacher)(tokens, use_cache=False).last_hidden_state.float()
            target = pooled(states, pooling)

        def loss(hidden: Tensor) -> Tensor:
            wide = hidden.float()
            alike = (pooled(wide, pooling) * target).sum(-1).mean() + F.cosine_similarity(wide, states, -1).mean()
            return 2 - alike

        return loss

    return objective


def of_classes(spec: ModelSpec) -> Objective:
    """KL of class probabilities, in nats, the mean, and 1 − cosine of each token's last hidden state.

    Tokens say where a class comes from, which the few numbers of a window alone do not.

    Args:
        spec: The model.
    """

    def objective(teacher: Any, tokens: Tensor) -> Loss:
        head = class_head(teacher)
        with torch.no_grad():
            states = stack_of(teacher)(tokens, use_cache=False).last_hidden_state.float()
            target = head(asked(spec, tokens, states))

        def loss(hidden: Tensor) -> Tensor:
            wide = hidden.float()
            alike = F.cosine_similarity(wide, states, -1).mean()
            return class_divergence(head(asked(spec, tokens, wide)), target).mean() + 1 - alike

        return loss

    return objective


_OBJECTIVES: Mapping[str, Callable[[ModelSpec], Objective]] = {
    CAUSAL_LM: lambda spec: of_words,
    "embeddings": lambda spec: of_embeddings(spec.pooling),
    "image_features": lambda spec: of_embeddings(spec.pooling),
    "text_classification": of_classes,
    "image_classification": of_classes,
    "token_classification": of_classes,
    "masked_lm": of_classes,
}


def objective_of(spec: ModelSpec) -> Objective:
    """The one of a model's task."""
    return _OBJECTIVES[spec.task](spec)
