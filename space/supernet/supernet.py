"""The permuted dense model of which every candidate is a prefix: prepare it once, then view any candidate.

`Supernet.prepare` calibrates, orders the units, permutes the weights and stores one matrix a block on disk. After that
nothing of it changes any more: `view` gives any candidate as a model object. Healing (`space.supernet.shared`) makes
another supernet, by `with_weights`: its subnets have the weights that they have learned together, while the dense model
stays the one that came.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from space.candidate import KINDS, Candidate, LayerShape
from space.models.stack import layers_of
from space.size import removed_params
from space.spec import ModelSpec
from space.supernet.block_memory import BlockMemory
from space.supernet.compensation import solving_dtype
from space.supernet.correction import Correction
from space.supernet.lost import lost_energy
from space.supernet.placement import Passing, Placement
from space.supernet.refits import Refits, Solved, partly_learned
from space.supernet.rounded_blocks import Codes, RoundedBlocks
from space.supernet.rounded_outer import RoundedOuter
from space.supernet.slices import Slices
from space.supernet.solved import NOTHING, OnDisk
from space.supernet.store import StoredLayers, place_as_it_came
from space.supernet.units import require_part
from space.supernet.view import Views

GENTLY = 0.5  # of what was learned, for subnets that lack little


class Supernet:
    """A permuted dense model and the refits that its subnets need.

    Attributes:
        model: The dense causal LM, whose weights are in their place; run what `dense` gives.
        spec: The dense model in numbers.
        place: Where it is, and where it runs.
        influence: Block influence of every layer on the calibration text; small means that it changes little.
        healed: Whether subnets have other weights than the dense model's, learned together.
        solved: Refits that need not be solved again, by strength; for who has them, before there are views.
    """

    def __init__(
        self, model: Any, files: StoredLayers, place: Placement, refit_bytes: int, on_disk: OnDisk = NOTHING
    ) -> None:
        """Takes a model that is permuted already; use `prepare` or `load`.

        Args:
            model: The dense causal LM.
            files: What is stored of it.
            place: Where it is, and where it runs.
            refit_bytes: Memory limit of narrower blocks, of those of `sliced` and healed supernets too; and again of
                the codes of rounded ones.
            on_disk: What is kept of solved levels there.
        """
        self.model = model.eval().requires_grad_(False)
        self.spec = files.spec
        self.place = place
        self.influence = files.influence
        self.calibration_windows = files.windows
        self.healed = False
        self.solved: defaultdict[float, Solved] = defaultdict(dict)
        self._dense = Candidate.dense(files.spec)
        self._files, self._memory = files, BlockMemory[nn.Module](refit_bytes)
        self._codes, self.outer = BlockMemory[Codes](refit_bytes), RoundedOuter(model, files, place.device)
        self._learned: Mapping[str, Tensor] = {}
        self._gentle = 0.0
        self._passing = Passing(place.device) if place.streamed else None
        self._on_disk = on_disk
        self._blocks = dict[float, RoundedBlocks]()
        self._views = {0.0: self._new_views(0.0, self.model, {})}
        self._lock = Lock()

    @classmethod
    def prepare(
        cls,
        model: Any,
        spec: ModelSpec,
        tokens: Tensor,
        directory: Path,
        *,
        dtype: torch.dtype,
        place: Placement | None = None,
        importance: str = "obs",
        experts: str = "reap",
        damping: float = 0.01,
        steps: int = 48,
        batch_size: int = 8,
        read: bool = False,
        refit_bytes: int = 3 << 28,
        on_disk: OnDisk = NOTHING,
        on_layer: Callable[[int], None] = lambda index: None,
    ) -> Supernet:
        """Calibrates, orders and permutes a dense model, and stores what refits need in `directory`.

        Args:
            model: Dense causal LM in any dtype; it is permuted in place, cast to `dtype` and put where it belongs, one
                layer at a time.
            spec: The model in numbers.
            tokens: Calibration tokens, shape (windows, length).
            directory: Where the factors go; written whole or not at all.
            dtype: What the model runs in from here on.
            place: Where it runs; None for where it is.
            importance: Row of `space.supernet.recipe.RULES`.
            experts: Row of `space.supernet.recipe.EXPERT_RULES`, by which those of a mixture are ordered.
            damping: Ridge on the Gram matrices, as a fraction of their mean diagonal.
            steps: How often the OBS cost of channels is evaluated anew.
            batch_size: Windows of a forward pass.
            read: Whether what input projections and the LM head read is kept too, so that their rounding knows it.
            refit_bytes: Memory limit of the refit cache.
            on_disk: What is kept of solved levels there.
            on_layer: Called with the number of each layer that is done.

        Raises:
            UserError: The directory cannot be written, or a Gram matrix is not positive definite.
        """
        place = place or Placement(model.device)
        stored = StoredLayers.make(
            model, spec, tokens, directory, dtype=dtype, place=place, importance=importance,
            experts=experts, damping=damping, steps=steps, batch_size=batch_size, read=read, on_layer=on_layer,
        )  # fmt: skip
        return cls(model, stored, place, refit_bytes, on_disk)

    @classmethod
    def load(
        cls,
        model: Any,
        spec: ModelSpec,
        directory: Path,
        *,
        dtype: torch.dtype,
        place: Placement | None = None,
        refit_bytes: int = 3 << 28,
        on_disk: OnDisk = NOTHING,
    ) -> Supernet:
        """Permutes a dense model as `prepare` once did, from what it stored; see there.

        Raises:
            UserError: There is nothing stored, or it belongs to another model or version.
        """
        place, stored = place or Placement(model.device), StoredLayers.open(directory, spec, dtype)
        stored.place(model, dtype, place)
        return cls(model, stored, place, refit_bytes, on_disk)

    @classmethod
    def of_slices(
        cls, model: Any, spec: ModelSpec, *, dtype: torch.dtype, place: Placement, refit_bytes: int = 3 << 28
    ) -> Supernet:
        """What `sliced` gives, of a dense model that nothing is stored of: for times alone; see `prepare`."""
        place_as_it_came(model, dtype, place)
        return cls(model, StoredLayers(Path(), spec, ()), place, refit_bytes).sliced()

    def with_weights(self, learned: Mapping[str, Tensor], gentle: float = 0.0) -> Supernet:
        """This supernet with other weights in its subnets; the dense model, `Candidate.dense`, stays as it is.

        Args:
            learned: By the names of `space.supernet.shared.SharedWeights.parameters`, in the model's dtype; what is not
                named stays.
            gentle: Subnets that lack at most this part of the decoder layers' parameters take half of the change: what
                much smaller ones have learned would do them more harm than good.

        Raises:
            ValueError: A name or a shape is not that of a weight of the model.
        """
        healed = copy.copy(self)
        healed.healed, healed._learned, healed._gentle = True, learned, gentle
        healed._views, healed._blocks, healed._lock = {0.0: self._views[0.0]}, {0.0: self._blocks[0.0]}, Lock()
        healed.solved = defaultdict(dict, {0.0: self.solved[0.0]})
        healed._views_of(1.0)
        return healed

    def sliced(self) -> Supernet:
        """The dense model with plain slices of its weights in narrower blocks, of the shapes and layout of refits.

        Nothing is solved, rounded or read: for what depends on no values, such as times. Layers run where they are.
        """
        other = copy.copy(self)
        other.healed, other._lock = False, Lock()
        slices = Slices([*layers_of(self.model)], self.spec)
        other._views = {0.0: Views(self.model, self.spec, slices.block, self.outer.weight, self._memory)}
        return other

    def dense(self) -> Any:
        """The dense causal LM, to be run."""
        return self.model if self._passing is None else self._views[0.0].view(self._dense)

    def forget(self) -> None:
        """Gives back the memory of narrower blocks, which are made again when they are asked for."""
        for views in self._views.values():
            views.forget()

    def strength(self, candidate: Candidate) -> float:
        """The part of what was learned that a candidate takes, from 0 to 1; subnets of equal strength share weights."""
        if not self.healed or candidate.unrounded == self._dense:  # nothing is gone that others have learned to do
            return 0.0
        return GENTLY if removed_params(self.spec, candidate) <= self._gentle else 1.0

    def link_to(self, directory: Path) -> None:
        """Puts what is stored into another directory, as hard links where the file system can.

        Raises:
            UserError: The directory cannot be written.
        """
        self._files.link_to(directory)

    @property
    def removal_order(self) -> list[int]:
        """All layers, from 0, the one that changes least on the calibration text first."""
        return sorted(range(self.spec.layers), key=lambda index: self.influence[index])

    def lost_energy(self, index: int) -> tuple[dict[tuple[int, int], float], Callable[[LayerShape], float]]:
        """What the blocks of a layer lose at every level, see `space.supernet.lost.lost_energy`."""
        return lost_energy(self._files, index)

    def view(
        self, candidate: Candidate, correction: Correction | None = None, *, own: bool = False, start: int = 0
    ) -> Any:
        """The candidate as a causal LM of the class that an export ships, with the supernet's tensors.

        With warm refits this takes a few milliseconds and copies nothing. Any number of views may be alive at once, in
        any threads. Layers that are gone are not there: the others are numbered anew, as in an export. The decoder
        layers of a view are its own to hook; what is below them is shared.

        Args:
            candidate: What to be.
            correction: Output projections to use in place of the refits, of this very candidate.
            own: Whether all modules and tensors are to be the caller's own, to train or convert.
            start: So many first layers are left out; hand the others `inputs_embeds`, the residual stream before them.

        Raises:
            ValueError: The candidate or the correction does not fit the model.
        """
        self.require_fit(candidate)
        if correction is not None and correction.candidate != candidate:
            raise ValueError(f"Supernet: expected a correction of {candidate.key}, got {correction.candidate.key}'s.")
        return self._views_of(self.strength(candidate)).view(candidate, correction, own=own, start=start)

    def layer(self, index: int, shape: LayerShape, strength: float = 0.0) -> Any:
        """One decoder layer at a shape; its modules are the caller's own to hook, its tensors the supernet's.

        Args:
            index: Which.
            shape: What it keeps.
            strength: See `strength`; 0 for the dense model's weights.
        """
        require_part(self.spec, index, shape)
        return self._views_of(strength).layer(index, shape)

    def norm(self, strength: float = 0.0) -> Any:
        """The norm behind the last layer; see `layer`."""
        return self._views_of(strength).norm

    def _views_of(self, strength: float) -> Views:
        with self._lock:
            if strength not in self._views:
                model, merged = partly_learned(self.model, self._files, self._learned, strength)
                self._views[strength] = self._new_views(strength, model, merged)
            return self._views[strength]

    def _new_views(self, strength: float, model: Any, merged: Mapping[str, Tensor]) -> Views:
        layers, device = [*layers_of(model)], self.place.device
        refits = Refits(layers, self._files, merged, device, self._on_disk, self.solved[strength])
        self._blocks[strength] = RoundedBlocks(layers, refits, self._files, self._codes, device)
        block, outer = self._blocks[strength].block, self.outer.weight
        return Views(model, self.spec, block, outer, self._memory, self._passing)

    def codes(self, candidate: Candidate) -> Iterator[tuple[int, str, Codes]]:
        """Of each block of a candidate that has a type: its layer, its kind and its rounded matrices."""
        self._views_of(strength := self.strength(candidate))
        for index, shape in enumerate(candidate.layers):
            for kind in KINDS:
                if shape.type_of(kind):
                    yield index, kind, self._blocks[strength].codes(index, kind, shape)

    def require_fit(self, candidate: Candidate) -> None:
        """Raises ValueError where a candidate does not fit the model, or has fewer tokens; see `Candidate.blocks`."""
        spec, given = self.spec, len(candidate.layers)
        if given != spec.layers or candidate.vocabulary:
            fewer = f" of {candidate.vocabulary} tokens" if candidate.vocabulary else ""
            raise ValueError(f"Supernet: expected a candidate of {spec.layers} layers, got {given}{fewer}.")
        if all(shape.kv_heads == 0 for shape in candidate.layers):
            raise ValueError("Supernet: expected at least one layer with attention, got none.")
        for index, shape in enumerate(candidate.layers):
            require_part(self.spec, index, shape)

    def dropped_map(self, index: int, kind: str, shape: LayerShape) -> Tensor:
        """See `space.supernet.store.StoredLayers.dropped_map`; on the device, in what refits are solved in."""
        return self._files.dropped_map(index, kind, shape, self.place.device, solving_dtype(self.model.dtype))
