"""Rows of pieces that stand for dropped tokens: what they are to say, and that they learn it, alone."""

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

from evaluators.data.shards import WholeText
from evaluators.data.sources import Source
from evaluators.data.splits import digest_of, encoder
from evaluators.vocabulary.bits import bits_per_byte
from evaluators.vocabulary.contexts import BEFORE, LENGTH, Contexts, contexts_of
from evaluators.vocabulary.output_rows import RowChange, _Head, _Loss, _States, can_heal, learned_rows
from evaluators.vocabulary.pieces import Pieces
from evaluators.vocabulary.ranked import Ranked, Vocabulary, cut
from evaluators.vocabulary.trim import Trim
from space.formats.trimmed import tokenizer_contents, trimmed_model, trimmed_tokenizer
from space.models.stack import stack_of
from space.vocabulary.levels import Levels

TEXT = "the weather gathers there, and other feathers matter. another mother, neither leather nor the rather cat. "
WORDS = TEXT.split()


def sentences(count: int, seed: int) -> str:
    """Words of the text in any order."""
    return " ".join(np.random.default_rng(seed).choice(WORDS, count))


def contexts(tokenizer: Any, sources: dict[str, str], wanted: Any, **changes: Any) -> Contexts:
    given = [Source(name, (WholeText(name, text),)) for name, text in sources.items()]
    settings: dict[str, Any] = {"reserved": {}, "characters": 10**6, "show": lambda done, of: None}
    return contexts_of(given, encoder(tokenizer), len(tokenizer), wanted, **(settings | changes))


def test_places_are_of_the_text_and_all_of_it_is_counted() -> None:
    tokenizer, text = byte_tokenizer(), "a quick brown fox jumps over the lazy dog, " * 40
    x, z = tokenizer.convert_tokens_to_ids(["x", "z"])
    places = contexts(tokenizer, {"one": text}, {x, z}, uses=3, windows=4)
    ids = encoder(tokenizer)(text, "one")
    assert Counter({index: int(count) for index, count in enumerate(places.counts) if count}) == Counter(ids)
    assert Counter(places.tokens.tolist()) == {x: 3, z: 3}
    runs = {tuple(ids[place - BEFORE : place + 1]) for place in range(BEFORE, len(ids))}
    assert {(*before, token) for token, before in zip(places.tokens, places.before.tolist(), strict=True)} <= runs
    assert places.windows.shape == (4, LENGTH)
    assert {tuple(window) for window in places.windows.tolist()} <= {
        tuple(ids[place : place + LENGTH]) for place in range(len(ids))
    }
    reserved = contexts(tokenizer, {"one": text}, {x, z}, reserved={digest_of(text): 30})
    assert (reserved.counts.sum(), len(reserved.windows)) == (30, 0)
    assert Counter(reserved.tokens.tolist()) == {x: 1}


def test_uses_are_taken_from_all_of_a_text_alike() -> None:
    tokenizer = byte_tokenizer()
    text = "".join(f"{letter * 10}!" for letter in "abcdefgh")
    (mark,) = tokenizer.convert_tokens_to_ids(["!"])
    firsts: Counter[int] = Counter()
    for seed in range(400):
        places = contexts(tokenizer, {"one": text}, {mark}, uses=2, seed=seed)
        firsts.update(places.before[:, -1].tolist())
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
    assert set(new_ids) - set(pieces.rows) <= {kept.index(old) for old in old_ids if old in kept}


def calm(family: str, **changes: Any) -> Any:
    """A tiny model that expects all tokens about alike: what a random one is sure of, text does not have."""
    model, spec = tiny_model(family, **changes)
    model.model.norm.weight.data *= 0.05
    return model, spec


def trimmed(family: str, **changes: Any) -> tuple[Any, Any, Any, Pieces, Contexts, int]:
    tokenizer = byte_level()
    model, _ = calm(family, vocab_size=len(tokenizer) + 4, **changes)
    kept = level(tokenizer, 60)
    small = trimmed_tokenizer(tokenizer, kept)
    pieces = Pieces.between(tokenizer, small, kept)
    places = contexts(tokenizer, {"some": sentences(8000, 0)}, pieces.of, uses=200, windows=100)
    return model, trimmed_model(model, kept), small, pieces, places, kept.index(tokenizer.bos_token_id)


@pytest.mark.parametrize("family", ["llama", "granite"])  # whose logits are scaled
def test_the_loss_is_the_cross_entropy_to_what_the_whole_matrix_and_the_text_say(family: str) -> None:
    model, small, _, pieces, places, start = trimmed(family, tie_word_embeddings=True)
    with torch.no_grad():
        every = _States.of(stack_of(small), pieces, places, start)
        states = every.chosen(torch.cat([torch.arange(100), torch.arange(-20, 0)]))  # of windows, and of uses
        assert (states.labels >= 0).any()
        assert (states.labels < 0).any()
        head = _Head(model, pieces)
        loss = _Loss.of(head, states, torch.eye(states.hidden.shape[1]), head.rows)
    weight, rows = model.get_output_embeddings().weight.detach().double(), torch.tensor(pieces.rows)
    small_weight = small.get_output_embeddings().weight.detach().double()
    logits = states.hidden.double() @ weight.T * head.scale
    # the model's rows that are no tokens are not expected by anyone
    tokens = [*pieces.kept, *pieces.of]
    said = torch.zeros(len(logits), len(weight), dtype=torch.float64)
    said[:, tokens] = logits[:, tokens].softmax(-1)
    target = said[:, list(pieces.kept)]
    for old, new in pieces.of.items():
        target[:, new[0]] += said[:, old]
    for place, label in enumerate(states.labels.tolist()):
        if label >= 0:
            target[place] = 0
            target[place, pieces.rows[label]] = 1
    change = torch.randn(len(rows), states.hidden.shape[1], generator=torch.Generator().manual_seed(0)).double() / 9

    def direct(own: torch.Tensor) -> torch.Tensor:
        now = states.hidden.double() @ small_weight.T * head.scale
        now = now.index_add(1, rows, states.hidden.double() @ own.T)
        return -(states.weights.double()[:, None] * target * now.log_softmax(-1)).sum()

    own = change.clone().requires_grad_(True)
    value = direct(own)
    value.backward()
    given, gradient = loss.with_gradient(change.float())
    zero = torch.zeros_like(change)
    assert given == loss.value(change.float())
    assert given - loss.value(zero.float()) == pytest.approx((value - direct(zero)).item(), rel=1e-4)
    torch.testing.assert_close(gradient.double(), own.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize(("family", "tied"), [("llama", True), ("llama", False), ("granite", True)])
def test_rows_learn_what_text_has_and_nothing_else_changes(family: str, tied: bool) -> None:
    model, small, tokenizer, pieces, places, start = trimmed(family, tie_word_embeddings=tied)
    before = copy.deepcopy(model.state_dict()), copy.deepcopy(small.state_dict())
    unseen = [sentences(100, 1)]
    tokens = cut(tokenizer, unseen)
    first = bits_per_byte(small, tokens, unseen, start)
    change = learned_rows(model, small, pieces, places, start)
    assert isinstance(change, RowChange)
    assert change.after < change.before
    assert all(torch.equal(tensor, before[1][name]) for name, tensor in small.state_dict().items())
    change.apply(small)
    # a tied matrix would have to change by as much as it is long, as hidden states are short here
    assert tied or bits_per_byte(small, tokens, unseen, start) < first
    assert all(torch.equal(tensor, before[0][name]) for name, tensor in model.state_dict().items())
    others = sorted({*range(len(pieces.kept))} - set(pieces.rows))
    changed = {name for name, tensor in small.state_dict().items() if not torch.equal(tensor, before[1][name])}
    head = "lm_head.weight"
    assert changed == ({head, "model.embed_tokens.weight"} if tied else {head})
    assert torch.equal(small.state_dict()[head][others], before[1][head][others])
    change.take_back(small)
    assert all(torch.equal(tensor, before[1][name]) for name, tensor in small.state_dict().items())


def test_what_is_learned_is_the_same_each_time() -> None:
    model, small, _, pieces, places, start = trimmed("llama")
    once, again = (learned_rows(model, small, pieces, places, start) for _ in range(2))
    assert torch.equal(once.change, again.change)


def test_logits_that_are_no_products_alone_are_not_healed() -> None:
    assert can_heal(tiny_model("llama")[0])
    assert not can_heal(tiny_model("gemma2")[0])
    assert not can_heal(tiny_model("phi")[0])


@pytest.mark.parametrize("tied", [False, True])
def test_a_trim_heals_rows_and_says_what_that_gave_or_leaves_them(tied: bool) -> None:
    tokenizer = byte_level()
    model, spec = calm("llama", vocab_size=len(tokenizer) + 4, tie_word_embeddings=tied)
    model.config.bos_token_id, model.config.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    loaded: Any = SimpleNamespace(tokenizer=tokenizer, spec=spec, model=model)
    whole, texts = Vocabulary(loaded, "vocabulary.keep"), (sentences(100, 1),)
    ranked = Ranked(whole._levels(()), 10**6, ("a",))
    kept = ranked.levels.kept(len(tokenizer) - 60)
    small = whole.small(kept)
    pieces = Pieces.between(tokenizer, small, kept)
    places = contexts(tokenizer, {"some": sentences(8000, 0)}, pieces.of, uses=200, windows=100)
    subnet: Any = SimpleNamespace(spec=spec, tokenizer=small)
    trim = Trim(subnet, kept, ranked, texts, whole.compared(small, kept, texts), whole, (pieces, places))
    lines: list[str] = []
    healed, rows = trim.trimmed(model, lines.append)
    if tied:  # which would read otherwise, see above
        assert "output rows are not healed: what they learned did not hold for running text" in lines
        assert "output rows healed" not in rows
        assert torch.equal(healed.get_output_embeddings().weight, trimmed_model(model, kept).lm_head.weight)
        return
    before = "bits a byte of held-out text, this one before output rows were healed"
    assert float(str(rows["bits a byte of held-out text, this one"]).split()[0]) < float(str(rows[before]))
    assert rows["output rows healed"] == f"{len(pieces.rows)}, by {len(places.tokens)} uses of dropped tokens"
    few = replace(places, tokens=places.tokens[:3], before=places.before[:3])
    _, rows = replace(trim, places=(pieces, few)).trimmed(model, lines.append)
    assert "output rows healed" not in rows
    assert "output rows are not healed: the text has 3 uses of dropped tokens to learn from" in lines


def test_a_text_without_dropped_tokens_teaches_nothing_wrong() -> None:
    model, small, _, pieces, places, start = trimmed("llama")
    none = Contexts(places.windows, places.tokens[:0], places.before[:0], np.where(places.counts > 0, 1, 0))
    change = learned_rows(model, small, pieces, none, start)
    assert change.after <= change.before + 1e-4
