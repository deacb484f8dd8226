"""The front as a table: built from candidates and their metrics, kept as front.csv."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from evaluators.base import Metric
from evaluators.metrics import (
    HELDOUT_QUALITY,
    METRICS,
    REMOVED,
    SEARCH_QUALITY,
    VOCABULARY_REMOVED,
    ordered,
)
from search.run.directory import CONFIG_FILE
from space.candidate import Candidate
from space.errors import UserError
from space.files import write_whole

CANDIDATE = "candidate"  # the column of what the rows are about: `Candidate` in memory, its JSON form in files

Point = tuple[Candidate, Mapping[str, float]]


def points_table(points: Iterable[Point], dense: Point) -> pd.DataFrame:
    """One row a candidate: its key, its metrics and itself, in front.csv's column order.

    A column that nothing measured is left out.

    Args:
        points: Candidates with all their metric values merged, `decoder_params` among them.
        dense: The dense model, against which removal is counted.

    Raises:
        ValueError: A candidate stands there twice, or its `decoder_params` are missing.
    """
    rows = [_row(candidate, values, dense[1]) for candidate, values in points]
    columns = _column_order({name for row in rows for name in row})
    frame = pd.DataFrame(rows, columns=columns)
    if frame["key"].duplicated().any():
        raise ValueError(f"points_table: expected distinct candidates, got {_twice(frame['key'])} more than once.")
    for name in (metric.name for metric in METRICS if metric.format in ("count", "bytes")):
        if name in frame and np.isfinite(frame[name].to_numpy(dtype=float)).all():
            frame[name] = frame[name].astype("int64")
    return in_order(frame)


def front_table(points: Iterable[Point], dense: Point) -> pd.DataFrame:
    """`points_table` with the dense model as its first row, whether or not it is among `points`."""
    others = [point for point in points if point[0].key != dense[0].key]
    return points_table([dense, *others], dense)


def is_dense(frame: pd.DataFrame) -> np.ndarray:
    """Which rows are the dense model, as a mask of shape `(rows,)`."""
    lacks = [frame[name].to_numpy(dtype=float) for name in (REMOVED, VOCABULARY_REMOVED) if name in frame]
    if CANDIDATE in frame:
        lacks.append(np.array([float(candidate.is_rounded) for candidate in frame[CANDIDATE]]))
    return np.asarray((np.stack(lacks) == 0.0).all(axis=0))


def dense_row(frame: pd.DataFrame) -> pd.Series:
    """The dense model's row.

    Raises:
        ValueError: The table has none.
    """
    mask = is_dense(frame)
    if not mask.any():
        raise ValueError(
            f"Expected the dense model ({REMOVED} = 0) in the front's table, got {len(frame)} rows without."
        )
    return frame.iloc[int(mask.argmax())]


def objective_values(frame: pd.DataFrame, objectives: Sequence[Metric], quality: str) -> np.ndarray:
    """What the objectives say of each row, all to be minimised, as an array `(rows, objectives)`.

    Args:
        frame: The front's table.
        objectives: The search's objectives.
        quality: Column that stands in for the search's own quality.
    """
    signs = {name: 1.0 if metric.goal == "min" else -1.0 for name, metric in deciding(objectives, quality).items()}
    missing = [name for name in signs if name not in frame]
    if missing:
        raise ValueError(f"Expected columns {', '.join(missing)} in the front's table, got {', '.join(frame.columns)}.")
    return np.asarray(frame[list(signs)].to_numpy(dtype=float) * np.array(list(signs.values())))


def deciding(objectives: Sequence[Metric], quality: str) -> dict[str, Metric]:
    """The columns that objectives are judged by, with `quality` for the search's own, and what each stands for."""
    columns: dict[str, Metric] = {}
    for metric in objectives:
        columns.setdefault(quality if metric.role == "quality" else metric.name, metric)
    return columns


def quality_column(frame: pd.DataFrame) -> str | None:
    """The column to judge quality by: held-out text before the search's own; None when nothing measured it."""
    return next((name for name in (*HELDOUT_QUALITY, *SEARCH_QUALITY) if name in frame), None)


def latency_column(frame: pd.DataFrame) -> str | None:
    """The column that says which point is fastest: end to end where that is measured; None when no latency is known."""
    known = [name for name in ("latency_e2e_ms", "latency_ms") if name in frame and frame[name].notna().any()]
    return next(iter(known), None)


def write_front_csv(path: Path, frame: pd.DataFrame) -> None:
    """Writes the table whole or not at all; floats read back exactly, candidates are JSON."""
    text = frame.assign(**{CANDIDATE: [json.dumps(candidate.to_json()) for candidate in frame[CANDIDATE]]})
    write_whole(path, text.to_csv(index=False))


def read_front_csv(path: Path) -> pd.DataFrame:
    """The inverse of `write_front_csv`.

    Raises:
        UserError: There is no such file, or it does not read as a front; the message says what to do.
    """
    try:
        frame = pd.read_csv(path, dtype={"key": str})
    except FileNotFoundError:
        raise UserError(f"Expected the search's front in {path}, but there is no such file. {_instead(path)}") from None
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors, as are undecodable bytes
        raise UserError(f"{path} does not read as a table ({error}). {_REMEDY}") from error
    problem = _problem(frame)
    if problem:
        raise UserError(f"{path}: {problem} {_REMEDY}")
    try:
        candidates = [Candidate.from_json(json.loads(str(text))) for text in frame[CANDIDATE]]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: expected candidates as JSON, got another cell ({error}). {_REMEDY}") from error
    changed = [key for key, candidate in zip(frame["key"], candidates, strict=True) if candidate.key != key]
    if changed:
        raise UserError(f"{path}: expected the candidates of their keys, not so at {', '.join(changed)}. {_REMEDY}")
    return frame.assign(**{CANDIDATE: pd.Series(candidates, frame.index, dtype=object)})


def _instead(path: Path) -> str:
    """What to give in place of a run directory without a front."""
    if (path.parent / CONFIG_FILE).exists():  # every run has it from its beginning
        return "That run has not ended: run run_search.py on it again to go on."
    if runs := [str(file.parent) for file in sorted(path.parent.glob(f"*/{CONFIG_FILE}"))][:_MOST_RUNS]:
        return f"That is no run directory, but there are some in it: {', '.join(runs)}."
    return "Give the run directory of a search that has ended."


_MOST_RUNS = 5  # that are named in place of a directory that is none
_REMEDY = "Delete it and run run_search.py on the same run directory again: that writes it anew from the archive."


def _row(candidate: Candidate, values: Mapping[str, float], dense_values: Mapping[str, float]) -> dict[str, Any]:
    """One candidate's cells."""
    if "decoder_params" not in values or "decoder_params" not in dense_values:
        raise ValueError(f"{candidate.key}: expected decoder_params among its metrics, got {sorted(values)}.")
    return {
        **values,
        "key": candidate.key,
        REMOVED: 1.0 - values["decoder_params"] / dense_values["decoder_params"],
        CANDIDATE: candidate,
    }


def _column_order(names: set[str]) -> list[str]:
    """The columns that there are, in front.csv's order; the table of no points has key, removal and candidate."""
    return ["key", *ordered(sorted((names | {REMOVED}) - {"key", CANDIDATE})), CANDIDATE]


def in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows from dense to ever faster (smaller, when no latency was measured)."""
    column = latency_column(frame) or ("decoder_params" if "decoder_params" in frame else REMOVED)
    cost = frame[column].to_numpy(dtype=float)
    return frame.iloc[np.lexsort((-cost if column != REMOVED else cost, ~is_dense(frame)))].reset_index(drop=True)


def _problem(frame: pd.DataFrame) -> str | None:
    """What keeps a table that was just read from being a front."""
    missing = [name for name in ("key", REMOVED, CANDIDATE) if name not in frame]
    if missing:
        return f"expected the columns {', '.join(missing)}, got {', '.join(map(str, frame.columns))}."
    words = [n for n in frame.columns if n not in ("key", CANDIDATE) and not pd.api.types.is_numeric_dtype(frame[n])]
    if words:
        return f"expected numbers in the columns {', '.join(words)}, got something else."
    if frame["key"].isna().any() or frame["key"].duplicated().any():
        return f"expected a key of its own on each row, got {list(frame['key'])}."
    if not frame["key"].str.fullmatch(r"\w+").all():  # they are pasted into shells
        return f"expected keys of letters and digits, got {list(frame['key'])}."
    if not is_dense(frame.drop(columns=CANDIDATE)).any():
        return f"expected the dense model's row ({REMOVED} = 0), got {len(frame)} rows without it."
    return None


def _twice(keys: pd.Series) -> str:
    """The keys that a column holds more than once."""
    return ", ".join(sorted(set(keys[keys.duplicated()])))
