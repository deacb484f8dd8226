"""The device checks of larger shapes: a latency table, its error, and how much faster smaller designs are."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from functools import partial

from benchmarks.device.machine import Machine
from benchmarks.device.models import (
    Scenario,
    default_space,
    designs_of_size,
    sliced_supernet,
    workload,
    write_checkpoint,
)
from benchmarks.device.report import Report
from benchmarks.device.stopwatch import seconds_of
from evaluators.latency.bench import LatencyBench
from evaluators.latency.labels import label
from evaluators.latency.table import PhaseTable
from space.candidate import Candidate
from space.size import removed_params
from space.space import SearchSpace

_SPARE_S = 5  # that are left for what comes after
# Scenario, sequences, and how many times the time of one sequence they take, about.
_PHASES: tuple[tuple[Scenario, int, int], ...] = (
    ("prefill", 1, 1),
    ("decode", 1, 1),
    ("prefill", 8, 8),
    ("decode", 32, 3),
)


def shape(report: Report, machine: Machine, name: str) -> None:
    """The table, its error, and the speed-up of designs without a part of the parameters, in prefill and decode."""
    (supernet,), (seconds,) = seconds_of(machine, partial(sliced_supernet, name, machine), 1)
    report.put("shape", name, "make", "seconds", value=seconds)
    space, spec = default_space(supernet.spec), supernet.spec
    designs = designs_of_size(space)
    designs |= {f"uniform-{part:.0%}": designs_of_size(space, part)["uniform"] for part in (0.25, 0.375)}
    sizes = {
        kind: {"removed": removed_params(spec, design), "layer_0": design.to_json()["layers"][0]}
        for kind, design in designs.items()
    }
    counts = {f"{kind}_shapes": len(options) for kind, options in space.block_options.items()}
    about = counts | {"weights_bytes": machine.allocated_bytes(), "designs": sizes}
    report.put("shape", name, "space", value=about)
    design_s: dict[str, float] = {}  # seconds of one timing of a design in a scenario, about
    for scenario, batch, dearer in _PHASES:
        phase = f"{scenario} x {batch}"
        wanted = _SPARE_S + design_s.get(scenario, 0) * dearer * 6 * len(designs)
        if report.left < wanted:
            report.put("shape", name, phase, "skipped", value=f"{report.left:.0f} s left, needs {wanted:.0f}")
            continue
        with report.check("shape", name, phase):
            fit, check = (2, 3) if machine.dry else (6, 8)
            bench = LatencyBench(supernet, workload(machine, scenario, batch_size=batch, fit=fit, check=check))
            start = time.monotonic()
            _speed_ups(report, (name, phase), bench, designs)
            design_s.setdefault(scenario, (time.monotonic() - start) / (5 * len(designs)))
            peaks = {
                kind: bench.clock.try_out(design)["peak_bytes"]
                for kind, design in {"dense": Candidate.dense(spec), **designs}.items()
            }
            report.put("shape", name, phase, "peak_bytes", value=peaks)
            if batch == 1:
                _table(report, (name, phase), bench, space, design_s[scenario])


def _speed_ups(report: Report, path: tuple[str, str], bench: LatencyBench, designs: Mapping[str, Candidate]) -> None:
    """How many times as fast as the dense model designs are, and how far their rounds are apart."""
    timed, _ = bench.ratios([*designs.values()])
    for kind, phases in zip(designs, timed, strict=True):
        (ratios,) = phases.values()
        middle = statistics.median(ratios)
        value = {"x": 1 / middle, "spread": (max(ratios) - min(ratios)) / middle}
        report.put("shape", *path, "speed_up", kind, value=value)


def _table(report: Report, path: tuple[str, str], bench: LatencyBench, space: SearchSpace, design_s: float) -> None:
    """The space's latency table, where there is time for it."""
    timed = bench.workload.fit + bench.workload.check
    stacks = sum(map(len, space.block_options.values())) + timed + 1
    wanted = design_s * stacks * bench.workload.rounds
    if wanted > report.left - _SPARE_S:
        report.put("shape", *path, "table", value=f"left out: {wanted:.0f} s, {report.left:.0f} left")
        return
    start = time.monotonic()
    (table,) = bench.table(space.block_options, space.samples(timed)).phases.values()
    about = {"seconds": time.monotonic() - start, "models": stacks}
    report.put("shape", *path, "table", value=about | _numbers(table, Candidate.dense(space.spec)))


def _numbers(table: PhaseTable, dense: Candidate) -> dict[str, object]:
    """What a report says of a phase's table."""
    return {
        "dense_ms": table.dense_ms,
        "spread": table.spread,
        "error": {name: getattr(table.error, name) for name in ("median", "worst", "rank_correlation")},
        "fit": table.fit,
        "share": table.parts(dense),
        **{
            f"{kind}_ms": {label(kind, option): ms for option, ms in times.items()}
            for kind, times in table.block_ms.items()
        },
    }


def checkpoint(report: Report, machine: Machine, name: str) -> None:
    """A random checkpoint of a shape beside the report, with a tokenizer of bytes, for the project's own commands."""
    directory = report.file.resolve().parent / "checkpoints" / name
    write_checkpoint(name, machine, directory)
    report.put("checkpoint", name, value=str(directory))
