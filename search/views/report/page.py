"""report.md: what a run searched and found, and how far to trust it, for a team to decide from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from evaluators.base import Evaluation, Metric
from evaluators.metrics import (
    ACCURACY,
    BEFORE_TUNING,
    HELDOUT_BEFORE_TUNING,
    HELDOUT_QUALITY,
    LONG_QUALITY,
    REMOVED,
    VOCABULARY_REMOVED,
    metric_named,
)
from search.archive import by_fidelity
from search.constraints import limits_text
from search.run.commands import export_command, next_commands, search_commands, timing_command
from search.run.finished import FinishedRun
from search.run.front import dense_row, is_dense, latency_column
from search.run.measured import Measured
from search.run.recommended import rises
from search.views.front_rows import OF_DENSE, RISE, SPEED_UP, column_of, front_rows
from search.views.report.trust import trust
from search.views.text import duration, number, written
from space.markdown import code, escaped, table
from space.spec import mlp_units

SHOWN = (
    *(SPEED_UP, "latency_e2e_ms", "params", REMOVED, VOCABULARY_REMOVED, f"kv_bytes{OF_DENSE}"),
    *HELDOUT_QUALITY,
    ACCURACY,
    *(f"heldout_ppl{RISE}", f"{LONG_QUALITY}{RISE}"),
)


def report_text(run: FinishedRun, evaluations: Sequence[Evaluation]) -> str:
    """The report, in Markdown.

    Args:
        run: The run, named by its directory as commands are to name it.
        evaluations: All of its archive, in order.
    """
    front, objectives, summary, config = run.front, run.objectives, run.summary, run.config
    parts = [
        f"# Pareto front of {escaped(summary['model']['name'])}\n",
        _summary(run, evaluations),
        "## The front\n",
        _front(run),
        _front_note(run),
    ]
    if run.samples.texts:
        parts += ["## What its points write\n", _samples(run)]
    parts += [
        "## What was searched\n",
        _searched(summary, config, objectives),
        "## What was asked\n",
        _evaluations(evaluations),
        _workers(evaluations),
    ]
    if tuned := _tuned(front):
        parts += ["## Before and after refit and distillation\n", _tuning_words(config, summary), tuned]
    parts += [
        "## How far to trust it\n",
        trust(summary, evaluations, objectives),
        "## To do it again\n",
        _again(run),
    ]
    return "\n".join(part for part in parts if part)


def _summary(run: FinishedRun, evaluations: Sequence[Evaluation]) -> str:
    front, dense, advice = run.front, dense_row(run.front), run.advice
    designs = len({e.candidate.key for e in evaluations})
    points = len(front) - int(is_dense(front).sum())
    lines = [f"Pruned models on the front: {points}, of {designs} designs that were looked at. {advice.summary}"]
    if advice.recommended is None:
        lines += [f"- {offer}: `{offer.key}`" for offer in advice.trade]
    for key in dict.fromkeys(run.marks.values()):
        row = front[front["key"] == key].iloc[0]
        names = ", ".join(mark for mark, marked in run.marks.items() if marked == key)
        facts = [f"{written(metric_named(REMOVED), row[REMOVED])} of the decoder parameters removed"]
        if _has_number(row, latency := latency_column(front) or ""):
            by = " by the latency table" if run.measured.untimed else ""
            facts.insert(0, f"{dense[latency] / row[latency]:.2f} × as fast{by}")
        if _has_number(row, "heldout_ppl"):
            over = row["heldout_ppl"] / dense["heldout_ppl"]
            facts.append(f"held-out perplexity {row['heldout_ppl']:.2f} ({over:.2f} × dense)")
        lines.append(f"- **{names}**, `{key}`: {', '.join(facts)}")
    return "\n".join([lines[0], "", *lines[1:]]) + "\n"


def _front(run: FinishedRun) -> str:
    shown = [name for name in SHOWN if column_of(name) in run.front or name == SPEED_UP]
    if run.measured.untimed:
        shown.insert(1, "latency_ms")
    more = [m.name for m in run.objectives if m.name not in (*shown, "latency_ms") and m.role != "quality"]
    rows = front_rows(run.front, run.objectives, run.marks, [*shown, *more])
    cells = [[f"`{row.key}`", ", ".join(row.names), *row.cells.values()] for row in rows]
    return table(["point", "", *map(escaped, rows[0].cells)], cells, left=2)


def _front_note(run: FinishedRun) -> str:
    summary, config = run.summary, run.config
    long = summary.get("long_context")
    windows = f"Windows are of {config['data']['length']:,} tokens; longer ones: {escaped(long)}. " if long else ""
    latencies = "Latencies are end to end on the device below, one after the other beside the dense model."
    if run.measured.words:
        latencies = f"**{escaped(run.measured.sentence)}.**"
    return (
        f"{latencies} Held-out text was not seen by calibration, training or search; a rise is the loss on it above "
        f"the dense model's. {windows}[front.html](front.html) has all metrics and the layers of each point, "
        "[front.csv](front.csv) the numbers.\n"
    )


def _samples(run: FinishedRun) -> str:
    """What the dense model and each point write, a row each, next to the rise that it comes with."""
    samples, front = run.samples, run.front
    names = ["dense" if dense else f"`{key}`" for key, dense in zip(front["key"], is_dense(front), strict=True)]
    rows = [
        [name, number(rise, "{:.2f}"), *map(escaped, samples.texts_of(key))]
        for key, name, rise in zip(front["key"], names, rises(front), strict=True)
        if samples.texts_of(key)
    ]
    heads = ["point", "rise", *(f"{escaped(prompt)} …" for prompt in samples.prompts)]
    note = (
        f"Up to {samples.new_tokens} tokens, each the likeliest one, as exported. `samples.prompts` asks for others.\n"
    )
    return "\n".join([table(heads, rows, left=len(heads)), note])


def _searched(summary: Mapping[str, Any], config: Mapping[str, Any], objectives: Sequence[Metric]) -> str:
    model, data, device = summary["model"], config["data"], summary["latency"]
    space, latency, budget = config["space"], config["latency"], summary.get("budget", config["budget"])
    algorithm = str(config["search"]["algorithm"]["_target_"]).rpartition(".")[2]
    switches = [name for name, value in space.items() if value is True and not name.startswith("_")]
    limits = [f"{budget[name]:,} {name}" for name in ("minutes", "evaluations", "tokens") if budget.get(name)]
    windows = budget.get("search_windows") or data["search_windows"]
    measured = Measured.of(summary)
    timed = measured.end_to_end if measured.elsewhere else None
    step = f"steps of {summary['mlp_step']} {mlp_units(model)}; " if summary.get("mlp_step") else ""
    step += f"steps of {summary['expert_step']} channels of each; " if summary.get("expert_step") else ""

    def size(name: str) -> str:
        return written(metric_named(name), summary["dense"][name])

    rows = {
        "model": f"{escaped(model['name'])}, digest `{escaped(model['digest'])}`, {escaped(model['family'])}",
        "its shape": f"{model['layers']} layers, hidden size {model['hidden']}, {model['query_heads']} query heads in "
        f"{model['kv_heads']} KV groups, {model['mlp_channels']} {mlp_units(model)}",
        "parameters": f"{size('params')}, of them {size('decoder_params')} in decoder layers",
        "space": f"{', '.join(f'`{name}`' for name in switches)}; {step}"
        f"{space['min_decoder_params']:.0%} to {space['max_decoder_params']:.0%} of the decoder parameters; "
        f"for `{escaped(space['deploy'])}`",
        **({"vocabularies": escaped("; ".join(few))} if (few := summary.get("vocabularies")) else {}),
        "objectives": ", ".join(f"`{m.name}` ({m.goal})" for m in objectives),
        "constraints": escaped(limits_text(config["constraints"])),
        "algorithm": f"`{escaped(algorithm)}`, distillation `{escaped(config['search']['distillation'])}`, budget "
        f"{', '.join(limits)}",
        "text": f"{_sources(summary, data)}; digest `{summary['text']}`",
        "windows": f"{data['calibration_windows']} for calibration, {windows} for the search, "
        f"{data['heldout_windows']} held out, of {data['length']} tokens each",
        "latency": f"{escaped(latency['scenario'])}, batch {latency['batch_size']}, {latency['length']} tokens"
        + (f" and {latency['new_tokens']} new ones" if latency["scenario"] == "serving" else ""),
        "device of the latency table" if timed else "device": _device(device),
        **({"device of end-to-end times": _device(timed)} if timed else {}),
        "dtype": escaped(summary["dtype"]),
    }
    return table(["", ""], ([name, value] for name, value in rows.items()), left=2)


def _device(device: Mapping[str, Any]) -> str:
    return escaped(", ".join(f"{name} {value}" if name != "device" else str(value) for name, value in device.items()))


def _sources(summary: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    place = "the embedded default" if data["path"] is None else escaped(data["path"])
    sources = summary.get("sources", {})
    named = ", ".join(f"{escaped(name)} {tokens:,} tokens" for name, tokens in sources.items())
    return f"{place} ({named})" if named else place


def _evaluations(evaluations: Sequence[Evaluation]) -> str:
    rows = []
    for fidelity, answers in by_fidelity(evaluations).items():
        failed = sum(e.status == "failed" for e in answers.values())
        tokens, seconds = (sum(getattr(e, name) for e in answers.values()) for name in ("tokens", "seconds"))
        rows.append([f"`{fidelity}`", str(len(answers)), str(failed), f"{tokens:,}", duration(seconds)])
    note = (
        "A number behind a fidelity's name is the tokens of a window, or of training; behind `samples`, a digest of "
        "the prompts; behind `timed`, of a device that is not the latency table's.\n"
    )
    return "\n".join([table(["fidelity", "evaluations", "failed", "tokens", "time"], rows), note])


def _workers(evaluations: Sequence[Evaluation]) -> str:
    """Who answered, of a search with several workers; nothing of others."""
    names = dict.fromkeys(e.worker for e in evaluations if e.worker)
    if not names:
        return ""
    rows = []
    for name in (*names, ""):
        answers = [e for e in evaluations if e.worker == name]
        generations = [e.generation for e in answers if e.generation]
        rounds = f"{min(generations)} to {max(generations)}" if generations else ""
        time = duration(sum(e.seconds for e in answers))
        rows.append([escaped(name or "the search's own process"), str(len(answers)), rounds, time])
    return table(["worker", "evaluations", "generations", "time at work"], rows)


def _tuning_words(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    correction, distillation, mode = config["correction"], config["distillation"], config["search"]["distillation"]
    words = []
    if correction:
        words.append(f"a corrective refit on {correction['windows'] * config['data']['length']:,} tokens")
    if distillation and mode != "off":
        tokens, what = distillation["tokens"], summary.get("trainable", distillation["trainable"])
        if isinstance(tokens, list):
            words.append(f"distillation from the dense model for {max(tokens):,} tokens ({what})")
        else:
            healing = summary["budget"]["healing_tokens"] if tokens is None else tokens
            words.append(f"weights that all designs share, healed by {healing:,} tokens of distillation ({what})")
    return f"After is with {' and '.join(words)}, as it is exported; before is without.\n"


def _tuned(front: pd.DataFrame) -> str:
    """None of it when nothing was tuned."""
    pairs = [
        (metric_named(after), before)
        for after, before in (BEFORE_TUNING | HELDOUT_BEFORE_TUNING).items()
        if after in front and before in front
    ]
    pruned = front[~is_dense(front)]
    if not pairs or pruned.empty:
        return ""
    rows = [
        [f"`{row['key']}`", *(written(metric, row[name]) for metric, before in pairs for name in (before, metric.name))]
        for _, row in pruned.iterrows()
    ]
    heads = ["point", *(f"{metric.label}: {when}" for metric, _ in pairs for when in ("before", "after"))]
    gains = [f"{metric.label} {(pruned[metric.name] / pruned[before]).median():.2f}" for metric, before in pairs]
    return "\n".join([table(heads, rows), f"After over before, median: {'; '.join(gains)}.\n"])


def _again(run: FinishedRun) -> str:
    summary, config = run.summary, run.config
    commands = search_commands(run.run_dir, summary.get("arguments", []))
    lines = [
        f"# the same search anew\n{commands['run']}",
        f"# this run, where it was stopped or with a larger budget\n{commands['resume']}",
        f"# where the dense model's time goes\n{commands['profile']}",
    ]
    if run.measured.untimed:
        lines.append(f"# its front end to end, on the device that it is for\n{timing_command(run.run_dir)}")
    advice = run.advice
    offers = [advice.recommended] if advice.recommended is not None else advice.trade
    lines += [f"# as a checkpoint: {offer}\n{export_command(run.run_dir)}{offer.key}" for offer in offers]
    if score := next_commands(run.run_dir, advice.pick, scored=advice.scored).get("score"):
        lines.append(f"# task scores\n{score}")
    seeds = f"Seed: {config['seed']}."
    packages = ", ".join(f"{name} {number}" for name, number in summary["versions"].items())
    note = "Equal seeds ask about equal designs as long as the latency table is equal; timings differ from run to run."
    return "\n".join([code("\n\n".join(lines), "bash"), f"{seeds} {note}\n", f"Versions: {escaped(packages)}.\n"])


def _has_number(row: pd.Series, name: str) -> bool:
    return name in row.index and math.isfinite(row[name])
