"""Candidates timed end to end, beside the dense model: on the device of a run's latency table, or on another one."""

from __future__ import annotations

import hashlib
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluators.base import SPREAD, TIMED, TIMED_ON, Evaluation, failure
from evaluators.latency.bench import LatencyBench
from evaluators.latency.clocks import OnTimings
from evaluators.latency.table import LatencyTable
from evaluators.latency.timings import spread
from evaluators.latency.workload import LATENCY_E2E, THROUGHPUT
from evaluators.metrics import metrics_named, spread_of
from evaluators.settings import Settings
from space.candidate import Candidate
from space.errors import UserError
from space.models.loading import LoadedModel
from space.supernet.placement import Placement
from space.supernet.preparation import refit_limit
from space.supernet.supernet import Supernet

DENSE_MS = "dense_ms"  # the fact of times on another device that says what they are times of


class EndToEnd:
    """The `Evaluator` behind `latency_e2e_ms`: all candidates are timed in one interleaved session.

    Each time is the median over the rounds, with half of their interquartile range in `latency_e2e_ms_spread`.
    """

    def __init__(
        self,
        bench: LatencyBench,
        dense_ms: Mapping[str, float] | None,
        on_timings: OnTimings = lambda done, of: None,
        device: Mapping[str, Any] | None = None,
        rounds: int | None = None,
    ) -> None:
        """Times nothing yet.

        Args:
            bench: The clock.
            dense_ms: The dense model's milliseconds by phase, as in the latency table: the unit of all times. None for
                what the session finds.
            on_timings: Called with how many timings of a phase are done, of how many.
            device: This one as the clock describes it, where it is not the latency table's: its times have a fidelity
                of their own, and say in their facts where they and their unit are from.
            rounds: In which the candidates take turns; None for the workload's `front_rounds`.
        """
        self._bench = bench
        self._dense_ms = dense_ms
        self._on_timings = on_timings
        self._device = device
        self._rounds = rounds
        self.fidelity = TIMED if device is None else timed_on(device)
        phases = [*bench.workload.phases]
        whole_and_parts = (LATENCY_E2E, *metrics_named(*(f"{name}_e2e_ms" for name in phases if len(phases) > 1)))
        times = (each for metric in whole_and_parts for each in (metric, spread_of(metric)))
        self.metrics = (*times, THROUGHPUT, *bench.clock.metrics)

    def prepare(self, candidates: Sequence[Candidate]) -> None:
        """See `Evaluator`: there is nothing."""

    def evaluate(self, candidates: Sequence[Candidate]) -> Iterator[Evaluation]:
        """See `Evaluator`; all are timed before the first is answered. One that cannot run fails alone, before that."""
        if not candidates:
            return
        start = time.perf_counter()
        first_values: dict[str, dict[str, float]] = {}
        failures: dict[str, Evaluation] = {}
        for candidate in candidates:
            begun = time.perf_counter()
            try:
                first_values[candidate.key] = self._bench.clock.try_out(candidate)
            except Exception as error:  # an evaluation boundary: the failure is stored with the candidate
                seconds = time.perf_counter() - begun
                failures[candidate.key] = failure(candidate, self.fidelity, error, seconds=seconds)
        able = [candidate for candidate in candidates if candidate.key in first_values]
        ratios, measured = self._bench.ratios(able, self._on_timings, self._rounds)
        unit = measured if self._dense_ms is None else self._dense_ms
        values = {c.key: self._values(each, unit) | first_values[c.key] for c, each in zip(able, ratios, strict=True)}
        facts = {} if self._device is None else {TIMED_ON: dict(self._device), DENSE_MS: dict(unit)}
        seconds = (time.perf_counter() - start) / max(1, len(candidates))
        for candidate in candidates:
            if candidate.key in failures:
                yield failures[candidate.key]
            else:
                yield Evaluation(candidate, self.fidelity, values=values[candidate.key], seconds=seconds, facts=facts)

    def _values(self, ratios: Mapping[str, Sequence[float]], dense_ms: Mapping[str, float]) -> dict[str, float]:
        workload = self._bench.workload
        times = {name: [ratio * dense_ms[name] for ratio in each] for name, each in ratios.items()}
        middle = {name: statistics.median(ms) for name, ms in times.items()}
        rounds = [dict(zip(times, one, strict=True)) for one in zip(*times.values(), strict=True)]
        latency, latencies = workload.total(middle), [workload.total(one) for one in rounds]
        values = {LATENCY_E2E.name: latency, f"{LATENCY_E2E.name}{SPREAD}": spread(latencies) * latency / 2}
        if len(times) > 1:
            for name, ms in times.items():
                values |= {f"{name}_e2e_ms": middle[name], f"{name}_e2e_ms{SPREAD}": spread(ms) * middle[name] / 2}
        return values | {THROUGHPUT.name: workload.tokens_per_s(latency)}


def end_to_end_here(
    bench: LatencyBench,
    table: LatencyTable,
    answers: Callable[[str], Sequence[Evaluation]],
    on_timings: OnTimings = lambda done, of: None,
) -> EndToEnd:
    """What times the points of a finished run on this device, which need not be that of the run's table.

    Args:
        bench: Of this device.
        table: The run's.
        answers: The run's evaluations of a fidelity: times that are added to such are in their unit.
        on_timings: See `EndToEnd`.
    """
    here = bench.clock.describe()
    if here == table.device:
        return EndToEnd(bench, table.dense_ms, on_timings)
    units = (answer.facts[DENSE_MS] for answer in answers(timed_on(here)) if answer.status == "ok")
    return EndToEnd(bench, next(units, None), on_timings, here)


def timed_on(device: Mapping[str, Any]) -> str:
    """The fidelity of times on a device that is not the latency table's."""
    digest = hashlib.sha256(json.dumps(dict(device), sort_keys=True).encode()).hexdigest()
    return f"{TIMED}-{digest[:8]}"


def bench_of(loaded: LoadedModel, settings: Settings) -> LatencyBench:
    """What times subnets of a dense model on its device, with nothing calibrated: times do not depend on values.

    Args:
        loaded: The dense model, which is cast and moved in place.
        settings: Of the run: what is timed, and the memory of narrower blocks.

    Raises:
        UserError: The device does not hold the model; or see `LatencyBench`.
    """
    if loaded.streamed:
        raise UserError(
            f"Expected a model that fits on {loaded.device} to be timed there, but {loaded.spec.name} is larger than "
            "that. Time it on the device that is to serve it, or on another one of this machine: model.device=cpu."
        )
    place, memory = Placement(loaded.device), refit_limit(settings.supernet, loaded)
    supernet = Supernet.of_slices(loaded.model, loaded.spec, dtype=loaded.dtype, place=place, refit_bytes=memory)
    return LatencyBench(supernet, settings.latency, tokenizer=loaded.tokenizer)


def table_of_run(path: Path) -> LatencyTable:
    """The latency table of a finished run.

    Args:
        path: Its `latency.json`.

    Raises:
        UserError: There is none, or it is no table.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"Expected the latency table of the run in {path}, got: {error}. Copy all files of the run directory; its "
            "directories are not needed."
        ) from error
    return LatencyTable.from_json(text)
