"""Traced graphs in ONNX Runtime and OpenVINO: every family with holes, and what is refused or found out."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import FAMILY_NAMES
from helpers_formats import DENSE, GONE, answer_here, byte_level, supernet

from space.candidate import Candidate
from space.errors import UserError
from space.formats.registry import format_of
from space.formats.traced import check, engine_process
from space.formats.traced import export as traced_export
from space.formats.traced.export import TracedExport, export_traced
from space.supernet.supernet import Supernet

# No attention first, a layer that is gone, no MLP, and merged groups.
HOLES = [(0, 0, 64), GONE, (4, 2, 0), (6, 1, 48)]
EQUAL = [(4, 2, 32)] * 3 + [GONE]
FILES = {
    "onnx": {"model.onnx", "model.onnx.data"},
    "openvino": {"openvino_model.xml", "openvino_model.bin"},
}
BESIDE = {"README.md", "tokenizer.json", "tokenizer_config.json"}


def export(net: Supernet, engine: str, shapes: Any, out: Path) -> TracedExport:
    candidate = Candidate.from_rows(shapes)
    subnet = net.view(candidate), net.model.config, byte_level(), net.spec, candidate
    return export_traced(engine, *subnet, out, card={"Metrics": {"kl": 0.25}})


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines run in this process, which is sooner ready."""
    monkeypatch.setattr(check, "answer_of", answer_here)


@pytest.mark.parametrize("engine", FILES)
@pytest.mark.parametrize("name", FAMILY_NAMES)
def test_the_engine_computes_what_the_checkpoint_does(name: str, engine: str, here: None, tmp_path: Path) -> None:
    """Alone and as a padded batch, from an empty past and after one, and past the window of a layer that has one."""
    done = export(supernet(name, tmp_path / "supernet"), engine, HOLES, tmp_path / "out")
    assert done.check.steps == 200
    assert done.check.worst_difference < 1e-3
    assert done.check.batch_difference < 1e-3
    assert done.check.torch_speed.decode_tokens_per_s > 0
    assert {path.name for path in (tmp_path / "out").iterdir()} >= FILES[engine] | BESIDE
    assert "| batch difference |" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("engine", FILES)
def test_the_lines_of_its_card_write_what_the_checkpoint_does(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With equal layers, and checked in a process of its own."""
    net = supernet("llama", tmp_path / "supernet")
    export(net, engine, EQUAL, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(lines.replace("path/to/this/directory", str(tmp_path / "out")), {})
    tokenizer, model = byte_level(), net.view(Candidate.from_rows(EQUAL))
    prompt = torch.tensor([tokenizer("The capital of France is").input_ids])
    written = model.generate(prompt, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert capsys.readouterr().out.rstrip("\n") == tokenizer.decode(written[0])


def test_the_cache_of_a_graph_is_that_of_its_layers_with_attention(here: None, tmp_path: Path) -> None:
    import onnxruntime

    net = supernet("llama", tmp_path / "supernet")
    out = tmp_path / "out"
    export(net, "onnx", HOLES, out)
    inputs = onnxruntime.InferenceSession(out / "model.onnx").get_inputs()
    names = ["past_key_values.1.key", "past_key_values.1.value", "past_key_values.2.key", "past_key_values.2.value"]
    assert [value.name for value in inputs] == ["input_ids", "attention_mask", *names]
    assert [value.shape[1] for value in inputs[2:]] == [2, 2, 1, 1]

    def other(model: Any, directory: Path) -> None:
        for name in FILES["onnx"]:
            shutil.copy(out / name, directory)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError, match="onnx graph failed its check"):
        patch.setattr(traced_export.ENGINES["onnx"], "write", other)
        export(net, "onnx", [DENSE, GONE, (4, 2, 0), (6, 1, 48)], tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_a_batch_that_differs_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = supernet("llama", tmp_path / "supernet")
    candidate = Candidate.from_rows(EQUAL)
    model, tokenizer = net.view(candidate), byte_level()

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
        check.check_in_engine("onnx", tmp_path, model, tokenizer, 256)


def test_what_cannot_be_traced_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = supernet("llama", tmp_path / "supernet")
    candidate, config = Candidate.from_rows(HOLES), net.model.config
    form = format_of("onnx", "f16")
    with pytest.raises(UserError, match="Expected a model with a tokenizer for format=onnx"):
        form.check(config, None, net.spec, candidate)
    monkeypatch.setitem(config.rope_parameters, "rope_type", "dynamic")
    with pytest.raises(UserError, match="rotary embedding .* got dynamic"):
        form.check(config, byte_level(), net.spec, candidate)


def test_an_engine_that_is_not_installed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "openvino.py").write_text("raise ImportError('libtbb.so.12 is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(UserError, match=r"libtbb\.so\.12 is missing\)\. Run: pip install 'paretoprune\[openvino\]'"):
        format_of("openvino", "f16")
