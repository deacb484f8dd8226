"""The permuted model is the dense model, and an activated candidate is a smaller one, in every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import random_tokens, tiny_model

from space.candidate import Candidate, LayerShape
from space.errors import UserError
from space.size import total_params
from space.supernet.importance import RULES
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]
DENSE = (6, 3, 48)
HOLES = {
    "no attention in layer 0": [(0, 0, 48), DENSE, DENSE, DENSE],
    "no MLP": [DENSE, (6, 3, 0), DENSE, DENSE],
    "first layer gone": [(0, 0, 0), DENSE, DENSE, DENSE],
    "middle layers gone": [DENSE, (0, 0, 0), (0, 0, 0), DENSE],
    "one KV group": [(2, 1, 48), (2, 1, 16), DENSE, (1, 1, 8)],
    "one query head a group": [(3, 3, 48), (2, 2, 32), (3, 3, 48), (3, 3, 16)],
    "everything": [(0, 0, 24), (4, 2, 0), (0, 0, 0), (2, 2, 8)],
}


@pytest.fixture(params=HOLES)
def candidate(request: pytest.FixtureRequest) -> Candidate:
    return Candidate.from_rows(HOLES[request.param])


def logits_of(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(tokens, use_cache=False).logits
    return logits


@pytest.mark.parametrize("importance", RULES)
def test_permuted_model_computes_the_dense_function(family: str, importance: str, make_supernet: MakeSupernet) -> None:
    dense, _ = tiny_model(family)
    tokens = random_tokens(3, 20, seed=1)
    supernet = make_supernet(family, importance=importance)
    before = dense.model.layers[0].mlp.down_proj.weight
    assert not torch.equal(before, supernet.model.model.layers[0].mlp.down_proj.weight)
    torch.testing.assert_close(logits_of(supernet.model, tokens), logits_of(dense, tokens), atol=2e-5, rtol=1e-4)


def test_activated_is_materialised_and_dense_comes_back(
    family: str, candidate: Candidate, make_supernet: MakeSupernet
) -> None:
    supernet = make_supernet(family)
    tokens = random_tokens(3, 20, seed=2)
    dense = logits_of(supernet.model, tokens)
    own = supernet.materialise(candidate)
    with supernet.activate(candidate) as model:
        active = logits_of(model, tokens)
    assert not torch.allclose(active, dense, atol=1e-2)
    assert torch.equal(active, logits_of(own, tokens))
    assert torch.equal(dense, logits_of(supernet.model, tokens))
    own.model.embed_tokens.weight.zero_()
    assert torch.equal(dense, logits_of(supernet.model, tokens)), "a materialised model shares memory"
    assert sum(p.numel() for p in own.parameters()) == total_params(supernet.spec, candidate)


def test_dense_comes_back_after_an_exception(candidate: Candidate, make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    tokens = random_tokens(2, 9)
    dense = logits_of(supernet.model, tokens)
    with pytest.raises(RuntimeError, match="from inside"), supernet.activate(candidate):
        raise RuntimeError("from inside")
    assert torch.equal(dense, logits_of(supernet.model, tokens))
    with supernet.activate(candidate), pytest.raises(ValueError, match="active already"), supernet.activate(candidate):
        pass


def test_generate_with_the_cache_equals_without(family: str, candidate: Candidate, make_supernet: MakeSupernet) -> None:
    supernet = make_supernet(family)
    prompt = random_tokens(2, 11, seed=3)
    with supernet.activate(candidate) as model:
        settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
        cached = model.generate(prompt, use_cache=True, **settings)
        plain = model.generate(prompt, use_cache=False, **settings)
    assert torch.equal(cached, plain)


def test_load_repeats_prepare(family: str, candidate: Candidate, make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet(family)
    tokens = random_tokens(2, 10, seed=4)
    supernet.link_to(tmp_path / "run" / "supernet")
    model, spec = tiny_model(family)
    again = Supernet.load(model, spec, tmp_path / "run" / "supernet", dtype=torch.float32)
    assert again.influence == supernet.influence
    with supernet.activate(candidate) as first, again.activate(candidate) as second:
        assert torch.equal(logits_of(first, tokens), logits_of(second, tokens))


def test_a_small_refit_cache_changes_nothing(candidate: Candidate, make_supernet: MakeSupernet) -> None:
    tokens = random_tokens(2, 10, seed=4)
    large, small = make_supernet("qwen3"), make_supernet("qwen3", refit_bytes=1)
    for _ in range(2):
        with large.activate(candidate) as first, small.activate(candidate) as second:
            assert torch.equal(logits_of(first, tokens), logits_of(second, tokens))


def test_misfits_are_refused(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    for rows, message in (
        ([DENSE] * 3, "4 layers, got 3"),
        ([(6, 3, 49), DENSE, DENSE, DENSE], "no part of the dense"),
        ([(3, 1, 48), DENSE, DENSE, DENSE], "no part of the dense"),
        ([(0, 0, 48)] * 4, "at least one layer with attention"),
    ):
        with pytest.raises(ValueError, match=message), supernet.activate(Candidate.from_rows(rows)):
            pass
    model, spec = tiny_model("qwen2")
    with pytest.raises(UserError, match="prepared for tiny-llama"):
        Supernet.load(model, spec, tmp_path / "supernet-llama", dtype=torch.float32)
    with pytest.raises(UserError, match="found none"):
        Supernet.load(model, spec, tmp_path / "nowhere", dtype=torch.float32)
    with pytest.raises(UserError, match="expected one of obs"):
        make_supernet("mistral", importance="luck")


def test_views_share_the_supernets_memory(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    layer = supernet.model.model.layers[1]
    storages = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    with supernet.activate(Candidate((LayerShape(4, 2, 16),) * 4)):
        outside = {n for n, p in layer.named_parameters() if p.untyped_storage().data_ptr() not in storages}
    assert outside == {"self_attn.o_proj.weight", "mlp.down_proj.weight"}
