"""SearchSpace: the map between integer genes and candidates, with bounds, sampling and repair; free of torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from space.blocks import (
    COLUMNS,
    Block,
    Kind,
    attention_options,
    check_count,
    check_flag,
    check_fraction,
    check_layers,
    default_mlp_step,
    least_mlp_step,
    make_blocks,
    make_rules,
    mlp_options,
)
from space.candidate import Candidate
from space.deploy import engine_of
from space.errors import UserError
from space.limits import Genes, Limit
from space.repair import cheapest_floor, repair, reshuffle
from space.size import decoder_params
from space.spec import ModelSpec

LADDER_LENGTH = 24
LADDER_ATTENTION = (0.75, 0.5)  # fractions of dense attention that the ladder crosses with all MLP levels
CONCENTRATION = 12.0  # of the beta distribution behind `sample`: a standard deviation of 0.14 at a kept fraction of 0.5
TRIES = 8
TRIES_AT_CONSTRUCTION = 64


_Item = TypeVar("_Item")


class SearchSpace:
    """The designs that a search may look at.

    A gene is the index of an option; options are ordered by parameters, so that near levels are similar designs. A
    layer has one gene for attention and one for MLP channels, or one for all of it; a single option carries no gene.

    Attributes:
        spec: The dense model.
        mlp_step: MLP channels between two levels; None where MLPs have no widths.
        levels: `(genes,)` int64, options of each gene; option 0 is the smallest, the last is dense.
        kinds: What each gene chooses: `attention`, `mlp` or `layer`; genes stand in the order of their layers.
        attention_shapes: All pairs (query_heads, kv_heads) that occur, without (0, 0).
        mlp_shapes: All counts of MLP channels that occur, without 0.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        attention_widths: bool = True,
        merge_groups: bool = False,
        mlp_widths: bool = True,
        remove_attention: bool = True,
        remove_mlp: bool = True,
        whole_layers: bool = False,
        same_for_all_layers: bool = False,
        deploy: str = "any",
        mlp_step: int | None = None,
        freeze_layers: Sequence[int] = (),
        freeze_attention: Sequence[int] = (),
        freeze_mlp: Sequence[int] = (),
        min_layers: int = 1,
        min_decoder_params: float = 0.0,
        max_decoder_params: float = 1.0,
    ) -> None:
        """Build the options of every gene and check that the bounds can be met.

        Args:
            spec: The dense model.
            attention_widths: Whether KV groups, and query heads evenly in each group, may be dropped.
            merge_groups: Whether KV groups may be merged, all query heads kept; see `space.supernet.merging`.
            mlp_widths: Whether MLP channels may be dropped.
            remove_attention: Whether an attention block may be removed.
            remove_mlp: Whether an MLP block may be removed.
            whole_layers: Whether a layer is dense or gone, and nothing else; `remove_attention` and `remove_mlp` then
                say nothing.
            same_for_all_layers: Whether all layers that are not frozen have one shape.
            deploy: Row of `space.deploy.ENGINES` that is to serve the model; what it cannot run is not in the space,
                whatever other settings allow.
            mlp_step: MLP channels between two levels, None for a multiple of 64 that makes at most 12 levels; says
                nothing without `mlp_widths`. Where the engine wants a multiple of something, the least common multiple.
            freeze_layers: Layers that stay dense; indices from 0, negative ones count from the end.
            freeze_attention: Layers whose attention stays dense.
            freeze_mlp: Layers whose MLP stays dense.
            min_layers: Layers that keep at least one block. One layer keeps attention, always.
            min_decoder_params: Least fraction of the dense decoder-layer parameters that a design keeps.
            max_decoder_params: Largest fraction that a design keeps.

        Raises:
            UserError: A setting is out of its range, settings contradict each other, or no design meets the bounds.
        """
        flags = {
            "attention_widths": attention_widths,
            "merge_groups": merge_groups,
            "mlp_widths": mlp_widths,
            "remove_attention": remove_attention,
            "remove_mlp": remove_mlp,
            "whole_layers": whole_layers,
            "same_for_all_layers": same_for_all_layers,
        }
        for name, flag in flags.items():
            check_flag(name, flag)
        engine = engine_of(deploy, spec)
        if engine.same_layers and not whole_layers:
            same_for_all_layers, remove_attention, remove_mlp = True, False, False
            if freeze_layers or freeze_attention or freeze_mlp:
                raise UserError(
                    f"space.deploy={deploy}: expected no frozen layers, as all layers must have one shape. Set "
                    "freeze_layers, freeze_attention and freeze_mlp to [], or space=depth to drop whole layers."
                )
        attention_widths = attention_widths and engine.attention_widths
        clashes = [
            name for name in ("attention_widths", "merge_groups", "mlp_widths", "same_for_all_layers") if flags[name]
        ]
        if whole_layers and clashes:
            raise UserError(
                f"space.whole_layers: expected it alone, got it with {', '.join(clashes)}. A layer is then dense or "
                "gone, and has no width: set those to false, or whole_layers to false."
            )
        frozen = check_layers("freeze_layers", freeze_layers, spec.layers)
        frozen_attention = frozen | check_layers("freeze_attention", freeze_attention, spec.layers)
        frozen_mlp = frozen | check_layers("freeze_mlp", freeze_mlp, spec.layers)
        step = None
        if mlp_widths:
            channels, multiple = spec.mlp_channels, engine.mlp_multiple
            step = default_mlp_step(channels, multiple)
            if mlp_step is not None:
                step = least_mlp_step(mlp_step, channels, multiple, deploy)
        min_layers = check_count("min_layers", min_layers, 1, spec.layers)
        least = check_fraction("min_decoder_params", min_decoder_params)
        most = check_fraction("max_decoder_params", max_decoder_params)
        if least > most:
            raise UserError(
                f"space.min_decoder_params: expected at most max_decoder_params, which is {most:g}, got {least:g}. "
                "Lower it, or raise max_decoder_params."
            )

        attention = attention_options(spec, widths=attention_widths, merge=merge_groups, remove=remove_attention)
        mlp = mlp_options(spec, step=step, remove=remove_mlp)
        blocks: list[Block] = []
        if whole_layers:
            whole = [(0, 0, 0), (*attention[-1], *mlp[-1])]
            blocks += make_blocks(spec, "layer", whole, frozen_attention | frozen_mlp, shared=False)
        else:
            blocks += make_blocks(spec, "attention", attention, frozen_attention, shared=same_for_all_layers)
            blocks += make_blocks(spec, "mlp", mlp, frozen_mlp, shared=same_for_all_layers)
        blocks.sort(key=lambda block: (block.layers[0], block.kind))
        if not any(block.free for block in blocks):
            raise UserError(
                "space: expected at least one block with more than one option, got only blocks that stay dense. Allow "
                "attention_widths, mlp_widths, remove_attention, remove_mlp or whole_layers, or freeze fewer layers."
            )

        self.spec = spec
        self.mlp_step = step
        self._blocks = tuple(blocks)
        self._free = tuple(block for block in blocks if block.free)
        self._rules = make_rules(spec, blocks, min_layers=min_layers, min_fraction=least, max_fraction=most)
        self.levels: Genes = self._rules.levels
        self.levels.setflags(write=False)
        self.kinds: tuple[Kind, ...] = tuple(block.kind for block in self._free)
        shapes = {(block.kind, option) for block in blocks for option in block.options if any(option)}
        self.attention_shapes = tuple(sorted({(option[0], option[1]) for kind, option in shapes if kind != "mlp"}))
        self.mlp_shapes = tuple(sorted({option[-1] for kind, option in shapes if kind != "attention"}))
        self._smallest, self._witness = self._reach(least, most)

    def _reach(self, least: float, most: float) -> tuple[int, Genes]:
        """Parameters of the smallest design and the genes of some valid one; raises UserError when there is none."""
        rules, rng = self._rules, np.random.default_rng(0)
        dense = decoder_params(self.spec, Candidate.dense(self.spec))
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

    def limited(self, name: str, base: float, steps: npt.NDArray[np.float64], maximum: float) -> SearchSpace:
        """The same space without the designs that have more than `maximum` of a quantity; this one is left as it is.

        Args:
            name: Of the quantity.
            base: What the dense design has.
            steps: What each level of each gene adds to that, `(genes, levels)`; NaN where there is no such level.
            maximum: The limit.

        Raises:
            UserError: No design is within it and all other bounds.
        """
        space = copy.copy(self)
        limit = Limit(name, base, steps, maximum)
        space._rules = replace(self._rules, limits=(*self._rules.limits, limit))
        rng = np.random.default_rng(0)
        witness = repair(space._rules, self._witness, rng, tries=TRIES_AT_CONSTRUCTION)
        if witness is None:
            repaired = (repair(self._rules, np.zeros_like(self.levels), rng, tries=TRIES) for _ in range(TRIES))
            least = min((limit.total(genes) for genes in repaired if genes is not None), default=base)
            raise UserError(
                f"constraints: expected a limit that a design of this space is within, got {name} ({maximum:g}); the "
                f"dense model has {base:g}, the smallest designs {least:g}. Raise it, or lower "
                "space.min_decoder_params."
            )
        space._witness = witness
        return space

    def decode(self, genes: npt.ArrayLike) -> Candidate:
        """The candidate of these genes, `(genes,)`; bounds are not looked at.

        Raises:
            ValueError: The genes are not whole numbers within their levels.
        """
        array = np.asarray(genes)
        if array.shape != self.levels.shape or not np.issubdtype(array.dtype, np.integer):
            raise ValueError(
                f"SearchSpace.decode: expected {len(self.levels)} integers, got shape {array.shape} of {array.dtype}."
            )
        if (array < 0).any() or (array >= self.levels).any():
            raise ValueError(
                f"SearchSpace.decode: expected genes of at least 0 and below {self.levels.tolist()}, "
                f"got {array.tolist()}. Repair them first."
            )
        rows = Candidate.dense(self.spec).to_json()
        for block, level in zip(self._free, array.tolist(), strict=True):
            for layer in block.layers:
                rows[layer][COLUMNS[block.kind]] = block.options[level]
        return Candidate.from_json(rows)

    def encode(self, candidate: Candidate) -> Genes:
        """The genes of a candidate, `(genes,)`; bounds are not looked at, `contains` does that.

        Raises:
            UserError: Some layer has a shape that no gene stands for.
        """
        rows = candidate.to_json()
        if len(rows) != self.spec.layers:
            raise UserError(
                f"Candidate {candidate.key}: expected {self.spec.layers} layers, got {len(rows)}. "
                "Take a candidate of this model."
            )
        levels = [block.level_of(rows, f"Candidate {candidate.key}") for block in self._blocks]
        return np.array(
            [level for level, block in zip(levels, self._blocks, strict=True) if block.free], dtype=np.int64
        )

    def contains(self, candidate: Candidate) -> bool:
        """Whether genes stand for this candidate and it meets every bound."""
        try:
            return self._rules.valid(self.encode(candidate))
        except UserError:
            return False

    def repair(self, genes: npt.ArrayLike, rng: np.random.Generator) -> Genes:
        """Valid genes near the given ones, `(genes,)`: rounded, clipped, then mended as `space.repair.repair` says.

        Genes that are valid already come back unchanged. Where the bounds are so tight that no attempt fits, the
        result is the valid design that construction found, its shapes spread over the layers anew.

        Raises:
            ValueError: There are too few or too many genes, or some are not numbers.
        """
        array = np.asarray(genes, dtype=np.float64)
        if array.shape != self.levels.shape or np.isnan(array).any():
            raise ValueError(f"SearchSpace.repair: expected {len(self.levels)} numbers, got {array.tolist()}.")
        clipped = np.clip(np.rint(array), 0, self.levels - 1).astype(np.int64)
        mended = repair(self._rules, clipped, rng, tries=TRIES)
        return reshuffle(self._rules, self._witness, rng, tries=TRIES) if mended is None else mended

    def sample(self, rng: np.random.Generator) -> Candidate:
        """A random valid design; sizes are spread evenly between the bounds.

        The kept fraction is drawn first, then every gene around it: genes drawn independently and uniformly would
        nearly always ruin the network.
        """
        rules = self._rules
        genes = np.arange(len(self.levels))
        size = rng.uniform(max(rules.minimum, self._smallest), rules.maximum)
        dense = rules.params[genes, self.levels - 1]
        kept = np.clip((size - rules.fixed_params) / dense.sum(), 0.01, 0.99)
        wanted = rng.beta(CONCENTRATION * kept, CONCENTRATION * (1 - kept), len(genes)) * dense
        # rounded up or down at random, so that the mean size is right even where a gene is dense or gone
        upper = np.clip((rules.params < wanted[:, None]).sum(axis=1), 1, self.levels - 1)
        above, below = rules.params[genes, upper], rules.params[genes, upper - 1]
        up = rng.random(len(genes)) * (above - below) < wanted - below
        return self.decode(self.repair(np.where(up, upper, upper - 1), rng))

    def samples(self, count: int, seed: int = 0) -> list[Candidate]:
        """So many random designs, the same for the same space and seed."""
        generator = np.random.default_rng(seed)
        return [self.sample(generator) for _ in range(count)]

    def uniform_ladder(self) -> list[Candidate]:
        """Designs with one shape in all layers that are not frozen, from nearly dense to the lower bound.

        All MLP levels at dense attention and at about three quarters and half of it, and all attention levels at dense
        MLPs; at most `LADDER_LENGTH`, evenly thinned. Empty where a gene stands for a whole layer.
        """
        if self._free[0].kind == "layer":
            return []
        attention, mlp = self._kept_levels("attention"), self._kept_levels("mlp")
        crossed = [
            min(attention, key=lambda level: (abs(attention[level] - share * max(attention.values())), level))
            for share in (1.0, *LADDER_ATTENTION)
        ]
        pairs = {(a, m) for a in crossed for m in mlp} | {(a, max(mlp)) for a in attention}
        pairs.remove((max(attention), max(mlp)))
        ladder = [
            np.array([a if block.kind == "attention" else m for block in self._free], dtype=np.int64) for a, m in pairs
        ]
        ladder = [genes for genes in ladder if self._rules.valid(genes)]
        ladder.sort(key=lambda genes: (-self._rules.total(genes), genes.tolist()))
        return [self.decode(genes) for genes in evenly(ladder, LADDER_LENGTH)]

    def _kept_levels(self, kind: Kind) -> dict[int, int]:
        """Levels that leave something, and their parameters; without a gene of `kind`, one level that nothing reads."""
        for block in self._free:
            if block.kind == kind:
                return {level: block.params[level] for level, option in enumerate(block.options) if any(option)}
        return {0: 0}

    def depth_ladder(self, order: Sequence[int]) -> list[Candidate]:
        """Designs without the first layer of `order`, without the first two, and so on: those that are in this space.

        Args:
            order: Layers from 0, the least important one first; a layer that cannot be removed is passed over.

        Raises:
            ValueError: `order` names a layer twice, or one that is not there.
        """
        if len(set(order)) != len(order) or not set(order) <= set(range(self.spec.layers)):
            raise ValueError(
                f"SearchSpace.depth_ladder: expected distinct layers below {self.spec.layers}, got {list(order)}."
            )
        fixed = {layer for block in self._blocks if not block.vanishes for layer in block.layers}
        rows = Candidate.dense(self.spec).to_json()
        ladder = []
        for layer in order:
            if layer not in fixed:
                rows[layer] = [0, 0, 0]
                candidate = Candidate.from_json(rows)
                if self.contains(candidate):
                    ladder.append(candidate)
        return ladder


def evenly(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most `count` items, evenly spread over the sequence, the first and the last among them."""
    places = np.unique(np.linspace(0, len(items) - 1, min(len(items), count)).round().astype(int))
    return [items[place] for place in places]
