"""Small and real spaces without a model, and the rules that a design of one has to fulfil."""

from __future__ import annotations

from typing import Any

from hypothesis import assume
from hypothesis import strategies as st

from space.candidate import Candidate
from space.errors import UserError
from space.size import decoder_params
from space.space import SearchSpace
from space.spec import ModelSpec


def make_spec(**changes: Any) -> ModelSpec:
    facts: dict[str, Any] = {"layers": 4, "hidden": 36, "query_heads": 6, "kv_heads": 3, "head_dim": 6}
    facts |= {"mlp_channels": 48, "vocab": 97, "tied_embeddings": True, "family": "llama"}
    return ModelSpec(name="tiny", digest="0", **(facts | changes))


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
        layers=draw(st.integers(1, max_layers)),
        hidden=draw(st.integers(1, 64)),
        kv_heads=kv_heads,
        query_heads=kv_heads * draw(st.integers(1, 4)),
        head_dim=draw(st.sampled_from([2, 6, 16])),
        mlp_channels=draw(st.integers(1, 200)),
        qkv_bias=draw(st.booleans()),
        o_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
        gated=draw(st.booleans()),
        norm_bias=draw(st.booleans()),
        attention_norms=draw(st.integers(1, 2)),
        mlp_norms=draw(st.integers(1, 2)),
        qk_norm=draw(st.booleans()),
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
