"""A causal language model as a module whose cache goes in and comes out, and its graph in another engine's format.

The graph takes `input_ids` `(batch, new)`, `attention_mask` `(batch, past + new)`, 0 where the (left) padding is, and
the keys and values of the tokens before, `(batch, KV heads, past, head width)` for each layer that has attention. It
gives `logits` `(batch, new, vocab)` and the keys and values with the new tokens. With an empty past it is a prefill,
after it a decoding step. Positions are counted from the mask. transformers' exporters trace it, and repair what torch
traces in a way that the engines do not take.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from space.models.modeling_pruned import layer_config
from space.models.stack import family_of, layers_of

_SAMPLE = {"batch": 2, "new": 3, "past": 5}  # sizes of the traced example, all of which may be others later


class AttentionCache(dict[str, dict[str, Tensor]]):
    """`key` and `value` of each layer that has attention, by its number; exporters know a cache by its class's name."""


class CachedGraph(nn.Module):
    """A causal language model that takes and gives an `AttentionCache`."""

    def __init__(self, model: Any) -> None:
        """Takes the model, whose configuration says which layers have attention."""
        super().__init__()
        self.model = model
        family = family_of(model)
        names, repeats = family.sizes, family.repeats_groups
        heads = names.query_heads if repeats or names.kv_heads is None else names.kv_heads
        shapes = [layer_config(model.config, index) for index in range(len(layers_of(model)))]
        self.kv_heads = {
            index: heads if isinstance(heads, int) else getattr(shape, heads)
            for index, shape in enumerate(shapes)
            if "attention" not in (getattr(shape, "skip", None) or ())
        }

    def forward(self, input_ids: Tensor, attention_mask: Tensor, past_key_values: AttentionCache) -> dict[str, Any]:
        """One step, see the module's text."""
        cache = DynamicCache()
        cache.layers = [self._layer(past_key_values, index) for index in range(len(layers_of(self.model)))]
        positions = (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        present = {str(index): {"key": cache.layers[index].keys, "value": cache.layers[index].values}
                   for index in self.kv_heads}  # fmt: skip
        return {"logits": output.logits, "past_key_values": AttentionCache(present)}

    def _layer(self, past: AttentionCache, index: int) -> DynamicLayer:
        """A layer of transformers' cache; one without attention counts the tokens, which masks may be made from."""
        some = next(iter(past.values()))["key"]
        nothing = some.new_zeros(some.shape[0], 1, some.shape[2], 1)
        own = past.get(str(index), {"key": nothing, "value": nothing})
        layer = DynamicLayer()
        layer.lazy_initialization(own["key"], own["value"])
        layer.keys, layer.values = own["key"], own["value"]
        return layer

    def example(self) -> dict[str, Any]:
        """Inputs to trace with."""
        batch, new, past = _SAMPLE["batch"], _SAMPLE["new"], _SAMPLE["past"]
        config = self.model.config
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return {
            "input_ids": torch.zeros(batch, new, dtype=torch.int64),
            "attention_mask": torch.ones(batch, past + new, dtype=torch.int64),
            "past_key_values": AttentionCache(
                {
                    str(index): {name: torch.zeros(batch, heads, past, width) for name in ("key", "value")}
                    for index, heads in self.kv_heads.items()
                }
            ),
        }

    def dynamic_shapes(self) -> dict[str, Any]:
        """Which sizes of the inputs may be others: the batch and the lengths."""
        free = torch.export.Dim.AUTO
        return {
            "input_ids": {0: free, 1: free},
            "attention_mask": {0: free, 1: free},
            "past_key_values": [{0: free, 2: free} for _ in range(2 * len(self.kv_heads))],
        }


def cpu_copy(model: Any) -> Any:
    """A model of one's own on the CPU, with the attention that is traced."""
    own = copy.deepcopy(model).to("cpu").eval().requires_grad_(False)
    own.config._attn_implementation = "sdpa" if own._supports_sdpa else "eager"
    return own


def write_onnx(model: Any, directory: Path) -> None:
    """Writes `model.onnx` and its weights, `model.onnx.data`, in float32 and with ONNX Runtime's own operators.

    Args:
        model: A causal language model in float32, on the CPU.
        directory: To write into.
    """
    with _quietly():
        from transformers.exporters.configs import OnnxConfig
        from transformers.exporters.exporter_onnx import OnnxExporter

        graph = CachedGraph(model)
        settings = OnnxConfig(dynamic_shapes=graph.dynamic_shapes(), ort_fusions="cpu")
        program, _ = OnnxExporter().export_program(graph, graph.example(), settings)
        _name(program.graph)
        OnnxExporter.save_program(program, directory / "model.onnx")


def write_openvino(model: Any, directory: Path) -> None:
    """Writes `openvino_model.xml` and its weights, `openvino_model.bin`, in the model's own precision.

    The cache is a state of the graph: it is no input, and `beam_idx` says from which row of the batch each goes on.

    Args:
        model: A causal language model on the CPU.
        directory: To write into.
    """
    with _quietly():
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # it would report each conversion
        from transformers.exporters.configs import OpenVINOConfig
        from transformers.exporters.exporter_openvino import OpenVINOExporter

        graph = CachedGraph(model)
        settings = OpenVINOConfig(dynamic_shapes=graph.dynamic_shapes())
        program, _ = OpenVINOExporter().export_program(graph, graph.example(), settings)
        OpenVINOExporter.save_program(program, directory / "openvino_model.xml")


def _name(graph: Any) -> None:
    """Gives an ONNX graph's cache the names that are usual, `past_key_values.0.key` and `present.0.key`; sizes too."""
    import onnx_ir

    for value in graph.inputs:
        value.name = value.name.removeprefix("input.")
    for value in graph.outputs:
        value.name = re.sub(r"^output\.past_key_values", "present", value.name)
    tokens, mask, past = (graph.inputs[place].shape for place in range(3))
    named = {str(tokens[0]): "batch", str(tokens[1]): "new", str(mask[1]): "total", str(past[2]): "past"}

    def renamed(size: Any) -> int | str:
        return size if isinstance(size, int) else re.sub(r"\w+", lambda word: named.get(word[0], word[0]), str(size))

    for value in [*graph.inputs, *(output for node in graph for output in node.outputs)]:
        if value.shape is not None:
            value.shape = onnx_ir.Shape([renamed(size) for size in value.shape])


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Keeps to itself what tracing prints and warns of; whether it went well is seen by running the graph."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
