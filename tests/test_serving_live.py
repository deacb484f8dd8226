"""What a server tells of itself beside the run, and what the dashboard makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers_serving import GREEDY, Points, ask, make_points, running
from helpers_waiting import until

import serving.live
from search.views.dashboard.served import OTHERS, SHOWN_POINTS, served_view
from serving.live import Live, figures
from serving.requests import Outcome, Request, Served
from space.locations import LIVE_FILE, SERVING_DIRECTORY

ADDRESS = "http://127.0.0.1:8000/"


def answered(point: str, outcome: Outcome = "stop", first: float | None = 0.1, **more: Any) -> Served:
    return Served(point, 5, 3, outcome, 0.4, 0.05, first, 0.02, **{"slo_kept": None, **more})


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory) -> Points:
    return make_points(tmp_path_factory.mktemp("points"))


def test_figures_leave_out_what_nothing_is_known_of() -> None:
    served = [answered("a", slo_kept=True), answered("a", slo_kept=False), answered("b", "timeout", None)]
    assert figures(served) == {
        "requests": {"a": 2, "b": 1},
        "failed": 1,
        "first_token_s": 0.1,
        "token_s": 0.02,
        "slo_kept": 0.5,
        "predicted_loss": None,
    }


def test_the_dashboard_sees_a_server_at_work_and_its_end(
    points: Points, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.live, "EVERY_S", 0.02)
    file = tmp_path / SERVING_DIRECTORY / LIVE_FILE.format(8000)
    file.parent.mkdir()
    live = Live(file, ADDRESS, "slo")
    assert not served_view(tmp_path).words
    with running(points, on_served=live.served) as scheduler:
        live.start(scheduler)
        until(lambda: served_view(tmp_path).words.startswith(f"Served by controller=slo at {ADDRESS}: 0 requests"))
        assert served_view(tmp_path).figures == "No request ended in its last minute."
        asked = [ask(scheduler, "cut", Request(prompt, 5, GREEDY)) for prompt in ((1, 2), (3,), (4, 5, 6))]
        for each in asked:
            each.wait()
        until(lambda: "3 requests (cut 3)" in served_view(tmp_path).figures)
        view = served_view(tmp_path)
        assert "first token after" in view.figures
        assert max(rate for _, rate in view.ended["cut"]) > 0
        assert {*view.load} == {"writing", "waiting"}
        told = json.loads(file.read_text())
        assert served_view(tmp_path, told["at"] + 600).words.startswith("Not served: ")
        live.close()
    assert served_view(tmp_path).words.startswith(f"Was served by controller=slo at {ADDRESS}, until ")


def test_rates_are_of_the_last_looks_and_the_busiest_points(tmp_path: Path) -> None:
    counts = {f"s{at}": at + 1 for at in range(SHOWN_POINTS + 2)}
    look = {"writing": 1, "waiting": 0}
    looks = [{"at": 100.0 + 2 * at, **look, "ended": counts if at == 3 else {}} for at in range(12)]
    recent = figures([answered("s1", predicted_loss=0.25, slo_kept=True)])
    told = {"address": ADDRESS, "controller": "static", "at": 122.0, "ended": False, "recent": recent, "looks": looks}
    (tmp_path / SERVING_DIRECTORY).mkdir()
    (tmp_path / SERVING_DIRECTORY / LIVE_FILE.format(1)).write_text(json.dumps(told))
    view = served_view(tmp_path, 123.0)
    assert view.figures.endswith("limits of time kept by 100%; predicted loss 0.250 nats a token.")
    assert {*view.ended} == {"s2", "s3", "s4", "s5", "s6", OTHERS}
    assert view.ended["s6"][2:8] == [
        (-16, 60 * 7 / 6),
        (-14, 60 * 7 / 8),
        *((at, 42.0) for at in (-12, -10, -8)),
        (-6, 0),
    ]
    assert view.ended[OTHERS][4] == (-12, 60 * (1 + 2) / 10)
    (tmp_path / SERVING_DIRECTORY / LIVE_FILE.format(2)).write_text("{")
    assert served_view(tmp_path).words.startswith("What a server tells of itself cannot be read: JSONDecodeError")
