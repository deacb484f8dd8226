"""What the bounds of a space leave: its smallest design, some valid one, and random ones of every size.

Pure functions on arrays, as those of `space.repair` are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from space.errors import UserError
from space.limits import Genes, Limit
from space.repair import Rules, cheapest_floor, repair

CONCENTRATION = 12.0  # of the beta distribution behind a sample: a standard deviation of 0.14 at a kept fraction of 0.5
TRIES = 8
TRIES_AT_CONSTRUCTION = 64


def reach(rules: Rules, dense: int, least: float, most: float) -> tuple[int, Genes]:
    """Parameters of the smallest design and the genes of some valid one.

    Args:
        rules: Which genes are valid.
        dense: Decoder-layer parameters of the dense model.
        least: The lower bound on a design's fraction of those, for the message.
        most: The upper bound.

    Raises:
        UserError: There is no valid design.
    """
    rng = np.random.default_rng(0)
    smallest = rules.total(cheapest_floor(rules, rng))
    if smallest > rules.maximum:
        raise UserError(
            f"space.max_decoder_params: expected at least {smallest / dense:.4f}, the fraction that the smallest "
            f"design of this space keeps, got {most:g}. Raise it, freeze less, lower min_layers or allow more cuts."
        )
    witness = repair(rules, rules.levels - 1, rng, tries=TRIES_AT_CONSTRUCTION)
    if witness is None:
        widest = int(np.diff(rules.params, axis=1).max())
        raise UserError(
            f"space.min_decoder_params and max_decoder_params: expected a range that holds a design, found none "
            f"from {least:g} to {most:g}. This space reaches {smallest / dense:.4f} to 1 in steps of at most "
            f"{widest / dense:.4f}: make the range that wide, or take a smaller mlp_step."
        )
    return smallest, witness


def tighten(rules: Rules, witness: Genes, limit: Limit) -> tuple[Rules, Genes]:
    """The rules with one more limit, and the genes of some design that is valid then.

    Args:
        rules: Which genes were valid before.
        witness: Valid genes by these.
        limit: The new limit.

    Raises:
        UserError: No design is within it and all other bounds.
    """
    limited = replace(rules, limits=(*rules.limits, limit))
    rng = np.random.default_rng(0)
    genes = repair(limited, witness, rng, tries=TRIES_AT_CONSTRUCTION)
    if genes is None:
        repaired = (repair(rules, np.zeros_like(rules.levels), rng, tries=TRIES) for _ in range(TRIES))
        least = min((limit.total(genes) for genes in repaired if genes is not None), default=limit.base)
        raise UserError(
            f"constraints: expected a limit that a design of this space is within, got {limit.name} "
            f"({limit.maximum:g}); the dense model has {limit.base:g}, the smallest designs {least:g}. Raise it, or "
            "lower space.min_decoder_params."
        )
    return limited, genes


def random_genes(rules: Rules, smallest: int, rng: np.random.Generator) -> Genes:
    """Random genes around a random size between the bounds; they are yet to be repaired.

    The kept fraction is drawn first, then every gene around it: genes drawn independently and uniformly would nearly
    always ruin the network.

    Args:
        rules: Which genes are valid.
        smallest: Parameters of the smallest design.
        rng: Source of every choice.
    """
    genes = np.arange(len(rules.levels))
    size = rng.uniform(max(rules.minimum, smallest), rules.maximum)
    dense = rules.params[genes, rules.levels - 1]
    kept = np.clip((size - rules.fixed_params) / dense.sum(), 0.01, 0.99)
    params = rng.beta(CONCENTRATION * kept, CONCENTRATION * (1 - kept), len(genes)) * dense
    # rounded up or down at random, so that the mean size is right even where a gene is dense or gone
    upper = np.clip((rules.params < params[:, None]).sum(axis=1), 1, rules.levels - 1)
    above, below = rules.params[genes, upper], rules.params[genes, upper - 1]
    up = rng.random(len(genes)) * (above - below) < params - below
    drawn = np.where(up, upper, upper - 1)
    if (free := dense == 0).any():  # of the whole model: no size of a decoder says anything of these
        drawn[free] = rng.integers(rules.levels[free])
    return drawn if rules.types == 1 else _typed(rules, drawn, rng)


def _typed(rules: Rules, drawn: Genes, rng: np.random.Generator) -> Genes:
    """Levels of the same parameters, in types around a random one: bits vary more between designs than within one."""
    below = rules.levels - 1 - drawn
    types = rng.binomial(rules.types - 1, rng.random(), len(drawn))
    return np.where(
        rules.params.any(axis=1), np.maximum(rules.levels - 1 - (below - below % rules.types + types), 0), drawn
    )
