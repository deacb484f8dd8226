"""Holes: same function as zeroed blocks, and generation that does not depend on the kind of cache."""

from __future__ import annotations

import importlib.util
import linecache
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import FAMILY_NAMES, UNLIKE, each_kind, random_tokens, tiny_model
from transformers import DynamicCache, GenerationConfig

from space.candidate import Candidate
from space.formats.hf.reload_check import CACHES, cache_differences
from space.models.architectures import ARCHITECTURES, model_type_of
from space.models.embedded import quiet_transformers
from space.models.layout import SizeNames
from space.models.modeling import modeling_of, modeling_text
from space.models.pruned import PrunedConfigs, block_modules
from space.models.stack import stack_of

WINDOW = 6
LAYER_TYPES = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
SLIDING: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": WINDOW},
    "qwen2": {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": LAYER_TYPES},
    "gemma3_text": {"sliding_window": WINDOW, "layer_types": LAYER_TYPES},
}
NO_ATTENTION, NO_MLP, NOTHING = {"skip": ["attention"]}, {"skip": ["mlp"]}, {"skip": ["attention", "mlp"]}
ONE_GROUP = {"num_attention_heads": 2, "num_key_value_heads": 1}
HOLES: dict[str, dict[int, dict[str, Any]]] = {
    "no attention in layer 0": {0: NO_ATTENTION},
    "no MLP": {1: NO_MLP, 3: NO_MLP},
    "attention in the last layer only": {0: NO_ATTENTION, 1: NO_ATTENTION, 2: NO_ATTENTION},
    "attention in layer 2 only": {0: NO_ATTENTION, 1: NO_ATTENTION, 3: NO_ATTENTION},
    "whole layers": {0: NOTHING, 2: NOTHING},
    "narrow layers and holes": {0: NO_ATTENTION, 1: {"intermediate_size": 16}, 2: ONE_GROUP, 3: NO_MLP},
}
NEW_TOKENS = 2 * WINDOW


@pytest.fixture(scope="module")
def modeling(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModuleType]:
    """The modelling file of every family, imported as its checkpoint would."""
    modules = {}
    for family in FAMILY_NAMES:
        path: Path = tmp_path_factory.mktemp("modeling") / f"modeling_pruned_{family}.py"
        path.write_text(modeling_text(family))
        description = importlib.util.spec_from_file_location(path.stem, path)
        assert description is not None
        assert description.loader is not None
        sys.modules[path.stem] = modules[family] = importlib.util.module_from_spec(description)
        description.loader.exec_module(modules[family])
    return modules


def renamed(family: str, entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of `per_layer_config` in a family's own words."""
    names = dict(zip(SizeNames(), ARCHITECTURES[family].sizes, strict=True))
    return {name: value for key, value in entry.items() if isinstance(name := names.get(key, key), str)}


def pruned_model(module: ModuleType, family: str, per_layer: dict[int, dict[str, Any]]) -> Any:
    dense, spec = tiny_model(family, **SLIDING.get(family, {}))
    config = module.PrunedConfig(
        **dense.config.to_diff_dict() | {"model_type": module.PrunedConfig.model_type, "head_dim": spec.head_dim},
        block_modules=block_modules(family),
        allow_global_per_layer_attribute_access=True,
        per_layer_config={index: renamed(family, entry) for index, entry in per_layer.items()},
    )
    model = module.PrunedForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return model


def prompts(time: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three prompts, the last two padded on the left."""
    tokens = random_tokens(3, time)
    mask = torch.ones_like(tokens)
    mask[1, :2] = mask[2, :3] = 0
    return tokens.masked_fill(mask == 0, 0), mask


@pytest.mark.parametrize(("family", "holes"), each_kind(HOLES, (*UNLIKE, "qwen2", "mistral")))
def test_generation_is_the_same_with_every_cache(modeling: dict[str, ModuleType], family: str, holes: str) -> None:
    model = pruned_model(modeling[family], family, HOLES[holes])
    for time in (WINDOW - 2, 2 * WINDOW + 1):  # shorter and longer than the sliding windows
        results = cache_differences(model, *prompts(time), NEW_TOKENS)
        assert set(results) == set(CACHES)
        for difference, steps in results.values():
            assert difference < 1e-4
            assert steps == NEW_TOKENS


def test_the_text_that_runs_is_the_text_that_is_exported() -> None:
    for family in ARCHITECTURES:
        module = modeling_of(family)
        assert "".join(linecache.getlines(str(module.__file__))) == modeling_text(family)
        assert module.PrunedConfig.model_type == f"pruned_{model_type_of(family)}"
    texts = {family: modeling_text(family).splitlines() for family in FAMILY_NAMES}
    whole = [family for family in FAMILY_NAMES if ARCHITECTURES[family].classes.classifier is not None]
    assert {len(texts[family]) for family in whole} == {len(texts["llama"])}
    changed = {line for text in texts.values() for line in text if line not in texts["llama"]}
    assert changed
    assert all(re.match(r"from transformers\.models\.|[A-Z_]+ = ", line) for line in changed)


@torch.no_grad()
@pytest.mark.parametrize("holes", HOLES)
def test_a_cache_made_without_a_config(modeling: dict[str, ModuleType], holes: str) -> None:
    model = pruned_model(modeling["llama"], "llama", HOLES[holes])
    tokens, _ = prompts(8)
    cache = DynamicCache()
    pieces = [model(piece, past_key_values=cache, use_cache=True).logits for piece in tokens.split((4, 1, 3), dim=1)]
    assert cache.get_seq_length() == 8
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens).logits, rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_beam_search_with_holes(modeling: dict[str, ModuleType], family: str) -> None:
    model = pruned_model(modeling[family], family, HOLES["narrow layers and holes"])
    tokens, mask = prompts(2 * WINDOW)
    plain, cached = (
        model.generate(
            tokens,
            attention_mask=mask,
            generation_config=GenerationConfig(num_beams=3, max_new_tokens=6, use_cache=use_cache, pad_token_id=0),
        )
        for use_cache in (False, True)
    )
    assert torch.equal(plain, cached)


def test_training_with_gradient_checkpointing(modeling: dict[str, ModuleType], unlike_family: str) -> None:
    model = pruned_model(modeling[unlike_family], unlike_family, HOLES["narrow layers and holes"]).train()
    tokens, _ = prompts(8)
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.activation_checkpointing_enable()
        model.zero_grad()
        model(tokens, labels=tokens, use_cache=False).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    assert all(gradient is not None for gradient in gradients[0].values())
    torch.testing.assert_close(gradients[0], gradients[1])


def test_the_attention_backend_can_be_changed(modeling: dict[str, ModuleType]) -> None:
    model = pruned_model(modeling["llama"], "llama", HOLES["narrow layers and holes"])
    tokens, mask = prompts(8)
    before = model(tokens, attention_mask=mask).logits
    model.set_attn_implementation("eager")
    assert model.model.layers[2].self_attn.config._attn_implementation == "eager"
    torch.testing.assert_close(model(tokens, attention_mask=mask).logits[0], before[0], rtol=0, atol=1e-5)
    outputs = model(tokens, attention_mask=mask, output_hidden_states=True, output_attentions=True)
    assert len(outputs.hidden_states) == 4 + 1
    assert [weights if weights is None else weights.shape[1] for weights in outputs.attentions] == [None, 6, 2, 6]


@pytest.mark.parametrize("family", [name for name in FAMILY_NAMES if "." not in ARCHITECTURES[name].stack.layers])
def test_attention_weights_are_named_by_the_models_layers(modeling: dict[str, ModuleType], family: str) -> None:
    model = pruned_model(modeling[family], family, HOLES["attention in layer 2 only"])
    model.set_attn_implementation("eager")
    tokens = random_tokens(2, 5)
    weights = model(tokens, output_attentions=True).attentions
    assert [each is None for each in weights] == [True, True, False, True]
    sums = weights[2].sum(-1)
    if ARCHITECTURES[family].attention.sinks:  # which take the rest
        assert ((sums > 0) & (sums < 1)).all()
    else:
        torch.testing.assert_close(sums, torch.ones(2, weights[2].shape[1], 5))
    told = model.generate(
        tokens,
        max_new_tokens=2,
        min_new_tokens=2,
        do_sample=False,
        output_attentions=True,
        return_dict_in_generate=True,
    )
    assert [[each is None for each in step] for step in told.attentions] == [[True, True, False, True]] * 2
    assert model(tokens).attentions is None


@pytest.mark.parametrize("family", [name for name in FAMILY_NAMES if ARCHITECTURES[name].classes.classifier])
def test_a_classifier_reads_the_last_token_of_the_same_stack(
    modeling: dict[str, ModuleType], family: str, tmp_path: Path
) -> None:
    model = pruned_model(modeling[family], family, HOLES["narrow layers and holes"])
    model.save_pretrained(tmp_path)
    with quiet_transformers():  # there is no classifier yet
        classifier = modeling[family].PrunedForSequenceClassification.from_pretrained(tmp_path, num_labels=3)
    tokens, _ = prompts(8)
    tokens = tokens[:1]
    outputs = classifier(tokens, labels=torch.tensor([2]))
    outputs.loss.backward()
    with torch.no_grad():
        expected = classifier.score(stack_of(model)(tokens).last_hidden_state[:, -1])
    torch.testing.assert_close(outputs.logits, expected)
    assert all(parameter.grad is not None for parameter in classifier.parameters())


def test_a_family_without_a_classifier_promises_none(modeling: dict[str, ModuleType]) -> None:
    assert not hasattr(modeling["granite"], "PrunedForSequenceClassification")
    model, spec = tiny_model("granite")
    told = PrunedConfigs(model.config, spec).json_values(Candidate.dense(spec))
    assert {*told["auto_map"]} == {"AutoConfig", "AutoModel", "AutoModelForCausalLM"}
