"""Merged KV groups: exact where the groups say the same in other bases, smaller caches, and a model like any other."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import random_tokens, tiny_model
from torch import Tensor
from transformers import DynamicCache

from space.candidate import Candidate, LayerShape
from space.models.architectures import ARCHITECTURES
from space.options import attention_options
from space.size import total_params
from space.spec import ModelSpec
from space.supernet.supernet import Supernet
from space.supernet.units import split_rows

MERGES = {  # families whose keys can be aligned, and which of the tiny models' attention projections carry biases
    "llama": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "mistral": set[str](),
    "qwen2": {"q_proj", "k_proj", "v_proj"},
    "smollm3": set[str](),
    "seed_oss": {"q_proj", "k_proj", "v_proj"},
    "gemma": set[str](),
    "gemma2": set[str](),
    "granite": set[str](),
    "phi3": set[str](),
    "arcee": set[str](),
    "starcoder2": {"q_proj", "k_proj", "v_proj", "o_proj"},
}
MakeSupernet = Callable[..., Supernet]


def logits_of(model: torch.nn.Module, tokens: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(tokens, use_cache=False).logits
    return logits


def all_merged(supernet: Supernet, groups: int = 1) -> Candidate:
    spec = supernet.spec
    return Candidate((LayerShape(spec.query_heads, groups, spec.mlp_channels),) * spec.layers)


@torch.no_grad()
def in_other_bases(family: str, layer: torch.nn.Module, spec: ModelSpec) -> None:
    """Makes the keys and values of all groups those of the first, in bases of their own."""
    generator, width = torch.Generator().manual_seed(3), spec.head_dim
    layout = ARCHITECTURES[family].attention
    for projection in layout.inputs:
        for parameter in layer.get_submodule(f"{layout.module}.{projection.name}").parameters():
            parts = split_rows(spec, projection, parameter)
            for part in {"key", "value"} & {*parts}:
                rows = parts[part].view(spec.kv_heads, width, -1)
                for group in range(1, spec.kv_heads):
                    if part == "key":  # each rotary pair turned and stretched
                        generator.manual_seed(10 + group)
                        factor = torch.complex(*torch.randn(2, width // 2, 1, generator=generator))
                        pairs = torch.complex(rows[0, : width // 2], rows[0, width // 2 :]) * factor
                        rows[group] = torch.cat([pairs.real, pairs.imag])
                    else:
                        generator.manual_seed(20 + group)
                        rows[group] = torch.randn(width, width, generator=generator) @ rows[0]


def test_biases_are_merged_too() -> None:
    for family, biases in MERGES.items():
        attention = getattr(tiny_model(family)[0].model.layers[0], ARCHITECTURES[family].attention.module)
        found = {name for name, module in attention.named_children() if getattr(module, "bias", None) is not None}
        assert found == biases


@pytest.mark.parametrize(("kv_heads", "left"), [(3, 1), (4, 2), (4, 1)])
@pytest.mark.parametrize("family", MERGES)
def test_groups_that_differ_in_their_bases_alone_are_merged_without_loss(
    family: str, kv_heads: int, left: int, tmp_path: Path
) -> None:
    model, spec = tiny_model(
        family, hidden_size=12 * kv_heads, num_attention_heads=2 * kv_heads, num_key_value_heads=kv_heads
    )
    for layer in model.model.layers:
        in_other_bases(family, layer, spec)
    tokens = random_tokens(3, 20, seed=1)
    dense = logits_of(model, tokens)
    supernet = Supernet.prepare(model, spec, random_tokens(12, 24), tmp_path / "supernet", dtype=torch.float32)
    merged = all_merged(supernet, left)
    active = supernet.view(merged)
    assert active.num_parameters() == total_params(spec, merged)
    torch.testing.assert_close(logits_of(active, tokens), dense, atol=2e-3, rtol=2e-3)
    assert supernet.lost_energy(0)[0][spec.query_heads, left] < 1e-4
    dropped = Candidate((LayerShape(left * spec.queries_per_group, left, spec.mlp_channels),) * spec.layers)
    active = supernet.view(dropped)
    assert (logits_of(active, tokens) - dense).abs().max() > 0.1


@pytest.mark.parametrize("family", MERGES)
def test_a_merged_model_is_the_same_alone_loaded_again_and_with_a_cache(
    family: str, tmp_path: Path, make_supernet: MakeSupernet
) -> None:
    supernet = make_supernet(family)
    spec, tokens, merged = supernet.spec, random_tokens(2, 9, seed=4), all_merged(supernet)
    before = logits_of(supernet.model, tokens)
    model = supernet.view(merged)
    expected = logits_of(model, tokens)
    assert torch.equal(logits_of(supernet.model, tokens), before)
    own = supernet.view(merged, own=True)
    assert torch.equal(logits_of(own, tokens), expected)
    again = Supernet.load(tiny_model(family)[0], spec, tmp_path / f"supernet-{family}", dtype=torch.float32)
    model = again.view(merged)
    torch.testing.assert_close(logits_of(model, tokens), expected)
    cache = DynamicCache(config=own.config)
    with torch.inference_mode():
        own(tokens[:, :5], past_key_values=cache)
        rest = own(tokens[:, 5:], past_key_values=cache).logits
    torch.testing.assert_close(rest, expected[:, 5:], atol=1e-4, rtol=1e-4)
    assert cache.layers[0].keys.shape[1] == 1


def keep(seen: list[Tensor], module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    seen.append(output)


@pytest.mark.parametrize("family", MERGES)
def test_lost_energy_is_what_the_block_loses(family: str, make_supernet: MakeSupernet) -> None:
    """On the calibration text, from which the fraction comes without a pass of its own."""
    supernet = make_supernet(family, damping=1e-6)
    spec, tokens = supernet.spec, random_tokens(12, 24)
    gone = LayerShape(0, 0, 0)
    outputs = []
    for shape in (LayerShape(spec.query_heads, spec.kv_heads, 0), LayerShape(spec.query_heads, 1, 0)):
        model = supernet.view(Candidate((shape, *(gone,) * (spec.layers - 1))), own=True)
        projection = model.model.layers[0].self_attn.o_proj
        projection.bias = None  # which no width changes
        seen: list[Tensor] = []
        projection.register_forward_hook(partial(keep, seen))
        with torch.inference_mode():
            model.model(tokens, use_cache=False)
        outputs.append(seen[0])
    dense, merged = outputs
    lost = ((merged - dense).square().sum() / dense.square().sum()).item()
    assert supernet.lost_energy(0)[0][spec.query_heads, 1] == pytest.approx(lost, rel=0.02)


def test_options_have_merged_groups_in_their_place_by_size() -> None:
    _, spec = tiny_model("llama")  # 6 query heads in 3 groups
    assert spec.merged_kv_heads == (1,)
    options = attention_options(spec, widths=True, merge=True, remove=True)
    assert (6, 1) in options
    assert options.index((4, 2)) < options.index((6, 1)) < options.index((6, 3))
    assert (6, 1) not in attention_options(spec, widths=True, merge=False, remove=True)


@pytest.mark.parametrize("family", ["qwen3", "olmo2", "nemotron", "glm", "gpt2"])  # normed keys, or turned otherwise
def test_families_whose_keys_cannot_be_aligned_are_not_merged(family: str, make_supernet: MakeSupernet) -> None:
    supernet = make_supernet(family)
    spec = supernet.spec
    assert spec.merged_kv_heads == ()
    merge, plain = (attention_options(spec, widths=True, merge=merge, remove=True) for merge in (True, False))
    assert merge == plain
    with pytest.raises(ValueError, match="no part of the dense model"):
        supernet.view(all_merged(supernet))
