"""Candidates with vocabularies of their own, judged in bits per byte: each reads the same text in its own tokens.

The tokens of a smaller vocabulary are tokens of the whole one, so that a candidate's blocks run on the whole embedding
as ever; only the sum over the vocabulary is over the rows that it keeps. Rows of the output matrix are put in the order
of the ranking once: a level is a prefix of them.

Beside the bits a byte stands the same loss in nats for each token that the whole vocabulary makes of the text. Of all
vocabularies these are as many, so that such losses, and perplexities of them, can be compared as bits a byte can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from evaluators.base import Measure, ModelOf
from evaluators.divergence import Divergence, perplexity
from evaluators.metrics import HELDOUT_BITS, SEARCH_BITS, metrics_named
from evaluators.output_head import OutputHead
from evaluators.vocabulary.of_run import RunVocabulary
from space.candidate import Candidate
from space.errors import UserError
from space.models.refusals import positions
from space.supernet.supernet import Supernet


class BitsPerByte:
    """What candidates need of fixed texts, each of which is a context of its own."""

    def __init__(
        self,
        supernet: Supernet,
        vocabulary: RunVocabulary,
        windows: Tensor,
        *,
        cache_bytes: int = 0,
        **settings: Any,
    ) -> None:
        """Runs nothing yet.

        Args:
            supernet: The model.
            vocabulary: Its tokens and smaller vocabularies.
            windows: Whose text is read: token ids of the whole vocabulary, shape (windows, length).
            cache_bytes: Memory for residual streams, over all vocabularies.
            settings: Others of an `evaluators.comparison.Comparison`.
        """
        self._supernet, self._vocabulary = supernet, vocabulary
        self._texts = vocabulary.texts(windows)
        self._bytes = sum(len(text.encode()) for text in self._texts)
        self._settings = {**settings, "cache_bytes": cache_bytes // (1 + len(vocabulary.counts))}
        self._levels: dict[int, _Level] = {}

    @cached_property
    def tokens(self) -> int:
        """Of the texts by the whole vocabulary, which one evaluation sends through a candidate, or some more."""
        return sum(map(len, self._vocabulary.cut(self._texts, 0)))

    def forget(self) -> None:
        """Gives the memory of residual streams that candidates shared back."""
        for level in self._levels.values():
            level.forget()

    def measure(self, model_of: ModelOf | None = None) -> Measure:
        """The search's quality: `bpb`, and `nll` in nats a token of the whole vocabulary.

        Args:
            model_of: Gives a candidate's own model, with the whole vocabulary; None for the supernet's.
        """

        def values(candidate: Candidate) -> Mapping[str, float]:
            return dict(zip(SEARCH_BITS, self(candidate, model_of), strict=True))

        return Measure(metrics_named(*SEARCH_BITS), values, self.tokens, None if model_of else self.ahead)

    def heldout_measure(self, model_of: ModelOf | None = None) -> Measure:
        """The same of text that the search did not see: `heldout_bpb`, and the perplexity `heldout_ppl`.

        Args:
            model_of: See `measure`.
        """

        def values(candidate: Candidate) -> Mapping[str, float]:
            bits, nats = self(candidate, model_of)
            return dict(zip(HELDOUT_BITS, (bits, perplexity(nats)), strict=True))

        return Measure(metrics_named(*HELDOUT_BITS), values, self.tokens, None if model_of else self.ahead)

    def __call__(self, candidate: Candidate, model_of: ModelOf | None = None) -> tuple[float, float]:
        """Bits a byte of all text, and nats a token of the whole vocabulary.

        Args:
            candidate: A prefix of the supernet, with one of the vocabularies.
            model_of: See `measure`.

        Raises:
            torch.OutOfMemoryError: The device has too little memory for a single text.
        """
        model = model_of(candidate) if model_of else None
        nats = self._level(candidate.vocabulary).nats(candidate.blocks, model)
        return nats / math.log(2) / self._bytes, nats / self.tokens

    def ahead(self, candidates: Sequence[Candidate]) -> None:
        """Runs candidates of the supernet together, where that is less work than one after the other.

        Raises:
            ValueError: One does not fit the model.
            torch.OutOfMemoryError: See a call.
        """
        for count in dict.fromkeys(candidate.vocabulary for candidate in candidates):
            self._level(count).ahead([each.blocks for each in candidates if each.vocabulary == count])

    def _level(self, count: int) -> _Level:
        if count not in self._levels:
            rows = self._vocabulary.cut(self._texts, count)
            longest = max(map(len, rows)) + 1
            limit = positions(self._supernet.model.config)
            if limit is not None and longest > limit:
                raise UserError(
                    f"space.vocabulary: a text of data.length has {longest} tokens of a vocabulary of {count}, more "
                    f"than the model's {limit} positions. Lower data.length."
                )
            weight = self._vocabulary.output_rows(self._supernet.model)[:count] if count else None
            self._levels[count] = _Level(self._supernet, rows, self._vocabulary.whole.start, weight, **self._settings)
        return self._levels[count]


class _Level(Divergence):
    """Texts in the tokens of one vocabulary, by their ids in the whole one."""

    def __init__(
        self, supernet: Supernet, rows: Sequence[Sequence[int]], start: int, weight: Tensor | None, **settings: Any
    ) -> None:
        """See `Divergence`.

        Args:
            supernet: The model.
            rows: The texts' tokens.
            start: Token that is put before each.
            weight: Rows of the output matrix that the vocabulary keeps; None for all.
            settings: Others of a `Divergence`.
        """
        self._lengths = torch.tensor([len(row) for row in rows])
        longest = max(1, int(self._lengths.max()))
        # What is put behind a text is behind all that is asked of it.
        padded = torch.tensor([[start, *row, *[start] * (longest - len(row))] for row in rows])
        super().__init__(supernet, padded, **settings)
        together = min(self._batch_size, len(rows)) * longest
        self._kept = OutputHead.of(supernet.model, together, weight=weight)

    def ahead(self, candidates: Sequence[Candidate]) -> None:
        """See `Divergence.ahead`; the dense model is one of them or not asked."""
        self._in_memory(lambda: self._run_together(candidates))

    def nats(self, candidate: Candidate, model: Any | None) -> float:
        """What a candidate, or a model of its own, needs of all texts."""
        return self._in_memory(lambda: self._sum(candidate, model))

    @torch.inference_mode()
    def _run_together(self, candidates: Sequence[Candidate]) -> None:
        self._forward.ahead(candidates)

    @torch.inference_mode()
    def _sum(self, candidate: Candidate, model: Any | None) -> float:
        nats, first = 0.0, 0
        for tokens, hidden in zip(self._forward.batches, self._hidden(candidate, model), strict=True):
            windows, length = tokens.shape
            lengths = self._lengths[first : first + windows].to(tokens.device)
            asked = torch.arange(length - 1, device=tokens.device) < lengths[:, None]  # (windows, length - 1)
            before = hidden.view(windows, length, -1)[:, :-1][asked]  # (asked, hidden)
            target = self._head.mean_logit(before, tokens[:, 1:][asked])
            nats += (self._kept.log_sum_exp(before) - target).sum(dtype=torch.float64).item()
            first += windows
        return nats
