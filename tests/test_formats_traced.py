"""Traced graphs in ONNX Runtime and OpenVINO: every family with holes, and what is refused or found out."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from conftest import fitting
from helpers_formats import DENSE, GONE, answer_here, byte_level, supernet
from transformers import GenerationConfig

from space.candidate import Candidate
from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.registry import format_of
from space.formats.traced import check, engine_process
from space.formats.traced.engines import ENGINES
from space.formats.traced.export import TracedExport, export_traced
from space.supernet.supernet import Supernet

# No attention first, a layer that is gone, no MLP, and fewer of everything.
HOLES = [(0, 0, 64), GONE, (4, 2, 0), (2, 1, 48)]
EQUAL = [(4, 2, 32)] * 3 + [GONE]
# Whose graphs differ in kind; all are traced by the same code, and each engine runs some.
TRACED = {"onnx": ("llama", "gemma3_text"), "openvino": ("llama", "gemma3_text", "gpt2")}
FILES = {
    "onnx": {"model.onnx", "model.onnx.data"},
    "openvino": {"openvino_model.xml", "openvino_model.bin"},
}
BESIDE = {"README.md", "tokenizer.json", "tokenizer_config.json"}


def export(net: Supernet, engine: str, shapes: Any, out: Path) -> TracedExport:
    candidate = fitting(net.spec.family, shapes)
    subnet = Subnet(net.model.config, byte_level(), net.spec, candidate)
    return export_traced(engine, net.view(candidate), subnet, out, card={"Metrics": {"kl": 0.25}})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines run in this process, which is sooner ready."""
    monkeypatch.setattr(check, "answer_of", answer_here)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    """A Llama with biases in every projection and a tied head."""
    return supernet("llama", tmp_path_factory.mktemp("llama") / "supernet")


@pytest.fixture(scope="module")
def exports(llama: Supernet, tmp_path_factory: pytest.TempPathFactory) -> dict[str, TracedExport]:
    """By engine, a Llama with holes, run in a process of its own."""
    place = tmp_path_factory.mktemp("graphs")
    return {engine: export(llama, engine, HOLES, place / engine) for engine in FILES}


@pytest.fixture(scope="module")
def graphs(exports: dict[str, TracedExport]) -> dict[str, Path]:
    """The directories of these."""
    return {engine: done.directory for engine, done in exports.items()}


@pytest.mark.parametrize(("engine", "name"), [(engine, name) for engine, names in TRACED.items() for name in names])
def test_the_engine_computes_what_the_checkpoint_does(
    name: str, engine: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Alone and as a padded batch, from an empty past and after one, and past the window of a layer that has one."""
    if name == "llama":
        done = request.getfixturevalue("exports")[engine]
    else:
        request.getfixturevalue("here")
        done = export(supernet(name, tmp_path / "supernet"), engine, HOLES, tmp_path / "out")
    assert done.check.steps == 200
    assert done.check.worst_difference < 1e-3
    assert done.check.batch_difference < 1e-3
    assert done.check.torch_speed.decode_tokens_per_s > 0
    assert {path.name for path in done.directory.iterdir()} >= FILES[engine] | BESIDE
    assert "| batch difference |" in (done.directory / "README.md").read_text()


@pytest.mark.parametrize("engine", FILES)
def test_the_lines_of_its_card_write_what_the_checkpoint_does(
    engine: str, llama: Supernet, graphs: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    card = (graphs[engine] / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(lines.replace("path/to/this/directory", str(graphs[engine])), {})
    tokenizer, model = byte_level(), llama.view(Candidate.from_rows(HOLES))
    prompt = torch.tensor([tokenizer("The capital of France is").input_ids])
    settings = GenerationConfig(max_new_tokens=20, do_sample=False, pad_token_id=0)
    written = model.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=settings)
    assert capsys.readouterr().out.rstrip("\n") == tokenizer.decode(written[0]).rstrip("\n")


def test_the_cache_of_a_graph_is_that_of_its_layers_with_attention(graphs: dict[str, Path]) -> None:
    inputs = onnxruntime.InferenceSession(graphs["onnx"] / "model.onnx").get_inputs()
    names = [f"past_key_values.{layer}.{part}" for layer in (1, 2) for part in ("key", "value")]
    assert [value.name for value in inputs] == ["input_ids", "attention_mask", *names]
    assert [value.shape for value in inputs[2::2]] == [["batch", 2, "past", 16], ["batch", 1, "past", 16]]


@pytest.mark.parametrize("engine", FILES)
def test_a_graph_of_another_model_is_found_out(
    engine: str, llama: Supernet, graphs: dict[str, Path], here: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def other(model: Any, directory: Path) -> None:
        for name in FILES[engine]:
            shutil.copy(graphs[engine] / name, directory)

    monkeypatch.setitem(ENGINES, engine, replace(ENGINES[engine], write=other))
    with pytest.raises(UserError, match=f"{engine} graph failed its check"):
        export(llama, engine, [DENSE, *HOLES[1:]], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_batch_that_differs_is_found_out(llama: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama.view(Candidate.from_rows(EQUAL))

    class Torch:
        """An engine that sees padding."""

        def __init__(self, *place: Any) -> None:
            self.past: Any = None

        def reset(self, batch: int) -> None:
            self.past = None

        def logits(self, tokens: Any, mask: Any) -> Any:
            with torch.inference_mode():
                given = model(torch.tensor(tokens), past_key_values=self.past, use_cache=True)
            self.past = given.past_key_values
            return given.logits.numpy()

    def answer(script: Path, request: Any, *, failure: str) -> Any:
        return engine_process.answer(request, {})

    monkeypatch.setitem(engine_process.ENGINES, "onnx", Torch)
    monkeypatch.setattr(check, "answer_of", answer)
    with pytest.raises(UserError, match="logits of a padded batch"):
        check.check_in_engine("onnx", tmp_path, model, byte_level(), 256)


def test_what_cannot_be_traced_is_refused(llama: Supernet, monkeypatch: pytest.MonkeyPatch) -> None:
    candidate, config = Candidate.from_rows(HOLES), llama.model.config
    form = format_of("onnx", "f16")
    with pytest.raises(UserError, match="Expected a model with a tokenizer for format=onnx"):
        form.check(Subnet(config, None, llama.spec, candidate))
    monkeypatch.setitem(config.rope_parameters, "rope_type", "dynamic")
    with pytest.raises(UserError, match=r"rotary embedding .* got dynamic"):
        form.check(Subnet(config, byte_level(), llama.spec, candidate))


def test_an_engine_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('libtbb.so.12 is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match=r"libtbb\.so\.12 is missing\)\. Run: pip install 'paretoprune\[openvino\]'"):
        format_of("openvino", "f16")
