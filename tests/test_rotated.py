"""The basis in which rounding is measured: the same function, and other weights."""

from __future__ import annotations

import pytest
import torch
from conftest import random_tokens, tiny_model

from benchmarks.rotated import SAME, rotate
from space.errors import UserError


def test_a_rotated_model_is_the_same_function_in_other_weights() -> None:
    model, _ = tiny_model("llama")  # tied, with biases in every projection and gains in every norm
    tokens = random_tokens(2, 24)
    before, weights = model(tokens).logits, {name: tensor.clone() for name, tensor in model.named_parameters()}
    rotate(model, seed=0)
    torch.testing.assert_close(model(tokens).logits, before, rtol=0, atol=SAME)
    assert not model.config.tie_word_embeddings
    assert not torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    matrices = {name: tensor for name, tensor in model.named_parameters() if tensor.ndim == 2 and name in weights}
    for name, tensor in matrices.items():
        assert (tensor - weights[name]).norm() > 0.5 * weights[name].norm(), name


def test_a_family_with_other_norms_is_refused() -> None:
    with pytest.raises(UserError, match="Expected a model of one of llama"):
        rotate(tiny_model("nemotron")[0], seed=0)
