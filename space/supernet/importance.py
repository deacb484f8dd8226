"""Order of units from a Gram matrix and output weights: which channels, heads and groups to keep longest.

A rule is a row of `ORDERS`: it removes structures (sets of input columns of an output projection) until none is left;
read backwards, the removals are the order of importance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from space.supernet.compensation import factor
from space.supernet.recipe import require_rule
from space.supernet.sizes import MOVED_ROWS

_DENSE = 0.8  # part of a matrix's columns that are alive, below which they are moved into a smaller one
Rule = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class AttentionOrder:
    """Order of an attention block's units, most important first.

    Attributes:
        groups: Key-value groups, shape (kv_heads,).
        heads: Query heads inside each group, rows in the *original* numbering of groups, shape
            (kv_heads, queries_per_group).
    """

    groups: Tensor
    heads: Tensor


def damp_(gram: Tensor, damping: float) -> Tensor:
    """Adds `damping` times its mean diagonal to the diagonal of a Gram matrix, in place."""
    gram.diagonal().add_(damping * gram.diagonal().mean().clamp_min(torch.finfo(torch.float32).tiny))
    return gram


def damped(gram: Tensor, damping: float, dtype: torch.dtype | None = None) -> Tensor:
    """A Gram matrix with `damping` times its mean diagonal added to the diagonal, in `dtype` or its own, as another."""
    return damp_(gram.to(dtype or gram.dtype, copy=True), damping)


def obs_order(gram: Tensor, weight: Tensor, structures: Tensor, at_once: int) -> Tensor:
    """Removes the structures of the least Optimal-Brain-Surgeon cost, re-evaluated after every step.

    The cost of structure S is tr(W_S (H⁻¹_SS)⁻¹ W_Sᵀ), and what is left absorbs it: the closed form of Hassibi & Stork
    (1993) for sets of columns, as ZipLM (Kurtic et al. 2023, eq. 3 and 4) uses it. In float32 the order
    is that of float64 but for near ties. One matrix as large as the Gram matrix is made.

    Args:
        gram: Damped XᵀX of the projection's input, float32, shape (columns, columns).
        weight: The projection's weight, shape (hidden, columns).
        structures: Columns of each structure, ascending, shape (structures, columns a structure).
        at_once: Structures removed between two evaluations of the cost.

    Returns:
        Indices of the structures, most important first.
    """
    weight = weight.to(torch.float32, copy=True)
    inverse = factor(gram)
    inverse = torch.cholesky_inverse(inverse, out=inverse)
    inverse = inverse if inverse.is_contiguous() else inverse.mT  # which is the same, as it is symmetric
    alive = torch.arange(len(structures), device=gram.device)
    columns = structures  # of those alive, as both matrices have them
    removed: list[Tensor] = []
    while len(alive):
        cost = _structure_cost(inverse, weight, columns)
        worst = torch.argsort(cost, stable=True)[: max(1, at_once)]
        removed.append(alive[worst])
        keep = torch.ones(len(alive), dtype=torch.bool, device=gram.device)
        keep[worst] = False
        gone, alive, columns = columns[worst].reshape(-1), alive[keep], columns[keep]
        if not len(alive):
            break
        # block elimination of the removed columns: the inverse of what is left, and the weights that absorb the loss.
        # In place, as a copy of the inverse costs more than this product; what is gone stays behind as zeros, until it
        # is so much that a smaller matrix pays.
        rows = inverse[gone]  # (gone, all)
        update = torch.linalg.solve(rows[:, gone], rows)
        weight.addmm_(weight[:, gone], update, alpha=-1)
        inverse.addmm_(rows.T, update, alpha=-1)
        if columns.numel() < _DENSE * len(inverse):
            left = columns.reshape(-1)
            weight, inverse = weight[:, left], _moved_together(inverse, left)
            columns = torch.arange(len(left), device=gram.device).view(len(alive), -1)
    return torch.cat(removed).flip(0)


def _moved_together(matrix: Tensor, left: Tensor) -> Tensor:
    """Some rows and columns of a square matrix, in the memory that it has.

    Args:
        matrix: Contiguous, shape (columns, columns); lost.
        left: Indices, ascending, so that no row is written over before it has moved.
    """
    smaller = matrix.view(-1)[: len(left) ** 2].view(len(left), len(left))
    for start in range(0, len(left), MOVED_ROWS):
        rows = left[start : start + MOVED_ROWS]
        smaller[start : start + MOVED_ROWS] = matrix[rows][:, left]
    return smaller


def _structure_cost(inverse: Tensor, weight: Tensor, columns: Tensor) -> Tensor:
    """OBS cost of every structure, shape (structures,)."""
    if columns.shape[1] == 1:
        single = columns[:, 0]
        return weight[:, single].square().sum(0) / inverse.diagonal()[single]
    blocks = inverse[columns[:, :, None], columns[:, None, :]]  # (structures, size, size)
    weights = weight[:, columns].permute(1, 2, 0)  # (structures, size, hidden)
    return torch.linalg.solve_triangular(torch.linalg.cholesky(blocks), weights, upper=False).square().sum((1, 2))


def wanda_order(gram: Tensor, weight: Tensor, structures: Tensor, at_once: int) -> Tensor:
    """Ranks once by Σ|W|·‖x‖ over a structure's columns (Wanda, Sun et al. 2023, eq. 1, summed over outputs)."""
    del at_once
    score = weight.double().abs().sum(0) * gram.diagonal().sqrt()
    return torch.argsort(score[structures].sum(1), descending=True, stable=True)


def magnitude_order(gram: Tensor, weight: Tensor, structures: Tensor, at_once: int) -> Tensor:
    """Ranks once by the Frobenius norm of a structure's output weights."""
    del gram, at_once
    score = weight.double().square().sum(0)
    return torch.argsort(score[structures].sum(1), descending=True, stable=True)


ORDERS: dict[str, Rule] = {"obs": obs_order, "wanda": wanda_order, "magnitude": magnitude_order}


def rule_of(name: str) -> Rule:
    """The rule of that name.

    Raises:
        UserError: There is none.
    """
    require_rule(name)
    return ORDERS[name]


def mlp_order(gram: Tensor, weight: Tensor, rule: Rule, steps: int) -> Tensor:
    """Order of an MLP's channels, most important first, shape (channels,).

    Args:
        gram: Damped Gram matrix of the output projection's input, shape (channels, channels).
        weight: Its weight, shape (hidden, channels).
        rule: How to rank.
        steps: How often the cost is evaluated anew on the way from all channels to none.
    """
    channels = len(gram)
    return rule(gram, weight, torch.arange(channels, device=gram.device)[:, None], -(-channels // steps))


def attention_order(gram: Tensor, weight: Tensor, kv_heads: int, queries_per_group: int, rule: Rule) -> AttentionOrder:
    """Order of an attention block's groups, and of the query heads inside each, one removed at a time.

    Args:
        gram: Damped Gram matrix of the output projection's input, shape (query_heads · head_dim,) * 2.
        weight: Its weight, shape (hidden, query_heads · head_dim).
        kv_heads: Key-value groups.
        queries_per_group: Query heads in a group.
        rule: How to rank.
    """
    columns = torch.arange(len(gram), device=gram.device).view(kv_heads, queries_per_group, -1)
    groups = rule(gram, weight, columns.flatten(1), 1)
    heads = rule(gram, weight, columns.flatten(0, 1), 1)  # over all heads; a group keeps the order of its own
    rank = torch.empty_like(heads).scatter_(0, heads, torch.arange(len(heads), device=heads.device))
    return AttentionOrder(groups, rank.view(kv_heads, queries_per_group).argsort(dim=1))
