"""What a run is said to take before it begins: sizes as they are on disk and in memory, of models not there too."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_tokens, tiny_model
from safetensors import safe_open

import entries.plan
from conf.compose import composed
from conf.settings import session_settings
from entries.plan import plan
from entries.settings import run_settings
from evaluators.amounts import Amounts
from evaluators.latency.memory import peak_bytes
from evaluators.planning import machine
from evaluators.planning.fit import disk_misfits, misfits
from evaluators.planning.job import Job, Stage
from evaluators.planning.machine import measured_pace
from evaluators.planning.memory import least_on_device, stages
from evaluators.planning.times import Pace
from evaluators.settled import Settled
from evaluators.speeds import Speeds
from evaluators.training.recipes import SHARED_TRAINABLE, Healing
from evaluators.training.shared_training import SharedTraining
from search.views.watch.events import Event, Remarks
from search.views.watch.run import Watch
from space.candidate import Candidate, LayerShape
from space.errors import UserError
from space.models import hub
from space.models.loading import LoadedModel
from space.models.outline import outlined
from space.models.stack import stack_of
from space.spec import ModelSpec
from space.supernet.calibration import gather
from space.supernet.importance import rule_of
from space.supernet.placement import Placement
from space.supernet.preparation import disk_remarks, prepared_supernet
from space.supernet.prepared_layer import prepared_layer
from space.supernet.recipe import Preparation
from space.supernet.sizes import (
    Part,
    calibration_parts,
    layer_file_bytes,
    map_bytes,
    owned_bytes,
    stored_tensors,
    supernet_bytes,
    total,
)
from space.supernet.supernet import Supernet

PACE = Pace(passing=4e11, learning=4e11, exact=1e11, read=1e10)
LARGE = {
    **{"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32},
    **{"num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192},
    **{"tie_word_embeddings": False, "dtype": "bfloat16"},
}


def job_of(spec: ModelSpec, *overrides: str, **changes: Any) -> Job:
    settings = session_settings(composed(*overrides))
    facts = {"dtype": "float32", "stored": "float32", "files": (0,), "base": 0, "on_host": True}
    facts |= {"streamed": False, "memory": 0, "healed": 3}
    return Job(spec, settings, settings.space(spec), **(facts | changes))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_stored_of_a_layer_is_known_beforehand(make_supernet, family: str, dtype: torch.dtype) -> None:
    require_known(make_supernet(family, dtype), str(dtype).removeprefix("torch."))


def test_so_is_what_is_stored_for_types(tmp_path: Path) -> None:
    model, spec = wide_model()
    how = {"dtype": torch.float32, "read": True}
    require_known(Supernet.prepare(model, spec, random_tokens(12, 24), tmp_path / "net", **how), "float32", read=True)


def require_known(supernet: Supernet, name: str, *, read: bool = False) -> None:
    directory = supernet._files.directory
    for index in (0, supernet.spec.layers - 1):
        file, how = (
            directory / f"layer-{index:03}.safetensors",
            {"read": read, "plain": index in supernet.spec.plain_mlps},
        )
        with safe_open(file, framework="pt") as stored:
            slices = {key: stored.get_slice(key) for key in stored.keys()}  # noqa: SIM118
            there = {(key, each.get_dtype(), tuple(each.get_shape())) for key, each in slices.items()}
        assert there == {(each.name, each.dtype, each.shape) for each in stored_tensors(supernet.spec, name, **how)}
        assert layer_file_bytes(supernet.spec, name, **how) == pytest.approx(file.stat().st_size, abs=16)
    whole = sum(each.stat().st_size for each in directory.iterdir())
    assert supernet_bytes(supernet.spec, name, read=read) == pytest.approx(whole, rel=0.02)


def test_narrower_blocks_and_trained_weights_are_as_large_as_said(make_supernet, unlike_family: str) -> None:
    supernet = make_supernet(unlike_family)
    spec, job = supernet.spec, job_of(supernet.spec, "space.mlp_step=16")
    for kind, options in job.space.block_options.items():
        for option in options[:-1]:
            for whose, sliced in ((supernet, False), (supernet.sliced(), True)):
                block = whose._views[0.0]._weights(0, kind, LayerShape.of(**{kind: option}))
                assert owned_bytes(spec, "float32", kind, option, sliced=sliced) == block.owned_bytes, (option, sliced)
    weights = {name: weight.numel() for name, weight in stack_of(supernet.model).named_parameters()}
    for row, trains in SHARED_TRAINABLE.items():
        assert job.trained[row] == sum(count for name, count in weights.items() if trains(name))


def wide_model() -> tuple[Any, ModelSpec]:
    """A model in which what does not grow with its widths hardly counts."""
    sizes = {"hidden_size": 96, "intermediate_size": 640, "num_hidden_layers": 2, "vocab_size": 500}
    return tiny_model("mistral", head_dim=16, **sizes)


@pytest.mark.parametrize("read", [False, True])
def test_calibration_holds_what_is_said(read: bool) -> None:
    model, spec = wide_model()
    tokens = random_tokens(4, 32)
    head = torch.zeros(spec.hidden, spec.hidden) if read else None

    def calibrate() -> None:
        how: dict[str, Any] = {"experts": "reap", "damping": 0.01, "steps": 48, "dtype": torch.float32}
        place = Placement(torch.device("cpu"))
        for statistics in gather(model, tokens, forward_dtype=torch.float32, place=place, head_gram=head):
            tensors = prepared_layer(statistics, spec, rule_of("obs"), **how)
            del statistics, tensors

    with torch.no_grad():
        peak = peak_bytes(model, calibrate)
    streams = 8 * tokens.numel() * spec.hidden
    said = total(calibration_parts(spec, "float32", tokens.numel(), steps=48, read=read)) + streams
    assert peak == pytest.approx(said, rel=0.15)


def test_healing_holds_what_is_said(tmp_path: Path) -> None:
    model, spec = wide_model()
    supernet = Supernet.prepare(model, spec, random_tokens(12, 24), tmp_path, dtype=torch.float32)
    job = job_of(spec, "data.length=32", varied=1.0)
    designs = job.designs
    for design in designs:
        supernet.view(design)  # whose refits are there

    def heal() -> SharedTraining:
        training = SharedTraining(supernet, designs, Healing())
        for step in range(len(designs)):
            training.learn(random_tokens(1, 32, seed=step), 1e-4)
        return training

    held: list[SharedTraining] = []
    peak = peak_bytes(supernet.model, lambda: held.append(heal()))
    maps = sum(each.nbytes for each in held[0]._shared._maps.values())
    blocks = job.blocks(designs)
    assert maps == sum(map_bytes(spec, "float32", kind, option) for _, kind, option in blocks)
    (stage,) = (stage for stage in stages(job) if stage.title == "healing")
    ours = [part for part in stage.host if part.what.startswith(("weights in training", "maps", "activations"))]
    assert len(ours) == 3
    assert peak == pytest.approx(total(ours), rel=0.15)


def test_a_streamed_model_needs_of_the_device_what_one_layer_does() -> None:
    spec = ModelSpec("8b", "0", "llama", 32, 4096, 32, 8, 128, 14336, 128256, tied_embeddings=False)
    settings = session_settings(composed())
    stage = least_on_device(spec, settings, "bfloat16")
    deeper = least_on_device(ModelSpec(**spec.to_json() | {"layers": 80}), settings, "bfloat16")
    assert stage.title == "calibration"
    assert total(stage.device) < 4.3e9
    assert total(deeper.device) < 1.1 * total(stage.device)  # of more layers, the streams before each wait in healing
    head = next(part for part in stage.device if part.what == "norm and LM head")
    assert head.bytes == 2 * 4096 * (128256 + 1)
    tied = least_on_device(ModelSpec(**spec.to_json() | {"tied_embeddings": True}), settings, "bfloat16")
    assert total(tied.device) == total(stage.device)


def test_what_does_not_fit_names_the_settings_that_help() -> None:
    stage = Stage("search", (Part("weights", 8), Part("streams", 5, "evaluators.cache_bytes")), (Part("layer", 3),))
    assert misfits([stage], 13, 3) == []
    assert misfits([stage], None, None) == []
    (line,) = misfits([stage], 12, 3)
    assert line.startswith("WARNING: search needs")
    assert "evaluators.cache_bytes (streams" in line
    assert "not enough" not in line
    (line,) = misfits([stage], 7, 3)
    assert "not enough: weights" in line
    (line,) = misfits([stage], 13, 2)
    assert "of device memory" in line
    assert "No setting helps: layer" in line
    assert disk_misfits(stage.host, 13) == []
    assert "of disk" in disk_misfits(stage.host, 12)[0]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def watch(said: list[str]) -> Iterator[Watch]:
    def listen(event: Event) -> None:
        if isinstance(event, Remarks):
            said.extend(event.lines)

    with ExitStack() as closing:
        yield Watch(listen, closing)


@pytest.fixture
def planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, watch: Watch, said: list[str]) -> Callable[..., list[str]]:
    """What is said of a model of which there is the configuration alone."""
    model = tmp_path / "large"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(LARGE))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(entries.plan, "measured_pace", lambda *_: PACE)
    monkeypatch.setattr(entries.plan, "free_host_bytes", lambda: 20_000_000_000)
    monkeypatch.setattr(entries.plan, "free_disk_bytes", lambda place: 10_000_000_000)

    def run(*overrides: str) -> list[str]:
        arguments = ["experiment=plan", f"model.path={model}", "model.dtype=bfloat16", "model.device=cpu", *overrides]
        plan(run_settings(composed(*arguments), arguments), watch)
        return said

    return run


def test_a_plan_needs_a_configuration_alone_and_writes_nothing(planned, tmp_path: Path) -> None:
    lines = planned()
    assert "plan of a run on large: 8.03 B parameters, 16.1 GB in bfloat16 on cpu" in lines[0]
    assert "the configuration alone" in lines[0]
    assert any("speeds by estimate" in line for line in lines)
    assert any(line.startswith("budget of 15 minutes") for line in lines)
    titles = ["load", "calibration", "latency table", "search", "healing", "end of the run", "export: polish"]
    assert [title for title in titles if not any(line.startswith(f"{title} ") for line in lines)] == []
    assert any(line.startswith("some ") and line.endswith(" in all") for line in lines)
    warnings = [line for line in lines if line.startswith("WARNING: ")]
    assert any(line.startswith("WARNING: calibration needs") and "calibration_windows" in line for line in warnings)
    assert any("21.8 GB" in line and "of disk" in line for line in warnings)
    assert "all of it fits" not in lines
    assert [path.name for path in tmp_path.iterdir()] == ["large"]


def test_a_plan_of_types_heals_what_is_not_rounded(planned) -> None:
    pytest.importorskip("xllamacpp", reason="the package xllamacpp is not installed")
    engine = ("latency=decode", "latency.engine=llamacpp")
    planned("space.types=[q8_0,q4_0]", *engine)
    rounded, plain = (line for line in planned(*engine) if line.startswith("healing "))
    assert float(rounded.split()[1]) == pytest.approx(float(plain.split()[1]), rel=0.05)  # GB of the host


def test_a_plan_with_less_memory_than_weights_streams_them(planned) -> None:
    lines = planned("model.device_bytes=12000000000", "budget.tokens=20000")
    assert any("layers wait on the host" in line for line in lines)
    assert any(line.startswith("device: ") and "of 12.0 GB free" in line for line in lines)
    assert "budget of 20,000 tokens, with healing on 120,000" in lines


def test_a_plan_goes_by_the_speeds_that_its_run_has_measured(
    planned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(entries.plan, "measured_pace", lambda *_: pytest.fail("it was measured again"))
    speeds = Speeds(elapsed_s=60, evaluation={4: 1234.0}, long=1000.0, training={1: 100.0}, timing_s=1.0, writing_s=1.0)
    amounts = Amounts(1_000_000, 4, 300_000, 1, 4, 16, 120.0, 880.0)
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "budget.json").write_text(Settled(15, speeds, amounts).to_json())
    lines = planned(f"run_dir={directory}")
    assert any("which the run has measured" in line for line in lines)
    assert any(line.startswith("search ") and line.endswith("1,234") for line in lines)
    assert any(line.startswith("healing ") and " 50 min" in line for line in lines)
    assert [path.name for path in directory.iterdir()] == ["budget.json"]


def test_of_a_model_on_the_hub_the_configuration_alone_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def snapshot(repo: str, **how: Any) -> str:
        asked.append((repo, how["revision"], how["allow_patterns"]))
        return str(tmp_path)

    info = namedtuple("info", "sha")("abc")
    monkeypatch.setattr(hub, "HfApi", lambda: namedtuple("api", "model_info")(lambda repo, **how: info))
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    (tmp_path / "config.json").write_text(json.dumps(LARGE | {"num_hidden_layers": 2, "dtype": "float16"}))
    outline = outlined("someone/model", revision="main", trust_remote_code=False, lengths={})
    assert asked == [("someone/model", "abc", ["config.json", "preprocessor_config.json"])]
    assert (outline.spec.name, outline.spec.layers, outline.there) == ("someone/model", 2, False)
    assert outline.dtype == torch.float16
    assert sum(outline.files) == 2 * (2 * 4096 * 128256 + 2 * 218_112_000 + 4096)
    with pytest.raises(UserError, match=r"expected at most|Expected at most 8,192 tokens"):
        outlined("someone/model", revision=None, trust_remote_code=False, lengths={"data.length=9000": 9000})


def test_a_device_is_asked_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_LOOK_S", 0.01)
    _, spec = wide_model()
    pace = measured_pace(spec, torch.float32, torch.device("cpu"))
    assert min(pace.passing, pace.learning, pace.exact, pace.read) > 1e6
    assert pace.moved == 0.0


Usage = namedtuple("Usage", "total used free")


def test_a_calibration_that_the_disk_has_no_room_for_is_refused_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, spec = wide_model()
    loaded = LoadedModel(model, None, spec, torch.float32, torch.device("cpu"), "here")
    assert disk_remarks(loaded, tmp_path) == []  # too small to be worth a word
    monkeypatch.setattr("space.files.shutil.disk_usage", lambda place: Usage(9, 9, 1000))
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(UserError, match=r"Expected \d+\.\d MB of free disk.*, got 0\.0 MB\..*PARETOPRUNE_CACHE"):
        prepared_supernet(Preparation(), loaded, lambda: random_tokens(4, 16), tmp_path / "run", cache=tmp_path / "c")
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    assert not (tmp_path / "c").exists()


def test_a_large_supernet_is_told_of_beforehand(tmp_path: Path) -> None:
    spec = ModelSpec("8b", "0", "llama", 32, 4096, 32, 8, 128, 14336, 128256, tied_embeddings=False)
    loaded = LoadedModel(None, None, spec, torch.bfloat16, torch.device("cpu"), "here")
    (line,) = disk_remarks(loaded, tmp_path)
    assert "21.8 GB on disk" in line
    (tmp_path / "supernet.json").write_text("{}")
    assert disk_remarks(loaded, tmp_path) == []


def test_designs_stand_for_what_a_search_finds() -> None:
    _, spec = wide_model()
    job = job_of(spec)
    assert len(job.designs) == 3
    assert 0.45 <= job.share <= 1
    assert Candidate.dense(spec) == job.dense
