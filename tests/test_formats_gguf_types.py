"""Types of a GGUF file's matrices: what is rounded to them, and llama.cpp computing with it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gguf import GGUFReader
from helpers_formats import DENSE, GONE, gguf_export, supernet

from space.formats.gguf.types import TYPES
from space.rounding.rounded import Rounded
from space.supernet.supernet import Supernet
from space.types import GGUF_TYPES

BLOCKS = [kind for kind in GGUF_TYPES if kind != "f16"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    """A Llama with biases in every projection and a tied head."""
    return supernet("llama", tmp_path_factory.mktemp("llama") / "supernet")


@pytest.mark.parametrize("kind", BLOCKS)
def test_types_of_fewer_bits(llama: Supernet, tmp_path: Path, kind: str) -> None:
    """Rows that are no whole blocks stay F16, what gives the logits is Q8_0; llama.cpp runs the very weights."""
    before = {name: tensor.data_ptr() for name, tensor in llama.model.named_parameters()}
    done = gguf_export(llama, [DENSE, (4, 2, 48), (0, 0, 64), DENSE], tmp_path / "out", kind=kind)
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(done.file).tensors}
    assert types["blk.0.ffn_down.weight"] == types["blk.1.attn_output.weight"] == kind.upper()
    assert types["token_embd.weight"] == "Q8_0"
    assert types["blk.1.ffn_down.weight"] == "F16"
    assert types["blk.0.attn_norm.weight"] == types["blk.0.attn_q.bias"] == "F32"
    assert done.check.mean_difference < 0.15  # activations of 8 bits, whatever the weights have
    assert done.check.from_unrounded > (1 if kind == "q8_0" else 3) * done.check.mean_difference
    assert all(tensor.data_ptr() == before[name] for name, tensor in llama.model.named_parameters())


def test_an_embedding_beside_a_head_has_the_files_type(tmp_path: Path) -> None:
    net = supernet("mistral", tmp_path / "supernet", sliding_window=64, tie_word_embeddings=False)
    done = gguf_export(net, [DENSE, GONE, (3, 3, 32), DENSE], tmp_path / "out", kind="q4_0")
    types = {tensor.name: tensor.tensor_type.name for tensor in GGUFReader(done.file).tensors}
    assert (types["token_embd.weight"], types["output.weight"]) == ("Q4_0", "Q8_0")


@pytest.mark.parametrize("kind", BLOCKS)
def test_rounding_moves_a_value_by_half_a_step(kind: str) -> None:
    """A block's steps: its largest value, or its width, over as many as the type has."""
    values = torch.randn(8, 96, generator=torch.Generator().manual_seed(0))
    blocks = values.view(8, 3, 32)
    steps = {"q8_0": 127, "q5_1": 31, "q5_0": 16, "q4_1": 15, "q4_0": 8}[kind]
    low, high = blocks.aminmax(dim=-1, keepdim=True)
    step = (high - low if kind.endswith("_1") else blocks.abs().amax(-1, keepdim=True)) / steps
    apart = (Rounded.nearest(values, TYPES[kind].ggml).values.view_as(blocks) - blocks).abs()
    # The value at the other end of a scale from the largest has no step of its own.
    assert (apart <= (1.02 if kind in ("q5_0", "q4_0") else 0.52) * step).all()
    assert apart.mean() < 0.27 * step.mean()


def test_the_table_of_types_has_those_that_are_offered() -> None:
    assert tuple(TYPES) == GGUF_TYPES
