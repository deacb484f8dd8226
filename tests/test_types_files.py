"""Designs with types of matrices as files: the bytes that they are said to take, the codes and loss of the search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_tokens
from gguf import GGUFReader
from helpers_formats import GGUF_CARD, byte_level, supernet
from torch.nn import functional as F

from evaluators.cost import cost_measure
from evaluators.divergence import Divergence
from evaluators.refit_error import refit_error_measure
from space.candidate import Candidate
from space.formats.checkpoint import Subnet
from space.formats.gguf.design import design_codes, write_design
from space.formats.gguf.export import export_gguf
from space.formats.gguf.sizes import tensor_bytes
from space.formats.gguf.tokenizer import gguf_tokenizer
from space.formats.gguf.types import holding
from space.formats.hf.reload_check import in_float32
from space.space import SearchSpace
from space.supernet.supernet import Supernet
from space.types import GGUF_TYPES

Q8, Q4 = GGUF_TYPES.index("q8_0"), GGUF_TYPES.index("q4_0")
WIDE = {"head_dim": 32}


def space_of(net: Supernet, **changes: bool) -> SearchSpace:
    return SearchSpace(net.spec, mlp_step=32, types=GGUF_TYPES[1:], **changes)


def written(net: Supernet, candidate: Candidate, file: Path) -> GGUFReader:
    described = gguf_tokenizer(byte_level(), net.spec.vocab)
    return GGUFReader(write_design(file, net, candidate, "f16", described, design_codes(net, candidate)))


# A tied Llama; a head of its own; one projection to queries, keys and values.
@pytest.mark.parametrize(
    ("family", "changes"), [("llama", {}), ("mistral", {"tie_word_embeddings": False}), ("qwen3", {})]
)
def test_designs_take_the_bytes_of_their_files_tensors(family: str, changes: dict[str, bool], tmp_path: Path) -> None:
    if family == "qwen3":
        changes = {"tie_word_embeddings": True}
    net = supernet(family, tmp_path / "supernet", **WIDE, **changes)
    space, config = space_of(net), net.model.config
    costs = cost_measure(net.spec, context=8, file_bytes=lambda each: tensor_bytes(config, net.spec, each))
    for number, candidate in enumerate(space.samples(10)):
        assert candidate.is_rounded
        tensors = written(net, candidate, tmp_path / f"{number}.gguf").tensors
        assert costs.values(candidate)["weights_bytes"] == sum(tensor.n_bytes for tensor in tensors)
        plain = costs.values(candidate.unrounded)
        assert costs.values(candidate)["params"] == plain["params"]
        assert plain["weights_bytes"] > costs.values(candidate)["weights_bytes"]


def test_a_file_has_the_codes_that_the_view_computes_with(tmp_path: Path) -> None:
    net = supernet("llama", tmp_path / "supernet", **WIDE)
    rows = [(4, 2, 32, Q4, Q8), (0, 0, 0), (6, 1, 64, Q8, 0), (0, 0, 64, 0, Q4)]
    candidate = Candidate.from_rows(rows, embedding_type=Q8)
    tensors = {tensor.name: tensor for tensor in written(net, candidate, tmp_path / "x.gguf").tensors}
    state = net.view(candidate).state_dict()
    seen = {"blk.0.ffn_down": "layers.0.mlp.down_proj", "blk.0.attn_output": "layers.0.self_attn.o_proj"}
    seen |= {"blk.1.attn_v": "layers.1.self_attn.v_proj", "blk.2.ffn_up": "layers.2.mlp.up_proj"}
    for name, module in {**seen, "token_embd": "embed_tokens"}.items():
        tensor = tensors[f"{name}.weight"]
        codes = design_codes(net, candidate)[f"model.{module}.weight"]
        np.testing.assert_array_equal(tensor.data, codes.codes.numpy())
        torch.testing.assert_close(state[f"model.{module}.weight"], codes.values, rtol=0, atol=0)
    types = {
        name: tensors[f"{name}.weight"].tensor_type.name for name in ("blk.0.attn_q", "blk.1.ffn_up", "token_embd")
    }
    assert types == {"blk.0.attn_q": "Q4_0", "blk.1.ffn_up": "F16", "token_embd": "Q8_0"}


@pytest.mark.parametrize("tied", [True, False])
def test_the_loss_of_the_search_is_that_of_the_model_in_types(tied: bool, tmp_path: Path) -> None:
    """With an embedding and a head of their own types, and candidates that share first layers."""
    net = supernet("llama", tmp_path / "supernet", **WIDE, tie_word_embeddings=tied)
    tokens = random_tokens(6, 24)
    divergence = Divergence(net, tokens, batch_size=4, cache_bytes=1 << 20)
    with torch.inference_mode():
        dense = F.log_softmax(net.dense()(tokens).logits, -1)
    for candidate in (*space_of(net).samples(2), space_of(net).rounded_ladder()[-1]):
        for model in (None, net.view(candidate)):
            kl, nll = divergence(candidate, model)
            with torch.inference_mode():
                own = F.log_softmax(net.view(candidate)(tokens).logits, -1)
            expected = float((dense.exp() * (dense - own)).sum(-1).mean())
            assert kl == pytest.approx(expected, rel=2e-3, abs=2e-5)
            label = own[:, :-1].gather(-1, tokens[:, 1:, None])
            assert nll == pytest.approx(-float(label.mean()), rel=1e-4)
    assert divergence(Candidate.dense(net.spec))[0] == pytest.approx(0, abs=1e-5)


def test_llama_cpp_computes_what_the_search_did(tmp_path: Path) -> None:
    """Its arithmetic rounds activations; the weights are the search's."""
    net = supernet("llama", tmp_path / "supernet", **WIDE)
    rows = [(4, 2, 32, Q4, Q8), (6, 3, 64, Q8, Q4), (0, 0, 64, 0, Q4), (6, 1, 32, Q4, 0)]
    candidate = Candidate.from_rows(rows, embedding_type=Q8)
    subnet = Subnet(net.model.config, byte_level(), net.spec, candidate)
    plain, codes, tokens = net.view(candidate.unrounded), design_codes(net, candidate), random_tokens(2, 24)
    searched = net.view(candidate)(tokens).logits
    with holding(plain, codes), in_float32(plain):
        torch.testing.assert_close(plain(tokens).logits, searched, rtol=1e-2, atol=0.05)
    done = export_gguf(plain, subnet, tmp_path / "out", kind="f16", card=GGUF_CARD, rounded=codes)
    assert done.file.name.endswith(f"{candidate.key}-MIXED.gguf")
    assert done.weights_bytes == sum(tensor.n_bytes for tensor in GGUFReader(done.file).tensors)
    assert done.check.mean_difference < 0.15
    assert done.check.from_unrounded > 2 * done.check.mean_difference
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "its matrices in F16 (1 blocks), Q8_0 (2 blocks), Q4_0 (4 blocks), its embedding in Q8_0" in card
    assert "| 0 | 0 | 4 | 2 | 32 | Q4_0 | Q8_0 |" in card


def test_errors_of_rounding_come_on_top_of_those_of_the_refit(tmp_path: Path) -> None:
    net = supernet("llama", tmp_path / "supernet", **WIDE)
    error = refit_error_measure(net).values
    narrow = [(4, 2, 32), (6, 3, 64), (6, 1, 64), (0, 0, 64)]

    def of(kind: int) -> float:
        rows = [(*row, kind if row[0] else 0, kind) for row in narrow]
        return error(Candidate.from_rows(rows))["refit_error"] - error(Candidate.from_rows(narrow))["refit_error"]

    lost = [of(kind) for kind in range(len(GGUF_TYPES))]
    assert lost[0] == 0 < lost[Q8] < 0.01 < lost[2] < lost[Q4] < 1
