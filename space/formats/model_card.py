"""The model card of an exported checkpoint: what it is, how to load it, its layers, figures and origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from space.candidate import KINDS, Candidate
from space.formats.picture import PICTURE_FILE, layers_svg
from space.formats.requirements import checked_in
from space.markdown import escaped, table
from space.models.architectures import architecture_of
from space.spec import ModelSpec
from space.types import GGUF_TYPES

Texts = Sequence[tuple[str, str, str]]  # a prompt, what the dense model writes after it, and what this one does
# Title of a section to its rows: of name and value, or of texts.
Card = Mapping[str, Mapping[str, object] | Texts]
FRONT_MATTER = "front matter"  # the section, of arguments of ModelCardData, that a hub reads and a person does not
REPOSITORY = "repository"  # its row of where the checkpoint will be on the hub
CHECKPOINT = "path/to/this/directory"  # what stands for the checkpoint in the lines that load it
_NO_BLOCK = "none"


def _versions(spec: ModelSpec, whole: bool) -> str:
    if spec.use.reads != "text" or spec.routed or not whole:
        return "Older versions may call its weights otherwise, and not load it."
    least = ".".join(map(str, architecture_of(spec.family).transformers))
    return (
        f"Where there is a `config.json`, {checked_in(spec)} give the same numbers and tokens: such checkpoints are "
        f"tested in them. Versions before {least} may give others without a word."
    )


def write_card(
    directory: Path,
    spec: ModelSpec,
    candidate: Candidate,
    card: Card,
    *,
    kind: str,
    library: str,
    use: str,
    serve: str | None = None,
    whole: bool = True,
) -> None:
    """Writes README.md, and the picture that it shows, into the directory of a checkpoint.

    Args:
        directory: Of the checkpoint.
        spec: The dense model.
        candidate: What is left of it.
        card: Further sections, and the front matter.
        kind: A sentence on what sort of checkpoint it is.
        library: What loads it.
        use: Lines of Python that load it from `CHECKPOINT`.
        serve: A command that serves it from `CHECKPOINT`.
        whole: Whether the dense model is all that is in it.
    """
    (directory / PICTURE_FILE).write_text(layers_svg(spec, candidate), encoding="utf-8")
    sections: dict[str, Any] = dict(card)
    front = dict(sections.pop(FRONT_MATTER, {}))
    repository = front.pop(REPOSITORY, None)
    facts = ModelCardData(
        **{
            "library_name": library,
            "pipeline_tag": spec.use.pipeline,
            "tags": ["pruned"],
            **({"base_model": spec.name} if "/" in spec.name else {}),  # only a hub's id has an owner before it
            **front,
        }
    )
    licence = f"{facts.license}, as the base model's" if facts.license else "that of the base model; see the base model"
    parts = [
        f"---\n{facts.to_yaml()}\n---",
        f"# {spec.name}, pruned ({candidate.key})",
        f"A smaller, dense model cut out of `{spec.name}` (digest `{spec.digest}`, family `{spec.family}`) by "
        f"structured pruning. {kind}",
        f"Licence: {licence}.",
        "## Use",
        *_placed(repository, f"```python\n{use}\n```", *([f"```bash\n{serve}\n```"] if serve else [])),
        f"Saved with transformers {version('transformers')} and torch {version('torch')}. {_versions(spec, whole)}",
        "## Architecture",
        f"![What is left of each layer]({PICTURE_FILE})",
        f"Hidden size {spec.hidden}, head width {spec.head_dim}; the dense model has {spec.layers} layers of "
        f"{spec.query_heads} query heads, {spec.kv_heads} KV heads and {spec.mlp_channels} {spec.mlp_units}"
        f"{_plain(spec)}.",
        table(
            (
                *("layer", "layer of the dense model", "query heads", "KV heads", spec.mlp_units),
                *(("channels of each",) if _narrow(candidate) else ()),
                *(("type of attention", "type of MLP") if candidate.is_rounded else ()),
            ),
            ([str(cell) for cell in row] for row in _layer_rows(spec, candidate)),
        ),
    ]
    for title, rows in sections.items():
        parts += [f"## {title}", _named(rows) if isinstance(rows, Mapping) else _texts(rows)]
    ModelCard("\n\n".join(parts) + "\n").save(directory / "README.md")


def _plain(spec: ModelSpec) -> str:
    """What is said of plain MLPs among mixtures, if there are any."""
    layers = ", ".join(map(str, spec.plain_mlps))
    return f", but a plain MLP of {spec.plain_channels} channels in each of layers {layers}" if layers else ""


def _placed(repository: object, *blocks: str) -> list[str]:
    """Lines that load a checkpoint, from its repository where there is one: engines take its id for a directory.

    A file in it has to be downloaded first.
    """
    if repository is None:
        return [*blocks]
    files = any(f"{CHECKPOINT}/" in block for block in blocks)
    download = [f"```bash\nhf download {repository} --local-dir {CHECKPOINT}\n```"] if files else []
    return download + (list(blocks) if files else [block.replace(CHECKPOINT, str(repository)) for block in blocks])


def _narrow(candidate: Candidate) -> bool:
    """Whether experts of any layer have fewer channels."""
    return any(shape.expert_channels for shape in candidate.layers)


def _layer_rows(spec: ModelSpec, candidate: Candidate) -> list[tuple[object, ...]]:
    """A row for each run of equal neighbours; layers that are gone have no number in the checkpoint."""
    rows: list[tuple[object, ...]] = []
    new = 0
    for shape, group in groupby(enumerate(candidate.layers), key=lambda item: item[1]):
        old = [index for index, _ in group]
        if shape.gone:
            missing = [_NO_BLOCK] * (3 + 2 * candidate.is_rounded + _narrow(candidate))
            rows.append(("removed", _span(old[0], len(old)), *missing))
            continue
        sizes = [shape.query_heads, shape.kv_heads, shape.mlp_channels]
        if _narrow(candidate):
            experts = shape.mlp_channels and not spec.is_plain(shape.mlp_channels)
            sizes.append((shape.expert_channels or spec.expert_channels) if experts else 0)
        types = [GGUF_TYPES[shape.type_of(kind)].upper() if shape.keeps(kind) else _NO_BLOCK for kind in KINDS]
        cells = [*(size or _NO_BLOCK for size in sizes), *(types if candidate.is_rounded else [])]
        rows.append((_span(new, len(old)), _span(old[0], len(old)), *cells))
        new += len(old)
    return rows


def _span(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first} to {first + count - 1}"


def _named(rows: Mapping[str, object]) -> str:
    """Names and values; bars alone are told apart from the table's."""
    cells = ([str(cell).replace("|", "\\|") for cell in row] for row in rows.items())
    return table(("what", "value"), cells, left=2)


def _texts(rows: Texts) -> str:
    """What models write, which may be anything and stays text."""
    return table(("prompt", "the dense model goes on", "this one does"), (map(escaped, row) for row in rows), left=3)
