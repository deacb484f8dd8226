"""load_model holds weights against the configuration, and gives them as they are."""

import pytest
import torch
from helpers_loading import SIZES, edit_config, save
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig

from space.errors import UserError
from space.models import loading
from space.models.loading import load_model

pytestmark = pytest.mark.usefixtures("no_hub")


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


def rewrite_weights(directory, change):
    """Saves the weights as `change` leaves them, a dict of tensors by name."""
    file = directory / "model.safetensors"
    weights = load_file(file)
    change(weights)
    save_file(weights, file, metadata={"format": "pt"})


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
def test_config_and_weights_that_contradict_each_other(checkpoint, changes, said):
    edit_config(checkpoint, **changes)
    with pytest.raises(UserError, match=said):
        load_model(str(checkpoint))


@pytest.mark.usefixtures("unread")
def test_untied_config_without_a_head(checkpoint):
    rewrite_weights(checkpoint, lambda weights: weights.pop("lm_head.weight"))
    with pytest.raises(UserError, match=r"to have an lm_head\.weight.* Set tie_word_embeddings to true"):
        load_model(str(checkpoint))


def test_tied_config_beside_a_copy_of_the_embeddings(checkpoint):
    def copy_head(weights):
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()

    rewrite_weights(checkpoint, copy_head)
    edit_config(checkpoint, tie_word_embeddings=True)
    loaded = load_model(str(checkpoint))
    assert loaded.spec.tied_embeddings
    assert loaded.model.get_output_embeddings().weight is loaded.model.get_input_embeddings().weight


@pytest.mark.usefixtures("unread")
def test_whole_numbers_are_no_weights(checkpoint):
    name = "model.layers.1.mlp.up_proj.weight"
    rewrite_weights(checkpoint, lambda weights: weights.update({name: (weights[name] * 50).to(torch.int8)}))
    with pytest.raises(UserError, match=rf"1 are of whole ones, such as {name} \(I8\): quantised weights"):
        load_model(str(checkpoint))


@pytest.mark.usefixtures("unread")
def test_truncated_weights(checkpoint):
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"a whole safetensors file.* Copy or download it again"):
        load_model(str(checkpoint))


def test_shards(checkpoint, monkeypatch):
    whole = load_model(str(checkpoint))
    weights = checkpoint / "model.safetensors"
    weights.unlink()
    whole.model.save_pretrained(checkpoint, max_shard_size="30KB")
    shards = sorted(checkpoint.glob("model-*.safetensors"))
    assert len(shards) > 2
    torch.testing.assert_close(load_model(str(checkpoint)).model.state_dict(), whole.model.state_dict())
    monkeypatch.setattr(loading, "_read_model", None)
    shards[1].unlink()
    with pytest.raises(UserError, match=f"index.json names, but {shards[1].name} is not there"):
        load_model(str(checkpoint))
    (checkpoint / "model.safetensors.index.json").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors\.index\.json in .* to say where each tensor is"):
        load_model(str(checkpoint))


def test_weights_that_are_not_finite(checkpoint):
    name = "model.layers.1.mlp.down_proj.weight"
    rewrite_weights(checkpoint, lambda weights: weights[name][3, 4:6].fill_(float("nan")))
    with pytest.raises(UserError, match=rf"2 of 1,536 values in {name} are NaN or infinite\. Get the checkpoint"):
        load_model(str(checkpoint))
    rewrite_weights(checkpoint, lambda weights: weights["model.norm.weight"][0].fill_(float("-inf")))
    with pytest.raises(UserError, match=rf"{name} are NaN or infinite, and some in 1 other tensors"):
        load_model(str(checkpoint))


def test_weights_beyond_the_dtype(checkpoint):
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite_weights(checkpoint, lambda weights: weights[name][0, 0].fill_(-131072))
    assert load_model(str(checkpoint), dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(UserError, match=rf"65504, which is where float16 ends, but {name} reaches 131072\. Set model"):
        load_model(str(checkpoint), dtype="float16")
