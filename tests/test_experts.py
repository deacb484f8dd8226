"""Mixtures of experts: how experts are ordered, what is left of them routes as it should, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import attrgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import MIXTURES, fitting, random_tokens, save_dense, tiny_model
from helpers_experts import CUT, DENSE, mlp_of, of_expert, router_of
from helpers_formats import answer_here
from safetensors import safe_open
from torch import Tensor
from torch.nn import functional as F

from evaluators.applicable import require_of_model
from evaluators.cost import cost_measure
from space.candidate import Candidate
from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.hf.export import export_checkpoint
from space.formats.traced.export import check_traced
from space.models.architectures import ARCHITECTURES
from space.models.loading import load_model
from space.models.stack import layers_of
from space.options import mlp_options
from space.space import SearchSpace
from space.supernet.calibration import gather
from space.supernet.experts import ExpertSums, expert_order
from space.supernet.placement import Placement
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]
SIGMOID = (
    "glm4_moe",
    "dots1",
    "exaone_moe",
    "hy_v3",
    "minimax_m2",
    "solar_open",
)  # families whose scores are no probabilities


def routed(family: str, config: Any, mlp: Any, states: Tensor, kept: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a router gives where only the first experts are there to be chosen, from the definition."""
    router, layout, active = router_of(family, mlp), ARCHITECTURES[family].mlp.routed, config.num_experts_per_tok
    logits = F.linear(states.reshape(-1, states.shape[-1]), router.weight, getattr(router, "bias", None))
    logits[:, kept:] = -torch.inf
    if config.model_type in ("gpt_oss", "granitemoe"):
        chosen_logits, chosen = logits.topk(active)
        return logits, chosen_logits.softmax(-1), chosen
    scores = logits.sigmoid() if config.model_type in SIGMOID else logits.softmax(-1)
    assert layout is not None
    added = attrgetter(layout.correction)(mlp).flatten() if layout.correction else torch.zeros(())
    corrected = scores + added
    corrected[:, kept:] = -torch.inf
    chosen = corrected.topk(active).indices
    weights = scores.gather(1, chosen)
    if getattr(config, "norm_topk_prob", True):  # several always do
        weights = weights / weights.sum(-1, keepdim=True)
    scale = getattr(config, "routed_scaling_factor", getattr(config, "router_scaling_factor", 1.0))
    return logits, weights * scale, chosen


@torch.no_grad()
@pytest.mark.parametrize("family", MIXTURES)
def test_scores_are_those_of_each_experts_outputs_by_hand(family: str) -> None:
    model, spec = tiny_model(family)
    tokens, inputs = random_tokens(5, 16), list[Tensor]()
    for layer in layers_of(model):
        mlp_of(family, layer).register_forward_pre_hook(lambda module, given: inputs.append(given[0].flatten(0, 1)))
    model(tokens)
    place = Placement(torch.device("cpu"))
    for found in gather(model, tokens, forward_dtype=torch.float32, place=place, batch_size=2):
        mlp, states = mlp_of(family, layers_of(model)[found.index]), inputs[found.index]
        if found.index in spec.plain_mlps:
            assert found.experts is None
            continue
        _, weights, chosen = routed(family, model.config, mlp, states, 48)
        added = [list[Tensor]() for _ in range(48)]
        for state, numbers, shares in zip(states, chosen, weights, strict=True):
            for number, share in zip(numbers.tolist(), shares, strict=True):
                added[number].append((share * of_expert(mlp.experts, number, state)).norm())
        reap = torch.tensor([sum(norms) / max(len(norms), 1) for norms in added])
        energy = torch.tensor([sum(norm**2 for norm in norms) for norms in added])
        assert found.experts is not None
        assert found.experts.tokens.tolist() == [len(norms) for norms in added]
        torch.testing.assert_close(
            found.experts.norms / found.experts.tokens.clamp_min(1), reap.double(), atol=1e-5, rtol=1e-5
        )
        torch.testing.assert_close(found.experts.energy, energy.double(), atol=1e-5, rtol=1e-5)


def test_an_expert_of_few_strong_outputs_is_kept_by_reap_and_not_by_energy() -> None:
    sums = ExpertSums(
        *(torch.tensor(values, dtype=torch.float64) for values in ([2, 0, 90], [20, 0, 90], [200, 0, 300])),
        channels=torch.tensor([[20.0, 60.0], [0.0, 0.0], [90.0, 10.0]], dtype=torch.float64),
    )
    assert expert_order(sums, "reap").tolist() == [0, 2, 1]
    assert expert_order(sums, "energy").tolist() == [2, 0, 1]
    assert sums.reordered(torch.tensor([2, 0, 1])).lost.tolist() == [1.0, 0.4, 0.0, 0.0]
    with pytest.raises(UserError, match=r"supernet\.experts: expected one of reap, energy, got 'luck'"):
        expert_order(sums, "luck")


@torch.inference_mode()
@pytest.mark.parametrize("family", MIXTURES)
def test_tokens_of_dropped_experts_go_to_the_next_best_of_those_that_are_left(
    family: str, make_supernet: MakeSupernet
) -> None:
    supernet, tokens = make_supernet(family), random_tokens(3, 20)
    rows = [(6, 3, count) for count in (9, 48, 5, 20)]
    model, config = supernet.model, supernet.model.config
    for index, layer in enumerate(layers_of(model)):
        if index not in supernet.spec.plain_mlps:
            mlp = mlp_of(family, layer)
            router_of(family, mlp).register_forward_hook(
                lambda _, given, output, mlp=mlp, kept=rows[index][2]: routed(family, config, mlp, given[0], kept)
            )
    view = supernet.view(fitting(family, rows))
    expected = model(tokens, use_cache=False).logits
    torch.testing.assert_close(view(tokens, use_cache=False).logits, expected, atol=1e-4, rtol=1e-4)


def test_narrower_mixtures_are_views_of_all_experts(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("mixtral")
    held = {tensor.untyped_storage().data_ptr() for tensor in supernet.model.parameters()}
    view = supernet.view(Candidate.from_rows(CUT))
    outside = {name for name, tensor in view.named_parameters() if tensor.untyped_storage().data_ptr() not in held}
    assert outside == {"model.layers.3.self_attn.o_proj.weight"}
    with pytest.raises(ValueError, match="layer 1: expected at least 2 experts, as each token goes through so many"):
        supernet.view(Candidate.from_rows([DENSE, (6, 3, 1), DENSE, DENSE]))


def test_options_are_numbers_of_experts_and_never_fewer_than_a_token_wants() -> None:
    def options(experts: int, active: int, step: int) -> list[int]:
        _, spec = tiny_model("mixtral", intermediate_size=experts, num_experts_per_tok=active)
        return [count for (count,) in mlp_options(spec, step=step, remove=True)]

    assert options(8, 2, 1) == [0, 2, 3, 4, 5, 6, 7, 8]
    assert options(64, 8, 16) == [0, 8, 16, 32, 48, 64]
    _, spec = tiny_model("mixtral", intermediate_size=128)
    space = SearchSpace(spec)
    assert space.mlp_step == 16
    assert [count for (count,) in space.block_options["mlp"]] == [2, *range(16, 129, 16)]


def test_only_the_experts_that_a_token_goes_through_cost_products() -> None:
    _, spec = tiny_model("mixtral")
    dense, cut = Candidate.dense(spec), Candidate.from_rows([(6, 3, 20)] * 4)
    whole, fewer = (cost_measure(spec, context=8).values(each) for each in (dense, cut))
    assert whole["macs_per_token"] - fewer["macs_per_token"] == 4 * 28 * spec.hidden  # rows of the router
    assert whole["params"] - fewer["params"] == 4 * 28 * (spec.hidden + 3 * spec.hidden * spec.expert_channels)
    assert whole["weights_bytes"] - fewer["weights_bytes"] == 2 * (whole["params"] - fewer["params"])


@pytest.mark.parametrize(
    ("family", "name"),
    [("mixtral", "block_sparse_moe.experts.15.w1"), ("olmoe", "mlp.experts.15.up_proj")],
)
def test_equal_layers_have_each_expert_by_itself_as_other_programs_read_it(
    family: str, name: str, make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("space.formats.verify.answer_of", answer_here)
    supernet, candidate = make_supernet(family), Candidate.from_rows([(6, 3, 16)] * 4)
    subnet = Subnet(supernet.model.config, None, supernet.spec, candidate)
    done = export_checkpoint(supernet.view(candidate), subnet, tmp_path / "pruned", card={})
    with safe_open(done.directory / "model.safetensors", framework="pt") as stored:
        assert stored.get_slice(f"model.layers.3.{name}.weight").get_shape() == [8, supernet.spec.hidden]
        assert not [key for key in stored.keys() if "gate_up_proj" in key or ".16." in key]  # noqa: SIM118
    assert not done.trust_remote_code


def test_what_does_not_go_with_experts_is_refused_by_name() -> None:
    model, spec = tiny_model("mixtral")
    settings: Any = SimpleNamespace(latency=SimpleNamespace(engine="vllm"), space=SearchSpace)
    for refused, message in (
        (lambda: SearchSpace(spec, types=["q8_0"]), r"space.types: expected \[\] for a mixture of experts"),
        (lambda: SearchSpace(spec, deploy="vllm"), "space.deploy=vllm: expected no mixture.*deploy=uniform"),
        (lambda: require_of_model(settings, spec), "latency.engine: expected torch for a mixture of experts"),
        (
            lambda: check_traced("onnx", Subnet(model.config, None, spec, Candidate.dense(spec))),
            "Expected no mixture of experts for format=onnx",
        ),
    ):
        with pytest.raises(UserError, match=message):
            refused()


def test_what_all_tokens_go_through_beside_experts_is_carried_whole(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("qwen2_moe")
    view, hidden = supernet.view(Candidate.from_rows(CUT)), supernet.spec.hidden
    held = {tensor.untyped_storage().data_ptr() for tensor in supernet.model.parameters()}
    assert all(p.untyped_storage().data_ptr() in held for p in layers_of(view)[0].mlp.parameters())
    shared = 3 * 24 * hidden + hidden
    assert supernet.spec.shared_weights == shared
    dense, none = (cost_measure(supernet.spec, context=8).values(Candidate.from_rows([(6, 3, n)] * 4)) for n in (48, 0))
    active = 3 * (3 * 8 * hidden) + 48 * hidden
    assert dense["macs_per_token"] - none["macs_per_token"] == 4 * (active + shared)


def test_sinks_go_with_their_heads(make_supernet: MakeSupernet) -> None:
    dense, supernet = tiny_model("gpt_oss")[0], make_supernet("gpt_oss")
    view = supernet.view(Candidate.from_rows([(4, 2, 48), DENSE, (3, 3, 48), (2, 1, 48)]))
    for index, (own, whole) in enumerate(zip(layers_of(view), layers_of(dense), strict=True)):
        weight = own.self_attn.q_proj.weight.unflatten(0, (-1, 8)).flatten(1)
        all_heads = whole.self_attn.q_proj.weight.unflatten(0, (-1, 8)).flatten(1)
        places = [int(torch.cdist(row[None], all_heads).argmin()) for row in weight]
        assert torch.equal(own.self_attn.sinks, whole.self_attn.sinks[places]), index


def test_weights_in_mxfp4_are_refused_with_how_to_have_others(tmp_path: Path) -> None:
    place = save_dense("gpt_oss", tmp_path / "model")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "mxfp4"}}))
    with pytest.raises(UserError, match=r"has quantization_config set: weights in MXFP4.*dequantize=True"):
        load_model(str(place))
