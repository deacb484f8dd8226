"""Metrics: one row each, complete and consistent, what belongs together, and how their numbers are written."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest

from evaluators import metrics
from evaluators.base import Metric
from evaluators.cost import METRICS as COSTS
from evaluators.latency.workload import Workload
from evaluators.metrics import METRICS, metric_named, metrics_of, ordered, spread_column, spread_of, task_score
from search.views.text import broken, number, scale_of, written
from space.errors import UserError


def test_names_and_labels_stand_once() -> None:
    for attribute in ("name", "label"):
        values = [getattr(metric, attribute) for metric in METRICS]
        assert len(set(values)) == len(values)
    assert all(metric.label != metric.name for metric in METRICS)


def test_what_is_known_of_all_candidates_is_a_cost_a_time_of_the_table_or_the_error_of_the_refit() -> None:
    table = {metric.name for scenario in ("prefill", "serving") for metric in Workload(scenario=scenario).metrics}
    table |= {metric.name for metric in Workload(scenario="decode").metrics}
    others = "refit_error", "vocabulary_removed"
    assert {m.name for m in METRICS if m.free} == {*(m.name for m in COSTS), *table, *others}
    assert {m.role for m in COSTS} == {"cost"}


def test_related_columns_are_rows_that_differ_in_what_they_are_of_alone() -> None:
    for one, other in (metrics.BEFORE_TUNING | metrics.HELDOUT_BEFORE_TUNING | metrics.WHOLE).items():
        row, related = asdict(metric_named(one)), asdict(metric_named(other))
        assert {name for name in row if row[name] != related[name]} == {"name", "label"}
    for names in (metrics.SEARCH_QUALITY, metrics.HELDOUT_QUALITY, metrics.WIDE_RANGING):
        assert {metric_named(name).role for name in names} == {"quality"}
    assert set(metrics.SUPERLATIVES) < {metric.name for metric in METRICS}


def test_a_metric_is_checked_and_survives_json() -> None:
    for change in ({"goal": "less"}, {"role": "price"}, {"format": "money"}):
        (attribute,) = change
        with pytest.raises(ValueError, match=f"'x': expected {attribute} among"):
            Metric(**{"name": "x", "unit": "", "goal": "min", "role": "cost", **change})
    assert all(Metric(**asdict(metric)) == metric for metric in METRICS)
    assert task_score("piqa_acc", "max").label == "piqa_acc"
    with pytest.raises(UserError, match=r"a metric among kl, nll, .* got speed"):
        metric_named("speed")


def test_columns_stand_in_the_rows_order_with_their_spreads() -> None:
    columns = ["params", "piqa_acc_stderr", "latency_ms_spread", "untuned_kl", "piqa_acc", "latency_ms", "kl", "key"]
    expected = ["kl", "piqa_acc_stderr", "piqa_acc", "key", "latency_ms", "latency_ms_spread", "params", "untuned_kl"]
    assert ordered(columns) == expected
    known = metrics_of(columns, [task_score("piqa_acc", "max")])
    assert [metric.name for metric in known] == [name for name in expected if name != "key"]
    assert known[1] == spread_of(known[2], "_stderr")
    assert (known[1].goal, known[1].role) == ("min", "score")
    assert spread_column("latency_ms", columns) == "latency_ms_spread"
    assert spread_column("kl", columns) is None


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("kl", 0.031, "0.0310"),
        ("heldout_ppl", 20.126, "20.13"),
        ("latency_ms", 12345.678, "12345.68"),
        ("params", 134_515_008, "134.5M"),
        ("params", 999, "999"),
        ("macs_per_token", 70e9, "70.0G"),
        ("kv_bytes", 23_592_960, "22.5 MiB"),
        ("kv_bytes", 0, "0 B"),
        ("decoder_params_removed", 0.501, "50.1%"),
        ("kl", math.nan, "–"),
        ("params", math.inf, "–"),
    ],
)
def test_numbers_are_written_by_their_format(name: str, value: float, text: str) -> None:
    assert written(metric_named(name), value) == text


def test_heads_and_scales() -> None:
    assert scale_of("count", 1e6) == (1e6, "M", 1)
    assert scale_of("bytes", 1023.0) == (1.0, "B", 0)
    assert metric_named("latency_ms").title == "Latency, table (ms)"
    assert metric_named("kv_bytes").title == "KV cache"
    assert broken("Latency, table (ms)") == "Latency,\ntable\n(ms)"
    assert broken(metric_named("kl").title) == "KL to\ndense,\nsearch\ntext"
    assert number(math.nan, "{:.1f}") == "–"
