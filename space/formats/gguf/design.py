"""The file of a supernet's design as it is searched with: what is in it, and nothing that an export adds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from space.candidate import EMBEDDING, HEAD, Candidate
from space.formats.checkpoint import checkpoint_parts
from space.formats.gguf.file import write_gguf
from space.formats.gguf.tokenizer import GGUFTokenizer
from space.formats.gguf.types import FileTypes
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


def write_design(
    file: Path,
    supernet: Supernet,
    candidate: Candidate,
    kind: str,
    tokenizer: GGUFTokenizer,
    rounded: Mapping[str, Rounded] | None = None,
) -> Path:
    """Writes the file of a design, and returns where it is.

    Args:
        file: Where to.
        supernet: Whose view is written.
        candidate: The design.
        kind: Row of `space.formats.gguf.types.TYPES`, where the candidate has no types of its own.
        tokenizer: What the file says of it.
        rounded: Matrices that are rounded already, see `design_codes`; None to round all to the nearest values.

    Raises:
        ShapeError: No layer keeps attention.
        UserError: A weight is too large for F16.
    """
    parts = checkpoint_parts(supernet.view(candidate.unrounded), supernet.model.config, candidate)
    types = FileTypes.of(candidate, kind, tied=supernet.spec.tied_embeddings)
    write_gguf(file, parts, supernet.spec, tokenizer, types, candidate.key, rounded)
    return file
