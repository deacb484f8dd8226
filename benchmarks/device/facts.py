"""The device checks' facts: versions, whether the entries import, and what the card can do at most."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import subprocess
import sys
import time

import torch

from benchmarks.device.machine import Machine
from benchmarks.device.report import Report
from benchmarks.device.stopwatch import event_ms

_PACKAGES = (
    *("torch", "transformers", "tokenizers", "huggingface_hub", "safetensors", "accelerate", "peft", "numpy", "scipy"),
    *("scikit-learn", "pandas", "rich", "pymoo", "moocore", "plotly", "triton", "pytest", "hypothesis", "cffi"),
)
_ENTRIES = ("run_search", "export_subnet", "score_subnet")
_QUERY = "name,driver_version,memory.total,clocks.sm,clocks.max.sm,clocks.mem,power.limit,temperature.gpu,pstate"


def facts(report: Report, machine: Machine) -> None:
    """Versions and imports, and on CUDA the card, its ceilings in copies and products, and what a launch costs."""
    versions = {name: _version(name) for name in _PACKAGES}
    about = {"python": sys.version.split()[0], "cores": os.cpu_count()}
    report.put("facts", "versions", value=versions | about)
    with report.check("facts", "imports"):
        for entry in _ENTRIES:
            importlib.import_module(entry)
    if machine.cuda:
        _card(report, machine)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _card(report: Report, machine: Machine) -> None:
    command = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv"]
    report.put("facts", "nvidia-smi", value=subprocess.run(command, capture_output=True, text=True).stdout.splitlines())
    side, big = 8192, torch.randn(1 << 28, device=machine.device)  # 1 GiB
    a, b = (torch.randn(side, side, device=machine.device, dtype=torch.bfloat16) for _ in range(2))
    copy_ms, product_ms = event_ms(machine, big.clone, 10), event_ms(machine, lambda: a @ b, 10)
    ceilings = {"copy_TB_s": 2 * big.nbytes / copy_ms / 1e9, "bf16_TFLOP_s": 2 * side**3 / product_ms / 1e9}
    report.put("facts", "ceilings", value=ceilings)
    small, launches = torch.randn(64, device=machine.device), 2000
    machine.settle()
    start = time.perf_counter()
    for _ in range(launches):
        small.add_(1)
    queued = time.perf_counter() - start
    machine.settle()
    done = time.perf_counter() - start
    report.put("facts", "launch_us", value={"python": queued / launches * 1e6, "done": done / launches * 1e6})
