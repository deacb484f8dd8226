"""What a pruned model's card has from the card of its base model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCardData

from space.models.base_card import base_card
from space.models.embedded import DEFAULT_MODEL_CARD


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("---\nlicense: other\nlicense_name: gemma\ntags: [a]\nlanguage: [en, de]\n---\n# It\n", True),
        ("# It\n", False),
        (None, False),
    ],
)
def test_licence_and_languages_are_inherited(tmp_path: Path, text: str | None, facts: bool) -> None:
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    said: dict[str, Any] = {"license": "other", "license_name": "gemma", "language": ["en", "de"]} if facts else {}
    assert base_card(tmp_path, None) == said
    assert base_card(tmp_path, "owner/it") == {"base_model": "owner/it", **said}


def test_a_card_that_cannot_be_read_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: [mit\n---\n")
    with caplog.at_level(logging.WARNING):
        assert base_card(tmp_path, "owner/it") == {"base_model": "owner/it"}
    assert "cards name no licence" in caplog.text


def test_what_is_said_of_the_default_model_is_front_matter() -> None:
    assert ModelCardData(**DEFAULT_MODEL_CARD).to_dict() == DEFAULT_MODEL_CARD
