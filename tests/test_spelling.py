"""Blocks that learn to write dropped tokens in pieces: from what, towards what, and that nothing else changes."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import tiny_model
from helpers_data import byte_tokenizer
from helpers_formats import byte_level, sentencepiece
from tokenizers import decoders

from evaluators.data.places import TextPlace
from evaluators.data.shards import WholeText
from evaluators.data.sources import Source
from evaluators.data.splits import digest_of, encoder
from evaluators.paths import unseen
from evaluators.training.recipes import Recovery
from evaluators.vocabulary.bits import bits_per_byte
from evaluators.vocabulary.contexts import AFTER, BEFORE, LENGTH, Contexts, contexts_of
from evaluators.vocabulary.pieces import Pieces
from evaluators.vocabulary.ranked import Ranked, Vocabulary, cut
from evaluators.vocabulary.settings import VocabularySettings
from evaluators.vocabulary.spelling import FURTHER, Amount, Speller, learned_spelling, require_spelling
from evaluators.vocabulary.trim import Lessons, Trim
from space.errors import UserError
from space.formats.trimmed import tokenizer_contents, trimmed_model, trimmed_tokenizer
from space.vocabulary.levels import Levels

TEXT = "the weather gathers there, and other feathers matter. another mother, neither leather nor the rather cat. "
WORDS = TEXT.split()
AROUND = BEFORE + 1 + AFTER


def sentences(count: int, seed: int) -> str:
    """Words of the text in any order."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def contexts(tokenizer: Any, text: str, wanted: Any, **changes: Any) -> Contexts:
    settings: dict[str, Any] = {"uses": 100, "windows": 10, "reserved": {}, "characters": 10**6}
    given = [Source("one", (WholeText("one", text),))]
    return contexts_of(
        given, encoder(tokenizer), len(tokenizer), wanted, show=lambda done, of: None, **(settings | changes)
    )


def test_places_are_of_the_text_one_use_of_each_token_first() -> None:
    tokenizer, text = byte_tokenizer(), "a quick brown fox jumps over the lazy dog, " * 40
    x, z = tokenizer.convert_tokens_to_ids(["x", "z"])
    places = contexts(tokenizer, text, {x, z}, uses=6, windows=4)
    ids = encoder(tokenizer)(text, "one")
    assert [Counter(places.uses[:count, BEFORE].tolist()) for count in (2, 4, 6)] == [
        {x: count, z: count} for count in (1, 2, 3)
    ]
    runs = {tuple(ids[place : place + AROUND]) for place in range(len(ids) - AROUND + 1)}
    assert {tuple(use) for use in places.uses.tolist()} <= runs
    assert places.running.shape == (4, LENGTH)
    assert {tuple(window) for window in places.running.tolist()} <= {
        tuple(ids[place : place + LENGTH]) for place in range(len(ids))
    }
    reserved = contexts(tokenizer, text, {x, z}, reserved={digest_of(text): 30})
    assert reserved.uses[:, BEFORE].tolist() == [x]
    assert reserved.running.shape == (0, LENGTH)


def test_uses_are_taken_from_all_of_a_text_alike() -> None:
    tokenizer = byte_tokenizer()
    text = "".join(f"{letter * BEFORE}!{letter * AFTER}" for letter in "abcdefgh")
    (mark,) = tokenizer.convert_tokens_to_ids(["!"])
    firsts: Counter[int] = Counter()
    for seed in range(400):
        firsts.update(contexts(tokenizer, text, {mark}, uses=2, seed=seed).uses[:, 0].tolist())
    assert len(firsts) == 8
    assert all(60 < count < 140 for count in firsts.values())  # 100 of each, with a standard deviation of 9


def level(tokenizer: Any, dropped: int) -> tuple[int, ...]:
    levels = Levels.of(tokenizer_contents(tokenizer), ())
    return levels.kept(len(levels.order) - dropped)


def with_fallback() -> Any:
    tokenizer = sentencepiece()
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


@pytest.mark.parametrize("make", [byte_level, lambda: byte_level("llama-bpe"), with_fallback])
def test_dropped_tokens_are_spelt_as_the_trimmed_tokenizer_cuts_them(make: Any) -> None:
    whole = make()
    kept = level(whole, 60)
    small = trimmed_tokenizer(whole, kept)
    pieces = Pieces.between(whole, small, kept)
    assert len(pieces.of) == 60
    for old, new in pieces.of.items():
        assert len(new) > 1
        assert "".join(small.convert_ids_to_tokens(new)) == whole.convert_ids_to_tokens(old)
    text = f"{TEXT} Grüße 北京 \n\t 12 {TEXT}"
    (old_ids,), (new_ids,) = cut(whole, [text]), cut(small, [text])
    assert set(old_ids) & set(pieces.of)
    spelt = [piece for each in pieces.spelt(old_ids) for piece in each]
    assert small.decode(spelt) == small.decode(new_ids)


def calm(family: str, **changes: Any) -> Any:
    """A tiny model that expects all tokens about alike: what a random one is sure of, text does not have."""
    model, spec = tiny_model(family, **changes)
    model.model.norm.weight.data *= 0.05
    return model, spec


def lesson(family: str = "llama", **changes: Any) -> tuple[Any, Any, Pieces, Contexts, int]:
    tokenizer = byte_level()
    model, _ = calm(family, vocab_size=len(tokenizer), **changes)
    kept = level(tokenizer, 60)
    small = trimmed_tokenizer(tokenizer, kept)
    pieces = Pieces.between(tokenizer, small, kept)
    places = contexts(tokenizer, sentences(8000, 0), pieces.of, uses=2000, windows=40)
    return model, small, pieces, places, tokenizer.bos_token_id


RECIPE = Recovery(learning_rate=3e-3, clip=1e9)


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("granite", True)])
def test_the_loss_and_its_gradient_are_those_of_what_the_whole_model_and_the_text_say(family: str, tied: bool) -> None:
    model, _, pieces, places, start = lesson(family, tie_word_embeddings=tied)
    rows = [*places.uses[:3].tolist(), places.running[0, :40].tolist()]  # of several lengths
    speller = Speller(model, pieces, start, RECIPE)
    student = copy.deepcopy(speller.model)
    value = speller.learn([rows[:2], rows[2:]], 0.0)

    small, total, tokens = trimmed_model(student, pieces.kept), torch.zeros(()), sum(map(len, rows))
    for row in rows:
        spelt = pieces.spelt(row)
        new = [pieces.kept.index(start), *(piece for each in spelt for piece in each)]
        said = model(torch.tensor([[start, *row]])).logits[0].softmax(-1)
        logs = small(torch.tensor([new])).logits[0].log_softmax(-1)
        place = 0
        for index, token in enumerate(spelt):
            target = said[index, list(pieces.kept)]
            for old, written in pieces.of.items():
                target[written[0]] += said[index, old]
            total = total - (target * logs[place]).sum()
            for further in range(1, len(token)):
                total = total - FURTHER * logs[place + further, token[further]]
            place += len(token)
    (total / tokens).backward()
    assert value == pytest.approx(total.item() / tokens, rel=1e-4)
    speller = Speller(model, pieces, start, RECIPE)
    parts = [speller._backward(part, tokens) for part in (rows[:2], rows[2:])]
    assert sum(parts) == pytest.approx(value)
    wanted = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    for name, parameter in speller.model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, wanted[name], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("granite", True)])
def test_blocks_learn_what_text_has_and_nothing_else_changes(family: str, tied: bool) -> None:
    model, small, pieces, places, start = lesson(family, tie_word_embeddings=tied)
    before = copy.deepcopy(model.state_dict())
    texts = [sentences(100, 1)]
    amount = Amount.of(20_000)
    taught = learned_spelling(model, pieces, places, start, amount, RECIPE, lambda done, of: None)
    bits = [
        bits_per_byte(trimmed_model(each, pieces.kept), cut(small, texts), texts, pieces.kept.index(start))
        for each in (model, taught)
    ]
    assert bits[1] < 0.99 * bits[0]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    changed = {name for name, tensor in taught.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "layers." in name or name == "model.norm.weight"}
    assert not any(parameter.requires_grad for parameter in taught.parameters())
    again = learned_spelling(model, pieces, places, start, amount, RECIPE, lambda done, of: None)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in taught.state_dict().items())


def test_a_model_in_bfloat16_is_trained_in_float32_and_given_back_in_its_own() -> None:
    model, _, pieces, places, start = lesson()
    model = model.bfloat16()
    taught = learned_spelling(model, pieces, places, start, Amount.of(3000), RECIPE, lambda done, of: None)
    assert {parameter.dtype for parameter in taught.parameters()} == {torch.bfloat16}
    assert not torch.equal(taught.model.layers[0].mlp.up_proj.weight, model.model.layers[0].mlp.up_proj.weight)


def test_training_that_diverges_says_what_to_lower() -> None:
    model, _, pieces, places, start = lesson()
    with pytest.raises(UserError, match=r"Lower recover\.learning_rate"):
        learned_spelling(
            model, pieces, places, start, Amount.of(9000), replace(RECIPE, learning_rate=1e30), lambda done, of: None
        )


def test_a_trim_keeps_what_was_learned_where_it_is_better_and_takes_it_back_elsewhere() -> None:
    model, small, pieces, places, start = lesson()
    model.config.bos_token_id = model.config.eos_token_id = start
    spec: Any = SimpleNamespace(vocab=len(model.lm_head.weight), task="causal_lm")
    loaded: Any = SimpleNamespace(tokenizer=byte_level(), spec=spec, model=model, surroundings=None)
    whole, texts = Vocabulary(loaded, "vocabulary.keep"), (sentences(100, 1),)
    lessons = Lessons(pieces, places, Amount.of(20_000), (sentences(100, 2),))
    subnet: Any = SimpleNamespace(spec=spec, tokenizer=small)
    ranked = Ranked(whole._levels(()), 10**6, ("a",))
    trim = Trim(subnet, pieces.kept, ranked, texts, whole.compared(small, pieces.kept, texts), whole, lessons)
    lines: list[str] = []
    taught = trim.taught(model, RECIPE, lines.append, unseen)
    assert taught is not model
    exported, rows = trim.trimmed(model, taught, lines.append)
    assert torch.equal(exported.model.norm.weight, taught.model.norm.weight)
    now = str(rows["bits a byte of held-out text, this one"]).split()[0]
    said = str(rows["learned to write dropped tokens"])
    assert said.startswith(f"from {lessons.amount.tokens} tokens; ")
    assert float(now) < float(said.split("; ")[1].split()[0])
    assert not lines[0].endswith("taken back")

    wrong = Lessons(pieces, places, Amount.of(20_000), ("QQQQ" * 40,))  # which the training makes less likely
    trim = replace(trim, lessons=wrong)
    assert trim.taught(model, RECIPE, lines.append, unseen) is model
    assert lines[-1].endswith("; it is taken back")
    _, rows = trim.trimmed(model, model, lines.append)
    assert str(rows["learning to write dropped tokens"]).startswith("taken back")


def test_what_cannot_be_taught_is_refused() -> None:
    require_spelling(tiny_model("llama")[0])
    for family in ("gemma2", "phi"):  # capped, and with a bias
        with pytest.raises(UserError, match="whose logits are capped or have a bias"):
            require_spelling(tiny_model(family)[0])
    with pytest.raises(UserError, match="expected a model of at least 256 positions"):
        require_spelling(tiny_model("gpt2", max_position_embeddings=128)[0])
    with pytest.raises(UserError, match=r"vocabulary\.tokens: expected at least 0"):
        VocabularySettings(tokens=-1)


def test_text_that_nothing_would_read_is_refused() -> None:
    place = TextPlace(path="other.txt")
    with pytest.raises(UserError, match=r"vocabulary\.data\.path: expected null .*, got other\.txt"):
        VocabularySettings(data=place)
    assert VocabularySettings(keep=0.8, data=place).data == VocabularySettings(tokens=100, data=place).data
