"""Has llama.cpp serve GGUF files; and what a fresh process does that checks one.

`space.formats.gguf.llamacpp` has this file run by its path, so it imports xllamacpp only. By itself it serves a file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from http.client import HTTPConnection, HTTPException
from typing import IO, Any, Self
from urllib.parse import urlsplit

TOP = 10  # most likely tokens of a step whose log-probabilities are handed back
DECODED = 4  # tokens of a timing: short ones, which others follow before a machine's speed is another one
_READY = "paretoprune: "  # what a line begins with that says where a file is served


class ServerError(Exception):
    """llama.cpp does not load a file, or has ended; what it said before tells more than a traceback does."""


class LlamaCppServer:
    """llama.cpp's server with one model, on the CPU, in a process of its own, asked one thing at a time.

    With two models in one process, whichever computes takes twice as long: OpenMP's threads are then more than the
    cores, and wait for each other asleep (libgomp's GOMP_SPINCOUNT), though the other model's do nothing.
    """

    def __init__(
        self,
        file: str,
        context: int,
        threads: int,
        log: IO[str] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Loads the file.

        Args:
            file: Its path.
            context: Tokens of a prompt and what follows it, at most.
            threads: Of the CPU.
            log: Where llama.cpp's own lines go; None for this process's standard error.
            environment: Of the process; None for this one's.

        Raises:
            ServerError: llama.cpp cannot.
        """
        self._file = file
        command = [sys.executable, "-P", __file__, file, str(context), str(threads)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=log, text=True, env=environment)
        assert self._process.stdout is not None
        ready = next((line for line in self._process.stdout if line.startswith(_READY)), None)
        if ready is None:  # what llama.cpp itself has said tells more than a traceback
            with self._process as process:
                raise ServerError(f"xllamacpp did not load {file}: exit code {process.wait()}")
        said = json.loads(ready.removeprefix(_READY))
        self._address, self.load_seconds = urlsplit(said["address"]), float(said["load_seconds"])

    def __enter__(self) -> Self:
        """Itself; the process ends at the end."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Ends the process."""
        with self._process as process:  # waits
            process.kill()

    def ask(self, path: str, **body: Any) -> dict[str, Any]:
        """Posts one request; http.client asks no proxy.

        Raises:
            ServerError: The process has ended, or answers that it cannot.
        """
        connection = HTTPConnection(self._address.hostname or "", self._address.port)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
        except (OSError, HTTPException) as error:
            raise ServerError(f"llama.cpp no longer serves {self._file}: {type(error).__name__} {error}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise ServerError(f"llama.cpp answered {path} with {answer.status}: {text.decode(errors='replace')[:500]}")
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
        steps: list[dict[str, Any]] = []
        for _ in range(new_tokens):
            context = prompt + [step["token"] for step in steps]
            answer = self.continued(context, 1, n_probs=TOP, cache_prompt=True)
            probabilities = answer.get("completion_probabilities") or [{"top_logprobs": []}]
            top = [[other["id"], other["logprob"]] for other in probabilities[0]["top_logprobs"]]
            steps.append({"token": answer["tokens"][0], "top": top})
        return steps

    def milliseconds(self, kind: str, prompt: list[int]) -> float:
        """llama.cpp's own time of a prompt from its start, or of a further token after it."""
        if kind == "prefill":
            return float(self.continued(prompt, 1, cache_prompt=False)["timings"]["prompt_ms"])
        timings = self.continued(prompt, DECODED + 1, cache_prompt=True)["timings"]
        return float(timings["predicted_ms"]) / DECODED  # the clock starts at the first of them


def checked(request: dict[str, Any]) -> dict[str, Any]:
    """How a file cuts texts and continues prompts, and how fast."""
    with LlamaCppServer(request["file"], request["context"], request["threads"]) as server:
        cut = [server.ask("/tokenize", content=text, add_special=True)["tokens"] for text in request["texts"]]
        runs = [server.steps(prompt, request["new_tokens"]) for prompt in request["prompts"]]
        timed = server.continued(request["timed_prompt"], request["timed_new_tokens"], cache_prompt=False)
    return {
        "cut": cut,
        "runs": runs,
        "load_seconds": server.load_seconds,
        "ends": [bias["token"] for bias in timed["generation_settings"]["logit_bias"]],  # never chosen: `ignore_eos`
        "prompt_tokens_per_s": timed["timings"]["prompt_per_second"],
        "decode_tokens_per_s": timed["timings"]["predicted_per_second"],
    }


def answer(request: dict[str, Any], tensors: dict[str, Any]) -> dict[str, Any]:
    """Checks the file that a request names; there are no tensors."""
    try:
        return checked(request)
    except ServerError as error:
        raise SystemExit(str(error)) from error


def serve(file: str, context: int, threads: int) -> None:
    """Loads a file, says where it is served, and serves it until stdin ends."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_ctx, params.n_parallel, params.n_gpu_layers, params.warmup = context, 1, 0, False
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    start = time.perf_counter()
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise SystemExit(f"xllamacpp: {error}") from error
    said = {"address": server.listening_address, "load_seconds": time.perf_counter() - start}
    print(f"{_READY}{json.dumps(said)}", flush=True)
    sys.stdin.read()  # ends with whoever asked, killed or not


if __name__ == "__main__":
    serve(sys.argv[1], *map(int, sys.argv[2:]))
