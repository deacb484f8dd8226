"""What a run will take, said before it begins: memory and minutes by stage, the disk, and what to change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from entries.minutes import minutes_of, work_of
from entries.settings import RunSettings
from evaluators.amounts import CALIBRATION, LONG, TABLE, asked_s, judged_s, question_tokens
from evaluators.long_context import TOKENS as LONG_TOKENS
from evaluators.paths import Paths
from evaluators.planning.fit import disk_misfits, gigabytes, listed, misfits
from evaluators.planning.job import Job, Stage
from evaluators.planning.machine import free_device_bytes, free_host_bytes, measured_pace, own_bytes
from evaluators.planning.memory import on_disk, stages
from evaluators.planning.times import calibration_s, load_s, speeds, table_s, tuned_tokens
from evaluators.settled import Settled
from evaluators.training.recipes import Recovery
from search.views.text import duration
from search.views.watch.run import Watch
from space.checks import dtype_name
from space.files import existing, free_disk_bytes
from space.locations import cache_dir
from space.models.device import gpu_bytes, is_streamed, resolve_device, resolve_dtype
from space.models.outline import Outline, outlined
from space.models.refusals import positions
from space.size import total_params
from space.supernet.sizes import Part, total

_ROOM = 10_000  # windows of text that are taken to be there
_LONG = 1e4  # minutes, in which nothing is left out
_UNKNOWN = "–"

Times = dict[str, tuple[float, float]]  # seconds and tokens a second of a stage; 0 for what nobody knows


def plan(settings: RunSettings, watch: Watch) -> None:
    """Says it, and does nothing else: reads no weights, makes no directory.

    Raises:
        UserError: The model's configuration can not be had or is refused, or a setting does not fit it.
    """
    told = settings.session.model
    device = resolve_device(told.device)
    dtype = resolve_dtype(told.dtype, device)
    outline = outlined(
        told.path,
        revision=told.revision,
        trust_remote_code=told.trust_remote_code,
        lengths=settings.session.lengths,
        task=told.task,
    )
    job = _job(settings, outline, device, dtype)
    before = own_bytes()
    job, times, lines = _timed(settings, job, outline, device, dtype)
    watch.say([*_about(job, outline, device), *lines, ""])
    job = replace(job, base=before if job.on_host else own_bytes())  # with what torch has loaded for the device by now
    run = stages(job, Recovery().of_task(told.use))
    all_s = sum(seconds for seconds, _ in times.values())
    watch.say([*_table(run, times), *[f"some {duration(all_s)} in all"] * ("load" in times), ""])
    watch.say(_rooms(settings, job, run, device))


def _job(settings: RunSettings, outline: Outline, device: torch.device, dtype: torch.dtype) -> Job:
    session, spec = settings.session, outline.spec
    return Job(
        spec=spec,
        settings=session,
        space=session.space(spec),
        dtype=dtype_name(dtype),
        stored=dtype_name(outline.dtype),
        files=outline.files,
        base=0,
        on_host=device.type == "cpu",
        streamed=is_streamed(spec, dtype, device, session.model.device_bytes),
        memory=gpu_bytes(device) or 0,
        healed=settings.healed,
    )


def _timed(
    settings: RunSettings, job: Job, outline: Outline, device: torch.device, dtype: torch.dtype
) -> tuple[Job, Times, list[str]]:
    """The run with what its minutes come to, how long stages take, and what is said of that."""
    minutes, told = settings.budget.minutes, job.settings
    limit, long = positions(outline.config), told.text.long or 0
    long = LONG_TOKENS if told.text.length < long <= (limit or long) else 0
    length = told.text.length
    room, rounded = _ROOM * length, len(job.space.rounded_ladder())
    work = work_of(settings, told, room=_ROOM, healing_text=room, tuning=tuned_tokens(job), long=long, rounded=rounded)
    file = None if settings.run_dir is None else Paths(settings.run_dir).budget
    times: Times = {}
    if file is not None and file.exists():
        settled = Settled.read(file)
        if settings.budget.in_minutes and minutes is not None and minutes != settled.minutes:
            settled = settled.with_minutes(minutes, work)
        known, lines = settled.speeds, [f"speeds as {file} has them, which the run has measured"]
    else:
        pace = measured_pace(job.spec, dtype, device)
        seconds = 60 * minutes_of(settings.budget)
        calibration, table = calibration_s(job, pace, CALIBRATION * seconds), table_s(job, pace, TABLE * seconds)
        in_time = load_s(job) + calibration + table <= LONG * seconds
        known = speeds(job, pace, bool(long) and in_time, calibration + table)
        settled = Settled.of((minutes if settings.budget.in_minutes else None) or _LONG, known, work)
        times = {
            "load": (load_s(job), 0.0),
            "calibration": (calibration, 0.0),
            "latency table": (table, 0.0),
        }
        lines = [
            f"speeds by estimate: products of a layer of this model's shapes run at {pace.passing / 1e12:.2f} TFLOP/s "
            f"here, {pace.learning / 1e12:.2f} in training; text is taken to be enough"
        ]
    amounts, budget = settled.amounts, settings.budget.limited(None)
    if budget.in_minutes:
        job = replace(job, settings=told.settled(amounts))
        lines += settled.remarks()
    else:
        tokens = budget.tokens or 0
        healing = job.healing.total if job.healing else 0
        amounts = replace(amounts, tokens=tokens, healing=healing)
        lines.append(f"budget of {tokens:,} tokens" + f", with healing on {healing:,}" * bool(healing))
    looked_at = amounts.tokens
    if told.trained:  # the search's tokens are those of healing too, of which it leaves a part in any case
        looked_at = max(looked_at - amounts.healing, round((1 - work.trained) * looked_at))
    questions = round(looked_at / question_tokens(amounts.search_windows, work))
    times |= {
        "search": (asked_s(looked_at, questions, known), known.evaluation[known.batch_size]),
        "end of the run": (amounts.end_s, 0.0),
    }
    trained = known.training.get(known.step_windows, 0.0)
    if trained and job.healing:
        times["healing"] = (amounts.healing / trained + judged_s(questions, known, work), trained)
    elif trained:
        times["tuning"] = (0.0, trained)  # a part of the search or of its end
    return job, times, lines


def _about(job: Job, outline: Outline, device: torch.device) -> list[str]:
    spec = job.spec
    params = total_params(spec, job.dense)
    weights = f"{params / 1e9:.2f} B parameters, {gigabytes(job.item * params)} in {job.dtype} on {device}"
    kept = "" if outline.there else ", of which there is the configuration alone"
    passing = ["layers wait on the host and pass the device one at a time: the weights do not fit on it"]
    if job.settings.latency.table is None and not job.timed:
        passing.append("WARNING: such a run needs latency.table=FILE, measured where the model is to be served.")
    return [f"plan of a run on {spec.name}: {weights}{kept}", *(passing if job.streamed else [])]


def _table(run: Sequence[Stage], times: Times) -> list[str]:
    """A line a stage."""
    rows = [("stage", "host", "device", "time", "tokens a second")]
    for stage in run:
        seconds, speed = times.get(stage.title, (0.0, 0.0))
        device = gigabytes(total(stage.device)) if stage.device else _UNKNOWN
        took, pace = duration(seconds) if seconds else _UNKNOWN, f"{speed:,.{int(speed < 10)}f}" if speed else _UNKNOWN
        rows.append((stage.title, gigabytes(total(stage.host)), device, took, pace))
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join([title.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])
        for title, *cells in rows
    ]


def _rooms(settings: RunSettings, job: Job, run: Sequence[Stage], device: torch.device) -> list[str]:
    """The stages that take the most beside what is free, the disk, and what does not fit."""
    free, limit, there = free_host_bytes(), settings.session.model.device_bytes, free_device_bytes(device)
    host = None if free is None else free + job.base
    if limit is not None and (there is not None or job.streamed):
        there = min(limit, there or limit)
    most = max(run, key=lambda stage: total(stage.host))
    lines = [_most("host", most, most.host, host)]
    if there is not None:
        most = max(run, key=lambda stage: total(stage.device))
        lines.append(_most("device", most, most.device, there))
    warnings = misfits(run, host, there)
    for place, files in _disks(settings, job).items():
        room = free_disk_bytes(place)
        lines.append(f"disk: {gigabytes(total(files))} of {gigabytes(room)} free in {place}: {listed(files)}")
        warnings += disk_misfits(files, room)
    return [*lines, *(warnings or ["all of it fits"])]


def _most(name: str, stage: Stage, parts: Sequence[Part], room: int | None) -> str:
    free = "" if room is None else f" of {gigabytes(room)} free"
    return f"{name}: {gigabytes(total(parts))}{free}, in {stage.title}: {listed(parts)}"


def _disks(settings: RunSettings, job: Job) -> dict[Path, list[Part]]:
    """What is written where: calibrations lie in the cache, and are linked into the run, on another disk copied."""
    supernet, *others = on_disk(job)
    cache, home = (existing(place) for place in (cache_dir(), settings.run_dir or Path("results")))
    if cache.stat().st_dev == home.stat().st_dev:
        return {home: [supernet, *others]}
    return {cache: [supernet], home: [supernet, *others]}
