"""How many held-out examples with labels a model gets right: texts, images, words, or words that were hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from evaluators.base import Evaluator, Measure, MeasureEvaluator, ModelOf
from evaluators.data.images import ImageSplits
from evaluators.data.labels import labelled_texts, labelled_words
from evaluators.data.masking import MaskedSplits
from evaluators.metrics import ACCURACY, metric_named
from evaluators.session import Session
from space.candidate import Candidate
from space.models.stack import whole
from space.spec import ModelSpec

# Batches of what a model reads, and their classes: (batch,), or of each token (batch, time), below 0 where not asked.
Examples = Sequence[tuple[Tensor, Tensor]]


def _rows(labelled: Callable[..., Examples], session: Session) -> Examples:
    settings, loaded = session.settings.text, session.loaded
    classes: Mapping[str, int] = loaded.model.config.label2id
    most = settings.windows["heldout"]
    return labelled(settings, session.text, loaded.tokenizer, classes, settings.length, most)


def _hidden_words(session: Session) -> Examples:
    assert isinstance(session.text, MaskedSplits)
    settings = session.settings.text
    return session.text.labelled(settings.windows["heldout"], settings.length)


def _images(session: Session) -> Examples:
    assert isinstance(session.text, ImageSplits)
    classes: Mapping[str, int] = session.loaded.model.config.label2id
    return session.text.labelled(classes, session.settings.text.windows["heldout"])


_EXAMPLES: Mapping[str, Callable[[Session], Examples]] = {  # by task
    "text_classification": partial(_rows, labelled_texts),
    "token_classification": partial(_rows, labelled_words),
    "image_classification": _images,
    "masked_lm": _hidden_words,
}


def accuracy_evaluators(session: Session) -> list[Evaluator]:
    """What asks for `heldout_accuracy` of models as they are exported; nothing where no labels are known.

    Args:
        session: Of the run.

    Raises:
        UserError: See `evaluators.data.labels.class_of`.
    """
    task = session.spec.task
    examples = _EXAMPLES[task](session) if task in _EXAMPLES else []
    return [accuracy_evaluator(examples, session.finished_model, session.spec)] if examples else []


def accuracy_evaluator(examples: Examples, model_of: ModelOf, spec: ModelSpec) -> Evaluator:
    """The one of some examples.

    Args:
        examples: Batches.
        model_of: A candidate's own model.
        spec: The dense model.
    """

    def values(candidate: Candidate) -> Mapping[str, float]:
        model = model_of(candidate)
        return {ACCURACY: sum(_right(model, *batch) for batch in examples) / count}

    count = sum(int((classes >= 0).sum()) for _, classes in examples)
    tokens = sum(len(inputs) * spec.tokens_of(inputs.shape) for inputs, _ in examples)
    return MeasureEvaluator(f"labels-{count}", [Measure((metric_named(ACCURACY),), values, tokens)])


@torch.inference_mode()
def _right(model: Any, inputs: Tensor, classes: Tensor) -> int:
    logits = model(**whole(model, inputs.to(model.device))).logits
    return int((logits.argmax(-1).cpu() == classes).sum())
