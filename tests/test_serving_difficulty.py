"""What points lose on a prompt: looks by hand, a fit that finds a law, the one of a run, and whom it makes answer."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_run import CHARACTERS
from helpers_serving import Points, make_points, running
from torch.nn import functional

import serving.fitting
from evaluators.data.splits import TokenSplits
from serving.controllers import Offer, smallest_of
from serving.demand import Expected
from serving.difficulty import Fit, Look, LossModel
from serving.fitting import fitted_losses, losses_of
from serving.load import Load
from serving.requests import Request, Slo
from serving.senses import LOOK_TOKENS, Senses, first_look
from serving.speeds import Speeds
from serving.timed import COMERS, Difficulty
from space.errors import UserError

OFFERS = (
    Offer("dense", (), 0.0, {}),
    Offer("s1", ("recommended",), 0.1, {}),
    Offer("s2", ("smallest",), 0.5, {}),
    Offer("s3", ("fastest",), 0.6, {}),
)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Points:
    return make_points(tmp_path_factory.mktemp("points"))


def test_a_look_by_hand(points: Points) -> None:
    model = points.models["cut"]
    prompt = torch.randint(len(CHARACTERS), (200,), generator=torch.Generator().manual_seed(3)).tolist()
    look, ids = first_look(model, prompt), torch.tensor([prompt[-LOOK_TOKENS:]])
    with torch.inference_mode():
        logits = model(ids).logits[0]
    largest = math.log(logits.shape[-1])
    entropy = torch.distributions.Categorical(logits=logits).entropy() / largest
    surprise = functional.cross_entropy(logits[:-1], ids[0, 1:]) / largest
    assert look.length == math.log2(200) / 16
    assert look.entropy == pytest.approx(float(entropy.mean()), rel=1e-4)
    assert look.last_entropy == pytest.approx(float(entropy[-1]), rel=1e-4)
    assert look.surprise == pytest.approx(float(surprise), rel=1e-4)
    alone = first_look(model, [5])
    assert alone.entropy == alone.last_entropy == alone.surprise


def test_losses_are_divergences_behind_the_prompt(points: Points) -> None:
    prompt, answer = [1, 2, 3, 4, 5], [6, 7, 8]
    with torch.inference_mode():
        dense, cut = (
            points.models[point](torch.tensor([[*prompt, *answer]])).logits[0, 4:7] for point in ("dense", "cut")
        )
    expected = functional.kl_div(cut.log_softmax(-1), dense.log_softmax(-1), log_target=True, reduction="batchmean")
    assert losses_of(points.models, prompt, answer) == {"cut": pytest.approx(float(expected), rel=1e-4)}


def test_a_fit_finds_a_law_and_says_how_well_it_holds() -> None:
    generator = np.random.default_rng(0)
    looks = [Look(*generator.random(4)) for _ in range(400)]
    law = [math.exp(-2 + 3 * look.entropy - look.surprise) for look in looks]
    noisy = [loss * math.exp(0.1 * generator.standard_normal()) for loss in law]
    luck = [*generator.random(400)]
    losses = {"law": noisy, "luck": luck}
    model = LossModel.fitted(looks[:300], {point: values[:300] for point, values in losses.items()})
    fit = model.checked(looks[300:], {point: values[300:] for point, values in losses.items()})
    assert fit.r2["law"] > 0.9
    assert fit.rank["law"] > 0.9
    assert abs(fit.rank["luck"]) < 0.3
    assert fit.r2["luck"] < 0.1
    assert model.losses(looks[0])["law"] == pytest.approx(law[0], rel=0.2)
    assert np.mean([model.losses(look)["luck"] for look in looks[:300]]) == pytest.approx(np.mean(luck[:300]))
    assert LossModel(**json.loads(json.dumps(model.to_json()))).losses(looks[0]) == model.losses(looks[0])
    assert "means of 2 points" in fit.remark()


def test_the_fit_of_a_run_is_made_once(points: Points, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.fitting, "PROMPT", 24)
    monkeypatch.setattr(serving.fitting, "ANSWER", 6)
    tokens = torch.randint(len(CHARACTERS), (4000,), generator=torch.Generator().manual_seed(1))
    shown: list[tuple[int, int]] = []

    def fitted(text: TokenSplits | None, digest: str = "d") -> tuple[LossModel, Fit]:
        def read() -> TokenSplits:
            assert text is not None, "it is read again"
            return text

        return fitted_losses(points.models, "cut", read, digest, tmp_path, lambda done, of: shown.append((done, of)))

    first = fitted(TokenSplits({"text": tokens}))
    windows = 2 * (4000 * 2 // 10 // 30)
    assert shown[-1] == (windows, windows)
    assert {*first[0].weights} == {*first[1].r2} == {"cut"}
    assert fitted(None)[0].losses(Look(0.1, 0.5, 0.5, 0.5)) == first[0].losses(Look(0.1, 0.5, 0.5, 0.5))
    with pytest.raises(UserError, match="expected at least 8 windows of 30 tokens of the run's search text"):
        fitted(TokenSplits({"text": tokens[:200]}), "other")
    (file,) = tmp_path.iterdir()
    file.write_text("{}")
    with pytest.raises(UserError, match=r"to be a prediction of losses, got: KeyError.*Delete it"):
        fitted(None)


class Known:
    """Senses of which the answers are known."""

    def __init__(self, **losses: float) -> None:
        self._losses = losses

    def fit(self) -> tuple[Any, Fit]:
        return self, Fit({"s1": 0.5, "s2": 0.3}, {"s1": 0.8, "s2": 0.6})

    def look(self, prompt: Any) -> Look:
        return Look(0.1, 0.5, 0.5, 0.5)

    def losses(self, look: Look) -> dict[str, float]:
        return self._losses


def test_the_fastest_point_within_the_loss_answers() -> None:
    def chosen(speeds: Speeds, loss: float, **losses: float) -> tuple[str, float | None]:
        controller = Difficulty(OFFERS, loss)
        controller.begin(Known(**losses))  # type: ignore[arg-type]
        choice = controller.choose([Request((1, 2), 10)], lambda: Load(speeds, (), (), 4, 100))
        return choice.point, choice.loss

    speeds = Speeds()
    assert chosen(speeds, 0.3, s1=0.1, s2=0.2, s3=0.9) == ("s2", 0.2)  # by the front, before any is measured
    for point, step in (("dense", 10.0), ("s1", 3.0), ("s2", 6.0), ("s3", 1.0)):
        speeds.read(point, 1, 1.0)
        speeds.stepped(point, 1, step)
    assert chosen(speeds, 0.3, s1=0.1, s2=0.2, s3=0.9) == ("s1", 0.1)
    assert chosen(speeds, 0.3, s1=0.4, s2=0.2, s3=0.9) == ("s2", 0.2)
    assert chosen(speeds, 0.3, s1=0.4, s2=0.5, s3=0.9) == ("dense", 0.0)
    assert chosen(speeds, 1.0, s1=0.4, s2=0.5, s3=0.9) == ("s3", 0.9)
    controller = Difficulty(OFFERS)
    controller.begin(Known())  # type: ignore[arg-type]
    assert controller.figures() == pytest.approx({"r2": 0.4, "rank_correlation": 0.7})
    assert (smallest_of(OFFERS), smallest_of(OFFERS[:2])) == ("s2", "s1")


def test_limits_of_time_come_before_the_loss() -> None:
    speeds = Speeds()
    for point, read in (("dense", 10.0), ("s1", 6.0), ("s2", 3.0), ("s3", 2.0)):
        speeds.read(point, 1, read)
        speeds.stepped(point, 1, 1.0)

    def chosen(limit: float, loss: float, rate: float = 0.0, **losses: float) -> tuple[str, float | None]:
        controller = Difficulty(OFFERS, loss, margin=0.0)
        controller.begin(Known(**losses))  # type: ignore[arg-type]
        now = Load(speeds, (), (), 4, 1000, Expected(rate, prompt=100.0, new_tokens=1.0))
        choice = controller.choose([Request((1,) * 100, 1, slo=Slo(limit))], lambda: now)
        return choice.point, choice.loss

    easy, hard = {"s1": 0.1, "s2": 0.2, "s3": 0.9}, {"s1": 0.4, "s2": 0.5, "s3": 0.9}
    assert chosen(1000.0, 0.3, **easy) == ("s2", 0.2)  # the fastest within the loss
    assert chosen(1000.0, 0.3, **hard) == ("dense", 0.0)
    assert chosen(999.0, 0.3, **hard) == ("s1", 0.4)  # none within it is in time: the best that is
    assert chosen(250.0, 0.3, **easy) == ("s3", 0.9)
    assert chosen(1.0, 0.3, **hard) == ("s3", 0.9)  # the fastest, where none is in time
    last = Expected(4.0).times_ms(COMERS, 0.99)[-1]  # whom the fastest point answers in 200 ms
    assert chosen(1000.0 + 200.0 * COMERS - last - 1.0, 0.3, 4.0, **hard) == ("s1", 0.4)  # it is to have time too
    assert chosen(1000.0 + 200.0 * COMERS - last - 1.0, 0.3, 4.0, **easy) == ("s2", 0.2)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match=r"controller\.loss: expected nats a token above 0, got 0"):
        Difficulty(OFFERS, 0.0)
    with pytest.raises(UserError, match="expected points beside the dense model"):
        Difficulty(OFFERS[:1])


def test_answers_are_compared_with_the_dense_model(points: Points, tmp_path: Path) -> None:
    prompt, answer = [1, 2, 3, 4, 5], [6, 7, 8]
    told: list[float | None] = []
    with running(points) as scheduler:
        senses = Senses(points.models, "cut", scheduler, lambda: pytest.fail("nothing is to be fitted"), tmp_path)
        assert senses.look(prompt) == first_look(points.models["cut"], prompt)
        senses.compare("cut", prompt, answer, told.append)
        senses.compare("none", prompt, answer, told.append)
        while len(told) < 2:
            scheduler.call(lambda: None).result(60)
    assert told == [pytest.approx(losses_of(points.models, prompt, answer)["cut"], rel=1e-4), None]
