"""The permuted model is the dense model, and views of it are smaller ones that share its memory."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import UNLIKE, each_kind, fitting, random_tokens, tiny_model

from space.candidate import Candidate, LayerShape
from space.errors import UserError
from space.models.modeling import modeling_of
from space.models.pruned import PrunedConfigs
from space.models.stack import layers_of
from space.size import total_params
from space.supernet.modules import own_modules
from space.supernet.recipe import RULES
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
in_each_kind = pytest.mark.parametrize(("family", "candidate"), each_kind(HOLES, UNLIKE), indirect=["candidate"])


@pytest.fixture(params=HOLES)
def candidate(request: pytest.FixtureRequest) -> Candidate:
    family = request.getfixturevalue("family") if "family" in request.fixturenames else "llama"
    return fitting(family, HOLES[request.param])


def logits_of(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(tokens, use_cache=False).logits
    return logits


@pytest.mark.parametrize("importance", RULES)
def test_permuted_model_computes_the_dense_function(
    unlike_family: str, importance: str, make_supernet: MakeSupernet
) -> None:
    dense, _ = tiny_model(unlike_family)
    tokens = random_tokens(3, 20, seed=1)
    supernet = make_supernet(unlike_family, importance=importance)
    torch.testing.assert_close(logits_of(supernet.model, tokens), logits_of(dense, tokens), atol=2e-5, rtol=1e-4)


@in_each_kind
def test_a_view_of_ones_own_computes_the_same_and_shares_nothing(
    family: str, candidate: Candidate, make_supernet: MakeSupernet
) -> None:
    supernet = make_supernet(family)
    tokens = random_tokens(3, 20, seed=2)
    dense = logits_of(supernet.model, tokens)
    own, view = supernet.view(candidate, own=True), supernet.view(candidate)
    smaller = logits_of(view, tokens)
    assert not torch.allclose(smaller, dense, atol=1e-2)
    assert torch.equal(smaller, logits_of(own, tokens))
    for parameter in own.parameters():
        parameter.zero_()
    own.to(torch.bfloat16)
    assert torch.equal(smaller, logits_of(view, tokens))
    assert torch.equal(dense, logits_of(supernet.model, tokens)), "a model of one's own shares memory"
    assert sum(p.numel() for p in view.parameters()) == total_params(supernet.spec, candidate)


@in_each_kind
def test_plain_slices_have_the_shapes_and_layout_of_refits_and_read_no_file(
    family: str, candidate: Candidate, make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    supernet = make_supernet(family)
    refit = supernet.view(candidate)
    shutil.rmtree(tmp_path / f"supernet-{family}")
    sliced = supernet.sliced()
    view = sliced.view(candidate)
    assert [*view.state_dict()] == [*refit.state_dict()]
    for (name, one), other in zip(view.named_parameters(), refit.parameters(), strict=True):
        assert one.shape == other.shape, name
        assert one.is_contiguous(), name
    assert logits_of(view, random_tokens(2, 12)).isfinite().all()
    dense, tokens = Candidate.dense(supernet.spec), random_tokens(2, 12)
    assert torch.equal(logits_of(sliced.view(dense), tokens), logits_of(supernet.model, tokens))


@pytest.mark.parametrize("refit_bytes", [1, 1 << 30])
def test_views_live_side_by_side(unlike_family: str, refit_bytes: int, make_supernet: MakeSupernet) -> None:
    """Called in turns by two threads each gives what it gives alone, bit for bit; so do new ones, made meanwhile."""
    supernet, tokens = make_supernet(unlike_family, refit_bytes=refit_bytes), random_tokens(2, 20)
    candidates = [fitting(unlike_family, rows) for rows in HOLES.values()]
    alone = [logits_of(supernet.view(candidate), tokens) for candidate in candidates]
    views = [supernet.view(candidate) for candidate in candidates]

    def logits(index: int) -> list[torch.Tensor]:
        others = [supernet.view(candidates[index]) for _ in range(3)]
        return [logits_of(view, tokens) for view in (views[index], *others)]

    with ThreadPoolExecutor(2) as threads:
        for expected, found in zip(alone, threads.map(logits, range(len(views))), strict=True):
            assert all(torch.equal(each, expected) for each in found)


def test_a_hook_on_a_views_layer_is_seen_by_no_other(make_supernet: MakeSupernet) -> None:
    supernet, tokens = make_supernet("llama"), random_tokens(2, 9)
    candidate = Candidate.from_rows(HOLES["one KV group"])
    first, second = supernet.view(candidate), supernet.view(candidate)
    before = logits_of(second, tokens)
    for layer in first.model.layers:
        layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    own = supernet.layer(0, candidate.layers[0])
    own.self_attn.o_proj.register_forward_hook(lambda module, inputs, output: 0 * output)
    assert not torch.equal(logits_of(first, tokens), before)
    assert torch.equal(logits_of(second, tokens), before)
    assert torch.equal(logits_of(supernet.view(candidate), tokens), before)


def test_views_hold_nothing_but_the_supernets_tensors_and_those_of_its_cache(make_supernet: MakeSupernet) -> None:
    """However many there are: so 50 of one model take next to no memory."""
    supernet = make_supernet("llama")
    candidates = [
        Candidate.from_rows([(heads, heads, channels), *[DENSE] * 3]) for heads in (1, 2, 3) for channels in (8, 16)
    ]
    views = [supernet.view(candidate) for candidate in candidates for _ in range(2)]

    def storages(modules: Iterable[torch.nn.Module]) -> set[int]:
        tensors = (tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))
        return {tensor.untyped_storage().data_ptr() for tensor in tensors}

    cached = storages(supernet._views[0.0].remembered)
    assert storages(views) <= storages([supernet.model]) | cached
    assert storages(views) & cached


@pytest.mark.parametrize("rope", ["dynamic", "default"])
def test_a_long_text_in_one_view_changes_no_other(rope: str, tmp_path: Path) -> None:
    """Rotary frequencies that follow the length of the text are each view's own."""
    parameters = {"rope_type": rope, "rope_theta": 1e4, "factor": 2.0}
    model, spec = tiny_model("llama", max_position_embeddings=16, rope_parameters=parameters)
    supernet = Supernet.prepare(model, spec, random_tokens(12, 12), tmp_path / "supernet", dtype=torch.float32)
    candidate, tokens = Candidate.from_rows(HOLES["one KV group"]), random_tokens(2, 12)
    first, second = supernet.view(candidate), supernet.view(candidate)
    before, dense = logits_of(second, tokens), logits_of(supernet.model, tokens)
    logits_of(first, random_tokens(2, 40))
    frequencies = [view.model.rotary_emb.inv_freq for view in (first, second)]
    assert torch.equal(*frequencies) == (rope == "default")
    assert torch.equal(logits_of(second, tokens), before)
    assert torch.equal(logits_of(supernet.model, tokens), dense)
    assert torch.equal(logits_of(supernet.view(candidate), tokens), before)


def test_a_view_of_ones_own_has_one_configuration(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    candidate = Candidate.from_rows(HOLES["one KV group"])
    own, tokens = supernet.view(candidate, own=True), random_tokens(2, 9)
    before = logits_of(own, tokens)
    own.set_attn_implementation("eager")
    assert {layer.self_attn.config._attn_implementation for layer in own.model.layers} == {"eager"}
    torch.testing.assert_close(logits_of(own, tokens), before)
    own.config.rope_parameters["rope_theta"] = 1.0
    assert supernet.view(candidate).config.rope_parameters["rope_theta"] != 1.0
    assert supernet.view(candidate).model.layers[0].self_attn.config._attn_implementation == "sdpa"


def test_a_view_that_was_first_asked_in_inference_mode_can_be_trained_through(make_supernet: MakeSupernet) -> None:
    supernet, tokens = make_supernet("llama"), random_tokens(2, 9)
    candidate = Candidate.from_rows(HOLES["one KV group"])
    with torch.inference_mode():
        supernet.view(candidate)(tokens)
    view = supernet.view(candidate)
    embedded = view.model.embed_tokens(tokens).requires_grad_()
    view(inputs_embeds=embedded).logits.sum().backward()
    assert embedded.grad is not None
    assert embedded.grad.abs().sum() > 0


@pytest.mark.parametrize(("family", "start"), each_kind("132"))
def test_a_view_of_the_last_layers_goes_on_from_the_residual_stream(
    family: str, start: str, make_supernet: MakeSupernet
) -> None:
    supernet, tokens = make_supernet(family), random_tokens(2, 12)
    candidate = fitting(family, [DENSE, (0, 0, 24), (0, 0, 0), (2, 2, 8)])
    whole, streams = supernet.view(candidate), list[torch.Tensor]()
    for layer in layers_of(whole):
        layer.register_forward_pre_hook(
            lambda module, inputs, named: streams.append(inputs[0] if inputs else named["hidden_states"]),
            with_kwargs=True,
        )
    expected = logits_of(whole, tokens)
    before = streams[{"1": 1, "2": 2, "3": 2}[start]]  # nothing happens in layer 2, which is gone
    with torch.inference_mode():
        logits = supernet.view(candidate, start=int(start))(inputs_embeds=before, use_cache=False).logits
    assert torch.equal(logits, expected)


@in_each_kind
def test_a_views_configuration_is_what_an_export_says(
    family: str, candidate: Candidate, make_supernet: MakeSupernet
) -> None:
    supernet = make_supernet(family)
    view = supernet.view(candidate)
    written = PrunedConfigs(supernet.model.config, supernet.spec).json_values(candidate)
    read = type(view.config).from_dict(written)
    assert type(view) is modeling_of(family).PrunedForCausalLM
    assert read.to_dict() == view.config.to_dict()


def test_load_repeats_prepare(unlike_family: str, tmp_path: Path) -> None:
    family = unlike_family
    tokens, (model, spec) = random_tokens(2, 10, seed=4), tiny_model(family)
    supernet = Supernet.prepare(model, spec, random_tokens(12, 24), tmp_path / "supernet", dtype=torch.float32)
    supernet.link_to(tmp_path / "run" / "supernet")
    model, spec = tiny_model(family)
    again = Supernet.load(model, spec, tmp_path / "run" / "supernet", dtype=torch.float32)
    assert again.influence == supernet.influence
    for candidate in (fitting(family, rows) for rows in HOLES.values()):
        assert torch.equal(logits_of(supernet.view(candidate), tokens), logits_of(again.view(candidate), tokens))


def test_a_small_refit_cache_changes_nothing(candidate: Candidate, make_supernet: MakeSupernet) -> None:
    tokens = random_tokens(2, 10, seed=4)
    large, small = make_supernet("qwen3"), make_supernet("qwen3", refit_bytes=1)
    for _ in range(2):
        assert torch.equal(logits_of(large.view(candidate), tokens), logits_of(small.view(candidate), tokens))


def test_what_a_view_holds_is_not_made_twice_whatever_the_limit(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama", refit_bytes=1)

    def weight(stack: torch.nn.Module) -> torch.Tensor:
        weight = stack.get_submodule("layers.1.mlp.down_proj").weight
        assert isinstance(weight, torch.Tensor)
        return weight

    narrow, other = (Candidate.from_rows([DENSE, (4, 2, 16), last, DENSE]) for last in (DENSE, (4, 2, 32)))
    stack = own_modules(supernet.view(narrow).model)  # as healing holds them
    assert weight(supernet.view(other).model) is weight(stack)
    assert weight(supernet.view(narrow, own=True).model) is not weight(stack)
    alive = weakref.ref(weight(stack))
    del stack
    assert alive() is None


def test_misfits_are_refused(make_supernet: MakeSupernet, tmp_path: Path) -> None:
    supernet = make_supernet("llama")
    for rows, message in (
        ([DENSE] * 3, "4 layers, got 3"),
        ([(6, 3, 49), DENSE, DENSE, DENSE], "no part of the dense"),
        ([(3, 1, 48), DENSE, DENSE, DENSE], "no part of the dense"),
        ([(0, 0, 48)] * 4, "at least one layer with attention"),
    ):
        with pytest.raises(ValueError, match=message):
            supernet.view(Candidate.from_rows(rows))
    model, spec = tiny_model("qwen2")
    with pytest.raises(UserError, match="prepared for tiny-llama"):
        Supernet.load(model, spec, tmp_path / "supernet-llama", dtype=torch.float32)
    model, spec = tiny_model("llama")
    with pytest.raises(UserError, match=r"prepared in float32, .* runs in bfloat16. Set model.dtype=float32"):
        Supernet.load(model, spec, tmp_path / "supernet-llama", dtype=torch.bfloat16)
    with pytest.raises(UserError, match="found none"):
        Supernet.load(model, spec, tmp_path / "nowhere", dtype=torch.float32)
    with pytest.raises(UserError, match="expected one of obs"):
        make_supernet("mistral", importance="luck")


def test_views_share_the_supernets_memory(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    storages = {p.untyped_storage().data_ptr() for p in supernet.model.parameters()}
    layer = supernet.view(Candidate((LayerShape(4, 2, 16),) * 4)).model.layers[1]
    outside = {n for n, p in layer.named_parameters() if p.untyped_storage().data_ptr() not in storages}
    assert outside == {"self_attn.o_proj.weight", "mlp.down_proj.weight"}
