"""What a run of a model that is larger than its device can not do, said before its work begins."""

from __future__ import annotations

from collections.abc import Sequence

from evaluators.planning.fit import listed
from evaluators.planning.memory import least_on_device
from evaluators.settings import Settings
from evaluators.training.recipes import Distillation
from space.checks import dtype_name
from space.errors import UserError
from space.models.device import gpu_bytes
from space.models.loading import LoadedModel
from space.supernet.sizes import total


def require_streamable(settings: Settings, loaded: LoadedModel) -> None:
    """Refuses what needs a whole model on the device, where it does not fit, and a device too small for one layer.

    Raises:
        UserError: Subnets are to be trained each by itself, to choose types of matrices, or to be timed on a device
            that does not hold the model; or what a layer and the work with it take is more than the device may give.
    """
    if not loaded.streamed:
        return
    if settings.training != "off" and isinstance(settings.distillation, Distillation):
        raise UserError(
            f"distillation=own: expected a model that fits on {loaded.device}, as each design is trained there whole, "
            f"but {loaded.spec.name} is larger than that. Heal the supernet instead (distillation=default), or set "
            "search.distillation=off."
        )
    if settings.chooses_types:
        raise UserError(
            f"space.types: expected [] or a model that fits on {loaded.device}, as layers that wait on the host are "
            f"not rounded, but {loaded.spec.name} is larger than that. Export points with gguf.type=q8_0 instead."
        )
    if loaded.device.type != "cpu" and settings.latency.table is None:
        raise UserError(
            f"latency: expected a model that fits on {loaded.device} to be timed there, but {loaded.spec.name} is "
            "larger than that. Measure its table where it is to be served (python run_search.py "
            "experiment=profile_only), and give it as latency.table=FILE."
        )
    _require_room(settings, loaded)


def _require_room(settings: Settings, loaded: LoadedModel) -> None:
    device, limit = loaded.device, settings.model.device_bytes
    limit = gpu_bytes(device) if limit is None else limit
    assert limit is not None  # of what there is no limit, nothing is too large for
    dtype = dtype_name(loaded.dtype)
    stage = least_on_device(loaded.spec, settings, dtype, on_host=device.type == "cpu")
    if total(stage.device) > limit:
        smaller = [part.setting for part in stage.device if part.setting]
        advice = f", or lower {' and '.join(dict.fromkeys(smaller))}" if smaller else ""
        raise UserError(
            f"model.device_bytes: expected at least {total(stage.device):,} bytes of {device} for {loaded.spec.name}, "
            f"got {limit:,}: {stage.title} takes {listed(stage.device)}. Give it more{advice}."
        )


def streaming_remarks(loaded: LoadedModel) -> Sequence[str]:
    """What a person should know of it, in lines."""
    if not loaded.streamed:
        return []
    return [
        f"{loaded.spec.name} is larger than {loaded.device} may hold: its layers wait on the host, and pass in turn"
    ]
