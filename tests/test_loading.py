"""load_model: the spec of every family, and a clear refusal of everything else."""

import json
import re
import shutil
from types import SimpleNamespace

import httpx2
import pytest
import torch
from helpers_run import ROOT
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CLIPVisionConfig,
    FalconConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen3_5TextConfig,
)
from transformers.utils import logging as transformers_logging

from space.errors import UserError
from space.models import device as devices
from space.models import hub, loading
from space.models.device import resolve_device, resolve_dtype
from space.models.loading import load_model
from space.models.refusals import positions
from space.space import SearchSpace

SIZES = {
    "vocab_size": 256,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "tie_word_embeddings": False,
}


def save(config, directory):
    """A random model and a tokenizer with one token a byte."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    vocab = {char: index for index, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(LlamaConfig(**SIZES), tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def llama(saved, tmp_path):
    """A copy of the saved Llama for a test to break."""
    return shutil.copytree(saved, tmp_path / "tiny-llama")


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    """A hub that can not be reached."""

    def unreachable(_, repo, **__):
        validate_repo_id(repo)
        raise httpx2.ConnectError("Name or service not known")

    def nothing_cached(*_, local_files_only=False, **__):
        assert local_files_only, "a download was tried though the hub is not reachable"
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(hub.HfApi, "model_info", unreachable)
    monkeypatch.setattr(hub, "snapshot_download", nothing_cached)


def edit_config(directory, **changes):
    file = directory / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_biases_are_read_from_the_modules(tmp_path):
    config = LlamaConfig(**SIZES | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True})
    spec = load_model(str(save(config, tmp_path))).spec
    assert (spec.qkv_bias, spec.o_bias, spec.mlp_bias, spec.tied_embeddings) == (True, True, True, True)


@pytest.mark.parametrize(
    ("saved", "embedding", "held"),
    [
        (torch.bfloat16, torch.bfloat16, torch.bfloat16),
        (torch.float16, torch.float16, torch.float16),
        (torch.float32, torch.float32, torch.float32),
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float16, torch.bfloat16, torch.float32),
    ],
)
def test_weights_are_in_the_dtype_that_holds_all_of_them(tmp_path, saved, embedding, held):
    torch.manual_seed(0)
    save(LlamaConfig(**SIZES), tmp_path)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SIZES)).to(saved)
    weights = {name: tensor.to(embedding if "embed" in name else saved) for name, tensor in model.state_dict().items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = load_model(str(tmp_path), dtype="bfloat16")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {held}
    for name, weight in loaded.model.named_parameters():
        assert torch.equal(weight, weights[name].to(held)), name
    assert loaded.dtype == torch.bfloat16
    assert loaded.source == str(tmp_path)


def test_a_model_is_known_by_its_digest_wherever_it_is(saved, llama):
    spec = load_model(str(saved)).spec
    there = llama.rename(llama.with_name("moved"))
    moved = load_model(str(there), digest=spec.digest).spec
    assert (moved.name, moved.identity) == ("moved", spec.identity)
    edit_config(there, rms_norm_eps=0.1)
    other = load_model(str(there)).spec.digest
    with pytest.raises(UserError, match=rf"digest {spec.digest}, but moved in .*moved has {other}: other weights or"):
        load_model(str(there), digest=spec.digest)


def test_loading_is_quiet_and_leaves_transformers_as_it_was(saved, capsys):
    before = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    load_model(str(saved))
    assert (transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()) == before
    assert capsys.readouterr() == ("", "")


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


def test_pickles_are_not_read(llama):
    (llama / "model.safetensors").unlink()
    (llama / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match=r"pytorch_model\.bin is not read: convert it"):
        load_model(str(llama))


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_type": 3}', "\xff\xfe"])
def test_garbage_config(llama, content):
    (llama / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(UserError, match=r"config\.json to be .*JSON"):
        load_model(str(llama))


def test_config_with_values_of_the_wrong_type(llama):
    edit_config(llama, hidden_size="wide")
    with pytest.raises(UserError, match="hidden_size"):
        load_model(str(llama))


@pytest.mark.parametrize(
    ("key", "said"), [("dtype", "AttributeError: .*'wobbly'"), ("hidden_act", "KeyError: 'wobbly'")]
)
def test_config_with_names_that_nobody_knows(llama, key, said):
    edit_config(llama, **{key: "wobbly"})
    with pytest.raises(UserError, match=rf"transformers can load in .*, but got: {said}\. Mend its config\.json"):
        load_model(str(llama))


def test_wrong_family(tmp_path):
    AutoModelForCausalLM.from_config(BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(UserError, match=r"glm4, gpt2, gpt_bigcode, .*, granite, .*hunyuan_v1_dense, llama.*'bloom'"):
        load_model(str(tmp_path))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("quantization_config", {"quant_method": "gptq"}),
        ("per_layer_config", {"0": {"num_attention_heads": 2}}),
        ("num_local_experts", 8),
    ],
)
def test_config_that_is_not_supported(llama, key, value):
    edit_config(llama, **{key: value})
    with pytest.raises(UserError, match=f"{key} set"):
        load_model(str(llama))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (FalconConfig(alibi=True), r"falcon model whose config\.json says alibi=.*got one with alibi=True"),
        (OPTConfig(do_layer_norm_before=False), r"says do_layer_norm_before=True, got one with do_layer_norm_before=F"),
        (LlavaConfig(text_config=LlamaConfig(**SIZES)), r"of a llava, .* a llama, which is of a family .*families\.md"),
        (Qwen3_5TextConfig(**SIZES), r"has layers of linear_attention \(layer_types\), which are not supported"),
    ],
    ids=["biases by head", "norms behind sums", "vision and language", "delta net"],
)
def test_families_that_are_built_otherwise_are_refused_with_the_reason(llama, config, said):
    config.save_pretrained(llama)
    with pytest.raises(UserError, match=said):
        load_model(str(llama))


def test_the_language_part_of_another_model_is_pruned_by_itself(llama, tmp_path):
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    vision = CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=LlamaConfig(**SIZES)))
    shutil.copytree(llama, tmp_path / "whole")  # for its tokenizer
    model.save_pretrained(tmp_path / "whole")
    exec(code.replace("DIRECTORY", str(tmp_path / "whole")).replace("NEW", str(tmp_path / "part")), {})
    tokens = torch.arange(9)[None]
    torch.testing.assert_close(load_model(str(tmp_path / "part")).model(tokens).logits, model(tokens).logits)


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


def rewrite_weights(directory, change):
    """Saves the weights as `change` leaves them, a dict of tensors by name."""
    file = directory / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


@pytest.fixture
def unread(monkeypatch):
    """Fails where weights are read."""

    def read(*_):
        raise AssertionError("the weights were read")

    monkeypatch.setattr(loading, "_read_model", read)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_hidden_layers": 3}, "9 are missing, such as model.layers.2"),
        ({"num_hidden_layers": 1}, "9 are left over, such as model.layers.1"),
        ({"attention_bias": True}, "8 are missing, such as model.layers.0.self_attn.k_proj.bias"),
        ({"hidden_size": 64}, r"21 have another shape: lm_head.weight is \(256, 32\).* makes it \(256, 64\)"),
        ({"intermediate_size": 56}, r"6 have .*down_proj.weight is \(32, 48\), and config.json makes it \(32, 56\)"),
        ({"num_key_value_heads": 4}, r"4 have .*k_proj.weight is \(16, 32\), and config.json makes it \(32, 32\)"),
        ({"vocab_size": 300}, r"2 have .*lm_head.weight is \(256, 32\), and config.json makes it \(300, 32\)"),
        ({"tie_word_embeddings": True}, "ties the head to the embeddings.* differ. Set tie_word_embeddings to false"),
    ],
)
@pytest.mark.usefixtures("unread")
def test_config_and_weights_that_contradict_each_other(llama, changes, said):
    edit_config(llama, **changes)
    with pytest.raises(UserError, match=said):
        load_model(str(llama))


@pytest.mark.usefixtures("unread")
def test_untied_config_without_a_head(llama):
    rewrite_weights(llama, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r"to have an lm_head\.weight.* Set tie_word_embeddings to true"):
        load_model(str(llama))


def test_tied_config_beside_a_copy_of_the_embeddings(llama):
    def copy_head(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    rewrite_weights(llama, copy_head)
    edit_config(llama, tie_word_embeddings=True)
    loaded = load_model(str(llama))
    assert loaded.spec.tied_embeddings
    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight


@pytest.mark.usefixtures("unread")
def test_whole_numbers_are_no_weights(llama):
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite_weights(llama, lambda weights: weights.update({name: (weights[name] * 50).to(torch.int8)}))
    with pytest.raises(UserError, match=rf"1 are of whole ones, such as {name} \(I8\): quantised weights"):
        load_model(str(llama))


@pytest.mark.usefixtures("unread")
def test_truncated_weights(llama):
    weights = llama / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"a whole safetensors file.* Copy or download it again"):
        load_model(str(llama))


def test_shards(llama, monkeypatch):
    whole = load_model(str(llama))
    weights = llama / "model.safetensors"
    weights.unlink()
    whole.model.save_pretrained(llama, max_shard_size="30KB")
    shards = sorted(llama.glob("model-*.safetensors"))
    assert len(shards) > 2
    torch.testing.assert_close(load_model(str(llama)).model.state_dict(), whole.model.state_dict())
    monkeypatch.setattr(loading, "_read_model", None)
    shards[1].unlink()
    with pytest.raises(UserError, match=f"index.json names, but {shards[1].name} is not there"):
        load_model(str(llama))
    (llama / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json in .* to say where each tensor is"):
        load_model(str(llama))


@pytest.mark.parametrize("kind", ["t5", "bart", "whisper"])
def test_an_encoder_with_a_decoder(kind, tmp_path):
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(UserError, match=rf"one stack of layers, but .* of the family {kind}, an encoder and a decoder"):
        load_model(str(tmp_path))


def test_an_adapter(llama, tmp_path):
    (llama / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"one model in .* an adapter.*merge_and_unload"):
        load_model(str(llama))
    (tmp_path / "alone").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / "alone" / name).write_text("{}")
    with pytest.raises(UserError, match="An adapter alone is no model: merge it"):
        load_model(str(tmp_path / "alone"))
    (llama / "adapter_config.json").rename(llama / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"one model in .* an adapter, adapter_model\.safetensors.*merge_and_unload"):
        load_model(str(llama))


def test_weights_that_are_not_finite(llama):
    name = "model.layers.1.mlp.down_proj.weight"
    rewrite_weights(llama, lambda weights: weights[name][3, 4:6].fill_(float("nan")))
    with pytest.raises(UserError, match=rf"2 of 1,536 values in {name} are NaN or infinite\. Get the checkpoint"):
        load_model(str(llama))
    rewrite_weights(llama, lambda weights: weights["model.norm.weight"][0].fill_(float("-inf")))
    with pytest.raises(UserError, match=rf"{name} are NaN or infinite, and some in 1 other tensors"):
        load_model(str(llama))


def test_weights_beyond_the_dtype(llama):
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite_weights(llama, lambda weights: weights[name][0, 0].fill_(-131072))
    assert load_model(str(llama), dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(UserError, match=rf"65504, which is where float16 ends, but {name} reaches 131072\. Set model"):
        load_model(str(llama), dtype="float16")


@pytest.mark.usefixtures("unread")
def test_lengths_beyond_the_positions(llama):
    lengths = {"data.length=128": 128, "evaluators.context=129": 129, "latency.length=500": 500}
    said = (
        r"at most 128 tokens at once.*, but got evaluators\.context=129, latency\.length=500\. .*lower what is beyond"
    )
    with pytest.raises(UserError, match=said):
        load_model(str(llama), lengths=lengths)
    edit_config(llama, rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0})
    with pytest.raises(UserError, match=r"at most 256 tokens at once.*, but got latency\.length=500\."):
        load_model(str(llama), lengths=lengths)


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


def test_an_export_of_unequal_layers_is_told_as_such(llama):
    edit_config(llama, model_type="pruned_llama", per_layer_config={"0": {"skip": ["attention"]}})
    with pytest.raises(UserError, match=r"already pruned model.*dense model that it was made from.*format=hf_uniform"):
        load_model(str(llama))


def test_no_tokenizer(llama):
    for file in llama.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(UserError, match=r"Expected a tokenizer \(tokenizer\.json\)"):
        load_model(str(llama))


@pytest.mark.parametrize("content", ["{", "{}"])
def test_broken_tokenizer(llama, content):
    (llama / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"Expected a tokenizer \(tokenizer\.json\)"):
        load_model(str(llama))


@pytest.mark.parametrize(
    ("tiles", "vectors", "speed", "expected"),
    [
        (False, False, 9, torch.float32),
        (True, True, 0.5, torch.bfloat16),  # tiles need no measurement
        (False, True, 0.5, torch.float32),
        (False, True, 1.9, torch.bfloat16),
    ],
)
def test_numbers_of_a_cpu_are_those_it_is_fast_at(monkeypatch, tiles, vectors, speed, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    monkeypatch.setattr(devices, "_bfloat16_speed", lambda: speed)
    devices._fast_at_bfloat16.cache_clear()
    try:
        assert resolve_dtype("auto", torch.device("cpu")) == expected
    finally:
        devices._fast_at_bfloat16.cache_clear()


def test_speed_of_bfloat16_is_a_figure_of_this_machine():
    assert 0.001 < devices._bfloat16_speed() < 1000


def test_device_and_dtype():
    cpu = resolve_device("cpu")
    assert resolve_dtype("float16", cpu) == torch.float16
    with pytest.raises(UserError, match="auto, float32, bfloat16, float16, got 'int8'"):
        resolve_dtype("int8", cpu)
    for device in ("cuda:99", "warp", "meta"):
        with pytest.raises(UserError, match=f"device={device}"):
            resolve_device(device)


def test_hub_not_reachable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    looked = f"nothing at {tmp_path}/someone/some-model"
    with pytest.raises(UserError, match=rf"{looked}.*not be reached \(Name or service.*leave model\.path unset"):
        load_model("someone/some-model")


def test_hub_not_reachable_but_downloaded_before(llama, monkeypatch):
    commit = llama.rename(llama.with_name("c0ffee"))
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, local_files_only=False, **__: str(commit))
    loaded = load_model("someone/some-model")
    assert (loaded.spec.name, loaded.source, loaded.commit) == ("someone/some-model", "someone/some-model", "c0ffee")
    here = load_model(str(commit))
    assert (here.spec.identity, here.commit) == (loaded.spec.identity, None)  # a copy of it is the same model


def test_hub_model_of_a_wrong_family_is_refused_before_its_weights_are_downloaded(tmp_path, monkeypatch):
    asked = []

    def download(_, *, revision, allow_patterns, ignore_patterns):
        asked.append(allow_patterns)
        (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
        return str(tmp_path)

    monkeypatch.setattr(hub.HfApi, "model_info", lambda *_, **__: type("Info", (), {"sha": "c0ffee"}))
    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(UserError, match="mamba"):
        load_model("someone/some-model")
    assert asked == [list(hub.SMALL_FILES)]


def test_hub_does_not_have_it(monkeypatch):
    def absent(*_, **__):
        raise RepositoryNotFoundError("404", response=httpx2.Response(404, request=httpx2.Request("GET", "http://hub")))

    monkeypatch.setattr(hub.HfApi, "model_info", absent)
    with pytest.raises(UserError, match="the hub has no someone/some-model"):
        load_model("someone/some-model")


def test_revision_is_for_hub_ids(saved):
    with pytest.raises(UserError, match=r"model\.revision=main is for hub ids"):
        load_model(str(saved), revision="main")


def test_settings_are_held_against_the_model_before_its_weights_are_read(saved, monkeypatch):
    def reads(*arguments):
        raise AssertionError("the weights are read")

    monkeypatch.setattr("space.models.loading._read_model", reads)
    monkeypatch.setattr("space.models.loading.checkpoint_digest", reads)
    with pytest.raises(UserError, match=r"space\.freeze_layers: expected a whole number from"):
        load_model(str(saved), check_spec=lambda spec: SearchSpace(spec, freeze_layers=[99]))
