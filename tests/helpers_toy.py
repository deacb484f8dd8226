"""What tests need that use no model."""

from __future__ import annotations

from space.spec import ModelSpec


def toy_spec(layers: int) -> ModelSpec:
    """A spec for tests that need no model."""
    return ModelSpec(
        name="toy",
        revision="0",
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
