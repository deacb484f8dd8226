"""Training in which a model with a smaller vocabulary learns to write, in pieces, the words that were tokens.

Its teacher is the same model with the whole vocabulary, which reads the same text in its own tokens. Before each of
these,

    loss = −Σ_t p(t) log q(first piece of t)

over all tokens t, with the teacher's probabilities p; a token that is kept is its own first piece. Before second and
further pieces it is −log q of the piece that the text has, times a weight, as places are chosen for dropped tokens.
Words of kept tokens are so learned from the teacher alone: the model comes to know the text no better than it did.
Blocks learn; the rows that are left of embedding and output matrix stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from evaluators.output_head import GeneralHead, OutputHead
from evaluators.paths import Show
from evaluators.training.rates import share_of
from evaluators.training.recipes import SHARED_TRAINABLE, Recovery, part_of_rate
from evaluators.training.recovery import student_of, trained_row
from evaluators.training.repeatable import repeatable
from evaluators.vocabulary.contexts import AFTER, BEFORE, LENGTH, Contexts
from evaluators.vocabulary.pieces import Pieces
from space.errors import UserError
from space.formats.trimmed import trimmed_model
from space.models.refusals import positions
from space.models.stack import is_in_stack, stack_of

Rows = Sequence[Sequence[int]]

_USES, _RUNNING = 32, 1  # places of either kind that make a step
_STEP = _USES * (BEFORE + 1 + AFTER) + _RUNNING * LENGTH  # their tokens
_PLACES = 2 * LENGTH  # that the longest text may take in pieces
FURTHER = 0.3  # weight of second and further pieces


@dataclass(frozen=True)
class Amount:
    """How much is learned.

    Attributes:
        steps: Of training.
    """

    steps: int

    @classmethod
    def of(cls, tokens: float) -> Amount:
        """That of so many tokens, rounded up to whole steps."""
        return cls(math.ceil(tokens / _STEP))

    @property
    def uses(self) -> int:
        """Of dropped tokens, if there are so many."""
        return self.steps * _USES

    @property
    def windows(self) -> int:
        """Of running text."""
        return self.steps * _RUNNING

    @property
    def tokens(self) -> int:
        """In all."""
        return self.steps * _STEP


def require_spelling(model: Any) -> None:
    """Refuses models that cannot be taught.

    Raises:
        UserError: Logits are no products of hidden states with the output matrix alone, or positions are few.
    """
    kind, limit = model.config.model_type, positions(model.config)
    if isinstance(OutputHead.of(model, 1), GeneralHead):
        raise UserError(
            f"vocabulary.tokens: expected 0 for {kind}, whose logits are capped or have a bias: it cannot learn from "
            "a model with other tokens. Leave it 0."
        )
    if limit is not None and limit < _PLACES:
        raise UserError(
            f"vocabulary.tokens: expected a model of at least {_PLACES} positions, got one of {limit}. Leave it 0."
        )


class Speller:
    """A model whose blocks are in training.

    Attributes:
        model: As it is now, with the whole vocabulary; its trained weights are its own.
    """

    def __init__(self, teacher: Any, pieces: Pieces, start: int, settings: Recovery) -> None:
        """Leaves the teacher as it is.

        Args:
            teacher: The model, with the whole vocabulary.
            pieces: What stands for the tokens that it is to do without.
            start: The token before a text, by its id in the whole vocabulary.
            settings: What is trained, and how, as filled in for a task.
        """
        self._teacher, self._pieces, self._start, self._settings = teacher, pieces, start, settings
        self._dtype = next(teacher.parameters()).dtype
        self.model = student_of(teacher, teacher, settings)
        row = SHARED_TRAINABLE[trained_row(self.model, teacher, settings)]
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(is_in_stack(self.model, name) and row(name))
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
        self._small = trimmed_model(self.model, pieces.kept)
        self._trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._shares = [share_of(parameter) for parameter in self._trained]
        groups = [{"params": [parameter]} for parameter in self._trained]
        self._optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
        self._head, self._taught = OutputHead.of(self._small, _STEP), OutputHead.of(teacher, _STEP)
        output = teacher.get_output_embeddings().weight.detach()
        firsts = torch.arange(len(output))  # by old id, the old id of the first piece
        for old, new in pieces.of.items():
            firsts[old] = pieces.kept[new[0]]
        self._meant = OutputHead.of(teacher, _STEP, weight=output[firsts.to(output.device)])

    def learn(self, groups: Sequence[Rows], rate: float) -> float:
        """One step.

        Args:
            groups: Texts in tokens of the whole vocabulary; those of a group go through the models together.
            rate: The learning rate.

        Returns:
            The loss before it, in nats a token.

        Raises:
            UserError: The loss is not finite.
        """
        tokens = sum(map(len, chain.from_iterable(groups)))
        with repeatable(self._trained[0].device):
            loss = sum(self._backward(rows, tokens) for rows in groups)
        norm = torch.nn.utils.clip_grad_norm_(self._trained, self._settings.clip).item()
        if not math.isfinite(loss + norm):
            raise UserError(
                f"Training of a smaller vocabulary diverged: the loss is {loss:.3g}, its gradient's norm {norm:.3g}. "
                "Lower recover.learning_rate."
            )
        for group, share in zip(self._optimizer.param_groups, self._shares, strict=True):
            group["lr"] = rate * share
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss

    def finished(self) -> Any:
        """The model, in the teacher's dtype, without gradients."""
        for parameter in self.model.parameters():
            parameter.data = parameter.data.to(self._dtype)
        return self.model.eval().requires_grad_(False)

    def _backward(self, rows: Rows, tokens: int) -> float:
        """Adds the gradient of the part of a step's loss that is of some texts."""
        spelt = [self._pieces.spelt(row) for row in rows]
        firsts = torch.tensor([place == 0 for row in spelt for token in row for place in range(len(token))])
        old, read = self._padded(rows, self._start)
        with torch.no_grad():
            taught = stack_of(self._teacher)(old[:, :-1], use_cache=False).last_hidden_state[read]
            _, known = self._taught.expected(taught.float(), exact=False, meant=self._meant)
        new, written = self._padded(
            [[*chain.from_iterable(row)] for row in spelt], self._pieces.kept.index(self._start)
        )
        with torch.autocast(new.device.type, torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            hidden = stack_of(self._small)(new[:, :-1], use_cache=False).last_hidden_state[written]
        with torch.no_grad():
            firsts, labels = firsts.to(hidden.device), self._head.words(new[:, 1:][written])
            labels[firsts] = known
            losses, gradient = self._head.cross_entropy(hidden.detach().float(), labels)
            weights = torch.where(firsts, 1.0, FURTHER) / tokens
        hidden.backward((gradient * weights[:, None]).to(hidden.dtype))
        return (losses * weights).sum().item()

    def _padded(self, rows: Rows, start: int) -> tuple[Tensor, Tensor]:
        """Texts behind a start token, `(texts, 1 + longest)`, and which of the places before their tokens are real."""
        device, longest = self._trained[0].device, max(map(len, rows))
        # what is put behind a text is behind all that is asked of it
        padded = torch.tensor([[start, *row, *[start] * (longest - len(row))] for row in rows], device=device)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        return padded, torch.arange(longest, device=device) < lengths[:, None]


def learned_spelling(
    teacher: Any,
    pieces: Pieces,
    contexts: Contexts,
    start: int,
    amount: Amount,
    settings: Recovery,
    show: Show,
) -> Any:
    """A model whose blocks have learned to do with a smaller vocabulary, with the whole one still.

    Args:
        teacher: The model, which stays as it is.
        pieces: What stands for dropped tokens.
        contexts: The text; behind its last places, from the first ones again.
        start: The token before a text, by its id in the whole vocabulary.
        amount: How much is learned.
        settings: See `Speller`; the learning rate falls along a cosine to 0.
        show: Called with the steps that are done, and all of them.

    Raises:
        UserError: Training diverged.
    """
    assert settings.learning_rate is not None
    speller = Speller(teacher, pieces, start, settings)
    for step in range(amount.steps):
        part = part_of_rate(step, amount.steps, settings.warmup, last=0.0)
        groups = [
            [places[index % len(places)].tolist() for index in range(step * count, (step + 1) * count)]
            for places, count in ((contexts.uses, _USES), (contexts.running, _RUNNING))
            if len(places)
        ]
        speller.learn(groups, settings.learning_rate * part)
        show(step + 1, amount.steps)
    return speller.finished()
