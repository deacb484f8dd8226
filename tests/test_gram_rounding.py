"""Rounding with the Gram matrices of a matrix's inputs: less error on them, in the bytes that the format has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import random_tokens
from gguf import GGUFReader
from helpers_formats import DENSE, GONE, byte_level, supernet
from torch import Tensor

from space.candidate import Candidate
from space.formats.checkpoint import Subnet
from space.formats.gguf.export import export_gguf
from space.formats.gguf.rounded_layers import rounded_layers
from space.formats.gguf.types import TYPES, FileTypes, holding, rounded_matrices
from space.formats.hf.reload_check import in_float32
from space.rounding.gram_rounding import gram_rounded
from space.rounding.rounded import Rounded
from space.types import GGUF_TYPES

BLOCKS = [kind for kind in GGUF_TYPES if kind != "f16"]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("kind", BLOCKS)
def test_it_moves_what_a_matrix_gives_less_than_the_nearest_values_do(kind: str) -> None:
    inputs = noise(800, 96) @ (noise(96, 96) * torch.linspace(3, 0.05, 96))  # neighbours that follow from each other
    gram, values, ggml = inputs.T @ inputs, noise(64, 96), TYPES[kind].ggml
    gram.diagonal().add_(0.01 * gram.diagonal().mean())
    values[:8, 32:64] = 0  # blocks without a scale

    def error(rounded: Rounded) -> float:
        return float(((rounded.values - values) @ inputs.T).norm())

    nearest = Rounded.nearest(values, ggml)
    assert error(gram_rounded(values, gram, ggml)) < 0.8 * error(nearest)
    plain = gram_rounded(values, torch.eye(96), ggml)
    assert (plain.codes == nearest.codes).float().mean() > 0.99  # a scale in float16 moves a few
    torch.testing.assert_close(plain.values, nearest.values, rtol=0, atol=float(nearest.values.abs().max()) / 7)


def test_layers_are_rounded_on_what_the_ones_before_hand_them(tmp_path: Path) -> None:
    """What a subnet with holes computes moves less, its own weights stay, and llama.cpp runs the very codes."""
    net, tokens = supernet("llama", tmp_path / "supernet"), random_tokens(16, 24)
    candidate = Candidate.from_rows([(0, 0, 64), GONE, (6, 3, 48), DENSE])
    model = net.view(candidate)
    expected, before = model(tokens).logits, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    layers = rounded_layers(model, tokens, FileTypes("q4_0", tied=True))
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    inside = {name for name, tensor in before.items() if ".layers." in name and tensor.ndim == 2}
    assert inside - layers.keys() == {"model.layers.1.mlp.down_proj.weight"}  # 48 columns: F16
    nearest = {
        name: matrix
        for name, matrix in rounded_matrices(before, FileTypes("q4_0", tied=True)).items()
        if name in layers
    }
    errors = []
    for rounded in (layers, nearest):
        with holding(model, rounded), in_float32(model):
            errors.append(float((model(tokens).logits - expected).norm()))
    assert errors[0] < 0.9 * errors[1]

    subnet = Subnet(net.model.config, byte_level(), net.spec, candidate)
    done = export_gguf(model, subnet, tmp_path / "out", kind="q4_0", card={}, rounded=layers)
    stored = {tensor.name: tensor for tensor in GGUFReader(done.file).tensors}
    codes = torch.from_numpy(stored["blk.2.attn_output.weight"].data.copy())
    assert torch.equal(codes, layers["model.layers.2.self_attn.o_proj.weight"].codes)
    assert stored["token_embd.weight"].tensor_type.name == "Q8_0"
