"""What a run of a model that is larger than its device can not do, said before its work begins."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.settings import Settings
from evaluators.training.recipes import Distillation
from space.errors import UserError
from space.models.loading import LoadedModel


def require_streamable(settings: Settings, loaded: LoadedModel) -> None:
    """Refuses what needs a whole model on the device, where it does not fit.

    Raises:
        UserError: Subnets are to be trained each by itself, or to be timed on a device that does not hold the model.
    """
    if not loaded.streamed:
        return
    if settings.training != "off" and isinstance(settings.distillation, Distillation):
        raise UserError(
            f"distillation=own: expected a model that fits on {loaded.device}, as each design is trained there whole, "
            f"but {loaded.spec.name} is larger than that. Heal the supernet instead (distillation=default), or set "
            "search.distillation=off."
        )
    if loaded.device.type != "cpu" and settings.latency.table is None:
        raise UserError(
            f"latency: expected a model that fits on {loaded.device} to be timed there, but {loaded.spec.name} is "
            "larger than that. Measure its table where it is to be served (python run_search.py "
            "experiment=profile_only), and give it as latency.table=FILE."
        )


def streaming_remarks(loaded: LoadedModel) -> Sequence[str]:
    """What a person should know of it, in lines."""
    if not loaded.streamed:
        return []
    return [
        f"{loaded.spec.name} is larger than {loaded.device} may hold: its layers wait on the host, and pass in turn"
    ]
