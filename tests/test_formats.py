"""Formats by name, plain checkpoints, and which point of a run is offered in place of one that a format cannot hold."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pandas as pd
import pytest
import torch
from conftest import tiny_model
from helpers_formats import DENSE, GONE, supernet
from helpers_front import finished_run
from huggingface_hub import EvalResult, ModelCard
from transformers import AutoModelForCausalLM

from evaluators.metrics import metrics_named
from search.run.finished import FinishedRun
from space.candidate import Candidate, LayerShape
from space.errors import ShapeError, UserError
from space.formats.checkpoint import Subnet, checkpoint_parts
from space.formats.equal_forms import widened
from space.formats.model_card import CHECKPOINT, FRONT_MATTER, REPOSITORY, write_card
from space.formats.registry import format_of
from space.formats.requirements import FORMATS
from space.formats.verify import Verification

UNEQUAL = [(6, 3, 48), DENSE, DENSE, DENSE]
NARROW = [(4, 2, 32), GONE, (4, 2, 32), (4, 2, 32)]


def test_a_format_has_a_name() -> None:
    assert len({format_of(name, "f16").suffix for name in FORMATS}) == 5  # plain checkpoints have none
    with pytest.raises(UserError, match="one of hf, hf_uniform, deci, gguf, onnx, openvino, got 'zip'"):
        format_of("zip", "f16")
    with pytest.raises(UserError, match=r"gguf\.type to be one of f16, q8_0, .*q4_0, got 'q4_k'"):
        format_of("gguf", "q4_k")


def test_a_uniform_checkpoint_needs_no_code_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passed = Verification(0.0, 0.0, 0.0, 1, 0.0)  # tests/test_formats_hf.py checks the checking
    monkeypatch.setattr("space.formats.hf.export.verify_checkpoint", lambda *given, **settings: passed)
    net, candidate = supernet("llama", tmp_path / "supernet"), Candidate.from_rows(NARROW)
    form = format_of("hf_uniform", "f16")
    subnet = Subnet(net.model.config, None, net.spec, candidate)
    form.check(subnet)
    out = tmp_path / "out"
    form.export(net.view(candidate), subnet, out, card={}, tolerance=1e-4)
    assert type(AutoModelForCausalLM.from_pretrained(out, trust_remote_code=False)) is type(net.model)
    assert json.loads((out / "config.json").read_text())["num_hidden_layers"] == 3


def read_card(directory: Path, name: str, card: dict[str, Any], use: str) -> ModelCard:
    spec = replace(tiny_model("llama")[1], name=name)
    candidate = Candidate.from_rows([(6, 3, 48), GONE, (0, 0, 24), (3, 3, 0)])
    write_card(
        directory, spec, candidate, card, kind="It is tiny.", library="gguf", use=use, serve=f"serve {CHECKPOINT}"
    )
    return ModelCard.load(directory / "README.md")


@pytest.mark.parametrize(("name", "base_model"), [("owner/tiny", "owner/tiny"), ("my: directory", None)])
def test_the_card_names_a_base_model_of_the_hub(name: str, base_model: str | None, tmp_path: Path) -> None:
    texts = [("It is", "<b>warm</b> | [x](y)", "![a](b)\n# `cold`")]
    read = read_card(tmp_path, name, {"What it writes": texts, "Metrics": {"a|b": 1}}, f'load("{CHECKPOINT}")')
    assert (read.data.base_model, read.data.library_name, read.data.tags) == (base_model, "gguf", ["pruned"])
    assert read.text.startswith(f"\n# {name}, pruned (")
    assert "Licence: that of the base model; see the base model." in read.text
    assert "| a\\|b | 1 |" in read.text
    written = r"| It is | &lt;b&gt;warm&lt;/b&gt; \| \[x\](y) | !\[a\](b) \# \`cold\` |"
    assert written in read.text  # which is a table's row, and nothing else


def test_the_front_matter_is_what_a_hub_reads(tmp_path: Path) -> None:
    result = EvalResult("text-generation", "text", "held-out", "perplexity", 12.5, metric_name="Perplexity")
    facts = {"license": "mit", "base_model": "owner/base", "model_name": "tiny", "eval_results": [result]}
    read = read_card(tmp_path, "a directory", {FRONT_MATTER: {**facts, REPOSITORY: "me/it"}}, f'load("{CHECKPOINT}")')
    assert (read.data.license, read.data.base_model, read.data.eval_results) == ("mit", "owner/base", [result])
    assert "Licence: mit, as the base model's." in read.text
    assert 'load("me/it")' in read.text
    assert "serve me/it" in read.text
    assert FRONT_MATTER not in read.text
    read = read_card(tmp_path, "a directory", {FRONT_MATTER: {REPOSITORY: "me/it"}}, f'load("{CHECKPOINT}/one.file")')
    assert f"hf download me/it --local-dir {CHECKPOINT}\n" in read.text
    assert f'load("{CHECKPOINT}/one.file")' in read.text  # no engine takes an id for a file


def test_the_card_shows_what_is_left_of_each_layer(tmp_path: Path) -> None:
    read = read_card(tmp_path, "a directory", {}, "load()")
    assert "![What is left of each layer](layers.svg)" in read.text
    root = ElementTree.parse(tmp_path / "layers.svg").getroot()
    bars = [bar for bar in root if bar.find("{*}title") is not None]
    heights = [float(bar.attrib["height"]) for bar in bars]
    assert [height / heights[0] for height in heights] == [1, 0, 0, 0.5, 1, 0, 0.5, 0]


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        (UNEQUAL, r"2 kinds of layers, of query heads, KV groups and MLP channels \(6, 3, 48\), \(6, 3, 64\)\."),
        ([(6, 3, 0)] * 4, "attention and MLP both"),
        ([(5, 5, 64)] * 4, "stock llama config takes"),
    ],
)
def test_what_stock_classes_do_not_load_is_refused(shapes: Any, words: str) -> None:
    model, spec = tiny_model("llama", hidden_size=48, intermediate_size=64, num_key_value_heads=6)
    config: Any = model.config
    with pytest.raises(ShapeError, match=words):
        format_of("hf_uniform", "f16").check(Subnet(config, None, spec, Candidate.from_rows(shapes)))


def row(shapes: Any, kl: float, latency_ms: float) -> dict[str, Any]:
    candidate = Candidate.from_rows(shapes)
    values = {"kl": kl, "latency_ms": latency_ms, "decoder_params_removed": kl}
    return {"key": candidate.key, **values, "candidate": candidate}


@pytest.fixture
def run() -> FinishedRun:
    """A front of unequal points and the dense model, and two uniform points beside it."""
    front = pd.DataFrame([row([DENSE] * 4, 0, 100), row(UNEQUAL, 0.5, 80), row([*UNEQUAL[:3], GONE], 1.0, 60)])
    points = pd.DataFrame([row([(6, 3, 32)] * 4, 2.0, 50), row([(2, 1, 32)] * 4, 0.6, 78)])
    return finished_run("run", front, points, metrics_named("kl", "latency_ms"), {})


def uniform(candidate: Candidate) -> None:
    if len({shape for shape in candidate.layers if not shape.gone}) > 1:
        raise ShapeError("Expected equal layers.")


def test_the_nearest_point_that_a_format_holds_is_named(run: FinishedRun) -> None:
    run.require_held(Candidate.from_rows([(6, 3, 32)] * 4), uniform)
    near = Candidate.from_rows([(2, 1, 32)] * 4).key
    with pytest.raises(ShapeError, match=rf"Expected equal layers\. The nearest .* {near} \(kl 0\.6, latency_ms 78\)"):
        run.require_held(Candidate.from_rows(UNEQUAL), uniform)


def test_where_no_point_is_held_the_way_to_some_is_named(run: FinishedRun) -> None:
    def none(candidate: Candidate) -> None:
        raise ShapeError("Expected another shape.")

    with pytest.raises(ShapeError, match=r"Expected another shape\. No point of this run .*space=uniform"):
        run.require_held(Candidate.from_rows(UNEQUAL), none)


@pytest.mark.parametrize(
    ("old", "new"),
    [((2, 1, 16), (6, 3, 64)), ((3, 3, 48), (6, 3, 48)), ((0, 0, 64), (1, 1, 64)), ((6, 3, 0), (6, 3, 32))],
)
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_a_wider_layer_computes_the_same(family: str, old: Any, new: Any, tmp_path: Path) -> None:
    """The wider layer's state fits the dense layer cut to the new shape, and gives the old one's logits."""
    net = supernet(family, tmp_path / "supernet")
    narrow, wide = ([DENSE, shape, DENSE, DENSE] for shape in (old, new))
    source, target = (net.view(Candidate.from_rows(shapes), own=True) for shapes in (narrow, wide))
    parts = checkpoint_parts(source, net.model.config, Candidate.from_rows(narrow))
    wider = widened(parts, [LayerShape(*shape) for shape in wide], net.spec)
    tied = {"lm_head.weight": target.lm_head.weight} if net.spec.tied_embeddings else {}
    target.load_state_dict({**wider.state, **tied})
    tokens = torch.arange(3, 40)[None]
    with torch.inference_mode():
        given, expected = (model(tokens, use_cache=False).logits for model in (target, source))
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=1e-4)
