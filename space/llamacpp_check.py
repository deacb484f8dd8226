"""What a fresh process does with an exported GGUF file: load it in llama.cpp, cut text, continue prompts, time itself.

`space.llamacpp` runs this file by its path, so it imports xllamacpp only.
"""

from __future__ import annotations

import json
import sys
import time
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

TOP = 10  # most likely tokens of a step whose log-probabilities are handed back


class Engine:
    """llama.cpp's server with one model, on the CPU, asked one thing at a time."""

    def __init__(self, file: str, context: int, threads: int) -> None:
        """Loads the file.

        Raises:
            SystemExit: llama.cpp cannot.
        """
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = file
        params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup = context, 1, 0, False
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        try:
            self._server = xllamacpp.Server(params)
        except RuntimeError as error:  # what llama.cpp has said on stderr tells more than a traceback
            raise SystemExit(f"xllamacpp: {error}") from error
        self._address = urlsplit(self._server.listening_address)

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """Posts one request; http.client asks no proxy."""
        connection = HTTPConnection(self._address.hostname or "", self._address.port)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        finally:
            connection.close()
        if answer.status != 200:
            raise RuntimeError(f"llama.cpp answered {path} with {answer.status}: {text.decode(errors='replace')[:500]}")
        return dict(json.loads(text))

    def continued(self, prompt: list[int], new_tokens: int, **settings: Any) -> dict[str, Any]:
        """The most likely continuation of a prompt of token ids, to its full length."""
        fixed = {"temperature": 0, "ignore_eos": True, "return_tokens": True}
        return self.ask("/completion", prompt=prompt, n_predict=new_tokens, **fixed, **settings)

    def steps(self, prompt: list[int], new_tokens: int) -> list[dict[str, Any]]:
        """A continuation token by token: for each its id and, as `[id, log-probability]`, the likeliest ones.

        Each token is a request of its own on the cache of those before: the server leaves out the log-probabilities of
        tokens that end inside a character, and in a longer answer does not say of which. Such a step has none.
        """
        found: list[dict[str, Any]] = []
        for _ in range(new_tokens):
            context = prompt + [step["token"] for step in found]
            answer = self.continued(context, 1, n_probs=TOP, cache_prompt=True)
            given = answer.get("completion_probabilities") or [{"top_logprobs": []}]
            top = [[other["id"], other["logprob"]] for other in given[0]["top_logprobs"]]
            found.append({"token": answer["tokens"][0], "top": top})
        return found


def main(work: Path) -> None:
    """Reads `request.json` of a directory and writes `answer.json` there.

    Args:
        work: A temporary directory of `space.llamacpp`.
    """
    request = json.loads((work / "request.json").read_text())
    start = time.perf_counter()
    engine = Engine(request["file"], request["context"], request["threads"])
    load_seconds = time.perf_counter() - start
    cut = [engine.ask("/tokenize", content=text, add_special=True)["tokens"] for text in request["texts"]]
    runs = [engine.steps(prompt, request["new_tokens"]) for prompt in request["prompts"]]
    timed = engine.continued(request["timed_prompt"], request["timed_new_tokens"], cache_prompt=False)
    answer = {
        "cut": cut,
        "runs": runs,
        "load_seconds": load_seconds,
        "ends": [bias["token"] for bias in timed["generation_settings"]["logit_bias"]],  # never chosen: `ignore_eos`
        "prompt_tokens_per_s": timed["timings"]["prompt_per_second"],
        "decode_tokens_per_s": timed["timings"]["predicted_per_second"],
    }
    (work / "answer.json").write_text(json.dumps(answer))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
