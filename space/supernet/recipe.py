"""How a supernet is prepared: the settings, free of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from space.errors import UserError

RULES = ("obs", "wanda", "magnitude")  # rows of `space.supernet.importance`


def require_rule(name: str) -> None:
    """Raises UserError where there is no such rule of importance."""
    if name not in RULES:
        raise UserError(f"supernet.importance: expected one of {', '.join(RULES)}, got {name!r}.")


@dataclass(frozen=True)
class Preparation:
    """How units are ordered and output projections refit; see `space.supernet.supernet.Supernet.prepare`."""

    importance: str = "obs"
    damping: float = 0.01
    steps: int = 48
    batch_size: int = 8
    refit_bytes: int = 3 << 28

    def __post_init__(self) -> None:
        require_rule(self.importance)
        if self.damping <= 0 or min(self.steps, self.batch_size, self.refit_bytes) < 1:
            raise UserError(
                "supernet: expected damping above 0, and steps, batch_size and refit_bytes of at least 1, "
                f"got {asdict(self)}."
            )
