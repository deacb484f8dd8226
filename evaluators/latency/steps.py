"""What is timed with torch: a subnet's forward pass of a phase, the same work at each call."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, StaticCache

from evaluators.latency.standing_cache import CacheMemory, Place, made_up, standing_cache
from evaluators.latency.workload import REPEATS, WARM, Phase, Workload
from space.candidate import Candidate
from space.errors import UserError
from space.formats.trimmed import trimmed_model
from space.models.images import image_shape
from space.size import vocabulary_size
from space.supernet.supernet import Supernet

Step = partial[Any]  # of a model


class Steps:
    """Forward passes of a supernet's subnets, on its device and in its dtype; to be made and called in inference mode.

    Times depend on no values: narrower blocks are plain slices, tokens and what caches hold are made up.
    """

    def __init__(self, supernet: Supernet, workload: Workload) -> None:
        """Makes nothing yet.

        Args:
            supernet: Whose shapes are meant; nothing is refit.
            workload: What is timed.

        Raises:
            UserError: Decoding is to be compiled for a model with sliding windows.
        """
        self._supernet = supernet.sliced()
        self._workload = workload
        self._device = supernet.place.device
        self._memory: dict[Phase, CacheMemory] = {}
        # what is compiled is of the very view and the very cache that it was first called with
        self._compiled: dict[str, tuple[Any, Any]] = {}
        self._caches: dict[tuple[str, int], StaticCache] = {}
        if workload.compile and "decode" in workload.phases:
            static = StaticCache(config=supernet.model.config, max_cache_len=1)
            if any(layer.is_sliding for layer in static.layers):
                raise UserError(
                    "latency.compile=true: expected latency=prefill or a model without sliding windows, whose cache "
                    "would have every token compiled anew. Set latency.compile=false."
                )

    def forget(self) -> None:
        """Gives back all memory that steps have; they are not to be called any more."""
        self._memory.clear()
        self._compiled.clear()
        self._caches.clear()
        self._supernet.forget()

    def step(self, candidate: Candidate, phase: Phase) -> Step:
        """A forward pass as it is; the steps of a phase share the memory of their caches, if they have any."""
        if not self._supernet.spec.use.writes:
            return self._of_encoder(self._view(candidate), phase, candidate)
        if phase not in self._memory:
            spec, dtype = self._supernet.spec, self._supernet.model.dtype
            self._memory = {phase: CacheMemory(spec, phase, dtype, self._device)}  # in place of another phase's
        return self._with_cache(self._view(candidate), phase, candidate, self._memory[phase].place)

    def with_own_cache(self, candidate: Candidate, phase: Phase) -> tuple[Any, Callable[[], Any]]:
        """A candidate's model, and a forward pass that takes the memory of its cache when it is called."""
        model = self._view(candidate)
        if not self._supernet.spec.use.writes:
            return model, self._of_encoder(model, phase, candidate)

        def own(index: int, shape: tuple[int, ...]) -> Tensor:
            return made_up(shape, model.dtype, self._device)

        return model, lambda: self._with_cache(model, phase, candidate, own)()

    def compiled(self, candidate: Candidate, phase: Phase) -> Step:
        """A forward pass of a compiled view; a cache that would grow would have it compiled anew for each token."""
        if candidate.key not in self._compiled:
            mode = "reduce-overhead" if self._device.type == "cuda" else "default"
            view = self._view(candidate)
            self._compiled[candidate.key] = view, torch.compile(view, dynamic=False, mode=mode)
        model, compiled = self._compiled[candidate.key]
        if not self._supernet.spec.use.writes:
            return self._of_encoder(compiled, phase, candidate)
        tokens = self._tokens(phase, candidate)
        if phase.kind == "prefill":
            return partial(compiled, tokens, use_cache=True, **self._logits(phase))
        key = (candidate.key, phase.tokens)
        if key not in self._caches:
            room = WARM + REPEATS["decode"]
            self._caches[key] = StaticCache(config=model.config, max_cache_len=phase.tokens + room)
        cache = self._caches[key]
        cache.reset()
        self._fill(cache, model, phase, candidate)
        return partial(compiled, tokens, past_key_values=cache, use_cache=True)

    def _of_encoder(self, model: Any, phase: Phase, candidate: Candidate) -> Step:
        """A forward pass without a cache, of sequences without padding."""
        if self._supernet.spec.use.reads == "images":
            generator = torch.Generator().manual_seed(0)
            shape = image_shape(self._supernet.model.config, self._supernet.spec)
            images = torch.randn(phase.batch_size, *shape, generator=generator)
            return partial(model, images.to(self._device, self._supernet.model.dtype))
        return partial(model, self._tokens(phase, candidate))

    def _with_cache(self, model: Any, phase: Phase, candidate: Candidate, place: Place) -> Step:
        cache = standing_cache(model.config, self._supernet.spec, candidate, phase, place)
        return partial(
            model, self._tokens(phase, candidate), past_key_values=cache, use_cache=True, **self._logits(phase)
        )

    def _logits(self, phase: Phase) -> dict[str, int]:
        """What a prefill is told of the logits; transformers' own default is all of them."""
        return {"logits_to_keep": 1} if phase.kind == "prefill" and self._workload.logits == "last" else {}

    def _view(self, candidate: Candidate) -> Any:
        """A subnet, with the first rows of its embedding and LM head where it has a vocabulary of its own."""
        view = self._supernet.view(candidate.blocks)
        return trimmed_model(view, range(candidate.vocabulary)) if candidate.vocabulary else view

    def _tokens(self, phase: Phase, candidate: Candidate) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        count = phase.tokens if phase.kind == "prefill" else 1
        return torch.randint(
            vocabulary_size(self._supernet.spec, candidate), (phase.batch_size, count), generator=generator
        ).to(self._device)

    def _fill(self, cache: Cache, model: Any, phase: Phase, candidate: Candidate) -> None:
        """Puts made-up tokens into an empty cache; where there is no attention, of width 1."""
        spec = self._supernet.spec
        for index, shape in enumerate(shape for shape in candidate.layers if not shape.gone):
            size = (phase.batch_size, max(1, shape.kv_heads), phase.tokens, spec.head_dim if shape.kv_heads else 1)
            state = made_up(size, model.dtype, self._device)
            cache.update(state, state.clone(), index)
