"""The data of front.html: its points, axes, columns and other runs."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from helpers_front import meaning
from helpers_plot import DENSE, DOMINATED, FACTS, FRONT, KL, LATENCY, figure, point, series

from evaluators.base import Metric
from evaluators.metrics import metric_named, task_score
from search.run.finished import finished_runs
from search.run.front import Point, front_table, points_table, write_front_csv
from search.views.page.plot import page_html, unlike
from space.candidate import Candidate, LayerShape
from space.errors import UserError


def run_of(directory: Path, front: pd.DataFrame = FRONT, **facts: Any) -> Path:
    """A finished run's directory."""
    directory.mkdir(parents=True)
    write_front_csv(directory / "front.csv", front)
    write_front_csv(directory / "points.csv", front)
    (directory / "config.yaml").write_text("seed: 0")
    (directory / "summary.json").write_text(json.dumps({**FACTS, **meaning([front], (KL, LATENCY)), **facts}))
    return directory


def column(data: dict[str, Any], name: str) -> dict[str, Any]:
    return next(one for one in data["columns"] if one["name"] == name)


def uniform(channels: int, **values: float) -> Point:
    return Candidate((LayerShape(2, 1, channels),) * 3), {**DENSE[1], "decoder_params": 2.0 * channels, **values}


def test_the_data_hold_every_point_with_its_role_values_and_layers() -> None:
    data = figure()
    assert {(one["role"], tuple(one["keys"])) for one in data["series"]} == {
        ("dense", (DENSE[0].key,)),
        ("front", tuple(FRONT["key"][1:])),
        ("uniform", ()),
        ("dominated", tuple(DOMINATED["key"])),
    }
    front = series(data, "front")
    assert front["values"]["kl"] == pytest.approx(FRONT["kl"][1:].tolist(), rel=1e-5)
    assert [data["shapes"][letter] for letter in front["layers"][0]] == [[2, 1, 64], [0, 0, 0], [0, 0, 64]]
    assert series(data, "dominated")["values"]["heldout_ppl"] == []


def opened(data: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["x"], one["y"]) for one in data["axes"]]


def test_the_page_opens_with_what_is_measured_of_the_front_over_the_dense_model() -> None:
    timed = FRONT.assign(latency_e2e_ms=[8.0, 4.0, 2.0, 10.0])
    data = figure(front=timed)
    assert opened(data) == [("measured_speed_up", "heldout_rise"), ("table_speed_up", "kl")]
    front, others = series(data, "front")["values"], series(data, "dominated")["values"]
    assert front["measured_speed_up"] == [2, 4, 0.8]
    assert front["heldout_rise"] == pytest.approx(np.log(FRONT["heldout_ppl"][1:] / 10).tolist(), rel=1e-5)
    assert [series(data, "dense")["values"][name] for name, _ in opened(data)] == [[1], [1]]
    assert series(data, "dense")["values"]["heldout_rise"] == [0]
    assert (others["measured_speed_up"], others["heldout_rise"], others["table_speed_up"]) == ([], [], [1])
    shown = [column(data, name) for name in ("measured_speed_up", "heldout_rise")]
    assert [(one["goal"], one["log"], one["relative"]) for one in shown] == [("max", False, True), ("min", False, True)]
    assert [one["name"] for one in data["columns"]][:3] == ["measured_speed_up", "table_speed_up", "heldout_rise"]


def test_what_is_not_known_gives_way_to_what_the_search_went_by() -> None:
    assert opened(figure()) == [("table_speed_up", "heldout_rise"), ("table_speed_up", "kl")]
    assert opened(figure(front=FRONT.drop(columns="heldout_ppl"))) == [("table_speed_up", "kl")]


def test_speed_ups_are_of_the_latency_that_was_searched_for() -> None:
    front = FRONT.assign(decode_ms=[6.0, 3.0, 2.0, 1.0], decode_e2e_ms=[6.0, 4.0, 3.0, 2.0], latency_e2e_ms=1.0)
    data = figure(front=front, objectives=(KL, metric_named("decode_ms")))
    assert series(data, "front")["values"]["measured_speed_up"] == [1.5, 2, 3]
    assert series(data, "front")["values"]["table_speed_up"] == [2, 3, 6]
    label = column(data, "measured_speed_up")["label"]
    assert label == "Speed-up of decoding a token, end to end"


def test_another_run_is_over_its_own_dense_model(tmp_path: Path) -> None:
    slower = FRONT.assign(latency_ms=10 * FRONT["latency_ms"], heldout_ppl=3 * FRONT["heldout_ppl"])
    data = figure(compared=tuple(finished_runs(str(run_of(tmp_path / "run", slower)))))
    for name in ("table_speed_up", "heldout_rise"):
        assert series(data, "front", 1)["values"][name] == pytest.approx(
            series(data, "front")["values"][name], rel=1e-4
        )


def test_the_recommended_point_is_selected_else_the_nearest_of_the_trade_else_the_dense_model() -> None:
    near = FRONT.assign(heldout_ppl=[10.0, 11.0, 12.5, 16.0])
    data = figure(front=near)
    assert (set(data["marks"]), data["trade"]) == ({"recommended", "smallest", "fastest"}, [])
    assert data["selected"] == data["marks"]["recommended"] == near["key"][1]
    assert data["advice"].startswith(f"Recommended: {near['key'][1]}, 1.41 × as fast")
    far = figure(front=near.assign(heldout_ppl=[10.0, 14.0, 15.0, 16.0]))
    assert "recommended" not in far["marks"]
    assert [key for key, _ in far["trade"]] == near["key"][1:].tolist()
    assert far["selected"] == near["key"][1]
    assert far["advice"].startswith("No point of the front is recommended")
    assert figure(front=front_table([], DENSE))["selected"] == DENSE[0].key
    searching = figure(front=FRONT.drop(columns="heldout_ppl"))
    assert (searching["advice"], searching["trade"], searching["selected"]) == ("", [], DENSE[0].key)


def test_designs_with_equal_layers_stand_apart_but_not_from_the_front() -> None:
    ladder = points_table([uniform(16, kl=1.0), uniform(32, kl=0.5), point(48)], DENSE)
    data = figure(evaluated=ladder)
    assert set(series(data, "uniform")["keys"]) == {uniform(16)[0].key, uniform(32)[0].key}
    assert series(data, "dominated")["keys"] == [point(48)[0].key]
    again = figure(evaluated=FRONT)
    assert [len(one["keys"]) for one in again["series"]] == [0, 0, 3, 1]
    assert series(figure(front=front_table([uniform(16)], DENSE), evaluated=ladder), "uniform")["keys"] == [
        uniform(32)[0].key
    ]


def test_without_latency_the_first_cost_objective_is_the_axis() -> None:
    for objective, axis in (("params", "decoder_params_removed"), ("kv_bytes", "kv_bytes")):
        data = figure(front=FRONT.assign(kv_bytes=1.0), objectives=(KL, metric_named(objective)))
        assert opened(data) == [(axis, "heldout_rise"), (axis, "kl")]
    other = figure(front=FRONT.assign(energy=1.0), objectives=(Metric("energy", "mJ", "max", "cost"), LATENCY))
    assert opened(other) == [("table_speed_up", "heldout_rise"), ("table_speed_up", "energy")]
    known = column(other, "energy")
    assert (known["label"], known["unit"], known["goal"]) == ("energy", "mJ", "max")


def test_values_are_in_the_unit_of_their_column() -> None:
    big = {"params": 134_515_008.0, "kv_bytes": 23_592_960.0, "decoder_params": 1000.0}
    data = figure(front=front_table([], (DENSE[0], {**DENSE[1], **big})))
    dense = {name: values[0] for name, values in series(data, "dense")["values"].items()}
    assert (dense["params"], column(data, "params")["unit"]) == (134.515, "M")
    assert (dense["kv_bytes"], column(data, "kv_bytes")["unit"]) == (22.5, "MiB")
    removed = figure()
    assert series(removed, "front")["values"]["decoder_params_removed"][0] == 87.2


def test_a_task_score_is_offered_with_what_stands_behind_its_error_and_a_column_of_nothing_known_is_not() -> None:
    front = FRONT.assign(acc_piqa=[0.7, 0.6, 0.5, 0.4], acc_piqa_stderr=0.01, unheard_of=1.0)
    data = figure(front=front, scores=(task_score("acc_piqa", "max"),))
    task = column(data, "acc_piqa")
    assert (task["group"], task["goal"], task["spread"], task["log"]) == ("Tasks", "max", "acc_piqa_stderr", False)
    assert series(data, "front")["values"]["acc_piqa"] == [0.6, 0.5, 0.4]
    names = [one["name"] for one in data["columns"]]
    assert names.index("heldout_ppl") < names.index("acc_piqa") < names.index("latency_ms")
    assert "unheard_of" not in names


def test_a_column_that_says_the_same_as_another_is_left_out() -> None:
    same = FRONT.assign(prefill_ms=FRONT["latency_ms"])
    assert "prefill_ms" not in figure(front=same)["columns"].__repr__()
    assert column(figure(front=same.assign(prefill_ms=1.0)), "prefill_ms")["unit"] == "ms"


def test_untuned_designs_do_not_pass_for_tuned_ones() -> None:
    tuned = FRONT.assign(untuned_kl=2 * FRONT["kl"])
    data = figure(front=tuned)
    assert column(data, "kl")["before"] == "untuned_kl"
    others = series(data, "dominated")["values"]
    assert (others["kl"], len(others["untuned_kl"])) == ([], 1)
    assert column(figure(), "kl")["before"] is None


def test_fronts_of_other_runs_are_laid_over_with_what_makes_them_unlike(tmp_path: Path) -> None:
    near, far = run_of(tmp_path / "a" / "run"), run_of(tmp_path / "b" / "run", text="other")
    data = figure(compared=tuple(finished_runs([str(near), str(far)])))
    assert [run["name"] for run in data["runs"]] == ["results/run", str(near), str(far)]
    assert [run["notes"] for run in data["runs"]][:2] == [[], []]
    assert "other text" in data["runs"][2]["notes"][0]
    assert data["runs"][2]["command"] == f"python export_subnet.py run_dir={far} pick="
    assert series(data, "front", 2)["keys"] == series(data, "front")["keys"]
    assert series(data, "dense", 1)["keys"] == [DENSE[0].key]


def test_one_run_may_be_named_without_brackets_and_an_unfinished_one_is_an_error(tmp_path: Path) -> None:
    assert [run.run_dir for run in finished_runs(str(run_of(tmp_path / "one")))] == [tmp_path / "one"]
    assert finished_runs(None) == []
    with pytest.raises(UserError, match=r"front\.csv, but there is no such file\. That is no run directory, but .*one"):
        finished_runs([str(tmp_path)])


def test_a_run_whose_keys_would_be_commands_is_refused(tmp_path: Path) -> None:
    front = FRONT.assign(key=[*FRONT["key"][:-1], "x; rm -rf ~"])
    with pytest.raises(UserError, match="expected keys of letters and digits"):
        finished_runs(str(run_of(tmp_path / "run", front)))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"model": {"name": "tiny", "digest": "r2"}}, "another model (tiny)"),
        ({"model": {"name": "renamed", "digest": "r1"}}, None),
        ({"dtype": "float32"}, "another dtype (float32)"),
        ({"latency": {"device": "gpu"}}, "latency"),
        ({"latency": {"device": "cpu", "newer": 1}}, None),
    ],
)
def test_runs_are_compared_by_model_text_and_device(changed: dict[str, Any], words: str | None) -> None:
    told = unlike(FACTS, FACTS | changed)
    assert len(told) == (words is not None)
    assert (words or "") in "".join(told)


def test_five_thousand_points_of_eighty_layers_fit_into_six_megabytes() -> None:
    rng = random.Random(0)
    shapes = [LayerShape(heads, 1, 64 * step) for heads in range(1, 10) for step in range(1, 15)]
    values = dict.fromkeys(("nll", "prefill_ms", "macs_per_token", "kv_bytes"), 0.123456789)
    points = [
        (
            Candidate(tuple(rng.choices(shapes, k=80))),
            {**DENSE[1], **values, "kl": rng.random(), "latency_ms": rng.random()},
        )
        for _ in range(5000)
    ]
    data = figure(evaluated=points_table(points, DENSE))
    first = series(data, "dominated")
    shapes_of_first = dict(zip(first["keys"], first["layers"], strict=True))[points[0][0].key]
    assert [data["shapes"][letter] for letter in shapes_of_first] == [
        [layer.query_heads, layer.kv_heads, layer.mlp_channels] for layer in points[0][0].layers
    ]
    assert len(page_html(data).encode()) < 6_000_000
