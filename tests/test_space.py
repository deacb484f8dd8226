"""SearchSpace: genes and candidates are inverse, whatever is drawn or repaired is valid, errors say what to do."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_space import (
    DEPTH,
    SMOLLM2,
    UNIFORM,
    WIDTHS,
    check_valid,
    fraction,
    make_spec,
    settings_for,
    spaces,
    specs,
    tiny_space,
)
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import conf
from conf.compose import composed
from conf.settings import instantiated
from space.candidate import Candidate, LayerShape
from space.errors import UserError
from space.size import decoder_params
from space.space import SearchSpace

GROUPS = ("depth", "full", "heads", "uniform", "width")
CONF = Path(conf.__file__).parent / "space"


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


def test_uniform_space_has_two_genes_and_one_shape() -> None:
    space = tiny_space(**UNIFORM, freeze_layers=[1])
    assert space.levels.tolist() == [6, 3]
    layers = space.sample(np.random.default_rng(1)).layers
    assert layers[1] == LayerShape(6, 3, 48)
    assert len({layers[0], layers[2], layers[3]}) == 1


def test_whole_layers_are_dense_or_gone() -> None:
    space = tiny_space(**DEPTH, freeze_mlp=[2], min_layers=2)
    assert space.levels.tolist() == [2, 2, 2]
    expected = Candidate.from_rows([[0, 0, 0], [6, 3, 48], [6, 3, 48], [0, 0, 0]])
    assert space.decode([0, 1, 0]) == expected
    assert not space.contains(space.decode([0, 0, 0]))


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


@pytest.mark.parametrize("group", GROUPS)
def test_config_group_builds_a_space_with_every_setting_spelt_out(group: str) -> None:
    config = composed(f"space={group}", "space.freeze_layers=[0,-1]")["space"]
    space = instantiated(config)(make_spec(layers=30, mlp_channels=1536))
    assert isinstance(space, SearchSpace)
    candidate = space.sample(np.random.default_rng(0))
    dense = LayerShape(6, 3, 1536)
    assert candidate.layers[0] == candidate.layers[-1] == dense
    assert 0.4 <= fraction(space, candidate) <= 1
    constructor = set(SearchSpace.__init__.__annotations__) - {"spec", "return"}
    assert set(config) - {"_target_", "_partial_"} == constructor


def test_config_groups_are_what_their_names_say() -> None:
    def shapes(group: str) -> set[LayerShape]:
        space = instantiated(composed(f"space={group}")["space"])(SMOLLM2)
        rng = np.random.default_rng(0)
        return {shape for _ in range(50) for shape in space.decode(rng.integers(space.levels)).layers}

    assert {path.stem for path in CONF.glob("*.yaml")} == set(GROUPS)
    assert shapes("depth") == {LayerShape(0, 0, 0), LayerShape(9, 3, 1536)}
    assert all(shape.kv_heads and shape.mlp_channels for shape in shapes("width") | shapes("uniform"))
    assert {shape.mlp_channels for shape in shapes("heads")} == {1536}
    assert {0, 768, 1536} <= {shape.mlp_channels for shape in shapes("full")}
    assert {0, 1, 2, 3} == {shape.kv_heads for shape in shapes("full")}


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("deploy", ["any", "uniform", "llamacpp", "sglang", "vllm"])
def test_every_design_is_one_that_the_engine_runs(name: str, deploy: str) -> None:
    settings = composed(f"space={name}")["space"]
    arguments = {str(key): value for key, value in settings.items() if not str(key).startswith("_")}
    arguments |= {"deploy": deploy, "mlp_step": 96}
    if name == "heads" and deploy in ("sglang", "vllm"):  # nothing is left of it but blocks that are gone
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
        if deploy == "sglang":
            assert {shape.kv_heads for shape in kept} <= {0, 3}
            assert all(shape.mlp_channels % 256 == 0 for shape in kept)
        if deploy == "llamacpp":
            assert all(shape.mlp_channels % 32 == 0 for shape in kept)
    if deploy == "vllm" and "full" in name:
        assert space.block_options["mlp"] == ((768,), (1536,))  # of 96 and 256
