"""What a library does to the whole process stays inside: its printing, its bars, its seeds."""

from __future__ import annotations

import io
import logging
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch

from space.models.embedded import quiet_transformers


@contextmanager
def seeded(python: int, others: int) -> Iterator[None]:
    """The global generators start from these seeds inside; what they were is restored.

    Args:
        python: Of `random`.
        others: Of NumPy and torch.
    """
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        random.seed(python)
        np.random.seed(others)
        torch.manual_seed(others)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def quiet(logger: str) -> Iterator[None]:
    """Nothing is printed inside, and no bars are drawn but rich's; this logger and transformers' log errors alone."""
    log = logging.getLogger(logger)
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with quiet_transformers(), redirect_stdout(_Sink(sys.stdout)), redirect_stderr(_Sink(sys.stderr)):
            yield
    finally:
        log.setLevel(level)


class _Sink(io.StringIO):
    """Swallows what is printed; rich goes on to draw on the stream that it stands for."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.rich_proxied_file = getattr(stream, "rich_proxied_file", stream)
