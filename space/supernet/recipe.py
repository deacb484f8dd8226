"""How a supernet is prepared: the settings, free of torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from space.errors import UserError

_REFIT_BYTES = 3 << 27  # at least
RULES = ("obs", "wanda", "magnitude")  # rows of `space.supernet.importance`
EXPERT_RULES = ("reap", "energy")  # rows of `space.supernet.experts`
STRIDES = (1, 2, 4)  # of calibration windows: the first one that there is time for is taken, or the last


def require_rule(name: str) -> None:
    """Raises UserError where there is no such rule of importance."""
    _require(name, RULES, "importance")


def require_expert_rule(name: str) -> None:
    """Raises UserError where there is no such rule for experts."""
    _require(name, EXPERT_RULES, "experts")


def _require(name: str, rules: tuple[str, ...], setting: str) -> None:
    if name not in rules:
        raise UserError(f"supernet.{setting}: expected one of {', '.join(rules)}, got {name!r}.")


@dataclass(frozen=True)
class Preparation:
    """How units are ordered and output projections refit; see `space.supernet.supernet.Supernet.prepare`."""

    importance: str = "obs"
    experts: str = "reap"
    damping: float = 0.01
    steps: int = 48
    batch_size: int = 8
    refit_bytes: int | None = None
    disk_bytes: int | None = None

    def refit_limit(self, weights: int) -> int:
        """Memory limit of narrower blocks, in bytes, for a model whose weights take so many."""
        return max(_REFIT_BYTES, weights // 5) if self.refit_bytes is None else self.refit_bytes

    def disk_limit(self, weights: int) -> int:
        """Limit of solved levels on disk, in bytes, for a model whose weights take so many."""
        return weights if self.disk_bytes is None else self.disk_bytes

    def __post_init__(self) -> None:
        require_rule(self.importance)
        require_expert_rule(self.experts)
        counts = (self.steps, self.batch_size, 1 if self.refit_bytes is None else self.refit_bytes)
        if self.damping <= 0 or min(counts) < 1 or (self.disk_bytes or 0) < 0:
            raise UserError(
                "supernet: expected damping above 0, steps, batch_size and refit_bytes of at least 1, and disk_bytes "
                f"of at least 0, got {asdict(self)}."
            )
