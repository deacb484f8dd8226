"""Healing a smaller vocabulary: output rows of the pieces of dropped tokens learn where these are to be expected.

A word that was one token is several pieces then. The model has seen these pieces, but in other places: it does not
expect the first one there, nor the others behind it. What it expects is its last hidden state times the output matrix,
so that rows of that matrix can learn it from hidden states, which are computed once: no gradient goes through the
model, and the loss is convex. It is the cross-entropy, over states of the text as the trimmed tokenizer cuts it,

- between tokens, to what the whole output matrix says, a dropped token's probability counting as its first piece's;
- behind the first pieces of a dropped token that the text has, to the next one.

Running text has too few of the latter, so that each dropped token is looked up, and weighs what it is used. States are
whitened and rows are scaled by how often they are expected, by which all directions bend alike, and a ridge holds
back what few uses would teach. The change is small beside the rows: hidden states are much longer than they. So a
matrix that is the embedding too is as good an embedding as before.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evaluators.vocabulary.contexts import BEFORE, LENGTH, Contexts
from evaluators.vocabulary.pieces import Pieces
from space.models.pruned import logit_cap, logit_scale
from space.models.stack import stack_of

_RIDGE = 1e-5  # beside the nats of a token of text, in whitened states
_STEPS = 10  # of L-BFGS
_FLOOR = 1e-3  # of the mean eigenvalue, in whitening
_SKIPPED = 4  # first states of a window, which have seen too little
_LOGITS = 1 << 26  # that are in memory together
_PART = 20  # one state in so many is not learned from


@dataclass(frozen=True)
class RowChange:
    """What rows have learned.

    Attributes:
        rows: New ids.
        found: What they were, `(rows, hidden)`.
        change: What is added to each, `(rows, hidden)`, float32.
        before: Nats a token of text of the states that were not learned from, up to what no row here can change.
        after: The same with the change.
        uses: Of dropped tokens, that were looked at.
    """

    rows: Tensor
    found: Tensor
    change: Tensor
    before: float
    after: float
    uses: int

    def apply(self, model: Any) -> None:
        """Adds the change to a trimmed model's output matrix."""
        weight = model.get_output_embeddings().weight
        weight.data[self.rows] = (self.found.float() + self.change).to(weight.dtype)

    def take_back(self, model: Any) -> None:
        """Gives the rows what they had."""
        model.get_output_embeddings().weight.data[self.rows] = self.found


def can_heal(model: Any) -> bool:
    """Whether a model's logits are products with its output matrix alone."""
    return logit_cap(model.config) is None and model.get_output_embeddings().bias is None


@torch.no_grad()
def learned_rows(model: Any, small: Any, pieces: Pieces, contexts: Contexts, start: int) -> RowChange:
    """Learns the rows, and changes nothing.

    Args:
        model: With the whole vocabulary, see `can_heal`.
        small: The same with fewer tokens, see `space.formats.trimmed.trimmed_model`.
        pieces: What stands for the others.
        contexts: Places of a text, with uses of these.
        start: New id of the token before a text.
    """
    states = _States.of(stack_of(small), pieces, contexts, start)
    learning = states.chosen(states.fold != 0)
    held = states.chosen(states.fold == 0)
    head = _Head(model, pieces)
    square = (learning.hidden * learning.weights[:, None]).T @ learning.hidden / learning.weights.sum()
    values, vectors = torch.linalg.eigh(square.double())
    values = (values + _FLOOR * values.mean()).sqrt()
    down, up = ((vectors * each) @ vectors.T for each in (1 / values, values))
    rows = head.rows @ up.float()
    loss, other = (_Loss.of(head, each, down.float(), rows) for each in (learning, held))
    change = _minimised(loss)
    places = torch.tensor(pieces.rows, device=rows.device)
    return RowChange(
        rows=places,
        found=small.get_output_embeddings().weight[places],
        change=change @ down.float() / head.scale,
        before=other.value(torch.zeros_like(change)),
        after=other.value(change),
        uses=len(contexts.tokens),
    )


@dataclass(frozen=True)
class _States:
    """Hidden states before which nothing or something is known to follow.

    Attributes:
        hidden: `(states, hidden)`, float32.
        weights: The part of all states of the text that each stands for, `(states,)`.
        labels: The piece that follows, as a place in `Pieces.rows`; -1 where the whole output matrix says it.
        fold: A number below `_PART`, the same for all of one window or use.
    """

    hidden: Tensor
    weights: Tensor
    labels: Tensor
    fold: Tensor

    def chosen(self, which: Tensor) -> _States:
        """Some of them, which stand for all."""
        weights = self.weights[which]
        return _States(self.hidden[which], weights / weights.sum(), self.labels[which], self.fold[which])

    @classmethod
    def of(cls, stack: Any, pieces: Pieces, contexts: Contexts, start: int) -> _States:
        """Those of windows between tokens, but before dropped ones, and those of the uses of these."""
        parts = [_of_windows(stack, pieces, contexts.windows, start), *_of_uses(stack, pieces, contexts, start)]
        return cls(*(torch.cat(each) for each in zip(*parts, strict=True)))


_Part = tuple[Tensor, Tensor, Tensor, Tensor]


def _of_windows(stack: Any, pieces: Pieces, windows: np.ndarray, start: int) -> _Part:
    rows, asked, before_dropped = [], np.zeros((len(windows), LENGTH), dtype=bool), 0
    for number, window in enumerate(windows.tolist()):
        spelt, place = pieces.spelt(window), 0
        rows.append([start, *(piece for each in spelt for piece in each)][:LENGTH])
        for old, new in zip(window, spelt, strict=True):
            if place >= LENGTH:
                break
            if place >= _SKIPPED:
                asked[number, place] = old not in pieces.of
                before_dropped += old in pieces.of
            place += len(new)
    hidden = _hidden(stack, rows, LENGTH)
    which = torch.tensor(asked, device=hidden.device)
    count = int(asked.sum())
    weights = torch.full((count,), 1 / (count + before_dropped), device=hidden.device)
    folds = torch.arange(len(windows), device=hidden.device)[:, None].expand(-1, LENGTH)[which] % _PART
    return hidden[which], weights, torch.full_like(folds, -1), folds


def _of_uses(stack: Any, pieces: Pieces, contexts: Contexts, start: int) -> list[_Part]:
    """Of dropped tokens with as many pieces together."""
    places = {piece: place for place, piece in enumerate(pieces.rows)}
    taken = np.bincount(contexts.tokens, minlength=len(contexts.counts))
    alike = defaultdict(list)
    for number, (token, before) in enumerate(zip(contexts.tokens.tolist(), contexts.before.tolist(), strict=True)):
        own = pieces.of[token]
        context = [piece for each in pieces.spelt(before) for piece in each][-BEFORE:]
        weight = contexts.counts[token] / contexts.counts.sum() / taken[token]
        next_ones = [-1, *(places[piece] for piece in own[1:])]
        alike[len(own)].append(([start, *context, *own[:-1]], weight, next_ones, number % _PART))
    parts = []
    for count, some in sorted(alike.items()):
        rows, weights, labels, folds = zip(*some, strict=True)
        hidden = _hidden(stack, rows, count).flatten(0, 1)
        each = torch.tensor(weights, dtype=torch.float32, device=hidden.device).repeat_interleave(count)
        fold = torch.tensor(folds, device=hidden.device).repeat_interleave(count)
        parts.append((hidden, each, torch.tensor(labels, device=hidden.device).flatten(), fold))
    return parts


def _hidden(stack: Any, rows: Any, last: int) -> Tensor:
    """The last so many hidden states of texts of one length, `(texts, last, hidden)`, float32."""
    tokens = torch.tensor(rows, device=stack.get_input_embeddings().weight.device)
    batch = max(1, 2048 // tokens.shape[1])
    return torch.cat(
        [stack(each, use_cache=False).last_hidden_state[:, -last:].float() for each in tokens.split(batch)]
    )


class _Head:
    """The output matrix in parts: rows that learn, others that stay, and those of dropped tokens."""

    def __init__(self, model: Any, pieces: Pieces) -> None:
        weight = model.get_output_embeddings().weight
        kept = torch.tensor(pieces.kept, device=weight.device)
        learns = torch.zeros(len(kept), dtype=torch.bool, device=weight.device)
        learns[pieces.rows] = True
        places = {piece: place for place, piece in enumerate(pieces.rows)}
        self.scale = logit_scale(model.config)
        self.rows, self._others = (weight[kept[which]].float() * self.scale for which in (learns, ~learns))
        self._dropped = weight[torch.tensor([*pieces.of], device=weight.device)].float() * self.scale
        self._first = torch.tensor([places[own[0]] for own in pieces.of.values()], device=weight.device)
        self.together = max(1, _LOGITS // (len(weight)))

    def others(self, hidden: Tensor) -> Tensor:
        """The log-sum-exp of the rows that stay, `(states,)`."""
        return torch.cat([torch.logsumexp(each @ self._others.T, -1) for each in hidden.split(self.together)])

    def taught(self, hidden: Tensor, others: Tensor) -> Tensor:
        """Probabilities by the whole matrix, `(states, rows)`, of rows that learn and what these stand first for."""
        logits = torch.cat([hidden @ self.rows.T, hidden @ self._dropped.T], -1)
        chances = (logits - torch.logaddexp(logits.logsumexp(-1), others)[:, None]).exp_()
        learn, dropped = chances.split([len(self.rows), len(self._dropped)], -1)
        return learn.contiguous().index_add_(1, self._first, dropped)


@dataclass(frozen=True)
class _Loss:
    """The loss in nats a state, less a constant, as a function of the change of the rows, all in whitened states.

    Attributes:
        hidden: Whitened, `(states, hidden)`.
        weights: Of states.
        others: See `_Head.others`.
        rows: As they are, `(rows, hidden)`.
        target: Sum of what should be expected times the state, `(rows, hidden)`.
        mass: How much of all is expected of each row, `(rows,)`.
        together: States of which logits are in memory at once.
    """

    hidden: Tensor
    weights: Tensor
    others: Tensor
    rows: Tensor
    target: Tensor
    mass: Tensor
    together: int

    @classmethod
    def of(cls, head: _Head, states: _States, down: Tensor, rows: Tensor) -> _Loss:
        """That of some states."""
        others, white = head.others(states.hidden), states.hidden @ down
        target, mass = torch.zeros_like(rows), rows.new_zeros(len(rows))
        said = (states.labels < 0).nonzero()[:, 0]
        for part in said.split(head.together):
            chances = head.taught(states.hidden[part], others[part]) * states.weights[part, None]
            target.addmm_(chances.T, white[part])
            mass += chances.sum(0)
        told = (states.labels >= 0).nonzero()[:, 0]
        target.index_add_(0, states.labels[told], white[told] * states.weights[told, None])
        mass.index_add_(0, states.labels[told], states.weights[told])
        return cls(white, states.weights, others, rows, target, mass, head.together)

    def value(self, change: Tensor) -> float:
        """The loss."""
        return self._both(change, None)

    def with_gradient(self, change: Tensor) -> tuple[float, Tensor]:
        """The loss and its gradient by the change."""
        gradient = -self.target
        return self._both(change, gradient), gradient

    def _both(self, change: Tensor, gradient: Tensor | None) -> float:
        rows = self.rows + change
        value = -(rows * self.target).sum(dtype=torch.float64).item()
        places = range(0, len(self.hidden), self.together)
        for hidden, weights, others in (
            (each[place : place + self.together] for each in (self.hidden, self.weights, self.others))
            for place in places
        ):
            logits = hidden @ rows.T
            lse = torch.logaddexp(logits.logsumexp(-1), others)
            value += (weights * lse).sum(dtype=torch.float64).item()
            if gradient is not None:
                gradient.addmm_(logits.sub_(lse[:, None]).exp_().mul_(weights[:, None]).T, hidden)
        return value


def _minimised(loss: _Loss) -> Tensor:
    """The change with the least loss and ridge."""
    scale = (loss.mass + _RIDGE).rsqrt()[:, None]  # by which all rows bend about alike
    scaled = torch.zeros_like(loss.rows, requires_grad=True)
    steps = torch.optim.LBFGS([scaled], max_iter=_STEPS, history_size=4, line_search_fn="strong_wolfe")

    def closure() -> float:
        change = scaled.detach() * scale
        value, gradient = loss.with_gradient(change)
        scaled.grad = (gradient + _RIDGE * change) * scale
        return value + _RIDGE / 2 * change.square().sum(dtype=torch.float64).item()

    steps.step(closure)
    return scaled.detach() * scale
