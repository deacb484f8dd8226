"""Settings of a space: the options and ladders that they give, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_space import DEPTH, SMOLLM2, UNIFORM, WIDTHS, make_spec, tiny_space

from space.candidate import Candidate
from space.errors import UserError
from space.options import default_mlp_step
from space.space import SearchSpace


def test_attention_options_are_all_group_and_query_counts_by_size() -> None:
    space = SearchSpace(make_spec(layers=1), mlp_widths=False, remove_mlp=False)
    shapes = [space.decode(np.array([level])).layers[0] for level in range(space.levels[0])]
    # three groups of one query head, and two groups of two, hold as many parameters: more groups come later
    assert [(s.query_heads, s.kv_heads) for s in shapes] == [(0, 0), (1, 1), (2, 1), (2, 2), (4, 2), (3, 3), (6, 3)]
    assert space.block_options["attention"] == ((1, 1), (2, 1), (2, 2), (3, 3), (4, 2), (6, 3))
    assert space.block_options["mlp"] == ((48,),)


@pytest.mark.parametrize(
    ("channels", "multiple", "step"),
    [
        *((1536, 1, 128), (4864, 32, 448), (14336, 1, 1216), (1000, 1, 128), (100, 1, 64), (48, 1, 48)),
        *((8192, 256, 768), (14336, 256, 1280), (200, 256, 200)),
    ],
)
def test_levels_are_few_and_in_whole_tiles(channels: int, multiple: int, step: int) -> None:
    assert default_mlp_step(channels, multiple) == step
    assert len(range(step, channels, step)) < 12


def test_a_step_that_an_engine_cannot_have_says_which_engine() -> None:
    with pytest.raises(UserError, match=r"mlp_step=20 with space.deploy=llamacpp: .* multiple with 32, .* got 160"):
        tiny_space(mlp_step=20, deploy="llamacpp", attention_widths=True)


def test_mlp_options_are_the_multiples_of_the_step_and_the_dense_count() -> None:
    assert tiny_space(mlp_step=20).block_options["mlp"] == ((20,), (40,), (48,))
    assert tiny_space(mlp_step=48).block_options["mlp"] == ((48,),)
    assert tiny_space(**DEPTH).block_options == {"attention": ((6, 3),), "mlp": ((48,),)}


def test_frozen_parts_have_no_genes() -> None:
    whole = tiny_space()
    frozen = tiny_space(freeze_layers=[0], freeze_attention=[-1], freeze_mlp=[1])
    assert len(whole.levels) == 8
    assert len(frozen.levels) == 4
    smallest = frozen.decode(frozen.levels * 0)
    assert smallest == Candidate.from_rows([[6, 3, 48], [0, 0, 48], [0, 0, 0], [6, 3, 0]])


def test_uniform_ladder_of_the_default_space() -> None:
    ladder = SearchSpace(SMOLLM2, min_decoder_params=0.4).uniform_ladder()
    shapes = [set(candidate.layers) for candidate in ladder]
    assert all(len(one) == 1 for one in shapes)
    assert 16 <= len(ladder) <= 24
    assert Candidate.dense(SMOLLM2) not in ladder
    assert {1536} < {one.mlp_channels for layer in shapes for one in layer}
    assert len({one.query_heads for layer in shapes for one in layer}) >= 3


def test_depth_ladder_removes_cumulatively_and_passes_over_frozen_layers() -> None:
    space = tiny_space(freeze_layers=[0], min_layers=2, max_decoder_params=0.9)
    ladder = space.depth_ladder([2, 0, 3, 1])
    gone = [[layer for layer, shape in enumerate(candidate.layers) if shape.gone] for candidate in ladder]
    assert gone == [[2], [2, 3]]
    assert tiny_space(**WIDTHS).depth_ladder([0, 1]) == []
    assert tiny_space(**UNIFORM).depth_ladder([0, 1]) == []
    for order in ([1, 1], [4], [-1]):
        with pytest.raises(ValueError, match="expected distinct layers below 4"):
            space.depth_ladder(order)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mlp_step": 0}, r"mlp_step: expected a whole number from 1 to 48, got 0"),
        ({"mlp_step": 49}, r"mlp_step: expected a whole number from 1 to 48, got 49"),
        ({"mlp_step": 2.5}, r"mlp_step: .* got 2\.5"),
        ({"mlp_step": True}, r"mlp_step: .* got True"),
        ({"min_layers": 0}, r"min_layers: expected a whole number from 1 to 4, got 0"),
        ({"min_layers": 5}, r"min_layers: expected a whole number from 1 to 4, got 5"),
        ({"freeze_layers": [4]}, r"freeze_layers: expected a whole number from -4 to 3, got 4"),
        ({"freeze_attention": [-5]}, r"freeze_attention: .* got -5"),
        ({"freeze_mlp": ["first"]}, r"freeze_mlp: .* got 'first'"),
        ({"freeze_mlp": "01"}, r"freeze_mlp: expected a list of layers such as \[0, -1\], got '01'"),
        ({"freeze_mlp": 3}, r"freeze_mlp: expected a list"),
        ({"remove_mlp": "none"}, r"remove_mlp: expected true or false, got 'none'"),
        ({"min_decoder_params": -0.1}, r"min_decoder_params: expected a fraction from 0 to 1 .* got -0\.1"),
        ({"max_decoder_params": 60}, r"max_decoder_params: expected a fraction from 0 to 1 .* got 60"),
        ({"max_decoder_params": float("nan")}, r"max_decoder_params: .* got nan"),
        ({"max_decoder_params": "half"}, r"max_decoder_params: .* got 'half'"),
        (
            {"min_decoder_params": 0.8, "max_decoder_params": 0.5},
            r"at most max_decoder_params, which is 0\.5, got 0\.8",
        ),
        ({"freeze_layers": [0, 1, 2], "max_decoder_params": 0.6}, r"expected at least 0\.75.*smallest.*got 0\.6"),
        ({**DEPTH, "min_layers": 3, "max_decoder_params": 0.6}, r"expected at least 0\.7500, .* lower min_layers"),
        (
            {**DEPTH, "min_decoder_params": 0.6, "max_decoder_params": 0.7},
            r"none from 0\.6 to 0\.7\. .* 0\.2500 to 1 in steps",
        ),
        ({**DEPTH, "mlp_widths": True}, r"whole_layers: expected it alone, got it with mlp_widths"),
        ({**DEPTH, "same_for_all_layers": True}, r"whole_layers: .* with same_for_all_layers"),
        ({"freeze_layers": [0, 1, 2, 3]}, r"more than one option, got only blocks that stay dense"),
        ({**WIDTHS, "attention_widths": False, "mlp_widths": False}, r"more than one option"),
    ],
    ids=str,
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        tiny_space(**options)


def test_an_engine_that_cannot_be_served_is_refused() -> None:
    with pytest.raises(UserError, match=r"space\.deploy: expected one of any, .*, sglang, vllm, got 'onnx'"):
        tiny_space(deploy="onnx")
    gemma = make_spec(family="gemma3_text")
    with pytest.raises(UserError, match=r"space\.deploy=vllm: expected .* llama, mistral, got gemma3_text"):
        SearchSpace(gemma, deploy="vllm", mlp_step=16)
    with pytest.raises(UserError, match=r"space\.deploy=llamacpp: expected a qwen3 whose head is its embedding"):
        SearchSpace(make_spec(family="qwen3", tied_embeddings=False), deploy="llamacpp")
    with pytest.raises(UserError, match=r"expected no frozen layers"):
        tiny_space(deploy="uniform", freeze_layers=[0])
    with pytest.raises(UserError, match="mlp_step"):
        tiny_space(deploy="llamacpp", mlp_step=9)  # 288 channels, of 48
