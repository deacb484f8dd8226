"""The device check of what a timing means: the product's clock beside events, CUDA graphs and the kernels' own time."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.device.machine import Machine
from benchmarks.device.models import Scenario, default_space, designs_of_size, sliced_supernet, workload
from benchmarks.device.report import Report
from benchmarks.device.stopwatch import busy, counted_syncs, event_ms, graph_ms, queued_ms, wall_ms
from evaluators.latency.clocks import TorchClock
from evaluators.latency.table_error import spearman
from evaluators.latency.workload import Phase
from space.candidate import Candidate
from space.size import removed_params

_PHASES: tuple[tuple[Scenario, int], ...] = (("prefill", 1), ("decode", 1), ("prefill", 8))


def truth(report: Report, machine: Machine, name: str) -> None:
    """The product's clock beside other ways to time the same step, on a few designs."""
    supernet = sliced_supernet(name, machine)
    space, spec = default_space(supernet.spec), supernet.spec
    designs = {"dense": Candidate.dense(spec), **designs_of_size(space)}
    random = space.samples(2 if machine.dry else 5, seed=3)
    designs |= {f"random-{number}": design for number, design in enumerate(random)}
    for scenario, batch in _PHASES:
        phase_name, rows = f"{scenario} x {batch}", list[dict[str, Any]]()
        with report.check("truth", name, phase_name):
            timed = workload(machine, scenario, batch_size=batch)
            clock, (phase,) = TorchClock(supernet, timed), timed.phases.values()
            for kind, design in designs.items():
                if report.left < 4:
                    break
                rows.append({"removed": removed_params(spec, design)} | _row(machine, clock, design, phase))
                report.put("truth", name, phase_name, "rows", kind, value=rows[-1])
            whole = [row for row in rows if "graph_ms" in row]
            if len(whole) > 2:
                report.put("truth", name, phase_name, "summary", value=_summary(whole))


def _row(machine: Machine, clock: TorchClock, design: Candidate, phase: Phase) -> dict[str, Any]:
    """One design by all ways."""
    row: dict[str, Any] = {}
    for way in ("product_ms", "product_again_ms"):
        row[way] = statistics.median(clock.time_ms(design, phase) for _ in range(3))
    with torch.inference_mode():
        step = clock.step(design, phase)
        row["wall_ms"], row["event_ms"] = wall_ms(machine, step, 10), event_ms(machine, step, 10)
        with counted_syncs(machine) as row["syncs"]:
            step()
        row["queued_ms"] = queued_ms(machine, step, 5)
        if machine.cuda:
            row |= _attempt("busy", lambda: busy(machine, step))
            row |= _attempt("graph", lambda: {"graph_ms": graph_ms(machine, step, 10)})
            machine.settle()
    return row


def _attempt(name: str, way: Callable[[], dict[str, float]]) -> dict[str, Any]:
    """What a way to time gives, or why it gives nothing: not every step can be profiled or be a graph."""
    try:
        return way()
    except Exception as error:  # a boundary: other ways still answer
        return {f"{name}_error": f"{type(error).__name__}: {error}"[:300]}


def _summary(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How far the clock is the device's time, from rows of designs, the dense one first."""
    product, graph = ([row[way] / rows[0][way] for row in rows] for way in ("product_ms", "graph_ms"))
    idle = [1 - row["busy_ms"] / row["product_ms"] for row in rows if "busy_ms" in row]
    return {
        **({"launch_bound": statistics.median(idle)} if idle else {}),
        "graph_over_product": statistics.median(row["graph_ms"] / row["product_ms"] for row in rows),
        "rank_correlation": spearman(product, graph),
        "ratio_off_median": statistics.median(abs(p / g - 1) for p, g in zip(product, graph, strict=True)),
    }
