"""What tests need that use no model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from space.spec import ModelSpec


def default_config(*overrides: str) -> dict[str, Any]:
    """The configuration of a search, as its run directory keeps it."""
    with initialize_config_dir(str(Path(__file__).parents[1] / "conf"), version_base="1.3"):
        return cast("dict[str, Any]", OmegaConf.to_container(compose("config", overrides=[*overrides]), resolve=True))


def toy_spec(layers: int) -> ModelSpec:
    """A spec for tests that need no model."""
    return ModelSpec(
        name="toy",
        digest="0",
        family="llama",
        layers=layers,
        hidden=16,
        query_heads=4,
        kv_heads=2,
        head_dim=4,
        mlp_channels=16,
        vocab=32,
        tied_embeddings=True,
    )
