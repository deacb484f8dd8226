"""What a fresh process does with graphs: run them in ONNX Runtime or OpenVINO, and check one or time some in turns.

`space.formats.traced.check` has this file run by its path, so it imports numpy and the engine only.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

TOP = 10  # most likely tokens of a step whose log-probabilities are handed back
DECODED = 16  # tokens of a timing
TIMINGS = 3


class OnnxRuntime:
    """ONNX Runtime with one graph, on the CPU; the cache stays in its memory."""

    def __init__(self, directory: str, threads: int, exact: bool) -> None:
        """Loads the graph, which computes in float32 anyway."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._values = onnxruntime.OrtValue.ortvalue_from_numpy
        self._session = onnxruntime.InferenceSession(f"{directory}/model.onnx", options, ["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._cached = [value for value in self._session.get_inputs() if value.name.startswith("past_key_values.")]
        self._past: dict[str, Any] = {}

    def reset(self, batch: int) -> None:
        """Forgets all tokens."""
        self._past = {
            value.name: self._values(np.zeros((batch, value.shape[1], 0, value.shape[3]), np.float32))
            for value in self._cached
        }

    def logits(self, tokens: Any, mask: Any) -> Any:
        """Logits of new tokens, `(batch, new, vocab)`, of `(batch, new)` and the mask of all, `(batch, past + new)`."""
        inputs = {"input_ids": self._values(tokens), "attention_mask": self._values(mask), **self._past}
        values = dict(zip(self._outputs, self._session.run_with_ort_values(self._outputs, inputs), strict=True))
        self._past = {value.name: values[value.name.replace("past_key_values", "present")] for value in self._cached}
        return values["logits"].numpy()


class OpenVINO:
    """OpenVINO with one graph, on the CPU; the cache is the graph's own state."""

    def __init__(self, directory: str, threads: int, exact: bool) -> None:
        """Loads the graph, to compute in float32 where it is to be `exact` and else as OpenVINO would."""
        import openvino

        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        if exact:
            settings |= {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
        compiled = openvino.Core().compile_model(f"{directory}/openvino_model.xml", "CPU", settings)
        self._request = compiled.create_infer_request()

    def reset(self, batch: int) -> None:
        """Forgets all tokens."""
        self._request.reset_state()

    def logits(self, tokens: Any, mask: Any) -> Any:
        """As `OnnxRuntime.logits`."""
        rows = np.arange(len(tokens), dtype=np.int32)
        self._request.infer({"input_ids": tokens, "attention_mask": mask, "beam_idx": rows})
        return self._request.get_tensor("logits").data.copy()


ENGINES: dict[str, Any] = {"onnx": OnnxRuntime, "openvino": OpenVINO}


def continued(engine: Any, prompts: list[list[int]], new_tokens: int) -> list[Any]:
    """Logits of a greedy continuation of some prompts at once, shorter ones padded on the left.

    Returns:
        For each step the logits of the last token, `(batch, vocab)`.
    """
    longest = max(map(len, prompts))
    tokens = np.array([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = np.array([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    engine.reset(len(prompts))
    steps = []
    for _ in range(new_tokens):
        steps.append(engine.logits(tokens, mask)[:, -1].astype(np.float32))
        tokens = steps[-1].argmax(-1)[:, None]
        mask = np.concatenate([mask, np.ones_like(tokens)], axis=1)
    return steps


def reported(logits: Any) -> dict[str, Any]:
    """A step: the likeliest token, and the likeliest ones with their log-probabilities."""
    shifted = logits.astype(np.float64) - logits.max()
    values = shifted - np.log(np.exp(shifted).sum())
    top = np.argsort(-values)[:TOP]
    top_values = [float(values[token]) if np.isfinite(values[token]) else None for token in top]
    return {
        "token": int(logits.argmax()),
        "top": [[int(token), value] for token, value in zip(top, top_values, strict=True)],
    }


def milliseconds(engine: Any, kind: str, prompt: list[int]) -> float:
    """Time of a prompt from its start, or of a further token after it."""
    tokens, mask = np.array([prompt]), np.ones((1, len(prompt)), np.int64)
    engine.reset(1)
    start = time.perf_counter()
    engine.logits(tokens, mask)
    if kind == "prefill":
        return 1000 * (time.perf_counter() - start)
    start = time.perf_counter()
    for step in range(1, DECODED + 1):
        engine.logits(tokens[:, -1:], np.ones((1, len(prompt) + step), np.int64))
    return 1000 * (time.perf_counter() - start) / DECODED


def checked(request: dict[str, Any]) -> dict[str, Any]:
    """How a graph continues prompts, alone and as a padded batch, and how fast."""
    open_engine, place = ENGINES[request["engine"]], (request["directories"][0], request["threads"])
    start = time.perf_counter()
    engine = open_engine(*place, True)
    load_seconds = time.perf_counter() - start
    prompts = request["prompts"]
    runs = [continued(engine, [prompt], request["new_tokens"]) for prompt in prompts]
    together = continued(engine, prompts, 2)  # a second step only where the first chose the same token
    apart = [
        float(np.abs(batch[row] - alone).max())
        for row, run in enumerate(runs)
        for step, (batch, alone) in enumerate(zip(together, run[:2], strict=True))
        if step == 0 or together[0][row].argmax() == run[0][0].argmax()
    ]
    engine = open_engine(*place, False)
    milliseconds(engine, "prefill", request["timed_prompt"])
    kinds = ("prefill", "decode")
    times = {
        kind: statistics.median(milliseconds(engine, kind, request["timed_prompt"]) for _ in range(TIMINGS))
        for kind in kinds
    }
    return {
        "runs": [[reported(step[0]) for step in run] for run in runs],
        "batch_difference": float(np.max(apart)),
        "load_seconds": load_seconds,
        "prompt_tokens_per_s": 1000 * len(request["timed_prompt"]) / times["prefill"],
        "decode_tokens_per_s": 1000 / times["decode"],
    }


def timed(request: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of each of some graphs, in rounds in which they take turns; once before, to be warm."""
    open_engine = ENGINES[request["engine"]]
    engines = [open_engine(directory, request["threads"], False) for directory in request["directories"]]
    ask = request["kind"], request["prompt"]
    for engine in engines:
        milliseconds(engine, *ask)
    return {"ms": [[milliseconds(engine, *ask) for engine in engines] for _ in range(request["rounds"])]}


JOBS = {"check": checked, "time": timed}


def answer(request: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Does the job that a request names; there are no tensors."""
    return JOBS[request["job"]](request)
