"""front.html: the front as one self-contained page, drawn by plotly.js from data that this file prepares.

The page's own HTML, style and scripts lie in `search/views/page/`; they see nothing but the JSON made here.
"""

from __future__ import annotations

import html
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from plotly.offline import get_plotlyjs

from evaluators.metrics import BEFORE_TUNING
from search.run.commands import export_command
from search.run.finished import FinishedRun
from search.run.front import CANDIDATE, dense_row, is_dense
from search.views.page.columns import Column, page_columns
from search.views.page.over_dense import RISE, axes, over_dense, speed_ups
from space.spec import mlp_units
from space.types import GGUF_TYPES

SCRIPTS = (
    "numbers.js",
    "model.js",
    "picture.js",
    "plot.js",
    "panel.js",
    "lists.js",
    "front.js",
)  # in the order of their use
STYLES = ("front.css",)
POLICY = "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:"
DIGITS = 6  # of a number that the page gets


def front_figure_data(run: FinishedRun, compared: Sequence[FinishedRun] = ()) -> dict[str, Any]:
    """Everything that the page draws, as JSON-ready values; numbers that nobody measured are None.

    Args:
        run: The run, named by its directory as the export command is to name it. Its objectives choose the axes, see
            `search.views.page.over_dense.axes`.
        compared: Other runs, whose fronts are laid over.

    Returns:
        `title`; `units`, what MLPs keep, in words; `types`, names of types of matrices by their numbers in shapes;
        `columns`, see `Column`; `axes`, see `Axes`, those to open with first; `shapes`, from a letter to the
        `[query_heads, kv_heads, mlp_channels, attention_type, mlp_type, expert_channels]` that it stands for, without
        zeros at the end; `expert`, the channels of an expert of the dense model, or 0;
        `runs`, this one first, each with name, directory, export command, what makes its numbers unlike this one's, and
        `samples`, prompts and what follows them by key; `series`, sets of points of one run and one role (`dense`,
        `front`, `uniform`, `dominated`), each with keys, the values of every column in its unit, and layers as words of
        such letters; `marks`, from the names of landmarks to keys; `advice`, what is recommended, in a sentence, and
        `trade`, keys and words where nothing is; `selected`, the key to open with.
    """
    front, evaluated, objectives = run.front, run.points, run.objectives
    dense = str(dense_row(front)["key"])
    others = evaluated[~evaluated["key"].isin(front["key"])]
    whole = dense_row(front)[CANDIDATE].layers  # not all alike where some MLPs are no mixtures
    changes = others[CANDIDATE].map(lambda candidate: {*zip(candidate.layers, whole, strict=False)})
    same_in_all = changes.map(lambda pairs: len(pairs) == len({*whole})).astype(bool)
    speeds = speed_ups(objectives, [*front, *evaluated])
    others = over_dense(others, dense_row(front), speeds)
    front, *fronts = (over_dense(one.front, dense_row(one.front), speeds) for one in (run, *compared))
    sets = [
        ("dominated", 0, others[~same_in_all]),
        ("uniform", 0, others[same_in_all]),
        *(("front", place, other[~is_dense(other)]) for place, other in enumerate(fronts, 1)),
        ("front", 0, front[~is_dense(front)]),
        *(("dense", place, other[is_dense(other)]) for place, other in enumerate(fronts, 1)),
        ("dense", 0, front[is_dense(front)]),
    ]
    frames = _alike([frame for _, _, frame in sets])
    metrics = [metric for one in (*compared, run) for metric in one.metrics]
    columns = page_columns(frames, metrics, [*speeds.values(), RISE])
    occurring = Counter(shape for frame in frames for layers in _layers(frame) for shape in layers)
    letters = {shape: letter for (shape, _), letter in zip(occurring.most_common(), _letters(), strict=False)}
    advice = run.advice
    names = _short_names([str(one.run_dir) for one in (run, *compared)])
    return {
        "title": run.summary["model"]["name"],
        "units": mlp_units(run.summary["model"]),
        "columns": [asdict(column) for column in columns],
        "axes": [asdict(one) for one in axes([column.name for column in columns if column.name in front], objectives)],
        "shapes": {letter: list(shape) for shape, letter in letters.items()},
        "types": list(GGUF_TYPES),
        "expert": run.summary["model"].get("expert_channels", 0),
        "runs": [
            _run(names[0], run, [run.measured.words] if run.measured.words else []),
            *(_run(*named, unlike(run.summary, named[1].summary)) for named in zip(names[1:], compared, strict=True)),
        ],
        "series": [
            {
                "role": role,
                "run": place,
                "keys": [str(key) for key in frame["key"]],
                "values": {column.name: _values(frame, column) for column in columns},
                "layers": ["".join(letters[shape] for shape in layers) for layers in _layers(frame)],
            }
            for (role, place, _), frame in zip(sets, frames, strict=True)
        ],
        "marks": run.marks,
        "advice": advice.summary,
        "trade": [[offer.key, str(offer)] for offer in advice.trade] if advice.recommended is None else [],
        "selected": advice.first or dense,
    }


def page_html(data: Mapping[str, Any]) -> str:
    """The page: some 5 MB of HTML that needs no network.

    Args:
        data: As `front_figure_data` gives them.
    """
    head = f"""<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<title>{html.escape(str(data["title"]))} – Pareto front</title>
<style>{page_style()}</style>"""
    scripts = f"""<script type="application/json" id="data">{_script_json(data)}</script>
<script>{get_plotlyjs()}</script>
<script>{page_script()}</script>"""
    return page(head, scripts)


def page(head: str, scripts: str, live: str = "") -> str:
    """The page's HTML around its style, data and scripts.

    Args:
        head: What the head holds besides: title and style.
        scripts: The end of the body: an element `data` with JSON, null for none yet; plotly.js; and `page_script`.
        live: What a live page has between heading and plot.
    """
    parts = {"head": head, "scripts": scripts, "live": live}
    # One pass, so that a title such as {{scripts}} stays a title.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _text("front.html"))


def page_style(*more: str) -> str:
    """The style sheet, and others of `search/views/page/` behind it."""
    return "\n".join(map(_text, (*STYLES, *more)))


def page_script(*more: str) -> str:
    """The page's JavaScript, and other files of `search/views/page/` behind it in the same scope.

    It draws the data on the page, and offers `paretoprune.show(data)` to a live page that has newer ones.
    """
    return '(() => {\n"use strict";\n' + "\n".join(map(_text, (*SCRIPTS, *more))) + "\n})();"


def unlike(facts: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """What makes the numbers of two runs unlike, in words; empty when they can be compared."""
    model, other = facts.get("model") or {}, theirs.get("model") or {}
    remarks = []
    if model.get("digest") != other.get("digest"):
        remarks.append(f"another model ({other.get('name')}), so KL is to another dense model")
    if facts.get("text") != theirs.get("text"):
        remarks.append("other text, so KL and perplexity are on other tokens")
    if facts.get("dtype") != theirs.get("dtype"):
        remarks.append(f"another dtype ({theirs.get('dtype')})")
    devices = [(facts.get(kind) or {}, theirs.get(kind) or {}) for kind in ("latency", "end_to_end")]
    if any(here[name] != there[name] for here, there in devices for name in here.keys() & there.keys()):
        remarks.append("latency of something else, or on another device")
    return remarks


def _alike(frames: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Tables whose `kl` means one thing: where one has qualities before tuning beside it, untuned ones move there."""
    if not any(name in frame for frame in frames for name in BEFORE_TUNING.values()):
        return frames
    return [
        frame if any(name in frame for name in BEFORE_TUNING.values()) else frame.rename(columns=BEFORE_TUNING)
        for frame in frames
    ]


def _run(name: str, run: FinishedRun, notes: list[str]) -> dict[str, Any]:
    samples = {"prompts": [*run.samples.prompts], "texts": {key: [*texts] for key, texts in run.samples.texts.items()}}
    return {
        "name": name,
        "run_dir": str(run.run_dir),
        "command": export_command(run.run_dir),
        "notes": [*notes, *(f"vocabulary {words}" for words in run.summary.get("vocabularies", ()))],
        "samples": samples,
    }


def _short_names(run_dirs: Sequence[str]) -> list[str]:
    """Last parts of directories, or all of a directory whose last part another has too."""
    last = [Path(run_dir).name or run_dir for run_dir in run_dirs]
    return [name if last.count(name) == 1 else run_dir for name, run_dir in zip(last, run_dirs, strict=True)]


def _layers(frame: pd.DataFrame) -> Iterable[list[tuple[int, ...]]]:
    """The shapes of all layers of each row."""
    for candidate in frame[CANDIDATE]:
        yield [shape.row for shape in candidate.layers]


def _letters() -> Iterator[str]:
    """Characters that JSON and HTML leave as they are, those of one byte first, as 5,000 deep designs are to fit in."""
    return (chr(code) for code in range(33, 0xD800) if chr(code).isprintable() and chr(code) not in '"\\&<>')


def _values(frame: pd.DataFrame, column: Column) -> list[float | int | None]:
    """A column's numbers in its unit, as JSON has them; empty for one that the table has not."""
    if column.name not in frame:
        return []
    return [_short(value / column.scale) for value in frame[column.name].tolist()]


def _short(value: float) -> float | int | None:
    """A number with as many digits as the page needs; None for one that is not finite."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def _text(name: str) -> str:
    return (resources.files("search.views.page") / name).read_text(encoding="utf-8")


def _script_json(data: Mapping[str, Any]) -> str:
    """JSON that no text in it can break out of a script element."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
