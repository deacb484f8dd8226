"""How many calibration windows there is time for, by the first layer's own times on a few of them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.utils.benchmark.utils.timer import timer

from space.models.loading import LoadedModel
from space.supernet.calibration import gather
from space.supernet.importance import rule_of
from space.supernet.placement import Placement
from space.supernet.prepared_layer import prepared_layer
from space.supernet.recipe import STRIDES, Preparation
from space.supernet.store import place_rest


def affordable(tokens: Tensor, layers: int, seconds: float, layer_s: Callable[[Tensor], float]) -> Tensor:
    """Calibration windows, or every second or fourth of them: the most that are calibrated on in time, or the fewest.

    A layer takes some time whatever the text, and some for each window. To tell them apart, the first layer is
    calibrated on the fewest windows twice, of which the first time does not count, and on twice as many.

    Args:
        tokens: All windows, shape (windows, length).
        layers: Of the model.
        seconds: That calibration may take.
        layer_s: Seconds that the first layer takes with windows.
    """
    choices = [tokens[::stride] for stride in STRIDES]
    *_, more, few = choices
    if len(more) == len(few):
        return tokens
    layer_s(few)
    shorter, longer = layer_s(few), layer_s(more)
    window = max(0.0, longer - shorter) / (len(more) - len(few))
    times = [layers * (shorter + window * (len(choice) - len(few))) for choice in choices]
    return next((choice for choice, time in zip(choices, times, strict=True) if time <= seconds), few)


def first_layer_s(loaded: LoadedModel, preparation: Preparation, tokens: Tensor) -> float:
    """Seconds in which the first layer is calibrated and put in order; nothing of it stays.

    Args:
        loaded: The dense model.
        preparation: How.
        tokens: Calibration windows, shape (windows, length).
    """
    place, dtype = Placement(loaded.device, loaded.streamed), loaded.dtype
    place_rest(loaded.model, dtype, place)
    begun = timer()
    batch = preparation.batch_size
    statistics = next(gather(loaded.model, tokens, forward_dtype=dtype, place=place, batch_size=batch))
    prepared_layer(
        statistics,
        loaded.spec,
        rule_of(preparation.importance),
        experts=preparation.experts,
        damping=preparation.damping,
        steps=preparation.steps,
        dtype=dtype,
    )
    return timer() - begun
