"""What the page says of a column of front.csv: what people call it, in which unit, which way is better."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from evaluators.base import SPREAD, STDERR, Metric
from search.run.front import BEFORE_TUNING, REMOVED

QUALITY, TASKS, COST, BEFORE = "Quality", "Tasks", "Cost", "Before tuning"

# Column: what people call it, its unit, how its numbers are written, and among what it stands. In the page's order.
LABELS: dict[str, tuple[str, str, str, str]] = {
    "kl": ("KL to dense, search text", "nats", "fine", QUALITY),
    "nll": ("NLL, search text", "nats", "fine", QUALITY),
    "heldout_kl": ("KL to dense, held-out", "nats", "fine", QUALITY),
    "heldout_ppl": ("Perplexity, held-out", "", "plain", QUALITY),
    "acc": ("Accuracy, tasks of the search", "", "fine", QUALITY),
    "latency_ms": ("Latency, table", "ms", "plain", COST),
    "latency_e2e_ms": ("Latency, end to end", "ms", "plain", COST),
    "prefill_ms": ("Prefill, table", "ms", "plain", COST),
    "prefill_e2e_ms": ("Prefill, end to end", "ms", "plain", COST),
    "decode_ms": ("Decoding a token, table", "ms", "plain", COST),
    "decode_e2e_ms": ("Decoding a token, end to end", "ms", "plain", COST),
    "tokens_per_s": ("Tokens a second, end to end", "", "plain", COST),
    "params": ("Parameters", "", "count", COST),
    "decoder_params": ("Decoder parameters", "", "count", COST),
    REMOVED: ("Decoder removed", "%", "percent", COST),
    "macs_per_token": ("MACs a token", "", "count", COST),
    "kv_bytes": ("KV cache", "", "bytes", COST),
    "weights_bytes": ("Weights", "", "bytes", COST),
    "peak_bytes": ("Peak memory", "", "bytes", COST),
    "untuned_kl": ("KL, search text, untuned", "nats", "fine", BEFORE),
    "untuned_nll": ("NLL, search text, untuned", "nats", "fine", BEFORE),
    "untuned_acc": ("Accuracy, untuned", "", "fine", BEFORE),
    "refit_kl": ("KL, held-out, untuned", "nats", "fine", BEFORE),
    "refit_ppl": ("Perplexity, held-out, untuned", "", "plain", BEFORE),
}
SPREADS = (STDERR, "_se", "_std", SPREAD)  # `acc_piqa_stderr` is shown as the ± of `acc_piqa`
# starts of names of what is better when higher
HIGHER = (REMOVED, "tokens_per_s", "acc", "exact_match", "f1", "bleu", "rouge", "mcc")
STEPS = {"count": (1000.0, ("", "k", "M", "G", "T")), "bytes": (1024.0, ("B", "KiB", "MiB", "GiB", "TiB"))}
SAME = {f"{part}_{kind}ms": f"latency_{kind}ms" for part in ("prefill", "decode") for kind in ("", "e2e_")}


@dataclass(frozen=True)
class Column:
    """A column as the page shows it.

    Attributes:
        name: In front.csv.
        label: What people call it.
        unit: Of the numbers shown.
        group: Among what it stands in lists.
        goal: "min" or "max".
        log: Whether an axis of it is logarithmic.
        digits: Behind the point.
        before: The column with the same of untuned designs, which an axis shows where a design has no tuned value.
        spread: The column with what stands behind its ±.
        scale: The size of one unit, by which the page's numbers are divided.
    """

    name: str
    label: str
    unit: str
    group: str
    goal: str
    log: bool
    digits: int
    before: str | None
    spread: str | None
    scale: float


def page_columns(frames: Sequence[pd.DataFrame], objectives: Iterable[Metric]) -> list[Column]:
    """The numeric columns of some tables, those that `LABELS` has not as tasks.

    A column that says the same as another in all rows is left out, as the prefill of a run whose latency that is.

    Args:
        frames: The tables; the first one's first row, the dense model, chooses the unit of counts.
        objectives: They know names and units that `LABELS` has not.
    """
    known = {metric.name: metric for metric in objectives}
    names = list(dict.fromkeys(str(name) for frame in frames for name in frame if _numeric(frame, str(name))))
    names = [name for name in names if not (name in SAME and _same(frames, name, SAME[name]))]
    order = list(LABELS)
    tasks = order.index("latency_ms")  # between quality and cost
    names.sort(key=lambda name: order.index(name) if name in LABELS else tasks - 0.5)
    return [_column(name, names, frames, known.get(name)) for name in names]


def spread_of(name: str, names: Sequence[str]) -> str | None:
    """The column, among `names`, of what stands behind the ± of another."""
    return next((name + end for end in SPREADS if name + end in names), None)


def _column(name: str, names: Sequence[str], frames: Sequence[pd.DataFrame], metric: Metric | None) -> Column:
    values = np.concatenate([frame[name].to_numpy(dtype=float) for frame in frames if name in frame])
    sizes = np.abs(values[np.isfinite(values)])
    largest = float(sizes.max(initial=0.0))
    unknown = (name, metric.unit if metric else "", "fine" if largest < 10 else "plain", TASKS)
    label, unit, kind, group = LABELS.get(name, unknown)
    scale = 0.01 if kind == "percent" else 1.0
    if kind in STEPS:
        base, units = STEPS[kind]
        power = min(int(np.log(max(largest, 1.0)) / np.log(base) + 1e-9), len(units) - 1)
        scale, unit = base**power, units[power]
    before = BEFORE_TUNING.get(name)
    return Column(
        name=name,
        label=label,
        unit=unit,
        group=group,
        goal=metric.goal if metric else "max" if name.startswith(HIGHER) else "min",
        log=name.endswith(("kl", "ppl")),
        digits={"fine": 4, "plain": 2, "percent": 1}.get(kind, 0 if scale == 1.0 else 1),
        before=before if before in names else None,
        spread=spread_of(name, names),
        scale=scale,
    )


def _numeric(frame: pd.DataFrame, name: str) -> bool:
    return pd.api.types.is_numeric_dtype(frame[name])


def _same(frames: Sequence[pd.DataFrame], name: str, other: str) -> bool:
    """Whether a column says what another does wherever it is."""
    having = [frame for frame in frames if name in frame]
    return all(other in frame and frame[name].equals(frame[other].rename(name)) for frame in having)
