"""Who is written by one point: its batch, and their jobs in the order of the batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from serving.batch import Batch
from serving.jobs import Job
from serving.requests import Outcome
from serving.switching import Sources

Ending = Callable[[Job, Outcome, str], None]  # told of each job that has ended, why, and what went wrong


class Group:
    """A point's model, and who is being written by it; in the scheduler's thread.

    Attributes:
        point: Its id.
        model: A causal language model.
        batch: The sequences.
        jobs: Theirs.
    """

    def __init__(self, point: str, model: Any) -> None:
        """Writes nothing yet.

        Args:
            point: See above.
            model: See above.
        """
        self.point, self.model = point, model
        self.batch, self.jobs = Batch(model), list[Job]()

    def write(self, end: Ending) -> bool:
        """One more token for every sequence; whether the model could."""
        try:
            logits = self.batch.step([job.tokens[-1] for job in self.jobs])
        except Exception as error:  # of the device: it is told, and others go on; whoever shares the cache has lost it
            self._fail(error, end)
            return False
        for job, row in zip(self.jobs, logits, strict=True):
            try:
                job.take(row)
            except Exception as error:  # of one request
                end(job, "error", told(error))
            else:
                if job.outcome is not None:
                    end(job, job.outcome, "")
        self.keep()
        return True

    def keep(self) -> None:
        """Leaves out who has ended."""
        self.batch.keep([place for place, job in enumerate(self.jobs) if job.outcome is None])
        self.jobs = [job for job in self.jobs if job.outcome is None]

    def hand_over(self, to: Group, sources: Sources, end: Ending) -> None:
        """Has another point go on with all jobs that have left open who answers.

        Args:
            to: That one's.
            sources: Where it finds its keys and values here.
            end: Told of whom an error has ended.
        """
        places = [place for place, job in enumerate(self.jobs) if job.free]
        try:
            self.batch.hand_over(places, to.batch, sources)
        except Exception as error:  # of the device, in the midst of two caches
            for group in (self, to):
                group._fail(error, end)
            return
        leaving: Sequence[Job] = [self.jobs[place] for place in places]
        for job in leaving:
            job.go_on(to.point)
        to.jobs = [*to.jobs, *leaving]  # first: whoever looks meanwhile sees them in both, and not in none
        self.jobs = [job for job in self.jobs if job not in leaving]

    def _fail(self, error: Exception, end: Ending) -> None:
        for job in self.jobs:
            end(job, "error", told(error))
        self.batch, self.jobs = Batch(self.model), []


def told(error: Exception) -> str:
    """An error in words."""
    return f"{type(error).__name__}: {error}"
