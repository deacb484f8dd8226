"""Controllers in virtual time, on prompts of which it is known what points lose."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from benchmarks.choosing import Choosing, Known, RunFront, cell_of, cells
from benchmarks.serving import Prompt
from serving.bandit import Bandit
from serving.controllers import DENSE, Offer
from serving.difficulty import Look, LossModel
from serving.limits import Limits
from serving.requests import Served, Slo
from serving.timed import Difficulty, SloKeeper

OFFERS = (
    Offer(DENSE, (), 0.0, {}),
    Offer("s1", (), 0.3, {}),
    Offer("s2", ("fastest", "smallest"), 0.6, {}),
)
FRONT = RunFront((1.0, 0.7, 0.4), (0.0, 0.3, 0.6), (90.0, 1.9), (75.0, 4.3), OFFERS)
PROMPTS = [Prompt([number + 2, *[1] * (20 + number)], [0]) for number in range(12)]
HARD = [number % 3 == 0 for number in range(12)]
SLO = Slo(1000.0, 400.0)
ALONE = [60.0 * number for number in range(192)]  # seconds, so far from each other that nobody waits


def known() -> Known:
    """Prompts of which every third is hard, as a look at it shows."""
    looks = [Look(0.3, *(0.6 if hard else 0.2,) * 3) for hard in HARD]
    losses = [{"s1": 0.8, "s2": 2.0} if hard else {"s1": 0.05, "s2": 0.1} for hard in HARD]
    by_point = {point: [each[point] for each in losses] for point in ("s1", "s2")}
    model = LossModel.fitted(looks, by_point)
    return Known(PROMPTS, looks, losses, "s2", (model, model.checked(looks, by_point)))


def numbers(count: int) -> list[int]:
    return [number % len(PROMPTS) for number in range(count)]


def test_hard_prompts_are_answered_by_points_that_lose_little_on_them() -> None:
    answers = Choosing(FRONT, Limits(), 0, known()).outcome(
        ALONE[:48], numbers(48), 8, Difficulty(OFFERS, loss=0.3), Slo(1e6, 1e6)
    )
    assert [number for number, _ in answers] == numbers(48)
    assert {served.point for number, served in answers if HARD[number]} == {DENSE}
    assert {served.point for number, served in answers if not HARD[number]} == {"s2"}
    assert all(served.predicted_loss is not None for _, served in answers)


def test_a_look_takes_time() -> None:
    trial = partial(Choosing, FRONT, Limits(), 0, known())
    looked = trial().outcome(ALONE[:48], numbers(48), 8, Difficulty(OFFERS, loss=1e-9), Slo(1e6, 1e6))
    static = trial().outcome(ALONE[:48], numbers(48), 8, DENSE, SLO)
    assert {served.point for _, served in looked} == {DENSE}
    later = np.mean([served.first_token_s or 0.0 for _, served in looked])
    assert later - np.mean([served.first_token_s or 0.0 for _, served in static]) > 0.4 * 0.09


def test_a_bandit_learns_of_answers_that_are_compared() -> None:
    bandit = Bandit(OFFERS, worth=0.5, share=0.5, seed=0)
    answers = Choosing(FRONT, Limits(), 0, known()).outcome(ALONE, numbers(192), 8, bandit, SLO)
    assert 10 < bandit.figures()["compared"] <= bandit.figures()["explored"] < 192
    last = answers[len(answers) // 2 :]
    easy = [served.point for number, served in last if not HARD[number]]
    assert easy.count("s2") > 0.7 * len(easy)
    hard = [served.point for number, served in last if HARD[number]]
    assert hard.count("s2") < 0.5 * len(hard)


def test_what_goes_wrong_in_a_look_is_raised() -> None:
    blind = replace(known(), looks=[])
    with pytest.raises(IndexError):
        Choosing(FRONT, Limits(), 0, blind).outcome(ALONE[:48], numbers(48), 8, Difficulty(OFFERS), SLO)


def test_all_rows_have_the_same_requests_and_the_same_figures_again() -> None:
    arguments = Namespace(requests=60, seeds=1, loads=[0.3, 1.6], slack=6.0, new_tokens=8)
    controllers = {"slo": partial(SloKeeper, OFFERS), "difficulty": partial(Difficulty, OFFERS)}
    first, again = (cells(FRONT, known(), controllers, arguments) for _ in range(2))
    assert first == again
    assert [*first] == ["static dense", "static s1", "static s2", "slo", "difficulty"]
    calm = {name: row[0.3] for name, row in first.items()}
    assert calm["static dense"].loss == 0.0
    assert calm["static s2"].points == {"s2": 60}
    mean = np.mean([known().losses[number]["s2"] for number in numbers(60)])
    assert calm["static s2"].loss == pytest.approx(mean)
    assert first["slo"][1.6].attainment > first["static dense"][1.6].attainment


def test_answers_by_hand() -> None:
    answer = Served("s1", 9, 8, "length", 1.0, 0.0, 0.5, 0.1, None)
    answers = [(0, answer), (1, replace(answer, point=DENSE, token_s=0.5)), (2, replace(answer, outcome="timeout"))]
    cell = cell_of(answers, 4, SLO, known().losses)
    assert (cell.attainment, cell.loss, cell.refused, cell.points) == (0.25, 0.4, 2, {"s1": 1, DENSE: 1})
