"""LayerShape, Candidate and ModelSpec: what they refuse, and that a key names an architecture."""

import json
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from space.candidate import KINDS, Candidate, LayerShape
from space.spec import ModelSpec

SPEC = ModelSpec("tiny", "0", "llama", 2, 16, 4, 2, 4, 24, 50, True)


@st.composite
def shapes(draw: st.DrawFn) -> LayerShape:
    kv_heads = draw(st.integers(0, 8))
    return LayerShape(kv_heads * draw(st.integers(1, 8)), kv_heads, draw(st.integers(0, 10_000)))


candidates = st.lists(shapes(), min_size=1, max_size=6).map(lambda layers: Candidate(tuple(layers)))


@settings(deadline=None)
@given(candidates)
def test_json_round_trip_keeps_the_candidate_and_its_key(candidate: Candidate) -> None:
    again = Candidate.from_json(json.loads(json.dumps(candidate.to_json())))
    assert again == candidate
    assert again.key == candidate.key
    assert candidate.key[0].isalpha()
    assert candidate.key.isalnum()


@settings(deadline=None)
@given(candidates, candidates)
def test_keys_are_equal_exactly_when_candidates_are(one: Candidate, other: Candidate) -> None:
    assert (one.key == other.key) == (one == other)


def test_key_is_the_same_in_another_process() -> None:
    code = "from space.candidate import *; print(Candidate((LayerShape(4, 2, 24), LayerShape(0, 0, 0))).key)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == Candidate((LayerShape(4, 2, 24), LayerShape(0, 0, 0))).key


def test_keys_are_those_that_designs_have_always_had() -> None:
    assert Candidate.from_rows([[4, 2, 24], [0, 0, 0]]).key == "s84ebc445b25"
    assert Candidate.from_rows([[9, 3, 1536]] * 30).key == "s0371d9a44f2"
    assert Candidate.from_rows([[9, 3, 1536], [0, 0, 768], [9, 1, 0]]).key == "s86258a26313"


@dataclass(frozen=True, order=True)
class Finer(LayerShape):
    """A layer with a further choice."""

    attention_bits: int = 16
    mlp_bits: int = 16


@dataclass(frozen=True, order=True)
class Wider(Candidate):
    """A candidate with a further choice of the whole model."""

    vocab: int = 0


def test_further_choices_change_nothing_of_designs_that_do_not_make_them() -> None:
    plain = Candidate.from_rows([[4, 2, 24], [0, 0, 0]])
    layers = Finer(4, 2, 24), Finer(0, 0, 0)
    assert Wider(layers).to_json() == plain.to_json() == {"layers": [[4, 2, 24], [0, 0, 0]]}
    assert Wider(layers).key == plain.key
    made = Wider((Finer(4, 2, 24, attention_bits=8), Finer(0, 0, 0, mlp_bits=4)), vocab=40)
    assert made.to_json() == {"layers": [[4, 2, 24, 0, 0, 0, 8], [0, 0, 0, 0, 0, 0, 16, 4]], "vocab": 40}
    assert len({made.key, Wider(layers, vocab=40).key, Wider(made.layers).key, plain.key}) == 4
    assert Wider.from_json(Wider(plain.layers, vocab=40).to_json()) == Wider(plain.layers, vocab=40)


@settings(deadline=None)
@given(st.lists(candidates, max_size=8))
def test_candidates_are_ordered_by_their_rows(drawn: list[Candidate]) -> None:
    by_rows = sorted(drawn, key=lambda candidate: candidate.to_json()["layers"])
    assert [candidate.key for candidate in sorted(drawn)] == [candidate.key for candidate in by_rows]


def test_dense_candidate_keeps_everything() -> None:
    assert Candidate.dense(SPEC).to_json() == {"layers": [[4, 2, 24], [4, 2, 24]]}


def test_every_field_of_a_layer_belongs_to_one_kind_of_block() -> None:
    names = [name for names in KINDS.values() for name in names]
    assert sorted(names) == sorted(field.name for field in fields(LayerShape))


@given(shapes())
def test_a_layer_is_its_blocks_options(shape: LayerShape) -> None:
    assert LayerShape.of(**{kind: shape.option(kind) for kind in KINDS}) == shape
    assert LayerShape.of(mlp=shape.option("mlp")) == replace(shape, query_heads=0, kv_heads=0)
    assert shape.gone == (shape == LayerShape.of())
    assert [shape.keeps(kind) for kind in KINDS] == [shape.kv_heads > 0, shape.mlp_channels > 0]


def test_shape_says_what_is_left() -> None:
    assert LayerShape(0, 0, 0).gone
    assert not LayerShape(0, 0, 8).gone
    assert not LayerShape(2, 1, 0).gone
    assert LayerShape(6, 2, 0).queries_per_group == 3
    assert LayerShape(0, 0, 8).queries_per_group == 0


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ((-2, 1, 8), "counts of at least 0"),
        ((2, 1, -8), "counts of at least 0"),
        ((0, 1, 8), "together or not at all, got 0 and 1"),
        ((2, 0, 8), "together or not at all, got 2 and 0"),
        ((3, 2, 8), "multiple of kv_heads, got 3 and 2"),
    ],
)
def test_impossible_shapes_are_refused(counts: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LayerShape(*counts)


def test_row_with_a_missing_count_is_refused_by_its_layer() -> None:
    with pytest.raises(ValueError, match=r"layer 1: expected \[query_heads, kv_heads, mlp_channels\], got \[4, 2\]"):
        Candidate.from_rows([[4, 2, 24], [4, 2]])


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ([[4, 2, 24]], r"expected a mapping with layers, vocabulary, embedding_type, head_type, got \[\["),
        ({"rows": []}, "expected a mapping with layers"),
        (
            {"layers": [[4, 2, 24]], "width": 5},
            "expected a mapping with layers, .*, got .*width",
        ),
        ({"layers": []}, "expected a list of layers"),
        ({"layers": "none"}, "expected a list of layers"),
        ({"layers": [[4, 2, 24], 5]}, "layer 1: expected .*, got 5"),
        ({"layers": [[4, 2, 24.0]]}, "layer 0: expected"),
        ({"layers": [[4, 2, True]]}, "layer 0: expected"),
        ({"layers": [[4, 2, 24, 8]]}, "expected a type from 0 to 5, got 8"),
        ({"layers": [[3, 2, 24]]}, "multiple of kv_heads"),
    ],
    ids=str,
)
def test_what_is_no_form_of_a_candidate_is_refused(form: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Candidate.from_json(form)


def test_impossible_specs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ModelSpec\.layers: expected a positive count, got 0"):
        replace(SPEC, layers=0)
    with pytest.raises(ValueError, match="multiple of kv_heads, got 4 and 3"):
        replace(SPEC, kv_heads=3)
    with pytest.raises(ValueError, match="mlp_norms: expected a count of at least 0, got -1"):
        replace(SPEC, mlp_norms=-1)
