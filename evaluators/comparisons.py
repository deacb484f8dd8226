"""Which comparison with the dense model a task has."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from evaluators.classes import ClassDivergence
from evaluators.comparison import Comparison
from evaluators.divergence import Divergence
from evaluators.embeddings import EmbeddingDistance
from space.supernet.supernet import Supernet
from space.task import CAUSAL_LM

COMPARISONS: Mapping[str, type[Comparison]] = {
    CAUSAL_LM: Divergence,
    "embeddings": EmbeddingDistance,
    "image_features": EmbeddingDistance,
    "text_classification": ClassDivergence,
    "image_classification": ClassDivergence,
    "token_classification": ClassDivergence,
    "masked_lm": ClassDivergence,
}


def comparison(supernet: Supernet, tokens: Tensor, **settings: Any) -> Comparison:
    """The one of a supernet's task on token windows (windows, length); see `Comparison` for the settings."""
    return COMPARISONS[supernet.spec.task](supernet, tokens, **settings)
