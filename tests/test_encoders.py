"""Encoders with layers of BERT: permuted = dense, views = exports, padding is never looked at."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ENCODERS, fitting, random_tokens, tiny_model
from helpers_formats import answer_here
from transformers import AutoModel

from evaluators.cost import kv_bytes, macs_per_token
from evaluators.layer_major import forward_of
from evaluators.prefix import PrefixForward
from space.candidate import Candidate
from space.formats.checkpoint import Subnet
from space.formats.hf.export import export_checkpoint
from space.formats.requirements import CHECKED, checked_in
from space.models.architectures import architecture_of
from space.models.modeling import modeling_text
from space.models.refusals import positions
from space.models.stack import layers_of
from space.size import decoder_params, total_params
from space.supernet.corrective_refit import correct
from space.supernet.placement import Placement
from space.supernet.shared import SharedWeights
from space.supernet.supernet import Supernet

pytestmark = pytest.mark.usefixtures("modules_cache")

DENSE = (6, 6, 48)
GONE = (0, 0, 0)
SHAPES = {
    "dense": [DENSE] * 4,
    "narrow": [(2, 2, 16)] * 4,
    "channels": [(6, 6, 16)] * 4,
    "shallow": [DENSE, GONE, GONE, DENSE],
    "holes": [(0, 0, 48), (3, 3, 0), GONE, (4, 4, 24)],
    "late": [GONE, DENSE, DENSE, DENSE],
}
MakeSupernet = Callable[..., Supernet]


@torch.inference_mode()
def states_of(model: Any, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    states: torch.Tensor = model(tokens, attention_mask=mask).last_hidden_state
    return states


@pytest.mark.parametrize("family", ENCODERS)
def test_the_permuted_model_computes_the_dense_function(family: str, make_supernet: MakeSupernet) -> None:
    dense, _ = tiny_model(family)
    supernet, tokens = make_supernet(family), random_tokens(3, 20, seed=1)
    layout = architecture_of(family).mlp
    weights = [layers_of(each)[0].get_submodule(layout.path(layout.output)).weight for each in (dense, supernet.model)]
    assert not torch.equal(*weights)
    expected = states_of(dense, tokens)
    torch.testing.assert_close(states_of(supernet.model, tokens), expected, atol=2e-5, rtol=1e-4)
    assert torch.equal(
        states_of(supernet.view(Candidate.dense(supernet.spec)), tokens), states_of(supernet.model, tokens)
    )


@pytest.mark.parametrize("family", ENCODERS)
def test_models_in_bfloat16_are_calibrated_as_in_float32(family: str, make_supernet: MakeSupernet) -> None:
    """Embeddings with a norm of their own are in bfloat16, where calibration has float32 go through layers."""
    narrow, wide, tokens = make_supernet(family, torch.bfloat16), make_supernet(family), random_tokens(3, 20, seed=1)
    assert narrow.model.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.influence, wide.influence, atol=0.02, rtol=0.1)
    torch.testing.assert_close(
        states_of(narrow.model, tokens).float(), states_of(wide.model, tokens), atol=0.15, rtol=0.1
    )


@pytest.mark.parametrize("family", ENCODERS)
def test_sizes_are_those_of_the_modules(family: str, make_supernet: MakeSupernet) -> None:
    supernet = make_supernet(family)
    for rows in SHAPES.values():
        candidate = fitting(family, rows)
        view = supernet.view(candidate)
        assert sum(p.numel() for p in view.parameters()) == total_params(supernet.spec, candidate)
        assert sum(p.numel() for p in layers_of(view).parameters()) == decoder_params(supernet.spec, candidate)
    dense = Candidate.dense(supernet.spec)
    assert kv_bytes(supernet.spec, dense, context=8) == 0
    matrices = 3 if supernet.spec.gated else 2
    attention = 2 * 36 * 6 * (6 + supernet.spec.kv_heads)
    assert macs_per_token(supernet.spec, dense, context=8) == 4 * (attention + 2 * 36 * 8 + matrices * 36 * 48)


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@pytest.mark.parametrize("rows", SHAPES.values(), ids=SHAPES)
def test_padding_is_never_looked_at(family: str, rows: Any, make_supernet: MakeSupernet) -> None:
    """A batch of two lengths gives each what it gives alone."""
    view = make_supernet(family).view(Candidate.from_rows(rows))
    tokens, mask = random_tokens(2, 12), torch.ones(2, 12, dtype=torch.int64)
    tokens[1, 7:] = mask[1, 7:] = 0
    together = states_of(view, tokens, mask)
    torch.testing.assert_close(together[0], states_of(view, tokens[:1])[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[1, :7], states_of(view, tokens[1:, :7])[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize("rows", SHAPES.values(), ids=SHAPES)
def test_exports_reload(
    family: str, rows: Any, make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("space.formats.verify.answer_of", answer_here)
    supernet, candidate = make_supernet(family), fitting(family, rows)
    companions = {"modules.json": b"[]", "1_Pooling/config.json": b"{}"}
    subnet = Subnet(supernet.model.config, None, supernet.spec, candidate, companions=companions)
    done = export_checkpoint(supernet.view(candidate), subnet, tmp_path / "out", card={})
    stock = (DENSE, GONE, (6, 6, 16), *([] if architecture_of(family).heads_fill else [(2, 2, 16)]))
    whole = all(row in stock for row in rows) and not (supernet.spec.bare_first and rows[0] == GONE)
    assert done.trust_remote_code != whole
    assert done.verification.caches == {}
    assert (tmp_path / "out" / "1_Pooling" / "config.json").read_bytes() == b"{}"
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["model_type"] == (family if whole else f"pruned_{family}")
    model, loading = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=not whole, output_loading_info=True)
    assert not any(loading.values()), loading
    tokens = random_tokens(2, 20, seed=2)
    assert torch.equal(states_of(model.eval(), tokens), states_of(supernet.view(candidate), tokens))


@pytest.mark.parametrize("rows", SHAPES.values(), ids=SHAPES)
def test_layers_that_wait_on_the_host_have_their_kind_of_attention(rows: Any, make_supernet: MakeSupernet) -> None:
    here, there = (make_supernet("modernbert", place=place) for place in (None, Placement(torch.device("cpu"), True)))
    tokens, candidate = random_tokens(2, 20), Candidate.from_rows(rows)
    expected = states_of(here.view(candidate), tokens)
    torch.testing.assert_close(states_of(there.view(candidate), tokens), expected, atol=1e-6, rtol=1e-6)
    (states,) = forward_of(there, tokens, batch_size=2, cache_bytes=0)(candidate)
    torch.testing.assert_close(states, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", ENCODERS)
def test_first_layers_that_candidates_share_are_run_once(family: str, make_supernet: MakeSupernet) -> None:
    supernet, tokens = make_supernet(family), random_tokens(3, 12)
    forward = PrefixForward(supernet, tokens, batch_size=2)
    for rows in ([DENSE] * 4, [DENSE, DENSE, (2, 2, 16), DENSE], [DENSE, DENSE, (2, 2, 16), GONE]):
        candidate = fitting(family, rows)
        states = torch.cat([*forward(candidate)])
        torch.testing.assert_close(states, states_of(supernet.view(candidate), tokens), atol=1e-6, rtol=1e-6)
    assert forward.layers_run < forward.layers_total


def test_a_corrective_refit_comes_nearer_to_the_dense_model(make_supernet: MakeSupernet) -> None:
    supernet, candidate = make_supernet("bert"), Candidate.from_rows([(4, 4, 32), (0, 0, 32), (4, 4, 32), (4, 4, 0)])
    tokens = random_tokens(64, 24, seed=3)
    (correction,) = correct(supernet, [candidate], tokens)
    dense = states_of(supernet.model, tokens)
    before, after = (
        (states_of(view, tokens) - dense).square().mean()
        for view in (supernet.view(candidate), supernet.view(candidate, correction))
    )
    assert after < before


@pytest.mark.parametrize("family", ENCODERS)
def test_shared_weights_give_the_view_and_take_gradients(family: str, make_supernet: MakeSupernet) -> None:
    supernet, tokens = make_supernet(family), random_tokens(2, 12)
    for name in ("narrow", "holes"):
        candidate = fitting(family, SHAPES[name])
        shared = SharedWeights(supernet, [candidate], lambda name: True)
        hidden = shared.hidden(candidate, tokens)
        torch.testing.assert_close(hidden, states_of(supernet.view(candidate), tokens), atol=2e-5, rtol=1e-4)
        hidden.square().sum().backward()
        stack = architecture_of(family).stack
        places = tuple(f"{name}." for name in (stack.layers, stack.norm) if name is not None)
        assert all(name.startswith(places) for name in shared.parameters)
        reached = [name for name, p in shared.parameters.items() if p.grad is not None]
        assert all(any(name.startswith(place) for name in reached) for place in places)


@pytest.mark.parametrize("family", ENCODERS)
def test_the_norm_behind_a_block_stays_where_the_block_is_gone(family: str, make_supernet: MakeSupernet) -> None:
    """A hole is the same as a block that adds nothing."""
    supernet, tokens = make_supernet(family), random_tokens(2, 12)
    for kind, gone in (("attention", (0, 0, 48)), ("mlp", (6, 6, 0))):
        view = supernet.view(fitting(family, [DENSE, gone, DENSE, DENSE]))
        zeroed = supernet.view(Candidate.dense(supernet.spec), own=True)
        layout = architecture_of(family).blocks[kind]
        output: Any = layers_of(zeroed)[1].get_submodule(layout.path(layout.output))
        output.weight.zero_()
        output.bias.zero_()
        torch.testing.assert_close(states_of(view, tokens), states_of(zeroed, tokens), atol=1e-6, rtol=1e-5)


def test_exports_name_the_versions_that_run_them() -> None:
    said = {family: checked_in(tiny_model(family)[1]) for family in ("bert", "distilbert", "modernbert")}
    assert said["bert"] == CHECKED
    assert said["distilbert"] == said["modernbert"] == "transformers 5.19.0 and 5.24.0"
    assert "LEAST = (5, 19)" in modeling_text("distilbert")


@pytest.mark.parametrize("family", [family for family in ENCODERS if architecture_of(family).stack.positions])
def test_the_longest_text_is_as_long_as_the_model_takes(family: str) -> None:
    model, _ = tiny_model(family)
    longest = positions(model.config)
    assert longest is not None
    states_of(model, random_tokens(1, longest))
    with pytest.raises((IndexError, RuntimeError)):
        states_of(model, random_tokens(1, longest + 1))
