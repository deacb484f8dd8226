"""The configuration of a checkpoint in NVIDIA's `block_configs` schema: a Llama whose blocks differ by layer.

An exported checkpoint of this format carries this file. It needs transformers only.
"""

from __future__ import annotations

from typing import Any

from transformers import LlamaConfig


class Section(dict[str, Any]):
    """A mapping whose keys are attributes too, which is how vLLM's loader reads a block."""

    def __init__(self, values: dict[str, Any]) -> None:
        """Takes nested mappings as sections."""
        super().__init__({key: Section(value) if isinstance(value, dict) else value for key, value in values.items()})

    def __getattr__(self, name: str) -> Any:
        """The value of a key."""
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies and pickles as what it was made of."""
        return Section, (dict(self),)


class DeciLMConfig(LlamaConfig):
    """A Llama's configuration with one entry of `block_configs` a layer."""

    model_type = "nemotron-nas"

    def __init__(self, block_configs: list[dict[str, Any]] | None = None, **kwargs: Any) -> None:
        """Takes what `LlamaConfig` takes, and the blocks."""
        super().__init__(**kwargs)
        self.block_configs = [Section(block) for block in block_configs or []]
