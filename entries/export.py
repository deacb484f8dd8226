"""One point of a run as a verified checkpoint."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from functools import partial

import torch

from entries.settings import ExportSettings
from evaluators.metrics import HELDOUT_QUALITY, LONG_QUALITY
from evaluators.paths import Paths
from evaluators.samples import Samples
from evaluators.session import Session
from evaluators.training.polish import polish
from evaluators.training.processes import Processes
from search.run.picks import candidate_of
from search.views.watch.run import Watch
from space.formats.registry import format_of
from space.formats.reveal import require_free


def export(settings: ExportSettings, watch: Watch) -> None:
    """Loads the run's model, makes the pick's own, polishes it, and exports it."""
    Processes.here().take_gpu()
    run, row, told = settings.run, settings.row, settings.session
    candidate = candidate_of(row)
    form = format_of(settings.format, settings.gguf_type)
    out = settings.out or run.run_dir / "exports" / f"{candidate.key}{form.suffix}"
    require_free(out)
    watch.say([f"pick {settings.pick}: {candidate.key}, to {out}"])
    begun = out.with_name(f"{out.name}.polish")
    if told.tunes and not settings.tuning:  # the row's held-out figures are not those of this checkpoint
        row = row.drop([*HELDOUT_QUALITY, LONG_QUALITY], errors="ignore")
        told = replace(told, correction=None, training="off")
    session = Session.open(told, Paths(run.run_dir), watch.stage)
    loaded = session.loaded
    run.require_held(candidate, partial(form.check, loaded.model.config, loaded.tokenizer, loaded.spec))
    _ = session.supernet
    with watch.stage("tuning"):
        front = session.finished_model(candidate)
    polished = polish(
        session,
        candidate,
        front,
        settings.polish,
        settings.recover,
        begun,
        lambda line: watch.say([line]),
        watch.stage,
    )
    if not Processes.here().first:
        return
    model = copy.deepcopy(polished.model).to("cpu") if loaded.streamed else polished.model
    done = form.export(
        model,
        loaded.model.config,
        loaded.tokenizer,
        loaded.spec,
        candidate,
        out,
        card={
            **Samples(loaded.tokenizer, told.samples).section(session.finished_model, session.dense, polished.model),
            "Metrics": run.figures(row, polished.heldout),
            "Provenance": {
                "run": run.run_dir.resolve().name,
                "base model": loaded.spec.name,
                "base digest": loaded.spec.digest,
                **({"base commit": loaded.commit} if loaded.commit else {}),
                "text": run.summary["text"],
                "seed": run.config["seed"],
                **session.trained_facts(),
                **polished.facts,
                "dtype": run.summary["dtype"],
                **run.measured.devices,
                "torch": torch.__version__,
            },
        },
        generation_config=loaded.model.generation_config,
        tolerance=settings.tolerance,
        **({} if settings.vllm is None else {"vllm": settings.vllm}),
    )
    shutil.rmtree(begun, ignore_errors=True)
    watch.say(done.remarks())
