"""Settings of what subnets learn, checked as they are made; free of torch, so that mistakes are told at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from evaluators.base import AUTO
from evaluators.data.places import TextPlace
from space.checks import require_least
from space.errors import UserError
from space.models.names import EMBEDDINGS, NORMS, OUTPUTS
from space.task import Task

HOST_BYTES = 9 << 29  # that weights and their training may take of a CPU's memory
GPU_PART = 0.7  # of a GPU's memory, that they may take of it
STATE_BYTES = 12  # of a shared weight in training, besides itself: its float32 master, and two moments of AdamW
POLISH_BYTES = 16  # of a weight in a pick's training: in float32, its gradient, and two moments of AdamW
HEALING_TOKENS = 120_000  # where neither settings nor minutes say how many
CORRECTED_AT_ONCE = 4  # subnets whose hidden states a corrective refit has in memory
MODES = ("off", "final", "loop")  # of `search.distillation`
LAST_RATE = 0.1  # of the learning rate of healing is left at the end of its cosine
DECAY_STEPS = 16  # after so many, the learning rate of distillation has fallen by the root of 2

# Row name to whether a decoder parameter of that name is trained. Names are peft's where there are adapters.
TRAINABLE: Mapping[str, Callable[[str], bool]] = {
    "adapters": lambda name: ".lora_" in name or _is_small(name),
    "outputs": lambda name: _is_of(name, OUTPUTS) or _is_small(name),
    "norms": lambda name: _is_small(name),
    "all": lambda name: EMBEDDINGS.isdisjoint(name.split(".")),
}
# The same of the weights that all subnets share, which have no adapters; the most of them first.
SHARED_TRAINABLE = {row: TRAINABLE[row] for row in ("all", "outputs", "norms")}


def _is_small(name: str) -> bool:
    return name.endswith("bias") or _is_of(f"{name.rpartition('.')[0]}.weight", NORMS)  # of which some say it otherwise


def _is_of(name: str, modules: frozenset[str]) -> bool:
    """Whether a parameter is the weight of a module with one of these names, which may have what leads to it."""
    module, _, key = name.rpartition(".")
    return key == "weight" and any(f".{module}".endswith(f".{each}") for each in modules)


@dataclass(frozen=True)
class CorrectiveRefit:
    """Settings of the corrective refit.

    Attributes:
        windows: Windows of the calibration text.
        damping: See `space.supernet.corrective_refit.correct`.
        batch_size: Windows of a forward pass.
    """

    windows: int
    damping: float = 0.001
    batch_size: int = 8


def part_of_rate(step: int, steps: int, warmup: float, last: float) -> float:
    """The part of a learning rate that is taken at a step, from 0: it rises, then falls along a cosine.

    Args:
        step: Which.
        steps: How many there are.
        warmup: The part of these in which it rises.
        last: What it falls to.
    """
    rising = min(1.0, (step + 1) / max(1.0, warmup * steps))
    return rising * (last + (1 - last) * 0.5 * (1 + math.cos(math.pi * step / steps)))


@dataclass(frozen=True)
class Healing:
    """Settings; `of_task` fills in what a task says.

    Attributes:
        tokens: Of training, over all designs; None for what `budget.minutes` come to, else `HEALING_TOKENS`.
        trainable: Row of `SHARED_TRAINABLE`, or `auto`: the first one whose training takes at most `memory_bytes`, else
            the last.
        memory_bytes: Of all weights, and of gradients and optimizer of those in training; None for what
            `evaluators.training.rows` takes.
        learning_rate: Of AdamW, after the warm-up; it falls along a cosine to `LAST_RATE` of it. Each tensor takes the
            part of it that `evaluators.training.rates` says. None for what the task says.
        warmup: Part of the steps in which it rises.
        batch_size: Windows of a step, which is one forward pass; None for what the task says or, where that is one, for
            as many as are nearly as fast as one, where `budget.minutes` had that measured.
        clip: Largest norm of the gradient.
        save_steps: Steps between two checkpoints.
    """

    tokens: int | None = None
    trainable: str = AUTO
    memory_bytes: int | None = None
    learning_rate: float | None = None
    warmup: float = 0.03
    batch_size: int | None = None
    clip: float = 1.0
    save_steps: int = 120

    def __post_init__(self) -> None:
        _require_row(self.trainable, "distillation")
        require_least(self, "distillation.", ("tokens", "batch_size", "save_steps", "memory_bytes"))
        _require_course(self, "distillation")

    @property
    def total(self) -> int:
        """Tokens of training."""
        return HEALING_TOKENS if self.tokens is None else self.tokens

    @property
    def step_windows(self) -> int:
        """Windows of a step."""
        return self.batch_size or 1

    def of_task(self, use: Task) -> Healing:
        """With what a task says where nothing is set."""
        # where one window makes a step, a measured number of them may
        windows = self.batch_size or (use.step_windows if use.step_windows > 1 else None)
        return replace(self, learning_rate=self.learning_rate or use.healing_rate, batch_size=windows)

    def filled(self, tokens: int, batch_size: int) -> Healing:
        """With these where nothing is set."""
        return replace(self, tokens=self.tokens or tokens, batch_size=self.batch_size or batch_size)

    def steps(self, length: int) -> int:
        """How many steps there are with windows of so many tokens."""
        return -(-self.total // (self.step_windows * length))

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at a step, from 0."""
        assert self.learning_rate is not None
        return self.learning_rate * part_of_rate(step, steps, self.warmup, LAST_RATE)


@dataclass(frozen=True)
class Distillation:
    """Settings, the same for all candidates.

    Attributes:
        tokens: Of training of each trained fidelity, in total, rising.
        trainable: Row of `TRAINABLE`.
        rank: Of the low-rank adapters.
        learning_rate: Of AdamW, after the warm-up; it falls with the root of the steps.
        warmup: Steps in which the learning rate rises.
        batch_size: Windows of a step, which is one forward pass.
        clip: Largest norm of the gradient.
        temperature: What logits are divided by.
        lm: Weight of the language-model loss, 0..1; the divergence has the rest.
        streams: Weight of the match of residual streams.
        stream_layers: Behind how many layers, evenly spaced, they are matched.
        seed: Of the adapters' initial values.
    """

    tokens: tuple[int, ...]
    trainable: str = "adapters"
    rank: int = 16
    learning_rate: float = 1e-3
    warmup: int = 4
    batch_size: int = 1
    clip: float = 1.0
    temperature: float = 1.0
    lm: float = 0.0
    streams: float = 0.0
    stream_layers: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        tokens = [*self.tokens]
        object.__setattr__(self, "tokens", tuple(tokens))  # configurations have lists
        if not tokens or tokens != sorted(set(tokens)) or tokens[0] < 1:
            raise UserError(f"distillation.tokens: expected rising counts of tokens, got {tokens}. Give one at least.")
        if self.trainable not in TRAINABLE:
            raise UserError(f"distillation.trainable: expected one of {', '.join(TRAINABLE)}, got {self.trainable!r}.")
        require_least(self, "distillation.", ("rank", "batch_size", "stream_layers"))
        for name in ("learning_rate", "clip", "temperature"):
            if not getattr(self, name) > 0:
                raise UserError(f"distillation.{name}: expected more than 0, got {getattr(self, name)}.")
        if not 0 <= self.lm <= 1 or self.streams < 0 or self.warmup < 0:
            raise UserError(
                "distillation: expected lm from 0 to 1, streams and warmup of at least 0, got "
                f"{self.lm}, {self.streams} and {self.warmup}."
            )

    def rate(self, step: int) -> float:
        """The learning rate at a step, from 0: a warm-up, then a fall that does not depend on where training ends.

        So a student that is promoted goes on where it was, and one that is not loses little by the end.
        """
        return self.learning_rate * min((step + 1) / max(self.warmup, 1), 1.0) / math.sqrt(1 + step / DECAY_STEPS)


@dataclass(frozen=True)
class Recovery:
    """Settings of the distillation of a pick; `of_task` fills in what a task says.

    Attributes:
        tokens: Of training text, rounded up to whole steps; 0 for none, None for what `polish.minutes` gives.
        trainable: As of `Healing`.
        memory_bytes: As of `Healing`.
        learning_rate: As of `Healing`, but that it falls to 0.
        warmup: Part of the steps in which the learning rate rises.
        batch_size: Windows of a forward pass, of all processes together; None for what the task says.
        accumulation: Forward passes of a step.
        clip: Largest norm of the gradient.
        save_tokens: Training tokens between two checkpoints, and between two looks at held-out text.
        seed: Of the trainer, and of the order of the text.
        checkpointing: Whether activations are computed again in the backward pass, which takes less memory and more
            time.
        compile: Whether the student is compiled with torch.compile, which takes minutes before the first step.
        data: Where the text is; without a path, the run's own.
    """

    tokens: float | None = None
    trainable: str = AUTO
    memory_bytes: int | None = None
    learning_rate: float | None = None
    warmup: float = 0.02
    batch_size: int | None = None
    accumulation: int = 1
    clip: float = 1.0
    save_tokens: float = 100_000
    seed: int = 0
    checkpointing: bool = False
    compile: bool = False
    data: TextPlace = field(default_factory=TextPlace)

    def __post_init__(self) -> None:
        if (self.tokens or 0) < 0 or self.save_tokens < 1:
            raise UserError(
                "recover: expected tokens of at least 0 and save_tokens of at least 1, got "
                f"{self.tokens} and {self.save_tokens}."
            )
        _require_row(self.trainable, "recover")
        require_least(self, "recover.", ("batch_size", "accumulation", "memory_bytes"))
        _require_course(self, "recover")

    @property
    def together(self) -> int:
        """Windows of a forward pass."""
        assert self.batch_size is not None
        return self.batch_size

    @property
    def step_windows(self) -> int:
        """Windows of a step of the optimizer."""
        return self.together * self.accumulation

    def of_task(self, use: Task) -> Recovery:
        """With what a task says where nothing is set."""
        rate, windows = self.learning_rate or use.polish_rate, self.batch_size or use.polish_windows
        return replace(self, learning_rate=rate, batch_size=windows)


def _require_row(row: str, group: str) -> None:
    if row not in (AUTO, *SHARED_TRAINABLE):
        raise UserError(
            f"{group}.trainable: expected one of {AUTO}, {', '.join(SHARED_TRAINABLE)}, got {row!r}. Set one."
        )


def _require_course(settings: Healing | Recovery, group: str) -> None:
    """Raises UserError where a learning rate that rises and falls over the steps cannot be made of the settings."""
    rate, clip, warmup = settings.learning_rate, settings.clip, settings.warmup
    if not (rate is None or rate > 0) or not clip > 0 or not 0 <= warmup < 1:
        raise UserError(
            f"{group}: expected learning_rate and clip above 0 and warmup from 0 to below 1, got {rate}, {clip} and "
            f"{warmup}."
        )


@dataclass(frozen=True)
class Polish:
    """What an export does for its one model, beside the settings of the training.

    Attributes:
        minutes: Of training on this machine, by a speed that is measured before it; 0 for the model of the front's row.
            `Recovery.tokens` stands in place of it.
        windows: Of calibration text for the corrective refit in place of the front's one, at most; 0 to keep that, None
            for what the task says.
    """

    minutes: float = 4.0
    windows: int | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.minutes < math.inf:
            raise UserError(f"polish.minutes: expected at least 0, got {self.minutes}.")
        if self.windows is not None and (self.windows < 0 or self.windows == 1):
            raise UserError(f"polish.windows: expected 0 or at least 2, got {self.windows}.")

    def of_task(self, use: Task) -> Polish:
        """With what a task says where nothing is set."""
        return replace(self, windows=use.refit_windows if self.windows is None else self.windows)

    def wanted(self, recovery: Recovery) -> bool:
        """Whether there is anything to do."""
        return self.minutes > 0 or recovery.tokens is not None
