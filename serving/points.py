"""The models of a run's points, as its exports have them before any polish, with every tensor in memory once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from evaluators.paths import Show
from evaluators.session import Session
from serving.kept_refits import KeptRefits
from space.candidate import Candidate
from space.errors import UserError
from space.locations import SERVING_DIRECTORY
from space.supernet.store import META_FILE


@dataclass(frozen=True)
class Points:
    """Models that share what is equal.

    Attributes:
        models: By id, causal language models.
        dense_bytes: Of the dense model's weights.
        own_bytes: What each point has for itself, in the order in which they were made: refits, and what it was tuned
            with; of what several have, the first has it all.
    """

    models: Mapping[str, Any]
    dense_bytes: int
    own_bytes: Mapping[str, int]

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.dense_bytes + sum(self.own_bytes.values())

    def remark(self) -> str:
        """The memory in a sentence."""
        return (
            f"{len(self.models)} models in {self.bytes / 1e6:,.0f} MB, {self.bytes / self.dense_bytes:.2f} times the "
            f"dense model's {self.dense_bytes / 1e6:,.0f} MB"
        )


def open_points(session: Session, candidates: Mapping[str, Candidate], show: Show) -> Points:
    """Makes the models of points, each after all of the run's training.

    Args:
        session: Of the run.
        candidates: By id.
        show: Told how many there are, of how many.

    Raises:
        UserError: The model is larger than its device, or see `Session.finished_model`.
    """
    loaded = session.loaded
    if loaded.streamed:
        raise UserError(
            f"Expected a model that fits on {loaded.device}, to be served there, but {loaded.spec.name} is larger than "
            "that. Serve it from another device: model.device=cpu."
        )
    supernet, paths = session.newest(), session.paths
    made_of = [paths.supernet / META_FILE, *sorted(paths.healed.glob("*.json"))]
    refits = KeptRefits(paths.run_dir / SERVING_DIRECTORY, supernet, made_of)
    seen = _storages([supernet.model])
    models: dict[str, Any] = {}
    dense_bytes, own_bytes = sum(seen.values()), {}
    for done, (name, candidate) in enumerate(candidates.items(), start=1):
        model, view = session.finished_model(candidate), supernet.view(candidate)
        refits.add(candidate, view)
        _share(model, view)
        new = {at: size for at, size in _storages([model]).items() if at not in seen}
        models[name], own_bytes[name] = model, sum(new.values())
        seen |= new
        show(done, len(candidates))
    refits.write()
    supernet.forget()  # narrower blocks that no point has
    return Points(models, dense_bytes, own_bytes)


def ends_of(model: Any, tokenizer: Any) -> set[int]:
    """Tokens by which a model ends a text."""
    given = model.generation_config.eos_token_id
    ends = set(given if isinstance(given, list) else [given]) | {tokenizer.eos_token_id}
    return {end for end in ends if end is not None}


@torch.no_grad()
def _share(model: Any, view: Any) -> None:
    """Gives a model that was trained alone the tensors of the supernet's view in place of its own that are equal."""
    shared = dict(view.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules())
    for name, own in [*model.named_parameters(remove_duplicate=False)]:
        other = shared.get(name)
        if other is None or other.data_ptr() == own.data_ptr() or not _equal(own, other):
            continue
        place, _, key = name.rpartition(".")
        modules[place]._parameters[key] = other


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)


def _storages(models: Iterable[Any]) -> dict[int, int]:
    """Bytes of the storages behind parameters, by address."""
    tensors = (tensor for model in models for tensor in model.parameters())
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
