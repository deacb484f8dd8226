"""A run's settings with its budget in tokens: as given, or what its minutes come to on this machine, measured once."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from entries.settings import RunSettings
from evaluators.amounts import Work
from evaluators.closing import long_text
from evaluators.session import Session
from evaluators.settings import Settings
from evaluators.settled import Settled
from evaluators.throughput import measured_speeds
from evaluators.training.healing import SPARE
from evaluators.training.recipes import Healing
from evaluators.window_sizes import window_sizes
from search.loop import Budget
from search.protocol import Task
from search.rehearsal import asking
from search.run.finish import REFERENCE_POINTS
from search.views.watch.run import Watch
from space.errors import UserError
from space.files import kept, write_whole

PLAYED = 330  # questions, at most, of the search that is played to time its asking: about those of a default run


def in_tokens(settings: RunSettings, session: Session, task: Task, watch: Watch) -> RunSettings:
    """Settings whose budget is in tokens; the session is settled with what the minutes come to besides.

    What is measured is kept in the run's directory. From then on tokens count, and no clock: where it is there,
    nothing is measured again. Other minutes than before change the search's tokens and the front's points alone.

    Args:
        settings: Of the run.
        session: Of the run, with its supernet and its latency table.
        task: Of the search, whatever its tokens.
        watch: Told of the measurement; it knows when the command began.

    Raises:
        UserError: The minutes decide, and the search began without them; or see `Settled.read`.
    """
    minutes, file = settings.budget.minutes, session.paths.budget
    if not settings.budget.in_minutes or minutes is None:
        return replace(settings, budget=settings.budget.limited(None))
    if not file.exists() and (session.paths.run_dir / "archive.jsonl").exists():
        raise UserError(
            f"budget.minutes={minutes:g}: expected a run that began with minutes, which are made tokens of before the "
            f"search, but {session.paths.run_dir} has no {file.name}. Go on with budget.tokens=... or "
            "budget.evaluations=..., as it began."
        )
    work = _work(settings, session)
    kept(file, lambda: _measured(settings, session, task, work, minutes, watch).to_json())
    settled = Settled.read(file)
    if settled.minutes != minutes:
        settled = settled.with_minutes(minutes, work)
        write_whole(file, settled.to_json())
    watch.say(settled.remarks())
    session.settle()
    budget = settings.budget.limited(settled.amounts.tokens)
    return replace(settings, budget=budget, front_points=settled.amounts.points)


def minutes_of(budget: Budget) -> float:
    """Minutes that decide; without an end where tokens or evaluations do."""
    return budget.minutes if budget.in_minutes and budget.minutes is not None else inf


def spent(budget: Budget, told: Settings) -> dict[str, float | None]:
    """What a report should say of a run's budget.

    Args:
        budget: In tokens.
        told: What the session was told.
    """
    heals = told.distillation if told.training != "off" and isinstance(told.distillation, Healing) else None
    return {
        "minutes": budget.minutes,
        "evaluations": budget.evaluations,
        "tokens": budget.tokens,
        "search_windows": told.text.windows["search"],
        "healing_tokens": heals.total if heals else None,
    }


def _measured(settings: RunSettings, session: Session, task: Task, work: Work, minutes: float, watch: Watch) -> Settled:
    with watch.stage("budget: speeds on this machine"):
        speeds = measured_speeds(session, watch.elapsed, minutes)
        amounts = Settled.of(minutes, speeds, work).amounts
        looks = [amounts.search_windows * size for size in work.sizes]
        trained = [looks[-1] + work.tuning] * task.trained  # with the tokens of its training
        played = asking(
            settings.algorithm,
            replace(task, tokens=amounts.tokens),
            ask=settings.ask,
            tokens=[*looks, *trained],
            training=amounts.healing,
            most=PLAYED,
        )
        speeds = replace(speeds, asking=played, elapsed_s=watch.elapsed())
    return Settled.of(minutes, speeds, work)


def _work(settings: RunSettings, session: Session) -> Work:
    """What the run has to do, as far as its settings and its text say it."""
    told, text = session.settings, session.text
    length = told.text.length
    long = long_text(session).windows
    return work_of(
        settings,
        told,
        room=text.room("search", length),
        healing_text=text.room("calibration", length) * length,
        tuning=session.tuning.all_tokens if session.tuning else 0,
        long=0 if long is None else long.numel(),
        rounded=len(session.space.rounded_ladder()),
    )


def work_of(
    settings: RunSettings, told: Settings, *, room: int, healing_text: int, tuning: int, long: int, rounded: int
) -> Work:
    """What a run has to do.

    Args:
        settings: Of the run.
        told: Of its session.
        room: See `Work`, as the next ones.
        healing_text: Tokens.
        tuning: Tokens of a design.
        long: Tokens of a member.
        rounded: See `Work`.
    """
    length, given = told.text.length, told.distillation
    healing = told.training != "off" and isinstance(given, Healing)
    return Work(
        sizes=window_sizes(told.evaluators.fidelities, length),
        windows=told.text.search_windows,
        room=room,
        healing=given.tokens if isinstance(given, Healing) else None,
        healing_text=healing_text,
        kind="healing" if healing else "tuning" if tuning else None,
        in_search=told.trained > 0,
        trained=settings.stored["search"]["algorithm"].get("trained", 0.0),
        tuning=tuning,
        points=settings.front_points,
        plain=REFERENCE_POINTS,
        rounded=rounded,
        heldout=told.text.heldout_windows * length,
        long=long,
        rounds=told.latency.front_rounds,
        healed=settings.healed,
        judged=SPARE * told.model.use.step_windows * length,
    )
