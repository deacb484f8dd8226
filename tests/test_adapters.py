"""LoRA adapters whose base is at hand are merged, once; others are refused by the name of their base."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from conftest import random_tokens
from helpers_loading import SIZES, save
from transformers import AutoModelForCausalLM, LlamaConfig

from space.errors import UserError
from space.models.loading import load_model
from space.models.outline import outlined
from space.spec import ModelSpec

pytestmark = pytest.mark.usefixtures("no_hub", "own_cache")


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return Path(save(LlamaConfig(**SIZES), tmp_path / "base"))


def adapted(base: Path, directory: Path, modules: tuple[str, ...] = ("q_proj", "down_proj")) -> Any:
    """A model with a random adapter, which is saved."""
    torch.manual_seed(1)
    config = peft.LoraConfig(r=3, target_modules=[*modules], init_lora_weights=False, task_type="CAUSAL_LM")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what peft asks transformers
        model = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).eval()
        model.save_pretrained(directory)
    return model


def changed(directory: Path, **values: Any) -> None:
    file = directory / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@torch.inference_mode()
def test_an_adapter_is_merged_into_its_base_once(
    base: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokens = adapted(base, tmp_path / "tuned"), random_tokens(2, 9)
    loaded = load_model(str(tmp_path / "tuned"), dtype="float32", device="cpu")
    plain = load_model(str(base), dtype="float32", device="cpu")
    expected = model(tokens).logits
    torch.testing.assert_close(loaded.model(tokens).logits, expected)
    assert not torch.allclose(plain.model(tokens).logits, expected, atol=1e-3)
    assert loaded.tokenizer.get_vocab() == plain.tokenizer.get_vocab()
    (kept,) = (own_cache / "merged").iterdir()
    assert kept.name.startswith("tuned-")

    def fails(*_: Any) -> None:
        raise AssertionError("it is merged again")

    monkeypatch.setattr("space.models.adapters._merge", fails)
    assert load_model(str(tmp_path / "tuned"), dtype="float32").spec == loaded.spec
    assert loaded.spec.name == "tuned"
    seen: ModelSpec = outlined(str(tmp_path / "tuned"), revision=None, trust_remote_code=False, lengths={}).spec
    assert {**seen.identity, "digest": ""} == {**loaded.spec.identity, "digest": ""}


def test_a_base_that_lies_beside_it_or_is_not_there(base: Path, tmp_path: Path) -> None:
    adapted(base, tmp_path / "tuned")
    changed(tmp_path / "tuned", base_model_name_or_path="somebody/some-base")
    with pytest.raises(UserError, match=r"adapter in .*tuned, somebody/some-base, on this machine.* Download it"):
        load_model(str(tmp_path / "tuned"))
    shutil.copytree(base, tmp_path / "tuned" / "its base")
    changed(tmp_path / "tuned", base_model_name_or_path="its base")
    assert load_model(str(tmp_path / "tuned")).spec.layers == SIZES["num_hidden_layers"]
    changed(tmp_path / "tuned", peft_type="IA3")
    with pytest.raises(UserError, match=r"type LORA in .*, got IA3\. Merge it into its base model, its base"):
        load_model(str(tmp_path / "tuned"))


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path, own_cache: Path) -> None:
    adapted(base, tmp_path / "tuned")
    save(LlamaConfig(**SIZES | {"intermediate_size": 56}), tmp_path / "other")
    changed(tmp_path / "tuned", base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(UserError, match=r"to fit its base model in .*other, but got: .*Merge it yourself"):
        load_model(str(tmp_path / "tuned"))
    assert not [*(own_cache / "merged").iterdir()]
