"""The refit is the least-squares solution, and the orders find what may go."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from space.models.architectures import architecture_of
from space.models.stack import layers_of
from space.supernet.calibration import gather
from space.supernet.compensation import chosen_map, dropped_map, factor, lost_energy, maps, refits
from space.supernet.importance import ORDERS, attention_order, damped, mlp_order, obs_order
from space.supernet.placement import Placement


def correlated(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Inputs with correlated columns of unequal size, float64, shape (rows, columns)."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator, dtype=torch.float64)
    scale = torch.linspace(0.2, 3, columns, dtype=torch.float64)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64) @ (mix / columns**0.5) * scale


def refit(weight: torch.Tensor, lower: torch.Tensor, kept: int, together: int = 5) -> torch.Tensor:
    """One level, from maps of so many columns together."""
    return dict(refits(weight, reversed(maps(lower, together, torch.float64)), [kept]))[kept]


@pytest.mark.parametrize("kept", [1, 7, 10, 23, 24])
@pytest.mark.parametrize("damping", [0.001, 0.05])
@pytest.mark.parametrize("together", [5, 24, 100])
def test_refit_is_least_squares(kept: int, damping: float, together: int) -> None:
    inputs = correlated(400, 24)
    weight = torch.randn(10, 24, generator=torch.Generator().manual_seed(1))
    gram = damped(inputs.T @ inputs, damping, torch.float64)
    ridge = (gram - inputs.T @ inputs).diagonal().sqrt().diag()
    # ridge regression as ordinary least squares on extra rows that pull the kept weights towards the dense ones
    design = torch.cat([inputs[:, :kept], ridge[:, :kept]]).numpy()
    target = torch.cat([inputs, ridge]) @ weight.double().T
    expected = np.linalg.lstsq(design, target.numpy(), rcond=None)[0].T
    fitted = refit(weight, factor(gram), kept, together)
    torch.testing.assert_close(fitted.double().numpy(), expected, atol=2e-5, rtol=1e-4)
    assert fitted.dtype == weight.dtype
    assert fitted.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_level_does_not_depend_on_those_that_are_solved_with_it(dtype: torch.dtype) -> None:
    inputs = correlated(400, 24)
    weight = torch.randn(10, 24, generator=torch.Generator().manual_seed(1)).to(dtype)
    lower = factor(damped(inputs.T @ inputs, 0.01))
    blocks = maps(lower, 7, torch.float32)
    together = dict(refits(weight, reversed(blocks), range(1, 25)))
    assert list(together) == [*range(24, 0, -1)]
    for kept, level in together.items():
        assert torch.equal(level, dict(refits(weight, reversed(blocks), [kept]))[kept])
    assert torch.equal(together[24], weight)


@pytest.mark.parametrize("kept", [1, 7, 10, 23])
def test_maps_say_how_dropped_columns_follow_from_kept_ones(kept: int) -> None:
    inputs = correlated(400, 24)
    gram = damped(inputs.T @ inputs, 0.01, torch.float64)
    lower, order = factor(gram), torch.randperm(24, generator=torch.Generator().manual_seed(4))
    blocks = [block.double() for block in maps(lower, 5, torch.float64)]
    for solved, columns in (
        (dropped_map(blocks, kept), torch.arange(24)),
        (chosen_map(lower.double(), torch.arange(kept), torch.arange(kept, 24)), torch.arange(24)),
        (chosen_map(lower.double(), order[:kept], order[kept:]), order),
    ):
        first, rest = columns[:kept], columns[kept:]
        expected = gram[rest][:, first] @ gram[first][:, first].inverse()
        torch.testing.assert_close(solved, expected, atol=1e-5, rtol=1e-4)


def test_lost_energy_is_the_error_of_every_refit() -> None:
    inputs = correlated(300, 12)
    weight = torch.randn(6, 12, generator=torch.Generator().manual_seed(2)).double()
    gram = inputs.T @ inputs
    lower = factor(gram)
    output = weight @ inputs.T
    lost = lost_energy(weight, lower)
    assert lost.shape == (13,)
    assert (lost[0], lost[-1]) == (pytest.approx(1.0), 0.0)
    for kept in range(1, 12):
        error = output - refit(weight, lower, kept) @ inputs[:, :kept].T
        assert lost[kept].item() == pytest.approx((error.square().sum() / output.square().sum()).item(), rel=1e-3)


def test_obs_one_at_a_time_is_the_exact_greedy_order() -> None:
    inputs, weight = correlated(200, 9), torch.randn(5, 9, generator=torch.Generator().manual_seed(3)).double()
    gram = inputs.T @ inputs

    def loss(kept: list[int]) -> float:
        fitted = np.linalg.lstsq(inputs[:, kept].numpy(), (inputs @ weight.T).numpy(), rcond=None)[0]
        return float(np.square((inputs @ weight.T).numpy() - inputs[:, kept].numpy() @ fitted).sum())

    kept, removed = list(range(9)), []
    while len(kept) > 1:
        worst = min(kept, key=lambda unit: loss([k for k in kept if k != unit]))
        kept.remove(worst)
        removed.append(worst)
    order = obs_order(gram, weight, torch.arange(9)[:, None], 1)
    assert order.flip(0).tolist()[:-1] == removed


@pytest.mark.parametrize("rule", ORDERS)
def test_a_useless_unit_is_last(rule: str) -> None:
    inputs, weight = correlated(300, 12), torch.randn(6, 12, generator=torch.Generator().manual_seed(5))
    weight[:, 4] = 0
    weight[:, 6:8] = 0  # head 3 of 2 columns, of group 1
    gram = damped(inputs.T @ inputs, 0.01)
    assert 4 in mlp_order(gram, weight, ORDERS[rule], 12)[-3:].tolist()
    order = attention_order(gram, weight, 3, 2, ORDERS[rule])
    assert sorted(order.groups.tolist()) == [0, 1, 2]
    assert order.heads[1].tolist() == [0, 1] if rule != "obs" else order.heads.shape == (3, 2)
    assert order.heads.sort(1).values.tolist() == [[0, 1]] * 3


def test_a_duplicate_channel_goes_before_a_unique_one() -> None:
    inputs = correlated(300, 8)
    inputs[:, 5] = inputs[:, 2]
    weight = torch.ones(4, 8)
    order = mlp_order(damped(inputs.T @ inputs, 1e-6), weight, obs_order, 8).tolist()
    assert order[-1] in (2, 5)


def test_calibration_equals_grams_of_one_whole_pass(family: str) -> None:
    from conftest import random_tokens, tiny_model

    model, _ = tiny_model(family)
    tokens = random_tokens(6, 16)
    inputs: dict[str, torch.Tensor] = {}
    for index, layer in enumerate(layers_of(model)):
        for kind, layout in architecture_of(family).blocks.items():
            key = f"{kind}{index}"
            if layout.output:
                output = getattr(getattr(layer, layout.module), layout.output)
                output.register_forward_pre_hook(lambda m, x, key=key: inputs.__setitem__(key, x[0].flatten(0, 1)))
    with torch.no_grad():
        model(tokens)
    whole = {key: rows.T @ rows / tokens.numel() for key, rows in inputs.items()}
    for found in gather(model, tokens, forward_dtype=torch.float32, place=Placement(torch.device("cpu")), batch_size=4):
        for kind, gram in found.grams.items():
            torch.testing.assert_close(gram, whole.pop(f"{kind}{found.index}"), atol=1e-4, rtol=1e-4)
        assert 0 < found.influence < 2
    assert not whole
