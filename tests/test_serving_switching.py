"""Texts that go on with another point, from its keys and values alone, to the letter, whoever writes beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from conftest import fitting, random_tokens
from helpers_run import CHARACTERS
from helpers_serving import CUT, GREEDY, TIE, Gated, Points, ask, make_points, running
from helpers_waiting import until
from transformers import DynamicCache

from serving.batch import Batch, Prefill
from serving.load import Load
from serving.requests import Choice, Request, Served
from serving.switching import Move, Switching, sources
from space.candidate import Candidate
from space.supernet.supernet import Supernet

ATTENTION = [[6, 3], [6, 3], [4, 2], [0, 0]]
NARROW = Candidate.from_rows([[*heads, 16] for heads in ATTENTION])  # with the same attention
WIDE = Candidate.from_rows([[*heads, channels] for heads, channels in zip(ATTENTION, (48, 0, 32, 16), strict=True)])
LESS = Candidate.from_rows([[4, 2, 16], [0, 0, 48], [2, 2, 32], [0, 0, 0]])
FACTS = {"query_heads": 6, "kv_heads": 3}
BEFORE, AFTER = 5, 7  # tokens that the first point writes, and the second


@torch.inference_mode()
def greedy_handed_over(
    one: Any, other: Any, shapes: tuple[Candidate, Candidate], prompt: Sequence[int], before: int, after: int
) -> tuple[list[int], list[torch.Tensor]]:
    """Tokens of two models, of which the second one has the first one's keys and values, layer by layer of the dense
    model, and the logits of each; one sequence, in transformers' own cache.
    """
    first, second = shapes
    cache, ids, rows = DynamicCache(config=one.config), torch.tensor([[*prompt]]), list[torch.Tensor]()
    for number, (model, count) in enumerate([(one, before), (other, after)]):
        if number and other is not one:
            handed = DynamicCache(config=other.config)
            for place, layer in enumerate(second.kept):
                if heads := second.layers[layer].kv_heads:
                    here = cache.layers[first.kept.index(layer)]
                    keys, values = here.keys[:, :heads].clone(), here.values[:, :heads].clone()
                else:
                    keys = values = torch.zeros(1, 1, cache.get_seq_length(), 1)
                handed.update(keys, values, place)
                if handed.layers[place].is_sliding:  # which has seen more than it keeps
                    handed.layers[place].cumulative_length = cache.get_seq_length()
            cache = handed
        for _ in range(count):
            logits = model(ids, past_key_values=cache, use_cache=True).logits[0, -1].float()
            rows.append(logits)
            ids = logits.argmax()[None, None]
    return [int(row.argmax()) for row in rows], rows


def test_who_can_go_on_with_whom() -> None:
    dense = Candidate.from_rows([[6, 3, 48]] * 4)
    assert sources(FACTS, dense, dense) == tuple((place, 3) for place in range(4))
    assert sources(FACTS, dense, CUT) == ((0, 2), None, (2, 3), (3, 3))
    assert sources(FACTS, CUT, dense) is None  # whose second layer it has not
    assert sources(FACTS, NARROW, WIDE) == sources(FACTS, WIDE, NARROW) == ((0, 3), (1, 3), (2, 2), None)
    assert sources(FACTS, WIDE, LESS) == ((0, 2), None, (2, 2))
    gone = Candidate.from_rows([[6, 3, 48], [0, 0, 0], [6, 3, 48], [0, 0, 16]])
    assert sources(FACTS, gone, LESS) == ((0, 2), None, (1, 2))  # whose second layer is an MLP alone
    merged = Candidate.from_rows([[6, 1, 48], [6, 3, 48], [6, 3, 48], [6, 3, 48]])
    assert sources(FACTS, dense, merged) is None
    assert sources(FACTS, merged, Candidate.from_rows([[2, 1, 48]] * 4)) is None
    assert sources(FACTS, merged, merged) == ((0, 1), (1, 3), (2, 3), (3, 3))
    repeating = {**FACTS, "repeats_groups": True}  # whose heads lie one behind another, group by group
    assert sources(repeating, dense, CUT) is None
    assert sources(repeating, NARROW, WIDE) == ((0, 6), (1, 6), (2, 4), None)


@pytest.mark.parametrize("pair", [(NARROW, WIDE), (WIDE, NARROW), (WIDE, LESS)])
@torch.inference_mode()
def test_a_batch_goes_on_with_the_keys_and_values_of_another(
    make_supernet: Callable[..., Supernet], unlike_family: str, pair: tuple[Candidate, Candidate]
) -> None:
    supernet = make_supernet(unlike_family)
    one, other = (fitting(unlike_family, each) for each in pair)
    first, second = supernet.view(one), supernet.view(other)
    there = sources(supernet.spec.to_json(), one, other)
    if there is None:
        assert supernet.spec.repeats_groups  # which cannot be cut
        return
    prompts = [random_tokens(1, length, seed=length)[0].tolist() for length in (3, 17, 9)]
    alone = [greedy_handed_over(first, second, (one, other), prompt, BEFORE, AFTER) for prompt in prompts]
    from_the_start = greedy_handed_over(second, second, (other, other), prompts[1], BEFORE, AFTER)
    here, handed = Batch(first), Batch(second)

    def read(batch: Batch, model: Any, number: int, tokens: list[list[int]], rows: list[torch.Tensor]) -> None:
        prefill = Prefill(model, prompts[number])
        logits = prefill.step(len(prompts[number]))
        torch.testing.assert_close(logits, rows[0], atol=1e-4, rtol=0)
        tokens.append([int(logits.argmax())])
        batch.join(prefill)

    written: list[list[int]] = []
    for number in range(3):
        read(here, first, number, written, alone[number][1])

    def step(batch: Batch, numbers: Sequence[int]) -> None:
        for number, logits in zip(numbers, batch.step([written[n][-1] for n in numbers]), strict=True):
            expected = from_the_start if number == 3 else alone[number]
            torch.testing.assert_close(logits, expected[1][len(written[number])], atol=1e-4, rtol=0)
            written[number].append(int(logits.argmax()))

    for _ in range(BEFORE - 1):
        step(here, (0, 1, 2))
    prompts.append(prompts[1])
    read(handed, second, 3, written, from_the_start[1])
    step(handed, [3])
    here.hand_over([0, 2], handed, there)
    assert (len(here), len(handed)) == (1, 3)
    step(handed, [3, 0, 2])
    here.hand_over([0], handed, there)
    assert (len(here), len(handed)) == (0, 4)
    for _ in range(AFTER - 1):
        step(handed, [3, 0, 2, 1])


@torch.inference_mode()
def test_a_narrower_point_finds_its_own_keys_and_values(
    make_supernet: Callable[..., Supernet], unlike_family: str
) -> None:
    supernet = make_supernet(unlike_family)
    one, other = (fitting(unlike_family, each) for each in (WIDE, LESS))
    there = sources(supernet.spec.to_json(), one, other)
    if there is None:
        assert supernet.spec.repeats_groups
        return
    tokens = random_tokens(1, 9, seed=9)[0].tolist()
    reads = [Prefill(supernet.view(each), tokens) for each in (one, other)]
    for each in reads:
        each.step(9)
    assert there[0] is not None
    place, heads = there[0]  # of the first layer, to which nothing has come yet that differs
    theirs, own = reads[0].cache.layers[place], reads[1].cache.layers[0]
    if not supernet.spec.wide_qk_norm:  # of all heads of a layer at once
        torch.testing.assert_close(theirs.keys[:, :heads], own.keys)
    torch.testing.assert_close(theirs.values[:, :heads], own.values)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Points:
    return make_points(tmp_path_factory.mktemp("points"))


DENSE = Candidate.from_rows([[6, 3, 48]] * 4)


def prompt(length: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(length)
    return tuple(torch.randint(len(CHARACTERS) - 1, (length,), generator=generator).tolist())


def switching(again: Callable[[Load], Move | None]) -> Switching:
    there = sources(FACTS, DENSE, CUT)
    assert there is not None
    return Switching({("dense", "cut"): there}, again)


def test_a_request_goes_on_with_another_point_and_nobody_else_does(points: Points) -> None:
    seen = list[Load]()

    def again(load: Load) -> Move | None:
        seen.append(load)
        free = [each for each in load.writing if each.free and each.point == "dense"]
        return ("dense", "cut") if free and min(each.written for each in free) >= BEFORE else None

    records, choice = list[Served](), Choice("dense", None)
    fixed, open_ = (Request(prompt(11), BEFORE + AFTER, GREEDY, choice=each) for each in (None, choice))
    with running(points, on_served=records.append, ends=(), switching=switching(again)) as scheduler:
        heards = [ask(scheduler, "dense", fixed), ask(scheduler, "dense", open_), ask(scheduler, "cut", fixed)]
        texts = [heard.wait().text for heard in heards]
    tokens, rows = greedy_handed_over(
        points.models["dense"], points.models["cut"], (DENSE, CUT), fixed.prompt, BEFORE, AFTER
    )
    assert (
        texts[1] == points.text(fixed.prompt, tokens)
        or min(float(row.topk(2).values.diff().abs()) for row in rows) < TIE
    )
    assert len({*texts}) == 3
    by_text = {each.moves: each for each in records}
    moved = by_text[("dense", "cut"),]
    assert (moved.point, moved.new_tokens, moved.others) == ("dense", BEFORE + AFTER, {"cut": AFTER})
    assert [(each.point, each.others, each.moves) for each in records if each is not moved] == [
        ("dense", {}, ()),
        ("cut", {}, ()),
    ]
    for load in seen:  # what is going on is told by who writes now
        for each in load.writing:
            assert not (each.free and each.point == "dense" and each.written > BEFORE)


def test_an_error_in_handing_over_is_told_to_both_points_alone(points: Points, monkeypatch: pytest.MonkeyPatch) -> None:
    def again(load: Load) -> Move | None:
        return ("dense", "cut") if {each.point for each in load.writing} == {"dense", "cut"} else None

    model = Gated(points.models["cut"])
    models = {"dense": points.models["dense"], "cut": model}

    def fails(*given: Any) -> None:
        raise RuntimeError("out of memory")

    request = Request(prompt(5), 50, GREEDY, choice=Choice("dense"))
    with running(points, models=models, ends=(), switching=switching(again)) as scheduler:
        monkeypatch.setattr(Batch, "hand_over", fails)
        heards = [ask(scheduler, point, request) for point in ("dense", "cut")]
        model.open()
        ends = [heard.wait().end for heard in heards]
        assert [end and (end.outcome, end.error) for end in ends] == [("error", "RuntimeError: out of memory")] * 2
        monkeypatch.undo()
        heard = ask(scheduler, "dense", request).wait()
        assert heard.end is not None
        assert heard.end.outcome == "length"
        until(lambda: not scheduler.load().writing)


def test_nobody_is_asked_where_nobody_left_it_open(points: Points) -> None:
    def again(load: Load) -> Move | None:
        raise AssertionError

    with running(points, ends=(), switching=switching(again)) as scheduler:
        heard = ask(scheduler, "dense", Request(prompt(5), 3, GREEDY)).wait()
        assert heard.end is not None
        assert heard.end.outcome == "length"
