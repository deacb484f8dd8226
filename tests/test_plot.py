"""front.html: its data, that it needs nothing but itself, and that no name can break out of it."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from evaluators.base import Metric
from search.plot import front_figure_data, write_front_html
from search.report import Point, front_table, points_table
from space.candidate import Candidate, LayerShape

KL = Metric("kl", "nats/token", "min", 2)
LATENCY = Metric("latency_ms", "ms", "min", 1)
DENSE: Point = (
    Candidate((LayerShape(4, 2, 256),) * 3),
    {"kl": 0.0, "heldout_ppl": 10.0, "latency_ms": 9.0, "params": 2000.0, "decoder_params": 1000.0},
)


def point(channels: int, **values: float) -> Point:
    """A pruned point with a whole layer and an attention block gone."""
    layers = (LayerShape(2, 1, channels), LayerShape(0, 0, 0), LayerShape(0, 0, channels))
    return Candidate(layers), {**DENSE[1], "decoder_params": 2.0 * channels, **values}


FRONT = front_table([point(n, kl=1 / n, latency_ms=n / 10, heldout_ppl=10 + 9 / n) for n in (16, 32, 64)], DENSE)
DOMINATED = points_table([(c, {k: v for k, v in m.items() if k != "heldout_ppl"}) for c, m in [point(48)]], DENSE)
HOSTILE = "</script><script>alert(1)</script><!--<script> & \" ' {{data}} \u2028"


class Page(HTMLParser):
    """The page as a browser splits it: elements with attributes, and the text of each script."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.elements and self.elements[-1][0] == "script" and self.scripts:
            self.scripts[-1] += data
        self.text += data

    @property
    def data(self) -> dict[str, Any]:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        loaded = json.loads(self.scripts[0], parse_constant=refuse)
        assert isinstance(loaded, dict)
        return loaded


def page(tmp_path: Path, front: pd.DataFrame = FRONT, run_dir: str = "results/run", title: str = "tiny") -> Page:
    """The page that is written for a front."""
    write_front_html(tmp_path / "front.html", front, DOMINATED, (KL, LATENCY), run_dir=run_dir, title=title)
    return Page((tmp_path / "front.html").read_text(encoding="utf-8"))


def test_the_data_hold_every_point_with_its_role_values_and_layers() -> None:
    data = front_figure_data(FRONT, DOMINATED, (KL, LATENCY))
    assert [p["role"] for p in data["points"]] == ["dense", "front", "front", "front", "dominated"]
    assert [p["key"] for p in data["points"]] == [*FRONT["key"], *DOMINATED["key"]]
    names = [column["name"] for column in data["columns"]]
    front = data["points"][1]
    assert dict(zip(names, front["values"], strict=True))["kl"] == FRONT["kl"][1]
    assert front["layers"] == [[2, 1, 64], [0, 0, 0], [0, 0, 64]]
    off_front = dict(zip(names, data["points"][-1]["values"], strict=True))
    assert off_front["heldout_ppl"] is None
    assert (data["x"][0], data["y"]) == ("latency_ms", ["kl", "heldout_ppl"])


def test_the_knee_is_selected_and_marked_else_the_dense_model() -> None:
    data = front_figure_data(FRONT, DOMINATED, (KL, LATENCY))
    marked = {mark: p["key"] for p in data["points"] for mark in p["marks"]}
    assert set(marked) == {"knee", "smallest", "fastest"}
    assert data["selected"] == marked["knee"]
    assert front_figure_data(front_table([], DENSE), DOMINATED, (KL, LATENCY))["selected"] == DENSE[0].key


def test_a_point_of_the_front_is_not_drawn_as_dominated_too() -> None:
    data = front_figure_data(FRONT, FRONT, (KL, LATENCY))
    assert [p["role"] for p in data["points"]] == ["dense", "front", "front", "front"]


def test_without_latency_the_first_cost_objective_is_the_axis() -> None:
    objectives = (KL, Metric("params", "", "min", 0))
    data = front_figure_data(FRONT.drop(columns="latency_ms"), DOMINATED, objectives)
    assert data["x"][0] == "params"
    other = front_figure_data(FRONT.assign(energy=1.0), DOMINATED, (Metric("energy", "mJ", "max", 1), LATENCY))
    assert other["y"][0] == "latency_ms"
    column = next(column for column in other["columns"] if column["name"] == "energy")
    assert column == {"name": "energy", "label": "energy", "unit": "mJ", "kind": "plain", "goal": "max"}


def test_numbers_that_are_not_finite_do_not_reach_the_json(tmp_path: Path) -> None:
    front = FRONT.assign(heldout_ppl=[10.0, math.nan, math.inf, 12.0])
    data = page(tmp_path, front).data
    index = [column["name"] for column in data["columns"]].index("heldout_ppl")
    assert [p["values"][index] for p in data["points"][:4]] == [10, None, None, 12]


def test_the_page_loads_nothing_from_anywhere(tmp_path: Path) -> None:
    written = page(tmp_path)
    for tag, attributes in written.elements:
        assert tag not in ("link", "iframe", "img", "base", "object", "embed")
        assert not {"src", "href", "srcset"} & set(attributes), tag
    policy = next(a["content"] for _, a in written.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    style = (tmp_path / "front.html").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "@import" not in style
    assert re.findall(r"url\((?!#)", style) == []
    assert "Plotly" in written.scripts[1]
    assert len(written.scripts[1]) > 1_000_000, "plotly.js is inside"
    assert len(written.scripts) == 3


def test_the_page_holds_every_key_and_the_export_command(tmp_path: Path) -> None:
    data = page(tmp_path).data
    assert {p["key"] for p in data["points"]} == {*FRONT["key"], *DOMINATED["key"]}
    assert data["command"] == "python export_subnet.py run_dir=results/run pick="


@pytest.mark.parametrize(
    ("run_dir", "override"),
    [
        ("results/a-1.2", "run_dir=results/a-1.2"),
        ("my runs/a", "\"run_dir='my runs/a'\""),
        ("a,b", "\"run_dir='a,b'\""),
        ("$(rm -rf x)`y`", "run_dir="),
        ("it's", "run_dir="),
    ],
)
def test_the_command_says_the_run_directory_to_shell_and_hydra(tmp_path: Path, run_dir: str, override: str) -> None:
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    command = page(tmp_path, run_dir=run_dir).data["command"]
    words = shlex.split(command)
    assert words[:2] == ["python", "export_subnet.py"]
    assert OverridesParser.create().parse_override(words[2]).value() == run_dir
    assert words[3:] == ["pick="]
    assert shlex.split(override)[0] in words[2]


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    plain, hostile = page(tmp_path), page(tmp_path, run_dir=HOSTILE, title=HOSTILE)
    assert hostile.elements == plain.elements, "a name made an element"
    assert len(hostile.scripts) == len(plain.scripts)
    assert (hostile.data["title"], hostile.data["run_dir"]) == (HOSTILE, HOSTILE)
    assert hostile.scripts[2] == plain.scripts[2]


def test_the_script_sets_names_as_text_only() -> None:
    script = (Path(__file__).parents[1] / "search" / "page" / "front.js").read_text(encoding="utf-8")
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", script)
