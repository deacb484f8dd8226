"""KL divergence from the dense model and negative log-likelihood of a candidate, on a fixed set of token windows.

With the teacher's probabilities p and a subnet's logits z = W h (the output matrix W is not pruned),

    KL(p ‖ softmax z) = [lse(z) − h · (Wᵀp)] − [lse(z_T) − h_T · (Wᵀp)],

since Σ p log p = h_T · Wᵀp − lse(z_T). The dense model's expected output embedding Wᵀp, a hidden-sized vector a token,
is thus all that has to be kept of the teacher: its log-probabilities enter exactly, computed once, and neither they nor
a subnet's are ever held for the whole text. A subnet costs one log-sum-exp over the vocabulary, in chunks of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluators.base import Measure, Metric
from space.candidate import Candidate
from space.errors import UserError
from space.supernet import Supernet


@dataclass(frozen=True)
class _Teacher:
    """Of every token: the expected output embedding Wᵀp (tokens, hidden), and lse(z_T) − h_T · Wᵀp (tokens,)."""

    embedding: Tensor
    cross: Tensor


class Divergence:
    """Compares candidates with the dense model on fixed text."""

    def __init__(self, supernet: Supernet, tokens: Tensor, *, batch: int = 4, chunk_bytes: int = 256 << 20) -> None:
        """Runs nothing yet; the dense model's side is computed at the first question.

        Args:
            supernet: The model.
            tokens: Token ids, shape (windows, length); every window is a context of its own.
            batch: Windows of a forward pass.
            chunk_bytes: Memory for the float32 logits of a chunk of tokens.

        Raises:
            UserError: Windows shorter than two tokens, or an LM head that the closed form does not cover.
        """
        if tokens.ndim != 2 or tokens.shape[1] < 2 or not len(tokens):
            raise UserError(f"Divergence: expected windows of at least 2 tokens, got shape {tuple(tokens.shape)}.")
        head: Any = supernet.model.lm_head
        if head.bias is not None:
            raise UserError("Divergence: expected an LM head without bias, got one with; this model is not supported.")
        self._supernet = supernet
        self._tokens = tokens.to(head.weight.device)
        self._batch = batch
        self._chunk = max(1, chunk_bytes // (4 * supernet.spec.vocab))
        self._teacher: list[_Teacher] | None = None

    @property
    def tokens(self) -> int:
        """Tokens that one question sends through a candidate."""
        return self._tokens.numel()

    def measure(self) -> Measure:
        """The search's quality: `kl` and `nll`, in nats a token."""
        metrics = (Metric("kl", "nats/token", "min", 2), Metric("nll", "nats/token", "min", 2))

        def values(candidate: Candidate) -> Mapping[str, float]:
            kl, nll = self(candidate)
            return {"kl": kl, "nll": nll}

        return Measure(metrics, values, self.tokens)

    def heldout_measure(self) -> Measure:
        """What is reported of text that the search did not see: `heldout_kl` and the perplexity `heldout_ppl`."""
        metrics = (Metric("heldout_kl", "nats/token", "min", 2), Metric("heldout_ppl", "", "min", 2))

        def values(candidate: Candidate) -> Mapping[str, float]:
            kl, nll = self(candidate)
            return {"heldout_kl": kl, "heldout_ppl": math.exp(nll) if nll < 700 else math.inf}

        return Measure(metrics, values, self.tokens)

    @torch.inference_mode()
    def __call__(self, candidate: Candidate) -> tuple[float, float]:
        """Mean KL from the dense model over all tokens, and mean NLL of all but each window's first, in nats."""
        if self._teacher is None:
            self._teacher = list(self._teach())
        with self._supernet.activate(candidate) as model:
            weight = model.lm_head.weight
            kl = nll = 0.0
            for tokens, teacher in zip(self._tokens.split(self._batch), self._teacher, strict=True):
                hidden = self._hidden(model, tokens)  # (batch · time, hidden)
                lse = torch.cat([torch.logsumexp(logits.float(), -1) for logits in self._logits(model, hidden)])
                cross = lse - (hidden.float() * teacher.embedding).sum(-1)
                kl += (cross - teacher.cross).sum(dtype=torch.float64).item()
                windows, length = tokens.shape
                before = hidden.view(windows, length, -1)[:, :-1].float()
                target = (before * F.embedding(tokens[:, 1:], weight).float()).sum(-1)  # (windows, length - 1)
                nll += (lse.view(windows, length)[:, :-1] - target).sum(dtype=torch.float64).item()
        windows, length = self._tokens.shape
        return kl / (windows * length), nll / (windows * (length - 1))

    def _teach(self) -> Iterator[_Teacher]:
        with self._supernet.activate(Candidate.dense(self._supernet.spec)) as model:
            weight = model.lm_head.weight
            for tokens in self._tokens.split(self._batch):
                hidden = self._hidden(model, tokens)
                embeddings, lses = [], []
                for logits in self._logits(model, hidden):
                    logits = logits.float()
                    lses.append(torch.logsumexp(logits, -1))
                    embeddings.append(_expected(logits.sub_(lses[-1][:, None]).exp_(), weight))
                embedding = torch.cat(embeddings)
                yield _Teacher(embedding, torch.cat(lses) - (hidden.float() * embedding).sum(-1))

    @staticmethod
    def _hidden(model: Any, tokens: Tensor) -> Tensor:
        """Normed hidden states before the LM head, shape (batch · time, hidden)."""
        states: Tensor = model.model(tokens, use_cache=False).last_hidden_state
        return states.flatten(0, 1)

    def _logits(self, model: Any, hidden: Tensor) -> Iterator[Tensor]:
        """Logits of chunks of tokens, each (tokens, vocab)."""
        for rows in hidden.split(self._chunk):
            yield model.lm_head(rows)


def _expected(probabilities: Tensor, weight: Tensor, rows: int = 16384) -> Tensor:
    """p W in float32 for p (tokens, vocab) and W (vocab, hidden), some rows of W at a time."""
    total = torch.zeros(len(probabilities), weight.shape[1], device=weight.device)
    for start in range(0, len(weight), rows):
        total.addmm_(probabilities[:, start : start + rows], weight[start : start + rows].float())
    return total
