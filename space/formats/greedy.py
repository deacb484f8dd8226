"""What other engines continue greedily in the check of an export, and how that compares with the checkpoint."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from space.errors import UserError

NEW_TOKENS = 20
TEXTS = (
    "The capital of France is",
    "Once upon a time there was a small dog who",
    "def mean(values):\n    total = sum(values)\n\n    return",
    "In 1969, 3 men flew 384,400 km to the Moon. It's",
    "Question: What is 12 + 30?\nAnswer:",
    "  Two spaces, a\ttab, and   three; then... what?!",
    "Les élèves ont étudié à l'école où",
    "Привет, как дела? 你好，世界。 こんにちは",
    "E-mail: someone@example.org 🙂👍🏽 (100%) #1",
    "WE'LL SEE THAT THEY'RE RIGHT, I'd say; don't you'",
)


@dataclass(frozen=True)
class Tolerance:
    """What passes for the rounding of an engine, in nats of log-probability.

    Attributes:
        worst: Largest difference of one token.
        mean: Mean difference.
        tie: How much less likely than the likeliest a chosen token may be.
    """

    worst: float
    mean: float
    tie: float


@dataclass(frozen=True)
class Agreement:
    """How an engine's greedy steps compare with what the checkpoint says to the same tokens, in float32.

    Attributes:
        worst: Largest difference of a log-probability over the likeliest tokens of all steps, in nats.
        mean: Their mean.
        steps: New tokens compared, over all prompts.
        ties: Steps whose likeliest token is another one.
        behind: How much less likely than the likeliest the worst of these is.
    """

    worst: float
    mean: float
    steps: int
    ties: int
    behind: float

    @property
    def figures(self) -> dict[str, Any]:
        """Those of a `GreedyCheck`, by name."""
        return {
            "worst_difference": self.worst,
            "mean_difference": self.mean,
            "steps": self.steps,
            "ties": self.ties,
        }

    def require(self, allowed: Tolerance, what: str, engine: str) -> None:
        """Compares with a tolerance.

        Raises:
            UserError: A difference is larger, or not a number.
        """
        if self.worst <= allowed.worst and self.mean <= allowed.mean and self.behind <= allowed.tie:
            return
        raise UserError(
            f"The exported {what} failed its check: expected log-probabilities within {allowed.worst:g} nats and "
            f"{allowed.mean:g} on average, and {engine} to choose the checkpoint's likeliest token or one at most "
            f"{allowed.tie:g} behind, but they differ by {self.worst:.3g} and {self.mean:.3g}, and a choice is "
            f"{self.behind:.3g} behind. Export another point, or report this one with its key."
        )


@dataclass(frozen=True)
class GreedyCheck:
    """What an engine's check says of its continuations; each engine's own adds figures.

    Attributes:
        worst_difference: Largest difference of a log-probability over the likeliest tokens of all steps, in nats.
        mean_difference: Their mean.
        steps: New tokens compared, over all prompts, each continued greedily.
        ties: Steps whose likeliest token is another one, which the checkpoint holds as likely within the tolerance.
    """

    worst_difference: float
    mean_difference: float
    steps: int
    ties: int

    def rows(self) -> dict[str, object]:
        """The figures for a table."""
        return {
            name.replace("_", " "): value if isinstance(value, str) else f"{value:.4g}"
            for name, value in asdict(self).items()
        }


def agreement(
    model: Any,
    prompts: Sequence[list[int]],
    runs: Sequence[Sequence[Mapping[str, Any]]],
    never: Sequence[int] = (),
) -> Agreement:
    """Compares each step of an engine's own continuations with what a model says to the same tokens.

    Args:
        model: The checkpoint as a causal language model, in float32, on the CPU.
        prompts: Token ids.
        runs: Of each prompt, its steps: the `token` that the engine chose, and as `top` the likeliest ones with their
            log-probabilities, of which those that are not a number are None, as JSON has it.
        never: Tokens that the engine never chooses.
    """
    differences, gaps = [], []
    for prompt, run in zip(prompts, runs, strict=True):
        chosen = [step["token"] for step in run]
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + chosen[:-1]]), use_cache=False).logits[0, len(prompt) - 1 :]
        expected = logits.float().log_softmax(-1)  # (steps, vocab)
        for row, step in zip(expected, run, strict=True):
            reported = torch.tensor([math.nan if value is None else value for _, value in step["top"]])
            differences.append((row[[token for token, _ in step["top"]]] - reported).abs())
        expected[:, list(never)] = -torch.inf
        gaps.append(expected.amax(-1) - expected[range(len(run)), chosen])
    apart, behind = torch.cat(differences), torch.cat(gaps)
    return Agreement(
        worst=float(apart.max()) if len(apart) else math.nan,
        mean=float(apart.mean()),
        steps=len(behind),
        ties=int((behind > 0).sum()),
        behind=float(behind.max()),
    )
