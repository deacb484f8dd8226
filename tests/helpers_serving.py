"""Points of a tiny Llama that are served, and whoever asks them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from helpers_run import CHARACTERS, save_tiny

from serving.limits import Limits
from serving.requests import End, Likely, Piece, Request, Sampling, Served
from serving.scheduler import Scheduler
from serving.switching import Switching
from space.candidate import Candidate
from space.models.loading import load_model
from space.supernet.supernet import Supernet

CUT = Candidate.from_rows([[4, 2, 16], [0, 0, 48], [3, 3, 32], [6, 3, 0]])
GREEDY = Sampling(temperature=0.0)
TIE = 1e-3  # between two tokens that batching may change


@dataclass(frozen=True)
class Points:
    """The dense model and a subnet with holes, with a tokenizer of single characters."""

    models: Mapping[str, Any]
    tokenizer: Any

    @property
    def ends(self) -> set[int]:
        return {self.tokenizer.eos_token_id}

    def text(self, prompt: Sequence[int], tokens: Sequence[int]) -> str:
        """What tokens add to a prompt: this tokenizer puts blanks between its tokens."""
        before, both = (self.tokenizer.decode(ids, skip_special_tokens=True) for ids in (prompt, [*prompt, *tokens]))
        assert both.startswith(before)
        return str(both[len(before) :])


def make_points(directory: Path) -> Points:
    loaded = load_model(str(save_tiny("llama", directory / "model")), dtype="float32", device="cpu")
    tokens = torch.randint(len(CHARACTERS), (12, 24), generator=torch.Generator().manual_seed(0))
    supernet = Supernet.prepare(loaded.model, loaded.spec, tokens, directory / "supernet", dtype=torch.float32)
    models = {"dense": supernet.view(Candidate.dense(loaded.spec)), "cut": supernet.view(CUT)}
    return Points(models, loaded.tokenizer)


@dataclass
class Heard:
    """What a listener is told."""

    text: str = ""
    likely: list[Likely] = field(default_factory=list)
    end: End | None = None
    ended: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)

    def __call__(self, message: Piece | End) -> None:
        self.begun.set()
        if isinstance(message, End):
            assert self.end is None
            self.end = message
            self.ended.set()
            return
        assert self.end is None
        self.text += message.text
        self.likely += [message.likely] if message.likely else []

    def wait(self) -> Heard:
        assert self.ended.wait(60), "no end came"
        return self


@contextmanager
def running(
    points: Points,
    limits: Limits | None = None,
    models: Mapping[str, Any] | None = None,
    on_served: Callable[[Served], None] = lambda served: None,
    ends: Sequence[int] | None = None,
    switching: Switching | None = None,
) -> Iterator[Scheduler]:
    stops = points.ends if ends is None else ends
    served, limits = models or points.models, limits or Limits()
    scheduler = Scheduler(served, points.tokenizer, stops, limits, on_served, switching=switching)
    scheduler.start()
    try:
        yield scheduler
    finally:
        scheduler.close()


def ask(scheduler: Scheduler, point: str, request: Request) -> Heard:
    heard = Heard()
    scheduler.submit(point, [(request, heard)])
    return heard


class Gated:
    """A model whose every forward pass waits until it is let through."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.config, self.device, self.dtype = model.config, model.device, model.dtype
        self.gate = threading.Semaphore(0)
        self.failing = False

    def __call__(self, **given: Any) -> Any:
        assert self.gate.acquire(timeout=60)
        if self.failing:
            raise RuntimeError("out of memory")
        return self._model(**given)

    def open(self) -> None:
        self.gate.release(1_000_000)


@torch.inference_mode()
def greedy_alone(model: Any, prompt: Sequence[int], count: int) -> tuple[list[int], list[torch.Tensor]]:
    """Tokens by whole forward passes without a cache, and the logits of each."""
    ids, rows = [*prompt], []
    for _ in range(count):
        rows.append(model(torch.tensor([ids]), use_cache=False).logits[0, -1].float())
        ids.append(int(rows[-1].argmax()))
    return ids[len(prompt) :], rows
