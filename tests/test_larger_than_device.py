"""A model that is larger than its device gives the numbers of one that fits, with a layer at a time on the device."""

from __future__ import annotations

import copy
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import UNLIKE, fitting, random_tokens, tiny_model
from helpers_run import save_tiny

from evaluators.base import GROUP, MeasureEvaluator
from evaluators.divergence import Divergence
from evaluators.samples import Samples
from evaluators.settings import SampleSettings
from evaluators.training.healing import Healer
from evaluators.training.recipes import Healing
from space.candidate import Candidate
from space.models.loading import load_model
from space.models.stack import layers_of
from space.space import SearchSpace
from space.supernet.corrective_refit import correct
from space.supernet.placement import Passing, Placement
from space.supernet.supernet import Supernet

CPU = torch.device("cpu")
LENGTH = 12
TOKENS = random_tokens(5, LENGTH, seed=1)
DESIGNS = [
    Candidate.from_rows([[6, 3, 48], [4, 2, 16], [0, 0, 32], [6, 3, 0]]),
    Candidate.from_rows([[6, 3, 48], [4, 2, 16], [0, 0, 32], [2, 1, 16]]),
    Candidate.from_rows([[2, 1, 48], [0, 0, 0], [6, 3, 0], [6, 3, 40]]),
]
MERGED = Candidate.from_rows([[6, 1, 48], [6, 3, 24], [6, 3, 48], [6, 1, 24]])


def prepared(family: str, directory: Path, streamed: bool) -> Supernet:
    model, spec = tiny_model(family)
    place = Placement(CPU, streamed)
    return Supernet.prepare(model, spec, random_tokens(12, 24), directory, dtype=torch.float32, place=place)


@pytest.fixture
def both(unlike_family: str, make_supernet: Callable[..., Supernet]) -> tuple[Supernet, Supernet]:
    """In memory, and with layers that wait on the host."""
    return make_supernet(unlike_family), make_supernet(unlike_family, place=Placement(CPU, True))


def designs_of(supernet: Supernet) -> list[Candidate]:
    designs = [fitting(supernet.spec.family, design) for design in DESIGNS]
    return [*designs, *([MERGED] if supernet.spec.merged_kv_heads else [])]


def windows(count: int) -> torch.Tensor:
    return random_tokens(20, LENGTH, seed=5)[:count]


def unmarked() -> tuple[bool, bool]:
    return False, False


def stage() -> AbstractContextManager[Callable[[int, int], None]]:
    return nullcontext(lambda done, of: None)


def healed(supernet: Supernet, settings: Healing, directory: Path) -> Supernet:
    return Healer(lambda: supernet, settings, windows, unmarked, directory, stage).heal(designs_of(supernet))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS, use_cache=False).logits
    return found


def test_what_calibration_stores_is_the_same(unlike_family: str, tmp_path: Path) -> None:
    for name, streamed in (("here", False), ("there", True)):
        prepared(unlike_family, tmp_path / name, streamed)
    here, there = sorted((tmp_path / "here").iterdir()), sorted((tmp_path / "there").iterdir())
    assert [file.read_bytes() for file in here] == [file.read_bytes() for file in there]


def test_views_give_the_same_and_a_copy_of_one_is_a_whole_model(both: tuple[Supernet, Supernet]) -> None:
    here, there = both
    for candidate in [Candidate.dense(here.spec), *designs_of(here)]:
        expected = logits(here.view(candidate))
        passing, own = there.view(candidate), there.view(candidate, own=True)
        assert not list(layers_of(passing).parameters())
        for model in (passing, own, copy.deepcopy(passing)):
            assert torch.equal(logits(model), expected)
        names = {name: tensor.shape for name, tensor in here.view(candidate, own=True).state_dict().items()}
        assert {name: tensor.shape for name, tensor in own.state_dict().items()} == names
    assert torch.equal(logits(there.dense()), logits(here.dense()))


def test_a_population_passes_the_layers_together(both: tuple[Supernet, Supernet]) -> None:
    here, _ = both
    space = SearchSpace(here.spec, mlp_step=16)
    asked = [*designs_of(here), *space.samples(GROUP + 2), designs_of(here)[0]]
    answers = []
    for supernet in both:
        evaluator = MeasureEvaluator("search", [Divergence(supernet, TOKENS, batch_size=2).measure()])
        answers.append([evaluation.values for evaluation in evaluator.evaluate(asked)])
    assert answers[0] == answers[1]


def test_candidates_that_begin_alike_share_their_stream(make_supernet: Callable[..., Supernet]) -> None:
    there = make_supernet("llama", place=Placement(CPU, True))
    divergence = Divergence(there, TOKENS, batch_size=5)
    evaluator = MeasureEvaluator("search", [divergence.measure()])
    list(evaluator.evaluate(DESIGNS[:2]))  # with the dense one: 3 + 4 + 1 layers
    assert divergence.shared_layers == 8 / 12


def test_a_candidate_that_cannot_be_is_a_failure_and_those_beside_it_are_not(
    make_supernet: Callable[..., Supernet],
) -> None:
    there = make_supernet("llama", place=Placement(CPU, True))
    evaluator = MeasureEvaluator("search", [Divergence(there, TOKENS).measure()])
    before, broken, after = evaluator.evaluate([DESIGNS[0], Candidate.from_rows([[6, 3, 48]] * 3), DESIGNS[1]])
    assert broken.status == "failed"
    assert "expected a candidate of 4 layers" in str(broken.error)
    alone = [answer.values for design in DESIGNS[:2] for answer in evaluator.evaluate([design])]
    assert [before.values, after.values] == alone


def test_one_layer_at_a_time_is_on_the_device(
    monkeypatch: pytest.MonkeyPatch, make_supernet: Callable[..., Supernet]
) -> None:
    there, alive, most = make_supernet("llama", place=Placement(CPU, True)), weakref.WeakSet[Any](), [0]
    placed = Passing._placed

    def counted(passing: Passing, tensor: torch.Tensor, dense: Any) -> torch.Tensor:
        found = placed(passing, tensor, dense)
        alive.add(found.untyped_storage())
        most[0] = max(most[0], sum({s.data_ptr(): s.nbytes() for s in alive}.values()))
        return found

    monkeypatch.setattr(Passing, "_placed", counted)
    measure = Divergence(there, TOKENS).measure()
    list(MeasureEvaluator("search", [measure]).evaluate([*DESIGNS, MERGED]))
    layer = there.model.model.layers[0]
    whole = sum(parameter.nbytes for parameter in layer.parameters())
    assert 0 < most[0] < 2 * whole  # the dense layer, and what a design has of its own
    assert sum(storage.nbytes() for storage in alive) <= whole


def test_corrective_refits_are_the_same(both: tuple[Supernet, Supernet]) -> None:
    corrections = [correct(supernet, designs_of(supernet), random_tokens(6, LENGTH, seed=3)) for supernet in both]
    for here, there in zip(*corrections, strict=True):
        for expected, got in zip(here.weights, there.weights, strict=True):
            assert expected.keys() == got.keys()
            assert all(torch.equal(expected[name], got[name]) for name in expected)
        shown = [
            logits(supernet.view(found.candidate, found)) for supernet, found in zip(both, (here, there), strict=True)
        ]
        assert torch.equal(*shown)


@pytest.mark.parametrize(
    ("unlike_family", "trainable"), [*((family, "all") for family in UNLIKE), ("llama", "norms"), ("gpt2", "norms")]
)
def test_healing_teaches_the_same(both: tuple[Supernet, Supernet], trainable: str, tmp_path: Path) -> None:
    settings = Healing(tokens=12 * LENGTH, trainable=trainable, learning_rate=1e-3)
    answers = []
    for name, supernet in zip(("here", "there"), both, strict=True):
        divergence = Divergence(supernet, TOKENS, subnets=partial(healed, supernet, settings, tmp_path / name / "h"))
        divergence.ahead(designs_of(supernet))
        answers.append([value for design in designs_of(supernet) for value in divergence(design)])
        assert answers[-1][0] != Divergence(supernet, TOKENS)(designs_of(supernet)[0])[0]
    torch.testing.assert_close(torch.tensor(answers[1]), torch.tensor(answers[0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gemma3_text"])
def test_it_writes_the_same_and_a_limit_decides_where_layers_wait(family: str, tmp_path: Path) -> None:
    directory, texts = save_tiny(family, tmp_path / "tiny"), []
    for limit in (None, 1000):
        loaded = load_model(str(directory), dtype="float32", device="cpu", device_bytes=limit)
        assert loaded.streamed == (limit is not None)
        place, there = Placement(loaded.device, loaded.streamed), tmp_path / f"supernet-{limit}"
        tokens = random_tokens(12, 24) % loaded.spec.vocab
        supernet = Supernet.prepare(loaded.model, loaded.spec, tokens, there, dtype=loaded.dtype, place=place)
        samples = Samples(loaded.tokenizer, SampleSettings(prompts=["The capital of"], tokens=6))
        texts.append([samples.texts(supernet.view(design)) for design in designs_of(supernet)])
    assert texts[0] == texts[1]
