"""Minutes as tokens: what they come to by known speeds, and a run that measures once and asks the same again."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_commands import Place, archived, good
from helpers_run import ended

from evaluators.amounts import (
    EPOCHS,
    FRONT,
    LEAST,
    LEAST_HEALED,
    PLAIN,
    POINTS,
    QUESTIONS,
    ROUNDS,
    USED,
    Work,
    amounts_of,
)
from evaluators.settled import Settled
from evaluators.speeds import GAIN, STEP_GAIN, Speeds
from evaluators.throughput import _doubled
from search.loop import TOKENS, Budget
from search.run.directory import BUDGET_FILE, FRONT_FILE, REPORT_FILE, SUMMARY_FILE
from search.views.dashboard.live_run import LiveRun
from space.errors import UserError

SPEEDS = Speeds(
    elapsed_s=180.0,
    evaluation={4: 2000.0},
    long=1200.0,
    training={1: 400.0},
    timing_s=8.0,
    writing_s=2.0,
    asking=((0, 1.0), (250, 4.0), (300, 14.0)),
)
WORK = Work(
    sizes=(128, 512),
    windows=None,
    room=300,
    healing=None,
    healing_text=400_000,
    kind="healing",
    in_search=True,
    trained=0.5,
    tuning=0,
    points=16,
    plain=8,
    rounded=0,
    heldout=8192,
    long=8192,
    rounds=5,
)


def seconds_of(speeds: Speeds, work: Work, tokens: float, training: float) -> float:
    """Of a run of four windows a design, as the equations of the module have it, without the time of asking."""
    end = 8 * 4 * 512 + 17 * 8192 + (16 * 4 * 512 if work.in_search else 0)
    closing = 17 * 8192 / speeds.long + 17 * (speeds.timing_s + speeds.writing_s)
    return speeds.elapsed_s + (tokens + end) / 2000 + training / speeds.training[1] + closing + 5


def test_minutes_are_spent_by_the_speeds_and_divided_as_the_defaults_in_tokens() -> None:
    amounts = amounts_of(20, SPEEDS, WORK)
    looked_at = amounts.tokens - amounts.healing
    assert amounts.healing / looked_at == pytest.approx(120 / 320, rel=1e-3)
    assert amounts.search_windows == 4
    questions = looked_at / (4 * (0.75 * 128 + 0.25 * 512))
    spent = seconds_of(SPEEDS, WORK, looked_at, amounts.healing) + SPEEDS.asking_s(round(questions))
    assert amounts.seconds == pytest.approx(spent, rel=1e-3)
    assert spent == pytest.approx(USED * 20 * 60, abs=4)  # a question takes some seconds


def test_what_healing_has_changed_is_made_anew_and_asked_again() -> None:
    made = amounts_of(20, replace(SPEEDS, making_s=2.0), WORK)
    assert made.end_s == pytest.approx(amounts_of(20, SPEEDS, WORK).end_s + 16 * 2.0)
    rounded = amounts_of(20, replace(SPEEDS, making_s=2.0), replace(WORK, rounded=3))
    assert rounded.end_s == pytest.approx(made.end_s + 3 * (2.0 + 2 * 4 * 512 / 2000))  # before healing, and after


def test_a_look_at_what_healing_has_changed_takes_its_time() -> None:
    work = replace(WORK, windows=4, healing=30_000)
    judged = replace(work, healed=10, judged=1024)
    speeds = replace(SPEEDS, making_s=2.0, asking=((0, 1.0),))
    without, looked = (amounts_of(40, speeds, each) for each in (work, judged))
    seconds = 2 * 11 * 1024 / 2000 + 2 * 10 * 2.0
    assert (without.tokens - looked.tokens) / 2000 == pytest.approx(seconds, abs=1)
    few = amounts_of(1, SPEEDS, judged)
    designs = math.ceil(LEAST / 4)
    assert few.seconds - amounts_of(1, SPEEDS, work).seconds == pytest.approx(2 * (designs + 1) * 1024 / 2000)
    tuned = replace(judged, kind="tuning", tuning=20_000)
    assert amounts_of(40, SPEEDS, tuned) == amounts_of(40, SPEEDS, replace(tuned, judged=0))


def test_healing_at_the_end_takes_its_time_and_none_of_the_searchs_tokens() -> None:
    at_the_end = amounts_of(20, SPEEDS, replace(WORK, in_search=False))
    assert at_the_end.healing == pytest.approx(3 / 8 * at_the_end.tokens, rel=1e-3)
    nothing = replace(WORK, kind=None, in_search=False)
    assert amounts_of(20, replace(SPEEDS, training={}), nothing).tokens > 1.5 * at_the_end.tokens
    assert amounts_of(20, SPEEDS, nothing).healing == 0


def test_tuning_of_each_design_is_paid_for_where_it_comes() -> None:
    tuning = replace(WORK, kind="tuning", tuning=20_000, in_search=False, windows=4)
    at_the_end, without = (amounts_of(60, SPEEDS, replace(tuning, tuning=tokens)) for tokens in (20_000, 0))
    assert at_the_end.end_s - without.end_s == pytest.approx(16 * 20_000 / 400)
    assert amounts_of(60, SPEEDS, replace(tuning, in_search=True)).end_s < at_the_end.end_s
    half, most = (amounts_of(60, SPEEDS, replace(tuning, in_search=True, trained=share)) for share in (0.5, 0.9))
    assert half.tokens > most.tokens  # as training is slower


def test_what_the_user_says_is_taken_as_it_is() -> None:
    amounts = amounts_of(20, SPEEDS, replace(WORK, healing=10_000, windows=7))
    assert (amounts.healing, amounts.search_windows) == (10_000, 7)
    assert amounts.tokens - 10_000 > amounts_of(20, SPEEDS, WORK).tokens


def test_more_minutes_are_more_tokens() -> None:
    tokens = [amounts_of(minutes, SPEEDS, WORK).tokens for minutes in (1, 15, 20, 40, 80)]
    assert tokens == sorted(tokens)
    assert tokens[-1] > tokens[0]


def test_too_few_minutes_leave_the_least_search_and_say_so() -> None:
    settled = Settled.of(4, SPEEDS, WORK)
    looked_at = settled.amounts.tokens - settled.amounts.healing
    assert looked_at == pytest.approx(LEAST * 4 * 224, rel=1e-3)
    assert settled.amounts.seconds > 4 * 60
    told, left_out, warning = settled.remarks()
    assert left_out == (
        "as minutes are short: no longer windows are scored, no samples are written, "
        f"{PLAIN} plain designs stand beside the front, points are timed in {ROUNDS} rounds"
    )
    assert "budget of 4 minutes: 3.0 are gone" in told
    needed = math.ceil(settled.amounts.seconds / 60)
    assert f"WARNING: budget.minutes: expected at least {needed} for this run" in warning
    assert len(Settled.of(20, SPEEDS, WORK).remarks()) == 1


def test_healing_is_shorter_where_the_least_search_has_no_more_time_for_it() -> None:
    looked_at = LEAST * 4 * 224
    few = amounts_of(0.1, SPEEDS, WORK)  # which are over
    assert few.healing == pytest.approx(LEAST_HEALED * 3 / 8 * looked_at, abs=1)
    needed = few.seconds / 60 / USED
    assert amounts_of(needed, SPEEDS, WORK).healing == pytest.approx(few.healing, rel=1e-3)
    some = amounts_of(needed + 8 / 60, SPEEDS, WORK)
    assert some.tokens - some.healing == pytest.approx(looked_at, rel=1e-3)
    assert few.healing < some.healing < 3 / 8 * looked_at
    assert some.seconds == pytest.approx(USED * 60 * (needed + 8 / 60), rel=1e-3)
    given = amounts_of(0.1, SPEEDS, replace(WORK, healing=30_000))
    assert given.healing == 30_000


def test_short_minutes_have_fewer_points_to_score_so_that_half_of_what_is_left_is_searched() -> None:
    settled = {minutes: amounts_of(minutes, SPEEDS, WORK) for minutes in (4, 12, 20)}
    points = {minutes: amounts.points for minutes, amounts in settled.items()}
    assert points[4] == POINTS < points[12] < points[20] == WORK.points
    assert [amounts.long for amounts in settled.values()] == [False, True, True]
    assert [amounts.samples for amounts in settled.values()] == [False, True, True]
    assert [amounts.front_rounds for amounts in settled.values()] == [ROUNDS, None, None]
    closed = (POINTS + 1) * SPEEDS.timing_s * ROUNDS / WORK.rounds + 5
    assert settled[4].end_s == pytest.approx(closed + (PLAIN * 2048 + (POINTS + 1) * 8192 + POINTS * 2048) / 2000)
    amounts = settled[12]
    assert amounts.end_s <= (USED * 12 * 60 - SPEEDS.elapsed_s) / 2
    assert amounts.tokens > amounts_of(4, SPEEDS, WORK).tokens
    assert amounts_of(4, SPEEDS, replace(WORK, points=3)).points == 3
    nothing = replace(SPEEDS, writing_s=0, timing_s=0)
    assert len(Settled.of(3, nothing, replace(WORK, long=0, plain=3)).remarks()) == 2  # there is nothing to leave out


def test_the_end_leaves_out_one_thing_after_another_until_it_is_short_enough() -> None:
    work = replace(WORK, points=POINTS)
    ends = [amounts_of(minutes / 10, SPEEDS, work) for minutes in range(40, 90)]
    kinds = [*dict.fromkeys((end.long, end.samples, end.plain, end.front_rounds) for end in reversed(ends))]
    fewer = [(False, False, PLAIN, rounds) for rounds in range(WORK.rounds - 1, ROUNDS - 1, -1)]
    whole = [(True, True, None, None), (False, True, None, None), (False, False, None, None)]
    assert kinds == [*whole, (False, False, PLAIN, None), *fewer]
    tried = amounts_of(4, replace(SPEEDS, trying_s=3.0), work)
    assert tried.end_s - ends[0].end_s == pytest.approx((POINTS + 1) * 3.0 * (1 - ROUNDS / WORK.rounds))
    engine = replace(SPEEDS, trying_s=SPEEDS.timing_s)  # whose time is not that of rounds
    assert amounts_of(4, engine, work).front_rounds is None


def test_a_short_search_finds_fewer_points_than_there_may_be() -> None:
    speeds, work = replace(SPEEDS, asking=((0, 0.0),)), replace(WORK, windows=40, healing=0)
    few, more = (amounts_of(minutes, speeds, work) for minutes in (26, 30))
    assert few.points == more.points == WORK.points
    questions = [round(amounts.tokens / (40 * 224)) for amounts in (few, more)]
    found = [math.ceil(FRONT * count / 4) for count in questions]
    assert found[0] < found[1] < WORK.points
    point = (8192 + 40 * 512) / 2000 + 8192 / speeds.long + speeds.timing_s + speeds.writing_s
    assert more.end_s - few.end_s == pytest.approx((found[1] - found[0]) * point)
    assert few.seconds == pytest.approx(USED * 26 * 60, abs=40)  # a point, and a question


def test_longer_windows_that_were_not_timed_are_not_scored() -> None:
    amounts = amounts_of(20, replace(SPEEDS, long=0.0), WORK)
    assert (amounts.long, amounts.samples, amounts.front_rounds) == (False, True, None)
    assert amounts.tokens > amounts_of(20, SPEEDS, WORK).tokens


def test_a_faster_device_asks_more_on_more_text_of_which_there_is_enough() -> None:
    fast = replace(SPEEDS, evaluation={4: 100_000.0}, long=100_000.0, training={1: 20_000.0}, timing_s=1.0)
    amounts = amounts_of(20, fast, replace(WORK, room=5000))
    assert WORK.room < amounts.search_windows < 5000
    assert amounts.healing == EPOCHS * WORK.healing_text  # no text is repeated more often
    looked_at = amounts.tokens - amounts.healing
    questions = looked_at / (amounts.search_windows * 224)
    assert questions <= QUESTIONS * 1.05
    assert amounts_of(20, fast, WORK).search_windows == WORK.room
    assert amounts_of(20, fast, replace(WORK, room=2)).search_windows == 2


def test_windows_of_a_forward_pass_are_doubled_as_long_as_that_is_worth_it() -> None:
    speeds = {4: 100.0, 8: 100 * GAIN + 1, 16: 100 * GAIN + 2, 32: 1000.0}
    assert replace(SPEEDS, evaluation=speeds).batch_size == 8
    assert replace(SPEEDS, evaluation={2: 5.0}).batch_size == 2


def test_a_step_of_healing_has_as_many_windows_as_are_nearly_free(tmp_path: Path) -> None:
    waiting = {1: 100.0, 2: 100 * STEP_GAIN + 1, 4: 300.0, 8: 400.0}
    speeds = replace(SPEEDS, training=waiting)
    assert (speeds.step_windows, replace(SPEEDS, training={}).step_windows) == (4, 0)
    settled = Settled.of(20, speeds, WORK)
    assert settled.amounts.step_windows == 4
    assert settled.amounts.healing > amounts_of(20, replace(SPEEDS, training={1: 100.0}), WORK).healing
    assert "300 in training, 4 at once" in settled.remarks()[0]
    assert amounts_of(20, speeds, replace(WORK, kind="tuning", tuning=20_000)).step_windows == 0
    file = tmp_path / BUDGET_FILE
    file.write_text(settled.to_json())
    assert Settled.read(file) == settled


def test_windows_are_doubled_while_it_is_worth_it_and_memory_allows() -> None:
    asked = list[int]()

    def speed(windows: int) -> float:
        asked.append(windows)
        if windows > 16:
            raise torch.OutOfMemoryError("no room")
        return 100.0 * min(windows, 4)

    assert _doubled(speed, 1, 100, 1.6) == {1: 100.0, 2: 200.0, 4: 400.0, 8: 400.0}
    assert _doubled(speed, 1, 3, 1.6) == {1: 100.0, 2: 200.0}
    assert asked == [1, 2, 4, 8, 1, 2]
    assert _doubled(speed, 16, 64, 0.5) == {16: 400.0}  # what there is no memory for ends it
    with pytest.raises(torch.OutOfMemoryError):
        _doubled(speed, 32, 64, 1.6)


def test_asking_is_counted_between_points_and_beyond_them() -> None:
    assert [SPEEDS.asking_s(count) for count in (0, 125, 250, 275, 400)] == pytest.approx([1, 2.5, 4, 9, 34])
    assert replace(SPEEDS, asking=((0, 3.0),)).asking_s(50) == 3.0


def test_other_minutes_change_the_searchs_tokens_alone(tmp_path: Path) -> None:
    first = Settled.of(20, SPEEDS, WORK)
    file = tmp_path / BUDGET_FILE
    file.write_text(first.to_json())
    assert Settled.read(file) == first
    longer = first.with_minutes(60, WORK)
    assert longer.amounts.tokens > first.amounts.tokens
    kept = ("healing", "search_windows", "batch_size")
    assert [asdict(longer.amounts)[name] for name in kept] == [asdict(first.amounts)[name] for name in kept]
    assert longer.speeds == first.speeds
    file.write_text("{}")
    with pytest.raises(UserError, match=r"budget\.json to say what the run's minutes come to"):
        Settled.read(file)


def test_evaluations_and_tokens_stand_in_place_of_minutes() -> None:
    assert Budget(minutes=15).in_minutes
    assert Budget(minutes=15).limited(77).tokens == 77
    assert not Budget(minutes=15, tokens=5).in_minutes
    assert Budget(minutes=15, tokens=5).limited(None).tokens == 5
    assert Budget(minutes=15, evaluations=5).limited(None) == Budget(evaluations=5, tokens=TOKENS)
    assert Budget(minutes=15).limited(None).fraction(3, 3) == 0.0
    for minutes in (0, -1, math.inf):
        with pytest.raises(UserError, match="Budget: expected minutes above 0"):
            Budget(minutes=minutes)


# So few that the search has its least, however fast the machine is.
FEW = (
    *("budget.evaluations=null", "budget.minutes=0.01", "data.search_windows=null", "distillation=default"),
    *("distillation.tokens=null", "search.distillation=loop", "search.algorithm.starts=6", "latency.cache=false"),
    *("search.algorithm.sweep_levels=1", "search.algorithm.round_size=8"),
)


@pytest.fixture(scope="module")
def few(llama: Place) -> Path:
    done = good(ended(llama.search("few minutes", *FEW)))
    assert "WARNING: budget.minutes: expected at least" in done.stdout
    return llama.run("few minutes")


def asked(run: Path) -> list[tuple[str, str]]:
    records = [json.loads(line) for line in (run / "archive.jsonl").read_text().splitlines()[1:]]
    return [(record["fidelity"], record["key"]) for record in records if record.get("generation")]


def test_a_run_in_minutes_spends_what_its_file_says(few: Path) -> None:
    amounts = Settled.read(few / BUDGET_FILE).amounts
    question = 4 * (0.75 * 8 + 0.25 * 32)
    assert amounts.tokens == pytest.approx(LEAST * question * (1 + LEAST_HEALED * 3 / 8), abs=1)
    assert (amounts.long, amounts.samples, amounts.points) == (False, False, POINTS)
    assert json.loads((few / SUMMARY_FILE).read_text())["samples"] is None
    spent = sum(e.tokens for fidelity in ("search-8", "search", "healed") for e in archived(few, fidelity))
    assert spent >= amounts.tokens
    designs: Any = json.loads((few / "healed" / "designs.json").read_text())
    assert designs["tokens"] == amounts.healing
    assert "| algorithm | `SurrogateNSGA2`, distillation `loop`, budget 0.01 minutes" in (few / REPORT_FILE).read_text()
    assert LiveRun(few)._budget.tokens == amounts.tokens


def test_the_same_directory_again_measures_nothing_and_asks_the_same(llama: Place, few: Path) -> None:
    killed = llama.copy("few minutes", "few minutes killed")
    lines = (killed / "archive.jsonl").read_text().splitlines(keepends=True)
    (killed / "archive.jsonl").write_text("".join(lines[: len(asked(few)) // 2]))
    (killed / FRONT_FILE).unlink()
    before = (killed / BUDGET_FILE).read_bytes()
    done = good(ended(llama.search(killed.name, *FEW)))
    assert "budget: speeds on this machine" not in done.stdout
    assert (killed / BUDGET_FILE).read_bytes() == before
    assert asked(killed) == asked(few)


def test_a_search_that_began_without_minutes_is_not_gone_on_with_by_them(llama: Place) -> None:
    run = llama.copy("run", "began in evaluations")
    done = ended(llama.search(run.name, "budget.evaluations=null"))
    assert done.returncode == 1
    assert "budget.minutes=15: expected a run that began with minutes" in done.stderr
    assert not (run / BUDGET_FILE).exists()
