"""Least-squares refit of an output projection to the columns that a subnet keeps, from one matrix a layer.

With the damped Gram matrix H = XᵀX + λI of the projection's input, columns in order of importance, the best weights on
the kept columns K (argmin over W_K of ‖WX − W_K X_K‖² + λ‖W_K − W[:, K]‖² + const) are (W H)[:, K] · H[K, K]⁻¹, the
closed form behind ZipLM, DarwinLM and Týr. With R for the columns that are dropped, that is

    W_K = W[:, K] + W[:, R] · T,    T = H[R, K] · H[K, K]⁻¹,

where the map T, (dropped, kept), says how dropped columns follow from kept ones.

Where K is a prefix, columns may be dropped one block after the other, the last one first, each with the map from it to
all columns before it: what is left after each block is a level, and all levels together take the products of one. These
maps are what is stored, a row of blocks each, from the Cholesky factor H = L Lᵀ: T_j = L[j, :s] · L[:s, :s]⁻¹ for block
j that begins at column s. Behind it stands L[j, j], from which a block is cut at any of its columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

_TOGETHER = 1024  # columns of a factor that are multiplied at once
_PANEL = 128  # of which maps are solved at once


def factor(gram: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Cholesky factor of a damped Gram matrix, shape (columns, columns).

    Float32 moves a refit by some 1e-6 of itself, a thousandth of what rounding to 16 bits does; a matrix that has no
    factor in it is tried in float64.

    Args:
        gram: The matrix.
        dtype: Of the factor.

    Raises:
        torch.linalg.LinAlgError: It is not positive definite.
    """
    lower, failed = torch.linalg.cholesky_ex(gram.to(dtype))
    return torch.linalg.cholesky(gram.double()).to(dtype) if failed else lower


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


def maps(lower: Tensor, together: int, dtype: torch.dtype) -> list[Tensor]:
    """What refits need to drop one block of columns after the other.

    Args:
        lower: Cholesky factor, shape (columns, columns).
        together: Columns of a block; the last one may have fewer.
        dtype: What maps are solved in, see `solving_dtype`.

    Returns:
        A block j each, from the first columns on, [T_j, L[j, j]], float32, shape (its columns, columns up to its end).
    """
    rows = []
    for start in range(0, len(lower), together):
        own = lower[start : start + together]
        block = own[:, :start].to(dtype, copy=True)
        for left in reversed(range(0, start, _PANEL)):
            right = min(left + _PANEL, start)
            behind = block[:, right:start] @ lower[right:start, left:right].to(dtype)
            corner = lower[left:right, left:right].to(dtype)
            solved = torch.linalg.solve_triangular(corner, block[:, left:right] - behind, upper=False, left=False)
            block[:, left:right] = solved
        rows.append(torch.cat([block.float(), own[:, start : start + together]], 1))
    return rows


def refits(weight: Tensor, blocks: Iterable[Tensor], levels: Iterable[int]) -> Iterator[tuple[int, Tensor]]:
    """The output projections that fit the first columns, the widest first; a level's does not depend on the others.

    Args:
        weight: Dense weight with its columns in the maps' order, shape (hidden, columns).
        blocks: See `maps`, but the last one first; they are asked for as they are needed.
        levels: Columns kept, from 1 to all.

    Yields:
        Columns kept, and new weight of `weight`'s dtype, shape (hidden, kept).
    """
    exact = solving_dtype(weight.dtype)
    state, wanted = weight.to(exact, copy=True), sorted(levels)
    for block in blocks:
        end = block.shape[1]
        start, block = end - len(block), block.to(exact)
        while wanted and wanted[-1] > start:
            kept = wanted.pop()
            level = state[:, :kept]
            if kept < end:
                level = torch.addmm(level, state[:, kept:end], _map(block, kept))
            yield kept, level.to(weight.dtype, copy=True, memory_format=torch.contiguous_format)
        if not wanted:
            return
        state[:, :start].addmm_(state[:, start:end], block[:, :start])


def dropped_map(blocks: Iterable[Tensor], kept: int) -> Tensor:
    """The map T to the first `kept` columns, shape (columns dropped, columns kept).

    Args:
        blocks: See `maps`, the first one first, in what is to be solved in.
        kept: Columns kept, at least 1 and not all.
    """
    parts: list[Tensor] = []
    for block in blocks:
        end = block.shape[1]
        start = end - len(block)
        if start < kept < end:
            parts.append(_map(block, kept))
        elif kept <= start:
            part = block[:, :kept]
            parts.append(torch.addmm(part, block[:, kept:start], torch.cat(parts)) if parts else part.clone())
    return torch.cat(parts)


def _map(block: Tensor, kept: int) -> Tensor:
    """The map from the columns of a block that are dropped to all kept ones, some of which are of the block."""
    start = block.shape[1] - len(block)
    cut = kept - start
    corner = block[:, start:]
    inner = torch.linalg.solve_triangular(corner[:cut, :cut], corner[cut:, :cut], upper=False, left=False)
    return torch.cat([torch.addmm(block[cut:, :start], inner, block[:cut, :start], alpha=-1), inner], 1)


def chosen_map(lower: Tensor, kept: Tensor, dropped: Tensor) -> Tensor:
    """The map T to any columns, shape (columns dropped, columns kept).

    Args:
        lower: Cholesky factor in what is to be solved in, shape (columns, columns).
        kept: Places of the columns that stay.
        dropped: Places of the others.
    """
    first = len(kept)
    if torch.equal(kept, torch.arange(first, device=kept.device)):  # their factor is a part of the whole one
        return torch.linalg.solve_triangular(lower[:first, :first], lower[dropped, :first], upper=False, left=False)
    rows = lower[kept]
    corner = factor(rows @ rows.T, lower.dtype)
    return torch.cholesky_solve(rows @ lower[dropped].T, corner).T


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
