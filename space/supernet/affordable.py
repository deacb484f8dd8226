"""How many calibration windows there is time for, by the first layer's own times on a few of them."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from space.supernet.recipe import STRIDES


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
