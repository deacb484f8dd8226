"""Ways to time one step on a device, and to see where the host waits for it."""

from __future__ import annotations

import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, TextIO

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.device.machine import ROOT, Machine

Step = Callable[[], object]


def event_ms(machine: Machine, step: Step, repeats: int) -> float:
    """Median milliseconds of single calls by CUDA events, each waited for; by the wall clock where there is no CUDA."""
    if not machine.cuda:
        return wall_ms(machine, step, repeats, warm=3)
    times = []
    for number in range(repeats + 3):
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begun.record()
        step()
        ended.record()
        ended.synchronize()
        if number >= 3:
            times.append(begun.elapsed_time(ended))
    return statistics.median(times)


def wall_ms(machine: Machine, step: Step, repeats: int, warm: int = 2) -> float:
    """Median milliseconds of single calls by the wall clock, each waited for: what one request sees."""
    times = []
    for number in range(repeats + warm):
        machine.settle()
        start = time.perf_counter()
        step()
        machine.settle()
        if number >= warm:
            times.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times)


def queued_ms(machine: Machine, step: Step, repeats: int) -> float:
    """Mean milliseconds until Python is done with a call, whether the device is or not."""
    machine.settle()
    start = time.perf_counter()
    for _ in range(repeats):
        step()
    took = time.perf_counter() - start
    machine.settle()
    return took / repeats * 1e3


def graph_ms(machine: Machine, step: Step, repeats: int) -> float:
    """Median milliseconds of replays of the step as a CUDA graph: the device's time without launch gaps."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = step()
    ms = event_ms(machine, graph.replay, repeats)
    del kept, graph
    return ms


def busy(machine: Machine, step: Step) -> dict[str, float]:
    """Milliseconds in which kernels run, and how many there are, in one step on CUDA."""
    step()
    machine.settle()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        step()
        machine.settle()
    kernels = [
        event
        for event in seen.events() or ()
        if event.device_type.name == "CUDA" and not getattr(event, "is_user_annotation", False)
    ]
    return {"busy_ms": sum(kernel.time_range.elapsed_us() for kernel in kernels) / 1e3, "kernels": len(kernels)}


def seconds_of(machine: Machine, ask: Callable[[], Any], times: int) -> tuple[list[Any], list[float]]:
    """Answers to a question that is asked several times, and the seconds of each."""
    answers, seconds = [], []
    for _ in range(times):
        machine.settle()
        start = time.perf_counter()
        answers.append(ask())
        machine.settle()
        seconds.append(time.perf_counter() - start)
    return answers, seconds


@contextmanager
def counted_syncs(machine: Machine) -> Iterator[dict[str, int]]:
    """Where the host waits for the device inside, by line of the project, as far as torch notices; nothing on a CPU."""
    found: dict[str, int] = {}
    if not machine.cuda:
        yield found
        return

    def count(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if "synchronizing CUDA operation" in str(message):
            place = f"{_own_line()} in {Path(filename).name}:{lineno}"
            found[place] = found.get(place, 0) + 1

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = count  # which catch_warnings puts back
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield found
        finally:
            torch.cuda.set_sync_debug_mode("default")


def _own_line() -> str:
    """The innermost line of the project that is at work below whoever asks for it."""
    root = f"{ROOT}{os.sep}"
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith(root):
        frame = frame.f_back
    return f"{frame.f_code.co_filename.removeprefix(root)}:{frame.f_lineno}" if frame is not None else "?"
