"""front.html: the front as one self-contained page, drawn by plotly.js from data that this file prepares.

The page's own HTML, style and script lie in `search/page/`; they see nothing but the JSON made here.
"""

from __future__ import annotations

import html
import json
import math
import re
import shlex
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from plotly.offline import get_plotlyjs

from evaluators.base import Metric
from search.report import COSTS, REMOVED, SEARCH_QUALITY, SHAPES, dense_row, landmarks
from search.run_directory import atomic_write
from search.script import FREE_RANK

# Column: what people call it, its unit, and how the page writes its numbers.
LABELS: dict[str, tuple[str, str, str]] = {
    "kl": ("KL to dense, search text", "nats/token", "fine"),
    "nll": ("NLL, search text", "nats/token", "fine"),
    "heldout_kl": ("KL to dense, held-out text", "nats/token", "fine"),
    "heldout_ppl": ("Perplexity, held-out text", "", "plain"),
    "acc": ("Accuracy, tasks of the search (not held out)", "", "fine"),
    "latency_ms": ("Latency, from the table", "ms", "plain"),
    "latency_e2e_ms": ("Latency, end to end", "ms", "plain"),
    "prefill_ms": ("Prefill, from the table", "ms", "plain"),
    "prefill_e2e_ms": ("Prefill, end to end", "ms", "plain"),
    "decode_ms": ("Decoding a token, from the table", "ms", "plain"),
    "decode_e2e_ms": ("Decoding a token, end to end", "ms", "plain"),
    "params": ("Parameters", "", "count"),
    "decoder_params": ("Decoder-layer parameters", "", "count"),
    REMOVED: ("Decoder parameters removed", "", "percent"),
    "macs_per_token": ("MACs per token", "", "count"),
    "kv_bytes": ("KV cache", "", "bytes"),
}
PLAIN_VALUE = re.compile(r"[\w./+-]+", re.ASCII)


def front_figure_data(
    front: pd.DataFrame, dominated: pd.DataFrame, objectives: Sequence[Metric], scores: Sequence[Metric] = ()
) -> dict[str, Any]:
    """Everything that the page draws, as JSON-ready values; numbers that nobody measured are None.

    Args:
        front: The front's table, the dense model's row in it.
        dominated: Points off the front, with the same shapes and some of the same metrics; may be empty.
        objectives: The search's objectives; they choose the axes that the page opens with.
        scores: Task scores that are columns of both tables.

    Returns:
        `columns` (name, label, unit, kind, goal); `x` and `y` (columns to choose from, the first is shown first);
        `points` (key, role, marks, values in the order of `columns`, layers as `[query_heads, kv_heads, mlp_channels]`;
        front points from the slowest to the fastest); and `selected`, the key to open with.
    """
    dense = dense_row(front)
    marks = landmarks(front, objectives)
    columns = [name for name in front.columns if pd.api.types.is_numeric_dtype(front[name])]
    x, y = _axes(columns, objectives)
    y += [metric.name for metric in scores if metric.name in columns]
    front_keys = set(front["key"])
    points = list(_points(front, "front", columns)) + [
        point for point in _points(dominated, "dominated", columns) if point["key"] not in front_keys
    ]
    for point in points:
        if point["key"] == dense["key"]:
            point["role"] = "dense"
        point["marks"] = [mark for mark, key in marks.items() if key == point["key"]]
    return {
        "columns": [_column(name, [*objectives, *scores]) for name in columns],
        "x": x,
        "y": y,
        "points": points,
        "selected": marks.get("knee", str(dense["key"])),
    }


def write_front_html(
    path: Path,
    front: pd.DataFrame,
    dominated: pd.DataFrame,
    objectives: Sequence[Metric],
    scores: Sequence[Metric] = (),
    *,
    run_dir: str,
    title: str,
) -> None:
    """Writes the page: one file of some 5 MB that needs no network.

    Args:
        path: Where to write it.
        front: The front's table, the dense model's row in it.
        dominated: Points off the front, with shapes, as `points_table` makes them.
        objectives: The search's objectives.
        scores: See `front_figure_data`.
        run_dir: The run directory, as the export command is to name it.
        title: Heading; usually the model's name.
    """
    data = front_figure_data(front, dominated, objectives, scores) | {
        "title": title,
        "run_dir": run_dir,
        "command": f"python export_subnet.py {_override('run_dir', run_dir)} pick=",
    }
    page = resources.files("search") / "page"
    parts = {
        "title": html.escape(title),
        "style": (page / "front.css").read_text(encoding="utf-8"),
        "script": (page / "front.js").read_text(encoding="utf-8"),
        "plotly": get_plotlyjs(),
        "data": _script_json(data),
    }
    template = (page / "front.html").read_text(encoding="utf-8")
    # One pass, so that a title such as {{data}} stays a title.
    atomic_write(path, re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], template))


def _axes(columns: Sequence[str], objectives: Sequence[Metric]) -> tuple[list[str], list[str]]:
    """The columns to choose each axis from."""
    names = [metric.name for metric in objectives]
    quality = [metric.name for metric in objectives if metric.name in SEARCH_QUALITY or metric.cost_rank > FREE_RANK]
    costs = [name for name in names if name not in quality]
    x = ["latency_ms", *costs, *(name for name in COSTS if name != REMOVED)]
    y = [*quality, "heldout_ppl"] if quality else [*names[1:], "heldout_ppl", *names[:1]]
    return [_ for _ in dict.fromkeys(x) if _ in columns], [_ for _ in dict.fromkeys(y) if _ in columns]


def _column(name: str, known: Sequence[Metric]) -> dict[str, str]:
    """What the page knows of a column; one that `LABELS` has not goes by its metric's name and unit."""
    metric = next((metric for metric in known if metric.name == name), Metric(name, "", "min", 0))
    label, unit, kind = LABELS.get(name, (name, metric.unit, "plain"))
    return {"name": name, "label": label, "unit": unit, "kind": kind, "goal": metric.goal}


def _points(frame: pd.DataFrame, role: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a table as the page's points."""
    for row in frame.to_dict("records"):
        yield {
            "key": str(row["key"]),
            "role": role,
            "values": [_finite(row.get(name)) for name in columns],
            "layers": [list(shape) for shape in zip(*(row[name] for name in SHAPES), strict=True)],
        }


def _finite(value: Any) -> float | int | None:
    """A number as JSON has it."""
    if value is None or not math.isfinite(value):
        return None
    return int(value) if float(value).is_integer() else float(value)


def _override(key: str, value: str) -> str:
    """`key=value` for a shell and for Hydra, which both give a meaning to blanks, commas, quotes and brackets."""
    if PLAIN_VALUE.fullmatch(value):
        return f"{key}={value}"
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return shlex.quote(f"{key}='{quoted}'")


def _script_json(data: dict[str, Any]) -> str:
    """JSON that no text in it can break out of a script element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
