"""`controller=slo` against static points in virtual time: the product's scheduler and controller, without a model.

    python -m benchmarks.pacing [--loads 0.3 0.6 0.9 1.2] [--slacks 4 8 16] [--requests 200] [--seeds 2]
        [--bursts 0.1] [--keep 0.99] [--margin 0.1] [--fronts NAME ...]

Requests come as `benchmarks.serving` sends them, at parts of the rate at which the dense model answers them, with
limits of time of so many times (`--slacks`) what it takes alone. `serving.scheduler` and `serving.timed` do what
they do in a server; a forward pass gives the same logits always, and takes the time that its front (`FRONTS`) says,
give or take `NOISE`, of a clock that nobody waits for. So a change of who answers is judged in minutes, and a command
gives the same figures again. What is not simulated: clients and the web server that share the machine, answers that end
early, and what a text loses by being handed over (`benchmarks.switching`).

Beside `slo` as it is there are two rows in which answers go on with other points: `down`, where each point can go on
with what better ones have written, as on fronts that keep ever less of the same attention; and `both`, where all have
the same attention.

Said of each cell: how many requests kept their limits, and the mean loss of the points that wrote, token by token. At
the end, where the dense model keeps less than 60 % and the fastest point 99 %: in how many cells each row keeps 99 %;
where the dense model keeps 99 %: how many it keeps; and what it loses as a part of the fastest point's loss.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from itertools import permutations
from statistics import fmean, median
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig

from benchmarks.serving import BURSTS, DENSE_KEPT, KEPT, PROMPT, arrivals
from serving.controllers import DENSE, Controller, Offer
from serving.limits import Limits
from serving.load import Load
from serving.requests import BusyError, Request, Sampling, Served, Slo
from serving.scheduler import Scheduler
from serving.switching import Move, Switching
from serving.timed import SloKeeper
from serving.warming import STEPS, TOKENS

ROWS = ("slo", "down", "both")  # see above
NOISE = 0.1  # standard deviation of the logarithm of a forward pass's time
TOGETHER = 64  # requests by which the dense model's rate is measured
_ALONE_S = 1e4  # between two requests that are alone


@dataclass(frozen=True)
class Front:
    """Points, and how long they take.

    Attributes:
        times: Of each point, as parts of the dense model's.
        losses: Of each point, nats a token.
        read_ms: The dense model's for a prompt, and for each token of it.
        step_ms: The dense model's for a step of one sequence, and for each further one in it.
    """

    times: tuple[float, ...]
    losses: tuple[float, ...]
    read_ms: tuple[float, float]
    step_ms: tuple[float, float]

    @property
    def offers(self) -> list[Offer]:
        """Its points."""
        ids = [DENSE, *(f"s{number}" for number in range(1, len(self.times)))]
        return [Offer(point, (), loss, {}) for point, loss in zip(ids, self.losses, strict=True)]


_TO_1_4 = (1.0, 0.82, 0.72), (0.0, 0.6, 1.5)
_TO_2_5 = (1.0, 0.8, 0.65, 0.5, 0.4), (0.0, 0.1, 0.3, 0.7, 1.2)
FRONTS: Mapping[
    str, Front
] = {  # on a CPU, SmolLM2-135M on two cores as `benchmarks.serving` saw it, web server and all
    "cpu, to 1.4x": Front(*_TO_1_4, (90.0, 1.9), (75.0, 4.3)),
    "cpu, to 2.5x": Front(*_TO_2_5, (90.0, 1.9), (75.0, 4.3)),
    "gpu, to 2.5x": Front(*_TO_2_5, (9.0, 0.01), (8.0, 0.05)),
}


class Model:
    """A point without layers, whose forward passes take the time that it is given."""

    def __init__(self, part: float, front: Front, work: Callable[[float], None]) -> None:
        """Has done nothing yet.

        Args:
            part: Of the dense model's time.
            front: See above.
            work: Called with the milliseconds of each forward pass.
        """
        self.config = LlamaConfig(num_hidden_layers=0)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        self._part, self._front, self._work = part, front, work
        self._logits = torch.zeros(1, 1, 2)

    def __call__(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, **others: Any) -> Any:
        sequences, tokens = input_ids.shape
        first, more = self._front.read_ms if attention_mask is None else self._front.step_ms
        self._work(self._part * (first + more * (tokens if attention_mask is None else sequences - 1)))
        return SimpleNamespace(logits=self._logits.expand(sequences, 1, 2))


class Letters:
    """A tokenizer of one token, which ends no text."""

    def decode(self, tokens: Sequence[int], **others: Any) -> str:
        """As many letters."""
        return "a" * len(tokens)


class Trial:
    """A scheduler in a time of its own, and what becomes of requests."""

    def __init__(self, front: Front, limits: Limits, seed: int) -> None:
        """Has measured its points, as a server does at first."""
        self._now, self._generator = 0.0, np.random.default_rng(seed)
        self._coming: deque[tuple[float, int]] = deque()
        self._served: list[Served] = []
        self._calls: list[Future[None]] = []  # what controllers have called for beside requests
        offers = front.offers
        models = {each.id: Model(part, front, self._work) for each, part in zip(offers, front.times, strict=True)}
        switching = Switching(dict.fromkeys(permutations(models, 2), ()), self._again)
        self._scheduler = Scheduler(
            models, Letters(), (), limits, self._served.append, lambda: self._now, switching=switching
        )
        for point, part in zip(models, front.times, strict=True):
            for tokens in TOKENS * STEPS:
                ms = part * (front.read_ms[0] + front.read_ms[1] * tokens) * self._noise()
                self._scheduler.speeds.read(point, tokens, ms)
            for sequences in sorted({1, limits.active}) * STEPS:
                ms = part * (front.step_ms[0] + front.step_ms[1] * (sequences - 1)) * self._noise()
                self._scheduler.speeds.stepped(point, sequences, ms)

    def run(
        self, times: Sequence[float], prompts: Sequence[int], new: int, who: Controller | str, slo: Slo | None = None
    ) -> tuple[list[Served], float]:
        """What became of requests, but for those that were refused, and the seconds that all took.

        Args:
            times: Seconds at which they come.
            prompts: Tokens of each.
            new: Tokens of each answer.
            who: Chooses who answers, or a point.
            slo: Limits of time.
        """
        self._new, self._who, self._slo, self._refused = new, who, slo, 0
        self._coming.extend(zip(times, prompts, strict=True))
        while len(self._served) + self._refused < len(times):
            self._calls = [call for call in self._calls if not _over(call)]
            if not self._calls and len(self._served) + self._refused + len(self._coming) == len(times):  # nothing to do
                self._now = max(self._now, self._coming[0][0])
                self._arrive()
            self._scheduler.turn()
        return self._served, self._now

    def _arrive(self) -> None:
        request = Request((0,) * self._coming.popleft()[1], self._new, Sampling(temperature=0.0), slo=self._slo)
        try:
            self._scheduler.require_room(1)
            if not isinstance(who := self._who, str):
                request = replace(request, choice=who.choose([request], self._scheduler.load))
            point = request.choice.point if request.choice else str(who)
            self._scheduler.submit(point, [(request, lambda message: None)])
        except BusyError:
            self._refused += 1

    def _again(self, load: Load) -> Move | None:
        return self._who.again(load) if isinstance(self._who, Controller) and self._who.switching else None

    def _work(self, ms: float) -> None:
        """Lets time pass, in which requests come."""
        end = self._now + ms / 1e3 * self._noise()
        while self._coming and self._coming[0][0] <= end:
            self._now = max(self._now, self._coming[0][0])
            self._arrive()
        self._now = end

    def _noise(self) -> float:
        return float(np.exp(NOISE * self._generator.standard_normal()))


def _over(call: Future[None]) -> bool:
    """Whether a call was answered; raises what went wrong with it."""
    if done := call.done():
        call.result()
    return done


def alone(front: Front, prompts: Sequence[int], new: int) -> tuple[float, float, float]:
    """Of the dense model: requests a second that it answers together, and milliseconds to the first and next token."""
    many = Trial(front, Limits(queue=TOGETHER), 0).run([0.0] * TOGETHER, ([*prompts] * TOGETHER)[:TOGETHER], new, DENSE)
    times = [_ALONE_S * number for number in range(len(prompts[:9]))]
    served = Trial(front, Limits(), 0).run(times, prompts[:9], new, DENSE)[0]
    first_ms = 1e3 * median(each.first_token_s or 0.0 for each in served)
    return TOGETHER / many[1], first_ms, 1e3 * median(each.token_s or 0.0 for each in served)


@dataclass(frozen=True)
class Cell:
    """What became of the requests of one row at one load: the part that kept the limits, and the mean loss."""

    kept: float
    loss: float


def cells(front: Front, arguments: argparse.Namespace) -> dict[tuple[float, float], dict[str, Cell]]:
    """By slack and load, and by who answers."""
    prompts = np.random.default_rng(0).integers(*PROMPT, arguments.requests, endpoint=True).tolist()
    offers, limits, new = front.offers, Limits(), arguments.new_tokens
    rate, first_ms, token_ms = alone(front, prompts, new)
    losses = {offer.id: offer.loss for offer in offers}

    def cell(who: Callable[[], Controller | str], slo: Slo, load: float) -> Cell:
        kept, lost = 0, list[float]()
        for seed in range(arguments.seeds):
            times = arrivals(load * rate, len(prompts), np.random.default_rng(100 + seed), arguments.bursts)
            served, _ = Trial(front, limits, seed).run(times, prompts, new, who(), slo)
            kept += sum(bool(each.slo_kept) for each in served)
            lost += [_loss(each, losses) for each in served]
        return Cell(kept / len(prompts) / arguments.seeds, fmean(lost))

    def keeper(row: str) -> SloKeeper:
        heirs = {
            each.id: {other.id: () for other in (offers if row == "both" else offers[place:]) if other is not each}
            for place, each in enumerate(offers)
        }
        related = [replace(each, heirs=heirs[each.id]) for each in offers]
        return SloKeeper(related, keep=arguments.keep, margin=arguments.margin, switching=row != "slo")

    table = dict[tuple[float, float], dict[str, Cell]]()
    for slack in arguments.slacks:
        slo = Slo(slack * first_ms, slack * token_ms)
        for load in arguments.loads:
            table[slack, load] = {
                DENSE: cell(lambda: DENSE, slo, load),
                "fastest": cell(lambda: offers[-1].id, slo, load),
                **{row: cell(partial(keeper, row), slo, load) for row in ROWS},
            }
    return table


def _loss(served: Served, losses: Mapping[str, float]) -> float:
    """The mean of those who wrote an answer."""
    own = served.new_tokens - sum(served.others.values())
    counts = {served.point: own, **served.others}
    return sum(count * losses[point] for point, count in counts.items()) / served.new_tokens


def verdicts(rows: Sequence[Mapping[str, Cell]]) -> list[str]:
    """What cells come to, in words."""
    hard = [row for row in rows if row[DENSE].kept < DENSE_KEPT and row["fastest"].kept >= KEPT]
    easy, words = [row for row in rows if row[DENSE].kept >= KEPT], list[str]()
    for who in ROWS:
        met = [row for row in hard if row[who].kept >= KEPT]
        said = f"where dense keeps under {DENSE_KEPT:.0%} and the fastest {KEPT:.0%}: {who} keeps {KEPT:.0%} in"
        part = f", and loses {_part(hard, who):.2f} times what the fastest does" if hard else ""
        words.append(f"{said} {len(met)} of {len(hard)} cells{part}")
        if easy:
            kept = fmean(row[who].kept for row in easy)
            words.append(
                f"where dense keeps {KEPT:.0%}, in {len(easy)} cells: {who} keeps {kept:.1%}, and loses "
                f"{_part(easy, who):.2f} times what the fastest does"
            )
    return words


def _part(rows: Sequence[Mapping[str, Cell]], who: str) -> float:
    return fmean(row[who].loss / row["fastest"].loss for row in rows)


def main() -> None:
    """Simulates, and prints the tables and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fronts", nargs="+", choices=[*FRONTS], default=[*FRONTS])
    parser.add_argument("--loads", type=float, nargs="+", default=[0.3, 0.6, 0.9, 1.2])
    parser.add_argument("--slacks", type=float, nargs="+", default=[4.0, 8.0, 16.0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--bursts", type=float, default=BURSTS, help="the part of arrivals that are bursts")
    parser.add_argument("--keep", type=float, default=0.99)
    parser.add_argument("--margin", type=float, default=0.1)
    arguments = parser.parse_args()
    rows = list[Mapping[str, Cell]]()
    for name in arguments.fronts:
        table = Table("slack", "load", DENSE, "fastest", *ROWS, title=name)
        for (slack, load), row in cells(FRONTS[name], arguments).items():
            table.add_row(f"{slack:g}", f"{load:g}", *(f"{c.kept:.1%}, {c.loss:.3f} nats" for c in row.values()))
            rows.append(row)
        Console(width=120).print(table)
    print(*verdicts(rows), sep="\n")


if __name__ == "__main__":
    main()
