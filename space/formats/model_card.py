"""The model card of an exported checkpoint: what it is, how to load it, its layers, figures and origin."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from itertools import groupby

from huggingface_hub import ModelCard, ModelCardData

from space.candidate import Candidate
from space.formats.requirements import CHECKED, TRANSFORMERS
from space.markdown import escaped, table
from space.spec import ModelSpec

Texts = Sequence[tuple[str, str, str]]  # a prompt, what the dense model writes after it, and what this one does
Card = Mapping[str, Mapping[str, object] | Texts]  # title of a section to its rows: of name and value, or of texts
_NO_BLOCK = "none"
_VERSIONS = (
    f"Where there is a `config.json`, {CHECKED} give the same numbers and tokens: such checkpoints are tested in them. "
    f"Versions before {'.'.join(TRANSFORMERS[0].split('.')[:2])} may give others without a word."
)


def model_card(
    spec: ModelSpec,
    candidate: Candidate,
    tables: Card,
    *,
    kind: str,
    library: str,
    use: str,
) -> ModelCard:
    """The card, to be saved as README.md.

    Args:
        spec: The dense model.
        candidate: What is left of it.
        tables: Further sections.
        kind: A sentence on what sort of checkpoint it is.
        library: What loads it.
        use: Lines of Python that load it.
    """
    facts = ModelCardData(
        base_model=spec.name if "/" in spec.name else None,  # only a hub's id has an owner before it
        library_name=library,
        pipeline_tag="text-generation",
        tags=["pruned"],
    )
    parts = [
        f"---\n{facts.to_yaml()}\n---",
        f"# {spec.name}, pruned ({candidate.key})",
        f"A smaller, dense model cut out of `{spec.name}` (digest `{spec.digest}`, family `{spec.family}`) by "
        f"structured pruning. {kind}",
        "Licence: that of the base model; see the base model.",
        "## Use",
        f"```python\n{use}\n```",
        f"Saved with transformers {version('transformers')} and torch {version('torch')}. {_VERSIONS}",
        "## Architecture",
        f"Hidden size {spec.hidden}, head width {spec.head_dim}; the dense model has {spec.layers} layers of "
        f"{spec.query_heads} query heads, {spec.kv_heads} KV heads and {spec.mlp_channels} MLP channels.",
        table(
            ("layer", "layer of the dense model", "query heads", "KV heads", "MLP channels"),
            ([str(cell) for cell in row] for row in _layer_rows(candidate)),
        ),
    ]
    for title, rows in tables.items():
        parts += [f"## {title}", _named(rows) if isinstance(rows, Mapping) else _texts(rows)]
    return ModelCard("\n\n".join(parts) + "\n")


def _layer_rows(candidate: Candidate) -> list[tuple[object, ...]]:
    """A row for each run of equal neighbours; layers that are gone have no number in the checkpoint."""
    rows: list[tuple[object, ...]] = []
    new = 0
    for shape, group in groupby(enumerate(candidate.layers), key=lambda item: item[1]):
        old = [index for index, _ in group]
        if shape.gone:
            rows.append(("removed", _span(old[0], len(old)), _NO_BLOCK, _NO_BLOCK, _NO_BLOCK))
            continue
        sizes = (shape.query_heads, shape.kv_heads, shape.mlp_channels)
        rows.append((_span(new, len(old)), _span(old[0], len(old)), *(size or _NO_BLOCK for size in sizes)))
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
