"""Where training runs, and that it is the same each time: what CUDA has to be asked for, without one."""

from __future__ import annotations

import os

import pytest
import torch

from evaluators.training.recovery import _require_place
from evaluators.training.repeatable import repeatable
from space.errors import UserError


def test_training_on_a_gpu_repeats_and_nothing_else_is_slowed_by_it() -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] in (":4096:8", ":16:8")  # else torch refuses products there
    with repeatable(torch.device("cuda:1")):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()  # with which fused attention does not repeat
        assert not torch.utils.deterministic.fill_uninitialized_memory
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory
    with repeatable(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()


def test_a_gpu_on_which_transformers_would_not_train_is_refused() -> None:
    first = torch.device("cuda:0")
    _require_place(first, first)
    _require_place(torch.device("cpu"), torch.device("cpu"))
    with pytest.raises(UserError, match="CUDA_VISIBLE_DEVICES=1"):
        _require_place(torch.device("cuda:1"), first)
