"""Reloads an exported checkpoint in a fresh process and compares it with the model that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from space.errors import UserError
from space.formats.child import answer_of
from space.formats.hf import reload_check
from space.formats.reference import Reference

NEW_TOKENS = 12


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
            UserError: One is larger, or not a number.
        """
        differences = {
            "logits of the reloaded checkpoint and of the searched model": self.logits_difference,
            "logits of generate() with the dynamic cache and without, relative,": self.dynamic_cache_difference,
            "logits of generate() with the static cache and without, relative,": self.static_cache_difference,
        }
        wrong = [f"{what} differ by {value:.3g}" for what, value in differences.items() if not value <= tolerance]
        if wrong:
            raise UserError(
                f"The exported checkpoint failed its check: expected differences of at most {tolerance:g} in float32, "
                f"but {'; '.join(wrong)}. Export another point, or report this one with its key."
            )


def verify_checkpoint(
    directory: Path, reference: Reference, *, trust_remote_code: bool, tolerance: float = 1e-4
) -> Verification:
    """Loads a checkpoint in a process that cannot import this project, and compares what it computes.

    Args:
        directory: The checkpoint.
        reference: What it must compute.
        trust_remote_code: Whether the checkpoint brings its own modelling file.
        tolerance: Largest difference that passes: absolute for the logits, relative for the caches.

    Raises:
        UserError: It does not load, a weight is missing or left over, or a difference is above the tolerance.
    """
    answer = answer_of(
        Path(reload_check.__file__),
        {
            "directory": str(directory.resolve()),
            "trust_remote_code": trust_remote_code,
            "new_tokens": NEW_TOKENS,
        },
        reference.tensors(),
        failure="The exported checkpoint did not load or run in a fresh process",
    )
    if answer["wrong_keys"]:
        raise UserError(f"The exported checkpoint's weights do not fit its config: {answer['wrong_keys']}.")
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
