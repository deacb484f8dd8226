"""What the dense model and the front's members write, as a run's summary keeps it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evaluators.base import Evaluation


@dataclass(frozen=True)
class Samples:
    """Texts that models wrote; none of it is to be trusted as markup.

    Attributes:
        prompts: Beginnings, the same for all; none where nothing was written.
        new_tokens: That followed each, at most.
        texts: Key to what follows each prompt.
    """

    prompts: tuple[str, ...] = ()
    new_tokens: int = 0
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, summary: Mapping[str, Any]) -> Samples:
        """Those of a run's `summary.json`."""
        stored = summary.get("samples")
        if not stored:
            return cls()
        texts = {str(key): tuple(map(str, texts)) for key, texts in stored["texts"].items()}
        return cls(tuple(map(str, stored["prompts"])), int(stored["new_tokens"]), texts)

    def texts_of(self, key: str) -> tuple[str, ...]:
        """What a model wrote after each prompt; empty where it was not asked."""
        return self.texts.get(key, ())


def samples_summary(answers: Iterable[Evaluation]) -> dict[str, Any] | None:
    """What `summary.json` keeps of answers with texts: prompts, tokens, and key to texts; None without such answers."""
    written = [answer for answer in answers if "texts" in answer.facts]
    if not written:
        return None
    facts = written[0].facts
    texts = {answer.candidate.key: answer.facts["texts"] for answer in written}
    return {"prompts": facts["prompts"], "new_tokens": facts["new_tokens"], "texts": texts}
