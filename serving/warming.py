"""The first measurement of each point, while others are served; kept beside the run, for whoever serves it next."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from evaluators.latency.clocks import cpu_name
from serving.batch import Batch, Prefill
from serving.scheduler import Scheduler
from serving.speeds import Speeds, timed
from space.checks import dtype_name
from space.errors import UserError
from space.files import write_whole

TOKENS, STEPS = (8, 64), 3  # of the prompts that a point is measured with, and how often each number is
_FORMAT = 2  # raised when what is measured becomes another thing
_log = logging.getLogger(__name__)


class Warming:
    """Measures the points of a scheduler, one forward pass between two of its steps."""

    def __init__(self, models: Mapping[str, Any], scheduler: Scheduler, place: Path) -> None:
        """Takes over what an earlier server has measured here.

        Args:
            models: By point, causal language models.
            scheduler: Whose speeds are measured.
            place: Where they are kept.

        Raises:
            UserError: What is kept there cannot be read.
        """
        self._models, self._scheduler = models, scheduler
        self._about = _about(next(iter(models.values())))
        name = hashlib.sha256(json.dumps(self._about, sort_keys=True).encode()).hexdigest()[:12]
        self._file = place / f"speeds-{name}.json"
        if self._file.exists():
            _take_over(scheduler.speeds, self._file)

    def begin(self) -> int:
        """Begins, before or after the scheduler does; how many points are to be measured."""
        points = [point for point in self._models if not self._scheduler.speeds.known(point)]
        if points:  # the best one first, and then the fastest: between them there is something to choose
            self._call(self._passes(points[:1] + points[:0:-1]))
        return len(points)

    def _call(self, passes: Iterator[None]) -> None:
        self._scheduler.call(partial(self._advance, passes)).add_done_callback(_told)

    def _advance(self, passes: Iterator[None]) -> None:
        for _ in passes:
            self._call(passes)  # for the next one
            return

    def _passes(self, points: list[str]) -> Iterator[None]:
        """Forward passes that measure points, one at each step of the iterator."""
        speeds, most = self._scheduler.speeds, self._scheduler.limits.active
        for point in points:
            model = self._models[point]
            Prefill(model, [0] * TOKENS[0]).step(TOKENS[0])  # with what the first pass alone has to do
            for tokens in TOKENS * STEPS:
                yield
                prefill = Prefill(model, [0] * tokens)
                speeds.read(point, tokens, timed(prefill.step, tokens)[1])
            batch = Batch(model)
            batch.join(prefill)
            for sequences in sorted({1, most}):
                batch.keep([0] * sequences)
                for _ in range(STEPS):
                    yield
                    speeds.stepped(point, sequences, timed(batch.step, [0] * sequences)[1])
            write_whole(self._file, json.dumps({"about": self._about, **speeds.to_json()}, indent=1))


def _told(done: Future[None]) -> None:
    """Tells of what went wrong: nobody waits for a measurement."""
    if not done.cancelled() and (error := done.exception()) is not None:
        _log.warning("the points' speeds are not all measured: %s: %s", type(error).__name__, error)


def _take_over(speeds: Speeds, file: Path) -> None:
    try:
        speeds.take_over(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"Expected {file} to be a server's speeds, got: {type(error).__name__}: {error}. Delete it; they are "
            "measured again."
        ) from error


def _about(model: Any) -> dict[str, Any]:
    """What measurements hold for, ready for JSON."""
    device = model.device
    return {
        "format": _FORMAT,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        "dtype": dtype_name(model.dtype),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
