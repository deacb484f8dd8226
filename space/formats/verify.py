"""Reloads an exported checkpoint in a fresh process and compares it with the model that it came from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from space.errors import UserError
from space.formats.hf import reload_check

NEW_TOKENS = 12
_SHOWN_ERROR_LINES = 12


class VerificationError(UserError):
    """An exported checkpoint does not do what the model that it came from does."""


@dataclass(frozen=True)
class Verification:
    """How a reloaded checkpoint compares, in float32.

    Attributes:
        logits_difference: Reloaded checkpoint against the expected logits, the largest absolute difference.
        dynamic_cache_difference: `generate()` with the default cache against without, the largest difference of logits
            over all steps compared, as a fraction of the step's largest logit.
        static_cache_difference: The same with `cache_implementation="static"`.
        new_tokens: Steps compared for each kind of cache, the fewer of the two.
        load_seconds: Time of `from_pretrained` in the fresh process.
    """

    logits_difference: float
    dynamic_cache_difference: float
    static_cache_difference: float
    new_tokens: int
    load_seconds: float

    def rows(self) -> dict[str, object]:
        """The differences for a table."""
        return {
            "largest difference of logits, reloaded against searched": f"{self.logits_difference:.2g}",
            "generate() with the dynamic cache against without, relative": f"{self.dynamic_cache_difference:.2g}",
            "generate() with the static cache against without, relative": f"{self.static_cache_difference:.2g}",
            "tokens generated for each": self.new_tokens,
        }

    def check(self, tolerance: float) -> None:
        """Compares the differences with a tolerance.

        Raises:
            VerificationError: One is larger, or not a number.
        """
        differences = {
            "logits of the reloaded checkpoint and of the searched model": self.logits_difference,
            "logits of generate() with the dynamic cache and without, relative,": self.dynamic_cache_difference,
            "logits of generate() with the static cache and without, relative,": self.static_cache_difference,
        }
        wrong = [f"{what} differ by {value:.3g}" for what, value in differences.items() if not value <= tolerance]
        if wrong:
            raise VerificationError(
                f"The exported checkpoint failed its check: expected differences of at most {tolerance:g} in float32, "
                f"but {'; '.join(wrong)}. Export another point, or report this one with its key."
            )


def verify_checkpoint(
    directory: Path,
    expected_logits: torch.Tensor,
    input_ids: torch.Tensor,
    *,
    trust_remote_code: bool,
    tolerance: float = 1e-4,
) -> Verification:
    """Loads a checkpoint in a process that cannot import this project, and compares what it computes.

    Args:
        directory: The checkpoint.
        expected_logits: What its weights must give in float32, `(batch, time, vocab)`.
        input_ids: For these tokens, `(batch, time)`.
        trust_remote_code: Whether the checkpoint brings its own modelling file.
        tolerance: Largest difference that passes: absolute for the logits, relative for the caches.

    Raises:
        VerificationError: It does not load, a weight is missing or left over, or a difference is above the tolerance.
    """
    with tempfile.TemporaryDirectory(prefix="paretoprune-verify-") as name:
        work = Path(name)
        request = {
            "directory": str(directory.resolve()),
            "trust_remote_code": trust_remote_code,
            "new_tokens": NEW_TOKENS,
            "threads": torch.get_num_threads(),
        }
        (work / "request.json").write_text(json.dumps(request))
        tensors = {"expected_logits": expected_logits.float(), "input_ids": input_ids}
        save_file({key: value.contiguous().cpu() for key, value in tensors.items()}, work / "tensors.safetensors")
        failure = "The exported checkpoint did not load or run in a fresh process"
        run_check(Path(reload_check.__file__), work, failure)
        answer = json.loads((work / "answer.json").read_text())
    if answer["wrong_keys"]:
        raise VerificationError(f"The exported checkpoint's weights do not fit its config: {answer['wrong_keys']}.")
    dynamic, static = answer["cache_differences"]["dynamic"], answer["cache_differences"]["static"]
    result = Verification(
        logits_difference=answer["logits_difference"],
        dynamic_cache_difference=dynamic[0],
        static_cache_difference=static[0],
        new_tokens=min(dynamic[1], static[1]),
        load_seconds=answer["load_seconds"],
    )
    result.check(tolerance)
    return result


def run_check(script: Path, work: Path, failure: str) -> None:
    """Runs a script that cannot import this project on a working directory, which is its only argument.

    Raises:
        VerificationError: The process failed; the message is `failure` with its last lines.
    """
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(work / "modules")}
    done = subprocess.run(
        [sys.executable, "-P", str(script), str(work)],  # -P: neither this project nor `work` is on the path
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        last_lines = "\n".join(done.stderr.strip().splitlines()[-_SHOWN_ERROR_LINES:])
        raise VerificationError(f"{failure} (exit code {done.returncode}):\n{last_lines}")
