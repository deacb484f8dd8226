"""Controllers against every static point under load: limits kept, and what the answers lose on text that goes on.

    python -m benchmarks.serving --run-dir RUN --text TEXT [--minutes 15] [--loads 0.5 0.9 1.3] [--slack 8]
        [--points fastest KEY ...] [--controllers slo "difficulty controller.loss=0.1"] [--settings KEY=VALUE ...]

TEXT is what data.path of a search may be, best none that the run has seen: prompts are from its last fifth. Requests
come on their own time, whatever the server does (open loop): one or, in bursts, four at once, with exponential gaps, at
parts of the rate at which the dense model answers as many requests at once as the server takes. Limits are so many
times (`--slack`) the dense model's own times to the first token and from token to token, alone; who is refused has
kept none. What an answer loses is the divergence from the dense model of whoever answered, on the tokens that really
follow the prompt, in nats a token. Every row has the same requests at the same times; all rows together are loaded for
about so many minutes (`--minutes`), beside some that servers take to begin.

Two targets are checked. `slo` keeps 99 % where the dense model keeps less than 60 %; and `difficulty` loses at most 0.8
times what the best point loses that keeps as many, at each load where that is not the dense model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.served import Answer, Server, as_json, ask, server
from conf.compose import composed
from entries.serve_settings import ServeSettings, serve_settings
from evaluators.data.places import TextPlace
from evaluators.data.splits import read_text
from evaluators.paths import Paths
from evaluators.session import Session
from serving.controllers import AUTO, DENSE
from serving.fitting import losses_of
from serving.points import open_points
from space.errors import UserError

BURST, BURSTS = 4, 0.1  # requests of a burst, and the part of arrivals that are bursts
PROMPT, ANSWER = (16, 96), 24  # tokens of a prompt, and those behind it on which answers are judged
DISTINCT = 64  # prompts
ALONE = 4  # requests by which the dense model's own times are measured
KEPT, DENSE_KEPT, PART_LOST = 0.99, 0.6, 0.8  # the targets: see above


@dataclass(frozen=True)
class Prompt:
    """A prompt in tokens, and how its text goes on."""

    tokens: list[int]
    following: list[int]


@dataclass(frozen=True)
class Cell:
    """One row's answers at one load.

    Attributes:
        attainment: The part of the requests that kept the limits.
        loss: Mean nats a token of those that were answered.
        refused: Requests that were not.
        points: How many answers each point gave.
    """

    attainment: float
    loss: float
    refused: int
    points: Mapping[str, int]


def arrivals(rate: float, count: int, generator: np.random.Generator, bursts: float = BURSTS) -> list[float]:
    """Seconds at which so many requests come, in bursts and alone; `rate` is the mean number a second."""
    mean, times, now = 1 + bursts * (BURST - 1), list[float](), 0.0
    while len(times) < count:
        now += generator.exponential(mean / rate)
        times += [now] * (BURST if generator.random() < bursts else 1)
    return times[:count]


def prompts_of(text: str, session: Session, count: int) -> list[Prompt]:
    """Prompts of real text, of lengths that differ; fewer than `count` where there is less text.

    Raises:
        UserError: There is no such text, or too little.
    """
    if not Path(text).exists():
        raise UserError(f"--text: expected a file or directory of text, but there is no {text}.")
    loaded = session.loaded
    tokens = read_text(TextPlace([text]), loaded.tokenizer, vocab=loaded.spec.vocab)
    length = PROMPT[1] + ANSWER
    count = min(count, tokens.room("heldout", length)) or 1  # of none, `blocks` says what is missing
    rows = tokens.blocks("heldout", count, length).tolist()
    lengths = np.random.default_rng(0).integers(*PROMPT, count, endpoint=True).tolist()
    return [Prompt(row[:size], row[size : size + ANSWER]) for row, size in zip(rows, lengths, strict=True)]


class Load:
    """Asks a server for answers to prompts."""

    def __init__(self, prompts: Sequence[Prompt], new_tokens: int) -> None:
        """Asks nothing yet."""
        self._prompts, self._new_tokens = prompts, new_tokens

    async def one(self, at: Server, model: str, number: int, **more: Any) -> Answer:
        """The answer to one prompt."""
        prompt = self._prompts[number % len(self._prompts)].tokens
        body = {"model": model, "prompt": prompt, "max_tokens": self._new_tokens, "temperature": 0, "stream": True}
        answer = await ask(at, "/v1/completions", as_json(body | {"logprobs": 0} | more))  # so each token is an event
        assert answer is not None
        return answer

    async def open_loop(self, at: Server, model: str, times: Sequence[float], **more: Any) -> list[Answer]:
        """The answers to requests that come at some times."""

        async def later(number: int, seconds: float) -> Answer:
            await asyncio.sleep(seconds)
            return await self.one(at, model, number, **more)

        return await asyncio.gather(*(later(*each) for each in enumerate(times)))

    async def capacity(self, at: Server, together: int, count: int) -> float:
        """Requests a second that the dense model answers, so many at a time."""
        free, begun = asyncio.Semaphore(together), time.monotonic()

        async def next_one(number: int) -> None:
            async with free:
                await self.one(at, DENSE, number)

        await asyncio.gather(*map(next_one, range(count)))
        return count / (time.monotonic() - begun)


def times_ms(answer: Answer) -> tuple[float, float]:
    """Of an answer: to the first token, and from one to the next, in milliseconds; the last event is no token."""
    first, last = answer.times[0], answer.times[-1]
    return 1e3 * first, 1e3 * (last - first) / max(len(answer.times) - 2, 1)


def cell_of(answers: Sequence[Answer], limits: tuple[float, float], losses: Sequence[Mapping[str, float]]) -> Cell:
    """What answers come to.

    Args:
        answers: One for each request, in order.
        limits: Milliseconds, as of `times_ms`.
        losses: Of each prompt, by point.
    """
    good = [each for each in enumerate(answers) if each[1].status == 200 and b"data: [DONE]" in each[1].body]
    kept = [all(ms <= limit for ms, limit in zip(times_ms(each), limits, strict=True)) for _, each in good]
    points = [str(each.events[0]["model"]) for _, each in good]
    lost = [losses[number % len(losses)].get(point, 0.0) for (number, _), point in zip(good, points, strict=True)]
    return Cell(
        sum(kept) / len(answers), fmean(lost) if lost else float("nan"), len(answers) - len(good), dict(Counter(points))
    )


def measured(settings: ServeSettings, arguments: argparse.Namespace) -> dict[str, dict[float, Cell]]:
    """All rows and loads."""
    session = Session.open(settings.session, Paths(settings.run.run_dir))
    prompts = prompts_of(arguments.text, session, DISTINCT)
    models = open_points(session, settings.candidates, lambda done, of: None).models
    losses = [losses_of(models, each.tokens, each.following) for each in prompts]
    del models
    for point in losses[0]:
        print(f"{point}: {fmean(each[point] for each in losses):.3f} nats on the prompts' own text", flush=True)
    load, rows = Load(prompts, arguments.new_tokens), dict[str, dict[float, Cell]]()
    with server(arguments.run_dir, arguments.settings) as at:
        print(f"ready after {at.ready_s:.1f} s")
        alone = [asyncio.run(load.one(at, DENSE, number)) for number in range(ALONE)]
        first, token = (median(each) for each in zip(*map(times_ms, alone), strict=True))
        limits = arguments.slack * first, arguments.slack * token
        together = settings.limits.active
        rate = asyncio.run(load.capacity(at, together, 2 * together))
        print(f"dense alone: {first:.0f} ms, then {token:.0f} ms a token; {rate:.2f} requests a second together")
        cells = len(arguments.loads) * (len(settings.offers) + len(arguments.controllers))
        counts = {part: max(round(60 * arguments.minutes / cells * part * rate), 1) for part in arguments.loads}
        times = {part: arrivals(part * rate, n, np.random.default_rng(1)) for part, n in counts.items()}
        print(f"limits: {limits[0]:.0f} ms, then {limits[1]:.0f} ms a token; requests by load: {counts}", flush=True)

        def row(at: Server, model: str, **more: Any) -> dict[float, Cell]:
            return {
                part: cell_of(asyncio.run(load.open_loop(at, model, when, **more)), limits, losses)
                for part, when in times.items()
            }

        for offer in settings.offers:
            rows[f"static {offer.id}"] = row(at, offer.id)
            print(rows[f"static {offer.id}"], flush=True)
    for controller in arguments.controllers:
        with server(arguments.run_dir, [*f"controller={controller}".split(), *arguments.settings]) as at:
            print(f"ready after {at.ready_s:.1f} s")
            timed = controller.startswith(("slo", "difficulty"))
            rows[controller] = row(at, AUTO, **({"slo_ms": limits[0], "slo_token_ms": limits[1]} if timed else {}))
            print(rows[controller], flush=True)
    return rows


def verdicts(rows: Mapping[str, Mapping[float, Cell]]) -> list[str]:
    """Whether each target is met, in words, load by load.

    Args:
        rows: By who answers, the dense model and other points as `static ID`, and load.
    """
    points = {name: cells for name, cells in rows.items() if name.startswith("static ")}
    dense, words = rows[f"static {DENSE}"], list[str]()
    for name, cells in rows.items():
        if name.startswith("slo"):
            words += [_slo_verdict(name, load, cell, dense[load]) for load, cell in cells.items()]
        if name.startswith("difficulty"):
            words += [
                _difficulty_verdict(name, load, cell, [each[load] for each in points.values()])
                for load, cell in cells.items()
            ]
    return words


def _slo_verdict(name: str, load: float, cell: Cell, dense: Cell) -> str:
    told = f"{name} at load {load:g}: keeps {cell.attainment:.1%}, where the dense model keeps {dense.attainment:.1%}"
    if dense.attainment >= DENSE_KEPT:
        return f"{told}: says nothing, which is to be less than {DENSE_KEPT:.0%}"
    return f"{told}: {'met' if cell.attainment >= KEPT else 'NOT MET'}"


def _difficulty_verdict(name: str, load: float, cell: Cell, points: Sequence[Cell]) -> str:
    told = f"{name} at load {load:g}: keeps {cell.attainment:.1%} and loses {cell.loss:.3f} nats"
    as_many = [each.loss for each in points if each.attainment >= cell.attainment]
    if not as_many:
        return f"{told}: says nothing, no point keeps as many"
    if (best := min(as_many)) == 0:
        return f"{told}: says nothing, the dense model keeps as many"
    part = cell.loss / best
    return f"{told}, {part:.2f} times the best point's {best:.3f}: {'met' if part <= PART_LOST else 'NOT MET'}"


def tell(rows: Mapping[str, Mapping[float, Cell]], out: Path | None) -> None:
    """Prints the table and what it says of the targets, and stores the numbers in a file, if one is given."""
    table = Table("who answers", *(f"load {part:g}" for part in next(iter(rows.values()))))
    for name, cells in rows.items():
        table.add_row(
            name, *(f"{c.attainment:.1%} kept, {c.loss:.3f} nats, {c.refused} refused" for c in cells.values())
        )
    Console(width=160).print(table)
    print(*verdicts(rows), sep="\n")
    if out:
        numbers = {name: {str(part): asdict(cell) for part, cell in cells.items()} for name, cells in rows.items()}
        out.write_text(json.dumps(numbers, indent=1), encoding="utf-8")


def main() -> None:
    """Measures, prints the table and what it says of the targets, and stores the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--minutes", type=float, default=15.0, help="of load, over all rows")
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.9, 1.3])
    parser.add_argument("--slack", type=float, default=8.0)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--points", nargs="*", default=[], help="as of serve_subnets.py; all without")
    parser.add_argument("--controllers", nargs="*", default=["slo", "difficulty", "bandit"])
    parser.add_argument("--settings", nargs="*", default=[], help="further Hydra overrides of all servers")
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    arguments = parser.parse_args()
    if arguments.points:  # quoted, so that what Hydra cannot read is told as a point that is not there
        arguments.settings = [f"points=[{','.join(map(repr, arguments.points))}]", *arguments.settings]
    overrides = [f"run_dir={arguments.run_dir}", *arguments.settings]
    try:
        rows = measured(serve_settings(composed(*overrides, name="serve"), overrides), arguments)
    except UserError as error:
        sys.exit(f"error: {error}")
    tell(rows, arguments.out)


if __name__ == "__main__":
    main()
