"""The device check of parity: tiny models of every family, prepared and asked on the CPU and on the device."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from benchmarks.device.machine import ROOT, Machine
from benchmarks.device.products import products
from benchmarks.device.report import Report
from benchmarks.device.stopwatch import counted_syncs
from evaluators.divergence import Divergence
from evaluators.latency.clocks import TorchClock
from evaluators.latency.memory import peak_bytes
from evaluators.latency.workload import Workload
from evaluators.training.distillation import Student
from evaluators.training.recipes import Distillation
from evaluators.training.teacher import Teacher
from space.candidate import Candidate
from space.checks import dtype_name
from space.formats.hf.reload_check import cache_differences
from space.supernet.corrective_refit import correct
from space.supernet.placement import Placement
from space.supernet.supernet import Supernet

_CUT = [[4, 2, 16]] * 4
_DESIGNS = {
    "dense": [[6, 3, 48]] * 4,
    "cut": _CUT,
    "holes": [[0, 0, 48], [4, 2, 0], [0, 0, 0], [3, 3, 16]],
    "first gone": [[0, 0, 0], *[[6, 3, 32]] * 3],
}
_MERGED = {"merged": [[6, 1, 32], [6, 3, 48], [6, 1, 0], [4, 2, 48]]}
_COLD = [[4, 2, 32], *[[4, 2, 16]] * 3]  # that nothing was asked about before
# Families in the order in which they are asked, and whether they are asked the dearer questions too.
_ASKED = (
    ("llama", torch.float32, True),
    ("gemma3_text", torch.float32, True),
    ("llama", torch.bfloat16, True),
    ("qwen3", torch.float32, False),
    ("qwen2", torch.float32, False),
    ("mistral", torch.float32, False),
    ("gemma3_text", torch.bfloat16, False),
)
_LENGTH = 24  # tokens of a window
_ORDERS = ("group_order", "head_order", "mlp_order")


def parity(report: Report, machine: Machine) -> None:
    """Output head and refits against float64, then each family on both devices."""
    with report.check("parity", "products"):
        products(report, machine)
    for family, dtype, dearer in _ASKED:
        if report.left < 4:
            return
        path = ("parity", family, dtype_name(dtype))
        with report.check(*path), tempfile.TemporaryDirectory() as scratch:
            pair = _Pair.prepared(family, dtype, machine, Path(scratch))
            for question in (_orders, _divergences, _corrections, _generation):
                question(report, path, pair)
            for question in (_training, _peaks, _times) if dearer else ():
                question(report, path, pair)


def _tiny_models() -> Any:
    """The module with the tests' tiny models, which is no package's."""
    tests = str(ROOT / "tests")
    if tests not in sys.path:
        sys.path.insert(0, tests)
    return importlib.import_module("conftest")


@dataclass(frozen=True)
class _Pair:
    """One function on the CPU and on the device.

    Attributes:
        machine: With the device.
        scratch: A directory of the pair's own, in which `cpu` and `device` hold what each one's calibration stored.
        supernets: By place, `cpu` and `device`; both with the CPU's order of units.
        divergences: The same, on text of which nothing else is asked.
        designs: Candidates by name.
    """

    machine: Machine
    scratch: Path
    supernets: Mapping[str, Supernet]
    divergences: Mapping[str, Divergence]
    designs: Mapping[str, Candidate]

    @classmethod
    def prepared(cls, family: str, dtype: torch.dtype, machine: Machine, scratch: Path) -> _Pair:
        """A family's tiny model, calibrated in both places."""
        tests, devices = _tiny_models(), {"cpu": torch.device("cpu"), "device": machine.device}
        supernets = {}
        for place, device in devices.items():
            model, spec = tests.tiny_model(family)
            tokens = tests.random_tokens(12, _LENGTH)
            directory, there = scratch / place, Placement(device)
            supernets[place] = Supernet.prepare(model, spec, tokens, directory, dtype=dtype, place=there)
        model, spec = tests.tiny_model(family)
        there = Placement(machine.device)
        supernets["device"] = Supernet.load(model, spec, scratch / "cpu", dtype=dtype, place=there)
        rows = _DESIGNS | (_MERGED if spec.merged_kv_heads else {})
        designs = {name: Candidate.from_rows(layers) for name, layers in rows.items()}
        pair = cls(machine, scratch, supernets, {}, designs)
        text = pair.tokens(6, 20, seed=8)
        divergences = {
            place: Divergence(net, text, batch_size=4, cache_bytes=1 << 20) for place, net in supernets.items()
        }
        return cls(machine, scratch, supernets, divergences, designs)

    def tokens(self, windows: int, length: int, seed: int) -> Tensor:
        """Random token ids on the CPU, shape (windows, length)."""
        ids: Tensor = _tiny_models().random_tokens(windows, length, seed=seed)
        return ids


_Path = tuple[str, str, str]


def _orders(report: Report, path: _Path, pair: _Pair) -> None:
    """Whether both calibrations put the units in the same order."""
    cpu, device = (
        [load_file(file) for file in sorted((pair.scratch / place).glob("*.safetensors"))]
        for place in ("cpu", "device")
    )
    equal = [bool(torch.equal(a[key], b[key])) for a, b in zip(cpu, device, strict=True) for key in _ORDERS]
    report.put(*path, "orders_equal", value=f"{sum(equal)} of {len(equal)}")


def _divergences(report: Report, path: _Path, pair: _Pair) -> None:
    """How far the device's divergences are off, and whether it computes the same twice."""
    cpu, device = pair.divergences["cpu"], pair.divergences["device"]
    rows = {}
    for name, design in pair.designs.items():
        (kl, nll), there = cpu(design), device(design)
        rows[name] = {"kl": kl, "kl_off": there[0] - kl, "nll": nll, "nll_off": there[1] - nll}
        rows[name]["same_again"] = device(design) == there
    report.put(*path, "divergence", value=rows)
    with counted_syncs(pair.machine) as syncs:
        device(Candidate.from_rows(_COLD))
    report.put(*path, "syncs", "divergence", value=syncs)


def _corrections(report: Report, path: _Path, pair: _Pair) -> None:
    """What the corrective refit leaves of a divergence in both places."""
    cut, tokens = pair.designs["cut"], pair.tokens(8, _LENGTH, seed=5)
    with counted_syncs(pair.machine) as syncs:
        correct(pair.supernets["device"], [cut], tokens, batch_size=4)
    report.put(*path, "syncs", "correct", value=syncs)
    kl = {}
    for place, supernet in pair.supernets.items():
        (correction,) = correct(supernet, [cut], tokens, batch_size=4)
        kl[place] = pair.divergences[place](cut, supernet.view(cut, correction))[0]
    report.put(*path, "corrected_kl", value=kl)


def _generation(report: Report, path: _Path, pair: _Pair) -> None:
    """Whether `generate()` with a cache is `generate()` without, where layers and blocks are gone."""
    ids = pair.tokens(2, 20, seed=9).to(pair.machine.device)
    with torch.compiler.set_stance("force_eager"):  # on CUDA, generate() compiles where the cache is static
        differences = {
            name: cache_differences(pair.supernets["device"].view(pair.designs[name]), ids, torch.ones_like(ids), 8)
            for name in ("holes", "first gone")
        }
    report.put(*path, "generate", value=differences)


def _training(report: Report, path: _Path, pair: _Pair) -> None:
    """Six steps of distillation in each place, twice on the device, and that a student's state survives the disk."""
    losses: dict[str, Any] = {}
    cut, tokens, settings = pair.designs["cut"], pair.tokens(8, _LENGTH, seed=6), Distillation(tokens=(96,), rank=2)
    for name in ("cpu", "device", "device again"):
        place = name.split()[0]
        supernet = pair.supernets[place]
        teacher = Teacher(supernet.model, "0", tokens, pair.scratch / f"teacher {name}", batch_size=1)
        student = Student(supernet.view(cut, own=True), settings, _LENGTH)
        losses[name] = [student.learn(teacher.lesson(step)) for step in range(6)]
        with counted_syncs(pair.machine) as syncs:
            student.learn(teacher.lesson(6))
        torch.save(student.state(), pair.scratch / "student.pt")
        student.restore(torch.load(pair.scratch / "student.pt", map_location="cpu", weights_only=True))
        pair.divergences[place](cut, student.merged())
    report.put(*path, "losses", value=losses | {"same_again": losses["device"] == losses["device again"]})
    report.put(*path, "syncs", "learn", value=syncs)


@torch.inference_mode()
def _peaks(report: Report, path: _Path, pair: _Pair) -> None:
    """The most bytes that a prefill of the dense model takes, in both places."""
    tokens, peaks = pair.tokens(6, 20, seed=8), {}
    for place, supernet in pair.supernets.items():
        model = supernet.view(pair.designs["dense"])
        ids = tokens.to(model.device)
        peaks[place] = peak_bytes(model, partial(model, ids, use_cache=True))
    report.put(*path, "peak_bytes", value=peaks)


def _times(report: Report, path: _Path, pair: _Pair) -> None:
    """The clock's ratios and peaks on the device, with warm and with cold caches."""
    times = {}
    for scenario in ("prefill", "decode"):
        for cold in (False, True):
            workload = Workload(scenario, length=_LENGTH, rounds=2, cold=cold, cache=False)
            clock, (phase,) = TorchClock(pair.supernets["device"], workload), workload.phases.values()
            ratios, dense_ms = clock.session(phase, pair.designs, workload.rounds, lambda done, of: None)
            peaks = [clock.try_out(design) for design in pair.designs.values()]
            times[f"{scenario}{' cold' * cold}"] = {"dense_ms": dense_ms, "ratios": ratios, "peaks": peaks}
    report.put(*path, "clock", value=times)
