"""How much text a calibration reads where minutes are short."""

from __future__ import annotations

import torch

from space.supernet.affordable import affordable

TOKENS = torch.arange(64)[:, None].expand(64, 8)


def chosen(seconds: float, *, fixed: float = 1.0, window: float = 0.125) -> list[int]:
    """Windows of a model of ten layers that are calibrated on, of which a layer takes so many seconds."""
    return affordable(TOKENS, 10, seconds, lambda few: fixed + window * len(few))[:, 0].tolist()


def test_all_windows_are_read_where_there_is_time_for_all() -> None:
    assert chosen(10 * (1 + 64 / 8)) == [*range(64)]


def test_fewer_are_chosen_evenly() -> None:
    assert chosen(10 * (1 + 64 / 8) - 1) == [*range(0, 64, 2)]
    assert chosen(10 * (1 + 32 / 8) - 1) == [*range(0, 64, 4)]


def test_a_quarter_is_read_however_short_time_is() -> None:
    assert chosen(0.0) == [*range(0, 64, 4)]


def test_a_layer_whose_time_does_not_grow_takes_what_it_takes() -> None:
    assert chosen(10.0, window=-0.001) == [*range(64)]
    assert chosen(9.0, window=0.0) == [*range(0, 64, 4)]


def test_the_first_time_does_not_count() -> None:
    times = iter([100.0, 1.0, 1.0])
    assert len(affordable(TOKENS, 1, 2.0, lambda few: next(times))) == 64


def test_a_single_window_is_not_timed() -> None:
    def never(few: torch.Tensor) -> float:
        raise AssertionError

    assert len(affordable(TOKENS[:1], 10, 0.0, never)) == 1
