"""Solved levels on disk: the same bits, each solved once, under a limit that keeps the narrowest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_tokens, tiny_model

from space.candidate import Candidate, LayerShape
from space.errors import UserError
from space.spec import ModelSpec
from space.supernet import refits as refits_module
from space.supernet.compensation import refits
from space.supernet.solved import OnDisk, SolvedLevels
from space.supernet.store import StoredLayers
from space.supernet.supernet import Supernet

CHANNELS = (8, 16, 32, 40, 48)
CPU = torch.device("cpu")


def opened(directory: Path, **how: Any) -> Supernet:
    """The same supernet, of which memory keeps no block."""
    model, spec = tiny_model("llama")
    if (directory / "supernet.json").exists():
        return Supernet.load(model, spec, directory, dtype=torch.float32, refit_bytes=1, **how)
    tokens = random_tokens(12, 24)
    return Supernet.prepare(model, spec, tokens, directory, dtype=torch.float32, refit_bytes=1, **how)


def candidates(spec: ModelSpec) -> list[Candidate]:
    options = [(spec.queries_per_group, 1), (spec.kv_heads, spec.kv_heads), (spec.query_heads, spec.kv_heads)]
    return [
        Candidate((LayerShape(*options[turn % 3], channels),) * spec.layers)
        for turn, channels in enumerate((40, 8, 16, 40, 32, 8, 24))
    ]


def test_levels_are_solved_once_and_stay_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, kept = opened(tmp_path), opened(tmp_path, on_disk=OnDisk(1 << 20, CHANNELS))
    solved: list[list[int]] = []

    def counted(weight: Any, blocks: Any, levels: Any) -> Any:
        solved.append(list(levels))
        return refits(weight, blocks, levels)

    attention: list[int] = []
    whole = StoredLayers.dropped_map
    monkeypatch.setattr(refits_module, "refits", counted)
    monkeypatch.setattr(StoredLayers, "dropped_map", lambda *args: (attention.append(args[1]), whole(*args))[1])
    tokens, asked = random_tokens(2, 10), candidates(plain.spec)
    with torch.inference_mode():
        first = [plain.view(candidate)(tokens).logits for candidate in asked]
        alone, alone_attention = len(solved), len(attention)
        again = [kept.view(candidate)(tokens).logits for candidate in asked]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)
    layers = plain.spec.layers
    assert alone == len(asked) * layers
    # at first all that will be asked for, and 24 channels, which nobody spoke of
    assert solved[alone:] == [[8, 16, 32, 40]] * layers + [[24]] * layers
    assert (alone_attention, len(attention) - alone_attention) == (5 * layers, 2 * layers)


def test_the_limit_keeps_the_narrowest(tmp_path: Path) -> None:
    supernet = opened(tmp_path)
    spec, files = supernet.spec, supernet._files
    share = spec.mlp_channels / (spec.mlp_channels + spec.query_heads * spec.head_dim)
    limit = round(spec.layers / share * 4 * spec.hidden * 60)  # 60 channels of a layer
    assert SolvedLevels(files, OnDisk(limit, CHANNELS)).kept_channels(torch.float32) == [8, 16, 32]
    assert SolvedLevels(files, OnDisk(limit, CHANNELS)).kept_channels(torch.bfloat16) == [8, 16, 32, 40]
    assert SolvedLevels(files, OnDisk(0, CHANNELS)).kept_channels(torch.float32) == []
    some = SolvedLevels(files, OnDisk(limit))
    wide, narrow = (torch.randn(spec.hidden, channels) for channels in (40, 24))
    for weight in (wide, narrow):
        some.put(0, "mlp", (weight.shape[1],), weight)
        some.put(1, "mlp", (weight.shape[1],), weight[:, :16])
    assert some.get(0, "mlp", (24,), CPU) is None
    for index, channels, expected in ((0, 40, wide), (1, 40, wide[:, :16]), (1, 24, narrow[:, :16])):
        level = some.get(index, "mlp", (channels,), CPU)
        assert level is not None
        assert torch.equal(level, expected)
    assert len([*tmp_path.iterdir()]) == spec.layers + 1  # what is kept has no name


def test_a_disk_that_takes_nothing_is_told_of(tmp_path: Path) -> None:
    beside = StoredLayers(tmp_path / "nowhere", opened(tmp_path / "supernet").spec, ())
    with pytest.raises(UserError, match=r"lower supernet\.disk_bytes"):
        SolvedLevels(beside, OnDisk(1 << 20)).put(0, "mlp", (8,), torch.ones(beside.spec.hidden, 8))
