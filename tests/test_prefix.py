"""Residual streams that are shared change no bit of a result, and are shared."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import UNLIKE, fitting, random_tokens

from evaluators.divergence import Divergence
from evaluators.prefix import PrefixForward
from space.candidate import Candidate
from space.space import SearchSpace
from space.supernet.supernet import Supernet

PARENT = Candidate.from_rows([[6, 3, 48], [4, 2, 16], [0, 0, 32], [6, 3, 0]])
CHILD = Candidate.from_rows([[6, 3, 48], [4, 2, 16], [0, 0, 32], [2, 1, 16]])
NO_ATTENTION_AFTER = Candidate.from_rows([[6, 3, 48], [4, 2, 16], [0, 0, 32], [0, 0, 16]])


def run(forward: PrefixForward, candidate: Candidate) -> list[torch.Tensor]:
    with torch.inference_mode():
        return list(forward(candidate))


@pytest.mark.parametrize(
    ("family", "dtype", "cache_bytes"),
    [
        *itertools.product(["llama"], [torch.float32, torch.bfloat16], [0, 40_000, 1 << 20]),
        *((family, *case) for family in UNLIKE[1:] for case in ((torch.float32, 40_000), (torch.bfloat16, 1 << 20))),
    ],
)
def test_shared_layers_change_no_bit(
    family: str, dtype: torch.dtype, cache_bytes: int, make_supernet: Callable[..., Supernet]
) -> None:
    supernet = make_supernet(family, dtype=dtype)
    tokens = random_tokens(5, 12, seed=1)
    shared = PrefixForward(supernet, tokens, batch_size=2, cache_bytes=cache_bytes)
    space = SearchSpace(supernet.spec, mlp_step=16)
    rng = np.random.default_rng(0)
    asked = [fitting(family, design) for design in (PARENT, CHILD, NO_ATTENTION_AFTER, PARENT)]
    asked += [Candidate.dense(supernet.spec)] + [space.sample(rng) for _ in range(5)]
    alone = PrefixForward(supernet, tokens, batch_size=2, cache_bytes=0)
    expected = {candidate: run(alone, candidate) for candidate in asked}
    for candidate in [*asked, *asked]:
        for one, got in zip(expected[candidate], run(shared, candidate), strict=True):
            assert torch.equal(one, got)


def test_a_child_pays_for_its_own_layers(make_supernet: Callable[..., Supernet]) -> None:
    supernet = make_supernet("qwen2")
    forward = PrefixForward(supernet, random_tokens(4, 12), batch_size=2)
    run(forward, PARENT)
    assert (forward.layers_run, forward.layers_total) == (8, 8)
    run(forward, CHILD)  # three of four layers are the parent's
    assert (forward.layers_run, forward.layers_total) == (10, 16)
    run(forward, NO_ATTENTION_AFTER)  # from the last layer that has attention on
    assert forward.layers_run == 16


def test_memory_is_bounded_and_the_oldest_go_first(make_supernet: Callable[..., Supernet]) -> None:
    supernet = make_supernet("llama")
    tokens = random_tokens(2, 12)
    stream = tokens.numel() * supernet.spec.hidden * 4
    forward = PrefixForward(supernet, tokens, batch_size=2, cache_bytes=3 * stream)
    run(forward, PARENT)
    run(forward, Candidate.dense(supernet.spec))  # the first layer is the parent's; two more streams come in
    assert forward.layers_run == 4 + 3
    run(forward, CHILD)  # the parent's later streams are forgotten, the first layer's was used since
    assert forward.layers_run == 4 + 3 + 3


def test_divergence_is_the_same_with_and_without(make_supernet: Callable[..., Supernet]) -> None:
    supernet = make_supernet("gemma3_text")
    tokens = random_tokens(4, 12, seed=2)
    plain, sharing = (
        Divergence(supernet, tokens, batch_size=2),
        Divergence(supernet, tokens, batch_size=2, cache_bytes=1 << 20),
    )
    for candidate in (PARENT, CHILD, PARENT):
        assert plain(candidate) == sharing(candidate)
