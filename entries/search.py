"""The main job: from a dense model to its measured front."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from conf.places import known
from entries.minutes import in_tokens, minutes_of, spent
from entries.plan import plan
from entries.settings import RunSettings
from evaluators.actor import EvaluatorActor
from evaluators.base import GROUP
from evaluators.closing import Closing
from evaluators.paths import Paths
from evaluators.session import Session
from evaluators.streaming import require_streamable, streaming_remarks
from search.archive import Archive
from search.constraints import constrained
from search.executor import Pool, Work
from search.loop import run_loop
from search.protocol import Task, starting_designs
from search.run.directory import FREE_SETTINGS, open_run_directory, require_same_run, run_directory
from search.run.finish import REFERENCE_POINTS, Finish, finish
from search.run.finished import FinishedRun
from search.run.front import CANDIDATE
from search.run.versions import versions
from search.views.pages import write_pages
from search.views.scoring import watched_scores
from search.views.watch.events import SearchEnded
from search.views.watch.run import Watch
from space.space import SearchSpace
from space.supernet.preparation import disk_remarks, window_remarks


def search(settings: RunSettings, watch: Watch) -> None:
    """Searches; it goes on when the directory holds a run. A plan of it is said, and nothing done."""
    if settings.plan:
        plan(settings, watch)
        return
    with run_directory(settings.run_dir, settings.name) as run_dir:
        require_same_run(run_dir, settings.stored, free=FREE_SETTINGS)
        run(settings, run_dir, watch)


def run(settings: RunSettings, run_dir: Path, watch: Watch) -> None:
    """The job, start to end, as docs/how-it-works.md numbers it."""
    session = Session.open(settings.session, Paths(run_dir), watch.stage, minutes_of(settings.budget))
    with watch.stage("model and text"):
        session.check()
        require_streamable(settings.session, session.loaded)
    stored = known(settings.stored, session.loaded, session.text.digest)
    open_run_directory(run_dir, stored, free=FREE_SETTINGS)
    watch.opened(run_dir, session.spec.name, settings.stored, settings.tracker)
    text = settings.session.text
    remarks = [*streaming_remarks(session.loaded), *session.text.remarks(text.windows, text.length)]
    remarks += Closing.remarks(session)
    watch.say([*remarks, *session.harness.remarks(settings.session.objectives)])
    watch.say(disk_remarks(session.loaded, session.paths.supernet, read=bool(session.space.types)))
    # 1 and 2: the supernet, whose units are ordered and whose output projections are refit; then the latency table
    table = session.table
    watch.say(window_remarks(session.supernet, text.windows["calibration"]))
    if (elsewhere := settings.session.latency.table) is not None:
        watch.say([f"latency table of {elsewhere}: the search goes by that device, and nothing is timed here"])
    watch.say([*table.remarks(), *(table.profile(session.dense) if settings.profile_only else [])])
    if settings.profile_only:
        return
    # 3 and 4: cheap questions first, and the healing of the shared weights in between
    task = task_of(session, settings.constraints, settings.seed)
    space, objectives = task.space, session.objectives
    settings = in_tokens(settings, session, task, watch)
    budget, executor = settings.budget, settings.executor
    algorithm = settings.algorithm(replace(task, tokens=budget.tokens))
    with (
        Archive(run_dir / "archive.jsonl", session.identity() | executor.identity) as archive,
        executor.pool(work_of(session)) as pool,
    ):
        spread = pool.spread
        ladder = [*map(spread, session.ladder)]
        with watch.stage("search"):
            run_loop(algorithm, ladder, archive, objectives, budget, ask=settings.ask, on_progress=watch.searched)
        # 5: what is promised is measured
        result = finished(session, archive, space, settings, pool, watch)
        write_pages(run_dir, archive)
        if session.harness.tasks:
            ended = FinishedRun.open(run_dir)
            picks = ended.picks(settings.scored_picks)
            watched_scores(ended, archive, lambda show: [*map(spread, session.task_evaluators(show))], picks, watch)
    watch.send(SearchEnded(run_dir, session.spec.name, objectives, result))


def task_of(session: Session, constraints: Mapping[str, Any], seed: int) -> Task:
    """What the algorithm is given, but for its tokens."""
    free = session.fidelities.free
    space = constrained(session.space, constraints, free)
    starts = starting_designs(space, session.supernet.removal_order)
    counts = len(session.ladder), len(session.trained), session.settings.heals_in_loop
    return Task(space, session.objectives, seed, free, starts, *counts)


def work_of(session: Session) -> Work:
    """What other processes evaluate candidates of this session with."""
    settings, place = session.settings, session.supernet.place
    worker = partial(EvaluatorActor, settings, session.paths.run_dir.absolute(), Path.cwd(), versions)
    facts = {**session.identity(), **versions()}
    return Work(worker, facts, place.device.type == "cuda", GROUP if place.streamed else 1)


def finished(
    session: Session, archive: Archive, space: SearchSpace, settings: RunSettings, pool: Pool, watch: Watch
) -> Finish:
    """The end of a search: its front, scored, timed and written."""
    fidelities, table, closing = session.fidelities, session.table, Closing.of(session)
    fidelities.forget()
    trained, spread = session.trained[-1] if session.trained else session.healed, pool.spread
    facts = {
        "sources": session.text.sources,
        "long_context": closing.long_context,
        "latency_table": table.remarks(),
        "mlp_step": space.mlp_step,
        **({"expert_step": space.expert_step} if space.expert_step else {}),
        "latency": {**table.device, "scenario": session.settings.latency.scenario},
        "arguments": settings.arguments,
        "budget": spent(settings.budget, session.settings),
        **({"trainable": session.healer.trainable} if session.healer else {}),
        **({"vocabularies": few.remarks(session.windows("heldout"))} if (few := session.vocabulary) else {}),
    }
    with watch.stage("front: tuning, held-out text and end-to-end timing") as show:
        timed = session.timed(show)
        result = finish(
            archive,
            session.objectives,
            session.dense,
            search=spread(fidelities.search[-1]),
            trained=trained and spread(trained),
            heldout=spread(fidelities.heldout),
            tuned=fidelities.tuned and spread(fidelities.tuned),
            timed=timed and pool.alone(timed),
            closing=[*map(spread, closing.evaluators)],
            points=settings.front_points,
            recommend=settings.recommend,
            run_dir=session.paths.run_dir,
            facts={**session.identity(), **facts},
            reference=[*space.rounded_ladder(), *space.uniform_ladder()],
            plain=(session.amounts and session.amounts.plain) or REFERENCE_POINTS,
            show=show,
        )
    if session.tuning:
        session.tuning.keep({candidate.blocks.key for candidate in result.front[CANDIDATE]})
    return result
