"""What goes wrong in a device is told to the user, and is nobody's failure: the same command goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from evaluators.base import Evaluator, Measure, MeasureEvaluator
from evaluators.latency.bench import LatencyBench
from evaluators.latency.end_to_end import EndToEnd
from evaluators.latency.workload import Workload
from evaluators.metrics import metric_named
from evaluators.samples import SampleEvaluator, Samples
from evaluators.settings import SampleSettings
from search.archive import Archive
from search.run.members import evaluate
from space.candidate import Candidate
from space.errors import ShapeError, UserError, mendable
from space.supernet.supernet import Supernet

GOOD, LARGE = (Candidate.from_rows([[4, 2, 16]] * layers) for layers in (1, 2))
NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.00 GiB.\nSee documentation.")


class Device:
    """A model's, which may have no room for the large candidate."""

    def __init__(self) -> None:
        self.error: Exception | None = NO_MEMORY

    def __call__(self, candidate: Candidate) -> Any:
        if candidate == LARGE and self.error is not None:
            raise self.error
        return {"kl": 0.5}


def test_the_archive_keeps_nothing_of_a_candidate_for_which_there_was_no_memory(tmp_path: Path) -> None:
    device = Device()
    evaluator = MeasureEvaluator("search", [Measure((metric_named("kl"),), device)])
    told = r"OutOfMemoryError: CUDA out of memory.*4\.00 GiB.*evaluators\.batch_size"
    with Archive(tmp_path / "archive.jsonl", {}) as archive, pytest.raises(UserError, match=told):
        evaluate(evaluator, archive, [GOOD, LARGE])
    device.error = None
    with Archive(tmp_path / "archive.jsonl", {}) as archive:
        assert [e.candidate for e in archive.evaluations("search")] == [GOOD]
        assert [e.status for e in evaluate(evaluator, archive, [GOOD, LARGE])] == ["ok", "ok"]


def boundaries(supernet: Supernet, device: Callable[[Candidate], Any]) -> Mapping[str, Evaluator]:
    """Every evaluator that stores failures."""
    bench = LatencyBench(supernet, Workload(length=8, threads=1))
    bench.clock.try_out = device  # type: ignore[method-assign]
    samples = Samples(None, SampleSettings(prompts=["a"]))
    return {
        "measures": MeasureEvaluator("search", [Measure((metric_named("kl"),), device)]),
        "samples": SampleEvaluator(samples, device),
        "end to end": EndToEnd(bench, {"prefill": 1.0}),
    }


@pytest.mark.parametrize("name", ["measures", "samples", "end to end"])
def test_all_boundaries_tell_a_device_from_a_candidate(name: str, make_supernet: Callable[..., Supernet]) -> None:
    device = Device()
    evaluator = boundaries(make_supernet("llama"), device)[name]
    for error in (
        NO_MEMORY,
        torch.AcceleratorError("CUDA error: an illegal memory access"),
        MemoryError(),
        UserError(),
    ):
        device.error = error
        with pytest.raises(UserError):
            [*evaluator.evaluate([LARGE])]
    for error in (ShapeError("no attention"), RuntimeError("sizes of tensors must match")):
        device.error = error
        (failed,) = evaluator.evaluate([LARGE])
        assert (failed.status, failed.error) == ("failed", f"{type(error).__name__}: {error}")


def test_memory_of_the_host_and_libraries_of_cuda_are_devices_too() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert "can't allocate memory" in str(mendable(caught.value))
    assert mendable(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`")) is not None
    assert mendable(RuntimeError("sizes must match")) is None
