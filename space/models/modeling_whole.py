"""The modelling code of a model of which a pruned language part is one, such as one that reads images too.

It lies beside the modelling file of that part in an exported checkpoint; only lines of names differ from model to
model. All but the language part is the stock class's own.
"""

from __future__ import annotations

from typing import Any

from transformers import AutoModel, __version__
from transformers.models.llava.configuration_llava import LlavaConfig as StockWholeConfig
from transformers.models.llava.modeling_llava import LlavaForConditionalGeneration as StockWhole

from space.models.modeling_pruned import PrunedConfig, PrunedModel, guarded

LEAST = (5, 23)  # before, parts of such models have other names

if tuple(int(part) for part in __version__.split(".")[:2]) < LEAST:
    raise ImportError(f"Expected transformers {LEAST[0]}.{LEAST[1]} or newer for a pruned model, got {__version__}.")

# The stock class makes its language part of the configuration of that by an automatic class, which goes by this class.
AutoModel.register(PrunedConfig, PrunedModel, exist_ok=True)


class PrunedWholeConfig(StockWholeConfig):
    """The stock configuration around that of a pruned language part.

    Its `model_type` is its own, so that transformers' automatic classes refuse the checkpoint where its code is not
    trusted; stock classes stumble over the language part's, which is guarded.
    """

    model_type = f"pruned_{StockWholeConfig.model_type}"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As the stock one, with a language part that may be guarded."""
        text = config_dict["text_config"]
        part = PrunedConfig.from_dict(text) if isinstance(text, dict) else text
        return super().from_dict({**config_dict, "text_config": part}, **kwargs)

    def to_diff_dict(self) -> dict[str, Any]:
        """As the stock one, guarded: what config.json is written from."""
        values = super().to_diff_dict()
        return {**values, "text_config": guarded(self.text_config.to_dict())}


class PrunedWhole(StockWhole):
    """The stock model with a pruned language part."""

    config_class = PrunedWholeConfig
