"""load_model: what it gives, and what it holds against the model."""

import re
import shutil

import pytest
import torch
from helpers_loading import SIZES, edit_config, save
from helpers_run import ROOT
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.utils import logging as transformers_logging

from space.errors import UserError
from space.models.loading import load_model
from space.space import SearchSpace

pytestmark = pytest.mark.usefixtures("no_hub")


def test_biases_are_read_from_the_modules(tmp_path):
    config = LlamaConfig(**SIZES | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True})
    spec = load_model(str(save(config, tmp_path))).spec
    assert (spec.qkv_bias, spec.o_bias, spec.mlp_bias, spec.tied_embeddings) == (True, True, True, True)


def test_a_model_is_known_by_its_digest_wherever_it_is(saved, checkpoint):
    spec = load_model(str(saved)).spec
    there = checkpoint.rename(checkpoint.with_name("moved"))
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


def test_the_language_part_of_another_model_is_pruned_by_itself(checkpoint, tmp_path):
    text = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    vision = CLIPVisionConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=LlamaConfig(**SIZES)))
    shutil.copytree(checkpoint, tmp_path / "whole")  # for its tokenizer
    model.save_pretrained(tmp_path / "whole")
    exec(code.replace("DIRECTORY", str(tmp_path / "whole")).replace("NEW", str(tmp_path / "part")), {})
    tokens = torch.arange(9)[None]
    torch.testing.assert_close(load_model(str(tmp_path / "part")).model(tokens).logits, model(tokens).logits)


def test_settings_are_held_against_the_model_before_its_weights_are_read(saved, monkeypatch):
    def reads(*arguments):
        raise AssertionError("the weights are read")

    monkeypatch.setattr("space.models.loading._read_model", reads)
    monkeypatch.setattr("space.models.loading.checkpoint_digest", reads)
    with pytest.raises(UserError, match=r"space\.freeze_layers: expected a whole number from"):
        load_model(str(saved), check_spec=lambda spec: SearchSpace(spec, freeze_layers=[99]))
