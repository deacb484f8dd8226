"""All metrics, one row each: what they are called, in which unit, which way is better; and how they belong together."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from evaluators.base import SPREAD, STDERR, Goal, Metric
from space.errors import UserError
from space.task import TASKS

ACCURACY = "heldout_accuracy"
REMOVED = "decoder_params_removed"  # 0 for the dense model alone, and for it with fewer tokens
VOCABULARY_REMOVED = "vocabulary_removed"

# In the order in which people read them.
METRICS = (
    Metric("kl", "nats/token", "min", "quality", "KL to dense, search text", "fine"),
    Metric("nll", "nats/token", "min", "quality", "NLL, search text", "fine"),
    Metric("bpb", "bits/byte", "min", "quality", "Bits per byte, search text", "fine"),
    Metric("heldout_kl", "nats/token", "min", "quality", "KL to dense, held-out", "fine"),
    Metric("heldout_ppl", "", "min", "quality", "Perplexity, held-out", "plain"),
    Metric("heldout_long_ppl", "", "min", "quality", "Perplexity, held-out, long windows", "plain"),
    Metric("cosine_distance", "", "min", "quality", "1 − cosine to dense, search text", "fine"),
    Metric("heldout_cosine_distance", "", "min", "quality", "1 − cosine to dense, held-out", "fine"),
    Metric("heldout_rank_correlation", "", "max", "quality", "Rank correlation of similarities, held-out", "fine"),
    Metric("class_kl", "nats", "min", "quality", "KL of classes to dense, search", "fine"),
    Metric("heldout_class_kl", "nats", "min", "quality", "KL of classes to dense, held-out", "fine"),
    Metric("heldout_agreement", "", "max", "quality", "Classes as the dense model's, held-out", "fine"),
    Metric(ACCURACY, "", "max", "quality", "Accuracy, held-out labels", "fine"),
    Metric("heldout_bpb", "bits/byte", "min", "quality", "Bits per byte, held-out", "fine"),
    Metric("refit_error", "", "min", "quality", "Output lost by blocks after refit", "fine", free=True),
    Metric("acc", "", "max", "score", "Accuracy, tasks of the search", "fine"),
    Metric("latency_ms", "ms", "min", "latency", "Latency, table", "plain", free=True),
    Metric("latency_e2e_ms", "ms", "min", "latency", "Latency, end to end", "plain"),
    Metric("prefill_ms", "ms", "min", "latency", "Prefill, table", "plain", free=True),
    Metric("prefill_e2e_ms", "ms", "min", "latency", "Prefill, end to end", "plain"),
    Metric("decode_ms", "ms", "min", "latency", "Decoding a token, table", "plain", free=True),
    Metric("decode_e2e_ms", "ms", "min", "latency", "Decoding a token, end to end", "plain"),
    Metric("tokens_per_s", "tokens/s", "max", "latency", "Throughput, end to end", "plain"),
    Metric("params", "", "min", "cost", "Parameters", "count", free=True),
    Metric("decoder_params", "", "min", "cost", "Decoder parameters", "count", free=True),
    Metric(REMOVED, "", "max", "cost", "Decoder removed", "percent", free=True),
    Metric(VOCABULARY_REMOVED, "", "max", "cost", "Vocabulary removed", "percent", free=True),
    Metric("macs_per_token", "", "min", "cost", "MACs a token", "count", free=True),
    Metric("kv_bytes", "bytes", "min", "cost", "KV cache", "bytes", free=True),
    Metric("weights_bytes", "bytes", "min", "cost", "Weights", "bytes", free=True),
    Metric("peak_bytes", "bytes", "min", "cost", "Peak memory", "bytes"),
    Metric("untuned_kl", "nats/token", "min", "quality", "KL to dense, search text, untuned", "fine"),
    Metric("untuned_nll", "nats/token", "min", "quality", "NLL, search text, untuned", "fine"),
    Metric("untuned_cosine_distance", "", "min", "quality", "1 − cosine to dense, search text, untuned", "fine"),
    Metric("untuned_class_kl", "nats", "min", "quality", "KL of classes to dense, search, untuned", "fine"),
    Metric("untuned_bpb", "bits/byte", "min", "quality", "Bits per byte, search text, untuned", "fine"),
    Metric("untuned_acc", "", "max", "score", "Accuracy, tasks of the search, untuned", "fine"),
    Metric("refit_kl", "nats/token", "min", "quality", "KL to dense, held-out, untuned", "fine"),
    Metric("refit_ppl", "", "min", "quality", "Perplexity, held-out, untuned", "plain"),
    Metric("refit_cosine_distance", "", "min", "quality", "1 − cosine to dense, held-out, untuned", "fine"),
    Metric("refit_rank_correlation", "", "max", "quality", "Rank correlation of similarities, untuned", "fine"),
    Metric("refit_class_kl", "nats", "min", "quality", "KL of classes to dense, held-out, untuned", "fine"),
    Metric("refit_agreement", "", "max", "quality", "Classes as the dense model's, untuned", "fine"),
    Metric("refit_bpb", "bits/byte", "min", "quality", "Bits per byte, held-out, untuned", "fine"),
)

# Where designs have vocabularies of their own. Losses are of what the whole one calls a token, so that they can be
# compared, and so can perplexities: they are bits a byte times the bytes of such a token.
SEARCH_BITS = ("bpb", "nll")
HELDOUT_BITS = ("heldout_bpb", "heldout_ppl")
# Of all tasks: on the search's own text, which is never the result, and on held-out text.
SEARCH_QUALITY = (*dict.fromkeys(name for task in TASKS.values() for name in task.search_quality), SEARCH_BITS[0])
HELDOUT_QUALITY = (*dict.fromkeys(name for task in TASKS.values() for name in task.heldout_quality), HELDOUT_BITS[0])
# A task's divergence from the dense model to the same on held-out text; below what it is about equally good.
DIVERGENCES = {task.search_quality[0]: task.heldout_quality[0] for task in TASKS.values()}
ALIKE = {task.search_quality[0]: task.alike for task in TASKS.values()}
HELDOUT = {**DIVERGENCES, SEARCH_BITS[0]: HELDOUT_BITS[0]}  # what the search goes by to the same on held-out text
JUDGED = tuple(dict.fromkeys(task.judged for task in TASKS.values()))  # by which points are offered and recommended
LONG_QUALITY = "heldout_long_ppl"  # the same perplexity, of windows longer than the run's own
# The same before what an export gets beside the cached refit: of the search's questions, and of held-out text.
BEFORE_TUNING = {name: f"untuned_{name}" for name in (*SEARCH_QUALITY, "acc")}
HELDOUT_BEFORE_TUNING = {name: name.replace("heldout_", "refit_") for name in HELDOUT_QUALITY}
# What one timing end to end gives, on one device.
END_TO_END = ("latency_e2e_ms", "prefill_e2e_ms", "decode_e2e_ms", "tokens_per_s", "peak_bytes")
# Phases of a workload, and its whole; they say the same where there is no other phase.
WHOLE = {f"{phase}_{kind}ms": f"latency_{kind}ms" for phase in ("prefill", "decode") for kind in ("", "e2e_")}
# What people call a design that has the best value.
SUPERLATIVES = {
    "kl": "closest",
    "cosine_distance": "closest",
    "class_kl": "closest",
    "nll": "likeliest",
    "bpb": "likeliest",
    "latency_ms": "fastest",
    "params": "smallest",
    "decoder_params": "smallest",
}
# What a front ranges over by orders of magnitude, so that an axis of it is logarithmic.
_PARTS = {metric.name for metric in METRICS if metric.goal == "max"}  # 1 at most
WIDE_RANGING = (
    *DIVERGENCES,
    *(name for name in HELDOUT_QUALITY if name not in _PARTS),
    LONG_QUALITY,
    *(BEFORE_TUNING[name] for name in DIVERGENCES),
    *(name for name in HELDOUT_BEFORE_TUNING.values() if name not in _PARTS),
)

SPREADS = (SPREAD, STDERR)
_BY_NAME = {metric.name: metric for metric in METRICS}
_PLACES = {metric.name: place for place, metric in enumerate(METRICS)}


def metric_named(name: str) -> Metric:
    """The row of this name.

    Raises:
        UserError: There is none.
    """
    if name not in _BY_NAME:
        raise UserError(f"Expected a metric among {', '.join(_BY_NAME)}, got {name}.")
    return _BY_NAME[name]


def metrics_named(*names: str) -> tuple[Metric, ...]:
    """The rows of these names, see `metric_named`."""
    return tuple(map(metric_named, names))


def divergence_in(names: Collection[str]) -> str | None:
    """The divergence, among these names, of the search's text; None where designs have vocabularies of their own."""
    return next((name for name in DIVERGENCES if name in names), None)


def judged_in(names: Collection[str]) -> str | None:
    """What points are judged by, among these names; None where nothing has measured it."""
    return next((name for name in JUDGED if name in names), None)


def end_to_end(name: str, columns: Collection[str]) -> str | None:
    """The column, among these, of the end-to-end times of what a metric of the latency table is about."""
    timed = name.replace("_ms", "_e2e_ms")
    return next((column for column in (timed, WHOLE.get(timed, "")) if column in columns), None)


def task_score(name: str, goal: Goal) -> Metric:
    """A score of a task of lm-eval, which only the task knows, such as `piqa_acc`."""
    return Metric(name, "", goal, "score", format="fine")


def spread_of(metric: Metric, ending: str = SPREAD) -> Metric:
    """How far a metric is known, what stands behind its ±: the spread of a time, or the standard error of a score."""
    return replace(metric, name=metric.name + ending, label=f"{metric.label}, ±", goal="min", free=False)


def spread_column(name: str, columns: Collection[str]) -> str | None:
    """The column, among these, of what stands behind the ± of another."""
    return next((name + ending for ending in SPREADS if name + ending in columns), None)


def ordered(columns: Iterable[str]) -> list[str]:
    """Columns in the order of the rows, each spread behind what it belongs to.

    Those without a row, such as the scores of tasks, stand in the order given between qualities and costs.
    """

    def place(column: str) -> tuple[float, bool]:
        of = next((column.removesuffix(end) for end in SPREADS if column.endswith(end)), column)
        return _PLACES.get(of, _PLACES["latency_ms"] - 0.5), of in _PLACES and of != column

    return sorted(columns, key=place)


def metrics_of(columns: Collection[str], others: Iterable[Metric] = ()) -> list[Metric]:
    """What columns mean, in their order; those that no metric describes are left out.

    Args:
        columns: Names, of spreads too.
        others: Metrics without a row; they come before a row of the same name.
    """
    metrics = {metric.name: metric for metric in (*METRICS, *others)}
    metrics |= {spread.name: spread for m in [*metrics.values()] for end in SPREADS if (spread := spread_of(m, end))}
    return [metrics[name] for name in ordered(columns) if name in metrics]
