"""Text out of tokens: whole characters, nothing of a stop sequence; and tokens out of logits, as asked for."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from serving.requests import Sampling
from serving.sampling import Sampler
from serving.writing import Writing

EOS = 256


class Bytes:
    """A tokenizer whose tokens are the bytes of UTF-8, and one of which is special; it drops a first blank."""

    def decode(self, tokens: Sequence[int], **settings: bool) -> str:
        return bytes(token for token in tokens if token != EOS).decode(errors="replace").removeprefix(" ")


def written(text: str, *stop: str, prompt: str = "x") -> tuple[list[str], bool]:
    writing = Writing(Bytes(), [*prompt.encode()], stop)
    pieces = []
    for token in text.encode():
        pieces.append(writing.push(token))
        if writing.stopped:
            break
    return [*pieces, writing.end()], writing.stopped


@given(st.text(max_size=12), st.text(alphabet="ab é", min_size=1, max_size=4), st.text(alphabet="ab é", max_size=12))
def test_pieces_are_the_text_up_to_the_first_stop_sequence(prompt: str, stop: str, text: str) -> None:
    pieces, stopped = written(text, stop, prompt=f"{prompt}x")
    assert "".join(pieces) == text.partition(stop)[0]
    assert stopped == (stop in text)


@given(st.text(max_size=20))
def test_without_stop_sequences_pieces_are_the_text(text: str) -> None:
    assert "".join(written(text)[0]) == text


def test_characters_come_whole_and_what_may_become_a_stop_sequence_waits() -> None:
    assert written("é!")[0] == ["", "é", "!", ""]
    assert written("abcab", "abd", "cx")[0] == ["", "", "ab", "c", "", "ab"]
    assert written(" a", prompt="x")[0] == [" ", "a", ""]  # the blank behind a prompt stays
    assert written("aSTOPb", "STOP", "OP")[0] == ["a", "", "", "", "", ""]


def test_what_is_no_character_comes_at_the_end_and_special_tokens_never() -> None:
    writing = Writing(Bytes(), [*b"x"], ())
    assert [writing.push(token) for token in (*b"a", EOS, *b"b", 0xC3)] == ["a", "", "b", ""]
    assert writing.end() == "\ufffd"


LOGITS = torch.tensor([1.0, 3.0, 2.0, -4.0])


def draws(settings: Sampling, count: int = 200) -> list[int]:
    sampler = Sampler(settings)
    return [sampler.draw(LOGITS)[0] for _ in range(count)]


def test_a_seed_gives_the_same_draws_and_none_gives_others() -> None:
    assert draws(Sampling(seed=3)) == draws(Sampling(seed=3)) != draws(Sampling(seed=4))
    assert draws(Sampling()) != draws(Sampling())
    assert draws(Sampling(seed=-1), 5) == draws(Sampling(seed=(1 << 63) - 1), 5)


def test_temperature_and_top_p_leave_what_they_should() -> None:
    assert set(draws(Sampling(temperature=0.0))) == {1}
    assert set(draws(Sampling(temperature=1e-9, seed=0))) == {1}
    assert set(draws(Sampling(top_p=0.0, seed=0))) == {1}
    assert set(draws(Sampling(top_p=0.7, seed=0))) == {1, 2}  # 0.66 and 0.24
    shares = torch.bincount(torch.tensor(draws(Sampling(seed=0), 4000)), minlength=4) / 4000
    torch.testing.assert_close(shares, LOGITS.softmax(-1), atol=0.03, rtol=0)


def test_log_probabilities_are_the_models_own() -> None:
    sampler = Sampler(Sampling(temperature=2.0, seed=0, top=2))
    token, likely = sampler.draw(LOGITS)
    assert likely is not None
    expected = LOGITS.log_softmax(-1)
    assert likely.logprob == pytest.approx(float(expected[token]))
    assert dict(likely.top) == pytest.approx({1: float(expected[1]), 2: float(expected[2])})
    none = Sampler(Sampling(top=0)).draw(LOGITS)[1]
    assert none is not None
    assert none.top == ()
    assert Sampler(Sampling()).draw(LOGITS)[1] is None


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_refused(wrong: float) -> None:
    with pytest.raises(ArithmeticError, match="numbers"):
        Sampler(Sampling(temperature=0.0)).draw(torch.tensor([0.0, wrong]))
