"""Where training runs, and that it is the same each time: what CUDA has to be asked for, without one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from evaluators.training.recovery import _require_place
from evaluators.training.repeatable import repeatable
from space.errors import UserError
from space.formats.reference import float32_copy


def test_training_on_a_gpu_repeats_and_nothing_else_is_slowed_by_it() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    with repeatable(torch.device("cuda:1")):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    with repeatable(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()


def test_a_gpu_on_which_transformers_would_not_train_is_refused() -> None:
    first = torch.device("cuda:0")
    _require_place(first, first)
    _require_place(torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=1"):
        _require_place(torch.device("cuda:1"), first)


def test_a_float32_copy_shares_nothing_and_keeps_what_is_tied() -> None:
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.BatchNorm1d(4))
    model[1].weight = model[0].weight
    for dtype in (torch.float32, torch.bfloat16):
        copied = float32_copy(model.to(dtype))
        assert copied[0].weight is copied[1].weight
        assert {parameter.dtype for parameter in copied.parameters()} == {torch.float32}
        assert copied[2].num_batches_tracked.dtype == torch.int64
        assert torch.equal(copied[0].weight, model[0].weight.float())
        copied[0].weight.data.zero_()
        copied[2].running_var.zero_()
        assert model[0].weight.any()
        assert model[2].running_var.any()
