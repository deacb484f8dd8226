"""Reloads an exported checkpoint in a fresh process and compares it with the model that it came from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from space.errors import UserError
from space.formats.child import answer_of
from space.formats.hf import reload_check
from space.formats.reference import Reference
from space.task import CAUSAL_LM, TASKS, Task

NEW_TOKENS = 12


@dataclass(frozen=True)
class Verification:
    """How a reloaded checkpoint compares, in float32.

    Attributes:
        difference: Reloaded checkpoint against what was expected, the largest absolute difference.
        dynamic_cache_difference: `generate()` with the default cache against without, the largest difference of logits
            over all steps compared, as a fraction of the step's largest logit; None of a model that does not write.
        static_cache_difference: The same with `cache_implementation="static"`.
        new_tokens: Steps compared for each kind of cache, the fewer of the two.
        load_seconds: Time of `from_pretrained` in the fresh process.
        output: What was compared, in words.
    """

    difference: float
    dynamic_cache_difference: float | None
    static_cache_difference: float | None
    new_tokens: int
    load_seconds: float
    output: str = "logits"

    @property
    def caches(self) -> dict[str, float]:
        """The differences of each kind of cache, as far as there are caches."""
        both = {"dynamic": self.dynamic_cache_difference, "static": self.static_cache_difference}
        return {kind: difference for kind, difference in both.items() if difference is not None}

    def rows(self) -> dict[str, object]:
        """The differences for a table."""
        rows: dict[str, object] = {
            f"largest difference of {self.output}, reloaded against searched": f"{self.difference:.2g}"
        }
        for kind, value in self.caches.items():
            rows[f"generate() with the {kind} cache against without, relative"] = f"{value:.2g}"
        return rows | ({"tokens generated for each": self.new_tokens} if self.caches else {})

    def remarks(self) -> list[str]:
        """The differences in lines."""
        whole = f"reloaded in a fresh process: {self.output} within {self.difference:.1e} of the search's own subnet"
        if not self.caches:
            return [whole]
        return [
            f"{whole},",
            f"generate() with the dynamic cache within {self.dynamic_cache_difference:.1e} (relative) of without, "
            f"with the static one {self.static_cache_difference:.1e}",
        ]

    def check(self, tolerance: float) -> None:
        """Compares the differences with a tolerance.

        Raises:
            UserError: One is larger, or not a number.
        """
        differences = {f"{self.output} of the reloaded checkpoint and of the searched model": self.difference}
        for kind, value in self.caches.items():
            differences[f"logits of generate() with the {kind} cache and without, relative,"] = value
        wrong = [f"{what} differ by {value:.3g}" for what, value in differences.items() if not value <= tolerance]
        if wrong:
            raise UserError(
                f"The exported checkpoint failed its check: expected differences of at most {tolerance:g} in float32, "
                f"but {'; '.join(wrong)}. Export another point, or report this one with its key."
            )


def verify_checkpoint(
    directory: Path,
    reference: Reference,
    *,
    trust_remote_code: bool,
    tolerance: float = 1e-4,
    task: Task = TASKS[CAUSAL_LM],
    loader: str | None = None,
) -> Verification:
    """Loads a checkpoint in a process that cannot import this project, and compares what it computes.

    Args:
        directory: The checkpoint.
        reference: What it must compute.
        trust_remote_code: Whether the checkpoint brings its own modelling file.
        tolerance: Largest difference that passes: absolute for what it gives, relative for the caches.
        task: What it is for.
        loader: transformers' automatic class that loads it; None for the task's.

    Raises:
        UserError: It does not load, a weight is missing or left over, or a difference is above the tolerance.
    """
    answer = answer_of(
        Path(reload_check.__file__),
        {
            "directory": str(directory.resolve()),
            "trust_remote_code": trust_remote_code,
            "loader": loader or task.loader,
            "output": task.output,
            "new_tokens": NEW_TOKENS if task.writes else 0,
        },
        reference.tensors(),
        failure="The exported checkpoint did not load or run in a fresh process",
    )
    if answer["wrong_keys"]:
        raise UserError(f"The exported checkpoint's weights do not fit its config: {answer['wrong_keys']}.")
    dynamic, static = (answer["cache_differences"].get(kind, (None, 0)) for kind in ("dynamic", "static"))
    result = Verification(
        difference=answer["difference"],
        dynamic_cache_difference=dynamic[0],
        static_cache_difference=static[0],
        new_tokens=min(dynamic[1], static[1]),
        load_seconds=answer["load_seconds"],
        output=task.output.replace("_", " "),
    )
    result.check(tolerance)
    return result
