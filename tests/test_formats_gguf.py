"""GGUF files in real llama.cpp: every kind of hole, family and tokenizer, and what is refused or found out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader
from helpers_formats import DENSE, GGUF_CARD, GONE, byte_level, gguf_export, sentencepiece, supernet
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import space.formats.gguf.file
import space.formats.gguf.tokenizer
from space.candidate import Candidate
from space.errors import ShapeError, UserError
from space.formats.checkpoint import Subnet
from space.formats.gguf.export import export_gguf
from space.formats.gguf.families import sliding_period
from space.formats.gguf.tokenizer import gguf_tokenizer
from space.formats.gguf.types import TYPES
from space.formats.greedy import agreement
from space.formats.registry import format_of
from space.supernet.supernet import Supernet

NO_FIRST_ATTENTION = [(0, 0, 64), DENSE, DENSE, DENSE]
NO_MLP = [DENSE, (6, 3, 0), DENSE, DENSE]
SHAPES = {
    "equal": ([(4, 2, 32)] * 3 + [GONE], "llama"),
    "widths": ([(4, 2, 64), (3, 3, 48), (1, 1, 16), DENSE], "deci"),
    "merged groups": ([(6, 1, 64), DENSE, (6, 1, 32), (4, 2, 64)], "deci"),
    "no attention": ([DENSE, (0, 0, 64), GONE, (6, 3, 48)], "deci"),
    "no attention in layer 0": (NO_FIRST_ATTENTION, "deci"),
    "no MLP": (NO_MLP, "deci"),
    "no MLP anywhere": ([(6, 3, 0)] * 4, "llama"),
    "both holes first": ([GONE, (0, 0, 32), (6, 3, 0), (2, 1, 16)], "deci"),
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Supernet:
    """A Llama with biases in every projection and a tied head."""
    return supernet("llama", tmp_path_factory.mktemp("llama") / "supernet")


@pytest.mark.parametrize(("shapes", "architecture"), SHAPES.values(), ids=SHAPES)
def test_llama_cpp_computes_what_the_checkpoint_does(
    llama: Supernet, tmp_path: Path, shapes: Any, architecture: str
) -> None:
    done = gguf_export(llama, shapes, tmp_path / "out")
    assert done.architecture == architecture
    assert done.check.steps == 200
    assert done.check.mean_difference < 0.01
    assert done.check.decode_tokens_per_s > 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {done.file.name, "README.md", "layers.svg"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| decode tokens per s |" in card
    assert f"llama-server -m path/to/this/directory/{done.file.name}" in card
    assert "| kl | 0.25 |" in card


@pytest.mark.parametrize(("shapes", "words"), [(NO_FIRST_ATTENTION, "did not load"), (NO_MLP, "failed its check")])
def test_a_file_that_llama_cpp_runs_otherwise_is_found_out(
    llama: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shapes: Any, words: str
) -> None:
    """Without the equal forms one of these does not load, and the other loads and is wrong."""
    monkeypatch.setattr(space.formats.gguf.file, "held_shapes", lambda shapes, spec: list(shapes))
    with pytest.raises(UserError, match=words):
        gguf_export(llama, shapes, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["f16", "q4_0"])
def test_rotary_pairs_in_the_wrong_order_are_found_out(
    llama: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(space.formats.gguf.file, "_interleaved", lambda values, heads: values)
    with pytest.raises(UserError, match="failed its check"):
        gguf_export(llama, [DENSE] * 4, tmp_path / "out", kind=kind)


LLAMA_3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
LAYER_TYPES = ["sliding_attention", "full_attention"] * 2
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "mistral": (
        {"sliding_window": 64, "rope_parameters": {"rope_type": "llama3", "rope_theta": 10000.0, **LLAMA_3}},
        {"deci": [(2, 2, 48), (2, 2, 48), (2, 2, 48), DENSE]},
    ),
    "qwen2": (
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
        {
            "qwen2": [(6, 3, 48)] * 3 + [GONE],
            "deci": [(3, 3, 64), (0, 0, 48), (6, 3, 0), (6, 1, 16)],
        },
    ),
    "qwen3": (
        {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "linear", "rope_theta": 5e4, "factor": 2.0}},
        {
            "qwen3": [(2, 2, 48)] * 3 + [GONE],
            "openelm": [(0, 0, 48), (3, 3, 16), (4, 2, 0), (6, 3, 64)],
        },
    ),
    "gemma3_text": (
        {
            "sliding_window": 7,
            "layer_types": LAYER_TYPES,
            "query_pre_attn_scalar": 24,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 5e5, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 2e4},
            },
        },
        {"gemma3": [(2, 1, 48)] * 4},
    ),
}
CASES = [(family, name) for family, (_, designs) in FAMILIES.items() for name in designs]


@pytest.mark.parametrize(("family", "architecture"), CASES)
def test_families_and_rotary_embeddings(family: str, architecture: str, tmp_path: Path) -> None:
    changes, designs = FAMILIES[family]
    tokenizer = sentencepiece(prepend=False) if family == "gemma3_text" else byte_level()
    net = supernet(family, tmp_path / "supernet", **changes)
    done = gguf_export(net, designs[architecture], tmp_path / "out", tokenizer)
    assert done.architecture == architecture
    if family == "mistral":  # within its sliding window it is full attention
        assert GGUFReader(done.file).fields["deci.context_length"].contents() == 64


def test_a_gemma_of_sliding_windows_alone(tmp_path: Path) -> None:
    net = supernet("gemma3_text", tmp_path / "supernet", **FAMILIES["gemma3_text"][0])
    gguf_export(net, [(4, 2, 32), GONE, (4, 2, 32), GONE], tmp_path / "out", sentencepiece(prepend=False))


def test_a_gemma_of_as_many_layers_as_llama_cpp_scales_otherwise(tmp_path: Path) -> None:
    changes = FAMILIES["gemma3_text"][0] | {"num_hidden_layers": 62, "layer_types": LAYER_TYPES[:2] * 31}
    net = supernet("gemma3_text", tmp_path / "supernet", **changes)
    gguf_export(net, [(2, 1, 16)] * 62, tmp_path / "out", sentencepiece(prepend=False))


def test_families_in_shapes_that_it_has_no_architecture_for_are_refused(tmp_path: Path) -> None:
    def check(family: str, shapes: Any, words: str, **changes: Any) -> None:
        changes = FAMILIES[family][0] | changes
        net = supernet(family, tmp_path / f"{family} {len([*tmp_path.iterdir()])}", **changes)
        tokenizer = sentencepiece(prepend=False) if family == "gemma3_text" else byte_level()
        with pytest.raises(UserError, match=words):
            format_of("gguf", "f16").check(Subnet(net.model.config, tokenizer, net.spec, Candidate.from_rows(shapes)))

    check("qwen3", NO_MLP, "only where the head is the embedding", tie_word_embeddings=False)
    check("gemma3_text", NO_MLP, "a pick with equal layers .* gemma3 has one shape")
    check("gemma3_text", [GONE, DENSE, DENSE, DENSE], r"every n-th, .* full attention in layers \[0, 2\] of 3")
    check("gemma3_text", [GONE, DENSE, GONE, DENSE], r"every n-th, .* full attention in layers \[0, 1\] of 2")
    check("gemma3_text", [DENSE] * 4, "Expected no softcapping for", final_logit_softcapping=30.0)


@pytest.mark.parametrize(
    ("kinds", "period"),
    [("sfsf", 2), ("sssssfsssssfss", 6), ("ffff", None), ("ssss", 5), ("sssf", 4), ("fsfs", None), ("ssfsf", None)],
)
def test_the_period_of_full_attention(kinds: str, period: int | None) -> None:
    names = {"s": "sliding_attention", "f": "full_attention"}
    assert sliding_period([names[kind] for kind in kinds]) == period


def gemma_tokenizer() -> PreTrainedTokenizerFast:
    """One whose pieces with spaces are tokens by themselves too, of which no text has any as it comes in."""
    tokenizer = sentencepiece(prepend=False)
    backend = tokenizer.backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    pieces = [text for text in backend.get_vocab() if "▁" in text and len(text) > 1]
    assert pieces
    backend.add_tokens([AddedToken(text, normalized=False) for text in pieces])
    return tokenizer


TOKENIZERS: dict[str, Callable[[], Any]] = {
    "smollm": lambda: byte_level("smollm"),
    "llama-bpe": lambda: byte_level("llama-bpe"),
    "qwen2": lambda: byte_level("qwen2"),
    "sentencepiece": sentencepiece,
    "sentencepiece without a first space": lambda: sentencepiece(prepend=False),
    "sentencepiece as Gemma's": gemma_tokenizer,
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_llama_cpp_cuts_text_as_the_tokenizer_does(llama: Supernet, tmp_path: Path, name: str) -> None:
    """The export compares; here the tokenizer has a chat template, a token of its own and one without a row too."""
    tokenizer = TOKENIZERS[name]()
    tokenizer.add_tokens(["<tool>"])
    tokenizer.chat_template = "{{ messages }}"
    described = gguf_tokenizer(tokenizer, llama.spec.vocab)
    assert described.pre == {"sentencepiece": "default"}.get(name.split(" ")[0], name)
    assert not [text for text, kind in zip(described.tokens, described.types, strict=True) if "▁" in text and kind != 1]
    done = gguf_export(llama, [(2, 1, 16)] * 4, tmp_path / "out", tokenizer)
    fields = GGUFReader(done.file).fields
    assert fields["tokenizer.chat_template"].contents() == "{{ messages }}"
    tokens = fields["tokenizer.ggml.tokens"].contents()
    assert len(tokens) == llama.spec.vocab
    assert tokens[tokenizer.convert_tokens_to_ids("<tool>")] == "<tool>"
    assert tokens[-1].startswith("[PAD")
    for special in ("bos", "eos"):
        assert fields[f"tokenizer.ggml.{special}_token_id"].contents() == getattr(tokenizer, f"{special}_token_id")


def test_text_that_llama_cpp_cuts_otherwise_is_found_out(
    llama: Supernet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space.formats.gguf.tokenizer, "_byte_level", lambda parts: "smollm")
    with pytest.raises(UserError, match="cut text as the tokenizer does"):
        gguf_export(llama, [(2, 1, 16)] * 4, tmp_path / "out", byte_level("gpt-2"))
    assert list(tmp_path.iterdir()) == []


def test_tokenizers_that_llama_cpp_lacks_are_refused_by_name() -> None:
    def refused(backend: Tokenizer, words: str, rows: int = 400) -> None:
        with pytest.raises(UserError, match=words):
            gguf_tokenizer(PreTrainedTokenizerFast(tokenizer_object=backend), rows)

    refused(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), "a WordLevel tokenizer")
    refused(Tokenizer(models.BPE({"a": 0}, [])), "a BPE without merges")
    backend = byte_level().backend_tokenizer
    refused(backend, "an embedding of 20 rows", rows=20)
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    refused(backend, "Whitespace")
    backend = sentencepiece().backend_tokenizer
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    refused(backend, "byte fallback")
    with pytest.raises(UserError, match=r"without a tokenizer\.json"):
        gguf_tokenizer(object(), 400)


def test_models_that_it_has_no_words_for_are_refused(llama: Supernet) -> None:
    def check(net: Supernet, shapes: Any, **changes: Any) -> None:
        config = net.model.config.to_dict() | changes
        check = format_of("gguf", "f16").check
        changed = type(net.model.config).from_dict(config)
        check(Subnet(changed, byte_level(), net.spec, Candidate.from_rows(shapes)))

    check(llama, [DENSE] * 4)
    spec = replace(llama.spec, family="mixtral")
    with pytest.raises(UserError, match=r"one of the families .*, got mixtral"):
        format_of("gguf", "f16").check(Subnet(None, None, spec, Candidate.dense(spec)))
    with pytest.raises(UserError, match="activation silu"):
        check(llama, [DENSE] * 4, hidden_act="gelu")
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}
    with pytest.raises(UserError, match="rotary embedding of type"):
        check(llama, [DENSE] * 4, rope_parameters=yarn)
    with pytest.raises(ShapeError, match="attention in at least one layer"):
        check(llama, [(0, 0, 64)] * 4)


def test_a_weight_too_large_for_f16_is_refused(llama: Supernet, tmp_path: Path) -> None:
    candidate = Candidate.dense(llama.spec)
    source = llama.view(candidate)
    with torch.no_grad():
        source.model.layers[1].mlp.up_proj.weight[0, 0] = 1e5
    subnet = Subnet(llama.model.config, byte_level(), llama.spec, candidate)
    with pytest.raises(UserError, match="largest in F16"):
        export_gguf(source, subnet, tmp_path / "out", kind="f16", card=GGUF_CARD)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def broken_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An xllamacpp before the real one, which does not import."""
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "xllamacpp.py").write_text("raise ImportError('libgomp.so.1 is missing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))


@pytest.mark.usefixtures("broken_install")
def test_without_llama_cpp_nothing_is_begun() -> None:
    with pytest.raises(UserError, match=r"libgomp.so.1 is missing.*pip install 'paretoprune\[gguf\]'"):
        format_of("gguf", "f16")


def test_figures_that_are_no_numbers_fail() -> None:
    def model(tokens: torch.Tensor, use_cache: bool) -> Any:
        return type("Output", (), {"logits": torch.zeros(1, tokens.shape[1], 4)})

    answer = json.loads('{"runs": [[{"token": 1, "top": [[1, null]]}]], "ends": [3]}')
    with pytest.raises(UserError, match="differ by nan"):
        agreement(model, [[2]], answer["runs"], answer["ends"]).require(TYPES["f16"].tolerance, "file", "llama.cpp")
