"""Checkpoints in the `block_configs` schema: what the rules of engines' loaders read back is the subnet."""

from __future__ import annotations

import copy
import json
import math
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers_formats import DENSE, GONE, answer_here, byte_level, supernet
from transformers import AutoTokenizer

import space.formats.deci.export
from space.candidate import Candidate, LayerShape
from space.errors import ShapeError, UserError
from space.formats.checkpoint import Subnet
from space.formats.deci.check import channels
from space.formats.deci.configuration_decilm import DeciLMConfig, Section
from space.formats.deci.export import DeciExport, block_config, export_deci, held_shapes
from space.formats.registry import format_of
from space.supernet.supernet import Supernet

pytestmark = pytest.mark.usefixtures("modules_cache")

CARD = {"Metrics": {"kl": 0.25}}
SHAPES = {
    "widths": [(6, 3, 64), (6, 3, 48), (6, 3, 16), DENSE],
    "KV groups and query heads": [(2, 1, 64), (4, 2, 64), (3, 3, 48), (1, 1, 16)],
    "merged groups": [(6, 1, 64), DENSE, (6, 1, 48), (2, 2, 64)],
    "no attention in layer 0": [(0, 0, 48), DENSE, DENSE, DENSE],
    "both holes first": [GONE, (0, 0, 32), (6, 3, 0), (2, 1, 16)],
    "holes behind": [(3, 3, 0), (0, 0, 64), GONE, (3, 3, 0)],
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    """A Llama with biases in every projection and a tied head."""
    return supernet("llama", tmp_path_factory.mktemp("llama") / "supernet")


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space.formats.deci.export, "answer_of", answer_here)


def export(net: Supernet, shapes: Any, out: Path, flavour: str = "vllm") -> DeciExport:
    candidate = Candidate.from_rows(shapes)
    subnet = Subnet(net.model.config, byte_level(), net.spec, candidate)
    return export_deci(flavour, net.view(candidate), subnet, out, card=CARD)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_the_loader_reads_the_subnet(llama: Supernet, tmp_path: Path, shapes: Any) -> None:
    done = export(llama, shapes, tmp_path / "out")
    config = json.loads((done.directory / "config.json").read_text())
    assert (config["model_type"], config["architectures"]) == ("nemotron-nas", ["DeciLMForCausalLM"])
    assert len(config["block_configs"]) == config["num_hidden_layers"] == sum(shape != GONE for shape in shapes)
    assert not config["block_configs"][0]["attention"]["no_op"]
    assert (done.added_parameters == 0) == (shapes in (SHAPES["widths"], SHAPES["holes behind"]))


def test_a_fresh_process_reads_an_untied_head_and_llama_3_rotation(tmp_path: Path) -> None:
    net = supernet("mistral", tmp_path / "supernet", sliding_window=64, rope_parameters=LLAMA3)
    candidate, form = Candidate.from_rows([(4, 2, 48), (0, 0, 64), GONE, DENSE]), format_of("deci", "f16")
    source = net.view(candidate)
    subnet = Subnet(net.model.config, byte_level(), net.spec, candidate)
    done = form.export(source, subnet, tmp_path / "out", card=CARD, tolerance=1e-5)
    assert isinstance(done, DeciExport)
    assert {path.name for path in tmp_path.iterdir()} == {"supernet", "out"}
    assert AutoTokenizer.from_pretrained(done.directory, trust_remote_code=True)("the").input_ids
    assert json.loads((done.directory / "config.json").read_text())["max_position_embeddings"] == 64
    assert "DeciLM loader of vLLM" in "".join(done.remarks())
    assert "no engine has run it" in "".join(done.remarks())
    assert "| zeros added |" in (done.directory / "README.md").read_text()


@pytest.mark.usefixtures("in_process")
def test_a_checkpoint_that_reads_otherwise_is_found_out(
    llama: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        space.formats.deci.export, "widened", lambda parts, held, spec: replace(parts, shapes=tuple(held))
    )
    with pytest.raises(ValueError, match=r"self_attn.q_proj.weight: the loader wants \(64, 96\)"):
        export(llama, SHAPES["KV groups and query heads"], tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_logits_that_differ_leave_nothing(llama: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"logits_difference": math.nan}
    monkeypatch.setattr(space.formats.deci.export, "answer_of", lambda *question, failure: answer)
    with pytest.raises(UserError, match="they differ by nan"):
        export(llama, [DENSE] * 4, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("hidden", [576, 960, 2048, 4096])
def test_widths_are_what_the_loader_makes_of_them(hidden: int) -> None:
    for width in (*range(32, 1024, 32), 256 * 43, 14336):
        ffn = Section(block_config(LayerShape(2, 1, width), hidden))["ffn"]
        assert channels(ffn, hidden, rounded=False) == width
        assert ("ffn_mult" in ffn) == (width % 256 == 0)
        if width % 256 == 0:
            assert channels(ffn, hidden, rounded=True) == width


def test_query_heads_are_as_few_as_hold_all_layers(llama: Supernet) -> None:
    def held(*shapes: tuple[int, int, int]) -> list[tuple[int, int]]:
        kept = held_shapes([LayerShape(*shape) for shape in shapes], llama.spec)
        return [(shape.query_heads, shape.kv_heads) for shape in kept]

    assert held((2, 1, 8), (1, 1, 8)) == [(2, 1), (2, 1)]
    assert held((4, 2, 8), (2, 1, 8)) == [(4, 2), (4, 1)]
    assert held((2, 2, 8), (0, 0, 8), (3, 3, 8)) == [(3, 3), (0, 0), (3, 3)]
    assert held((0, 0, 8), (6, 3, 8)) == [(6, 1), (6, 3)]


@pytest.fixture(scope="module")
def mistral(tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    """One without biases, with MLPs of two times what loaders round to."""
    return supernet("mistral", tmp_path_factory.mktemp("mistral") / "supernet", intermediate_size=512)


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize(
    "shapes",
    [
        [(6, 3, 256), (6, 3, 512), (6, 3, 0), (0, 0, 256)],
        [(0, 0, 256), (2, 1, 512), GONE, (4, 2, 256)],
    ],
)
def test_loaders_that_round_widths_read_the_subnet(mistral: Supernet, tmp_path: Path, shapes: Any) -> None:
    done = export(mistral, shapes, tmp_path / "out", "ffn_mult")
    blocks = json.loads((done.directory / "config.json").read_text())["block_configs"]
    assert len({block["attention"]["n_heads_in_group"] for block in blocks} - {None}) == 1
    assert all("intermediate_size" not in block["ffn"] for block in blocks)
    assert "python -m sglang.launch_server --model-path" in "".join(done.remarks())
    assert "SGLang and TensorRT-LLM, in float32 (which did not run)" in (done.directory / "README.md").read_text()


@pytest.mark.usefixtures("in_process")
def test_a_width_that_a_loader_would_round_is_found_out(
    mistral: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space.formats.deci.export, "_MULT_STEP", 16)
    with pytest.raises(ValueError, match=r"mlp.gate_proj.weight: the loader wants \(256, 96\)"):
        export(mistral, [(6, 3, 240)] * 4, tmp_path / "out", "ffn_mult")


def test_what_such_loaders_do_not_hold_is_refused(llama: Supernet, mistral: Supernet) -> None:
    def check(net: Supernet, *shapes: tuple[int, int, int]) -> None:
        candidate = Candidate.from_rows(shapes)
        format_of("deci", "f16", "ffn_mult").check(Subnet(net.model.config, None, net.spec, candidate))

    check(mistral, (6, 3, 512), (6, 3, 256))
    with pytest.raises(ShapeError, match=r"multiples of 256 channels .* got 16, 240\. .*space\.deploy=sglang"):
        check(mistral, (6, 3, 240), (6, 3, 16))
    with pytest.raises(ShapeError, match="one number of query heads"):
        check(mistral, (6, 1, 256), (6, 3, 256))
    with pytest.raises(UserError, match="without biases"):
        check(llama, (6, 3, 256))
    with pytest.raises(UserError, match=r"deci\.flavour to be one of vllm, ffn_mult, got 'sglang'"):
        format_of("deci", "f16", "sglang")


def test_what_the_schema_does_not_hold_is_refused(llama: Supernet, tmp_path: Path) -> None:
    check = format_of("deci", "f16").check
    qwen = supernet("qwen3", tmp_path / "supernet")
    with pytest.raises(UserError, match="llama, mistral for format=deci, got qwen3"):
        check(Subnet(qwen.model.config, None, qwen.spec, Candidate.dense(qwen.spec)))
    with pytest.raises(ShapeError, match="attention in at least one layer"):
        check(Subnet(llama.model.config, None, llama.spec, Candidate.from_rows([(0, 0, 64)] * 4)))


def test_the_configuration_is_read_by_attribute_and_can_be_copied(tmp_path: Path) -> None:
    blocks = [block_config(LayerShape(6, 3, width), 96) for width in (0, 48, 256)]
    config = DeciLMConfig(block_configs=blocks, hidden_size=96, num_attention_heads=6, num_hidden_layers=3)
    config.save_pretrained(tmp_path)
    read = DeciLMConfig.from_pretrained(tmp_path)
    for one in (config, copy.deepcopy(config), pickle.loads(pickle.dumps(config)), read):
        assert one.block_configs[1].attention.n_heads_in_group == 2
        assert one.block_configs[0].ffn.no_op
        assert not hasattr(one.block_configs[1].ffn, "ffn_mult")
        assert one.block_configs[2].ffn.ffn_mult == pytest.approx(4)
        assert one.to_dict()["block_configs"] == blocks
