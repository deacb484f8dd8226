"""An export that a person trains, saves and moves is what it was, in a process that knows nothing of this project."""

from __future__ import annotations

from pathlib import Path

import pytest
import script_finetuning
import torch
from conftest import random_tokens, tiny_model
from helpers_formats import VOCAB, byte_level

from space.candidate import Candidate
from space.formats.checkpoint import Subnet
from space.formats.child import answer_of
from space.formats.hf.export import export_checkpoint
from space.formats.verify import Verification
from space.supernet.supernet import Supernet

# Attention gone first, an MLP gone, a layer gone, widths that differ.
SHAPES = [(0, 0, 48), (4, 2, 0), (0, 0, 0), (2, 1, 16)]


def test_what_is_trained_saved_and_moved_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the family that is least like a Llama; tests/test_transformers_versions.py does half of it for all kinds."""
    passed = Verification(0.0, 0.0, 0.0, 1, 0.0)  # tests/test_formats_hf.py checks the checking
    monkeypatch.setattr("space.formats.hf.export.verify_checkpoint", lambda *given, **settings: passed)
    model, spec = tiny_model("gemma3_text", vocab_size=VOCAB)
    net = Supernet.prepare(model, spec, random_tokens(12, 24), tmp_path / "supernet", dtype=torch.float32)
    candidate, tokenizer, place = Candidate.from_rows(SHAPES), byte_level(), tmp_path / "home"
    subnet = Subnet(net.model.config, tokenizer, spec, candidate)
    export_checkpoint(net.view(candidate), subnet, place / "export", card={})

    def job(name: str, here: Path) -> dict[str, object]:
        request = {"job": name, "export": str(here / "export"), "place": str(here)}
        return answer_of(
            Path(script_finetuning.__file__), request, {"input_ids": random_tokens(4, 16)}, failure=f"{name} failed"
        )

    moved = job("train", place)
    assert set(moved) == {"whole", "adapter", "merged"}
    assert all(isinstance(value, float) and value > 1e-3 for value in moved.values()), moved
    place.rename(tmp_path / "another place 1.5")
    given = job("load", tmp_path / "another place 1.5")
    assert {name: given[name] for name in moved} == dict.fromkeys(moved, 0.0)
    assert given["classes"] == ["PrunedForCausalLM"]
    assert given["tokens"] == tokenizer("the cat").input_ids
