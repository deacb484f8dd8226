"""Models with fewer tokens: the same logits for those that stay, and new ids everywhere; counts; bits per byte."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ENCODERS, tiny_model
from helpers_data import byte_tokenizer
from helpers_formats import answer_here, byte_level
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from evaluators.data.shards import WholeText
from evaluators.data.sources import Source
from evaluators.data.splits import digest_of, encoder
from evaluators.embeddings import embedded
from evaluators.vocabulary.bits import bits_per_byte
from evaluators.vocabulary.counts import TokenCounts, token_counts
from space.candidate import Candidate
from space.formats.checkpoint import Subnet
from space.formats.hf.export import export_checkpoint
from space.formats.trimmed import named_tokens, tokenizer_contents, trimmed_model, trimmed_subnet
from space.vocabulary.levels import Levels

SIZE = len(byte_level("llama-bpe"))
CHAT = "{% for m in messages %}<|begin|>{{ m.role }}: {{ m.content }}<|end|>{% endfor %}"
TEXT = "the other weather: gathered there, 北京"


def tiny_subnet(family: str, **changes: Any) -> tuple[Any, Subnet]:
    """A tiny model with as many rows as its tokenizer has tokens and four more, and what is exported of it."""
    model, spec = tiny_model(family, vocab_size=SIZE + 4, **changes)
    tokenizer = byte_level("llama-bpe")
    tokenizer.chat_template = CHAT
    for name in ("bos", "eos", "pad"):
        setattr(model.config, f"{name}_token_id", tokenizer.bos_token_id if name == "bos" else tokenizer.eos_token_id)
    generation = GenerationConfig(eos_token_id=[tokenizer.eos_token_id, 300], suppress_tokens=[301], pad_token_id=0)
    return model, Subnet(model.config, tokenizer, spec, Candidate.dense(spec), generation)


def level(subnet: Subnet, count: int) -> tuple[int, ...]:
    contents = tokenizer_contents(subnet.tokenizer)
    return Levels.of(contents, (), named_tokens(subnet.config, subnet.generation_config)).kept(count)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "gpt2"])
def test_logits_of_the_tokens_that_stay_are_the_same(family: str) -> None:
    model, subnet = tiny_subnet(family)
    kept = level(subnet, 280)
    assert {300, 301} <= set(kept)
    small = trimmed_model(model, kept)
    places = torch.randint(280, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(torch.tensor(kept)[places], use_cache=False).logits[..., list(kept)]
        torch.testing.assert_close(small(places, use_cache=False).logits, expected)
        assert model(places, use_cache=False).logits.shape[-1] == SIZE + 4  # the given one stays as it was
    hidden = model.config.hidden_size
    tied = model.config.tie_word_embeddings
    assert small.num_parameters() == model.num_parameters() - (SIZE + 4 - 280) * hidden * (1 if tied else 2)
    assert (small.config.vocab_size, model.config.vocab_size) == (280, SIZE + 4)


def test_an_export_has_the_trimmed_tokenizer_and_new_ids_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("space.formats.verify.answer_of", answer_here)
    model, subnet = tiny_subnet("llama", tie_word_embeddings=True)
    kept = level(subnet, 264)
    export_checkpoint(trimmed_model(model, kept), trimmed_subnet(subnet, kept), tmp_path / "out", card={})
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.config.model_type == "llama"
    tokenizer, whole = AutoTokenizer.from_pretrained(tmp_path / "out"), subnet.tokenizer
    assert len(tokenizer) == loaded.config.vocab_size == 264
    for name in ("bos", "eos"):
        token = getattr(whole, f"{name}_token")
        assert getattr(tokenizer, f"{name}_token") == token
        assert getattr(loaded.config, f"{name}_token_id") == tokenizer.convert_tokens_to_ids(token)
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    new = {old: place for place, old in enumerate(kept)}
    assert generation["eos_token_id"] == [new[whole.eos_token_id], new[300]]
    assert generation["suppress_tokens"] == [new[301]]
    chat = [{"role": "user", "content": TEXT}]
    written = tokenizer.apply_chat_template(chat, tokenize=False)
    assert written == whole.apply_chat_template(chat, tokenize=False)
    assert tokenizer.decode(tokenizer(TEXT)["input_ids"]) == whole.decode(whole(TEXT)["input_ids"])
    assert len(tokenizer(TEXT)["input_ids"]) > len(whole(TEXT)["input_ids"])


def count(sources: dict[str, str], cache: Path, **changes: Any) -> TokenCounts:
    given = [Source(name, (WholeText(name, text),)) for name, text in sources.items()]
    settings: dict[str, Any] = {"reserved": {}, "characters": 10**6, "tokenizer": "x", "show": lambda done, of: None}
    return token_counts(given, encoder(byte_tokenizer(), 257), 257, cache=cache, **(settings | changes))


def test_all_text_is_counted_but_what_is_reserved_and_only_once(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    a, b = tokenizer.convert_tokens_to_ids(["a", "b"])
    sources = {"one": "aaaa", "two": "abbb"}
    counts = count(sources, tmp_path)
    assert (counts.counts[a], counts.counts[b], counts.tokens, counts.characters) == (5, 3, 8, 8)
    reserved = count(sources, tmp_path, reserved={digest_of("abbb"): 2, digest_of("aaaa"): 0})
    assert (reserved.counts[a], reserved.counts[b]) == (1, 1)
    (file,) = {path for path in tmp_path.iterdir() if json.loads(path.read_text())["counts"] == list(counts.counts)}
    file.write_text(json.dumps({"counts": [7] * 257, "characters": 1}))
    assert count(sources, tmp_path).counts == (7,) * 257


def test_a_limit_on_what_is_counted_cuts_all_sources_alike(tmp_path: Path) -> None:
    lines = {"long": "a" * 99 + "\n", "short": "b" * 9 + "\n"}
    counts = count({name: line * 4000 for name, line in lines.items()}, tmp_path, characters=60_000)
    ids = byte_tokenizer().convert_tokens_to_ids(["a", "b"])
    of_long, of_short = (counts.counts[index] for index in ids)
    assert counts.characters < 80_000  # documents are of some 8,000 characters
    assert abs(of_long - of_short) < 12_000


@pytest.mark.parametrize("family", ["granite", "gemma2"])  # whose logits are scaled, and soft-capped
def test_bits_per_byte_are_those_of_the_whole_models_probabilities(family: str) -> None:
    model, _ = tiny_model(family, vocab_size=SIZE)
    tokens, texts = [[5, 9, 7, 300], [8]], ["some text", "é"]
    bits = 0.0
    for ids in tokens:
        logits = model(torch.tensor([[1, *ids]])).logits[0].double()
        bits -= sum(logits[place].log_softmax(-1)[index].item() for place, index in enumerate(ids)) / math.log(2)
    assert bits_per_byte(model, tokens, texts, 1) == pytest.approx(bits / 11, rel=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
def test_an_embedder_with_fewer_tokens_embeds_what_stays_alike(family: str) -> None:
    model, _ = tiny_model(family)
    kept = [index for index in range(model.config.vocab_size) if index < 5 or index % 3]
    small = trimmed_model(model, kept)
    places = torch.randint(5, len(kept), (2, 9), generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor(kept)[places].tolist()
    expected = embedded(model, tokens, "mean")
    torch.testing.assert_close(embedded(small, places.tolist(), "mean"), expected)
    assert small.get_input_embeddings().weight.shape[0] == len(kept) == small.config.vocab_size
    assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size > len(kept)


def test_positions_behind_the_padding_stay_where_they_are() -> None:
    model, _ = tiny_model("roberta")
    with pytest.raises(ValueError, match="padding token to keep its id"):
        trimmed_model(model, range(2, 20))
