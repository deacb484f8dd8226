"""A calibration is made once for a model, a text and settings, kept in the cache, and never missed by a run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import VOCAB, random_tokens, tiny_model
from helpers_formats import byte_level

from space.candidate import Candidate
from space.errors import UserError
from space.models.loading import LoadedModel, load_model
from space.supernet import preparation
from space.supernet.preparation import prepared_supernet, window_remarks
from space.supernet.recipe import Preparation
from space.supernet.store import is_prepared
from space.supernet.supernet import Supernet

TOKENS = random_tokens(12, 24)
PRUNED = Candidate.from_rows([(4, 2, 32), (6, 3, 0), (0, 0, 16), (3, 3, 48)])
Open = Callable[..., tuple[Supernet, list[int]]]
pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def prepare(tmp_path: Path) -> Open:
    """Opens a supernet in a run directory; gives it and the layers that were calibrated for it."""

    def open_in(
        run: str,
        *,
        tokens: torch.Tensor = TOKENS,
        family: str = "llama",
        dtype: Any = torch.float32,
        read: bool = False,
        **settings: Any,
    ) -> tuple[Supernet, list[int]]:
        model, spec = tiny_model(family)
        loaded = LoadedModel(model, None, spec, dtype, torch.device("cpu"), "nowhere")
        calibrated: list[int] = []
        directory = tmp_path / "runs" / run / "supernet"
        how = Preparation(**settings), loaded, lambda: tokens, directory, calibrated.append
        return prepared_supernet(*how, read=read), calibrated

    return open_in


def logits_of(supernet: Supernet) -> torch.Tensor:
    tokens = torch.arange(20)[None] % VOCAB
    model = supernet.view(PRUNED)
    with torch.inference_mode():
        logits: torch.Tensor = model(tokens, use_cache=False).logits
    return logits


def test_the_second_run_calibrates_nothing_and_is_the_same(prepare: Open, tmp_path: Path) -> None:
    first, calibrated = prepare("one")
    assert calibrated == [0, 1, 2, 3]
    second, calibrated = prepare("two")
    assert calibrated == []
    assert torch.equal(logits_of(second), logits_of(first))
    assert second.influence == first.influence
    assert is_prepared(tmp_path / "runs" / "one" / "supernet")
    assert is_prepared(tmp_path / "runs" / "two" / "supernet")


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": random_tokens(12, 24, seed=1)},
        {"tokens": TOKENS.reshape(6, 48)},
        {"read": True},
        {"family": "mistral"},
        {"dtype": torch.bfloat16},
        {"importance": "magnitude"},
        {"damping": 0.1},
        {"steps": 3},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_it_depends_on_calibrates_anew(prepare: Open, change: dict[str, Any]) -> None:
    prepare("one")
    assert prepare("two", **change)[1] == [0, 1, 2, 3]
    assert prepare("three")[1] == []  # the first one is still there


@pytest.mark.parametrize("change", [{"refit_bytes": 1 << 20}, {"batch_size": 2}])
def test_what_it_does_not_depend_on_calibrates_nothing(prepare: Open, change: dict[str, Any]) -> None:
    prepare("one")
    assert prepare("two", **change)[1] == []


def test_a_run_lives_on_without_the_cache(prepare: Open, own_cache: Path) -> None:
    first = logits_of(prepare("one")[0])
    shutil.rmtree(own_cache)
    again, calibrated = prepare("one")
    assert calibrated == []
    assert torch.equal(logits_of(again), first)


def test_a_supernet_at_work_needs_no_cache(prepare: Open, own_cache: Path) -> None:
    supernet, _ = prepare("one")
    shutil.rmtree(own_cache)
    assert torch.isfinite(logits_of(supernet)).all()  # refits are read as they are wanted


def test_a_calibration_that_was_killed_is_made_anew(prepare: Open, own_cache: Path) -> None:
    def killed(index: int) -> None:
        if index == 2:
            raise KeyboardInterrupt

    model, spec = tiny_model("llama")
    loaded = LoadedModel(model, None, spec, torch.float32, torch.device("cpu"), "nowhere")
    with pytest.raises(KeyboardInterrupt):
        prepared_supernet(Preparation(), loaded, lambda: TOKENS, own_cache.parent / "run", killed)
    assert list((own_cache / "supernets").iterdir()) == []
    assert not is_prepared(own_cache.parent / "run")
    assert prepare("one")[1] == [0, 1, 2, 3]


def test_the_run_of_another_model_is_refused(prepare: Open) -> None:
    prepare("one")
    with pytest.raises(UserError, match=r"prepared for tiny-llama.*but the model is tiny-qwen2"):
        prepare("one", family="qwen2")


def test_a_file_where_the_cache_is_to_be(prepare: Open, own_cache: Path) -> None:
    own_cache.write_text("in the way")
    with pytest.raises(UserError, match="PARETOPRUNE_CACHE"):
        prepare("one")


def test_a_file_where_the_run_keeps_its_factors(prepare: Open, tmp_path: Path) -> None:
    (tmp_path / "runs" / "one").mkdir(parents=True)
    (tmp_path / "runs" / "one" / "supernet").write_text("in the way")
    with pytest.raises(UserError, match="Expected to write"):
        prepare("one")


@pytest.mark.parametrize(
    ("projection", "dtype", "said"),
    [
        ("self_attn.v_proj", torch.float32, "in layer 2 what its o_proj reads is not, in float32.*its config.json"),
        ("mlp.up_proj", torch.float32, "in layer 2 what its down_proj reads is not"),
        ("mlp.down_proj", torch.float32, "in layer 2 what it hands on is not"),
        ("mlp.down_proj", torch.float16, "in layer 2 what it hands on is not, in float16.*model.dtype=bfloat16"),
    ],
)
def test_activations_that_are_not_finite(tmp_path: Path, projection: str, dtype: torch.dtype, said: str) -> None:
    model, spec = tiny_model("llama")
    model.get_submodule(f"model.layers.2.{projection}").weight.mul_(3e38 if dtype == torch.float32 else 3e4)
    loaded = LoadedModel(model, None, spec, dtype, torch.device("cpu"), "nowhere")
    with pytest.raises(UserError, match=said):
        prepared_supernet(Preparation(), loaded, lambda: TOKENS, tmp_path / "run")
    assert not is_prepared(tmp_path / "run")


@pytest.mark.parametrize(
    ("weight", "factor", "said"),
    [
        ("layers.1.mlp.down_proj", 1e22, "in layer 2 its o_proj reads is 0, though.* norms lose what they give: check"),
        ("norm", 3e38, "what its head gives, the logits, is not, in float32.*its config.json"),
    ],
)
def test_activations_that_say_nothing(tmp_path: Path, weight: str, factor: float, said: str) -> None:
    model, spec = tiny_model("mistral")  # which has no biases
    model.get_submodule(f"model.{weight}").weight.mul_(factor)
    loaded = LoadedModel(model, None, spec, torch.float32, torch.device("cpu"), "nowhere")
    with pytest.raises(UserError, match=said):
        prepared_supernet(Preparation(), loaded, lambda: TOKENS, tmp_path / "run")
    assert not is_prepared(tmp_path / "run")


def test_short_minutes_read_less_text_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, layers, timed = tmp_path / "run", list[int](), list[int]()
    seen = preparation.first_layer_s

    def first_layer_s(loaded: LoadedModel, how: Preparation, tokens: torch.Tensor) -> float:
        timed.append(len(tokens))
        assert seen(loaded, how, tokens) > 0.0
        return float(len(tokens))

    monkeypatch.setattr(preparation, "first_layer_s", first_layer_s)

    def prepared(run: Path, seconds: float) -> Supernet:
        model, spec = tiny_model("llama")
        loaded = LoadedModel(model, None, spec, torch.float32, torch.device("cpu"), "nowhere")
        return prepared_supernet(Preparation(), loaded, lambda: TOKENS, run, layers.append, seconds=seconds)

    few = prepared(place, 0.0)
    count = len(TOKENS)
    assert few.calibration_windows == count // 4
    assert timed == [count // 4, count // 4, count // 2]
    assert window_remarks(few, count) == [
        f"calibrated on {count // 4} of {count} windows of text, as minutes are short"
    ]
    assert prepared(place, 0.0).calibration_windows == count // 4  # as the directory has it, with nothing timed again
    whole = prepared(tmp_path / "other", inf)
    assert len(timed) == 3
    assert window_remarks(whole, count) == []
    assert layers == [*range(4)] * 2
    assert prepared(tmp_path / "third", 0.0).calibration_windows == count  # as the cache has all by now
    assert len(timed) == 3


@pytest.mark.parametrize("settings", [{"importance": "luck"}, {"damping": 0.0}, {"steps": 0}, {"batch_size": 0}])
def test_settings_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"[Ee]xpected"):
        Preparation(**settings)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_files_of_a_model_that_is_mapped_stay_as_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    model, _ = tiny_model("llama")
    place = tmp_path / "model"
    model.to(dtype).save_pretrained(place)
    byte_level().save_pretrained(place)
    before = {file.name: file.read_bytes() for file in place.iterdir()}
    loaded = load_model(str(place), dtype="bfloat16")
    supernet = prepared_supernet(Preparation(), loaded, lambda: TOKENS, tmp_path / "supernet")
    assert {parameter.dtype for parameter in supernet.model.parameters()} == {torch.bfloat16}
    assert not torch.equal(supernet.model.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight)
    assert {file.name: file.read_bytes() for file in place.iterdir()} == before
