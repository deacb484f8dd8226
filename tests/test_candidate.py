"""LayerShape, Candidate and ModelSpec: what they refuse, and that a key names an architecture."""

import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from space.candidate import Candidate, LayerShape
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
    again = Candidate.from_rows(candidate.to_json())
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


def test_dense_candidate_keeps_everything() -> None:
    assert Candidate.dense(SPEC).to_json() == [[4, 2, 24], [4, 2, 24]]


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


def test_impossible_specs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ModelSpec\.layers: expected a positive count, got 0"):
        replace(SPEC, layers=0)
    with pytest.raises(ValueError, match="multiple of kv_heads, got 4 and 3"):
        replace(SPEC, kv_heads=3)
