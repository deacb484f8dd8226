"""The whole command on the real default model with a tiny budget, a point exported, and activation by views alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers_run import ROOT, ended, start
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.metrics import metrics_named
from search.archive import Archive
from search.run.front import is_dense, read_front_csv
from space.candidate import Candidate
from space.models.loading import load_model
from space.size import total_params
from space.supernet.supernet import Supernet

pytestmark = pytest.mark.slow
BUDGET = 4_000  # tokens, by which more than the designs of the healing are asked
POINTS = 4
SHORTER = (  # beside which loading, calibrating and asking a real model remain
    *("data.length=32", "distillation.tokens=320", f"front_points={POINTS}", "space.mlp_step=512", "samples.tokens=4"),
    *("latency.length=16", "latency.fit=1", "latency.check=2", "latency.front_rounds=1", "supernet.steps=8"),
)
DECIDING = "healed"  # the fidelity of which the front is


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, started as README says; the weights come from the user's cache, or are fetched into it."""
    run_dir = tmp_path_factory.mktemp("real") / "run"
    before = {path.name for path in ROOT.iterdir()}
    settings = "experiment=smoke", f"budget.tokens={BUDGET}", *SHORTER, f"run_dir={run_dir}"
    done = ended(start("run_search.py", *settings, cwd=ROOT, cache=None), timeout=1800)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert not ({path.name for path in ROOT.iterdir()} - before) & {"outputs", "multirun", ".hydra", "run_search.log"}
    return run_dir


def test_the_front_is_of_the_default_model(run: Path) -> None:
    front = read_front_csv(run / "front.csv")
    dense, pruned = front[is_dense(front)].iloc[0], front[~is_dense(front)]
    assert len(pruned) >= 1  # how many depends on how well timings tell them apart
    assert dense["params"] == 134_515_008
    assert dense["candidate"] == Candidate.from_rows([[9, 3, 1536]] * 30)
    assert dense["kl"] == pytest.approx(0, abs=1e-6)
    assert 3 < dense["heldout_ppl"] < 60  # it knows English
    assert not front.isna().to_numpy().any()
    assert pruned["latency_ms"].is_monotonic_decreasing
    assert pruned["heldout_ppl"].is_monotonic_increasing
    assert (pruned["latency_ms"] < dense["latency_ms"]).all()
    assert pruned["decoder_params_removed"].between(0, 0.6001, inclusive="right").all()
    assert [candidate.key for candidate in front["candidate"]] == front["key"].tolist()
    assert {"front.html", "points.csv", "summary.json"} <= {path.name for path in run.iterdir()}
    assert len((run / "archive.jsonl").read_text().splitlines()) > 24
    assert json.loads((run / "summary.json").read_text())["model"]["name"] == "SmolLM2-135M-Instruct"


def test_no_point_of_the_search_is_lost_on_the_way_to_the_front(run: Path) -> None:
    """The archive's own front, thinned, is in front.csv but for what later and better measurements ruled out."""
    front = read_front_csv(run / "front.csv")
    pruned, summary = set(front["key"][~is_dense(front)]), json.loads((run / "summary.json").read_text())
    objectives = metrics_named(*summary["objectives"])
    dense = front["key"][is_dense(front)].iloc[0]
    with Archive.reopen(run / "archive.jsonl") as archive:
        archived = archive.front(objectives, DECIDING)
    members = {e.candidate.key for e in archived} - {dense}
    assert pruned <= members
    near = {e.candidate.key for e in archived if e.values["kl"] <= 1.5} - {dense} or members
    assert len(pruned) + summary["dropped"] == min(POINTS, len(near))


def test_the_fastest_point_is_exported_and_speaks(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "fastest"
    settings = f"run_dir={run}", "pick=fastest", f"out={out}", "recover.tokens=512"
    done = ended(start("export_subnet.py", *settings, cwd=ROOT, cache=None), timeout=1800)
    assert done.returncode == 0, done.stderr
    assert "in a fresh process" in done.stdout
    key = done.stdout.split("pick fastest: ", 1)[1].split(",", 1)[0]
    front = read_front_csv(run / "front.csv").set_index("key")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    model = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    assert model.num_parameters() == front.loc[key, "params"]
    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    tokens = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        written = model.generate(**tokens, max_new_tokens=8, min_new_tokens=8, do_sample=False)
    assert tokenizer.decode(written[0]).startswith("The capital of France is")
    assert written.shape[1] == tokens["input_ids"].shape[1] + 8


def storages(model: torch.nn.Module) -> dict[str, int]:
    return {name: parameter.untyped_storage().data_ptr() for name, parameter in model.named_parameters()}


def _dense_name(name: str, kept: list[str]) -> str:
    """A view's parameter under the dense model's number of its layer."""
    parts = name.split(".")
    if parts[1] == "layers":
        parts[2] = kept[int(parts[2])]
    return ".".join(parts)


def test_a_view_allocates_output_projections_alone(run: Path) -> None:
    loaded = load_model()
    supernet = Supernet.load(loaded.model, loaded.spec, run / "supernet", dtype=loaded.dtype)
    dense = storages(supernet.model)
    cycle = [(9, 3, 1024), (6, 2, 1536), (6, 3, 512), (2, 1, 128), (0, 0, 768), (9, 3, 0), (0, 0, 0), (3, 3, 1536)]
    candidate = Candidate.from_rows([cycle[index % len(cycle)] for index in range(30)])
    expected = set()
    for index, shape in enumerate(candidate.layers):
        if 0 < shape.query_heads < 9:
            expected.add(f"model.layers.{index}.self_attn.o_proj.weight")
            if shape.kv_heads > 1 and shape.queries_per_group < 3:  # rows from several groups: gathered, not a view
                expected.add(f"model.layers.{index}.self_attn.q_proj.weight")
        if 0 < shape.mlp_channels < 1536:
            expected.add(f"model.layers.{index}.mlp.down_proj.weight")
    model = supernet.view(candidate)
    kept = [str(index) for index, shape in enumerate(candidate.layers) if not shape.gone]
    first = {_dense_name(name, kept): storage for name, storage in storages(model).items()}
    own = {name for name, storage in first.items() if storage not in set(dense.values())}
    assert own == expected
    assert sum(parameter.numel() for parameter in model.parameters()) == total_params(loaded.spec, candidate)
    assert storages(supernet.model) == dense
    again = storages(supernet.view(candidate))
    assert {_dense_name(name, kept): storage for name, storage in again.items()} == first, "warm: the very same tensors"
