"""Every row of `space.models.architectures` is what it says, on a tiny random model: a new row needs no line here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import fitting, inputs_of, save_dense, tiny_model
from helpers_formats import answer_here
from transformers import AutoConfig

from space.candidate import Candidate, LayerShape
from space.formats.checkpoint import Subnet
from space.formats.hf.export import export_checkpoint
from space.formats.hf.reload_check import CACHES
from space.models.architectures import ARCHITECTURES
from space.models.layout import Architecture
from space.models.loading import load_model
from space.models.mixtures import shared_of
from space.models.stack import layers_of, loader_of, stack_of, whole
from space.size import bare_params, decoder_params, layer_params, total_params
from space.supernet.calibration import gather
from space.supernet.placement import Placement
from space.supernet.shared import SharedWeights
from space.supernet.supernet import Supernet
from space.task import TASKS

DENSE, GONE = (6, 3, 48), (0, 0, 0)
DESIGNS = {
    "no attention first": [(0, 0, 48), DENSE, DENSE, DENSE],
    "no MLP": [DENSE, (6, 3, 0), DENSE, DENSE],
    "layers gone": [GONE, DENSE, GONE, DENSE],
    "fewer groups": [(2, 1, 48), (4, 2, 16), DENSE, (2, 1, 8)],
    "fewer queries": [(3, 3, 48), (2, 2, 32), (3, 3, 48), (3, 3, 16)],
    "everything": [(0, 0, 24), (4, 2, 0), GONE, (2, 2, 8)],
    "all alike": [(2, 1, 16)] * 4,
    "all heads": [(6, 3, 16)] * 4,
}


class Case(NamedTuple):
    """A row, and its tiny model before and after it was prepared."""

    name: str
    row: Architecture
    dense: Any
    supernet: Supernet

    def design(self, name: str) -> Candidate:
        return fitting(self.name, DESIGNS[name])

    @property
    def designs(self) -> list[Candidate]:
        """Holes and widths of all kinds, with what only some families have."""
        return [*map(self.design, DESIGNS), *self.special]

    @property
    def special(self) -> list[Candidate]:
        """Merged groups, where groups are merged, and experts with fewer channels, where they may have such."""
        merged = [(6, groups, 24) for groups in self.supernet.spec.merged_kv_heads[-1:]]
        designs = [fitting(self.name, [row, DENSE, DENSE, row]) for row in merged]
        if self.supernet.spec.narrow_experts:
            designs.append(fitting(self.name, [(6, 3, 16, 0, 0, 4), DENSE, (0, 0, 48, 0, 0, 4), (4, 2, 8, 0, 0, 4)]))
        return designs

    def narrowed(self, design: Candidate) -> Candidate:
        """A design with half of the channels of each expert, where experts may have fewer and are not all there."""
        if not self.supernet.spec.narrow_experts:
            return design
        cut = [replace(shape, expert_channels=4 * (0 < shape.mlp_channels < 48)) for shape in design.layers]
        return Candidate(tuple(cut))

    @torch.inference_mode()
    def output(self, model: Any, inputs: torch.Tensor) -> torch.Tensor:
        """Logits, or of a model without a head its last hidden states."""
        more = {"use_cache": False} if self.supernet.spec.use.writes else {}
        output: torch.Tensor = getattr(model(**whole(model, inputs), **more), TASKS[self.supernet.spec.task].output)
        return output


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    """Each row in turn."""
    name: str = request.param
    model, spec = tiny_model(name)
    place = tmp_path_factory.mktemp("supernet") / "prepared"
    supernet = Supernet.prepare(model, spec, inputs_of(name, 12), place, dtype=torch.float32)
    yield Case(name, ARCHITECTURES[name], tiny_model(name)[0], supernet)
    supernet.forget()


def test_a_saved_model_is_understood_and_the_permuted_one_is_the_same(case: Case, tmp_path: Path) -> None:
    spec, inputs = case.supernet.spec, inputs_of(case.name, 3, seed=1)
    loaded = load_model(str(save_dense(case.name, tmp_path / spec.name)), task=spec.task, dtype="float32")
    assert {**loaded.spec.identity, "digest": spec.digest} == spec.identity
    expected = case.output(case.dense, inputs)
    torch.testing.assert_close(case.output(loaded.model, inputs), expected)
    moved = case.output(case.supernet.model, inputs)
    torch.testing.assert_close(moved, expected, atol=2e-5, rtol=1e-4)
    assert torch.equal(case.output(case.supernet.view(Candidate.dense(spec)), inputs), moved)
    for layout in case.row.blocks.values():
        before, after = (
            next(layers_of(model)[-1].get_submodule(layout.path(layout.weighted[-1])).parameters())
            for model in (case.dense, case.supernet.model)
        )
        assert not torch.equal(before, after)


def test_views_have_the_parameters_that_are_counted(case: Case) -> None:
    spec, inputs = case.supernet.spec, inputs_of(case.name, 2)
    dense = case.output(case.supernet.model, inputs)
    for candidate in (Candidate.dense(spec), *case.designs):
        view = case.supernet.view(candidate)
        kept = [shape for shape in candidate.layers if not shape.gone]
        counted = [sum(p.numel() for p in layer.parameters()) for layer in layers_of(view)]
        assert sum(counted) == decoder_params(spec, candidate)
        counted[0] += bare_params(spec, attention=candidate.layers[0].keeps("attention"))
        assert counted == [layer_params(spec, shape) for shape in kept], candidate
        assert sum(p.numel() for p in view.parameters()) == total_params(spec, candidate), candidate
        output = case.output(view, inputs)
        assert output.isfinite().all()
        assert torch.allclose(output, dense, atol=1e-2) == (candidate == Candidate.dense(spec)), candidate


@pytest.mark.parametrize("gone", [("attention",), ("mlp",), ("attention", "mlp")], ids="+".join)
@torch.no_grad()
def test_a_hole_is_a_block_that_adds_nothing(case: Case, gone: tuple[str, ...]) -> None:
    """A layer that is gone whole lets the stream pass as it is, also where a block that is gone norms it."""
    if len(gone) == 2 and case.row.staying and not case.row.norms:
        pytest.skip("a layer whose blocks add nothing norms the stream twice")
    spec, inputs = case.supernet.spec, inputs_of(case.name, 2)
    dense = Candidate.dense(spec)
    sizes = {kind: dense.layers[1].option(kind) for kind in case.row.blocks if kind not in gone}
    view = case.supernet.view(Candidate((dense.layers[0], LayerShape.of(**sizes), *dense.layers[2:])))
    zeroed = case.supernet.view(dense, own=True)
    layer: Any = layers_of(zeroed)[1]
    for kind in gone:
        layout = case.row.blocks[kind]
        behind = [layout.after] if layout.after and not layout.adds else []
        for path in (layout.path(layout.weighted[-1]), *(shared_of(layer, layout) if kind == "mlp" else ()), *behind):
            for parameter in layer.get_submodule(path).parameters():
                parameter.zero_()
    torch.testing.assert_close(case.output(view, inputs), case.output(zeroed, inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("uniform", [False, True])
def test_an_export_reloads_as_its_view(
    case: Case, uniform: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is checked for caches too. Equal layers are the stock class's, where that can have their heads."""
    name = "everything" if not uniform else "all heads" if case.row.heads_fill else "all alike"
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("space.formats.verify.answer_of", answer_here)
    supernet, candidate, inputs = case.supernet, case.narrowed(case.design(name)), inputs_of(case.name, 2, seed=2)
    view, subnet = supernet.view(candidate), Subnet(supernet.model.config, None, supernet.spec, candidate)
    done = export_checkpoint(view, subnet, tmp_path / "out", card={})
    assert {*done.verification.caches} == ({*CACHES} if supernet.spec.use.writes else set())
    assert done.trust_remote_code != uniform
    loader, trusted = loader_of(supernet.spec.task), {"trust_remote_code": done.trust_remote_code}
    model, loading = loader.from_pretrained(done.directory, output_loading_info=True, **trusted)
    assert not any(loading.values()), loading
    assert torch.equal(case.output(model.eval(), inputs), case.output(view, inputs))
    config = AutoConfig.from_pretrained(done.directory, **trusted)
    assert getattr(config, case.row.depth) == sum(not shape.gone for shape in candidate.layers)


def test_a_step_reaches_all_that_is_kept_and_nothing_else(case: Case) -> None:
    inputs = inputs_of(case.name, 2, seed=3)
    for candidate in (case.design("everything"), *(case.special or [case.design("all heads")])):
        shared = SharedWeights(case.supernet, [candidate], lambda name: True)
        stack = stack_of(case.supernet.view(candidate))
        more = {"use_cache": False} if case.supernet.spec.use.writes else {}
        with torch.no_grad():
            states = stack(**whole(stack, inputs), **more).last_hidden_state
        hidden = shared.hidden(candidate, inputs)
        torch.testing.assert_close(hidden, states, rtol=1e-4, atol=1e-4)
        hidden.square().sum().backward()
        reached = {
            re.sub(r"layers\.(\d+)\.merged_\d+", rf"{case.row.stack.layers}.\1.{case.row.attention.module}", name)
            for name, parameter in shared.parameters.items()
            if parameter.grad is not None
        }
        names, indices = case.row.stack, [i for i, shape in enumerate(candidate.layers) if not shape.gone]
        places = {f"{names.layers}.{place}.": f"{names.layers}.{index}." for place, index in enumerate(indices)}
        kept = {
            own + name.removeprefix(place)
            for name, _ in stack.named_parameters()
            for place, own in {**places, f"{names.norm}.": f"{names.norm}."}.items()
            if name.startswith(place) and not name.endswith("correction_bias")  # which tells choices alone
        }
        assert reached == kept


def test_calibration_equals_grams_of_one_whole_pass(case: Case) -> None:
    model, inputs = tiny_model(case.name)[0], inputs_of(case.name, 6)
    seen: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(layers_of(model)):
        for kind, layout in case.row.blocks.items():
            if not layout.output:  # a mixture of experts, of which there are other sums
                continue
            output = layer.get_submodule(layout.path(layout.output))
            key = f"{kind}{index}"
            output.register_forward_pre_hook(lambda m, x, key=key: seen.__setitem__(key, x[0].flatten(0, -2)))
    case.output(model, inputs)
    grams = {key: rows.T @ rows / len(rows) for key, rows in seen.items()}
    place = Placement(torch.device("cpu"))
    for learned in gather(tiny_model(case.name)[0], inputs, forward_dtype=torch.float32, place=place, batch_size=4):
        assert {*learned.grams} == {kind for kind, layout in case.row.blocks.items() if layout.output}
        for kind, gram in learned.grams.items():
            torch.testing.assert_close(gram, grams[f"{kind}{learned.index}"], atol=1e-4, rtol=1e-4)
        assert 0 < learned.influence < 2
