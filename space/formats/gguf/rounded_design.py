"""The codes that a design with types of its own is searched with, as a file has them."""

from __future__ import annotations

from space.candidate import EMBEDDING, HEAD, Candidate
from space.models.architectures import architecture_of
from space.rounding.rounded import Rounded
from space.supernet.supernet import Supernet


def design_codes(supernet: Supernet, candidate: Candidate) -> dict[str, Rounded]:
    """The matrices of a design that are rounded in the supernet's view of it, by their names in a checkpoint."""
    family = architecture_of(supernet.spec.family)
    places = {index: place for place, index in enumerate(candidate.kept)}
    rounded: dict[str, Rounded] = {}
    for index, kind, codes in supernet.codes(candidate):
        path = family.blocks[kind].path
        rounded |= {f"model.layers.{places[index]}.{path(name)}.weight": each for name, each in codes.items()}
    outer = {EMBEDDING: ("model.embed_tokens", candidate.embedding_type), HEAD: ("lm_head", candidate.head_type)}
    for kind, (module, number) in outer.items():
        if number:
            rounded[f"{module}.weight"] = supernet.outer.codes(kind, number)
    return rounded
