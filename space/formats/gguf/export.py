"""Writes a pruned model as a GGUF file, which real llama.cpp has run before it appears."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from space.candidate import KINDS
from space.formats.checkpoint import Subnet, checkpoint_parts, kept_shapes
from space.formats.gguf.families import architecture, context_length, held_shapes, require_arithmetic
from space.formats.gguf.file import write_gguf
from space.formats.gguf.llamacpp import LlamaCppCheck, check_in_llamacpp
from space.formats.gguf.sizes import tensor_bytes
from space.formats.gguf.tokenizer import gguf_tokenizer
from space.formats.gguf.types import FileTypes, rounded_matrices
from space.formats.model_card import CHECKPOINT, Card, write_card
from space.formats.requirements import require_gguf_kind
from space.formats.reveal import revealed_when_complete
from space.rounding.rounded import Rounded
from space.types import GGUF_TYPES


@dataclass(frozen=True)
class GGUFExport:
    """A finished file.

    Attributes:
        file: Where it is.
        architecture: llama.cpp's name for what it holds.
        types: Of its matrices.
        weights_bytes: Of its tensors.
        check: What llama.cpp did with it.
    """

    file: Path
    architecture: str
    types: FileTypes
    weights_bytes: int
    check: LlamaCppCheck

    def remarks(self) -> list[str]:
        """What a person should know of it, in lines."""
        check, allowed = self.check, self.types.tolerance
        return [
            f"run by llama.cpp in a fresh process (architecture {self.architecture}): {check.steps} greedy tokens, "
            f"{check.ties} of them ties; log-probabilities within {check.worst_difference:.2g} nats of what "
            f"its weights give (at most {allowed.worst:g}), {check.mean_difference:.2g} on average (at most "
            f"{allowed.mean:g}); {check.from_unrounded:.2g} on average from the checkpoint before rounding",
            f"llama.cpp's own speed on this CPU: prompt {check.prompt_tokens_per_s:.0f} tokens/s, "
            f"decode {check.decode_tokens_per_s:.0f} tokens/s",
            f"exported: {self.file}",
        ]


def check_gguf(subnet: Subnet) -> str:
    """Refuses, before any work, what llama.cpp cannot hold; returns the name of the architecture that holds the rest.

    Raises:
        UserError: The family is another, its arithmetic, or its tokenizer.
        ShapeError: No layer keeps attention, or llama.cpp has no architecture for layers that differ so.
    """
    spec, candidate = subnet.spec, subnet.candidate
    name = architecture(held_shapes(kept_shapes(candidate), spec), spec)
    require_arithmetic(subnet.config, spec, candidate)
    gguf_tokenizer(subnet.tokenizer, spec.vocab)
    return name


def export_gguf(
    model: nn.Module,
    subnet: Subnet,
    out_dir: Path,
    *,
    kind: str,
    card: Card,
    rounded: Mapping[str, Rounded] | None = None,
) -> GGUFExport:
    """Writes, verifies and only then reveals a directory with one GGUF file and its model card.

    Args:
        model: The candidate, see `space.formats.checkpoint.checkpoint_parts`.
        subnet: What `model` is.
        out_dir: Must not exist, or be an empty directory.
        kind: Row of `space.formats.gguf.types.TYPES`, where the candidate has no types of its own.
        card: Further sections of the model card.
        rounded: Matrices that are rounded already, see `space.formats.gguf.rounded_layers`; others are here.

    Raises:
        ShapeError: As `check_gguf`.
        UserError: As `require_gguf_kind` and `check_gguf`; `out_dir` is taken or cannot be written; or llama.cpp does
            not load the file, or computes something else than the checkpoint.
    """
    require_gguf_kind(kind)
    tokenizer, spec, candidate = subnet.tokenizer, subnet.spec, subnet.candidate
    parts = checkpoint_parts(model, subnet.config, candidate)
    arch = check_gguf(subnet)
    title = f"{spec.name.rpartition('/')[2]}-{candidate.key}"
    types = FileTypes.of(candidate, kind, tied=spec.tied_embeddings)
    file = f"{title}-{types.name}.gguf"
    weights = tensor_bytes(subnet.config, spec, candidate, kind)
    with revealed_when_complete(out_dir) as directory:
        rest = {name: tensor for name, tensor in parts.state.items() if name not in (rounded or {})}
        rounded = {**rounded_matrices(rest, types), **(rounded or {})}
        write_gguf(directory / file, parts, spec, gguf_tokenizer(tokenizer, spec.vocab), types, title, rounded)
        context = context_length(parts.config, spec)
        check = check_in_llamacpp(directory / file, model, rounded, tokenizer, types, context)
        write_card(
            directory,
            spec,
            candidate,
            {**card, "Checked on export, llama.cpp against the file's weights in float32": check.rows()},
            kind=f"It is one GGUF file of llama.cpp's architecture `{arch}`, its matrices in {_said(types)}, with "
            f"{weights:,} bytes of tensors.",
            library="gguf",
            use="import xllamacpp\n\nparams = xllamacpp.CommonParams()\n"
            f'params.model.path = "{CHECKPOINT}/{file}"\nserver = xllamacpp.Server(params)',
            serve=f"llama-server -m {CHECKPOINT}/{file}",
        )
    return GGUFExport(out_dir / file, arch, types, weights, check)


def _said(types: FileTypes) -> str:
    """The types of a file in words: of a design with types of its own, of how many blocks."""
    if types.own is None:
        return types.kind.upper()
    kept = [shape.type_of(kind) for shape in types.own.layers for kind in KINDS if shape.keeps(kind)]
    blocks = [f"{GGUF_TYPES[number].upper()} ({count} blocks)" for number, count in sorted(Counter(kept).items())]
    outer = [GGUF_TYPES[number].upper() for number in (types.own.embedding_type, types.own.head_type)]
    return f"{', '.join(blocks)}, its embedding in {outer[0]}" + f", its head in {outer[1]}" * (not types.tied)
