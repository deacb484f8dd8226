"""Image classifiers: permuted = dense, views = exports, what they are asked and learn, images that are read, a run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import VISION, random_images, tiny_model
from helpers_formats import answer_here
from test_encoders import SHAPES, MakeSupernet
from torch.nn import functional as F
from transformers import AutoModel, AutoModelForImageClassification

from evaluators.classes import ClassDivergence
from evaluators.cost import kv_bytes
from evaluators.embeddings import EmbeddingDistance
from evaluators.prefix import PrefixForward
from evaluators.training.objectives import objective_of
from space.candidate import Candidate
from space.formats.checkpoint import Subnet
from space.formats.hf.export import export_checkpoint
from space.models.architectures import architecture_of
from space.models.stack import layers_of, stack_of
from space.size import decoder_params, total_params
from space.supernet.corrective_refit import correct
from space.supernet.shared import SharedWeights
from space.supernet.supernet import Supernet

pytestmark = pytest.mark.usefixtures("modules_cache")

CUT = Candidate.from_rows(SHAPES["holes"])


@torch.inference_mode()
def logits_of(model: Any, images: torch.Tensor) -> torch.Tensor:
    logits: torch.Tensor = model(images).logits
    return logits


@pytest.mark.parametrize("family", VISION)
def test_the_permuted_model_computes_the_dense_function(family: str, make_supernet: MakeSupernet) -> None:
    dense, spec = tiny_model(family)
    supernet, images = make_supernet(family), random_images(3, seed=1)
    expected = logits_of(dense, images)
    torch.testing.assert_close(logits_of(supernet.model, images), expected, atol=2e-5, rtol=1e-4)
    whole = Candidate.dense(spec)
    assert torch.equal(logits_of(supernet.view(whole), images), logits_of(supernet.model, images))
    assert spec.tokens_of(images.shape) == stack_of(dense)(images).last_hidden_state.shape[1]
    assert (spec.vocab, kv_bytes(spec, whole, context=17)) == (0, 0)
    for rows in SHAPES.values():
        candidate = Candidate.from_rows(rows)
        view = supernet.view(candidate)
        assert sum(p.numel() for p in view.parameters()) == total_params(spec, candidate)
        assert sum(p.numel() for p in layers_of(view).parameters()) == decoder_params(spec, candidate)


@pytest.mark.parametrize("family", VISION)
@pytest.mark.parametrize("rows", SHAPES.values(), ids=SHAPES)
def test_exports_reload(
    family: str, rows: Any, make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("space.formats.verify.answer_of", answer_here)
    supernet, candidate, images = make_supernet(family), Candidate.from_rows(rows), random_images(2, seed=2)
    companions = {"preprocessor_config.json": b"{}"}
    subnet = Subnet(supernet.model.config, None, supernet.spec, candidate, companions=companions)
    done = export_checkpoint(supernet.view(candidate), subnet, tmp_path / "out", card={})
    assert done.trust_remote_code == (rows == SHAPES["holes"])
    assert (tmp_path / "out" / "preprocessor_config.json").read_bytes() == b"{}"
    model, loading = AutoModelForImageClassification.from_pretrained(
        tmp_path / "out", trust_remote_code=done.trust_remote_code, output_loading_info=True
    )
    assert not any(loading.values()), loading
    assert torch.equal(logits_of(model.eval(), images), logits_of(supernet.view(candidate), images))
    said = json.loads((tmp_path / "out" / "config.json").read_text())["architectures"]
    assert said == [
        "PrunedForImageClassification" if done.trust_remote_code else architecture_of(family).classes.classifier
    ]


@pytest.mark.parametrize("family", VISION)
@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_divergences_are_those_of_the_models_own_logits(
    family: str, cache_bytes: int, make_supernet: MakeSupernet
) -> None:
    supernet, images = make_supernet(family), random_images(7)
    asked = ClassDivergence(supernet, images, batch_size=3, cache_bytes=cache_bytes)
    assert asked.tokens == 7 * supernet.spec.image_length
    assert asked.divergence(Candidate.dense(supernet.spec)) == pytest.approx(0, abs=1e-6)
    teacher, student = (logits_of(each, images) for each in (supernet.model, supernet.view(CUT)))
    expected = F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean").item()
    assert asked.divergence(CUT) == pytest.approx(expected, rel=1e-4)
    assert asked.divergence(CUT, supernet.view(CUT)) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("family", VISION)
def test_first_layers_that_candidates_share_are_run_once(family: str, make_supernet: MakeSupernet) -> None:
    supernet, images = make_supernet(family), random_images(3)
    forward = PrefixForward(supernet, images, batch_size=2)
    for rows in ("dense", "holes", "shallow"):
        candidate = Candidate.from_rows([*SHAPES["dense"][:2], *SHAPES[rows][2:]])
        with torch.inference_mode():
            expected = stack_of(supernet.view(candidate))(images).last_hidden_state
            torch.testing.assert_close(torch.cat([*forward(candidate)]), expected, atol=1e-5, rtol=1e-5)
    assert forward.layers_run < forward.layers_total


@pytest.mark.parametrize("family", VISION)
def test_a_step_teaches_all_that_is_kept_and_nothing_else(family: str, make_supernet: MakeSupernet) -> None:
    supernet, images = make_supernet(family), random_images(4)
    shared = SharedWeights(supernet, [CUT], lambda name: True)
    loss_of = objective_of(supernet.spec).lesson(supernet.model, images)
    assert loss_of(shared.hidden(Candidate.dense(supernet.spec), images)).item() == pytest.approx(0, abs=1e-5)
    loss_of(shared.hidden(CUT, images)).backward()
    reached = {name.rpartition(".")[0] for name, p in shared.parameters.items() if p.grad is not None}
    blocks = architecture_of(family).blocks.items()
    kept = {
        f"{architecture_of(family).stack.layers}.{index}.{path}"
        for index, shape in enumerate(CUT.layers)
        for kind, layout in blocks
        for path in (*map(layout.path, layout.projections), *layout.norms)
        if shape.keeps(kind)
    }
    assert reached == kept | {"layernorm"}


@pytest.mark.parametrize("family", VISION)
def test_features_are_compared_learned_and_exported(
    family: str, make_supernet: MakeSupernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("space.formats.verify.answer_of", answer_here)
    supernet, images = make_supernet(family, task="image_features"), random_images(7)
    assert sum(p.numel() for p in supernet.view(CUT).parameters()) == total_params(supernet.spec, CUT)
    spec = replace(supernet.spec, pooling="cls")
    with torch.inference_mode():
        dense, cut = (model(images).last_hidden_state[:, 0] for model in (supernet.model, supernet.view(CUT)))
    expected = 1 - F.cosine_similarity(dense, cut).mean().item()
    monkeypatch.setattr(supernet, "spec", spec)
    asked = EmbeddingDistance(supernet, images, batch_size=3, cache_bytes=1 << 20)
    assert asked.values(CUT)["cosine_distance"] == pytest.approx(expected, rel=1e-4)
    assert asked.heldout_values(Candidate.dense(spec))["heldout_rank_correlation"] == pytest.approx(1)
    shared = SharedWeights(supernet, [CUT], lambda name: True)
    loss = objective_of(spec).lesson(supernet.model, images)(shared.hidden(CUT, images))
    assert loss.item() > expected
    subnet = Subnet(supernet.model.config, None, spec, CUT)
    export_checkpoint(supernet.view(CUT), subnet, tmp_path / "out", card={})
    model = AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    with torch.inference_mode():
        assert torch.equal(model(images).last_hidden_state[:, 0], supernet.view(CUT)(images).last_hidden_state[:, 0])


def test_a_scale_of_what_a_block_adds_is_as_one_inside_its_projection(tmp_path: Path) -> None:
    """Units, refits and corrective refits are the same, but where small scales hold the latter back."""
    (scaled, spec), (folded, _) = tiny_model("dinov2"), tiny_model("dinov2")
    with torch.no_grad():
        for layer in layers_of(folded):
            for output, scale in (
                (layer.attention.o_proj, layer.layer_scale1.lambda1),
                (layer.mlp.fc2, layer.layer_scale2.lambda1),
            ):
                output.weight.mul_(scale[:, None])
                output.bias.mul_(scale)
                scale.fill_(1)
    images, outputs = random_images(64, seed=3), list[list[torch.Tensor]]()
    for name, model in (("scaled", scaled), ("folded", folded)):
        supernet = Supernet.prepare(model, spec, images[:24], tmp_path / name, dtype=torch.float32)
        (correction,) = correct(supernet, [CUT], images)
        with torch.inference_mode():
            views = (supernet.model, supernet.view(CUT), supernet.view(CUT, correction))
            outputs.append([stack_of(view)(images).last_hidden_state for view in views])
    (dense, cut, corrected), (_, cut_folded, corrected_folded) = outputs
    torch.testing.assert_close(cut, cut_folded, atol=1e-4, rtol=1e-4)
    moved = (corrected - cut).norm()
    assert moved > 0.05 * (cut - dense).norm()
    assert (corrected - corrected_folded).norm() < 0.1 * moved


@pytest.mark.parametrize("family", ["vit", "dinov2"])
def test_a_corrective_refit_comes_nearer_to_the_dense_model(family: str, make_supernet: MakeSupernet) -> None:
    supernet, candidate = make_supernet(family), Candidate.from_rows([(4, 4, 32), (0, 0, 32), (4, 4, 32), (4, 4, 0)])
    images = random_images(64, seed=3)
    (correction,) = correct(supernet, [candidate], images)
    with torch.inference_mode():
        dense, before, after = (
            stack_of(each)(images).last_hidden_state
            for each in (supernet.model, supernet.view(candidate), supernet.view(candidate, correction))
        )
    assert (after - dense).square().mean() < (before - dense).square().mean()
