"""Tiny random models that read images too, around tiny language models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from conftest import random_tokens, tiny_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from space.models.embedded import quiet_transformers
from space.models.stack import stack_of

VOCAB, IMAGE = 104, 100  # tokens, and the one that stands for a piece of an image
_LAYERS = {"intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_channels": 3}
_SEES = {"hidden_size": 16, **_LAYERS, "image_size": 16, "patch_size": 4}
_INDEX = {"image_token_index": IMAGE}
_CLIP = {"model_type": "clip_vision_model", **_SEES, "image_size": 8}
# Models by name: transformers' name, the family of the language part, what sees, and what else the configuration says.
WHOLES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    "llava": ("llava", "llama", _CLIP, _INDEX),
    "llava with experts": ("llava", "qwen3_moe", _CLIP, _INDEX),
    "llava with scaled logits": ("llava", "granite", _CLIP, _INDEX),
    "mistral3": ("mistral3", "mistral", {"model_type": "pixtral", **_SEES, "head_dim": 8}, _INDEX),
    "gemma3": (
        *("gemma3", "gemma3_text"),
        {"model_type": "siglip_vision_model", **_SEES},
        {**_INDEX, "mm_tokens_per_image": 4},
    ),
    "idefics3": ("idefics3", "llama", _SEES, {"image_token_id": IMAGE, "scale_factor": 2}),
}


def around(part: Any, name: str, image: int = IMAGE) -> Any:
    """A random model with a language model as its part, all parameters drawn anew but that one's."""
    kind, _, sees, more = WHOLES[name]
    more = {key: image if value == IMAGE else value for key, value in more.items()}
    tied = {"tie_word_embeddings": part.config.tie_word_embeddings}
    config = AutoConfig.for_model(kind, text_config=part.config.to_dict(), vision_config=sees, **tied, **more)
    whole = AutoModelForImageTextToText.from_config(config).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(3)
    for parameter in whole.parameters():
        parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    language_of(whole, part).load_state_dict(stack_of(part).state_dict())
    whole.get_output_embeddings().load_state_dict(part.get_output_embeddings().state_dict())
    return whole


def language_of(whole: Any, part: Any) -> Any:
    """The stack of a model's language part, which is as that of another model."""
    (stack,) = (module for module in whole.modules() if type(module) is type(stack_of(part)))
    return stack


def save_whole(name: str, directory: Path) -> Any:
    """Such a model around a tiny one as a checkpoint with a tokenizer; of llava, with what reads images too."""
    kind, family, *_ = WHOLES[name]
    whole = around(tiny_model(family, vocab_size=VOCAB)[0], name)
    words = {f"w{number}": number for number in range(VOCAB)}
    words["<image>"] = words.pop(f"w{IMAGE}")
    backend = Tokenizer(WordLevel(words, unk_token="w0"))
    backend.pre_tokenizer = WhitespaceSplit()
    reader: Any = PreTrainedTokenizerFast(tokenizer_object=backend, additional_special_tokens=["<image>"])
    if kind == "llava":
        sizes = {"size": {"shortest_edge": 8}, "crop_size": {"height": 8, "width": 8}}
        more = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
        reader = LlavaProcessor(CLIPImageProcessorPil(**sizes), reader, **more)
    with quiet_transformers():
        for each in (whole, reader):
            each.save_pretrained(directory)
    return whole


def seen(name: str) -> dict[str, Any]:
    """What such a model is asked of a text with an image in it, of four tokens."""
    tokens = random_tokens(1, 12, seed=5)
    tokens[:, 3:7] = IMAGE
    kind, _, sees, _ = WHOLES[name]
    size = sees["image_size"]
    pixels = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(6))
    asked: dict[str, Any] = {"input_ids": tokens, "pixel_values": pixels}
    if kind == "mistral3":
        asked["image_sizes"] = torch.tensor([[size, size]])
    elif kind == "gemma3":
        asked["token_type_ids"] = (tokens == IMAGE).long()
    elif kind == "idefics3":
        asked["pixel_values"] = pixels[:, None]
    return asked
