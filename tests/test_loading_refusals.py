"""load_model refuses, by name, paths, configurations and tokenizers that it cannot load."""

import json
from types import SimpleNamespace

import pytest
import torch
from helpers_loading import SIZES, edit_config
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    OPTConfig,
    Qwen2VLConfig,
    Qwen3_5TextConfig,
)

from space.errors import UserError
from space.models.loading import load_model
from space.models.refusals import positions

pytestmark = pytest.mark.usefixtures("no_hub")


@pytest.mark.parametrize("path", ["./no/such", "no/such/model", "model/"])
def test_missing_directory(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"no such directory: {tmp_path / path}. Set model.path to where"):
        load_model(path)


def test_garbage_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"which is neither: there is nothing at {tmp_path / 'no such model'}"):
        load_model("no such model")


def test_empty_directory(tmp_path):
    with pytest.raises(UserError, match=r"Expected config\.json and model\.safetensors .*empty directory"):
        load_model(str(tmp_path))


def test_pickles_are_not_read(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is not read: convert it"):
        load_model(str(checkpoint))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": 3}', "\xff\xfe"])
def test_garbage_config(checkpoint, content):
    (checkpoint / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json to be .*JSON"):
        load_model(str(checkpoint))


def test_config_with_values_of_the_wrong_type(checkpoint):
    edit_config(checkpoint, hidden_size="wide")
    with pytest.raises(UserError, match="hidden_size"):
        load_model(str(checkpoint))


@pytest.mark.parametrize(
    ("key", "said"), [("dtype", "AttributeError: .*'wobbly'"), ("hidden_act", "KeyError: 'wobbly'")]
)
def test_config_with_names_that_nobody_knows(checkpoint, key, said):
    edit_config(checkpoint, **{key: "wobbly"})
    with pytest.raises(UserError, match=rf"transformers can load in .*, but got: {said}\. Mend its config\.json"):
        load_model(str(checkpoint))


def test_wrong_family(tmp_path):
    AutoModelForCausalLM.from_config(BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(
        UserError, match=r"families arcee, bert, .*, gpt2, .*, llama, .*, xlm-roberta, got model_type='bloom'"
    ):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantization_config", {"quant_method": "gptq"}),
        ("per_layer_config", {"0": {"num_attention_heads": 2}}),
        ("num_local_experts", 8),
    ],
)
def test_config_that_is_not_supported(checkpoint, key, value):
    edit_config(checkpoint, **{key: value})
    with pytest.raises(UserError, match=f"{key} set"):
        load_model(str(checkpoint))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (FalconConfig(alibi=True), r"falcon model whose config\.json says alibi=.*got one with alibi=True"),
        (OPTConfig(do_layer_norm_before=False), r"says do_layer_norm_before=True, got one with do_layer_norm_before=F"),
        (Qwen2VLConfig(), r"of a qwen2_vl, of which language is a part, a qwen2_vl_text, which has no .*families\.md"),
        (Qwen3_5TextConfig(**SIZES), r"has layers of linear_attention \(layer_types\), which are not supported"),
    ],
    ids=["biases by head", "norms behind sums", "vision and language", "delta net"],
)
def test_families_that_are_built_otherwise_are_refused_with_the_reason(checkpoint, config, said):
    config.save_pretrained(checkpoint)
    with pytest.raises(UserError, match=said):
        load_model(str(checkpoint))


def test_layers_of_unequal_shape(saved, monkeypatch):
    build = AutoModelForCausalLM.from_pretrained

    def build_unequal(*arguments, **options):
        model = build(*arguments, **options)
        model.model.layers[1].mlp.up_proj = torch.nn.Linear(32, 40, bias=False)
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", build_unequal)
    with pytest.raises(UserError, match=r"layer 1 it is \(40, 32\)"):
        load_model(str(saved))


def test_remote_code_with_other_modules(saved, monkeypatch):
    build = AutoModelForCausalLM.from_pretrained

    def build_other(*arguments, **options):
        model = build(*arguments, **options)
        model.model.blocks = model.model.__dict__["_modules"].pop("layers")
        return model

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", build_other)
    with pytest.raises(UserError, match="the layers of a llama model"):
        load_model(str(saved))


@pytest.mark.parametrize("kind", ["t5", "bart", "whisper"])
def test_an_encoder_with_a_decoder(kind, tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(UserError, match=rf"one stack of layers, but .* of the family {kind}, an encoder and a decoder"):
        load_model(str(tmp_path))


def test_an_adapter(checkpoint, tmp_path):
    (checkpoint / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"one model in .* an adapter.*merge_and_unload"):
        load_model(str(checkpoint))
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"An adapter without .* is not merged here: merge it"):
        load_model(str(tmp_path / "alone"))
    (tmp_path / "alone" / "adapter_model.safetensors").touch()
    with pytest.raises(UserError, match=r"to say peft_type and base_model_name_or_path, got: KeyError"):
        load_model(str(tmp_path / "alone"))
    (checkpoint / "adapter_config.json").rename(checkpoint / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"one model in .* an adapter, adapter_model\.safetensors.*merge_and_unload"):
        load_model(str(checkpoint))


@pytest.mark.usefixtures("unread")
def test_lengths_beyond_the_positions(checkpoint):
    lengths = {"data.length=128": 128, "evaluators.context=129": 129, "latency.length=500": 500}
    said = (
        r"at most 128 tokens at once.*, but got evaluators\.context=129, latency\.length=500\. .*lower what is beyond"
    )
    with pytest.raises(UserError, match=said):
        load_model(str(checkpoint), lengths=lengths)
    edit_config(checkpoint, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})
    with pytest.raises(UserError, match=r"at most 256 tokens at once.*, but got latency\.length=500\."):
        load_model(str(checkpoint), lengths=lengths)


@pytest.mark.parametrize(
    ("limit", "rope", "reach"),
    [
        (None, {}, None),
        (100, {}, 100),
        (100, {"rope_type": "default"}, 100),
        (100, {"rope_type": "linear", "factor": 4}, 400),
        (100, {"rope_type": "dynamic", "factor": 4.0, "original_max_position_embeddings": 100}, 400),
        (100, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}, 400),
        (400, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 100}, 400),
        (400, {"rope_type": "yarn", "factor": None, "original_max_position_embeddings": 100}, 400),
        (400, {"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 100}, 400),
        (400, {"rope_type": "longrope", "factor": 32.0, "original_max_position_embeddings": 100}, 400),
        (400, {"full_attention": {"rope_type": "linear", "factor": 8.0}}, 400),
    ],
)
def test_positions_of_scaled_rotary_embeddings(limit, rope, reach):
    assert positions(SimpleNamespace(max_position_embeddings=limit, rope_parameters=rope)) == reach


def test_an_export_of_unequal_layers_is_told_as_such(checkpoint):
    edit_config(checkpoint, model_type="pruned_llama", per_layer_config={"0": {"skip": ["attention"]}})
    with pytest.raises(UserError, match=r"already pruned model.*dense model that it was made from.*format=hf_uniform"):
        load_model(str(checkpoint))


def test_no_tokenizer(checkpoint):
    for file in checkpoint.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match=r"Expected a tokenizer \(tokenizer\.json\)"):
        load_model(str(checkpoint))


@pytest.mark.parametrize("content", ["{", "{}"])
def test_broken_tokenizer(checkpoint, content):
    (checkpoint / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"Expected a tokenizer \(tokenizer\.json\)"):
        load_model(str(checkpoint))
