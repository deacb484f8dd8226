"""What a person or a program sees of a run: live, in lines, quietly, as JSON."""

from __future__ import annotations

import io
import json
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_watch import DENSE, EVENTS, PROGRESS, RUN_DIR, answer, search_ended
from rich.console import Console

from search.run.commands import next_commands, override, search_commands
from search.views.text import clock, duration, printable
from search.views.watch.events import Event, Failed, Searched, StageStep
from search.views.watch.json_lines import JsonLines
from search.views.watch.lines import Lines
from search.views.watch.progress import PACE, Pace, sparkline, standouts
from search.views.watch.run import Watch
from search.views.watch.screen import Screen, screen


def printed(*events: Event, quiet: bool = False) -> list[str]:
    console = Console(file=io.StringIO(), width=120)
    lines = Lines(console, quiet=quiet)
    for event in events:
        lines(event)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_lines_tell_of_each_batch_and_a_remark_once() -> None:
    lines = printed(*EVENTS)
    assert lines[:4] == ["latency table: 12 s", f"run directory: {RUN_DIR}", "the table is good", "WARNING: it is not"]
    first, second = lines[4:]
    assert first.startswith("generation 3: 250,000 of 1,000,000 tokens, 2 min left; evaluations: search-128 500, ")
    assert "search 40 (7 replayed, 2 failed); hypervolume 0.75 (search, 4 points); closest" in first
    assert "tau 0.95" in first
    assert "tau" not in second


def test_lines_are_not_silent_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    within = (StageStep("latency table", 3, 12), Searched(replace(PROGRESS, generation_done=False), None))
    assert printed(*within) == []
    monkeypatch.setattr("search.views.watch.lines.SILENT_S", -1)
    step, batch = printed(*within)
    assert step == "latency table: 3 of 12"
    assert batch.startswith("generation 3: 250,000 of 1,000,000 tokens; ")


def test_quiet_is_the_directory_warnings_and_the_next_commands() -> None:
    commands = next_commands(RUN_DIR, "recommended")
    lines = printed(*EVENTS, search_ended(), quiet=True)
    assert lines[:2] == [f"run directory: {RUN_DIR}", "WARNING: it is not"]
    assert [line.split(maxsplit=1) for line in lines[2:]] == [[f"{what}:", text] for what, text in commands.items()]


def test_the_end_in_lines_has_the_front_and_commands_that_a_shell_reads_right() -> None:
    lines = printed(search_ended())
    assert any(answer(4).candidate.key in line for line in lines)
    assert lines[-2] == "export: python export_subnet.py \"run_dir='results/a run'\" pick=recommended"
    assert override("run_dir", "results/plain-1.0") == "run_dir=results/plain-1.0"
    assert [*next_commands(RUN_DIR, "s1", scored=False)] == ["look", "export"]
    assert [*next_commands(RUN_DIR, None)] == ["look"]  # where there is nothing to take
    assert next_commands(Path("a"), "s1")["export"] == "python export_subnet.py run_dir=a pick=s1"
    started = search_commands(
        RUN_DIR, ["space=depth", "run_dir=x", "progress=json", "tracker=none", "objectives=[kl,params]"]
    )
    assert started["run"] == "python run_search.py space=depth 'objectives=[kl,params]'"
    assert started["resume"].startswith(started["run"] + ' "run_dir=')


def test_json_is_one_strict_object_a_line() -> None:
    file = io.StringIO()
    listen = JsonLines(file)
    for event in (*EVENTS, search_ended(), Failed("error", 'expected "x",\ngot y')):
        listen(event)

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    records = [json.loads(line, parse_constant=refuse) for line in file.getvalue().splitlines()]
    kinds = ["stage", "stage_end", "run", "message", "message", "stage", "search", "search", "front", "error"]
    assert [record["event"] for record in records] == kinds
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", record["time"]) for record in records)
    search, front = records[6], records[8]
    assert (search["tokens"], search["budget_tokens"], search["seconds_left"]) == (250_000, 1_000_000, 120.0)
    assert search["evaluations"] == PROGRESS.counts
    assert search["picks"]["latency_ms"] == {"key": answer(4).candidate.key, "kl": 0.5625, "latency_ms": 204.0}
    assert [point["key"] for point in front["points"]] == [DENSE.key, answer(8).candidate.key, answer(4).candidate.key]
    assert front["numbers"]["latency_table_error/rank_correlation"] is None
    assert front["picks"]["recommended"] == answer(4).candidate.key
    assert records[9]["message"] == 'expected "x",\ngot y'


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_screen_fits_and_shows_the_search(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    shown = Screen(console)
    for event in EVENTS:
        shown(event)
    with console.capture() as capture:
        console.print(shown.render())
    text = capture.get()
    assert max(map(len, text.splitlines())) <= width
    assert "\x1b[31m" not in text
    assert "[bold]" in text  # a name is text, not markup
    if width >= 80:
        for words in (
            "500,000 of 1,000,000",
            "50%",
            "about 60 s",
            "▁",
            "█  0.9",
            "closest",
            "fastest",
            "tau 0.95",
        ):
            assert words in text
        assert DENSE.key not in text
        assert not re.search(r"\n.*latency table", text)  # a stage that has ended


def test_hypervolumes_of_different_fidelities_are_not_one_curve() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    shown = Screen(console)
    for event in (*EVENTS, Searched(replace(PROGRESS, fidelity="distilled", hypervolume=100.0, tokens=600_000), None)):
        shown(event)
    with console.capture() as capture:
        console.print(shown.render())
    assert "▁" not in capture.get()
    assert "100" in capture.get()


def test_a_live_screen_leaves_the_cursor_as_it_was() -> None:
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    with screen(console) as listen:
        for event in EVENTS:
            listen(event)
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # visible while it runs: kill -9 changes nothing


def test_standouts_are_never_the_dense_model() -> None:
    picks = {name: best.values["latency_ms"] for name, best in standouts(PROGRESS).items()}
    assert picks == {"kl": 214.0, "latency_ms": 204.0}
    assert standouts(replace(PROGRESS, front=(answer(16),))) == {}


def test_time_left_counts_from_where_replaying_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 0.0, 1.0, 11.0])  # the first as the command begins
    monkeypatch.setattr("search.views.watch.progress.time.monotonic", lambda: next(times))
    left: list[float | None] = []
    with ExitStack() as closing:
        watch = Watch(lambda event: left.append(event.seconds_left if isinstance(event, Searched) else None), closing)
        watch.searched(replace(PROGRESS, tokens=100_000, replayed=1))
        watch.searched(replace(PROGRESS, tokens=500_000, replayed=2))  # as fast as a disk
        watch.searched(replace(PROGRESS, tokens=600_000, replayed=2))
    assert left == [None, None, pytest.approx(40.0)]


def test_the_first_generation_says_nothing_of_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 60.0, 61.0, 71.0])  # what is made in it, later ones find made
    monkeypatch.setattr("search.views.watch.progress.time.monotonic", lambda: next(times))
    pace, left = Pace(), list[float | None]()
    for generation, fraction in [(1, 0.0), (1, 0.01), (1, 0.1), (2, 0.2)]:
        pace.add(generation, fraction)
        left.append(pace.seconds_left)
    assert left == [None, None, None, pytest.approx(80.0)]


def test_the_pace_is_that_of_the_last_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, *(1000.0 + number for number in range(PACE))])
    monkeypatch.setattr("search.views.watch.progress.time.monotonic", lambda: next(times))
    pace = Pace()
    for number in range(PACE + 1):
        pace.add(2, number / 100)
    assert pace.seconds_left == pytest.approx(50.0)
    pace.pause()
    assert pace.seconds_left is None


def test_small_texts() -> None:
    assert [duration(seconds) for seconds in (45.4, 720.0, 11100.0)] == ["45 s", "12 min", "3 h 05 min"]
    assert [clock(seconds) for seconds in (45.4, 720.0, 11100.0)] == ["0:45", "12:00", "3:05:00"]
    assert sparkline([(0, 1), (10, 2), (100, 3)], 4) == "▁▁▁█"
    assert sparkline([(0, 1), (50, 1), (100, 3)], 4, bars="_#") == "___#"
    assert sparkline([(5, 1)], 8) == "▅"
    assert sparkline([], 8) == ""
    assert printable("a\x1b[0m\nb·") == "a?[0m?b·"
