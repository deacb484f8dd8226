"""front.html of made-up points in a tab of a real browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from helpers_front import finished_run

from evaluators.metrics import metric_named, task_score
from search.run.front import Point, front_table, points_table
from search.views.page.plot import front_figure_data, page_html
from space.candidate import Candidate, LayerShape

OBJECTIVES = (metric_named("kl"), metric_named("latency_ms"))
SCORE = task_score("acc_piqa", "max")
FACTS: dict[str, Any] = {
    "model": {"name": "tiny", "digest": "r"},
    "text": "t",
    "dtype": "d",
    "latency": {"device": "cpu"},
}
HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>\"'{{data}}"
DENSE_VALUES = {"kl": 0.0, "heldout_ppl": 10.0, "acc_piqa": 0.7, "acc_piqa_stderr": 0.01}


def point(latency: float, kl: float, heads: tuple[int, ...], channels: int, *, front: bool = True) -> Point:
    layers = tuple(LayerShape(n, max(1, n // 2) if n else 0, channels) for n in heads)
    cost = float(sum(n * 10 + channels for n in heads))
    values = {"kl": kl, "latency_ms": latency, "params": 500.0 + cost, "decoder_params": cost}
    held = {"latency_e2e_ms": latency, "heldout_ppl": 10 + 10 * kl, "acc_piqa": 0.7 - kl / 10, "acc_piqa_stderr": 0.01}
    return Candidate(layers), values | (held if front else {})


DENSE = (
    Candidate((LayerShape(4, 2, 96),) * 4),
    {**DENSE_VALUES, "latency_ms": 100.0, "latency_e2e_ms": 100.0, "params": 924.0, "decoder_params": 424.0},
)
MEMBERS = [point(80, 0.1, (4, 4, 0, 2), 96), point(60, 0.3, (4, 2, 0, 2), 64), point(40, 0.6, (2, 0, 0, 2), 64)]
MEMBERS.append(point(30, 2.0, (2, 0, 0, 1), 32))
OTHERS = [point(70, 0.9, (4, 1, 0, 2), 80, front=False), point(50, 1.5, (2, 2, 2, 2), 48, front=False)]
FRONT = front_table(MEMBERS, DENSE)
KEYS = [candidate.key for candidate, _ in MEMBERS]


def data(title: str = "tiny", run_dir: str = "results/run", front: Any = FRONT, **more: Any) -> dict[str, Any]:
    others = more.pop("others", OTHERS)
    facts = {**FACTS, "model": {**FACTS["model"], "name": title}, "samples": more.pop("samples", None)}
    scores = [SCORE, *more.pop("scores", [])]
    run = finished_run(run_dir, front, points_table(others, DENSE), OBJECTIVES, facts, scores=scores)
    return front_figure_data(run, **more)


class Shown:
    """The page in a tab of its own, with everything that went wrong in it."""

    def __init__(self, browser: Any, file: Path) -> None:
        self.file = file
        self.context = browser.new_context(viewport={"width": 1280, "height": 860}, accept_downloads=True)
        self.tab = self.context.new_page()
        self.wrong: list[str] = []
        self.tab.on("console", lambda message: message.type == "error" and self.wrong.append(message.text))
        self.tab.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.tab.on("dialog", lambda dialog: (self.wrong.append(dialog.message), dialog.dismiss()))
        self.tab.on(
            "request", lambda request: request.url.startswith(("data:", "blob:")) or self.asked.append(request.url)
        )
        self.asked: list[str] = []

    def open(self, figure: dict[str, Any]) -> Shown:
        self.file.write_text(page_html(figure), encoding="utf-8")
        self.tab.goto(self.file.as_uri())
        self.tab.wait_for_selector("#plot .main-svg")
        return self

    def text(self, selector: str) -> str:
        return str(self.tab.inner_text(selector))

    def place(self, key: str) -> tuple[float, float]:
        """Where a point of the plot is on the screen."""
        found = self.tab.evaluate(
            """key => {
              const plot = document.getElementById("plot"), { xaxis, yaxis } = plot._fullLayout;
              const box = plot.getBoundingClientRect();
              for (const { customdata, x, y } of plot.data) {
                const at = (customdata ?? []).findIndex((id) => id.endsWith(key));
                if (at < 0) continue;
                return [box.x + xaxis._offset + xaxis.d2p(x[at]), box.y + yaxis._offset + yaxis.d2p(y[at])];
              }
              return null;
            }""",
            key,
        )
        assert found is not None, f"{key} is not in the plot"
        return found[0], found[1]

    def click(self, key: str, *, shift: bool = False) -> None:
        self.tab.mouse.move(*self.place(key))
        self.tab.wait_for_selector(f".hoverlayer .hovertext:has-text('{key}')")
        if shift:
            self.tab.keyboard.down("Shift")
        self.tab.mouse.down()
        self.tab.mouse.up()
        if shift:
            self.tab.keyboard.up("Shift")
        self.tab.wait_for_selector(f"#picks h2:has-text('{key}')")
        self.tab.wait_for_function(  # the ring; drawing it takes the hover away that a next click needs
            """key => {
              const { data, layout } = document.getElementById("plot");
              return data.some(({ customdata, x }) => (customdata ?? []).some((id, at) => id.endsWith(key)
                && layout.shapes.some(({ path, xanchor }) => path && xanchor === x[at])));
            }""",
            arg=key,
        )

    def picked(self) -> list[str]:
        return [str(text) for text in self.tab.locator("#picks h2 > span:first-child").all_inner_texts()]

    def row(self, label: str) -> list[str]:
        return [str(text) for text in self.tab.locator(f"#metrics tr:has(th:has-text('{label}')) td").all_inner_texts()]

    def annotations(self) -> list[str]:
        return [
            str(text)
            for text in self.tab.evaluate("document.getElementById('plot').layout.annotations.map((one) => one.text)")
        ]
