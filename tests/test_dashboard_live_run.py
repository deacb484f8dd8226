"""What the dashboard says of a run whose archive grows and breaks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from helpers_dashboard import (
    DENSE,
    FIDELITIES,
    HOSTILE,
    KEYS,
    OBJECTIVES,
    SEARCHED,
    begin,
    design,
    end,
    evaluation,
    header,
    lines,
)

from evaluators.base import Evaluation
from search.archive import Archive
from search.course import Course
from search.views.dashboard.curves import TauCurves, thinned
from search.views.dashboard.follow import Follower
from search.views.dashboard.live_run import LiveRun
from space.errors import UserError


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return begin(tmp_path / "run", SEARCHED) / "archive.jsonl"


def test_a_follower_takes_whole_new_lines_and_leaves_an_unfinished_one(archive: Path) -> None:
    follower = Follower(archive)
    assert follower.read() == (False, SEARCHED)
    assert follower.settings["model"]["name"] == "tiny"
    assert follower.read() == (False, [])
    new = lines([evaluation(design(80), 0.1, 90.0)])
    with archive.open("a") as file:
        file.write(new[:40])
    assert follower.read() == (False, [])
    with archive.open("a") as file:
        file.write(new[40:])
    assert [e.candidate for e in follower.read()[1]] == [design(80)]
    assert follower.problem == ""


def test_a_follower_begins_anew_where_the_file_is_cut_or_another_one(archive: Path) -> None:
    follower = Follower(archive)
    follower.read()
    archive.write_text(header() + lines(SEARCHED[:2]))
    assert follower.read() == (True, SEARCHED[:2])
    archive.write_text(header() + lines([*reversed(SEARCHED)]))  # longer than before, and not its continuation
    assert follower.read() == (True, SEARCHED[::-1])
    archive.unlink()
    assert follower.read() == (True, [])
    assert follower.read() == (False, [])
    archive.write_text(header() + lines(SEARCHED[:1]))
    assert follower.read() == (False, SEARCHED[:1])


def test_a_follower_tells_of_a_corrupt_line_and_goes_on(archive: Path) -> None:
    with archive.open("a") as file:
        file.write("[1, 2]\n" + lines([evaluation(design(80), 0.1, 90.0)]))
    follower = Follower(archive)
    assert len(follower.read()[1]) == len(SEARCHED) + 1
    assert "line 7 is left out" in follower.problem


def test_a_follower_sees_whether_a_search_holds_the_archive(archive: Path) -> None:
    follower = Follower(archive)
    follower.read()
    if follower.held() is None:
        pytest.skip("this system does not tell of locks")
    assert follower.held() is False
    with Archive(archive, follower.settings):
        assert follower.held() is True
    assert follower.held() is False


def test_surrogates_are_judged_by_designs_that_they_had_not_seen() -> None:
    taus = TauCurves()
    for place in range(32):
        right = place < 16
        predicted = {"kl": float(place if right else -place)}
        taus.add(evaluation(design(place), float(place), 50.0, predicted=predicted), 100 * (place + 1))
        taus.add(evaluation(design(place), float(place), 50.0, "search-16"), 0)  # which nothing predicted
    (tokens, first), (_, second) = taus.curves["search", "kl"]
    assert [*taus.curves] == [("search", "kl")]
    assert (tokens, first) == (1600, pytest.approx(1.0))
    assert second < 0.5


def test_a_thinned_curve_keeps_its_ends() -> None:
    curve = [(number, float(number)) for number in range(1001)]
    assert thinned(curve, 5) == [(0, 0.0), (250, 250.0), (500, 500.0), (750, 750.0), (1000, 1000.0)]
    assert thinned(curve[:3], 5) == curve[:3]


def series(run: LiveRun, role: str) -> list[str]:
    data = json.loads(run.figure())
    return [key for one in data["series"] if one["role"] == role for key in one["keys"]]


def test_a_run_that_searches_shows_the_archives_front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("search.views.dashboard.live_run.BUSY", 1e9)  # as fast as the test looks
    run_dir = begin(tmp_path / "run", [])
    run = LiveRun(run_dir)
    assert run.view().state.startswith("Preparing")
    assert run.figure() == "null"
    with (run_dir / "archive.jsonl").open("a") as file:
        file.write(lines(SEARCHED[:4]))
    before = run.view()
    assert (before.spent, before.keys, before.problem) == (0.2, frozenset(), "")
    assert series(run, "front") == [design(64).key, design(32).key]
    assert series(run, "dense") == [DENSE.key]
    assert run.view().version == before.version
    with (run_dir / "archive.jsonl").open("a") as file:
        file.write(lines(SEARCHED[4:]))
    assert run.view().version != before.version
    assert series(run, "front") == [design(64).key, design(32).key, design(0).key]
    assert series(run, "dominated") == [design(16).key]


def append(run_dir: Path, *evaluations: Evaluation) -> None:
    with (run_dir / "archive.jsonl").open("a") as file:
        file.write(lines([*evaluations]))


def test_the_hypervolume_is_the_searchs_own_and_of_one_fidelity(tmp_path: Path) -> None:
    cheap = [evaluation(design(n), 100.0 / (n + 1), 10.0 * n, "search-16") for n in (8, 16, 32)]
    course = Course(OBJECTIVES, FIDELITIES)
    run_dir = begin(tmp_path / "run", cheap)
    run = LiveRun(run_dir)
    assert run.view().volumes == {}  # the first generation is not over, so that there is no reference yet
    searched = [replace(each, generation=2) for each in SEARCHED]
    append(run_dir, searched[0])
    for each in cheap:
        course.add(each)
    course.end_generation()
    assert run.view().volumes == {"search-16": [(300, course.hypervolume)]}
    append(run_dir, *searched[1:], evaluation(design(80), 0.1, 90.0, generation=3))
    for each in searched:
        course.add(each)
    course.end_generation()
    before = course.hypervolume
    course.add(evaluation(design(80), 0.1, 90.0, generation=3))
    assert run.view().volumes == {"search": [(800, before), (900, course.hypervolume)]}


def test_what_comes_after_the_search_spends_nothing_of_its_budget(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.views.dashboard.live_run.BUSY", 1e9)
    monkeypatch.setattr(Follower, "held", lambda self: True)
    run_dir = begin(tmp_path / "run", SEARCHED)
    run = LiveRun(run_dir)
    assert run.view().spent == 0.25
    append(run_dir, evaluation(design(80), 0.1, 90.0, generation=0), evaluation(DENSE, 0.0, 100.0, "heldout"))
    view = run.view()
    assert (view.spent, view.counts) == (0.25, "Evaluations: search 6, heldout 1")
    assert design(80).key in series(run, "front")
    assert view.state.startswith("Scoring")


def test_an_archive_of_another_search_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    run_dir = begin(tmp_path / "run", [])
    (run_dir / "archive.jsonl").write_text(header(fidelities=("cheap",)) + lines(SEARCHED))
    assert "expected an evaluation of cheap, got one of search" in LiveRun(run_dir).view().problem


def test_trained_points_stand_beside_what_they_were_before(tmp_path: Path) -> None:
    trained = evaluation(design(64), 0.1, 80.0, "distilled-96")
    run = LiveRun(begin(tmp_path / "run", [*SEARCHED, trained]))
    run.view()
    front = next(one for one in json.loads(run.figure())["series"] if one["role"] == "front")
    assert (front["keys"], front["values"]["kl"], front["values"]["untuned_kl"]) == ([design(64).key], [0.1], [0.2])


def test_a_fidelity_that_has_asked_the_dense_model_alone_has_no_front_yet(tmp_path: Path) -> None:
    run = LiveRun(begin(tmp_path / "run", [*SEARCHED, evaluation(DENSE, 0.0, 100.0, "distilled-96")]))
    run.view()
    assert series(run, "front") == [design(64).key, design(32).key, design(0).key]


def test_without_the_dense_model_its_size_is_known(tmp_path: Path) -> None:
    run = LiveRun(begin(tmp_path / "run", SEARCHED[1:]))
    assert run.view().problem == ""
    dense = next(one for one in json.loads(run.figure())["series"] if one["role"] == "dense")
    assert (dense["keys"], dense["values"]["kl"]) == ([DENSE.key], [None])
    assert dense["values"]["decoder_params"] == [evaluation(DENSE, 0.0, 0.0).values["decoder_params"]]


def test_a_run_that_has_ended_shows_its_front_until_it_searches_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.views.dashboard.live_run.BUSY", 1e9)
    run_dir = begin(tmp_path / "run", SEARCHED)
    run = LiveRun(run_dir)
    run.view()
    end(run_dir, SEARCHED)
    view = run.view()
    assert view.state.startswith("Ended: 3 points")
    assert view.keys == KEYS
    assert "heldout_ppl" in [column["name"] for column in json.loads(run.figure())["columns"]]
    with (run_dir / "archive.jsonl").open("a") as file:
        file.write(lines([evaluation(design(80), 0.1, 90.0)]))
    assert not (view := run.view()).state.startswith("Ended")
    assert view.keys == frozenset()  # nothing is exported or scored while it searches on
    assert design(80).key in series(run, "front")
    (run_dir / "front.csv").write_text("key\n")
    assert "front.csv" in run.view().problem


def test_an_archive_that_is_none_of_this_model_is_a_problem_and_no_crash(tmp_path: Path) -> None:
    run = LiveRun(begin(tmp_path / "run", SEARCHED, model={"name": HOSTILE}))
    assert "cannot be drawn" in run.view().problem


def test_no_run_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"to hold a run.*begin its search first"):
        LiveRun(tmp_path)
