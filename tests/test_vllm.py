"""Real vLLM, in its own environment: exports with holes in every place, its clock, and what is refused or found out."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_formats import GONE, byte_level, supernet

from evaluators.latency.bench import LatencyBench
from evaluators.latency.workload import Workload
from space.candidate import Candidate, Option
from space.errors import ShapeError, UserError
from space.formats.checkpoint import Subnet
from space.formats.hf.export import Export, export_checkpoint
from space.formats.verify import Verification
from space.formats.vllm import check
from space.formats.vllm.environment import make_environment, verifying_python

SIZES = {"hidden_size": 128, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
HOLES = [(0, 0, 96), (4, 2, 0), GONE, (2, 1, 32)]
PLAIN = [(0, 0, 96), (4, 2, 0), GONE, (4, 2, 96)]  # of the options of a table alone
NARROW = [(2, 1, 64), GONE, (2, 1, 64), (2, 1, 64)]


@pytest.fixture(scope="module")
def python() -> Path:
    """Of vLLM's environment, made once in the cache; skips, with the reason, where it cannot be."""
    try:
        return make_environment()
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(autouse=True)
def reloaded_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/test_formats_hf.py reloads exports in transformers."""
    passed = Verification(0.0, 0.0, 0.0, 1, 0.0)
    monkeypatch.setattr("space.formats.hf.export.verify_checkpoint", lambda *given, **settings: passed)


def export(family: str, shapes: list[tuple[int, int, int]], directory: Path, python: Path) -> Export:
    sizes = SIZES | ({"head_dim": 32} if family != "qwen2" else {})  # of those that vLLM has for CPUs
    net, candidate = supernet(family, directory / "supernet", **sizes), Candidate.from_rows(shapes)
    subnet = Subnet(net.model.config, byte_level(), net.spec, candidate)
    return export_checkpoint(net.view(candidate), subnet, directory / "an export", card={}, vllm=python)


@pytest.mark.parametrize(
    ("family", "shapes", "flag"),
    [("llama", HOLES, "--trust-remote-code"), ("qwen2", NARROW, "--model-impl transformers")],
    ids=["llama, unequal layers with holes", "qwen2, equal layers with fewer heads"],
)
def test_vllm_computes_what_the_checkpoint_does(
    family: str, shapes: Any, flag: str, python: Path, tmp_path: Path
) -> None:
    done = export(family, shapes, tmp_path, python)
    assert done.in_vllm is not None
    assert done.in_vllm.dtype == "float32"
    assert done.in_vllm.worst_difference < 1e-3
    assert (done.in_vllm.steps, done.in_vllm.ties) == (200, 0)
    assert min(done.in_vllm.prompt_tokens_per_s, done.in_vllm.decode_tokens_per_s) > 0
    assert done.serve == f"vllm serve '{tmp_path / 'an export'}' {flag}"
    assert "vLLM against the checkpoint" in (done.directory / "README.md").read_text(encoding="utf-8")


def test_another_continuation_is_found_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def answer(script: Path, request: Any, *, failure: str, python: Path) -> Any:
        step = {"token": 5, "top": [[5, -1.0]]}
        speeds = {"prompt_tokens_per_s": 1.0, "decode_tokens_per_s": 1.0, "load_seconds": 1.0}
        return {"version": "0", "runs": [[step] * request["new_tokens"]] * len(request["prompts"]), **speeds}

    monkeypatch.setattr(check, "answer_of", answer)
    with pytest.raises(UserError, match=r"checkpoint failed its check.* vLLM to choose"):
        export("llama", HOLES, tmp_path, Path(sys.executable))
    assert not (tmp_path / "an export").exists()


def test_what_is_not_there_is_refused_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PARETOPRUNE_CACHE", str(tmp_path))
    assert verifying_python(None, "gguf", None) is None
    with pytest.raises(UserError, match=r"none\. Make it with: python -m space\.formats\.vllm\.environment"):
        verifying_python("vllm", "hf", None)
    with pytest.raises(UserError, match=r"vllm\.python .* No module named 'vllm'"):
        verifying_python("vllm", "hf_uniform", sys.executable)
    with pytest.raises(UserError, match=r"vllm\.python .* No such file"):
        verifying_python("vllm", "hf", str(tmp_path / "python"))
    with pytest.raises(UserError, match=r"hf, hf_uniform with verify=vllm, got 'gguf'"):
        verifying_python("vllm", "gguf", None)
    with pytest.raises(UserError, match=r"verify to be null or vllm, got 'moon'"):
        verifying_python("moon", "hf", None)


def test_designs_are_timed_in_turns_with_the_dense_model(python: Path, tmp_path: Path) -> None:
    net = supernet("llama", tmp_path / "supernet", **SIZES, head_dim=32)
    workload = Workload("serving", batch_size=2, length=24, new_tokens=4, threads=1, rounds=2, fit=1, check=0)
    seen: list[tuple[int, int]] = []
    bench = LatencyBench(net, replace(workload, engine="vllm", vllm_python=str(python)))
    options: dict[str, list[Option]] = {"attention": [(4, 2)], "mlp": [(96,)]}
    table = bench.table(options, [Candidate.from_rows(PLAIN)], lambda *done: seen.append(done))
    assert seen == [(8, 8)] * 2  # rounds of three stacks and a design, in a process a phase
    assert [phase.rounds for phase in table.phases.values()] == [2, 2]
    assert min(phase.dense_ms for phase in table.phases.values()) > 0
    assert "tokens with the logits of the last position in vLLM 0." in table.remarks()[0]
    assert ", float32, 1 threads" in table.remarks()[0]
    with pytest.raises(ShapeError, match="keeps attention"):
        bench.clock.try_out(Candidate.from_rows([(0, 0, 96)] * 4))
