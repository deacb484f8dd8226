"""The bandit: it finds the point of least cost for each kind of prompt, explores so much and no more, and is seeded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from serving.bandit import COMPARING, Bandit, Belief
from serving.controllers import Offer
from serving.difficulty import Look
from serving.load import Load
from serving.requests import Request
from serving.speeds import Speeds
from space.errors import UserError

OFFERS = (Offer("dense", (), 0.0, {}), Offer("mid", (), 0.05, {}), Offer("small", (), 0.4, {}))
SPEEDS = Speeds()
for _point, _part in (("dense", 10.0), ("mid", 8.0), ("small", 4.0)):
    SPEEDS.read(_point, 1, _part)
    SPEEDS.stepped(_point, 1, _part)
EASY, HARD = (1,) * 2, (1,) * 64  # prompts


class World:
    """Points that lose as a law says; the small one much on hard prompts."""

    smallest = "small"

    def __init__(self, place: Path) -> None:
        self.held: list[Callable[[], None]] | None = None
        self.place = place

    def look(self, prompt: Sequence[int]) -> Look:
        return Look(np.log2(len(prompt)) / 16, 0.9 if len(prompt) > 10 else 0.1, 0.5, 0.5)

    def loss(self, point: str, prompt: Sequence[int]) -> float:
        return {"mid": 0.1, "small": 0.9 if len(prompt) > 10 else 0.05}[point]

    def compare(
        self, point: str, prompt: Sequence[int], answer: Sequence[int], tell: Callable[[float | None], None]
    ) -> None:
        if self.held is None:
            tell(self.loss(point, prompt))
        else:
            self.held.append(lambda: tell(None))


def served(bandit: Bandit, prompts: Sequence[tuple[int, ...]], speeds: Speeds = SPEEDS) -> list[str]:
    points = []
    for prompt in prompts:
        choice = bandit.choose([Request(prompt, 10)], lambda: Load(speeds, (), (), 4, 100))
        points.append(choice.point)
        if choice.learn is not None:
            choice.learn(prompt, (1, 2, 3))
    return points


def begun(world: World, **settings: float) -> Bandit:
    bandit = Bandit(OFFERS, **settings)  # type: ignore[arg-type]
    bandit.begin(world)  # type: ignore[arg-type]
    return bandit


def test_it_learns_which_point_costs_least_for_which_prompt(tmp_path: Path) -> None:
    bandit = begun(World(tmp_path), worth=0.5, share=0.3)
    served(bandit, [EASY, HARD] * 200)
    first = bandit.figures()
    late = served(bandit, [EASY, HARD] * 200)
    easy, hard = Counter(late[::2]), Counter(late[1::2])
    assert easy["small"] > 190  # 0.4 of the time and 0.05 / 0.5
    assert hard["mid"] + hard["dense"] > 190  # the small one would cost 0.4 + 1.8
    both = bandit.figures()
    assert both["explored"] == pytest.approx(0.3 * 800, rel=0.2)
    assert both["regret"] - first["regret"] < 0.5 * first["regret"]  # it has less and less to learn


def test_without_a_share_it_stays_with_the_front(tmp_path: Path) -> None:
    bandit = begun(World(tmp_path), share=0.0)
    assert {*served(bandit, [EASY, HARD] * 50)} == {"mid"}  # 0.8 + 0.1; the small one costs 0.4 + 0.8 by the front
    assert bandit.figures() == {"explored": 0, "compared": 0, "regret": 0.0}


def test_a_seed_explores_the_same(tmp_path: Path) -> None:
    first, same, other = (
        served(begun(World(tmp_path / str(at)), share=1.0, seed=seed), [EASY, HARD] * 20)
        for at, seed in enumerate((1, 1, 2))
    )
    assert first == same != other


def test_only_measured_points_are_weighed_and_few_answers_wait(tmp_path: Path) -> None:
    world = World(tmp_path)
    assert {*served(begun(world, share=1.0), [EASY] * 9, Speeds())} == {"dense"}
    assert begun(world).choose([Request(EASY, 1)], lambda: Load(Speeds(), (), (), 4, 100)).point == "dense"
    world.held = []
    bandit = begun(world, share=1.0)
    points = served(bandit, [EASY] * 60)
    assert len(points) - points.count("dense") > len(world.held) == COMPARING
    for tell in world.held:
        tell()  # that they could not be had
    assert bandit.figures()["compared"] == 0
    world.held = None
    served(bandit, [EASY] * 9)
    assert bandit.figures()["compared"] > 0


def test_the_next_server_knows_what_this_one_has_learned(tmp_path: Path) -> None:
    served(begun(World(tmp_path), worth=0.5, share=0.3), [EASY, HARD] * 200)
    points = served(begun(World(tmp_path), worth=0.5, share=0.0), [EASY, HARD] * 2)
    assert points[::2] == ["small"] * 2
    assert "small" not in points[1::2]
    others = World(tmp_path)
    others.smallest = "mid"  # whose looks are others
    assert {*served(begun(others, share=0.0), [EASY])} == {"mid"}
    losses = Bandit((OFFERS[0], Offer("small", (), 0.1, {})), share=0.0)  # points of another run may have the same id
    losses.begin(World(tmp_path))  # type: ignore[arg-type]
    assert served(losses, [HARD]) == ["small"]
    (tmp_path / "bandit.json").write_text("[]")
    with pytest.raises(UserError, match=r"controller=bandit has learned, got: TypeError.*Delete it"):
        begun(World(tmp_path))


def test_a_belief_comes_to_what_it_is_told() -> None:
    belief, row, generator = Belief(0.2), Look(0.3, 0.4, 0.5, 0.6).row, np.random.default_rng(0)
    assert belief.loss(belief.mean, row) == pytest.approx(0.2)
    spread = np.std([belief.loss(belief.drawn(generator), row) for _ in range(200)])
    for _ in range(200):
        belief.learn(row, 0.05)
    assert belief.loss(belief.mean, row) == pytest.approx(0.05, abs=0.01)
    assert np.std([belief.loss(belief.drawn(generator), row) for _ in range(200)]) < 0.2 * spread


@pytest.mark.parametrize(
    ("wrong", "words"), [({"worth": 0.0}, "worth"), ({"share": 2.0}, "share"), ({"seed": -1}, "seed")]
)
def test_what_cannot_be_is_refused(wrong: dict[str, float], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"controller\.{words}"):
        begun(World(tmp_path), **wrong)
