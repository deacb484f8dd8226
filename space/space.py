"""SearchSpace: the map between integer genes and candidates, with bounds, sampling and repair; free of torch."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from space.blocks import block_options, make_rules, type_block, vocabulary_block
from space.bounds import TRIES, random_genes, reach, tighten
from space.candidate import EMBEDDING, HEAD, Candidate, LayerShape, Option
from space.checks import check_count, check_space
from space.choices import choices
from space.errors import UserError
from space.ladders import depth_designs, rounded_genes, uniform_genes
from space.limits import Genes, Limit
from space.options import vocabulary_options
from space.repair import repair, reshuffle
from space.size import decoder_params
from space.spec import ModelSpec
from space.types import rounded_types

LADDER_LENGTH = 24

_Item = TypeVar("_Item")
_shape = lru_cache(maxsize=4096)(LayerShape)  # designs have few shapes, and many layers of each


class SearchSpace:
    """The designs that a search may look at.

    A gene is the index of an option; options are ordered by parameters, so that near levels are similar designs. A
    layer has one gene for attention and one for MLP channels, or one for all of it; a single option carries no gene.
    The last genes may be of the whole model: how much of its vocabulary is kept, or the types of what is no block.

    Attributes:
        spec: The dense model.
        mlp_step: MLP channels between two levels; None where MLPs have no widths.
        expert_step: Channels of an expert between two levels; None where experts have no widths.
        levels: `(genes,)` int64, options of each gene; option 0 is the smallest, the last is dense.
        kinds: What each gene chooses: `attention`, `mlp` or `layer`, in the order of their layers; then a row of
            `space.candidate.WHOLE`.
        vocabulary: Counts of tokens that may be kept in place of all, rising.
        types: Of matrices, but the first, that designs may have: rows of `space.types.GGUF_TYPES`, rising.
        block_options: By kind of block, a key of `space.candidate.KINDS`, all options that occur and leave something.
    """

    def __init__(
        self,
        spec: ModelSpec,
        *,
        attention_widths: bool = True,
        merge_groups: bool = False,
        mlp_widths: bool = True,
        expert_widths: bool = False,
        remove_attention: bool = True,
        remove_mlp: bool = True,
        whole_layers: bool = False,
        same_for_all_layers: bool = False,
        deploy: str = "any",
        mlp_step: int | None = None,
        expert_step: int | None = None,
        freeze_layers: Sequence[int] = (),
        freeze_attention: Sequence[int] = (),
        freeze_mlp: Sequence[int] = (),
        min_layers: int = 1,
        min_decoder_params: float = 0.0,
        max_decoder_params: float = 1.0,
        vocabulary: Sequence[float] = (),
        types: Sequence[str] = (),
    ) -> None:
        """Build the options of every gene and check that the bounds can be met.

        Args:
            spec: The dense model.
            attention_widths: Whether KV groups, and query heads evenly in each group, may be dropped.
            merge_groups: Whether KV groups may be merged, all query heads kept; see `space.supernet.merging`.
            mlp_widths: Whether MLP channels, or the experts of mixtures, may be dropped.
            expert_widths: Whether channels inside experts may be, as many in each of a layer's; it says nothing of
                models without such, see `ModelSpec.narrow_experts`.
            remove_attention: Whether an attention block may be removed.
            remove_mlp: Whether an MLP block may be removed.
            whole_layers: Whether a layer is dense or gone, and nothing else; `remove_attention` and `remove_mlp` then
                say nothing.
            same_for_all_layers: Whether all layers that are not frozen have one shape.
            deploy: Row of `space.deploy.DEPLOYMENTS` by which the model is to be served; what it cannot run is not in
                the space, whatever other settings allow.
            mlp_step: MLP channels between two levels, None for a multiple of 64 that makes at most 12 levels; of
                mixtures, experts, None for a power of two. It says nothing without `mlp_widths`. Where the engine wants
                a multiple of something, the least common multiple.
            expert_step: Channels of an expert between two levels, None for a multiple of 64 with at most 4 levels.
            freeze_layers: Layers that stay dense; indices from 0, negative ones count from the end.
            freeze_attention: Layers whose attention stays dense.
            freeze_mlp: Layers whose MLP stays dense.
            min_layers: Layers that keep at least one block. One layer keeps attention, always.
            min_decoder_params: Least fraction of the dense decoder-layer parameters that a design keeps.
            max_decoder_params: Largest fraction that a design keeps.
            vocabulary: Levels of the vocabulary besides the whole one, see `space.options.vocabulary_options`.
            types: Of `space.types.GGUF_TYPES`: in which the matrices of each block, the embedding and the LM head may
                be. The first one is always there: matrices as they come.

        Raises:
            UserError: A setting is out of its range, settings contradict each other, or no design meets the bounds.
        """
        check_space(
            attention_widths=attention_widths,
            merge_groups=merge_groups,
            mlp_widths=mlp_widths,
            expert_widths=expert_widths,
            remove_attention=remove_attention,
            remove_mlp=remove_mlp,
            whole_layers=whole_layers,
            same_for_all_layers=same_for_all_layers,
            deploy=deploy,
            min_decoder_params=min_decoder_params,
            max_decoder_params=max_decoder_params,
            vocabulary=vocabulary,
            types=types,
        )
        self.types: tuple[int, ...] = rounded_types(types)
        blocks, self.mlp_step, self.expert_step = choices(
            spec,
            attention_widths=attention_widths,
            merge_groups=merge_groups,
            mlp_widths=mlp_widths,
            expert_widths=expert_widths,
            remove_attention=remove_attention,
            remove_mlp=remove_mlp,
            whole_layers=whole_layers,
            same_for_all_layers=same_for_all_layers,
            deploy=deploy,
            mlp_step=mlp_step,
            expert_step=expert_step,
            frozen=(freeze_layers, freeze_attention, freeze_mlp),
            types=self.types,
        )
        min_layers = check_count("min_layers", min_layers, 1, spec.layers)
        least, most = float(min_decoder_params), float(max_decoder_params)

        self.vocabulary: tuple[int, ...] = tuple(vocabulary_options(spec, vocabulary))
        if self.vocabulary:
            blocks.append(vocabulary_block(self.vocabulary))
        if self.types:
            matrices = (EMBEDDING,) if spec.tied_embeddings else (EMBEDDING, HEAD)
            blocks += [type_block(kind, self.types) for kind in matrices]
        self.spec = spec
        self._blocks = tuple(blocks)
        self._free = tuple(block for block in blocks if block.free)
        self._rules = make_rules(
            spec, blocks, min_layers=min_layers, min_fraction=least, max_fraction=most, types=1 + len(self.types)
        )
        self.levels: Genes = self._rules.levels
        self.levels.setflags(write=False)
        self.kinds: tuple[str, ...] = tuple(block.kind for block in self._free)
        self.block_options: dict[str, tuple[Option, ...]] = block_options(blocks)
        dense = decoder_params(spec, Candidate.dense(spec))
        self._dense_layers = [asdict(shape) for shape in Candidate.dense(spec).layers]
        self._smallest, self._witness = reach(self._rules, dense, least, most)

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
        space._rules, space._witness = tighten(self._rules, self._witness, limit)
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
        layers = [fields.copy() for fields in self._dense_layers]
        whole: dict[str, int] = {}
        for block, level in zip(self._free, array.tolist(), strict=True):
            for layer in block.layers:
                layers[layer].update(block.fields[level])
            if not block.layers:
                whole |= block.fields[level]
        return Candidate(tuple(_shape(*fields.values()) for fields in layers), **whole)

    def encode(self, candidate: Candidate) -> Genes:
        """The genes of a candidate, `(genes,)`; bounds are not looked at, `contains` does that.

        Raises:
            UserError: Some layer has a shape that no gene stands for.
        """
        if len(candidate.layers) != self.spec.layers:
            raise UserError(
                f"Candidate {candidate.key}: expected {self.spec.layers} layers, got {len(candidate.layers)}. "
                "Take a candidate of this model."
            )
        if candidate.vocabulary and not self.vocabulary:
            raise UserError(
                f"Candidate {candidate.key}: expected the whole vocabulary, as space.vocabulary names no other, got "
                f"{candidate.vocabulary} tokens. Take a design of this space, or another space."
            )
        if (candidate.embedding_type or candidate.head_type) and not self.types:
            raise UserError(
                f"Candidate {candidate.key}: expected no types of matrices, as space.types names none. Take a design "
                "of this space, or another space."
            )
        levels = [block.level_of(candidate) for block in self._blocks]
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
        """A random valid design; sizes are spread evenly between the bounds, see `space.bounds.random_genes`."""
        return self.decode(self.repair(random_genes(self._rules, self._smallest, rng), rng))

    def samples(self, count: int, seed: int = 0) -> list[Candidate]:
        """So many random designs, the same for the same space and seed."""
        generator = np.random.default_rng(seed)
        return [self.sample(generator) for _ in range(count)]

    def uniform_ladder(self) -> list[Candidate]:
        """Designs with one shape in all layers that are not frozen, from nearly dense to the lower bound.

        All MLP levels at dense attention and at about three quarters and half of it, and all attention levels at dense
        MLPs; at most `LADDER_LENGTH`, evenly thinned. Empty where a gene stands for a whole layer.
        """
        genes = uniform_genes(self._free, self._rules)
        return [self.decode(each) for each in evenly(genes, LADDER_LENGTH)]

    def rounded_ladder(self) -> list[Candidate]:
        """The dense model in each of the space's types but the first, see `space.ladders.rounded_genes`."""
        genes = rounded_genes(self._free, self.types, tied=self.spec.tied_embeddings)
        return [self.decode(each) for each in genes]

    def depth_ladder(self, order: Sequence[int]) -> list[Candidate]:
        """Designs without the first layer of `order`, without the first two, and so on: those that are in this space.

        Args:
            order: Layers from 0, the least important one first; a layer that cannot be removed is passed over.

        Raises:
            ValueError: `order` names a layer twice, or one that is not there.
        """
        return depth_designs(Candidate.dense(self.spec), self._blocks, order, self.contains)


def evenly(items: Sequence[_Item], count: int) -> list[_Item]:
    """At most `count` items, evenly spread over the sequence, the first and the last among them."""
    places = np.unique(np.linspace(0, len(items) - 1, min(len(items), count)).round().astype(int))
    return [items[place] for place in places]
