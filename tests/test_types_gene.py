"""Types of matrices as a choice of every block: which designs there are, and views that compute what files compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_tokens
from helpers_formats import supernet

from space.candidate import HEAD, Candidate, LayerShape
from space.errors import UserError
from space.rounding.rounded import GGML, Rounded
from space.space import SearchSpace
from space.spec import ModelSpec
from space.supernet.grams import read_gram
from space.supernet.supernet import Supernet
from space.types import GGUF_TYPES

SPEC = ModelSpec("tiny", "0", "llama", 4, 96, 6, 3, 32, 64, 400, False)
Q8, Q4 = GGUF_TYPES.index("q8_0"), GGUF_TYPES.index("q4_0")
TYPES = ("f16", "q8_0", "q4_0")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    return supernet("llama", tmp_path_factory.mktemp("typed") / "supernet", head_dim=32, tie_word_embeddings=False)


@pytest.fixture(scope="module")
def knowing(tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    """What was prepared for types."""
    return supernet(
        "llama", tmp_path_factory.mktemp("typed") / "supernet", head_dim=32, tie_word_embeddings=False, read=True
    )


def space(spec: ModelSpec = SPEC, **changes: Any) -> SearchSpace:
    return SearchSpace(spec, **{"merge_groups": True, "mlp_step": 32, "types": TYPES, **changes})


@pytest.mark.parametrize("changes", [{}, {"same_for_all_layers": True}, {"whole_layers": True}])
def test_designs_with_types_have_genes_keys_and_a_json_form(changes: dict[str, bool]) -> None:
    if "whole_layers" in changes:
        changes = {**changes, "attention_widths": False, "merge_groups": False, "mlp_widths": False}
    designs = space(**changes)
    assert designs.types == (Q8, Q4)
    assert designs.decode(designs.levels - 1) == Candidate.dense(SPEC)
    drawn = designs.samples(60)
    for candidate in drawn:
        assert designs.contains(candidate)
        assert Candidate.from_json(candidate.to_json()) == candidate
        assert designs.decode(designs.encode(candidate)) == candidate
    assert {candidate.embedding_type for candidate in drawn} == {candidate.head_type for candidate in drawn}
    counts = np.bincount([shape.mlp_type for candidate in drawn for shape in candidate.layers], minlength=Q4 + 1)
    assert min(counts[[0, Q8, Q4]]) > 0.15 * counts.sum()
    assert sum(candidate.is_rounded for candidate in drawn) > len(drawn) / 2
    plain = space(**changes, types=())
    assert plain.contains(drawn[0].unrounded)
    for rounded in (drawn[0], Candidate(drawn[0].unrounded.layers, head_type=Q4)):
        with pytest.raises(UserError, match="Take a design of this space"):
            plain.encode(rounded)


def test_the_dense_model_in_each_type_is_written_as_llama_cpp_does() -> None:
    eight, four = space().rounded_ladder()
    assert {shape.row for shape in eight.layers} == {(6, 3, 64, Q8, Q8)}
    assert {shape.row for shape in four.layers} == {(6, 3, 64, Q4, Q4)}
    assert (four.embedding_type, four.head_type) == (Q4, Q8)
    assert all(design.unrounded == Candidate.dense(SPEC) for design in (eight, four))
    assert not any(design.is_rounded for design in space().uniform_ladder())
    assert space().uniform_ladder() == space(types=()).uniform_ladder()


def test_what_is_gone_has_no_type_and_what_no_block_divides_is_refused() -> None:
    with pytest.raises(ValueError, match="no type of a block that is gone"):
        LayerShape(0, 0, 64, attention_type=Q8)
    with pytest.raises(ValueError, match="a type from 0 to 5"):
        LayerShape(6, 3, 64, mlp_type=6)
    with pytest.raises(UserError, match="among f16, q8_0"):
        space(types=["q3_k"])
    with pytest.raises(UserError, match=r"heads, times their width, to be .* got 16, 48\. .*widths=f"):
        space(ModelSpec("tiny", "0", "llama", 4, 96, 6, 3, 16, 64, 400, True), merge_groups=False)
    with pytest.raises(UserError, match="hidden size to be multiples of 32"):
        space(ModelSpec("tiny", "0", "llama", 4, 36, 6, 3, 32, 64, 400, True))
    with pytest.raises(UserError, match=r"space.types: expected \[\] where space.vocabulary"):
        space(vocabulary=[0.5])


def design(net: Supernet, kind: int) -> Candidate:
    rows = [(6, 3, 64, kind, kind), (4, 2, 32, kind, kind), (6, 1, 64, kind, kind), (3, 3, 32, kind, kind)]
    return Candidate.from_rows(rows, embedding_type=kind, head_type=kind)


@pytest.mark.parametrize("kind", [Q8, Q4])
@pytest.mark.parametrize("prepared", ["net", "knowing"])
def test_a_view_holds_the_values_of_its_codes(prepared: str, kind: int, request: pytest.FixtureRequest) -> None:
    net: Supernet = request.getfixturevalue(prepared)
    candidate, tokens = design(net, kind), random_tokens(2, 24)
    view, plain = net.view(candidate), net.view(candidate.unrounded)
    state, before = view.state_dict(), plain.state_dict()
    seen = set()
    for index, of, codes in net.codes(candidate):
        for name, rounded in codes.items():
            module = "self_attn" if of == "attention" else "mlp"
            weight = f"model.layers.{index}.{module}.{name}.weight"
            assert rounded.ggml == GGML[GGUF_TYPES[kind]]
            torch.testing.assert_close(state[weight], rounded.values, rtol=0, atol=0)
            span = float(before[weight].abs().max())
            assert 0 < float((state[weight] - before[weight]).abs().max()) < span * (0.02 if kind == Q8 else 0.4)
            seen.add(weight)
    assert seen == {name for name, tensor in state.items() if tensor.ndim == 2 and "layers" in name}
    for name in ("model.embed_tokens.weight", "lm_head.weight")[: 2 if prepared == "net" else 1]:
        torch.testing.assert_close(state[name], Rounded.nearest(before[name], GGML[GGUF_TYPES[kind]]).values)
    for name, tensor in state.items():
        if name.endswith("bias") or "norm" in name:
            torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    logits = [model(tokens).logits for model in (view, plain, net.dense())]
    assert 0 < float((logits[0] - logits[1]).norm()) < (0.05 if kind == Q8 else 0.5) * float(logits[1].norm())
    torch.testing.assert_close(net.view(candidate)(tokens).logits, logits[0], rtol=0, atol=0)
    own = net.view(candidate, own=True)
    torch.testing.assert_close(own(tokens).logits, logits[0])


def test_healed_weights_are_rounded_too(net: Supernet) -> None:
    name = "layers.1.mlp.up_proj.weight"
    weight = net.model.get_parameter(f"model.{name}").detach()
    healed, candidate = net.with_weights({name: weight * 1.5}), design(net, Q8)
    changed = healed.view(candidate).state_dict()[f"model.{name}"]
    torch.testing.assert_close(changed, Rounded.nearest(1.5 * weight[:32], GGML["q8_0"]).values)
    kept = net.view(candidate).state_dict()[f"model.{name}"]
    torch.testing.assert_close(kept, Rounded.nearest(weight[:32], GGML["q8_0"]).values)


@torch.no_grad()
def test_input_projections_and_the_head_are_rounded_with_what_they_read(knowing: Supernet, net: Supernet) -> None:
    """Of the dense model, on the calibration text: brute-force Gram matrices, and less error than nearest values."""
    tokens, read = random_tokens(12, 24), dict[str, torch.Tensor]()
    model = knowing.dense()
    names = [f"model.layers.{index}.{name}" for index in range(4) for name in ("self_attn.q_proj", "mlp.gate_proj")]
    names.append("lm_head")
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, given, name=name: read.__setitem__(name, given[0].flatten(0, 1))
        )
        for name in names
    ]
    model(tokens)
    for handle in handles:
        handle.remove()
    dense = Candidate.dense(knowing.spec)
    rows = [(*shape.row[:3], Q4, Q4) for shape in dense.layers]
    rounded = Candidate.from_rows(rows, embedding_type=Q4, head_type=Q4)
    states = [each.state_dict() for each in (knowing.view(rounded), net.view(rounded), model)]
    for name, rows_read in read.items():
        whole = rows_read.T @ rows_read / len(rows_read)
        whole.diagonal().add_(0.01 * whole.diagonal().mean())
        index = int(name.split(".")[2]) if "layers" in name else 0
        kind = {"self_attn": "attention", "mlp": "mlp"}.get(name.split(".")[-2] if "layers" in name else "", HEAD)
        gram = read_gram(knowing._files, kind, torch.device("cpu"), index)
        assert gram is not None
        torch.testing.assert_close(gram, whole, rtol=1e-3, atol=1e-5)
        errors = [(rows_read @ (state[f"{name}.weight"] - states[2][f"{name}.weight"]).T).norm() for state in states]
        assert 0 < errors[0] < 0.85 * errors[1], name
    assert read_gram(net._files, HEAD, torch.device("cpu")) is None


def test_merged_groups_are_rounded_with_what_they_read(knowing: Supernet) -> None:
    (codes,) = (c for index, kind, c in knowing.codes(design(knowing, Q8)) if (index, kind) == (2, "attention"))
    plain = knowing.view(design(knowing, Q8).unrounded).state_dict()
    for name, rounded in codes.items():
        weight = plain[f"model.layers.2.self_attn.{name}.weight"]
        alike = torch.equal(rounded.values, Rounded.nearest(weight, GGML["q8_0"]).values)
        assert alike == (name == "o_proj")
