"""The power law of a training loss: it finds one that is there, says how far it is off, and refuses where none is."""

from __future__ import annotations

import numpy as np
import pytest

from evaluators.training.power_law import FitError, fit_power_law

STEP = 1024.0


def curve(steps: int, limit: float, scale: float, exponent: float, noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    tokens = STEP * np.arange(1, steps + 1)
    losses = limit + scale * tokens**-exponent
    return tokens, losses * (1 + noise * np.random.default_rng(0).standard_normal(steps))


@pytest.mark.parametrize(("limit", "scale", "exponent"), [(0.3, 40, 0.5), (0.0, 5.0, 0.2), (0.1, 1e4, 1.0)])
def test_it_foretells_a_law_that_is_there(limit: float, scale: float, exponent: float) -> None:
    law = fit_power_law(*curve(200, limit, scale, exponent))
    later = 2000 * STEP
    assert law.loss(later) == pytest.approx(limit + scale * later**-exponent, rel=0.01)
    assert law.error < 0.002


def test_noise_of_single_steps_moves_it_little() -> None:
    law = fit_power_law(*curve(300, 0.3, 40, 0.5, noise=0.15))
    later = 3000 * STEP
    assert law.loss(later) == pytest.approx(0.3 + 40 * later**-0.5, rel=0.15)
    assert 0 < law.error < 0.05


def test_a_start_that_is_flat_does_not_count() -> None:
    tokens, losses = curve(200, 0.3, 40, 0.5)
    losses[:10] = losses[0]
    assert fit_power_law(tokens, losses).loss(2000 * STEP) == pytest.approx(0.3 + 40 * (2000 * STEP) ** -0.5, rel=0.01)


def test_it_says_how_far_a_loss_has_left_the_law() -> None:
    tokens, losses = curve(300, 0.3, 40, 0.5)
    losses[tokens > tokens[-1] * 2 / 3] *= 0.95  # as a learning rate that falls to nothing makes it
    assert fit_power_law(tokens, losses).error == pytest.approx(1 / 0.95 - 1, rel=0.1)


def test_it_says_where_a_loss_has_ended() -> None:
    tokens, losses = curve(200, 0.4, 1e4, 1.0)
    losses[185:] *= 0.8
    law = fit_power_law(tokens, losses)
    assert law.end == pytest.approx((0.4 * 0.8 * 15 + 0.4 * 5) / 20, rel=0.2)
    assert law.end < law.loss(tokens[-1])


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (curve(20, 0.3, 40, 0.5), "fewer than 30"),
        ((np.zeros(0), np.zeros(0)), "has 0 points"),
        ((curve(99, 0, 1, 0)[0], np.linspace(1, 2, 99)), "does not fall"),
        ((curve(99, 0, 1, 0)[0], np.r_[np.full(60, 1.0), np.full(39, 0.5)] - np.arange(99) * 1e-4), "off on the last"),
        ((curve(99, 0, 1, 0)[0], np.full(99, np.nan)), "not finite"),
    ],
)
def test_where_there_is_no_law_it_says_so(made: tuple[np.ndarray, np.ndarray], words: str) -> None:
    with pytest.raises(FitError, match=words):
        fit_power_law(*made)
