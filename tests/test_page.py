"""front.html in a real browser: load, hover, click, compare, copy, limit, and names that mean harm."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_front import meaning
from helpers_page import DENSE, FACTS, FRONT, HOSTILE, KEYS, MEMBERS, OBJECTIVES, OTHERS, SCORE, Shown, data, point

from evaluators.metrics import task_score
from search.run.finished import finished_runs
from search.run.front import front_table, write_front_csv
from space.candidate import Candidate, LayerShape


@pytest.fixture
def shown(browser: Any, tmp_path: Path) -> Iterator[Shown]:
    page = Shown(browser, tmp_path / "front.html")
    yield page
    page.context.close()
    assert page.wrong == []
    assert page.asked == [page.file.as_uri()], "the page asked for something"


def test_load_hover_click_and_copy(shown: Shown) -> None:
    figure = data()
    shown.open(figure)
    assert shown.tab.title() == "tiny – Pareto front"
    assert "4 points on the front, 2 other candidates" in shown.text("#subtitle")
    assert shown.picked() == [figure["marks"]["recommended"]] == [KEYS[0]]
    assert {"dense", "recommended"} <= set(shown.annotations())
    assert shown.text("#advice").startswith(f"Recommended: {KEYS[0]}, 1.25 × as fast")
    shown.tab.mouse.move(*shown.place(KEYS[1]))
    hover = shown.tab.wait_for_selector(".hoverlayer .hovertext").text_content()
    assert KEYS[1] in hover
    assert "Point 2 of 4" in hover
    shown.click(KEYS[0])
    assert shown.row("KL to dense, search text")[0] == "0.1000"
    assert shown.row("Latency, table") == ["80.00", "0.800", "100.00"]
    assert shown.row("acc_piqa") == ["0.6900 ± 0.0100", "0.986", "0.7000"]
    assert shown.text("#picks code") == f"python export_subnet.py run_dir=results/run pick={KEYS[0]}"
    titles = shown.tab.locator("#picture title").all_text_contents()
    assert titles[0] == "Layer 0: 4 query heads in 2 KV groups, 96 MLP channels"
    assert titles[2] == "Layer 2: 0 query heads in 0 KV groups, 96 MLP channels"
    assert shown.tab.text_content("#picture .label") == "no attention"
    shown.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown.tab.click("#picks .copy")
    shown.tab.wait_for_selector("#picks .copy:has-text('Copied')")
    assert shown.tab.evaluate("navigator.clipboard.readText()") == shown.text("#picks code")
    assert shown.row("Speed-up, end to end") == ["1.25", "", "1.00"]
    shown.tab.click("#axes button:has-text('all candidates')")
    shown.click(OTHERS[0][0].key)
    assert shown.row("Perplexity, held-out")[0] == "–"


def test_types_of_matrices_stand_in_the_picture(shown: Shown) -> None:
    layers = (LayerShape(4, 2, 96, 1, 5), LayerShape(4, 2, 96), LayerShape(0, 0, 96, 0, 1), LayerShape(2, 1, 96, 1))
    typed = Candidate(layers, head_type=1), MEMBERS[0][1]
    shown.open(data(front=front_table([typed, *MEMBERS[1:]], DENSE)))
    shown.click(typed[0].key)
    titles = shown.tab.locator("#picture title").all_text_contents()
    assert titles[0] == "Layer 0: 4 query heads in 2 KV groups q8_0, 96 MLP channels q4_0"
    assert titles[1:3] == [
        "Layer 1: 4 query heads in 2 KV groups f16, 96 MLP channels f16",
        "Layer 2: 0 query heads in 0 KV groups, 96 MLP channels q8_0",
    ]
    assert "4 / 2 q8_0" in shown.tab.locator("#picture text").all_text_contents()
    shown.click(KEYS[1])
    assert not any("f16" in text for text in shown.tab.locator("#picture text").all_text_contents())
    shown.click(typed[0].key, shift=True)
    assert "4 of 4 layers differ" in shown.text("#differing")


def test_it_opens_with_measured_speed_up_and_held_out_loss_from_zero_and_says_which_way_is_better(shown: Shown) -> None:
    shown.open(data())
    titles = "(({ xaxis, yaxis }) => [xaxis, yaxis].map(({ title, type }) => [title.text, type]))(plot._fullLayout)"
    measured = [["Speed-up, end to end (× dense)", "linear"], ["Loss above dense, held-out (nats/token)", "linear"]]
    assert shown.tab.evaluate(titles) == measured
    low, high = shown.tab.evaluate("plot._fullLayout.yaxis.range")
    assert low < 0 < high
    assert shown.text("#note").startswith("Lower and further right is better. 2 points are not shown")
    dense, fastest = shown.place(DENSE[0].key), shown.place(KEYS[3])
    assert (fastest[0] > dense[0], fastest[1] < dense[1]) == (True, True)
    shown.tab.click("#axes button:has-text('all candidates')")
    assert shown.tab.evaluate(titles) == [
        ["Speed-up, table (× dense)", "linear"],
        ["KL to dense, search text (nats/token)", "log"],
    ]
    assert "not shown" not in shown.text("#note")
    shown.place(OTHERS[0][0].key)
    assert shown.tab.get_attribute("#axes button:has-text('all')", "aria-pressed") == "true"
    shown.tab.select_option("#x-axis", "latency_ms")
    assert shown.text("#note").startswith("Lower and further left is better.")
    assert shown.tab.locator("#axes [aria-pressed=true]").count() == 0


def test_shift_click_or_the_button_compares_two_and_escape_ends_it(shown: Shown) -> None:
    shown.open(data())
    shown.click(KEYS[0])
    plot = shown.tab.locator("#plot").bounding_box()
    shown.click(KEYS[2], shift=True)
    assert shown.picked() == [KEYS[0], KEYS[2]]
    assert shown.row("Latency, table") == ["80.00", "0.800", "40.00", "0.400"]
    assert shown.tab.locator("#picture svg").count() == 2
    assert "3 of 4 layers differ" in shown.text("#differing") or "4 of 4 layers differ" in shown.text("#differing")
    shown.tab.wait_for_function(
        "document.getElementById('plot').layout.annotations.some((one) => one.text === '<b>B</b>')"
    )
    shown.tab.keyboard.press("Escape")
    assert shown.picked() == [KEYS[2]]
    shown.tab.focus("#compare")
    shown.tab.keyboard.press("Enter")
    shown.tab.keyboard.press("ArrowLeft")
    assert shown.picked() == [KEYS[2], KEYS[1]]
    assert shown.tab.locator("#plot").bounding_box() == plot, "the layout jumped"


def test_a_limit_by_number_slider_or_brush_marks_the_best_point_that_keeps_to_it(shown: Shown) -> None:
    shown.open(data())
    shown.tab.fill("#limit-number", "1.5")
    assert shown.picked() == [KEYS[1]]
    assert shown.annotations().count("≥ 1.5 × dense") == 1
    shown.tab.click("#clear")
    shown.tab.select_option("#x-axis", "latency_ms")
    shown.tab.fill("#limit-number", "65")
    assert shown.picked() == [KEYS[1]]
    assert "Best of 3" in shown.text("#best")
    shown.tab.wait_for_function(
        "document.getElementById('plot').layout.annotations.some((one) => one.text === '<b>best</b>')"
    )
    assert "≤ 65 ms" in shown.annotations()
    shown.tab.focus("#limit-slider")
    for _ in range(3):
        shown.tab.keyboard.press("PageDown")
    assert float(shown.tab.input_value("#limit-number")) < 60
    assert shown.picked() == [KEYS[2]]
    shown.tab.fill("#limit-number", "1")
    assert "the nearest has 30.00 ms" in shown.text("#best")
    shown.tab.click("#clear")
    assert shown.tab.locator('[data-mark="best"]').is_disabled()
    shown.tab.select_option("#limited", "acc_piqa")
    assert shown.text("#relation") == "≥"
    shown.tab.fill("#limit-number", "0.66")
    assert shown.picked() == [KEYS[0]], "of those that keep to it, the lowest on the upright axis"
    shown.tab.select_option("#limited", "latency_ms")
    shown.tab.click("#brush")
    (left, top), (right, bottom) = shown.place(KEYS[3]), shown.place(KEYS[1])
    shown.tab.mouse.move(left - 10, top + 5)
    shown.tab.mouse.down()
    shown.tab.mouse.move((left + right) / 2, (top + bottom) / 2)
    shown.tab.mouse.move(right + 8, bottom)
    shown.tab.mouse.up()
    shown.tab.wait_for_function("document.getElementById('limit-number').value !== ''")
    assert 60 < float(shown.tab.input_value("#limit-number")) < 65
    assert shown.picked() == [KEYS[1]]


def test_axes_colour_and_series_are_chosen_and_the_picture_is_kept(shown: Shown, tmp_path: Path) -> None:
    rival = tmp_path / "rival"
    rival.mkdir()
    write_front_csv(rival / "front.csv", FRONT.assign(latency_ms=1.1 * FRONT["latency_ms"]))
    write_front_csv(rival / "points.csv", FRONT)
    (rival / "config.yaml").write_text("seed: 0")
    (rival / "summary.json").write_text(json.dumps({**FACTS, **meaning([FRONT], OBJECTIVES, [SCORE]), "text": "other"}))
    shown.open(data(compared=finished_runs(str(rival))))
    shown.tab.select_option("#x-axis", "params")
    shown.tab.select_option("#y-axis", "acc_piqa")
    shown.tab.select_option("#colour", "latency_ms")
    layout = shown.tab.evaluate(
        "(({ xaxis, yaxis }) => [xaxis.title.text, yaxis.title.text, yaxis.type])(plot._fullLayout)"
    )
    assert layout == ["Parameters", "acc_piqa", "linear"]
    assert shown.text("#scale") != ""
    assert "2 points are not shown" in shown.text("#note")
    assert "rival: other text" in shown.text("#note")
    button = shown.tab.locator("#legend button", has_text="front of rival (4)")
    names = "document.getElementById('plot').data.map((trace) => trace.name)"
    assert "front of rival" in shown.tab.evaluate(names)
    button.click()
    shown.tab.wait_for_function(f"!{names}.includes('front of rival')")
    assert button.get_attribute("aria-pressed") == "false"
    with shown.tab.expect_download() as download:
        shown.tab.click("#save-svg")
    assert download.value.suggested_filename == "front-tiny.svg"
    text = Path(download.value.path()).read_text(encoding="utf-8")
    assert text.startswith("<svg")
    assert all(words in text for words in ("dense model", "front", "acc_piqa", "Parameters"))
    assert "front of rival" not in text


def test_newer_data_keep_the_choices(shown: Shown) -> None:
    shown.open(data())
    shown.tab.select_option("#colour", "params")
    shown.tab.select_option("#x-axis", "latency_ms")
    shown.tab.fill("#limit-number", "65")
    shown.click(KEYS[0])
    shown.click(KEYS[3], shift=True)
    newer = data(front=front_table([*MEMBERS, point(20, 4.0, (1, 0, 0, 0), 16)], DENSE))
    shown.tab.evaluate("(newer) => paretoprune.show(newer)", newer)
    assert "5 points on the front" in shown.text("#subtitle")
    assert shown.picked() == [KEYS[0], KEYS[3]]
    assert (shown.tab.input_value("#colour"), shown.tab.input_value("#x-axis")) == ("params", "latency_ms")
    assert (shown.tab.input_value("#limit-number"), "Best of 4" in shown.text("#best")) == ("65", True)


def test_the_end_of_a_search_turns_to_what_is_measured_unless_other_axes_were_chosen(shown: Shown) -> None:
    searching = data(front=FRONT.drop(columns=["heldout_ppl", "latency_e2e_ms"]))
    axes = "[document.getElementById('x-axis').value, document.getElementById('y-axis').value]"
    shown.open(searching)
    assert shown.tab.evaluate(axes) == ["table_speed_up", "kl"]
    assert shown.tab.locator("#axes button").count() == 0
    shown.tab.evaluate("(ended) => paretoprune.show(ended)", data())
    assert shown.tab.evaluate(axes) == ["measured_speed_up", "heldout_rise"]
    shown.tab.select_option("#x-axis", "params")
    for newer in (searching, data()):
        shown.tab.evaluate("(newer) => paretoprune.show(newer)", newer)
    assert shown.tab.evaluate(axes) == ["params", "kl"]


def test_it_is_used_by_keyboard_alone(shown: Shown) -> None:
    shown.open(data())
    reached = set()
    for _ in range(40):
        shown.tab.keyboard.press("Tab")
        reached.add(shown.tab.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {
        "x-axis",
        "colour",
        "limit-number",
        "limit-slider",
        "brush",
        "plot",
        "compare",
        "copy",
        "save-svg",
    } <= reached
    shown.tab.focus("#axes button:nth-child(2)")
    shown.tab.keyboard.press("Enter")
    shown.tab.focus("#plot")
    for _ in range(9):
        shown.tab.keyboard.press("ArrowUp")
    assert shown.picked() == [KEYS[3]], "the rightmost of all points"
    seen = {shown.picked()[0]}
    for _ in range(9):
        shown.tab.keyboard.press("ArrowDown")
        seen |= set(shown.picked())
    assert seen == {*KEYS, *(candidate.key for candidate, _ in OTHERS), DENSE[0].key}


def test_nothing_sticks_out_at_any_width_nor_on_paper(shown: Shown) -> None:
    shown.open(data(title="a-model-with-a-name-" * 5, run_dir="results/" + "long" * 30))
    shown.tab.click("#compare")
    shown.tab.click("#next")
    for width in (1400, 800, 360):
        shown.tab.set_viewport_size({"width": width, "height": 800})
        shown.tab.wait_for_function("plot._fullLayout.width <= document.getElementById('chart').clientWidth")
        assert shown.tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"), width
    assert shown.tab.pdf().startswith(b"%PDF")


def test_names_that_mean_harm_do_nothing(shown: Shown, tmp_path: Path) -> None:
    rival = tmp_path / "<b onclick=alert(3)>.."
    rival.mkdir()
    write_front_csv(rival / "front.csv", FRONT.assign(latency_ms=1.3 * FRONT["latency_ms"]))
    write_front_csv(rival / "points.csv", FRONT)
    (rival / "config.yaml").write_text("seed: 0")
    facts = {**FACTS, **meaning([FRONT], OBJECTIVES), "model": {"name": HOSTILE, "digest": HOSTILE}}
    (rival / "summary.json").write_text(json.dumps(facts))
    harm = {"front": FRONT.assign(**{"<i>acc</i>": 0.5}), "scores": [task_score("<i>acc</i>", "max")]}
    shown.open(data(title=HOSTILE, run_dir=f"../../{HOSTILE}", compared=finished_runs([str(rival)]), **harm))
    assert shown.text("h1") == HOSTILE
    shown.tab.select_option("#y-axis", "<i>acc</i>")
    shown.tab.select_option("#y-axis", "kl")
    at = shown.place(KEYS[1])
    shown.tab.mouse.move(at[0], at[1])
    shown.tab.wait_for_selector(".hoverlayer .hovertext")
    shown.tab.click("#legend button:has-text('onclick')")
    assert shown.tab.evaluate("[document.scripts.length, document.images.length, document.links.length]") == [3, 0, 0]


def test_what_a_pick_writes_stands_beside_what_the_dense_model_does(shown: Shown) -> None:
    texts = {key: [f" <b>{key}</b>", HOSTILE] for key in (DENSE[0].key, *KEYS[:2])}
    shown.open(data(samples={"prompts": ["It is", HOSTILE], "new_tokens": 3, "texts": texts}))
    written = "[...document.querySelectorAll('#samples dt, #samples dd, #samples p')].map((one) => one.textContent)"
    first = ["It is …", "This", f" <b>{KEYS[0]}</b>", "Dense", f" <b>{DENSE[0].key}</b>"]
    assert shown.tab.evaluate(written) == [*first, f"{HOSTILE} …", "This", HOSTILE, "Dense", HOSTILE]
    shown.click(KEYS[1], shift=True)
    assert shown.tab.evaluate(written)[1:7:2] == ["A", "B", "Dense"]
    shown.tab.keyboard.press("Escape")
    shown.click(KEYS[2])
    assert shown.text("#samples") == ""  # it was not asked


def test_where_nothing_is_recommended_the_points_of_the_trade_are_offered(shown: Shown) -> None:
    shown.open(data(front=FRONT.assign(heldout_ppl=FRONT["heldout_ppl"] * [1, 2, 2, 2, 2])))
    assert shown.text("#advice").startswith("No point of the front is recommended")
    shown.tab.click("#advice button:has-text('2.50 × as fast')")
    assert shown.picked() == [KEYS[2]]


def test_thousands_of_points_are_drawn_and_picked(shown: Shown) -> None:
    many = [
        point(20 + at / 30, 1 + (at * 7919 % 2000) / 300, (4, 2, at % 3, at % 5), 1 + at, front=False)
        for at in range(2000)
    ]
    shown.open(data(others=many))
    shown.tab.click("#axes button:has-text('all candidates')")
    key = many[1234][0].key
    shown.click(key)
    assert shown.picked() == [key]
