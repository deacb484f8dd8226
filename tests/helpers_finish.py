"""The end of a search on made-up numbers, which can be tried again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from helpers_toy import default_config, toy_spec

from evaluators.base import Evaluation, Measure, MeasureEvaluator, Metric
from evaluators.metrics import metric_named
from search.archive import Archive
from search.run.directory import CONFIG_FILE
from search.run.finish import Finish, finish
from search.run.recommended import Recommend
from search.views.pages import write_pages
from space.candidate import Candidate, LayerShape

KL = metric_named("kl")
LATENCY = metric_named("latency_ms")
PARAMS = metric_named("params")
DECODER = metric_named("decoder_params")
OBJECTIVES = (KL, LATENCY)
HELDOUT = (metric_named("heldout_kl"), metric_named("heldout_ppl"))
TIMED = (metric_named("latency_e2e_ms"),)
FACTS = {"model": toy_spec(4).to_json(), "text": "0123", "dtype": "float32", "latency": {"device": "toy"}}
FACTS |= {"timed": {"device": "toy"}}
FACTS |= {"budget": {"tokens": 440_000, "healing_tokens": 120_000}}
DENSE = Candidate((LayerShape(4, 2, 32),) * 4)


def narrow(channels: int) -> Candidate:
    """All layers with so many MLP channels."""
    return Candidate((LayerShape(4, 2, channels),) * 4)


WIDTHS = (28, 24, 20, 16, 12, 8)
MEMBERS = [narrow(channels) for channels in WIDTHS]
BESIDE = Candidate((LayerShape(2, 2, 32),) * 4)  # dominated in the search already


def kept(candidate: Candidate) -> float:
    """Decoder parameters, one a unit."""
    return float(sum(shape.query_heads + shape.mlp_channels for shape in candidate.layers))


def loss(candidate: Candidate) -> float:
    return 1 - kept(candidate) / kept(DENSE) + (0.5 if candidate == BESIDE else 0.0)


def latency(candidate: Candidate) -> float:
    return 1.0 + kept(candidate) / 10


def search_values(candidate: Candidate) -> dict[str, float]:
    size = kept(candidate)
    return {"kl": loss(candidate), "latency_ms": latency(candidate), "params": size + 50, "decoder_params": size}


def heldout_values(candidate: Candidate) -> dict[str, float]:
    return {"heldout_kl": 1.1 * loss(candidate), "heldout_ppl": 10 * (1 + loss(candidate))}


def timed_values(candidate: Candidate) -> dict[str, float]:
    return {"latency_e2e_ms": 1.25 * latency(candidate)}


@dataclass
class Fake:
    """An evaluator that remembers which candidates it was asked about, call by call."""

    fidelity: str
    metrics: tuple[Metric, ...]
    values: Callable[[Candidate], Mapping[str, float]]
    calls: list[list[str]] = field(default_factory=list)

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        if candidates:
            self.calls.append([candidate.key for candidate in candidates])
        return MeasureEvaluator(self.fidelity, [Measure(self.metrics, self.values)]).evaluate(candidates)


class Run:
    """A finished search in a directory, and its end, which can be tried again and again."""

    def __init__(self, directory: Path, searched: Sequence[Candidate]) -> None:
        self.directory = directory
        (directory / CONFIG_FILE).write_text(yaml.safe_dump(default_config()))
        self.search = Fake("search", (KL, LATENCY, PARAMS, DECODER), search_values)
        self.heldout = Fake("heldout", HELDOUT, heldout_values)
        self.tuned: Fake | None = None
        self.trained: Fake | None = None
        self.timed: Fake | None = Fake("timed", TIMED, timed_values)
        self.closing: list[Fake] = []
        with Archive(directory / "archive.jsonl", FACTS) as archive:
            for evaluation in self.search.evaluate(searched):
                archive.add(evaluation)
        self.search.calls.clear()

    def end(
        self, points: int = 20, objectives: Sequence[Metric] = OBJECTIVES, reference: Sequence[Candidate] = ()
    ) -> Finish:
        with Archive(self.directory / "archive.jsonl", FACTS) as archive:
            done = finish(
                archive,
                objectives,
                DENSE,
                search=self.search,
                heldout=self.heldout,
                trained=self.trained,
                tuned=self.tuned,
                timed=self.timed,
                closing=self.closing,
                points=points,
                recommend=Recommend(),
                run_dir=self.directory,
                facts=FACTS,
                reference=reference,
            )
            write_pages(self.directory, archive)
            return done

    def calls(self) -> dict[str, list[list[str]]]:
        return {fake.fidelity: fake.calls for fake in (self.search, self.heldout, self.timed)}


def keys(candidates: Sequence[Candidate]) -> list[str]:
    return [candidate.key for candidate in candidates]


def replaced(
    values: Callable[[Candidate], dict[str, float]], candidate: Candidate, **changes: float
) -> Callable[[Candidate], dict[str, float]]:
    """The same values but for one candidate's."""
    return lambda asked: values(asked) | (changes if asked == candidate else {})


def failing(
    values: Callable[[Candidate], dict[str, float]], candidate: Candidate
) -> Callable[[Candidate], dict[str, float]]:
    def fail(asked: Candidate) -> dict[str, float]:
        if asked == candidate:
            raise RuntimeError("out of memory")
        return values(asked)

    return fail
