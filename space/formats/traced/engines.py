"""The engines that take a traced graph: what is written for each, and what its card says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from space.formats.traced.graph import write_onnx, write_openvino

_USE = """import numpy as np
{imports}
from transformers import AutoTokenizer

directory = "path/to/this/directory"
tokenizer = AutoTokenizer.from_pretrained(directory)
{load}
tokens = new = tokenizer("The capital of France is")["input_ids"]
for _ in range(20):
    inputs = {{"input_ids": np.array([new]), "attention_mask": np.ones((1, len(tokens)), np.int64)}}
{step}
    new = [int(logits[0, -1].argmax())]
    tokens = tokens + new
print(tokenizer.decode(tokens))"""
_ONNX_LOAD = """session = onnxruntime.InferenceSession(f"{directory}/model.onnx")
past = {
    value.name: np.zeros((1, value.shape[1], 0, value.shape[3]), np.float32)
    for value in session.get_inputs()
    if value.name.startswith("past_key_values")
}"""
_ONNX_STEP = """    logits, *present = session.run(None, inputs | past)
    past = dict(zip(past, present))"""
_OPENVINO_LOAD = """model = openvino.Core().compile_model(f"{directory}/openvino_model.xml", "CPU")
request = model.create_infer_request()"""
_OPENVINO_STEP = """    request.infer(inputs | {"beam_idx": np.zeros(1, np.int32)})
    logits = request.get_tensor("logits").data"""


@dataclass(frozen=True)
class Engine:
    """What takes a graph.

    Attributes:
        name: As people call it.
        write: Writes a causal language model on the CPU into a directory.
        float32: Whether the model is to be in float32 for that.
        kind: A sentence on what the card's directory holds.
        use: Lines of Python that write text with it.
    """

    name: str
    write: Callable[[Any, Path], None]
    float32: bool
    kind: str
    use: str


ENGINES = {
    "onnx": Engine(
        "ONNX Runtime",
        write_onnx,
        True,
        "It is an ONNX graph in float32, with operators of ONNX Runtime's own, for its CPU provider: `model.onnx` is "
        "prefill (with an empty past) and decoding step in one, for any batch and length. A layer without attention "
        "has no cache.",
        _USE.format(imports="import onnxruntime", load=_ONNX_LOAD, step=_ONNX_STEP),
    ),
    "openvino": Engine(
        "OpenVINO",
        write_openvino,
        False,
        "It is an OpenVINO graph: `openvino_model.xml` is prefill and decoding step in one, for any batch and length, "
        "with the key-value cache as its state. A layer without attention has no cache.",
        _USE.format(imports="import openvino", load=_OPENVINO_LOAD, step=_OPENVINO_STEP),
    ),
}
