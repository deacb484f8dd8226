"""How far the embeddings of candidates are from the dense model's, on a fixed set of token windows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from evaluators.comparison import Comparison
from evaluators.latency.table_error import spearman
from space.candidate import Candidate
from space.errors import UserError
from space.models.stack import stack_of

LEAST = 3  # windows, whose pairwise similarities have an order


def pooled(states: Tensor, pooling: str) -> Tensor:
    """Embeddings of length one, (windows, hidden), from last hidden states (windows, time, hidden) without padding.

    Args:
        states: Of whole windows.
        pooling: `mean` of all tokens, or the first one, `cls`.
    """
    return F.normalize(states.mean(1) if pooling == "mean" else states[:, 0], dim=-1)


@torch.inference_mode()
def embedded(model: Any, texts: Sequence[Sequence[int]], pooling: str) -> Tensor:
    """Embeddings (texts, hidden), float32, of texts of any length.

    Args:
        model: An embedder.
        texts: The tokens of each, with those that begin and end it.
        pooling: See `pooled`.
    """
    device = model.get_input_embeddings().weight.device
    rows = (torch.tensor([text], device=device) for text in texts)
    return torch.cat([pooled(stack_of(model)(row).last_hidden_state.float(), pooling) for row in rows])


class EmbeddingDistance(Comparison):
    """Compares the embeddings that candidates make with those of the dense model."""

    def values(self, candidate: Candidate, model: Any | None = None) -> Mapping[str, float]:
        """`cosine_distance`: the mean over windows of 1 − cosine to the dense model's embedding."""
        return self._in_memory(lambda: {"cosine_distance": self._distance(self._embeddings(candidate, model))})

    def heldout_values(self, candidate: Candidate, model: Any | None = None) -> Mapping[str, float]:
        """The same as `heldout_cosine_distance`, and `heldout_rank_correlation`.

        That is Spearman's, of the similarities of all pairs of windows, by the candidate and by the dense model.

        Raises:
            UserError: There are too few windows.
        """
        if len(self._tokens) < LEAST:
            raise UserError(
                f"data.heldout_windows: expected at least {LEAST} for the similarities of embeddings, "
                f"got {len(self._tokens)}."
            )
        return self._in_memory(lambda: self._unseen(candidate, model))

    def _unseen(self, candidate: Candidate, model: Any | None) -> Mapping[str, float]:
        embeddings = self._embeddings(candidate, model)
        first, second = torch.triu_indices(len(embeddings), len(embeddings), 1)
        similarities = [
            (rows[first] * rows[second]).sum(-1).tolist() for rows in (embeddings, torch.cat(self._dense()))
        ]
        correlation = spearman(*similarities)
        return {
            "heldout_cosine_distance": self._distance(embeddings),
            "heldout_rank_correlation": correlation if correlation == correlation else 0.0,  # all alike: no order
        }

    def _distance(self, embeddings: Tensor) -> float:
        cosines = (embeddings * torch.cat(self._dense())).sum(-1)
        return max(0.0, 1.0 - cosines.mean(dtype=torch.float64).item())

    def _dense(self) -> list[Tensor]:
        if self._references is None:
            self._references = [*self._batches(Candidate.dense(self._supernet.spec), None)]
        return self._references

    def _embeddings(self, candidate: Candidate, model: Any | None) -> Tensor:
        self._dense()  # first, so that subnets go on from its residual streams
        return torch.cat([*self._batches(candidate, model)])

    @torch.inference_mode()
    def _batches(self, candidate: Candidate, model: Any | None) -> Iterator[Tensor]:
        for states in self._hidden(candidate, model):
            yield pooled(states, self._supernet.spec.pooling)
