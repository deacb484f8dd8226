"""What a model writes: fixed prompts continued greedily, so that a person sees what a number stands for."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig

from evaluators.base import Evaluation, Metric, ModelOf, failure
from evaluators.settings import SampleSettings
from space.candidate import Candidate
from space.errors import UserError


class Samples:
    """Continues the prompts with models that share a tokenizer."""

    def __init__(self, tokenizer: Any, settings: SampleSettings) -> None:
        """Writes nothing yet.

        Args:
            tokenizer: Of the models; prompts get the special tokens with which it begins texts, and no chat template.
            settings: The prompts, and how many tokens follow.
        """
        self.prompts = settings.prompts
        self._tokens = settings.tokens
        self._tokenizer = tokenizer

    @property
    def fidelity(self) -> str:
        """The name under which texts are stored: other prompts, or more tokens, are another question."""
        recipe = json.dumps([self._tokens, *self.prompts])
        return f"samples-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"

    @property
    def facts(self) -> Mapping[str, Any]:
        """What stands beside the texts, ready for JSON."""
        return {"prompts": [*self.prompts], "new_tokens": self._tokens}

    @torch.inference_mode()
    def texts(self, model: Any) -> list[str]:
        """What a model writes after each prompt, the prompt left out; in its own dtype, all at once, with a cache.

        Args:
            model: A causal language model.

        Raises:
            UserError: The tokenizer makes no tokens of a prompt.
        """
        rows = [self._ids(prompt) for prompt in self.prompts]
        if not rows:
            return []
        given = model.generation_config.eos_token_id
        ends = given if isinstance(given, list) else [] if given is None else [given]
        padding = ends[0] if ends else 0
        length = max(map(len, rows))
        ids = torch.tensor([[padding] * (length - len(row)) + row for row in rows], device=model.device)
        mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows], device=model.device)
        greedy = GenerationConfig(max_new_tokens=self._tokens, eos_token_id=given, pad_token_id=padding)
        with _generating(model, greedy):
            written = model.generate(ids, attention_mask=mask)[:, length:].tolist()
        return [self._continuation(row, more, ends) for row, more in zip(rows, written, strict=True)]

    def section(
        self, model_of: ModelOf, dense: Candidate, model: Any, own: Samples | None = None
    ) -> dict[str, list[tuple[str, str, str]]]:
        """A section of a model card: each prompt, and what the dense model and another one write after it.

        Args:
            model_of: Gives the dense model.
            dense: As a candidate.
            model: The other one.
            own: The same prompts by the other one's tokenizer; None where it is this one.

        Returns:
            Empty without prompts.
        """
        if not self.prompts:
            return {}
        texts = self.texts(model_of(dense)), (own or self).texts(model)
        return {"What it writes": [*zip(self.prompts, *texts, strict=True)]}

    def _ids(self, prompt: str) -> list[int]:
        ids: list[int] = self._tokenizer(prompt)["input_ids"]
        if not ids:
            raise UserError(f"samples.prompts: expected text, but the tokenizer makes no tokens of {prompt!r}.")
        return ids

    def _continuation(self, prompt: list[int], written: list[int], ends: Sequence[int]) -> str:
        """What is written up to where the model ends it, as text: behind it is padding, up to the longest row."""
        end = next((index + 1 for index, token in enumerate(written) if token in ends), len(written))

        def decoded(tokens: list[int]) -> str:
            return str(self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False))

        # Decoded together: alone, what follows would lose the blank that some tokenizers write in front of it.
        return decoded(prompt + written[:end]).removeprefix(decoded(prompt))


@contextmanager
def _generating(model: Any, settings: GenerationConfig) -> Iterator[None]:
    """Has a model generate by these settings alone: what `generate` is given is filled up with the model's own."""
    before, model.generation_config = model.generation_config, settings
    try:
        yield
    finally:
        model.generation_config = before


class SampleEvaluator:
    """The `Evaluator` of what candidates write as they are exported: its answers have texts as facts, and no values."""

    metrics: tuple[Metric, ...] = ()

    def __init__(
        self, samples: Samples, model_of: ModelOf, samples_of: Callable[[Candidate], Samples] | None = None
    ) -> None:
        """Writes nothing yet.

        Args:
            samples: The prompts.
            model_of: A candidate's own model.
            samples_of: The same prompts by a candidate's own tokenizer; None where all have one.
        """
        self.fidelity = samples.fidelity
        self._samples = samples
        self._model_of = model_of
        self._samples_of = samples_of or (lambda candidate: samples)

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """See `Evaluator`: there is nothing."""

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        """See `Evaluator`."""
        return map(self._evaluate, candidates)

    def _evaluate(self, candidate: Candidate) -> Evaluation:
        start = time.perf_counter()
        try:
            texts = self._samples_of(candidate).texts(self._model_of(candidate))
            facts = {**self._samples.facts, "texts": texts}
        except Exception as error:  # an evaluation boundary: the failure is stored with the candidate
            return failure(candidate, self.fidelity, error, seconds=time.perf_counter() - start)
        return Evaluation(candidate, self.fidelity, seconds=time.perf_counter() - start, facts=facts)
