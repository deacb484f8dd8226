"""A checkpoint is known by its weights and configuration, wherever it lies and whatever large files cost to read."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from space.errors import UserError
from space.models import digest as known_by
from space.models.digest import checkpoint_digest


def save(directory: Path, weight: float = 1.0, **config: object) -> Path:
    directory.mkdir(exist_ok=True)
    facts = {"model_type": "llama", "rms_norm_eps": 1e-6, "_name_or_path": str(directory), **config}
    (directory / "config.json").write_text(json.dumps(facts))
    for shard in (1, 2):
        save_file({f"w{shard}": torch.full((8,), weight)}, directory / f"model-0000{shard}-of-00002.safetensors")
    return directory


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return save(tmp_path / "one")


def test_a_copy_in_another_place_is_the_same_model(checkpoint: Path, tmp_path: Path) -> None:
    before = checkpoint_digest(checkpoint)
    assert len(before) == 16
    assert checkpoint_digest(save(tmp_path / "another", transformers_version="9")) == before
    (checkpoint / "README.md").write_text("a card")
    assert checkpoint_digest(checkpoint.rename(tmp_path / "renamed")) == before


@pytest.mark.parametrize("change", [{"weight": 1.0000001}, {"rms_norm_eps": 1e-5}, {"rope_theta": 1.0}])
def test_other_weights_or_another_configuration_are_another_model(
    checkpoint: Path, tmp_path: Path, change: dict[str, float]
) -> None:
    assert checkpoint_digest(save(tmp_path / "another", **change)) != checkpoint_digest(checkpoint)  # type: ignore[arg-type]


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Names of the files that are hashed; every file is a large one."""
    monkeypatch.setenv("PARETOPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(known_by, "_KEPT_BYTES", 0)
    names: list[str] = []
    of_bytes = known_by._hashed

    def noted(file: Path) -> str:
        names.append(file.name)
        return of_bytes(file)

    monkeypatch.setattr(known_by, "_hashed", noted)
    return names


def test_large_files_are_hashed_once(checkpoint: Path, tmp_path: Path, hashed: list[str]) -> None:
    before = checkpoint_digest(checkpoint)
    assert len(hashed) == 2
    assert checkpoint_digest(checkpoint) == before
    assert len(hashed) == 2
    assert checkpoint_digest(checkpoint.rename(tmp_path / "renamed")) == before
    assert len(hashed) == 4


def test_a_large_file_that_was_changed_is_hashed_again(checkpoint: Path, hashed: list[str]) -> None:
    before = checkpoint_digest(checkpoint)
    shard = checkpoint / "model-00002-of-00002.safetensors"
    times = shard.stat()
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))  # of the same size, and as old as before by its own word
    assert checkpoint_digest(checkpoint) != before
    assert hashed == [*(f"model-0000{n}-of-00002.safetensors" for n in (1, 2)), shard.name]


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"sha256": "0"}'])
def test_a_digest_that_was_kept_and_does_not_read_is_made_again(
    checkpoint: Path, tmp_path: Path, hashed: list[str], content: str
) -> None:
    before = checkpoint_digest(checkpoint)
    for file in (tmp_path / "cache" / "digests").iterdir():
        file.write_text(content)
    assert checkpoint_digest(checkpoint) == before
    assert len(hashed) == 4


def test_a_cache_that_cannot_be_written_is_told(checkpoint: Path, tmp_path: Path, hashed: list[str]) -> None:
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(UserError, match="PARETOPRUNE_CACHE"):
        checkpoint_digest(checkpoint)
