"""Which dense model a session is of, and how it runs: a frozen value that travels to another process."""

from __future__ import annotations

from dataclasses import dataclass

from space.checks import require_dtype, require_least
from space.locations import is_local, model_directory
from space.task import CAUSAL_LM, TASKS, Task, require_task


@dataclass(frozen=True)
class ModelSettings:
    """Which dense model, and how it runs; the fields are the arguments of `space.models.loading.load_model`."""

    path: str | None = None
    revision: str | None = None
    digest: str | None = None
    dtype: str = "auto"
    device: str = "auto"
    device_bytes: int | None = None
    trust_remote_code: bool = False
    task: str = CAUSAL_LM

    def __post_init__(self) -> None:
        require_task(self.task)
        require_dtype(self.dtype)
        require_least(self, "model.", ("device_bytes",))

    @property
    def use(self) -> Task:
        """The row of its task."""
        return TASKS[self.task]

    def require_directory(self) -> None:
        """Refuses a path of this machine where there is no directory, without reading anything.

        Raises:
            UserError: There is none.
        """
        if self.path is not None and is_local(self.path):
            model_directory(self.path)
