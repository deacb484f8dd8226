"""The command that prints how a checkpoint is understood, or what in it is not."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import save_dense
from helpers_embedder import save_embedder
from helpers_loading import SIZES, save
from transformers import DiffLlamaConfig, HyperCLOVAXConfig, StableLmConfig

from space.models.inspect import main


def printed(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Its lines, by their titles."""
    assert main([str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {title: text.strip() for title, _, text in (line.partition(":") for line in lines)}


def test_a_checkpoint_is_told_in_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    neox = printed(save_dense("gpt_neox", tmp_path / "neox"), capsys)
    assert neox["family"] == "gpt_neox: GPTNeoXForCausalLM of transformers.models.gpt_neox"
    assert neox["positions"] == "rotary, default (of 34% of a head), for 256 tokens at most"
    assert neox["every layer"] == "6 query heads in 6 groups, each 6 wide; 48 MLP channels"
    assert neox["attention"] == (
        "attention: query_key_value (query, key, value by group) to dense; norms: input_layernorm before"
    )
    assert neox["blocks read"] == "the stream before the layer, both"
    assert neox["to be pruned"] == "KV groups (dropped; they are not merged), MLP channels, blocks, layers"
    assert neox["format=hf"] == "layers of any size"
    assert neox["format=hf_uniform"] == "designs of equal layers"
    assert neox["format=gguf"].startswith("no: Expected")
    llama = printed(save_dense("llama", tmp_path / "llama"), capsys)
    assert llama["to be pruned"].startswith("KV groups (dropped, or merged to 1), query heads inside groups, ")
    olmo = printed(save_dense("olmo3", tmp_path / "olmo"), capsys)
    assert "q_norm of all heads" in olmo["attention"]
    capped = printed(save_dense("gemma2", tmp_path / "gemma2"), capsys)
    assert capped["LM head"] == "the embedding matrix, soft-capped at 4"
    assert capped["layer 0"] == "sliding attention"
    falcon = printed(save_dense("falcon:two_norms", tmp_path / "falcon"), capsys)
    assert falcon["family"] == "falcon:two_norms: FalconForCausalLM of transformers.models.falcon"
    assert falcon["format=hf_uniform"] == "designs of equal layers"
    bert = printed(save_embedder(tmp_path / "bert"), capsys)
    assert bert["mlp"].startswith("intermediate and output: intermediate.dense (up) to output.dense; ")
    assert bert["format=onnx"] == "no: format: expected hf or hf_uniform for a sentence embedder, got onnx."


def test_what_is_not_understood_is_what_loading_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_dense("llama", tmp_path / "llama")
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_type": "bloom"}))
    assert main([str(path)]) == 1
    assert "not understood: Expected a model of one of the families" in capsys.readouterr().err


def test_parameters_that_no_row_has_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = StableLmConfig(**SIZES, qk_layernorm=True)  # a norm for each head
    assert main([str(save(config, tmp_path / "normed"))]) == 1
    assert "such as self_attn.k_layernorm.norms.0.weight" in capsys.readouterr().err
    config = StableLmConfig(**SIZES, use_parallel_residual=True)  # without the second norm
    assert main([str(save(config, tmp_path / "parallel"))]) == 1
    assert "post_attention_layernorm" in capsys.readouterr().err


def test_of_a_model_without_a_row_it_prints_what_one_would_be_written_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = untold(save(HyperCLOVAXConfig(**SIZES, use_post_norm=False), tmp_path / "clone"), capsys)
    assert lines["module"] == "hyperclovax"
    assert lines["classes"] == "HyperCLOVAXConfig, HyperCLOVAXDecoderLayer, HyperCLOVAXModel, HyperCLOVAXForCausalLM"
    assert re.fullmatch(r".*/modeling_hyperclovax\.py:\d+: what of it .*", lines["layer's code"])
    assert lines["stack"] == "model; in it"
    assert lines["layers"] == f"layers, {SIZES['num_hidden_layers']} of them"
    assert lines["norm"] == f"norm: HyperCLOVAXRMSNorm, weight ({SIZES['hidden_size']},)"
    assert lines["head"] == "lm_head"
    assert f"hidden_size={SIZES['hidden_size']}, " in lines["sizes"]
    assert lines["mlp.down_proj"] == f"Linear, weight ({SIZES['hidden_size']}, {SIZES['intermediate_size']})"
    fitting = lines["rows that fit"].partition(";")[0].split(", ")
    assert {"llama", "mistral", "granite"} <= {*fitting}
    assert {"qwen3", "gpt2", "bert", "phi3"}.isdisjoint(fitting)


def test_rows_that_nearly_fit_are_told_with_what_they_lack(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = untold(save(DiffLlamaConfig(**SIZES), tmp_path / "other"), capsys)
    assert "rows that fit" not in lines
    assert re.search(r"DiffLlamaAttention, lambda_q1 \(\d+,\), ", lines["self_attn"])
    assert lines["not llama"] == "its row lacks self_attn"
    lines = untold(save(StableLmConfig(**SIZES, qk_layernorm=True), tmp_path / "normed"), capsys)  # which no row says
    assert lines["not stablelm"].startswith("its row lacks self_attn.k_layernorm.norms.0, ")


def untold(path: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The lines of a model that is refused, by their titles."""
    assert main([str(path)]) == 1
    told = capsys.readouterr()
    assert "not understood: Expected " in told.err
    return {title.strip(): text.strip() for title, _, text in (line.partition(":") for line in told.out.splitlines())}
