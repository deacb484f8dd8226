"""A tiny checkpoint for tests to load and to break, and a hub that cannot be reached."""

import json
import shutil

import httpx2
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from space.models import hub, loading

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
    """A Llama on disk, to be left as it is."""
    return save(LlamaConfig(**SIZES), tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture
def checkpoint(saved, tmp_path):
    """A copy of the saved Llama for a test to break."""
    return shutil.copytree(saved, tmp_path / "tiny-llama")


@pytest.fixture
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


@pytest.fixture
def unread(monkeypatch):
    """Fails where weights are read."""

    def read(*_):
        raise AssertionError("the weights were read")

    monkeypatch.setattr(loading, "_read_model", read)
