"""A run as a person starts it: a measured front in its files, for several questions to the same model."""

from __future__ import annotations

import json

import pytest
from helpers_commands import Place, archived, good
from helpers_run import ended

from search.run.directory import FRONT_FILE, PAGE_FILE, POINTS_FILE, REPORT_FILE, SUMMARY_FILE
from search.run.front import is_dense, read_front_csv

COLUMNS = (
    *("key", "kl", "heldout_kl", "heldout_ppl", "heldout_long_ppl", "latency_ms", "latency_e2e_ms", "params"),
    *("decoder_params_removed", "macs_per_token", "kv_bytes", "refit_kl", "refit_ppl", "candidate"),
)


@pytest.fixture(scope="module", params=["llama", "gemma"])
def place(request: pytest.FixtureRequest) -> Place:
    chosen: Place = request.getfixturevalue(request.param)
    return chosen


def test_a_run_leaves_its_front_and_nothing_beside_its_directory(place: Place) -> None:
    assert {path.name for path in place.run("run").iterdir()} == {
        *(FRONT_FILE, POINTS_FILE, PAGE_FILE, SUMMARY_FILE, REPORT_FILE),
        *("archive.jsonl", "config.yaml", "confirmed.csv", "latency.json", "supernet", "tuned"),
    }
    assert list(place.cwd.iterdir()) == []
    assert {path.name for path in place.directory.iterdir()} >= {"cache", "run"}
    assert "https://" not in (place.run("run") / PAGE_FILE).read_text().split("<script", 1)[0]


def test_the_front_has_its_columns_in_order_and_quality_falls_with_latency(place: Place) -> None:
    front = read_front_csv(place.run("run") / FRONT_FILE)
    assert [name for name in front.columns if name in COLUMNS] == list(COLUMNS)
    assert not front.isna().to_numpy().any()
    assert is_dense(front).tolist() == [True] + [False] * (len(front) - 1)
    pruned = front[1:]
    assert len(pruned) >= 1  # timings of so small a model are noise on a busy machine, and rule points out
    assert pruned["latency_ms"].is_monotonic_decreasing
    assert pruned["heldout_ppl"].is_monotonic_increasing
    assert (pruned["heldout_kl"] > 0).all()
    assert (pruned["params"] < front["params"][0]).all()
    removed = 1 - pruned["decoder_params"] / front["decoder_params"][0]
    assert pruned["decoder_params_removed"].tolist() == pytest.approx(removed.tolist())
    assert pruned["decoder_params_removed"].between(0, 0.6).all()


def test_points_are_all_that_was_evaluated(place: Place) -> None:
    points = read_front_csv(place.run("run") / POINTS_FILE)
    assert sorted(points["key"]) == sorted(e.candidate.key for e in archived(place.run("run")) if e.status == "ok")


def test_the_summary_and_the_page_tell_of_the_run(place: Place) -> None:
    summary = json.loads((place.run("run") / SUMMARY_FILE).read_text())
    front = read_front_csv(place.run("run") / FRONT_FILE)
    assert summary["model"]["name"] == place.model.name
    assert summary["front_points"] == len(front) - 1
    assert summary["dense"]["params"] == front["params"][0]
    assert [metric["name"] for metric in summary["metrics"]] == [
        name for name in front.columns if name in front.select_dtypes("number")
    ]
    assert 0 <= summary["latency_table_error"]["median"] <= summary["latency_table_error"]["worst"]
    assert summary["evaluations"] == len(archived(place.run("run")))
    page = (place.run("run") / PAGE_FILE).read_text()
    report = (place.run("run") / REPORT_FILE).read_text()
    assert all(key in page and f"| `{key}` |" in report for key in front["key"])
    assert summary["long_context"] == "19 of 64 tokens"
    assert summary["samples"]["texts"].keys() == set(front["key"])
    assert all(texts[0] and len(texts) == 3 for texts in summary["samples"]["texts"].values())
    assert f"run_dir={place.run('run')}" in report


OTHERS = {
    "three objectives": ("objectives=[kl,latency_ms,kv_bytes]", "constraints.kv_bytes=0.8"),
    "depth": ("space=depth", "constraints.latency_ms=0.95"),
    "heads": ("space=heads", "correction=none", "search.distillation=off"),
    "uniform": ("space=uniform", "objectives=[nll,params]"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_questions_to_the_same_model_of_four_layers(llama: Place, name: str) -> None:
    changes = OTHERS[name]
    good(ended(llama.search(name, "budget.evaluations=25", "space.min_decoder_params=0.3", *changes)))
    front = read_front_csv(llama.run(name) / FRONT_FILE)
    searched = [e.values for e in archived(llama.run(name))]
    assert len(front) >= 1
    assert ("refit_kl" in front) == ("correction=none" not in changes)
    dense = front[is_dense(front)].iloc[0]
    for change in changes:
        if change.startswith("constraints."):
            metric, limit = change.removeprefix("constraints.").split("=")
            inside = [values[metric] <= float(limit) * dense[metric] + 1e-9 for values in searched]
            assert inside.count(False) <= 1  # the dense model, which is measured beside
