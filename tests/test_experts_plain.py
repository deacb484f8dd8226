"""Mixtures of experts among plain MLPs, and those that correct their scores; what is said of both."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import MIXTURES, fitting, random_tokens, save_dense, tiny_model
from helpers_experts import CUT, router_of
from helpers_formats import answer_here
from helpers_latency import WORKLOAD
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from evaluators.cost import cost_measure
from evaluators.latency.bench import LatencyBench
from space.candidate import Candidate, LayerShape
from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.hf.export import export_checkpoint
from space.models.architectures import ARCHITECTURES
from space.models.facts import checked_spec
from space.models.loading import load_model
from space.models.pruned import checkpoint_config
from space.models.stack import layers_of
from space.space import SearchSpace
from space.supernet.supernet import Supernet

MakeSupernet = Callable[..., Supernet]
CORRECTED = tuple(name for name in MIXTURES if (routed := ARCHITECTURES[name].mlp.routed) and routed.correction)
PLAIN = tuple(name for name in MIXTURES if tiny_model(name)[1].plain_mlps)


def replaced(candidate: Candidate, layer: int, channels: int) -> Candidate:
    """The same with so many units of a layer's MLP."""
    shapes = [*candidate.layers]
    shapes[layer] = replace(shapes[layer], mlp_channels=channels)
    return replace(candidate, layers=tuple(shapes))


@pytest.mark.parametrize("family", CORRECTED)
def test_corrections_of_scores_go_with_their_experts(family: str, make_supernet: MakeSupernet) -> None:
    dense, supernet = tiny_model(family)[0], make_supernet(family)
    layout = ARCHITECTURES[family].mlp.routed
    assert layout is not None
    assert layout.correction is not None
    view = supernet.view(fitting(family, CUT))
    for index, (own, whole) in enumerate(zip(layers_of(view), layers_of(dense), strict=True)):
        if index not in supernet.spec.plain_mlps:
            rows, every = (router_of(family, layer.mlp).weight for layer in (own, whole))
            places = [int(torch.cdist(row[None], every).argmin()) for row in rows]
            got, expected = (attrgetter(layout.correction)(layer.mlp) for layer in (own, whole))
            assert len(places) == CUT[index][2]
            assert torch.equal(got, expected[..., places]), index


@pytest.mark.parametrize("family", PLAIN)
def test_a_plain_mlp_among_mixtures_is_kept_whole_or_leaves(family: str, make_supernet: MakeSupernet) -> None:
    supernet = make_supernet(family)
    spec, (first, *_) = supernet.spec, supernet.spec.plain_mlps
    space = SearchSpace(spec, mlp_step=8)
    for design in space.samples(20):
        assert {design.layers[layer].mlp_channels for layer in spec.plain_mlps} <= {0, 56}
        assert space.decode(space.encode(design)) == design
        supernet.require_fit(design)
    assert (56,) in space.block_options["mlp"]
    assert {design.layers[first].mlp_channels for design in space.uniform_ladder()} == {56}
    assert {design.layers[-1].mlp_channels for design in space.uniform_ladder()} == {3, *range(8, 49, 8)}
    whole = Candidate.dense(spec)
    with pytest.raises(ValueError, match=f"layer {first}: expected all 56 channels of its MLP, .*, got 48"):
        supernet.require_fit(replaced(whole, first, 48))
    without = [cost_measure(spec, context=8).values(each) for each in (whole, replaced(whole, first, 0))]
    assert without[0]["macs_per_token"] - without[1]["macs_per_token"] == 3 * 56 * spec.hidden
    lost = supernet.lost_energy(first)[1]
    assert [lost(LayerShape(0, 0, channels)) for channels in (0, 56)] == [1.0, 0.0]


@pytest.mark.parametrize("family", ["glm4_moe", "exaone_moe"])
def test_plain_mlps_are_timed_where_they_are(family: str, make_supernet: MakeSupernet) -> None:
    supernet = make_supernet(family)
    space = SearchSpace(supernet.spec, attention_widths=False, mlp_step=24)
    table = LatencyBench(supernet, WORKLOAD).table(space.block_options, space.samples(2))
    assert [*table.phases["prefill"].block_ms["mlp"]] == [(3,), (24,), (48,), (56,)]
    assert all(table.values(design)["latency_ms"] > 0 for design in space.samples(5))
    plain, profile = len(supernet.spec.plain_mlps), "\n".join(table.profile(Candidate.dense(supernet.spec)))
    assert f"{4 - plain} MLP blocks of 48 experts and {plain} MLP blocks of 56 channels" in profile
    assert re.search("time of these blocks by experts: 56 .*%, 48 100%, 24 ", profile)


def test_plain_mlps_are_whole_where_layers_are_dense_or_gone_or_all_alike() -> None:
    _, spec = tiny_model("glm4_moe")
    whole = SearchSpace(spec, whole_layers=True, attention_widths=False, mlp_widths=False)
    first, *others = ({design.layers[index].row for design in whole.samples(20)} for index in range(4))
    assert first == {(6, 3, 56), (0, 0, 0)}
    assert others == [{(6, 3, 48), (0, 0, 0)}] * 3
    alike = SearchSpace(spec, deploy="uniform", mlp_step=8).samples(20)
    assert all(
        design.layers == (replace(design.layers[1], mlp_channels=56), *(design.layers[1],) * 3) for design in alike
    )
    assert len({design.layers[1] for design in alike}) > 4


@pytest.mark.parametrize(
    ("family", "changes", "plain", "said"),
    [
        ("qwen2_moe", {"decoder_sparse_step": 2}, (0, 2), {"mlp_only_layers": [0, 1], "decoder_sparse_step": 1}),
        ("qwen3_moe", {"mlp_only_layers": [1, 3]}, (1, 3), {"mlp_only_layers": [2], "decoder_sparse_step": 1}),
        ("glm4_moe", {"first_k_dense_replace": 2}, (0, 1), {"first_k_dense_replace": 1}),
        ("ernie4_5_moe", {"moe_layer_start_index": 3}, (0, 1, 2), {"moe_layer_start_index": 2}),
        (
            "hy_v3",
            {"mlp_layer_types": ["sparse", "dense"] * 2},
            (1, 3),
            {"mlp_layer_types": ["sparse"] * 2 + ["dense"]},
        ),
    ],
)
def test_configurations_say_which_layers_that_are_left_have_plain_mlps(
    family: str, changes: dict[str, Any], plain: tuple[int, ...], said: dict[str, Any]
) -> None:
    model, spec = tiny_model(family, **changes)
    assert spec.plain_mlps == plain
    first, _, *others = Candidate.dense(spec).layers
    written = checkpoint_config(model.config, Candidate((first, LayerShape.of(), *others)), spec)
    assert "auto_map" not in written
    assert said.items() <= written.items()


def test_what_a_row_cannot_say_of_its_layers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"layers 0, 2 have no experts in their mlp; of this family only first layers"):
        tiny_model("ernie4_5_moe", moe_layer_interval=2)
    model, _ = tiny_model("mixtral")
    del layers_of(model)[1].mlp.experts
    with pytest.raises(UserError, match=r"layers 1 have no experts in their mlp, and no mixture of experts is known"):
        checked_spec(model, "tiny", "0", "mixtral")
    model, _ = tiny_model("mixtral")
    layers_of(model)[2].mlp.experts.down_proj = torch.nn.Parameter(torch.ones(7, 40, 8))
    with pytest.raises(UserError, match=r"in layer 2 experts\.down_proj is of 7 experts, not of 48"):
        checked_spec(model, "tiny", "0", "mixtral")
    file = save_dense("glm4_moe", tmp_path / "model") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"n_group": 8, "topk_group": 4}))
    with pytest.raises(UserError, match=r"says n_group=8, topk_group=4: they are chosen in groups of equal size"):
        load_model(str(file.parent))


@torch.inference_mode()
@pytest.mark.parametrize(("family", "changes"), [("glm4_moe", {}), ("ernie4_5_moe", {"use_bias": False})])
def test_corrections_stay_in_float32_among_weights_in_bfloat16(
    family: str, changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("space.formats.verify.answer_of", answer_here)
    file = save_dense(family, tmp_path / "model", **changes) / "model.safetensors"
    stored = {name: tensor if "correction" in name else tensor.bfloat16() for name, tensor in load_file(file).items()}
    save_file(stored, file, {"format": "pt"})
    loaded = load_model(str(file.parent), dtype="bfloat16")
    assert loaded.model.dtype == torch.bfloat16  # and not float32, which would hold all tensors
    tokens = random_tokens(12, 24)
    supernet = Supernet.prepare(loaded.model, loaded.spec, tokens, tmp_path / "supernet", dtype=torch.bfloat16)
    view = supernet.view(candidate := fitting(family, CUT))
    layout = ARCHITECTURES[family].mlp.routed
    assert layout is not None
    correction = attrgetter(layout.correction or "")(layers_of(view)[-1].mlp)
    (original,) = (tensor for name, tensor in stored.items() if "correction" in name and "layers.3." in name)
    assert correction.dtype == torch.float32
    assert torch.isin(correction, original).all()
    subnet = Subnet(supernet.model.config, None, supernet.spec, candidate)
    done = export_checkpoint(view, subnet, tmp_path / "pruned", card={})
    model = AutoModelForCausalLM.from_pretrained(done.directory, trust_remote_code=True, dtype="auto")
    assert torch.equal(attrgetter(layout.correction or "")(layers_of(model)[-1].mlp), correction)
    torch.testing.assert_close(model(tokens).logits, view(tokens).logits)
