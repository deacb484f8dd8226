"""Where a model runs, and in what numbers."""

import pytest
import torch

from space.errors import UserError
from space.models import device as devices
from space.models.device import resolve_device, resolve_dtype


@pytest.mark.parametrize(
    ("tiles", "vectors", "speed", "expected"),
    [
        (False, False, 9, torch.float32),
        (True, True, 0.5, torch.bfloat16),  # tiles need no measurement
        (False, True, 0.5, torch.float32),
        (False, True, 1.9, torch.bfloat16),
    ],
)
def test_numbers_of_a_cpu_are_those_it_is_fast_at(monkeypatch, tiles, vectors, speed, expected):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: vectors)
    monkeypatch.setattr(devices, "_bfloat16_speed", lambda: speed)
    devices._fast_at_bfloat16.cache_clear()
    try:
        assert resolve_dtype("auto", torch.device("cpu")) == expected
    finally:
        devices._fast_at_bfloat16.cache_clear()


def test_speed_of_bfloat16_is_a_figure_of_this_machine():
    assert 0.001 < devices._bfloat16_speed() < 1000


def test_device_and_dtype():
    cpu = resolve_device("cpu")
    assert resolve_dtype("float16", cpu) == torch.float16
    with pytest.raises(UserError, match="auto, float32, bfloat16, float16, got 'int8'"):
        resolve_dtype("int8", cpu)
    for device in ("cuda:99", "warp", "meta"):
        with pytest.raises(UserError, match=f"device={device}"):
            resolve_device(device)
