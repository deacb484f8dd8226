"""The device check of `latency.compile=true`: how long a design takes to compile, and how fast it is then."""

from __future__ import annotations

import time
from contextlib import nullcontext

import torch

from benchmarks.device.machine import Machine
from benchmarks.device.models import default_space, designs_of_size, sliced_supernet, workload
from benchmarks.device.report import Report
from evaluators.latency.clocks import TorchClock
from space.candidate import Candidate

SHAPE = "smollm2-135m"


def compiling(report: Report, machine: Machine) -> None:
    """Seconds a design, and milliseconds beside those of plain launches.

    A dry run compiles nothing, as there may be no compiler: what would be compiled runs as it is.
    """
    supernet = sliced_supernet(SHAPE, machine)
    halves = designs_of_size(default_space(supernet.spec))
    designs = {"dense": Candidate.dense(supernet.spec), "uniform": halves["uniform"], "mixed": halves["mixed"]}
    for scenario in ("prefill", "decode"):
        stance = torch.compiler.set_stance("force_eager") if machine.dry else nullcontext()
        with report.check("compile", scenario), stance:
            plain = TorchClock(supernet, workload(machine, scenario))
            settings = workload(machine, scenario, compile=True)
            clock, (phase,) = TorchClock(supernet, settings), settings.phases.values()
            for kind, design in designs.items():
                if report.left < 10:
                    break
                row: dict[str, float] = {"plain_ms": plain.time_ms(design, phase)}
                for time_of, seconds_of in (("compiled_ms", "first_s"), ("compiled_again_ms", "again_s")):
                    start = time.monotonic()
                    row[time_of] = clock.time_ms(design, phase)
                    row[seconds_of] = time.monotonic() - start
                row["memory_bytes"] = torch.cuda.memory_reserved() if machine.cuda else 0
                report.put("compile", scenario, kind, value=row)
