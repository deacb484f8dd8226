"""Least-squares refit of an output projection to the columns that a subnet keeps, from one factor a layer.

With the damped Gram matrix H = XᵀX + λI of the projection's input, columns in order of importance, the best weights on
the kept columns K (argmin over W_K of ‖WX − W_K X_K‖² + λ‖W_K − W[:, K]‖² + const) are (W H)[:, K] · H[K, K]⁻¹, the
closed form behind ZipLM, DarwinLM and Týr. K is a prefix, and the Cholesky factor of a leading block is the leading
block of the Cholesky factor, so that one factor L holds every level, and a refit is one triangular solve:

    W_K = W[:, :k] + W[:, k:] · L[k:, :k] · L[:k, :k]⁻¹.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TOGETHER = 1024  # columns of a factor that are multiplied at once


def factor(gram: Tensor) -> Tensor:
    """Cholesky factor of a damped Gram matrix, float32, shape (columns, columns).

    Float32 moves a refit by some 1e-6 of itself, a thousandth of what rounding to 16 bits does; a matrix that has no
    factor in it is tried in float64.

    Raises:
        torch.linalg.LinAlgError: It is not positive definite.
    """
    lower, failed = torch.linalg.cholesky_ex(gram.float())
    return torch.linalg.cholesky(gram.double()).float() if failed else lower


def reordered(lower: Tensor, columns: Tensor) -> Tensor:
    """The Cholesky factor of a Gram matrix with its columns in another order, from the one that there is.

    Args:
        lower: Lower Cholesky factor, shape (columns, columns).
        columns: Places of the old columns in their new order.
    """
    if torch.equal(columns, torch.arange(len(columns), device=columns.device)):
        return lower
    rows = lower[columns]
    return factor(rows @ rows.T)


def refit(weight: Tensor, factor: Tensor, kept: int) -> Tensor:
    """The output projection that fits the first `kept` columns.

    Args:
        weight: Dense weight with its columns in the factor's order, shape (hidden, columns).
        factor: Lower Cholesky factor, its first `kept` columns at least, shape (columns, kept or more).
        kept: Columns kept, from 1 to all.

    Returns:
        New weight of `weight`'s dtype, shape (hidden, kept).
    """
    if kept == weight.shape[1]:
        return weight.clone()
    exact = solving_dtype(weight.dtype)
    lower = factor[:kept, :kept].to(exact)
    lost = weight[:, kept:].to(exact) @ factor[kept:, :kept].to(exact)  # (hidden, kept)
    correction = torch.linalg.solve_triangular(lower, lost, upper=False, left=False)
    return correction.add_(weight[:, :kept]).to(weight.dtype)


def solving_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a refit is solved in, to be right to the last bits of `dtype`.

    Float32 solves with a damped factor to some 1e-6, a thousandth of what rounding to 16 bits costs.
    """
    return torch.float64 if dtype in (torch.float32, torch.float64) else torch.float32


def lost_energy(weight: Tensor, factor: Tensor) -> Tensor:
    """What every prefix of the columns loses of the projection's output after its refit.

    The error of the refit to the first k columns is ‖W_R L_RR‖² with R the columns from k on; as L is lower triangular,
    that is the sum of ‖(W L)_j‖² over the columns j of R, one product for all k, without most of L's zeros.

    Args:
        weight: Dense weight with its columns in the factor's order, shape (hidden, columns).
        factor: Lower Cholesky factor, shape (columns, columns).

    Returns:
        Fractions of the (damped) output energy, shape (columns + 1,): 1 for no column, 0 for all.
    """
    wide, starts = weight.float(), range(0, len(factor), _TOGETHER)
    parts = [wide[:, start:] @ factor[start:, start : start + _TOGETHER] for start in starts]
    energy = torch.cat([part.double().square().sum(0) for part in parts])
    lost = energy.flip(0).cumsum(0).flip(0) / energy.sum().clamp_min(torch.finfo(torch.float64).tiny)
    return torch.cat([lost, lost.new_zeros(1)])
