"""What a subnet learns from the dense model, by task: the divergence that it is judged by, as a loss.

Tasks that say one thing of a whole text learn more of it than that: the last hidden state of each token and, where the
objective has a weight for them, the residual streams on the way,

    loss = divergence + (1 − mean cosine of last hidden states) + w Σ_layers ‖h_S − h_T‖² / ‖h_T‖² / layers

(as in TinyBERT, Jiao et al. 2020, and CoFi, Xia et al. 2022). What a subnet hands to the next layer that it has is
compared with what the dense model hands to that layer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluators.classes import asked, class_divergence, class_head
from evaluators.data.cutting import Marks, cut
from evaluators.embeddings import pooled
from evaluators.output_head import OutputHead
from evaluators.training.distillation import cross_entropy, stream_loss
from evaluators.training.teacher import taught
from space.models.stack import stack_of
from space.models.streams import recorded_streams
from space.spec import ModelSpec
from space.task import CAUSAL_LM

Loss = Callable[[Tensor], Tensor]  # of a student's last hidden states, normed, (windows, length, hidden)
Lesson = Callable[[Any, Tensor], Loss]  # by the dense model and the windows that both read, (windows, length)
Streams = Mapping[int, Tensor]  # behind layers, by their numbers in the dense model, (windows · length, hidden)


@dataclass(frozen=True)
class Objective:
    """What a student learns.

    Attributes:
        lesson: Gives the loss of last hidden states.
        streams: Weight of the match of residual streams.
        texts: Into how many texts the windows of a step are cut, step by step in turn.
    """

    lesson: Lesson
    streams: float = 0.0
    texts: tuple[int, ...] = (1,)

    def texts_of(self, windows: Tensor, step: int, marks: Marks) -> Tensor:
        """What a step reads of its windows, see `evaluators.data.cutting`.

        Args:
            windows: The windows, `(windows, length)`.
            step: Its number, from 0.
            marks: Of the windows.
        """
        return cut(windows, self.texts[step % len(self.texts)], marks)

    def loss_of(self, teacher: Any, tokens: Tensor, kept: Sequence[int]) -> Callable[[Tensor, Streams], Tensor]:
        """The loss of a student on some windows, of its last hidden states and the streams behind its layers.

        Args:
            teacher: The dense model.
            tokens: The windows, `(windows, length)`.
            kept: The dense model's numbers of the layers that the student has.
        """
        places = handed_on(kept) if self.streams else {}
        with recorded_streams(teacher, {layer: layer for layer in places.values()}) as targets:
            lesson = self.lesson(teacher, tokens)

        def loss(hidden: Tensor, streams: Streams) -> Tensor:
            total = lesson(hidden)
            for layer, behind in places.items():
                total = total + self.streams / len(places) * stream_loss(streams[layer], targets[behind].float())
            return total

        return loss


def handed_on(kept: Sequence[int]) -> dict[int, int]:
    """Of each layer that is left, but the last, the dense layer before the next one that is left."""
    return {layer: following - 1 for layer, following in pairwise(kept)}


def of_words(teacher: Any, tokens: Tensor) -> Loss:
    """The mean divergence a token, in nats."""
    head = OutputHead.of(teacher, tokens.numel())
    lesson = taught(teacher, head, tokens)

    def loss(hidden: Tensor) -> Tensor:
        return cross_entropy(hidden.flatten(0, 1), head, lesson.known) - lesson.cross.mean()

    return loss


def of_embeddings(pooling: str) -> Lesson:
    """1 − cosine to the dense model's embedding, the mean over windows, and the same of each token's last hidden state.

    Args:
        pooling: See `space.spec.ModelSpec`.
    """

    def lesson(teacher: Any, tokens: Tensor) -> Loss:
        with torch.no_grad():
            states = stack_of(teacher)(tokens, use_cache=False).last_hidden_state.float()
            target = pooled(states, pooling)

        def loss(hidden: Tensor) -> Tensor:
            wide = hidden.float()
            alike = (pooled(wide, pooling) * target).sum(-1).mean() + F.cosine_similarity(wide, states, -1).mean()
            return 2 - alike

        return loss

    return lesson


def of_classes(spec: ModelSpec) -> Lesson:
    """KL of class probabilities, in nats, the mean, and 1 − cosine of each token's last hidden state.

    Args:
        spec: The model.
    """

    def lesson(teacher: Any, tokens: Tensor) -> Loss:
        head = class_head(teacher)
        with torch.no_grad():
            states = stack_of(teacher)(tokens, use_cache=False).last_hidden_state.float()
            target = head(asked(spec, tokens, states))

        def loss(hidden: Tensor) -> Tensor:
            wide = hidden.float()
            alike = F.cosine_similarity(wide, states, -1).mean()
            return class_divergence(head(asked(spec, tokens, wide)), target).mean() + 1 - alike

        return loss

    return lesson


WORDS = Objective(of_words)
_OBJECTIVES: Mapping[str, Callable[[ModelSpec], Objective]] = {
    CAUSAL_LM: lambda spec: WORDS,
    "embeddings": lambda spec: Objective(of_embeddings(spec.pooling), streams=1.0, texts=(1, 2, 4)),
    "image_features": lambda spec: Objective(of_embeddings(spec.pooling), streams=1.0),
    "text_classification": lambda spec: Objective(of_classes(spec)),
    "image_classification": lambda spec: Objective(of_classes(spec)),
    "token_classification": lambda spec: Objective(of_classes(spec)),
    "masked_lm": lambda spec: Objective(of_classes(spec)),
}


def objective_of(spec: ModelSpec) -> Objective:
    """The one of a model's task."""
    return _OBJECTIVES[spec.task](spec)
