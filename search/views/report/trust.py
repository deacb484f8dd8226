"""How far to trust a run: its latency table, held-out text, surrogates and cheap fidelities, in Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evaluators.base import Evaluation, Metric
from evaluators.metrics import DIVERGENCES
from search.agreement import fidelity_agreement, unseen_agreement
from search.archive import by_fidelity
from search.run.measured import Measured, error_of
from search.views.text import number
from space.markdown import escaped, table


def trust(summary: Mapping[str, Any], evaluations: Sequence[Evaluation], objectives: Sequence[Metric]) -> str:
    """The paragraphs; those that a run has nothing to say to are left out.

    Args:
        summary: What `summary.json` holds.
        evaluations: All of the archive, in order.
        objectives: What the front is about.
    """
    parts = (_latency(summary), _held_out(summary), _surrogates(evaluations), _fidelities(evaluations, objectives))
    return "\n".join(part for part in parts if part)


def _latency(summary: Mapping[str, Any]) -> str:
    error, lines = error_of(summary), ["**Latency.** The search adds up the times of blocks."]
    lines += [f"- the table: {escaped(line)}" for line in summary.get("latency_table", [])]
    if not math.isnan(error.median):
        lines.append(f"- {Measured.of(summary).against(error)}")
    return "\n".join([lines[0], "", *lines[1:]]) + "\n"


def _held_out(summary: Mapping[str, Any]) -> str:
    lines = ["**Held-out text.** Rank correlations (Kendall's tau) over the front's members:", ""]
    for names, tau in summary["rank_correlation"].items():
        one, other = names.split(", ")
        lines.append(f"- `{one}` and `{other}`: {'not defined' if tau is None else f'{tau:.2f}'}")
    lines.append(
        f"- {summary['dropped']} members of the search's front were left out: held-out text or timing ruled them out"
    )
    return "\n".join(lines) + "\n"


def _surrogates(evaluations: Sequence[Evaluation]) -> str:
    rows = [
        [f"`{fidelity}`", f"`{row.metric}`", str(row.count), number(row.tau, "{:.2f}"), number(row.off, "{:.1%}")]
        for fidelity, answers in by_fidelity(evaluations).items()
        for row in unseen_agreement([*answers.values()])
    ]
    if not rows:
        return ""
    note = (
        "**Surrogates.** What they expected of designs before these were evaluated and learned from. The designs are "
        "those that the search chose to ask about, which are more alike than random ones.\n"
    )
    heads = ["fidelity", "metric", "unseen designs", "Kendall's tau", "median error"]
    return "\n".join([note, table(heads, rows, left=2)])


def _fidelities(evaluations: Sequence[Evaluation], objectives: Sequence[Metric]) -> str:
    """How alike fidelities rank designs, the untrained and the trained ones among them."""
    metric = next((m.name for m in objectives if m.role == "quality"), None)
    if metric is None:
        return ""
    answers = {name: _succeeded(each, metric) for name, each in by_fidelity(evaluations).items()}
    names = [name for name, each in answers.items() if each]
    rows = []
    for place, low in enumerate(names):
        for high in names[place + 1 :]:
            if alike := fidelity_agreement(metric, answers[low], answers[high], positive=metric in DIVERGENCES):
                rows.append(
                    [
                        f"`{low}`",
                        f"`{high}`",
                        str(alike.count),
                        number(alike.tau, "{:.2f}"),
                        number(alike.rho, "{:.2f}"),
                    ]
                )
    if not rows:
        return ""
    note = (
        f"**Fidelities.** How alike they rank pruned designs by `{metric}`; `distilled` ones are trained first. The "
        "designs are of very different sizes, which alone makes for a high correlation.\n"
    )
    heads = ["cheaper", "dearer", "designs with both", "Kendall's tau", "Spearman's rho"]
    return "\n".join([note, table(heads, rows, left=2)])


def _succeeded(answers: Mapping[str, Evaluation], metric: str) -> dict[str, Evaluation]:
    return {key: e for key, e in answers.items() if e.status == "ok" and metric in e.values}
