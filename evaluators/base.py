"""Metric, Evaluation and the Evaluator protocol: what a number about a candidate is, free of torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, get_args

from space.candidate import Candidate
from space.errors import ShapeError, UserError, mendable

AUTO = "auto"  # of a setting: as it fits
GROUP = 16  # candidates, at most, that a measure is told of at once
STDERR = "_stderr"  # behind the name of a task score: its standard error
SPREAD = "_spread"  # behind the name of a time: half the interquartile range of its rounds
TIMED = "timed"  # the fidelity of end-to-end times on the latency table's device; of another, with more behind it
TIMED_ON = "timed_on"  # the fact of times on another device that says which
OPTIMISED = "optimised"  # names, in settings and columns, the tasks that were an objective of the search

Goal = Literal["min", "max"]
Role = Literal["quality", "cost", "latency", "score"]
Format = Literal["fine", "plain", "count", "bytes", "percent"]
ModelOf = Callable[[Candidate], Any]  # a candidate's causal language model


@dataclass(frozen=True)
class Metric:
    """A number about a candidate: what every table, plot and report says of it.

    Attributes:
        name: Column name, with its unit where it has one (`latency_ms`).
        unit: Unit for people (`ms`, `nats/token`); empty for a plain count or ratio.
        goal: Whether less (`min`) or more (`max`) is better.
        role: What it speaks of: how near the model is to the dense one (`quality`), what it takes (`cost`), how long it
            takes (`latency`), or how it does at a task (`score`).
        label: What people call it; the name where nothing else is given.
        format: How its numbers are written: to four digits (`fine`) or two (`plain`), as a count (`98.3M`), as bytes
            (`22.5 MiB`), or a fraction in per cent.
        free: Whether it is known of every candidate without an evaluation, as costs and the latency table's times are.
    """

    name: str
    unit: str
    goal: Goal
    role: Role
    label: str = ""
    format: Format = "plain"
    free: bool = False

    def __post_init__(self) -> None:
        for name, kinds in (("goal", Goal), ("role", Role), ("format", Format)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(
                    f"Metric {self.name!r}: expected {name} among {', '.join(get_args(kinds))}, "
                    f"got {getattr(self, name)!r}."
                )
        if not self.label:
            object.__setattr__(self, "label", self.name)

    @property
    def title(self) -> str:
        """The label with the unit: the head of a column."""
        return f"{self.label} ({self.unit})" if self.unit and self.format not in ("bytes", "percent") else self.label

    @property
    def is_cost(self) -> bool:
        """Whether it speaks of what a candidate takes, not of how good it is."""
        return self.role in ("cost", "latency")


def choose_metrics(names: Sequence[str], metrics: Sequence[Metric]) -> list[Metric]:
    """The metrics of these names, in their order.

    Raises:
        UserError: A name is unknown or stands there twice, or there are not two or three.
    """
    by_name = {metric.name: metric for metric in metrics}
    unknown = [name for name in names if name not in by_name]
    if not 2 <= len(names) <= 3 or len(set(names)) != len(names) or unknown:
        other = f" There is no {' and no '.join(unknown)}." if unknown else ""
        raise UserError(
            f"objectives: expected two or three of {', '.join(by_name)}, got {', '.join(names) or 'none'}.{other}"
        )
    return [by_name[name] for name in names]


@dataclass(frozen=True)
class Evaluation:
    """What one evaluation of one candidate gave.

    Attributes:
        candidate: The architecture.
        fidelity: Name of the evaluator that gave it: `search`, `heldout`, `timed`, or that of a task of lm-eval.
        status: `ok`, or `failed` with `error` set and no values.
        values: Metric name to value.
        seconds: Wall time.
        tokens: Tokens of text that went through the candidate.
        error: The failure's message.
        predicted: What a surrogate that had not seen the candidate expected, metric name to value.
        facts: What else has to be known to compare the values with others, JSON-ready.
        generation: Round of asking in which the search chose the candidate, from 1; 0 when a search did not ask.
        worker: Which process gave it; empty for that of the search itself.
    """

    candidate: Candidate
    fidelity: str
    status: Literal["ok", "failed"] = "ok"
    values: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    tokens: int = 0
    error: str | None = None
    predicted: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    generation: int = 0
    worker: str = ""

    def __post_init__(self) -> None:
        if self.status not in ("ok", "failed"):
            raise ValueError(f"Evaluation: expected status 'ok' or 'failed', got {self.status!r}.")
        if (self.status == "failed") != (self.error is not None):
            raise ValueError(f"Evaluation: an error message goes with status 'failed', got {self.status!r}.")
        if self.generation < 0:
            raise ValueError(f"Evaluation: expected a generation of at least 0, got {self.generation}.")

    def to_json(self) -> dict[str, Any]:
        """The evaluation as a JSON-ready mapping."""
        return {
            "key": self.candidate.key,
            "candidate": self.candidate.to_json(),
            "fidelity": self.fidelity,
            "status": self.status,
            "values": dict(self.values),
            "seconds": self.seconds,
            "tokens": self.tokens,
            "error": self.error,
            "predicted": dict(self.predicted),
            **({"facts": dict(self.facts)} if self.facts else {}),
            **({"generation": self.generation} if self.generation else {}),
            **({"worker": self.worker} if self.worker else {}),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_json`."""
        return cls(
            candidate=Candidate.from_json(record["candidate"]),
            fidelity=record["fidelity"],
            status=record["status"],
            values=record["values"],
            seconds=record["seconds"],
            tokens=record["tokens"],
            error=record["error"],
            predicted=record["predicted"],
            facts=record.get("facts", {}),
            generation=record.get("generation", 0),
            worker=record.get("worker", ""),
        )


def failure(candidate: Candidate, fidelity: str, error: Exception, *, seconds: float, tokens: int = 0) -> Evaluation:
    """The failed evaluation that an exception stands for: what every evaluation boundary makes of what it catches.

    Args:
        candidate: That was asked about.
        fidelity: At which.
        error: What came.
        seconds: Wall time until then.
        tokens: Of text that went through the candidate until then.

    Raises:
        UserError: It is not the candidate's fault, but the settings' or the device's; nothing is to be stored.
    """
    if isinstance(error, UserError) and not isinstance(error, ShapeError):
        raise error
    if not isinstance(error, UserError) and (of_the_device := mendable(error)):
        raise of_the_device from error
    message = f"{type(error).__name__}: {error}"
    return Evaluation(candidate, fidelity, "failed", seconds=seconds, tokens=tokens, error=message)


class Evaluator(Protocol):
    """Evaluates candidates at one fidelity, whichever way it likes."""

    @property
    def fidelity(self) -> str:
        """Its name, which is a part of the archive's key."""
        ...

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The numbers that an answer holds."""
        ...

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        """One evaluation a candidate, in the order given; a candidate that fails gives a failed evaluation.

        An evaluation is computed when it is asked for, so that the caller can store each one before the next is
        computed, and can stop before the last. All candidates are known from the start, so that work for several of
        them can be shared.
        """
        ...

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """Does what is done once in a run before such candidates are first evaluated, and leaves it on disk.

        Another process that evaluates for the run finds it there.
        """
        ...


@dataclass(frozen=True)
class Measure:
    """One part of an evaluator: some metrics of one candidate, and the tokens that they cost.

    Attributes:
        metrics: The numbers that `values` returns, all of them, under their names.
        values: Candidate to metric values; may raise, which fails the candidate and nothing else.
        tokens: Tokens of text a call sends through the candidate.
        ahead: Told of the next candidates before they are asked about, so that work for them can be shared; may raise:
            then it is told of each alone.
    """

    metrics: tuple[Metric, ...]
    values: Callable[[Candidate], Mapping[str, float]]
    tokens: int = 0
    ahead: Callable[[Sequence[Candidate]], None] | None = None


class MeasureEvaluator:
    """An `Evaluator` that asks several measures about each candidate."""

    def __init__(self, fidelity: str, measures: Sequence[Measure]) -> None:
        """Asks nothing yet.

        Args:
            fidelity: Its name.
            measures: What is asked.
        """
        self._fidelity = fidelity
        self._measures = tuple(measures)
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names):
            raise ValueError(f"MeasureEvaluator: expected distinct metric names, got {names}.")

    @property
    def fidelity(self) -> str:
        """See `Evaluator`."""
        return self._fidelity

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """See `Evaluator`."""
        return tuple(metric for measure in self._measures for metric in measure.metrics)

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """See `Evaluator`: there is nothing."""

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        """See `Evaluator`; measures that share work are told of `GROUP` candidates at a time."""
        for start in range(0, len(candidates), GROUP):
            group = candidates[start : start + GROUP]
            begun = time.perf_counter()
            try:
                for measure in self._measures:
                    if measure.ahead is not None:
                        measure.ahead(group)
            except Exception as error:  # an evaluation boundary, as below
                failed = failure(group[0], self._fidelity, error, seconds=time.perf_counter() - begun)
                if len(group) == 1:
                    yield failed
                else:  # only one of them may be to blame
                    yield from (answer for candidate in group for answer in self.evaluate([candidate]))
                continue
            shared = (time.perf_counter() - begun) / len(group)
            for candidate in group:
                yield self._evaluate(candidate, shared)

    def _evaluate(self, candidate: Candidate, shared: float) -> Evaluation:
        """An evaluation that took so many seconds already."""
        start = time.perf_counter() - shared
        values: dict[str, float] = {}
        tokens = 0
        try:
            for measure in self._measures:
                values.update(measure.values(candidate))
                tokens += measure.tokens
            broken = [name for name, value in values.items() if value != value or abs(value) == float("inf")]
            if broken:
                raise ArithmeticError(f"expected finite values, got {', '.join(f'{n}={values[n]}' for n in broken)}.")
        except Exception as error:  # an evaluation boundary: the failure is stored, never scored
            return failure(candidate, self._fidelity, error, seconds=time.perf_counter() - start, tokens=tokens)
        return Evaluation(
            candidate=candidate,
            fidelity=self._fidelity,
            values=values,
            seconds=time.perf_counter() - start,
            tokens=tokens,
        )
