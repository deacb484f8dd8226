"""front.html needs nothing but itself, and no name can break out of it."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from helpers_plot import DENSE, DOMINATED, FRONT, HOSTILE, figure, series

from search.views.page.plot import SCRIPTS, page_html


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


def page(**changes: Any) -> Page:
    """The page of a figure."""
    return Page(page_html(figure(**changes)))


def test_numbers_that_are_not_finite_do_not_reach_the_json() -> None:
    data = page(front=FRONT.assign(heldout_ppl=[10.0, math.nan, math.inf, 12.0])).data
    assert series(data, "front")["values"]["heldout_ppl"] == [None, None, 12]


def test_the_page_loads_nothing_from_anywhere() -> None:
    text = page_html(figure())
    written = Page(text)
    for tag, attributes in written.elements:
        assert tag not in ("link", "iframe", "img", "base", "object", "embed")
        assert not {"src", "href", "srcset"} & set(attributes), tag
    policy = next(a["content"] for _, a in written.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy
    style = text.split("<style>")[1].split("</style>")[0]
    assert "@import" not in style
    assert re.findall(r"url\((?!#)", style) == []
    assert "Plotly" in written.scripts[1]
    assert len(written.scripts[1]) > 1_000_000, "plotly.js is inside"
    assert len(written.scripts) == 3


def test_the_page_holds_every_key_and_the_export_command() -> None:
    data = page().data
    assert {key for one in data["series"] for key in one["keys"]} == {*FRONT["key"], *DOMINATED["key"]}
    assert data["runs"][0]["command"] == "python export_subnet.py run_dir=results/run pick="


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
def test_the_command_says_the_run_directory_to_shell_and_hydra(run_dir: str, override: str) -> None:
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    command = figure(run_dir=run_dir)["runs"][0]["command"]
    words = shlex.split(command)
    assert words[:2] == ["python", "export_subnet.py"]
    assert OverridesParser.create().parse_override(words[2]).value() == run_dir
    assert words[3:] == ["pick="]
    assert shlex.split(override)[0] in words[2]


def test_hostile_names_stay_text() -> None:
    plain, hostile = page(), page(run_dir=HOSTILE, title=HOSTILE, texts={DENSE[0].key: [HOSTILE]})
    assert hostile.data["runs"][0]["samples"] == {"prompts": [HOSTILE], "texts": {DENSE[0].key: [HOSTILE]}}
    assert hostile.elements == plain.elements, "a name made an element"
    assert len(hostile.scripts) == len(plain.scripts)
    assert (hostile.data["title"], hostile.data["runs"][0]["run_dir"]) == (HOSTILE, HOSTILE)
    assert hostile.scripts[2] == plain.scripts[2]


def test_the_scripts_set_names_as_text_only() -> None:
    scripts = list((Path(__file__).parents[1] / "search" / "views" / "page").glob("*.js"))
    assert {script.name for script in scripts} == {*SCRIPTS, "live.js"}  # which is the dashboard's alone
    for script in scripts:
        text = script.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write\b|eval\(", text), script.name
