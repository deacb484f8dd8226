"""A latency table that was measured on another device: read, and checked against what a run asks of it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from evaluators.latency.labels import label, outer_types
from evaluators.latency.table import LatencyTable, model_shapes
from evaluators.latency.workload import Workload
from space.errors import UserError
from space.space import SearchSpace
from space.spec import ModelSpec
from space.types import GGUF_TYPES

_TIMED = ("scenario", "batch_size", "length", "new_tokens", "logits")  # settings of what is timed, not of how
_MEASURE = "python run_search.py experiment=profile_only"


def table_of(path: Path, workload: Workload) -> LatencyTable:
    """The table of a file, which is of what a run would time.

    Args:
        path: The `latency.json` of a run.
        workload: Of the run that is to go by it.

    Raises:
        UserError: There is none, it is no table, or something else was timed.
    """
    try:
        table = LatencyTable.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise UserError(
            f"latency.table: expected {path} to be the latency.json of a run, got {type(error).__name__}: {error} "
            f"It is made on the device that it is to be of: {_MEASURE}"
        ) from error
    own, other = asdict(table.workload), asdict(workload)
    unlike = [name for name in _TIMED if own[name] != other[name]]
    if unlike:
        raise UserError(
            f"latency.table={path}: expected a table of what this run would time, got another. Give what it is of: "
            + " ".join(f"latency.{name}={own[name]}" for name in unlike)
        )
    return table


def text_of(path: Path, workload: Workload, spec: ModelSpec, space: SearchSpace) -> str:
    """The table of a file as a run keeps it, which prices every design of the run's space.

    Args:
        path: The `latency.json` of a run.
        workload: Of the run that is to go by it.
        spec: Its model.
        space: Whose options it is to have.

    Raises:
        UserError: See `table_of`; or it is of a model of other shapes, or lacks options.
    """
    table = table_of(path, workload)
    shapes = model_shapes(spec)
    unlike = [
        f"{name} {table.model.get(name)}, here {shape}"
        for name, shape in shapes.items()
        if table.model.get(name) != shape
    ]
    if unlike:
        raise UserError(
            f"latency.table={path}: expected a table of a model of these shapes, got {'; '.join(unlike)}. "
            f"Measure this model where the table is to be of: {_MEASURE}"
        )
    lacking = [
        f"{kind} {label(kind, option)}"
        for phase in table.phases.values()
        for kind, options in space.block_options.items()
        for option in options
        if option not in phase.block_ms.get(kind, {})
    ]
    levels = {
        count for phase in table.phases.values() for count in space.vocabulary if count not in phase.vocabulary_ms
    }
    lacking += [f"a vocabulary of {count} tokens" for count in sorted(levels)]
    pairs = outer_types(spec, space.types)
    outer = {pair for phase in table.phases.values() for pair in pairs if pair not in phase.outer_ms}
    lacking += [f"an embedding in {GGUF_TYPES[one]} and a head in {GGUF_TYPES[other]}" for one, other in sorted(outer)]
    if lacking:
        raise UserError(
            f"latency.table={path}: expected the times of all options of the space, but it lacks "
            f"{', '.join(dict.fromkeys(lacking))}. Search the space that it was measured for, or measure this one "
            f"there: {_MEASURE}"
        )
    return table.to_json()
