"""A correction brings the subnet's residual stream nearer to the dense one, and is used wherever the refit was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import MIXTURES, UNLIKE, each_kind, fitting, random_tokens

from space.candidate import Candidate
from space.errors import UserError
from space.models.architectures import ARCHITECTURES
from space.models.stack import layers_of, norm_of
from space.supernet.correction import Correction
from space.supernet.corrective_refit import correct
from space.supernet.corrective_step import Moments, corrective_step, ridge
from space.supernet.supernet import Supernet
from space.supernet.units import output_weight, split_rows, upright

MakeSupernet = Callable[..., Supernet]
DENSE = (6, 3, 48)
ROWS = {
    "no attention in layer 0": [(0, 0, 48), DENSE, DENSE, DENSE],
    "dense blocks in between": [DENSE, (6, 3, 16), DENSE, (4, 2, 48)],
    "layers gone": [(4, 2, 24), (0, 0, 0), (0, 0, 0), DENSE],
    "everything": [(0, 0, 24), (4, 2, 0), (3, 3, 16), (2, 2, 24)],
}
TOKENS = random_tokens(64, 24, seed=5)


@pytest.fixture(params=ROWS)
def candidate(request: pytest.FixtureRequest) -> Candidate:
    used = (name for name in ("family", "unlike_family") if name in request.fixturenames)
    return fitting(next(map(request.getfixturevalue, used), "llama"), ROWS[request.param])


def stream(model: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """The residual stream after the last layer, float64, shape (tokens, hidden)."""
    seen: list[torch.Tensor] = []
    handle = norm_of(model).register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        model(tokens, use_cache=False)
    handle.remove()
    return seen[0].flatten(0, 1).double()


def errors(supernet: Supernet, correction: Correction, tokens: torch.Tensor) -> tuple[float, float]:
    """Mean squared distance from the dense stream with the refit, and with the correction."""
    dense, found = stream(supernet.model, tokens), []
    for choice in (None, correction):
        model = supernet.view(correction.candidate, choice)
        found.append((stream(model, tokens) - dense).square().mean().item())
    return found[0], found[1]


@pytest.mark.parametrize(("family", "candidate"), each_kind(ROWS), indirect=["candidate"])
def test_the_stream_comes_nearer_to_the_dense_one(
    family: str, candidate: Candidate, make_supernet: MakeSupernet
) -> None:
    supernet = make_supernet(family)
    (correction,) = correct(supernet, [candidate], TOKENS)
    before, after = errors(supernet, correction, TOKENS)
    assert after < before
    before, after = errors(supernet, correction, random_tokens(64, 24, seed=6))
    assert after < before, "on text that the correction has not seen"


def test_what_is_kept_behind_the_first_cut_is_corrected(candidate: Candidate, make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    (correction,) = correct(supernet, [candidate], TOKENS)
    cut = False
    rows = [shape.row for shape in candidate.layers]
    for weights, (queries, _, channels), full in zip(correction.weights, rows, [DENSE] * 4, strict=True):
        for name, kept, dense, width in (("attention", queries, full[0], 6), ("mlp", channels, full[2], 1)):
            cut = cut or kept != dense
            assert (name in weights) == (cut and kept > 0)
            if name in weights:
                assert weights[name].shape == (36, kept * width)


def test_the_dense_model_is_left_alone(unlike_family: str, make_supernet: MakeSupernet) -> None:
    supernet = make_supernet(unlike_family)
    (correction,) = correct(supernet, [Candidate.dense(supernet.spec)], TOKENS)
    assert all(not weights for weights in correction.weights)


@pytest.mark.parametrize("unlike_family", [name for name in UNLIKE if name not in MIXTURES])
def test_a_dense_block_without_drift_keeps_its_weight(unlike_family: str, make_supernet: MakeSupernet) -> None:
    """An MLP of all channels but one that does nothing: there is a cut, and yet nothing to make up for."""
    supernet = make_supernet(unlike_family)
    layout = ARCHITECTURES[unlike_family].mlp
    mlp = getattr(layers_of(supernet.model)[0], layout.module)
    for projection in layout.inputs:
        for parameter in getattr(mlp, projection.name).parameters():
            for rows in split_rows(supernet.spec, projection, upright(layout, parameter)).values():
                rows[-1] = 0
    output_weight(mlp, layout)[:, -1] = 0
    candidate = fitting(unlike_family, [(6, 3, 47), DENSE, DENSE, DENSE])
    (correction,) = correct(supernet, [candidate], TOKENS)
    model = supernet.view(candidate)
    for layer, weights in zip(layers_of(model), correction.weights, strict=True):
        kept = output_weight(getattr(layer, layout.module), layout)
        torch.testing.assert_close(weights["mlp"], kept, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("penalty", [0.0, 3.0])
def test_ridge_is_least_squares(penalty: float) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, residuals = torch.randn(90, 7, generator=generator), torch.randn(90, 5, generator=generator)
    moments = Moments.zeros_for(torch.zeros(5, 7))
    for part in (slice(0, 40), slice(40, 90)):
        moments.add(inputs[part], residuals[part], torch.float32)
    design = np.concatenate([inputs.numpy(), penalty**0.5 * np.eye(7)])
    target = np.concatenate([residuals.numpy(), np.zeros((7, 5))])
    expected = np.linalg.lstsq(design, target, rcond=None)[0].T
    np.testing.assert_allclose(ridge(moments, penalty).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["attention", "mlp"])
def test_one_block_moves_along_the_least_squares_solution(kind: str, make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("llama")
    block, name = ("self_attn", "o_proj") if kind == "attention" else ("mlp", "down_proj")
    candidate = Candidate.from_rows([DENSE, DENSE, DENSE, (4, 2, 48) if kind == "attention" else (6, 3, 32)])
    (correction,) = correct(supernet, [candidate], TOKENS, damping=0.1)
    seen: list[torch.Tensor] = []

    def after_block(model: torch.nn.Module) -> torch.Tensor:
        projection = getattr(getattr(model.model.layers[3], block), name)
        handle = projection.register_forward_hook(lambda module, inputs, output: seen.extend((inputs[0], output)))
        stream(model, TOKENS)
        handle.remove()
        return projection.weight

    after_block(supernet.model)
    model = supernet.view(candidate)
    refit = after_block(model)
    wanted, inputs, output = (rows.flatten(0, 1).double().numpy() for rows in seen[1:])
    penalty = 0.1 * np.square(inputs).sum(0).mean()
    columns = inputs.shape[1]
    design = np.concatenate([inputs, penalty**0.5 * np.eye(columns)])
    solution = np.linalg.lstsq(design, np.concatenate([wanted - output, np.zeros((columns, 36))]), rcond=None)[0].T
    moved = (correction.weights[3][kind] - refit).double().numpy()
    length = (moved * solution).sum() / np.square(solution).sum()
    assert 0.5 < length < 1 + 1e-5
    np.testing.assert_allclose(moved, length * solution, atol=1e-4)


def test_a_step_on_noise_is_short_and_on_signal_is_whole() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, slope = torch.randn(2, 200, 20, generator=generator), torch.randn(8, 20, generator=generator)
    noise = torch.randn(2, 200, 8, generator=generator)

    def length(residuals: torch.Tensor) -> float:
        halves = Moments.zeros_for(slope), Moments.zeros_for(slope)
        for half, rows, left in zip(halves, inputs, residuals, strict=True):
            half.add(rows, left, torch.float32)
        step = corrective_step(halves, 0.001)
        return step.length

    assert length(inputs @ slope.T) > 0.99
    assert length(noise) < 0.2
    assert length(torch.zeros_like(noise)) == 0


def test_candidates_together_are_candidates_alone(unlike_family: str, make_supernet: MakeSupernet) -> None:
    supernet = make_supernet(unlike_family)
    candidates = [fitting(unlike_family, rows) for rows in ROWS.values()]
    done: list[int] = []
    together = correct(supernet, candidates, TOKENS, on_layer=done.append)
    assert done == [0, 1, 2, 3]
    for candidate, correction in zip(candidates, together, strict=True):
        (alone,) = correct(supernet, [candidate], TOKENS)
        assert correction.candidate == candidate
        for first, second in zip(correction.weights, alone.weights, strict=True):
            assert first.keys() == second.keys()
            assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("candidate", "dtype"),
    [*((name, torch.float32) for name in ROWS), ("everything", torch.bfloat16)],
    indirect=["candidate"],
)
def test_a_corrected_view_changes_nothing_else(
    unlike_family: str, candidate: Candidate, dtype: torch.dtype, make_supernet: MakeSupernet
) -> None:
    supernet = make_supernet(unlike_family, dtype)
    dense = stream(supernet.model, TOKENS)
    (correction,) = correct(supernet, [candidate], TOKENS)
    assert torch.equal(stream(supernet.model, TOKENS), dense)
    model = supernet.view(candidate)
    refit = stream(model, TOKENS)
    model = supernet.view(candidate, correction)
    active = stream(model, TOKENS)
    assert torch.equal(stream(supernet.model, TOKENS), dense)
    assert not torch.allclose(active, refit, atol=1e-2)
    assert torch.equal(active, stream(supernet.view(candidate, correction, own=True), TOKENS))
    model = supernet.view(candidate)
    assert torch.equal(stream(model, TOKENS), refit), "the refits were changed"


def test_mistakes_are_refused(make_supernet: MakeSupernet) -> None:
    supernet = make_supernet("qwen2")
    candidate = Candidate.from_rows(ROWS["everything"])
    (correction,) = correct(supernet, [candidate], TOKENS)
    with pytest.raises(ValueError, match="expected a correction of"):
        supernet.view(Candidate.dense(supernet.spec), correction)
    misfit = Correction(candidate, ({"attention": torch.zeros(36, 6)}, {}, {}, {}))
    with pytest.raises(ValueError, match="layer 0: expected o_proj"):
        supernet.view(candidate, misfit)
    with pytest.raises(ValueError, match="weights of 4 layers, got 1"):
        Correction(candidate, ({},))
    with pytest.raises(UserError, match="at least 2 windows"):
        correct(supernet, [candidate], TOKENS[:1])
    with pytest.raises(UserError, match="damping above 0"):
        correct(supernet, [candidate], TOKENS, damping=0.0)
