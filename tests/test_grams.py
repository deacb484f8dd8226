"""Gram matrices from what is stored of refits are those of the model's own inputs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import random_tokens, tiny_model

from space.candidate import LayerShape
from space.formats.gguf.rounded_layers import calibrated
from space.supernet.compensation import factor, maps
from space.supernet.grams import first_factor, output_gram
from space.supernet.store import StoredLayers
from space.supernet.supernet import Supernet
from space.supernet.units import attention_columns

CPU = torch.device("cpu")


@pytest.mark.parametrize("kept", [1, 7, 10, 24])
def test_a_factor_is_put_together_from_maps(kept: int) -> None:
    rows = torch.randn(100, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    lower = factor(rows.T @ rows, torch.float64)
    found = first_factor((block.double() for block in maps(lower, 5, torch.float64)), kept)
    torch.testing.assert_close(found, lower[:kept, :kept], rtol=1e-5, atol=1e-5)


def test_stored_gram_matrices_are_those_of_what_output_projections_read(tmp_path: Path) -> None:
    model, spec = tiny_model("llama")
    tokens = random_tokens(12, 24)
    net = Supernet.prepare(model, spec, tokens, tmp_path / "supernet", dtype=torch.float32)
    files = StoredLayers.open(tmp_path / "supernet", spec, torch.float32)
    narrow = LayerShape(4, 2, 20)
    columns = attention_columns(spec, narrow.queries_per_group)[: 4 * spec.head_dim]
    for index, projections in enumerate(calibrated(net.model, tokens)):
        for kind, name, kept in (("attention", "self_attn.o_proj", columns), ("mlp", "mlp.down_proj", slice(20))):
            (gram,) = (gram for weights, gram in projections if f"model.layers.{index}.{name}.weight" in weights)
            whole = gram / tokens.numel()
            close = {"rtol": 1e-3, "atol": 1e-4 * float(whole.diagonal().mean())}
            torch.testing.assert_close(output_gram(files, index, kind, LayerShape(6, 3, 48), CPU), whole, **close)
            torch.testing.assert_close(output_gram(files, index, kind, narrow, CPU), whole[kept][:, kept], **close)
