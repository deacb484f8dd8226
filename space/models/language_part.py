"""Models of which language is a part, such as those that read images too: that part is pruned, the rest is carried.

The language part is made a causal language model of its own, of the very modules of the whole, and is then like any
other model. What is left of the whole are its surroundings, which exports put around a subnet again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from space.errors import UserError
from space.models.architectures import ARCHITECTURES, model_type_of
from space.models.layout import Architecture
from space.models.modeling import whole_auto_map
from space.models.stack import PRUNED, family_of, layers_of, loader_of, put_stack, stack_of
from space.task import CAUSAL_LM

LOADER = "AutoModelForImageTextToText"
PIPELINE = "image-text-to-text"  # the hub's name of the task
# Files beside a checkpoint that say how images are read and chats are written.
COMPANIONS = ("*processor_config.json", "chat_template.*")
_TOKENS = 8  # of the text by which a part is compared with the whole
_FAMILIES = {*map(model_type_of, ARCHITECTURES)}  # of models that are pruned


def language_values(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What a config.json says of a language part that is pruned; None of a model that has none, or is one itself."""
    part, kind = values.get("text_config"), values["model_type"]
    if not isinstance(part, dict) or kind in _FAMILIES or kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return None
    return part if part.get("model_type") in _FAMILIES else None


def language_config(config: Any) -> Any:
    """The configuration of a model's language part; of a model that is none but that, its own."""
    return config if config.model_type in _FAMILIES else config.get_text_config()


def loader_for(config: Any, task: str) -> Any:
    """transformers' automatic class that loads a model for a task, or the whole of which such a model is a part."""
    return loader_of(task) if language_config(config) is config else getattr(transformers, LOADER)


@dataclass(frozen=True)
class Surroundings:
    """What of a model is not its language part.

    Attributes:
        model: The whole, with empty modules in the place of the language part: its tensors are mapped from its files.
        stack: Where in it the stack of the language part was.
        head: And the LM head.
    """

    model: Any
    stack: str
    head: str

    @property
    def params(self) -> int:
        """Parameters that are carried."""
        return sum(parameter.numel() for parameter in self.model.parameters())

    @property
    def remark(self) -> str:
        """What is carried, for people."""
        held = (name for name, child in _children(self.model) if next(child.parameters(), None) is not None)
        return f"{self.params:,} parameters of {' and '.join(held)}, which stay as they are"

    def values(self, part: Mapping[str, Any]) -> dict[str, Any]:
        """The contents of config.json around those of a subnet of the language part.

        Args:
            part: What a checkpoint of the subnet alone would say, see `space.models.pruned.checkpoint_config`.
        """
        config = self.model.config
        whole = {name: _without_dtype(value) for name, value in config.to_diff_dict().items()}
        own = {name: value for name, value in _without_dtype(part).items() if name != "auto_map"}
        values = {**whole, "architectures": [type(self.model).__name__], "text_config": own}
        if "auto_map" not in part:
            return values
        auto_map, name = whole_auto_map(LOADER), f"{PRUNED}{config.model_type}"
        return {**values, "model_type": name, "architectures": ["PrunedWhole"], "auto_map": auto_map}

    def tensors(self, state: Mapping[str, Tensor], row: Architecture, *, stock: bool) -> dict[str, Tensor]:
        """The tensors of the whole around those of a subnet of its language part, all in that one's dtype.

        Args:
            state: The subnet's by transformers' names, a tied LM head left out.
            row: Its family's.
            stock: Whether the stock class of the whole is to read them, from names as its checkpoint has them.
        """
        dtype = next(iter(state.values())).dtype
        carried = self.model.state_dict()
        put = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in carried.items()}
        for name, tensor in state.items():
            first, _, rest = name.partition(".")
            put[f"{self.stack if first == row.stack.module else self.head}.{rest}"] = tensor
        return revert_weight_conversion(self.model, put) if stock else put


def separated(whole: Any) -> tuple[Any, Surroundings | None]:
    """The language part of a model as one of its own, and its surroundings, which lack it from then on.

    Args:
        whole: The model, on the meta device or with weights; one that is all language stays as it is, without
            surroundings.

    Raises:
        UserError: It has no such part, or is no transformers model, or makes something else of text than the part.
    """
    made = language_config(whole.config)
    if made is whole.config:
        return whole, None
    kind = type(whole).__name__
    if not type(whole).__module__.startswith("transformers."):
        raise UserError(f"Expected a model of transformers around a language part, got {kind}, whose code is its own.")
    with torch.device("meta"):
        part = loader_of(CAUSAL_LM).from_config(made, dtype=whole.dtype)
    places = [name for name, module in whole.named_modules() if type(module) is type(stack_of(part))]
    head = whole.get_output_embeddings()
    if len(places) != 1 or head is None:
        raise UserError(
            f"Expected one {type(stack_of(part)).__name__} and an LM head in a {kind}, of which that is the language "
            f"part, but it has {len(places)} of them. Use another model."
        )
    (place,), (head_place,) = places, [name for name, module in whole.named_modules() if module is head]
    stack = whole.get_submodule(place)
    part.config = stack.config
    part.config.tie_word_embeddings = whole.config.tie_word_embeddings
    part.config.architectures = [type(part).__name__]
    put_stack(part, stack)
    part.set_output_embeddings(head)
    part.generation_config = getattr(whole, "generation_config", None)
    _require_alike(whole, part)
    for name in (place, head_place):
        parent, _, last = name.rpartition(".")
        setattr(whole.get_submodule(parent), last, nn.Module())
    return part.train(whole.training), Surroundings(whole, place, head_place)


@torch.no_grad()
def _require_alike(whole: Any, part: Any) -> None:
    """Refuses a model that makes something else of text than its language part does, by one layer of it.

    Such are those that do not scale logits as the part's own class does, or have more in the stream than its tokens.
    """
    if whole.device.type == "meta":
        return
    tokens = torch.arange(_TOKENS)[None] % part.get_input_embeddings().weight.shape[0]
    with _one_layer(part):
        own, other = (model(input_ids=tokens, use_cache=False).logits for model in (part, whole))
    if not torch.allclose(own, other, rtol=1e-3, atol=1e-3 * own.abs().max().item()):
        raise UserError(
            f"Expected a {type(whole).__name__} that makes of text what its language part, a {type(part).__name__}, "
            f"makes of it, but logits differ by {(own - other).abs().max():.3g}. Save the language part by itself, see "
            "docs/families.md, and set model.path to that."
        )


@contextmanager
def _one_layer(part: Any) -> Iterator[None]:
    """Has a model one layer for a while."""
    layers, place = layers_of(part), family_of(part).stack.layers
    parent, _, name = place.rpartition(".")
    holder = stack_of(part).get_submodule(parent)
    setattr(holder, name, layers[:1])
    try:
        yield
    finally:
        setattr(holder, name, layers)


def _children(model: Any) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a model, by their names: children of its base model, and of itself."""
    base = model.base_model
    yield from base.named_children()
    yield from ((name, child) for name, child in model.named_children() if base is not model and child is not base)


def _without_dtype(value: Any) -> Any:
    """What a configuration says of a part, which is in the dtype of the whole."""
    if not isinstance(value, Mapping):
        return value
    return {name: each for name, each in value.items() if name not in ("dtype", "torch_dtype")}
