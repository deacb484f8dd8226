"""Channels inside the experts of mixtures: which are kept, what is lost without the others, and what these cost."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import MIXTURES, fitting, inputs_of, random_tokens, tiny_model
from helpers_experts import of_expert
from helpers_formats import answer_here
from safetensors import safe_open
from torch import Tensor

from evaluators.cost import cost_measure
from evaluators.latency.labels import timed_options, times_of_all
from evaluators.refit_error import refit_error_measure
from space.candidate import Candidate, LayerShape
from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.hf.export import export_checkpoint
from space.models.architectures import ARCHITECTURES
from space.models.stack import experts_of, layers_of
from space.size import mlp_params
from space.space import SearchSpace
from space.supernet.calibration import gather
from space.supernet.placement import Placement
from space.supernet.sizes import owned_bytes
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]
DENSE = (6, 3, 48)
NARROW = tuple(name for name in MIXTURES if tiny_model(name)[1].narrow_experts)


@torch.no_grad()
@pytest.mark.parametrize("family", MIXTURES)
def test_channels_of_experts_have_the_energy_of_what_each_adds_alone(family: str) -> None:
    """Told by what is lacking where a channel's column of the down projection is zero and all else is not."""
    model, _ = tiny_model(family)
    tokens, place = random_tokens(4, 16), Placement(torch.device("cpu"))
    learned = next(
        each
        for each in gather(model, tokens, forward_dtype=torch.float32, place=place, batch_size=2)
        if each.experts is not None
    )
    assert learned.experts is not None
    seen = list[tuple[Tensor, Tensor, Tensor]]()
    experts = experts_of(layers_of(model)[learned.index], ARCHITECTURES[family].mlp)
    handle = experts.register_forward_pre_hook(lambda module, given: seen.append(given))
    model(tokens)
    handle.remove()
    ((states, chosen, weights),) = seen
    for expert, channel in ((int(chosen[0, 0]), 0), (int(chosen[-1, -1]), 7)):
        token, at = torch.where(chosen == expert)
        added = list[Tensor]()
        for column in (1.0, 0.0):
            down = experts.down_proj[expert]
            (down[channel] if experts.is_transposed else down[:, channel]).mul_(column)
            each = [weights[t, a] * of_expert(experts, expert, states[t]) for t, a in zip(token, at, strict=True)]
            added.append(torch.stack(each))
        energy = (added[0] - added[1]).double().square().sum()
        torch.testing.assert_close(learned.experts.channels[expert, channel], energy, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("family", NARROW)
@torch.inference_mode()
def test_experts_keep_their_first_channels_as_if_the_others_gave_nothing(
    family: str, make_supernet: MakeSupernet
) -> None:
    supernet, tokens = make_supernet(family), random_tokens(3, 20)
    candidate = fitting(family, [(6, 3, 48, 0, 0, 4), DENSE, (6, 3, 48, 0, 0, 4), (6, 3, 48, 0, 0, 4)])
    whole = supernet.view(Candidate.dense(supernet.spec), own=True)
    for layer, shape in zip(layers_of(whole), candidate.layers, strict=True):
        if shape.expert_channels:
            experts = experts_of(layer, ARCHITECTURES[family].mlp)
            down = experts.down_proj.mT if experts.is_transposed else experts.down_proj
            down[:, :, shape.expert_channels :] = 0
    view = supernet.view(candidate)
    expected = whole(tokens, use_cache=False).logits
    torch.testing.assert_close(view(tokens, use_cache=False).logits, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(supernet.model(tokens, use_cache=False).logits, expected, atol=1e-2)
    for layer, shape in zip(layers_of(view), candidate.layers, strict=True):
        if shape.expert_channels:
            experts = experts_of(layer, ARCHITECTURES[family].mlp)
            assert all(tensor.is_contiguous() for tensor in experts.parameters())


@pytest.mark.parametrize("family", NARROW)
def test_what_narrower_experts_hold_and_lose_is_what_is_said(family: str, make_supernet: MakeSupernet) -> None:
    supernet = make_supernet(family)
    spec, index = supernet.spec, next(i for i in range(4) if i not in supernet.spec.plain_mlps)
    held = {tensor.untyped_storage().data_ptr() for tensor in supernet.model.parameters()}
    rows = [(6, 3, 16, 0, 0, 4) if layer == index else DENSE for layer in range(4)]
    view = supernet.view(fitting(family, rows))
    owned = sum(p.nbytes for p in view.parameters() if p.untyped_storage().data_ptr() not in held)
    assert owned == owned_bytes(spec, "float32", "mlp", (16, 0, 4))
    _, lost = supernet.lost_energy(index)
    pairs = [[lost(LayerShape(0, 0, experts, 0, 0, channels)) for channels in range(1, 8)] for experts in (3, 16, 48)]
    assert all(a > b for row in pairs for a, b in itertools.pairwise(row))
    assert all(a > b for column in zip(*pairs, strict=True) for a, b in itertools.pairwise(column))
    assert all(row[-1] > lost(LayerShape(0, 0, n)) for row, n in zip(pairs, (3, 16, 48), strict=True))
    measure = refit_error_measure(supernet)
    whole, cut = (measure.values(fitting(family, each))["refit_error"] for each in ([DENSE] * 4, rows))
    assert cut - whole == pytest.approx(lost(LayerShape(0, 0, 16, 0, 0, 4)))


def test_channels_of_experts_are_a_choice_of_each_layer_beside_their_number() -> None:
    _, spec = tiny_model("qwen3_moe", moe_intermediate_size=20)
    space = SearchSpace(spec, mlp_step=24, expert_widths=True, expert_step=8)
    counts = [3, 24, 48]
    expected = [(count, *width) for count in counts for width in ((0, 8), (0, 16), ())]
    params = [mlp_params(spec, option[0], option[2] if option[2:] else 0) for option in space.block_options["mlp"]]
    assert {*space.block_options["mlp"]} == {*expected, (56,)}
    (block,) = {block for block in space._blocks if block.kind == "mlp" and block.layers == (0,)}
    assert [*block.params] == sorted(block.params)
    assert len({*params}) == len(params)
    designs = space.samples(40)
    assert {shape.expert_channels for design in designs for shape in design.layers} == {0, 8, 16}
    assert all(space.decode(space.encode(design)) == design for design in designs)
    assert all(Candidate.from_json(design.to_json()) == design for design in designs)
    assert not any(design.layers[2].expert_channels for design in designs)  # a plain MLP
    uniform = SearchSpace(spec, deploy="uniform", mlp_step=24, expert_widths=True, expert_step=8)
    shapes = {shape for design in uniform.samples(40) for shape in design.layers if shape.mlp_channels != 56}
    assert {shape.expert_channels for shape in shapes} == {0, 8, 16}
    assert SearchSpace(spec, expert_widths=True).expert_step == 20  # all of them: there is nothing to choose
    assert SearchSpace(spec, expert_step=8).expert_step is None
    _, wide = tiny_model("qwen3_moe", moe_intermediate_size=768)
    assert SearchSpace(wide, expert_widths=True).expert_step == 192
    for step, said in ((12, "a multiple of 8, of which.* got 12"), (21, "a whole number from 1 to 20, got 21")):
        with pytest.raises(UserError, match=f"expert_step: expected {said}"):
            SearchSpace(spec, expert_widths=True, expert_step=step)


def test_channels_of_experts_cost_what_a_token_goes_through() -> None:
    _, spec = tiny_model("gpt_oss")
    dense, cut = (Candidate.from_rows([row] * 4) for row in (DENSE, (6, 3, 48, 0, 0, 6)))
    whole, fewer = (cost_measure(spec, context=8).values(each) for each in (dense, cut))
    assert whole["macs_per_token"] - fewer["macs_per_token"] == 4 * 3 * 3 * 2 * spec.hidden
    assert whole["params"] - fewer["params"] == 4 * 48 * (3 * 2 * spec.hidden + 2 * 2)  # with biases of gates and ups


def test_experts_are_timed_with_all_their_channels_and_most_of_them_with_each() -> None:
    options: list[tuple[int, ...]] = [(3,), (48,), (56,), (3, 0, 3), (48, 0, 3), (48, 0, 6), (3, 0, 6)]
    timed = timed_options("mlp", options)
    assert timed == [(3,), (48,), (56,), (48, 0, 3), (48, 0, 6)]
    ms = dict(zip(timed, (2.0, 4.0, 5.0, 1.0, 3.0), strict=True))
    assert times_of_all("mlp", ms, options) == ms | {(3, 0, 3): 0.5, (3, 0, 6): 1.5}


@pytest.mark.parametrize("family", ["glm4_moe", "ernie4_5_moe"])
def test_experts_keep_their_channels_where_shared_ones_have_theirs_by_the_same_number(
    family: str, make_supernet: MakeSupernet
) -> None:
    supernet = make_supernet(family)
    space = SearchSpace(supernet.spec, expert_widths=True)
    assert space.expert_step is None
    assert not any(option[2:] for option in space.block_options["mlp"])
    with pytest.raises(
        UserError, match=r"space\.expert_step: expected null for .*, got 8\. docs/families\.md says which"
    ):
        SearchSpace(supernet.spec, expert_step=8)
    with pytest.raises(ValueError, match="expected fewer channels of experts than 0, or 0 for all, got 4"):
        supernet.view(fitting(family, [DENSE, DENSE, DENSE, (6, 3, 48, 0, 0, 4)]))


@torch.inference_mode()
@pytest.mark.parametrize("family", ["qwen3_moe", "gpt_oss"])
def test_a_supernet_that_is_read_has_the_channels_of_one_that_is_prepared(
    family: str, make_supernet: MakeSupernet, tmp_path: Path
) -> None:
    (model, spec), tokens = tiny_model(family), random_tokens(2, 20)
    prepared = Supernet.prepare(model, spec, inputs_of(family, 12), tmp_path / "own", dtype=torch.float32)
    candidate = fitting(family, [(6, 3, 9, 0, 0, 4), DENSE, (6, 3, 16, 0, 0, 4), (4, 2, 48, 0, 0, 4)])
    logits, again = (each.view(candidate)(tokens).logits for each in (prepared, make_supernet(family)))
    assert torch.equal(logits, again)


@pytest.mark.parametrize(
    ("family", "key", "name"),
    [
        ("mixtral", "intermediate_size", "block_sparse_moe.experts.15.w1"),
        ("qwen2_moe", "moe_intermediate_size", "mlp.experts.15.up_proj"),
    ],
)
def test_equal_layers_are_a_stock_checkpoint_with_a_smaller_number(
    family: str, key: str, name: str, make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("space.formats.verify.answer_of", answer_here)
    supernet, candidate = make_supernet(family), Candidate.from_rows([(6, 3, 16, 0, 0, 4)] * 4)
    subnet = Subnet(supernet.model.config, None, supernet.spec, candidate)
    done = export_checkpoint(supernet.view(candidate), subnet, tmp_path / "pruned", card={})
    config = json.loads((done.directory / "config.json").read_text())
    assert config[key] == 4
    assert config["model_type"] == family
    assert not done.trust_remote_code
    with safe_open(done.directory / "model.safetensors", framework="pt") as stored:
        assert stored.get_slice(f"model.layers.3.{name}.weight").get_shape() == [4, supernet.spec.hidden]
    card = (done.directory / "README.md").read_text()
    assert "channels of each" in card
    assert "| 0 to 3 | 0 to 3 | 6 | 3 | 16 | 4 |" in " ".join(card.split("\n")).replace("  ", " ")
    assert "16 of 48 experts, each of 4 of 8 channels" in (done.directory / "layers.svg").read_text()
