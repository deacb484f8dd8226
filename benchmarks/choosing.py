"""All controllers in virtual time, on what the points of a run really lose on real prompts.

    python -m benchmarks.choosing --run-dir RUN --text TEXT [--loads 0.5 0.9 1.3] [--slack 8] [--requests 200]
        [--seeds 2] [--points fastest KEY ...] [--controllers slo "difficulty controller.loss=0.1"] [--out FILE.json]

What `benchmarks.serving` asks of a server, and `benchmarks.pacing` of `slo` alone. The models are run for what does not
hang on time: what the smallest point sees in each prompt, and what each point loses on how its text really goes on;
`difficulty` is fitted as a server does it, once, and that is kept beside the run. Then requests come as they do there,
and the product's scheduler and controllers do what they do in a server, in the time of `benchmarks.pacing`: a forward
pass of a point takes the part of the dense model's that its latency on the front says, and so do looks at prompts and
the comparisons by which `bandit` learns. So controllers are judged on a machine that others use too, and the same
command gives the same figures again.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.pacing import FRONTS, Front, Trial, alone
from benchmarks.serving import DISTINCT, Cell, Prompt, arrivals, prompts_of, tell
from conf.compose import composed
from conf.settings import instantiated
from entries.serve_settings import ServeSettings, serve_settings
from evaluators.paths import Paths
from evaluators.session import Session
from search.run.front import latency_column
from serving.bandit import Bandit
from serving.controllers import DENSE, Controller, Offer, smallest_of
from serving.difficulty import Fit, Look, LossModel
from serving.fitting import fitted_losses, losses_of
from serving.limits import Limits
from serving.points import open_points
from serving.requests import BusyError, Choice, End, Piece, Request, Sampling, Served, Slo
from serving.senses import LOOK_TOKENS, Senses, first_look
from serving.timed import Difficulty
from space.errors import UserError
from space.locations import SERVING_DIRECTORY

SPEED = FRONTS["cpu, to 2.5x"]  # whose dense model's times are taken


@dataclass(frozen=True)
class RunFront(Front):
    """The points of a run, which take the times of another front's dense model.

    Attributes:
        points: Of the run, the dense model first.
    """

    points: tuple[Offer, ...] = ()

    @property
    def offers(self) -> list[Offer]:
        """Its points."""
        return [*self.points]


@dataclass(frozen=True)
class Known:
    """What the models have said, once and for all rows.

    Attributes:
        prompts: What is asked.
        looks: Of the smallest point, at each.
        losses: By point, on how each goes on, nats a token.
        smallest: The point that looks.
        fit: The prediction of losses, and how well it holds.
    """

    prompts: Sequence[Prompt]
    looks: Sequence[Look]
    losses: Sequence[Mapping[str, float]]
    smallest: str
    fit: tuple[LossModel, Fit]


class KnownSenses(Senses):
    """Says what is known, where a server would ask its models."""

    def __init__(
        self, known: Known, compared: Callable[[str, int, int, Callable[[float], None]], None], place: Path
    ) -> None:
        """Is asked for one trial.

        Args:
            known: What it says.
            compared: Called with a point, the number of a prompt, the tokens that are read, and who is to be told.
            place: Where a controller keeps what it learns.
        """
        self.smallest, self.fit, self.place = known.smallest, lambda: known.fit, place
        self._numbers = {tuple(each.tokens): number for number, each in enumerate(known.prompts)}
        self._looks, self._compared = known.looks, compared

    def look(self, prompt: Sequence[int]) -> Look:
        """See `Senses`; its time has passed by now."""
        return self._looks[self._numbers[tuple(prompt)]]

    def compare(
        self, point: str, prompt: Sequence[int], answer: Sequence[int], tell: Callable[[float | None], None]
    ) -> None:
        """See `Senses`."""
        self._compared(point, self._numbers[tuple(prompt)], len(prompt) + len(answer) - 1, tell)


class Choosing(Trial):
    """A trial whose controllers may look at prompts and compare answers."""

    def __init__(self, front: Front, limits: Limits, seed: int, known: Known) -> None:
        """See `Trial`; prompts are told by their numbers."""
        super().__init__(front, limits, seed)
        self._known, self._front = known, front
        self._part = {offer.id: part for offer, part in zip(front.offers, front.times, strict=True)}
        self._ended: list[int] = []

    def outcome(
        self, times: Sequence[float], numbers: Sequence[int], new: int, who: Controller | str, slo: Slo
    ) -> list[tuple[int, Served]]:
        """Which requests were answered, by the numbers of their prompts, and how; `slo` for who takes that."""
        with TemporaryDirectory() as place:
            if isinstance(who, Controller):
                who.begin(KnownSenses(self._known, self._compare, Path(place)))
            takes = isinstance(who, str) or who.takes_slo
            served, _ = self.run(times, numbers, new, who, slo if takes else None)
        return [*zip(self._ended, served, strict=True)]

    def _arrive(self) -> None:
        number = self._coming.popleft()[1]
        tokens = tuple(self._known.prompts[number].tokens)
        request = Request(tokens, self._new, Sampling(temperature=0.0), slo=self._slo, came=self._now)
        try:
            self._scheduler.require_room(1)
        except BusyError:
            self._refused += 1
        else:
            if isinstance(self._who, Difficulty | Bandit):
                self._calls.append(self._scheduler.call(partial(self._look, number, request), soon=True))
            else:
                self._ask(number, request)

    def _look(self, number: int, request: Request) -> None:
        self._work(self._read_ms(self._known.smallest, min(len(request.prompt), LOOK_TOKENS)))
        self._ask(number, request)

    def _ask(self, number: int, request: Request) -> None:
        who = self._who
        choice = Choice(who) if isinstance(who, str) else who.choose([request], self._scheduler.load)
        try:
            asked = replace(request, choice=choice), partial(self._hear, number)
            self._scheduler.submit(choice.point, [asked])
        except BusyError:
            self._refused += 1

    def _hear(self, number: int, message: Piece | End) -> None:
        if isinstance(message, End):
            self._ended.append(number)

    def _compare(self, point: str, number: int, tokens: int, tell: Callable[[float], None]) -> None:
        def other() -> None:
            self._work(self._read_ms(point, tokens))
            tell(self._known.losses[number][point])

        def dense() -> None:
            self._work(self._read_ms(DENSE, tokens))
            self._calls.append(self._scheduler.call(other))

        self._calls.append(self._scheduler.call(dense))

    def _read_ms(self, point: str, tokens: int) -> float:
        first, more = self._front.read_ms
        return self._part[point] * (first + more * tokens)


def front_of(settings: ServeSettings) -> RunFront:
    """The points that are served.

    Raises:
        UserError: The run knows no latencies.
    """
    latency, offers = latency_column(settings.run.front), tuple(settings.offers)
    if latency is None:
        raise UserError(
            "--run-dir: expected a run that has measured latencies, got one without. Search with latency_ms."
        )
    times = tuple(offer.figures[latency] / offers[0].figures[latency] for offer in offers)
    return RunFront(times, tuple(offer.loss for offer in offers), SPEED.read_ms, SPEED.step_ms, offers)


def controller_of(words: str, overrides: Sequence[str], offers: Sequence[Offer]) -> Callable[[], Controller]:
    """Makes a controller anew, as often as it is called.

    Args:
        words: Its name, and settings of it.
        overrides: What else a server would be told.
        offers: The points that are served.

    Raises:
        UserError: A setting is wrong.
    """
    config = composed(*overrides, *f"controller={words}".split(), name="serve")
    make: Callable[[], Controller] = partial(instantiated(config["controller"], "controller"), offers)
    make()  # so that mistakes are told before anything is asked
    return make


def known_of(settings: ServeSettings, text: str) -> Known:
    """What the models say of real prompts; for errors see `prompts_of`, `open_points` and `fitted_losses`."""
    session, run_dir = Session.open(settings.session, Paths(settings.run.run_dir)), settings.run.run_dir
    prompts, smallest = prompts_of(text, session, DISTINCT), smallest_of(settings.offers)
    models = open_points(session, settings.candidates, lambda done, of: None).models
    looks = [first_look(models[smallest], each.tokens) for each in prompts]
    losses = [losses_of(models, each.tokens, each.following) for each in prompts]
    digest, place = settings.session.text.digest or session.text.digest, run_dir / SERVING_DIRECTORY
    fit = fitted_losses(models, smallest, lambda: session.text, digest, place, lambda done, of: None)
    return Known(prompts, looks, losses, smallest, fit)


def cells(
    front: Front, known: Known, controllers: Mapping[str, Callable[[], Controller]], arguments: argparse.Namespace
) -> dict[str, dict[float, Cell]]:
    """By who answers, and load."""
    numbers = [number % len(known.prompts) for number in range(arguments.requests)]
    lengths = [len(each.tokens) for each in known.prompts]
    rate, first_ms, token_ms = alone(front, lengths, arguments.new_tokens)
    slo = Slo(arguments.slack * first_ms, arguments.slack * token_ms)

    def cell(who: Callable[[], Controller | str], load: float) -> Cell:
        answers = list[tuple[int, Served]]()
        for seed in range(arguments.seeds):
            times = arrivals(load * rate, len(numbers), np.random.default_rng(100 + seed))
            answers += Choosing(front, Limits(), seed, known).outcome(times, numbers, arguments.new_tokens, who(), slo)
        return cell_of(answers, len(numbers) * arguments.seeds, slo, known.losses)

    rows: dict[str, Callable[[], Controller | str]] = {
        **{f"static {offer.id}": partial(str, offer.id) for offer in front.offers},
        **controllers,
    }
    return {name: {load: cell(who, load) for load in arguments.loads} for name, who in rows.items()}


def cell_of(answers: Sequence[tuple[int, Served]], asked: int, slo: Slo, losses: Sequence[Mapping[str, float]]) -> Cell:
    """What answers come to.

    Args:
        answers: The number of the prompt, and what became of it.
        asked: How many requests there were.
        slo: Limits of time.
        losses: Of each prompt, by point.
    """
    good = [(number, each) for number, each in answers if each.outcome == "length"]
    kept = sum(slo.part(1e3 * (each.first_token_s or 0.0), 1e3 * (each.token_s or 0.0)) <= 1 for _, each in good)
    lost = [losses[number].get(each.point, 0.0) for number, each in good]
    points = dict(Counter(each.point for _, each in good))
    return Cell(kept / asked, fmean(lost) if lost else float("nan"), asked - len(good), points)


def main() -> None:
    """Asks the models, simulates, prints the table and what it says of the targets, and stores the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--loads", type=float, nargs="+", default=[0.5, 0.9, 1.3])
    parser.add_argument("--slack", type=float, default=8.0)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--new-tokens", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--points", nargs="*", default=[], help="as of serve_subnets.py; all without")
    parser.add_argument("--controllers", nargs="*", default=["slo", "difficulty", "bandit"])
    parser.add_argument("--out", type=Path, help="a JSON file for the numbers")
    arguments = parser.parse_args()
    overrides = [f"run_dir={arguments.run_dir}"]
    overrides += [f"points=[{','.join(map(repr, arguments.points))}]"] if arguments.points else []
    try:
        settings = serve_settings(composed(*overrides, name="serve"), overrides)
        controllers = {name: controller_of(name, overrides, settings.offers) for name in arguments.controllers}
        front, known = front_of(settings), known_of(settings, arguments.text)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(known.fit[1].remark(), flush=True)
    tell(cells(front, known, controllers, arguments), arguments.out)


if __name__ == "__main__":
    main()
