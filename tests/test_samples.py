"""What models write, and held-out text in long windows: of a tiny model, as they are exported."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import random_tokens
from helpers_run import CHARACTERS, save_tiny
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators.data.splits import TokenSplits
from evaluators.long_context import LongText
from evaluators.samples import SampleEvaluator, Samples
from evaluators.settings import SampleSettings, TextSettings
from space.candidate import Candidate
from space.errors import UserError
from space.supernet.supernet import Supernet

SETTINGS = SampleSettings(prompts=["The capital of", "a"], tokens=6)
CUT = Candidate.from_rows([[4, 2, 16], [6, 3, 48], [0, 0, 32], [6, 3, 0]])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory = save_tiny("llama", tmp_path_factory.mktemp("model") / "tiny-llama")
    loaded: Any = AutoModelForCausalLM.from_pretrained(directory)
    loaded.tokenizer = AutoTokenizer.from_pretrained(directory)
    return loaded


def likeliest(model: Any, prompt: str, tokens: int) -> str:
    """What follows token by token, without a cache."""
    ids = beginning = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
    for _ in range(tokens):
        with torch.inference_mode():
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
    return str(model.tokenizer.decode(ids[0])).removeprefix(model.tokenizer.decode(beginning[0]))


def test_prompts_are_continued_greedily_whatever_the_model_is_set_to(model: Any) -> None:
    samples = Samples(model.tokenizer, SETTINGS)
    expected = [likeliest(model, prompt, 6) for prompt in SETTINGS.prompts]
    own = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 5.0, "max_new_tokens": 99}
    before = model.generation_config
    model.generation_config = type(before)(**own)
    try:
        assert samples.texts(model) == expected
        assert {name: getattr(model.generation_config, name) for name in own} == own  # as it was
        model.generation_config.eos_token_id = [CHARACTERS.index(expected[0][1])]
        assert samples.texts(model)[0] == expected[0][:2]  # it stops where the model ends a text
    finally:
        model.generation_config = before


def test_an_answer_has_the_texts_as_facts_and_a_failure_is_stored(model: Any) -> None:
    samples = Samples(model.tokenizer, SETTINGS)
    dense = Candidate.from_rows([[6, 3, 48]] * 4)

    def model_of(candidate: Candidate) -> Any:
        if candidate == CUT:
            raise RuntimeError("out of memory")
        return model

    written, failed = SampleEvaluator(samples, model_of).evaluate([dense, CUT])
    assert written.facts == {"prompts": [*SETTINGS.prompts], "new_tokens": 6, "texts": samples.texts(model)}
    assert (written.values, written.fidelity) == ({}, samples.fidelity)
    assert (failed.status, failed.error) == ("failed", "RuntimeError: out of memory")
    names = {Samples(None, replace(SETTINGS, **change)).fidelity for change in ({}, {"tokens": 7}, {"prompts": ("a",)})}
    assert len(names) == 3
    card = samples.section(lambda candidate: model, dense, model)
    assert card == {"What it writes": [*zip(SETTINGS.prompts, *[samples.texts(model)] * 2, strict=True)]}
    assert Samples(None, SampleSettings()).section(model_of, CUT, model) == {}


@pytest.mark.parametrize("change", [{"prompts": [" "]}, {"prompts": [3]}, {"tokens": 0}])
def test_settings_that_ask_for_nothing_are_refused(change: Mapping[str, Any]) -> None:
    with pytest.raises(UserError, match="samples: expected prompts of some text"):
        SampleSettings(**change)


def test_long_windows_give_the_models_perplexity_on_them(
    make_supernet: Callable[..., Supernet],
) -> None:
    supernet = make_supernet("llama")
    text = TokenSplits({"a": random_tokens(1, 2000, seed=5)[0], "b": random_tokens(1, 300, seed=6)[0]})
    settings = TextSettings(length=16, long=64)
    long = LongText.of(text, settings, supernet.model.config)
    assert long.windows is not None
    assert (long.windows.shape, long.words) == ((6, 64), "6 of 64 tokens")  # all that there are
    (evaluator,) = long.evaluators(supernet, supernet.view, 128)
    assert evaluator.fidelity == "heldout-64"
    (answer,) = evaluator.evaluate([CUT])
    with torch.inference_mode():
        logits = supernet.view(CUT)(long.windows).logits[:, :-1].float()
    nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), long.windows[:, 1:].flatten()).item()
    assert answer.values == {"heldout_long_ppl": pytest.approx(math.exp(nll), rel=1e-4)}


@pytest.mark.parametrize(
    ("change", "positions", "words"),
    [
        ({"long": None}, 256, ""),
        ({"long": 16}, 256, "none: data.long=16 is no longer than data.length=16"),
        ({"long": 64}, 63, "none: the model has 63 positions, fewer than data.long=64"),
        ({"long": 200}, 256, "none: no source has a held-out part of data.long=200 tokens"),
    ],
)
def test_where_there_are_no_long_windows_it_is_said_why(change: dict[str, Any], positions: int, words: str) -> None:
    text = TokenSplits({"a": random_tokens(1, 500)[0]})
    config = SimpleNamespace(max_position_embeddings=positions)
    long = LongText.of(text, TextSettings(length=16, **change), config)
    assert (long.windows, long.words) == (None, words)
    assert long.remarks() == ([f"long windows of held-out text: {words}"] if words else [])
