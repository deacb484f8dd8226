"""The model card of an exported checkpoint: what it is, how to load it, its layers, figures and origin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby

from space.candidate import Candidate
from space.spec import ModelSpec
from space.verify import Verification

_NO_BLOCK = "none"


def model_card(
    spec: ModelSpec,
    candidate: Candidate,
    tables: Mapping[str, Mapping[str, object]],
    verification: Verification,
    *,
    trust_remote_code: bool,
) -> str:
    """The text of README.md.

    Args:
        spec: The dense model.
        candidate: What is left of it.
        tables: Further sections: title to rows of name and value.
        verification: The checkpoint's comparison with the model that it came from.
        trust_remote_code: Whether the checkpoint brings its own modelling file.
    """
    argument = ", trust_remote_code=True" if trust_remote_code else ""
    kind = (
        "Its layers differ in size, so the checkpoint brings a small modelling file that subclasses the stock classes."
        if trust_remote_code
        else "Its layers are equal, so it is a plain checkpoint of its family."
    )
    parts = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- pruned\n---",
        f"# {spec.name}, pruned ({candidate.key})",
        f"A smaller, dense model cut out of `{spec.name}` (revision `{spec.revision}`, family `{spec.family}`) by "
        f"structured pruning. {kind}",
        "Licence: that of the base model; see the base model.",
        "## Use",
        "```python\nfrom transformers import AutoModelForCausalLM\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("path/to/this/directory"{argument})\n```',
        "## Architecture",
        f"Hidden size {spec.hidden}, head width {spec.head_dim}; the dense model has {spec.layers} layers of "
        f"{spec.query_heads} query heads, {spec.kv_heads} KV heads and {spec.mlp_channels} MLP channels.",
        _table(
            ("layer", "layer of the dense model", "query heads", "KV heads", "MLP channels"), _layer_rows(candidate)
        ),
    ]
    checks = {
        "largest difference of logits, reloaded against searched": f"{verification.logits_difference:.2g}",
        "generate() with the dynamic cache against without, relative": f"{verification.dynamic_cache_difference:.2g}",
        "generate() with the static cache against without, relative": f"{verification.static_cache_difference:.2g}",
        "tokens generated for each": verification.new_tokens,
    }
    for title, rows in (*tables.items(), ("Checked on export, in float32", checks)):
        parts += [f"## {title}", _table(("what", "value"), rows.items())]
    return "\n\n".join(parts) + "\n"


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


def _table(header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> str:
    """A Markdown table."""
    lines = [header, ("---",) * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
