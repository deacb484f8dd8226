"""SearchSpace: genes and candidates are inverse, whatever is drawn or repaired is valid, errors say what to do."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import conf
from space.blocks import default_mlp_step
from space.candidate import Candidate, LayerShape
from space.errors import UserError
from space.size import decoder_params
from space.space import SearchSpace
from space.spec import ModelSpec

GROUPS = ("depth", "full", "heads", "uniform", "width")
CONF = Path(conf.__file__).parent / "space"


def make_spec(**changes: Any) -> ModelSpec:
    facts: dict[str, Any] = {"layers": 4, "hidden": 36, "query_heads": 6, "kv_heads": 3, "head_dim": 6}
    facts |= {"mlp_channels": 48, "vocab": 97, "tied_embeddings": True, "family": "llama"}
    return ModelSpec(name="tiny", revision="0", **(facts | changes))


SMOLLM2 = make_spec(layers=30, hidden=576, query_heads=9, head_dim=64, mlp_channels=1536, vocab=49152)
WIDTHS = {"remove_attention": False, "remove_mlp": False}
DEPTH = {"whole_layers": True, "attention_widths": False, "mlp_widths": False}
UNIFORM = {"same_for_all_layers": True, **WIDTHS}


def tiny_space(**options: Any) -> SearchSpace:
    return SearchSpace(make_spec(), **({"mlp_step": 16} | options))


def fraction(space: SearchSpace, candidate: Candidate) -> float:
    spec = space.spec
    return decoder_params(spec, candidate) / decoder_params(spec, Candidate.dense(spec))


def check_valid(space: SearchSpace, candidate: Candidate, options: dict[str, Any]) -> None:
    """The rules, written out anew."""
    layers = space.spec.layers
    dense = Candidate.dense(space.spec).layers[0]
    least, most = options.get("min_decoder_params", 0.0), options.get("max_decoder_params", 1.0)
    assert least - 1e-8 <= fraction(space, candidate) <= most + 1e-8
    assert sum(not shape.gone for shape in candidate.layers) >= options.get("min_layers", 1)
    assert any(shape.kv_heads for shape in candidate.layers)
    for layer in (*options.get("freeze_layers", ()), *options.get("freeze_attention", ())):
        assert candidate.layers[layer % layers].query_heads == dense.query_heads
        assert candidate.layers[layer].kv_heads == dense.kv_heads
    for layer in (*options.get("freeze_layers", ()), *options.get("freeze_mlp", ())):
        assert candidate.layers[layer].mlp_channels == dense.mlp_channels
    assert space.contains(candidate)


@st.composite
def specs(draw: st.DrawFn, max_layers: int = 8) -> ModelSpec:
    kv_heads = draw(st.integers(1, 4))
    return make_spec(
        family=draw(st.sampled_from(["llama", "qwen3", "gemma3_text"])),
        layers=draw(st.integers(1, max_layers)),
        hidden=draw(st.integers(1, 64)),
        kv_heads=kv_heads,
        query_heads=kv_heads * draw(st.integers(1, 4)),
        head_dim=draw(st.sampled_from([2, 6, 16])),
        mlp_channels=draw(st.integers(1, 200)),
        qkv_bias=draw(st.booleans()),
        o_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
    )


@st.composite
def settings_for(draw: st.DrawFn, spec: ModelSpec) -> dict[str, Any]:
    whole = draw(st.booleans())
    layers = st.lists(st.integers(-spec.layers, spec.layers - 1), max_size=2)
    bounds = sorted(draw(st.integers(0, 1000)) / 1000 for _ in range(2))
    return {
        "whole_layers": whole,
        "attention_widths": not whole and draw(st.booleans()),
        "merge_groups": not whole and draw(st.booleans()),
        "mlp_widths": not whole and draw(st.booleans()),
        "same_for_all_layers": not whole and draw(st.booleans()),
        "remove_attention": draw(st.booleans()),
        "remove_mlp": draw(st.booleans()),
        "mlp_step": draw(st.integers(1, spec.mlp_channels)),
        "freeze_layers": draw(layers),
        "freeze_attention": draw(layers),
        "freeze_mlp": draw(layers),
        "min_layers": draw(st.integers(1, spec.layers)),
        "min_decoder_params": bounds[0],
        "max_decoder_params": bounds[1],
    }


@st.composite
def spaces(draw: st.DrawFn, max_layers: int = 8) -> tuple[SearchSpace, dict[str, Any]]:
    spec = draw(specs(max_layers))
    options = draw(settings_for(spec))
    try:
        return SearchSpace(spec, **options), options
    except UserError:
        assume(False)
        raise AssertionError from None


seeds = st.integers(0, 2**32 - 1)


@settings(deadline=None)
@given(spaces(), seeds)
def test_decode_and_encode_are_inverse(drawn: tuple[SearchSpace, dict[str, Any]], seed: int) -> None:
    space, _ = drawn
    genes = np.random.default_rng(seed).integers(0, space.levels)
    candidate = space.decode(genes)
    assert space.encode(candidate).tolist() == genes.tolist()
    assert space.decode(space.encode(candidate)) == candidate


@settings(deadline=None)
@given(spaces(), seeds)
def test_samples_are_valid(drawn: tuple[SearchSpace, dict[str, Any]], seed: int) -> None:
    space, options = drawn
    check_valid(space, space.sample(np.random.default_rng(seed)), options)


@settings(deadline=None)
@given(spaces(), seeds)
def test_repair_gives_valid_genes_and_leaves_them_alone(drawn: tuple[SearchSpace, dict[str, Any]], seed: int) -> None:
    space, options = drawn
    rng = np.random.default_rng(seed)
    for wild in (rng.normal(0, 2 * space.levels.max(), len(space.levels)), space.levels * 0, space.levels - 1):
        repaired = space.repair(wild, rng)
        assert repaired.dtype == np.int64
        check_valid(space, space.decode(repaired), options)
        assert space.repair(repaired, rng).tolist() == repaired.tolist()


@settings(deadline=None)
@given(spaces())
def test_option_0_is_the_smallest_and_the_last_is_dense(drawn: tuple[SearchSpace, dict[str, Any]]) -> None:
    space, _ = drawn
    assert space.decode(space.levels - 1) == Candidate.dense(space.spec)
    for gene in range(len(space.levels)):
        sizes = []
        for level in range(space.levels[gene]):
            genes = space.levels - 1
            genes[gene] = level
            sizes.append(decoder_params(space.spec, space.decode(genes)))
        assert sizes == sorted(sizes)


@settings(deadline=None)
@given(spaces())
def test_ladders_hold_distinct_valid_designs(drawn: tuple[SearchSpace, dict[str, Any]]) -> None:
    space, options = drawn
    layers = range(space.spec.layers)
    for ladder in (space.uniform_ladder(), space.depth_ladder(layers)):
        for candidate in ladder:
            check_valid(space, candidate, options)
        sizes = [fraction(space, candidate) for candidate in ladder]
        assert sizes == sorted(sizes, reverse=True)
        assert len({candidate.key for candidate in ladder}) == len(ladder) <= 24 + space.spec.layers


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_construction_fails_only_where_nothing_is_valid(data: st.DataObject) -> None:
    spec = data.draw(specs(max_layers=2))
    options = data.draw(settings_for(spec)) | {"mlp_step": max(1, spec.mlp_channels // 2)}
    bounds = {name: options.pop(name) for name in ("min_decoder_params", "max_decoder_params")}
    try:
        free = SearchSpace(spec, **options)
    except UserError:
        assume(False)
    designs = [free.decode(np.array(genes)) for genes in itertools.product(*map(range, free.levels.tolist()))]
    designs = [candidate for candidate in designs if free.contains(candidate)]
    sizes = [fraction(free, candidate) for candidate in designs]
    least, most = bounds.values()
    fits = [least - 1e-9 <= size <= most + 1e-9 for size in sizes]
    if any(fits):
        space = SearchSpace(spec, **options, **bounds)
        inside = [space.contains(candidate) for candidate in designs]
        assert inside == fits
    else:
        with pytest.raises(UserError, match="decoder_params: expected"):
            SearchSpace(spec, **options, **bounds)
    # the smallest design is found exactly
    at_minimum = SearchSpace(spec, **options, max_decoder_params=min(sizes))
    assert fraction(free, at_minimum.sample(np.random.default_rng(0))) == pytest.approx(min(sizes), abs=1e-8)


@example(0.5, 0.0001)
@settings(max_examples=20, deadline=None)
@given(st.floats(0.05, 0.95), st.floats(0.0025, 0.01))
def test_narrow_ranges_of_a_real_model_are_met(least: float, width: float) -> None:
    options = {"min_decoder_params": least, "max_decoder_params": least + width}
    space = SearchSpace(SMOLLM2, **options)
    rng = np.random.default_rng(0)
    keys = set()
    for _ in range(10):
        candidate = space.sample(rng)
        check_valid(space, candidate, options)
        keys.add(candidate.key)
    assert len(keys) >= 8, "narrow bounds still leave room for different designs"


def test_sampled_sizes_cover_the_range_evenly() -> None:
    for options in ({}, DEPTH, WIDTHS, UNIFORM):
        space = SearchSpace(SMOLLM2, **options, min_decoder_params=0.3)
        rng = np.random.default_rng(0)
        sizes = [fraction(space, space.sample(rng)) for _ in range(400)]
        counts, _ = np.histogram(sizes, bins=4, range=(0.3, 1.0))
        assert counts.min() > 60, f"{options}: {counts}"


def test_repair_moves_to_the_nearer_bound_by_many_genes() -> None:
    space = SearchSpace(SMOLLM2, max_decoder_params=0.6)
    repaired = space.repair(space.levels - 1, np.random.default_rng(0))
    assert 0.59 < fraction(space, space.decode(repaired)) <= 0.6
    assert (repaired < space.levels - 1).mean() > 0.8, "the cut is spread over the genes"


def test_repair_restores_layers_and_attention_at_random() -> None:
    space = SearchSpace(SMOLLM2, min_layers=5)
    kept, with_attention = set(), set()
    for seed in range(40):
        candidate = space.decode(space.repair(space.levels * 0, np.random.default_rng(seed)))
        kept |= {layer for layer, shape in enumerate(candidate.layers) if not shape.gone}
        with_attention |= {layer for layer, shape in enumerate(candidate.layers) if shape.kv_heads}
        assert sum(not shape.gone for shape in candidate.layers) in (5, 6)
    assert len(kept) > 25
    assert len(with_attention) > 25


def test_same_seed_gives_the_same_candidates() -> None:
    space = SearchSpace(SMOLLM2, min_decoder_params=0.4, max_decoder_params=0.8)
    one, other = ([space.sample(rng).key for _ in range(20)] for rng in map(np.random.default_rng, (3, 3)))
    assert one == other
    assert len(set(one)) == 20


def test_repair_rounds_and_clips() -> None:
    space = tiny_space()
    wild = np.full(len(space.levels), 1.6)
    wild[:2] = [-3, 1e9]
    expected = np.full(len(space.levels), 2)
    expected[:2] = [0, space.levels[1] - 1]
    assert space.repair(wild, np.random.default_rng(0)).tolist() == expected.tolist()


def test_attention_options_are_all_group_and_query_counts_by_size() -> None:
    space = SearchSpace(make_spec(layers=1), mlp_widths=False, remove_mlp=False)
    shapes = [space.decode(np.array([level])).layers[0] for level in range(space.levels[0])]
    # three groups of one query head, and two groups of two, hold as many parameters: more groups come later
    assert [(s.query_heads, s.kv_heads) for s in shapes] == [(0, 0), (1, 1), (2, 1), (2, 2), (4, 2), (3, 3), (6, 3)]
    assert space.attention_shapes == ((1, 1), (2, 1), (2, 2), (3, 3), (4, 2), (6, 3))
    assert space.mlp_shapes == (48,)


@pytest.mark.parametrize(
    ("channels", "multiple", "step"),
    [
        *((1536, 1, 128), (4864, 32, 448), (14336, 1, 1216), (1000, 1, 128), (100, 1, 64), (48, 1, 48)),
        *((8192, 256, 768), (14336, 256, 1280), (200, 256, 200)),
    ],
)
def test_levels_are_few_and_in_whole_tiles(channels: int, multiple: int, step: int) -> None:
    assert default_mlp_step(channels, multiple) == step
    assert len(range(step, channels, step)) < 12


def test_a_step_that_an_engine_cannot_have_says_which_engine() -> None:
    with pytest.raises(UserError, match=r"mlp_step=20 with space.deploy=llamacpp: .* multiple with 32, .* got 160"):
        tiny_space(mlp_step=20, deploy="llamacpp", attention_widths=True)


def test_mlp_options_are_the_multiples_of_the_step_and_the_dense_count() -> None:
    assert tiny_space(mlp_step=20).mlp_shapes == (20, 40, 48)
    assert tiny_space(mlp_step=48).mlp_shapes == (48,)
    assert tiny_space(**DEPTH).mlp_shapes == (48,)
    assert tiny_space(**DEPTH).attention_shapes == ((6, 3),)


def test_frozen_parts_have_no_genes() -> None:
    whole = tiny_space()
    frozen = tiny_space(freeze_layers=[0], freeze_attention=[-1], freeze_mlp=[1])
    assert len(whole.levels) == 8
    assert len(frozen.levels) == 4
    smallest = frozen.decode(frozen.levels * 0)
    assert smallest.to_json() == [[6, 3, 48], [0, 0, 48], [0, 0, 0], [6, 3, 0]]


def test_uniform_space_has_two_genes_and_one_shape() -> None:
    space = tiny_space(**UNIFORM, freeze_layers=[1])
    assert space.levels.tolist() == [6, 3]
    layers = space.sample(np.random.default_rng(1)).layers
    assert layers[1] == LayerShape(6, 3, 48)
    assert len({layers[0], layers[2], layers[3]}) == 1


def test_whole_layers_are_dense_or_gone() -> None:
    space = tiny_space(**DEPTH, freeze_mlp=[2], min_layers=2)
    assert space.levels.tolist() == [2, 2, 2]
    assert space.decode([0, 1, 0]).to_json() == [[0, 0, 0], [6, 3, 48], [6, 3, 48], [0, 0, 0]]
    assert not space.contains(space.decode([0, 0, 0]))


def test_uniform_ladder_of_the_default_space() -> None:
    ladder = SearchSpace(SMOLLM2, min_decoder_params=0.4).uniform_ladder()
    shapes = [set(candidate.layers) for candidate in ladder]
    assert all(len(one) == 1 for one in shapes)
    assert 16 <= len(ladder) <= 24
    assert Candidate.dense(SMOLLM2) not in ladder
    assert {1536} < {one.mlp_channels for layer in shapes for one in layer}
    assert len({one.query_heads for layer in shapes for one in layer}) >= 3


def test_depth_ladder_removes_cumulatively_and_passes_over_frozen_layers() -> None:
    space = tiny_space(freeze_layers=[0], min_layers=2, max_decoder_params=0.9)
    ladder = space.depth_ladder([2, 0, 3, 1])
    gone = [[layer for layer, shape in enumerate(candidate.layers) if shape.gone] for candidate in ladder]
    assert gone == [[2], [2, 3]]
    assert tiny_space(**WIDTHS).depth_ladder([0, 1]) == []
    assert tiny_space(**UNIFORM).depth_ladder([0, 1]) == []
    for order in ([1, 1], [4], [-1]):
        with pytest.raises(ValueError, match="expected distinct layers below 4"):
            space.depth_ladder(order)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (0, (2, 2, 48), r"layer 0: expected \[query_heads, kv_heads\] to be one of \[6, 3\], got \[2, 2\]"),
        (1, (5, 5, 48), r"layer 1: expected \[query_heads, kv_heads\] to be one of \[0, 0\], \[1, 1\].*got \[5, 5\]"),
        (3, (6, 3, 17), r"layer 3: expected mlp_channels to be one of 0, 16, 32, 48, got 17"),
    ],
)
def test_candidate_outside_the_space_is_refused_by_its_layer(layer: int, shape: Any, message: str) -> None:
    space = tiny_space(freeze_layers=[0])
    layers = list(Candidate.dense(space.spec).layers)
    layers[layer] = LayerShape(*shape)
    with pytest.raises(UserError, match=message):
        space.encode(Candidate(tuple(layers)))
    assert not space.contains(Candidate(tuple(layers)))


def test_encode_refuses_mixed_shapes_partial_layers_and_other_depths() -> None:
    dense = LayerShape(6, 3, 48)
    with pytest.raises(
        UserError, match=r"layer 1: expected \[query_heads, kv_heads\] to be one of \[6, 3\], got \[2, 2"
    ):
        tiny_space(**UNIFORM).encode(Candidate((dense, LayerShape(2, 2, 48), dense, dense)))
    with pytest.raises(UserError, match=r"one of \[0, 0, 0\], \[6, 3, 48\], got \[0, 0, 48\]"):
        tiny_space(**DEPTH).encode(Candidate((LayerShape(0, 0, 48), dense, dense, dense)))
    with pytest.raises(UserError, match="expected 4 layers, got 3"):
        tiny_space(**DEPTH).encode(Candidate((dense,) * 3))


def test_decode_and_repair_refuse_what_is_not_genes() -> None:
    space = tiny_space(**DEPTH)
    for genes, message in (([1, 1], "expected 4 integers"), ([1.0] * 4, "of float64"), ([2, 0, 0, 0], "Repair them")):
        with pytest.raises(ValueError, match=message):
            space.decode(genes)
    for genes in ([1.0] * 3, [np.nan] * 4):
        with pytest.raises(ValueError, match="expected 4 numbers"):
            space.repair(genes, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlp_step": 0}, r"mlp_step: expected a whole number from 1 to 48, got 0"),
        ({"mlp_step": 49}, r"mlp_step: expected a whole number from 1 to 48, got 49"),
        ({"mlp_step": 2.5}, r"mlp_step: .* got 2\.5"),
        ({"mlp_step": True}, r"mlp_step: .* got True"),
        ({"min_layers": 0}, r"min_layers: expected a whole number from 1 to 4, got 0"),
        ({"min_layers": 5}, r"min_layers: expected a whole number from 1 to 4, got 5"),
        ({"freeze_layers": [4]}, r"freeze_layers: expected a whole number from -4 to 3, got 4"),
        ({"freeze_attention": [-5]}, r"freeze_attention: .* got -5"),
        ({"freeze_mlp": ["first"]}, r"freeze_mlp: .* got 'first'"),
        ({"freeze_mlp": "01"}, r"freeze_mlp: expected a list of layers such as \[0, -1\], got '01'"),
        ({"freeze_mlp": 3}, r"freeze_mlp: expected a list"),
        ({"remove_mlp": "none"}, r"remove_mlp: expected true or false, got 'none'"),
        ({"min_decoder_params": -0.1}, r"min_decoder_params: expected a fraction from 0 to 1 .* got -0\.1"),
        ({"max_decoder_params": 60}, r"max_decoder_params: expected a fraction from 0 to 1 .* got 60"),
        ({"max_decoder_params": float("nan")}, r"max_decoder_params: .* got nan"),
        ({"max_decoder_params": "half"}, r"max_decoder_params: .* got 'half'"),
        (
            {"min_decoder_params": 0.8, "max_decoder_params": 0.5},
            r"at most max_decoder_params, which is 0\.5, got 0\.8",
        ),
        ({"freeze_layers": [0, 1, 2], "max_decoder_params": 0.6}, r"expected at least 0\.75.*smallest.*got 0\.6"),
        ({**DEPTH, "min_layers": 3, "max_decoder_params": 0.6}, r"expected at least 0\.7500, .* lower min_layers"),
        (
            {**DEPTH, "min_decoder_params": 0.6, "max_decoder_params": 0.7},
            r"none from 0\.6 to 0\.7\. .* 0\.2500 to 1 in steps",
        ),
        ({**DEPTH, "mlp_widths": True}, r"whole_layers: expected it alone, got it with mlp_widths"),
        ({**DEPTH, "same_for_all_layers": True}, r"whole_layers: .* with same_for_all_layers"),
        ({"freeze_layers": [0, 1, 2, 3]}, r"more than one option, got only blocks that stay dense"),
        ({**WIDTHS, "attention_widths": False, "mlp_widths": False}, r"more than one option"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_space(**options)


@pytest.mark.parametrize("group", GROUPS)
def test_config_group_builds_a_space_with_every_setting_spelt_out(group: str) -> None:
    config = OmegaConf.load(CONF / f"{group}.yaml")
    config.freeze_layers = [0, -1]  # reaches the constructor as a ListConfig
    space = hydra.utils.instantiate(config)(make_spec(layers=30, mlp_channels=1536))
    assert isinstance(space, SearchSpace)
    candidate = space.sample(np.random.default_rng(0))
    dense = LayerShape(6, 3, 1536)
    assert candidate.layers[0] == candidate.layers[-1] == dense
    assert 0.4 <= fraction(space, candidate) <= 1
    constructor = set(SearchSpace.__init__.__annotations__) - {"spec", "return"}
    assert set(config) - {"_target_", "_partial_"} == constructor


def test_config_groups_are_what_their_names_say() -> None:
    def shapes(group: str) -> set[LayerShape]:
        space = hydra.utils.instantiate(OmegaConf.load(CONF / f"{group}.yaml"))(SMOLLM2)
        rng = np.random.default_rng(0)
        return {shape for _ in range(50) for shape in space.decode(rng.integers(space.levels)).layers}

    assert {path.stem for path in CONF.glob("*.yaml")} == set(GROUPS)
    assert shapes("depth") == {LayerShape(0, 0, 0), LayerShape(9, 3, 1536)}
    assert all(shape.kv_heads and shape.mlp_channels for shape in shapes("width") | shapes("uniform"))
    assert {shape.mlp_channels for shape in shapes("heads")} == {1536}
    assert {0, 768, 1536} <= {shape.mlp_channels for shape in shapes("full")}
    assert {0, 1, 2, 3} == {shape.kv_heads for shape in shapes("full")}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("deploy", ["any", "uniform", "llamacpp", "vllm"])
def test_every_design_is_one_that_the_engine_runs(name: str, deploy: str) -> None:
    settings = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
    assert isinstance(settings, dict)
    arguments = {str(key): value for key, value in settings.items() if not str(key).startswith("_")}
    arguments |= {"deploy": deploy, "mlp_step": 96}
    if name == "heads" and deploy == "vllm":  # nothing is left of it but blocks that are gone
        arguments["min_decoder_params"] = 0.8
    space = SearchSpace(SMOLLM2, **arguments)
    for candidate in space.samples(30):
        kept = [shape for shape in candidate.layers if not shape.gone]
        if deploy == "uniform":
            assert len(set(kept)) == 1
        if deploy == "vllm":
            assert {shape.query_heads for shape in kept} <= {0, 9}
            assert {shape.kv_heads for shape in kept} <= {0, 1, 3}
            assert all(shape.mlp_channels % 256 == 0 for shape in kept)
        if deploy == "llamacpp":
            assert all(shape.mlp_channels % 32 == 0 for shape in kept)
    if deploy == "vllm" and "full" in name:
        assert set(space.mlp_shapes) == {768, 1536}  # of 96 and 256


def test_an_engine_that_cannot_be_served_is_refused() -> None:
    with pytest.raises(UserError, match=r"space\.deploy: expected one of any, uniform, llamacpp, vllm, got 'onnx'"):
        tiny_space(deploy="onnx")
    gemma = make_spec(family="gemma3_text")
    with pytest.raises(UserError, match=r"space\.deploy=vllm: expected .* llama, mistral, got gemma3_text"):
        SearchSpace(gemma, deploy="vllm", mlp_step=16)
    with pytest.raises(UserError, match=r"expected no frozen layers"):
        tiny_space(deploy="uniform", freeze_layers=[0])
    with pytest.raises(UserError, match="mlp_step"):
        tiny_space(deploy="llamacpp", mlp_step=9)  # 288 channels, of 48
