"""report.md: what a run searched and found, and how far to trust it, for a team to decide from."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd

from evaluators.base import Evaluation, Metric
from search.archive import by_fidelity
from search.constraints import limits_text
from search.run.commands import next_commands, search_commands
from search.run.front import REMOVED, SEARCH_QUALITY, dense_row, is_dense, landmarks
from search.views.report.markdown import code, escaped, number, table
from search.views.report.trust import trust
from search.views.watch.front_table import short_count
from search.views.watch.progress import duration

PACKAGES = ("paretoprune", "torch", "transformers", "peft", "numpy", "scikit-learn", "pymoo")

# Columns of the front's table: head, how a value is written, and whether it is over the dense model's.
FRONT_COLUMNS = {
    "latency_e2e_ms": ("latency, ms", "{:.2f}", False),
    "params": ("parameters", "count", False),
    REMOVED: ("decoder parameters removed", "{:.1%}", False),
    "kv_bytes": ("KV cache, of dense", "{:.0%}", True),
    "heldout_kl": ("held-out KL, nats/token", "{:.4f}", False),
    "heldout_ppl": ("held-out perplexity", "{:.2f}", False),
}
# What tuning changes: before, after, what it is.
TUNED_COLUMNS = (
    ("untuned_kl", "kl", "KL, search text"),
    ("refit_kl", "heldout_kl", "KL, held-out text"),
    ("refit_ppl", "heldout_ppl", "perplexity, held-out text"),
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a run's numbers depend on."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            found[package] = "not installed"
    return found


def report_text(
    run_dir: Path,
    front: pd.DataFrame,
    objectives: Sequence[Metric],
    summary: Mapping[str, Any],
    config: Mapping[str, Any],
    evaluations: Sequence[Evaluation],
) -> str:
    """The report, in Markdown.

    Args:
        run_dir: The run directory as commands are to name it.
        front: The front's table, the dense model's row in it.
        objectives: What the front is about.
        summary: What `summary.json` holds.
        config: What `config.yaml` holds.
        evaluations: All of the archive, in order.
    """
    parts = [
        f"# Pareto front of {escaped(summary['model']['name'])}\n",
        _summary(front, objectives, evaluations),
        "## The front\n",
        _front(front, objectives),
        _FRONT_NOTE,
        "## What was searched\n",
        _searched(summary, config, objectives),
        "## What was asked\n",
        _asked(evaluations),
    ]
    if tuned := _tuned(front):
        parts += ["## Before and after refit and distillation\n", _tuning_words(config), tuned]
    parts += [
        "## How far to trust it\n",
        trust(summary, evaluations, objectives),
        "## To do it again\n",
        _again(run_dir, front, summary, config),
    ]
    return "\n".join(part for part in parts if part)


_FRONT_NOTE = (
    "Latencies are end to end on the device below, one after the other beside the dense model. Held-out text was not "
    "seen by calibration, training or search. [front.html](front.html) has all metrics and the layers of each point, "
    "[front.csv](front.csv) the numbers.\n"
)


def _summary(front: pd.DataFrame, objectives: Sequence[Metric], evaluations: Sequence[Evaluation]) -> str:
    designs = len({e.candidate.key for e in evaluations})
    points = len(front) - int(is_dense(front).sum())
    lines = [f"Pruned models on the front: {points}, of {designs} designs that were looked at."]
    dense = dense_row(front)
    marks = landmarks(front, objectives)
    for key in dict.fromkeys(marks.values()):
        row = front[front["key"] == key].iloc[0]
        names = ", ".join(mark for mark, marked in marks.items() if marked == key)
        facts = [f"{row[REMOVED]:.1%} of the decoder parameters removed"]
        if _known(row, "latency_e2e_ms"):
            facts.insert(0, f"{dense['latency_e2e_ms'] / row['latency_e2e_ms']:.2f} × as fast")
        if _known(row, "heldout_ppl"):
            over = row["heldout_ppl"] / dense["heldout_ppl"]
            facts.append(f"held-out perplexity {row['heldout_ppl']:.2f} ({over:.2f} × dense)")
        lines.append(f"- **{names}**, `{key}`: {', '.join(facts)}")
    return "\n".join([lines[0], "", *lines[1:]]) + "\n"


def _front(front: pd.DataFrame, objectives: Sequence[Metric]) -> str:
    names = [name for name in FRONT_COLUMNS if name in front]
    others = [m for m in objectives if m.name in front and m.name not in (*names, *SEARCH_QUALITY, "latency_ms")]
    marks, dense = landmarks(front, objectives), dense_row(front)
    timed = "latency_e2e_ms" in front
    rows = []
    for _, row in front.iterrows():
        named = "dense" if row["key"] == dense["key"] else ", ".join(m for m, key in marks.items() if key == row["key"])
        cells = [_cell(row, name, *FRONT_COLUMNS[name][1:], dense) for name in names]
        speed = [number(dense["latency_e2e_ms"] / row["latency_e2e_ms"], "{:.2f} ×")] if timed else []
        rows.append(
            [f"`{row['key']}`", named, *speed, *cells, *(_cell(row, m.name, "{:.4g}", False, dense) for m in others)]
        )
    heads = ["point", "", *(["speed-up"] if timed else []), *(FRONT_COLUMNS[name][0] for name in names)]
    return table([*heads, *(f"`{m.name}`" for m in others)], rows, left=2)


def _searched(summary: Mapping[str, Any], config: Mapping[str, Any], objectives: Sequence[Metric]) -> str:
    model, data, device = summary["model"], config["data"], summary["latency"]
    space, latency, budget = config["space"], config["latency"], config["budget"]
    algorithm = str(config["search"]["algorithm"]["_target_"]).rpartition(".")[2]
    switches = [name for name, value in space.items() if value is True and not name.startswith("_")]
    limits = [f"{value:,} {name}" for name, value in budget.items() if name in ("tokens", "evaluations") and value]
    step = f"steps of {summary['mlp_step']} MLP channels; " if summary.get("mlp_step") else ""
    rows = {
        "model": f"{escaped(model['name'])}, revision `{escaped(model['revision'])}`, {escaped(model['family'])}",
        "its shape": f"{model['layers']} layers, hidden size {model['hidden']}, {model['query_heads']} query heads in "
        f"{model['kv_heads']} KV groups, {model['mlp_channels']} MLP channels",
        "parameters": f"{short_count(summary['dense']['params'])}, of them "
        f"{short_count(summary['dense']['decoder_params'])} in decoder layers",
        "space": f"{', '.join(f'`{name}`' for name in switches)}; {step}"
        f"{space['min_decoder_params']:.0%} to {space['max_decoder_params']:.0%} of the decoder parameters; "
        f"for `{escaped(space['deploy'])}`",
        "objectives": ", ".join(f"`{m.name}` ({m.goal})" for m in objectives),
        "constraints": escaped(limits_text(config["constraints"])),
        "algorithm": f"`{escaped(algorithm)}`, distillation `{escaped(config['search']['distillation'])}`, budget "
        f"{', '.join(limits)}",
        "text": f"{_sources(summary, data)}; digest `{summary['text']}`",
        "windows": f"{data['calibration_windows']} for calibration, {data['search_windows']} for the search, "
        f"{data['heldout_windows']} held out, of {data['length']} tokens each",
        "latency": f"{escaped(latency['scenario'])}, batch {latency['batch_size']}, {latency['length']} tokens"
        + (f" and {latency['new_tokens']} new ones" if latency["scenario"] == "serving" else ""),
        "device": escaped(
            ", ".join(f"{name} {value}" if name != "device" else str(value) for name, value in device.items())
        ),
        "dtype": escaped(summary["dtype"]),
    }
    return table(["", ""], ([name, value] for name, value in rows.items()), left=2)


def _sources(summary: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    place = "the embedded default" if data["path"] is None else escaped(data["path"])
    sources = summary.get("sources", {})
    named = ", ".join(f"{escaped(name)} {tokens:,} tokens" for name, tokens in sources.items())
    return f"{place} ({named})" if named else place


def _asked(evaluations: Sequence[Evaluation]) -> str:
    rows = []
    for fidelity, made in by_fidelity(evaluations).items():
        failed = sum(e.status == "failed" for e in made.values())
        tokens, seconds = (sum(getattr(e, name) for e in made.values()) for name in ("tokens", "seconds"))
        rows.append([f"`{fidelity}`", str(len(made)), str(failed), f"{tokens:,}", duration(seconds)])
    note = "A number behind a fidelity's name is the tokens of a window, or of training.\n"
    return "\n".join([table(["fidelity", "evaluations", "failed", "tokens", "time"], rows), note])


def _tuning_words(config: Mapping[str, Any]) -> str:
    correction, distillation, mode = config["correction"], config["distillation"], config["search"]["distillation"]
    words = []
    if correction:
        words.append(f"a corrective refit on {correction['windows'] * config['data']['length']:,} tokens")
    if mode != "off":
        tokens, what = max(distillation["tokens"]), distillation["trainable"]
        words.append(f"distillation from the dense model for {tokens:,} tokens ({what})")
    return f"After is with {' and '.join(words)}, as it is exported; before is without.\n"


def _tuned(front: pd.DataFrame) -> str:
    """None of it when nothing was tuned."""
    known = [row for row in TUNED_COLUMNS if row[0] in front and row[1] in front]
    pruned = front[~is_dense(front)]
    if not known or pruned.empty:
        return ""
    rows = []
    for _, row in pruned.iterrows():
        form = ["{:.2f}" if "ppl" in before else "{:.4f}" for before, _, _ in known]
        cells = [
            number(row[name], text)
            for (before, after, _), text in zip(known, form, strict=True)
            for name in (before, after)
        ]
        rows.append([f"`{row['key']}`", *cells])
    heads = ["point", *(f"{what}: {when}" for _, _, what in known for when in ("before", "after"))]
    gains = [f"{what} {float((pruned[after] / pruned[before]).median()):.2f}" for before, after, what in known]
    return "\n".join([table(heads, rows), f"After over before, median: {', '.join(gains)}.\n"])


def _again(run_dir: Path, front: pd.DataFrame, summary: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    commands = search_commands(run_dir, summary.get("arguments", []))
    lines = [
        f"# the same search anew\n{commands['run']}",
        f"# this run, where it was stopped or with a larger budget\n{commands['resume']}",
        f"# where the dense model's time goes\n{commands['profile']}",
    ]
    if not is_dense(front).all():
        following = next_commands(run_dir)
        lines += [f"# the knee as a checkpoint\n{following['export']}", f"# its task scores\n{following['score']}"]
    seeds = f"Seeds: search {config['seed']}, distillation {config['distillation']['seed']}."
    known = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    note = "Equal seeds ask about equal designs as long as the latency table is equal; timings differ from run to run."
    return "\n".join([code("\n\n".join(lines), "bash"), f"{seeds} {note}\n", f"Versions: {escaped(known)}.\n"])


def _known(row: pd.Series, name: str) -> bool:
    return name in row.index and math.isfinite(row[name])


def _cell(row: pd.Series, name: str, form: str, relative: bool, dense: pd.Series) -> str:
    value = float(row[name]) / float(dense[name]) if relative else float(row[name])
    return short_count(value) if form == "count" else number(value, form)
