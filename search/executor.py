"""Who evaluates: the process of the run itself, or workers that Ray runs, with the same answers in the same order.

The algorithm, the archive and the seed stay in the process of the run. A generation is asked about as a whole, and its
answers are told in the order asked, so that neither how many workers there are nor who is faster has a say in where the
search goes; evaluations are pure, so that what a lost worker had is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Protocol

from evaluators.base import Evaluation, Evaluator, Metric
from space.candidate import Candidate
from space.errors import UserError

if TYPE_CHECKING:
    from search.ray_pool import RayPool


class Worker(Protocol):
    """What another process evaluates with."""

    def facts(self) -> Mapping[str, Any]:
        """What the numbers of its answers depend on, which must be as in every other process of the run."""
        ...

    def evaluate(self, fidelity: str, candidates: Sequence[Candidate]) -> list[Evaluation]:
        """Answers of the run's evaluator of that name; see `Evaluator`."""
        ...


@dataclass(frozen=True)
class Work:
    """What other processes evaluate with.

    Attributes:
        worker: Makes what evaluates in another process, there; can be pickled. It is given a number of threads.
        facts: What the facts of all workers have to hold.
        gpu: Whether a worker needs one.
        together: Candidates that share work where one worker has them all.
    """

    worker: Callable[[int], Worker]
    facts: Mapping[str, Any]
    gpu: bool = False
    together: int = 1


class Pool(Protocol):
    """Who evaluates at the moment."""

    def spread(self, evaluator: Evaluator) -> Evaluator:
        """One that gives the same answers, whoever computes them; `evaluator` is one of this process's."""
        ...

    def alone(self, evaluator: Evaluator) -> Evaluator:
        """One that is asked in this process while nothing else is computed: what times models."""
        ...


class Executor(Protocol):
    """Has candidates evaluated."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the numbers of an archive depend on besides, ready for JSON."""
        ...

    def check(self) -> None:
        """Raises UserError where it cannot work, before anything is read."""
        ...

    def pool(self, work: Work) -> AbstractContextManager[Pool]:
        """Who evaluates while the context is open."""
        ...


@dataclass(frozen=True)
class LocalExecutor:
    """This process evaluates."""

    @property
    def identity(self) -> dict[str, Any]:
        """See `Executor`."""
        return {}

    def check(self) -> None:
        """See `Executor`."""

    def pool(self, work: Work) -> AbstractContextManager[Pool]:
        """See `Executor`."""
        return nullcontext(_ThisProcess())


@dataclass(frozen=True)
class RayExecutor:
    """Workers that Ray runs evaluate.

    Attributes:
        workers: How many; None for one a GPU where they need GPUs, else for as many as there are cores for.
        threads: CPU cores of each.
        address: Of a running cluster, as `ray.init` takes it; None for this machine alone.
    """

    workers: int | None = None
    threads: int = 1
    address: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None and value < 1:
                raise UserError(f"executor.{name}: expected at least 1, got {value}.")

    @property
    def identity(self) -> dict[str, Any]:
        """See `Executor`: sums of another number of threads differ in their last bits."""
        return {"executor_threads": self.threads}

    def check(self) -> None:
        """See `Executor`."""
        try:
            version("ray")
        except PackageNotFoundError as error:
            raise UserError(
                "executor=ray: expected Ray, which is not installed. Install it with: pip install 'paretoprune[ray]', "
                "or set executor=local."
            ) from error

    @contextmanager
    def pool(self, work: Work) -> Iterator[Pool]:
        """See `Executor`; Ray and its workers start when the first candidate is asked about.

        Raises:
            UserError: When candidates are asked about: there is no such cluster, no worker can join, or what
                `Evaluator` raises.
        """
        from search.ray_pool import RayPool

        pool = RayPool(work.worker, work.facts, self.workers, self.threads, self.address, gpu=work.gpu)
        try:
            yield _Workers(pool, work.together)
        finally:
            pool.close()


class _ThisProcess:
    """A `Pool` of nobody else."""

    def spread(self, evaluator: Evaluator) -> Evaluator:
        return evaluator

    def alone(self, evaluator: Evaluator) -> Evaluator:
        return evaluator


class _Workers:
    """A `Pool` of other processes."""

    def __init__(self, pool: RayPool, together: int) -> None:
        self._pool, self._together = pool, together

    def spread(self, evaluator: Evaluator) -> Evaluator:
        return _Elsewhere(evaluator, self._pool, self._together)

    def alone(self, evaluator: Evaluator) -> Evaluator:
        return _Alone(evaluator, self._pool)


class _Asked:
    """An `Evaluator` like one of this process."""

    def __init__(self, local: Evaluator, pool: RayPool) -> None:
        self._local, self._pool = local, pool

    @property
    def fidelity(self) -> str:
        return self._local.fidelity

    @property
    def metrics(self) -> tuple[Metric, ...]:
        return self._local.metrics

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        self._local.prepare(candidates)


class _Elsewhere(_Asked):
    """Has its candidates evaluated by workers; what is done once is done here."""

    def __init__(self, local: Evaluator, pool: RayPool, together: int) -> None:
        super().__init__(local, pool)
        self._together = together

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        if not candidates:
            return
        self.prepare(candidates)
        parts = [candidates[start : start + self._together] for start in range(0, len(candidates), self._together)]
        yield from self._pool.ask(self.fidelity, parts)


class _Alone(_Asked):
    """Evaluates here, while no worker is at work."""

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        if candidates:
            self._pool.rest()
        yield from self._local.evaluate(candidates)
