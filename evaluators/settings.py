"""What a session is told: frozen values that travel to another process; a key of `conf/` is a field here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from evaluators.amounts import WINDOWS, Amounts
from evaluators.base import AUTO, Metric, choose_metrics
from evaluators.cost import METRICS as COSTS
from evaluators.data.places import Part, TextPlace
from evaluators.latency.workload import Workload
from evaluators.metrics import SEARCH_BITS, VOCABULARY_REMOVED, metric_named, metrics_named
from evaluators.model_settings import ModelSettings
from evaluators.training.recipes import MODES, CorrectiveRefit, Distillation, Healing
from evaluators.typed import require_types
from evaluators.vocabulary.settings import require_bits
from evaluators.window_sizes import window_sizes
from space.checks import require_least
from space.errors import UserError
from space.space import SearchSpace
from space.spec import ModelSpec
from space.supernet.recipe import Preparation

TOGETHER = 4  # windows of a forward pass, where nothing was measured
ACC = metric_named("acc")  # the mean over tasks, as an objective


@dataclass(frozen=True)
class TextSettings(TextPlace):
    """Where a run's text is, and how much of it the run takes.

    Attributes:
        length: Tokens in a window.
        calibration_windows: For importance and refits.
        search_windows: For the divergence of every candidate; None for what `budget.minutes` come to, else `WINDOWS`.
        heldout_windows: For the front's final scores.
        long: Tokens in the longer windows of held-out text that the front is scored on besides; None for no such.
        digest: That the text must have, as `evaluators.data.splits.TokenSplits` says it; None for any.
    """

    length: int = 512
    calibration_windows: int = 64
    search_windows: int | None = None
    heldout_windows: int = 16
    long: int | None = 2048
    digest: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require_least(self, "data.", ("length", "calibration_windows", "search_windows", "heldout_windows"))
        if self.long is not None and self.long < 2:
            raise UserError(f"data.long: expected at least 2 tokens, or null for no longer windows, got {self.long}.")

    @property
    def windows(self) -> dict[Part, int]:
        """How many windows the run takes of each part."""
        search = WINDOWS if self.search_windows is None else self.search_windows
        return {"calibration": self.calibration_windows, "search": search, "heldout": self.heldout_windows}


@dataclass(frozen=True)
class FidelitySettings:
    """How candidates are asked about.

    Attributes:
        context: Tokens at which KV-cache bytes and attention MACs are counted.
        batch_size: Windows of a forward pass; None for what is measured with `budget.minutes`, else `TOGETHER`.
        fidelities: The part of each search window that every cheaper fidelity sees, cheapest first.
        cache_bytes: Memory for residual streams that candidates share.
    """

    context: int = 1024
    batch_size: int | None = None
    fidelities: tuple[float, ...] = (0.25,)
    cache_bytes: int = 1 << 29

    def __post_init__(self) -> None:
        object.__setattr__(self, "fidelities", tuple(self.fidelities))  # configurations have lists
        require_least(self, "evaluators.", ("context", "batch_size"))
        require_least(self, "evaluators.", ("cache_bytes",), least=0)

    @property
    def together(self) -> int:
        """Windows of a forward pass."""
        return TOGETHER if self.batch_size is None else self.batch_size


@dataclass(frozen=True)
class TaskSettings:
    """Which tasks of lm-eval, and how they are asked.

    Attributes:
        tasks: Names of tasks, groups or tags, patterns of such (`arc_*`), or task files.
        picks: Points beside the recommended one that a run scores at its end.
        num_fewshot: Examples in every prompt; None for each task's own number. Tasks that fix it at 0 keep it.
        limit: Items of each task, from its first on; below 1 a fraction of them; None for all.
        include_path: Directory with task files of the user's own; they come before lm-eval's.
        batch_size: Sequences of a forward pass. `auto`: on CUDA what fits, as lm-eval finds it; elsewhere 1, lm-eval's
            own default: nothing is padded, so that an item scores the same in any company, in bfloat16 too.
    """

    tasks: Sequence[str] = ()
    picks: int = 3
    num_fewshot: int | None = None
    limit: float | None = None
    include_path: str | None = None
    batch_size: int | str = AUTO

    def __post_init__(self) -> None:
        tasks = (self.tasks,) if isinstance(self.tasks, str) else tuple(self.tasks)
        object.__setattr__(self, "tasks", tasks)
        require_least(self, "evaluate.", ("picks",), least=0)
        shots, limit, batch_size, place = self.num_fewshot, self.limit, self.batch_size, self.include_path
        if not (shots is None or shots >= 0) or not (limit is None or limit > 0):
            raise UserError(
                "Task scores: expected num_fewshot of at least 0 and a limit above 0, or null for all, "
                f"got {shots} and {limit}."
            )
        if batch_size != AUTO and (isinstance(batch_size, str) or batch_size < 1):
            raise UserError(f"Task scores: expected batch_size of at least 1, or {AUTO}, got {batch_size!r}.")
        if place is not None and not tasks:
            raise UserError(f"Task scores: got include_path={place} but no tasks. Name them too: tasks=[my_task].")

    def require_place(self) -> None:
        """Raises UserError where there is no directory at `include_path`."""
        place = self.include_path
        if place is not None and not Path(place).is_dir():
            raise UserError(f"Task scores: expected include_path to be a directory, there is none at {place}.")


@dataclass(frozen=True)
class SampleSettings:
    """What models write for people to read.

    Attributes:
        prompts: Beginnings of texts; none of them for nothing.
        tokens: That follow, at most.
    """

    prompts: Sequence[str] = ()
    tokens: int = 30

    def __post_init__(self) -> None:
        prompts = (self.prompts,) if isinstance(self.prompts, str) else tuple(self.prompts)
        object.__setattr__(self, "prompts", prompts)  # configurations have lists
        if not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts) or self.tokens < 1:
            raise UserError(
                "samples: expected prompts of some text, or [] for none, and tokens of at least 1, got "
                f"{[*prompts]} and {self.tokens}."
            )


@dataclass(frozen=True)
class Settings:
    """All that a process needs to be told to evaluate or export subnets of a run.

    Attributes:
        model: The dense model.
        text: What it reads.
        supernet: How units are ordered and output projections refit.
        space: The designs of a model.
        evaluators: How candidates are asked about.
        latency: What is timed.
        correction: The corrective refit; None for none.
        distillation: How subnets are trained, where they are: all together, or each by itself; None for not at all.
        training: `off`: subnets are not trained; `final`: those of the front are; `loop`: the search sees trained ones,
            or, where there is no training, those after their corrective refit.
        tasks: What lm-eval asks.
        samples: What the front's members write.
        objectives: Names of the metrics that the front is about.
    """

    model: ModelSettings
    text: TextSettings
    supernet: Preparation
    space: Callable[[ModelSpec], SearchSpace]
    evaluators: FidelitySettings
    latency: Workload
    correction: CorrectiveRefit | None
    distillation: Healing | Distillation | None
    training: str
    tasks: TaskSettings = field(default_factory=TaskSettings)
    samples: SampleSettings = field(default_factory=SampleSettings)
    objectives: tuple[str, ...] = ("kl", "latency_ms")

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", tuple(self.objectives))
        if isinstance(self.distillation, Healing):
            object.__setattr__(self, "distillation", self.distillation.of_task(self.model.use))
        if self.training not in MODES:
            raise UserError(f"search.distillation: expected one of {', '.join(MODES)}, got {self.training!r}.")
        if self.chooses_vocabulary:
            require_bits(self.objectives, self.latency.engine, self.tasks.tasks)
        if self.chooses_types:
            require_types(self.latency, self.correction, self.distillation, self.training)

    def settled(self, amounts: Amounts) -> Settings:
        """The same with what minutes have come to in place of what is left open."""
        text, evaluators, distillation = self.text, self.evaluators, self.distillation
        if text.search_windows is None:
            text = replace(text, search_windows=amounts.search_windows)
        if not amounts.long:
            text = replace(text, long=None)
        if evaluators.batch_size is None:
            evaluators = replace(evaluators, batch_size=amounts.batch_size)
        if isinstance(distillation, Healing) and amounts.healing:
            distillation = distillation.filled(amounts.healing, amounts.step_windows)
        return replace(self, text=text, evaluators=evaluators, distillation=distillation)

    @property
    def answered(self) -> tuple[Metric, ...]:
        """The metrics that the search's evaluators answer with, the cheapest ones first."""
        scores = (ACC,) if ACC.name in self.objectives else ()
        costs, quality = COSTS, self.model.use.search_quality
        if self.chooses_vocabulary:
            costs, quality = (*COSTS, *metrics_named(VOCABULARY_REMOVED)), SEARCH_BITS
        return (*costs, *self.latency.metrics, *metrics_named(*quality), *scores)

    @property
    def chooses_vocabulary(self) -> bool:
        """Whether designs have vocabularies of their own."""
        return bool(getattr(self.space, "keywords", {}).get("vocabulary"))

    @property
    def chooses_types(self) -> bool:
        """Whether designs choose types for their matrices."""
        return bool(getattr(self.space, "keywords", {}).get("types"))

    @property
    def metrics(self) -> list[Metric]:
        """The objectives.

        Raises:
            UserError: See `choose_metrics`; or there are no tasks for an accuracy.
        """
        if ACC.name in self.objectives and not self.tasks.tasks:
            raise UserError("objectives=[acc, ...]: expected tasks to measure it on, got none: evaluate.tasks=[piqa].")
        return choose_metrics(self.objectives, self.answered)

    @property
    def untrained(self) -> int:
        """How many fidelities look at subnets as they are.

        Raises:
            UserError: See `window_sizes`.
        """
        return len(window_sizes(self.evaluators.fidelities, self.text.length))

    @property
    def trained(self) -> int:
        """How many fidelities of the search look at subnets after what follows their cached refit."""
        if self.training != "loop":
            return 0
        if isinstance(self.distillation, Distillation):
            return len(self.distillation.tokens)
        return int(self.distillation is not None or self.correction is not None)

    @property
    def heals_in_loop(self) -> bool:
        """Whether the search is what has the supernet healed."""
        return self.training == "loop" and isinstance(self.distillation, Healing)

    @property
    def free(self) -> list[Metric]:
        """The metrics of any candidate that constraints may bound and fixed-cost searches may have as their axis."""
        return [*(metric for metric in self.answered if metric.free), *metrics_named("refit_error")]

    @property
    def lengths(self) -> dict[str, int]:
        """Tokens that the model is asked about at once, by the settings that say so."""
        text, context = self.text.length, self.evaluators.context
        return {f"data.length={text}": text, f"evaluators.context={context}": context, **self.latency.context}

    @property
    def tunes(self) -> bool:
        """Whether anything follows the cached refit of what is exported."""
        return self.correction is not None or self.training != "off"
