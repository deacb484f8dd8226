"""Rounding a matrix to a type of blocks with the Gram matrix of its inputs: later columns make up for earlier ones.

Rounding column j of W to a grid leaves an error E_j. With the Gram matrix H = XᵀX of the matrix's inputs, the columns
behind it can take over what of E_j X_j follows from theirs, W_R += E_j H[j, R] H[R, R]⁻¹: the step of OBS, column by
column as in GPTQ (Frantar et al. 2023, eqs. 2 and 3), and that of a refit (`space.supernet.compensation`), which drops
columns where this rounds them. With H⁻¹ = Uᵀ U, U upper triangular, it is W_R −= (E_j / U[j, j]) U[j, R]. The scale of
a block is that of the type for the values that the block has when it is reached.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import gguf
import torch
from torch import Tensor

from space.rounding.rounded import Rounded

_Type = gguf.GGMLQuantizationType


@dataclass(frozen=True)
class _Grid:
    """The values d · (q − centre) + m that a block of 32 can have, with d and m, where there is one, in float16.

    Attributes:
        top: Largest q; the least is 0.
        centre: The q of zero where there is no m.
        shifted: Whether there is an m.
    """

    top: int
    centre: int = 0
    shifted: bool = False

    def scales(self, block: Tensor) -> Tensor:
        """The type's own d, and m, of blocks of shape (blocks, 32): float16, shape (blocks, 1 or 2)."""
        if self.shifted:
            low, high = block.aminmax(dim=1)
            return torch.stack([(high - low) / self.top, low], 1).half()
        places = block.abs().argmax(1, keepdim=True)
        largest = block.gather(1, places)  # with its sign: one end of the scale has a level more
        return (largest / -self.centre if self.centre < 127 else largest.abs() / self.centre).half()

    def packed(self, scales: Tensor, levels: Tensor) -> Tensor:
        """The bytes of blocks, as ggml has them: d, m, fifth bits, and two q a byte, sixteen places apart.

        Args:
            scales: See above.
            levels: The q, uint8, shape (blocks, 32).
        """
        parts = [scales.contiguous().view(torch.uint8)]
        if self.top > 31:
            signed = (levels.to(torch.int16) - self.centre).to(torch.int8)
            return torch.cat([*parts, signed.view(torch.uint8)], 1)
        if self.top > 15:
            bits = (levels >> 4).view(-1, 4, 8) << torch.arange(8, dtype=torch.uint8, device=levels.device)
            parts.append(bits.sum(-1, dtype=torch.uint8))
        low = levels & 15
        return torch.cat([*parts, low[:, :16] | (low[:, 16:] << 4)], 1)


_GRIDS = {
    _Type.Q8_0: _Grid(254, 127),
    _Type.Q5_1: _Grid(31, shifted=True),
    _Type.Q5_0: _Grid(31, 16),
    _Type.Q4_1: _Grid(15, shifted=True),
    _Type.Q4_0: _Grid(15, 8),
}
_BLOCK = 32


def gram_rounded(values: Tensor, gram: Tensor, ggml: gguf.GGMLQuantizationType) -> Rounded:
    """A matrix rounded so that what it gives on its inputs changes little.

    Args:
        values: Float32, shape (rows, columns), columns whole blocks.
        gram: Of its inputs, damped, shape (columns, columns).
        ggml: The type.

    Raises:
        torch.linalg.LinAlgError: The Gram matrix is not positive definite.
    """
    grid, upper = _GRIDS[ggml], _inverse_factor(gram)
    later = upper / upper.diagonal()[:, None]
    work, packed = values.clone(), []
    for start in range(0, work.shape[1], _BLOCK):
        end = start + _BLOCK
        scales = grid.scales(work[:, start:end])
        d, m = scales[:, 0].float(), scales[:, 1].float() if grid.shifted else 0.0
        # in units of its row's d a level is a whole number; where d is 0, all of the block is m
        levels = ((work[:, start:end].T - m) * torch.where(d == 0, 0, 1 / d) + grid.centre).contiguous()  # (32, rows)
        errors, own = torch.empty_like(levels), later[start:end, start:end]
        for column, (wanted, error) in enumerate(zip(levels, errors, strict=True)):
            error.copy_(wanted)
            error -= wanted.round_().clamp_(0, grid.top)
            levels[column + 1 :].addr_(own[column, column + 1 :], error, alpha=-1)
        work[:, end:].addmm_((errors * d).T, later[start:end, end:], alpha=-1)
        packed.append(grid.packed(scales, levels.T.contiguous().to(torch.uint8)))
    return Rounded(ggml, torch.cat(packed, 1).cpu())


def gram_rounded_together(
    weights: Mapping[str, Tensor], gram: Tensor, ggml: gguf.GGMLQuantizationType
) -> dict[str, Rounded]:
    """Matrices that read the same, by name, rounded with its Gram matrix; see `gram_rounded`.

    Rows do not know of each other: each is rounded as it would be alone.
    """
    whole = gram_rounded(torch.cat([*weights.values()]), gram, ggml)
    parts = whole.codes.split([len(weight) for weight in weights.values()])
    return {name: Rounded(ggml, codes) for name, codes in zip(weights, parts, strict=True)}


def _inverse_factor(gram: Tensor) -> Tensor:
    """The upper triangular U with Uᵀ U the inverse of a Gram matrix, float32."""
    lower = torch.linalg.cholesky(gram.double().flip(0, 1))
    eye = torch.eye(len(gram), dtype=torch.float64, device=gram.device)
    return torch.linalg.solve_triangular(lower.flip(0, 1), eye, upper=True).float()
