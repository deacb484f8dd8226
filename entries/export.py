"""One point of a run as a verified checkpoint."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from huggingface_hub import EvalResult

from entries.pick_settings import ExportSettings
from evaluators.cost import cost_measure
from evaluators.metrics import ACCURACY, HELDOUT_QUALITY, LONG_QUALITY
from evaluators.paths import Paths
from evaluators.samples import Samples
from evaluators.session import Session
from evaluators.training.polish import polish
from evaluators.training.processes import Processes
from evaluators.vocabulary.trim import prepared_trim
from search.run.finished import FinishedRun
from search.run.picks import candidate_of
from search.views.watch.run import Watch
from space.errors import UserError
from space.formats.checkpoint import Subnet
from space.formats.gguf.design import design_codes
from space.formats.gguf.rounded_layers import rounded_layers
from space.formats.gguf.types import FileTypes
from space.formats.model_card import FRONT_MATTER, REPOSITORY
from space.formats.registry import format_of
from space.formats.requirements import require_format_of_task
from space.formats.reveal import require_free
from space.models.stack import layers_of
from space.types import GGUF_TYPES


def export(settings: ExportSettings, watch: Watch) -> None:
    """Loads the run's model, makes the pick's own, polishes it, and exports it."""
    Processes.here().take_gpu()
    run, row, told = settings.run, settings.row, settings.session
    candidate = candidate_of(row)
    form = format_of(settings.format, settings.gguf_type or GGUF_TYPES[0], settings.deci_flavour)
    # what is polished is not rounded yet; `written` is what goes into the file, in the point's types where it can
    in_types = candidate.is_rounded and settings.format == "gguf" and settings.gguf_type is None
    blocks = candidate.blocks.unrounded
    written = candidate.blocks if in_types else blocks
    keep = settings.vocabulary.keep
    if in_types and keep is not None:
        raise UserError(f"vocabulary.keep: expected null for a point with types of matrices, got {keep:g}.")
    suffix = ("" if keep is None else f"-vocabulary{keep:g}") + ("-gguf" if in_types else form.suffix)
    out = settings.out or run.run_dir / "exports" / f"{candidate.key}{suffix}"
    require_free(out)
    use = told.model.use
    require_format_of_task(settings.format, use)
    if settings.vllm is not None and "vllm" not in use.engines:
        raise UserError(f"verify: expected null for {use.title}, which vLLM does not run here, got vllm.")
    if settings.push is not None:
        settings.push.require_place()
    watch.say([f"pick {settings.pick}: {candidate.key}, to {out}"])
    if candidate.is_rounded and not in_types:
        watch.say([f"{candidate.key} has types of matrices, of which its figures are: {_UNROUNDED}"])
    begun = out.with_name(f"{out.name}.polish")
    if told.tunes and not settings.tuning:  # the row's held-out figures are not those of this checkpoint
        row = row.drop([*HELDOUT_QUALITY, LONG_QUALITY, ACCURACY], errors="ignore")
        told = replace(told, correction=None, training="off")
    session = Session.open(told, Paths(run.run_dir), watch.stage)
    loaded = session.loaded
    config, generation = loaded.model.config, getattr(loaded.model, "generation_config", None)
    around = loaded.surroundings
    subnet = Subnet(config, loaded.tokenizer, loaded.spec, written, generation, loaded.companions, around)
    run.require_held(candidate, lambda each: form.check(replace(subnet, candidate=each.blocks.unrounded)))
    trim = prepared_trim(session, subnet, settings.vocabulary, candidate.vocabulary, watch.stage)
    _ = session.supernet
    with watch.stage("tuning"):
        front = session.finished_model(blocks)
    polished = polish(
        session,
        blocks,
        front,
        settings.polish,
        settings.recover,
        begun,
        lambda line: watch.say([line]),
        watch.stage,
    )
    if not Processes.here().first:
        return
    model = whole = copy.deepcopy(polished.model).to("cpu") if loaded.streamed else polished.model
    if trim is not None:
        model = trim.taught(model, settings.recover.of_task(use), lambda line: watch.say([line]), watch.stage)
    rounded = {}
    types = FileTypes.of(written, form.rounds or GGUF_TYPES[0], tied=loaded.spec.tied_embeddings)
    if in_types and polished.model is front:
        rounded["rounded"] = design_codes(session.newest(), written)
    elif in_types or form.rounds is not None:
        with watch.stage("rounding") as show:
            count, text = len(layers_of(model)), session.windows("calibration")
            rounded["rounded"] = rounded_layers(model, text, types, lambda index: show(index + 1, count))
    sections: dict[str, Mapping[str, object]] = {}
    figures = run.figures(row, polished.heldout)
    if in_types and polished.heldout:
        sections["Metrics after its polish, before rounding"] = polished.heldout
        figures = {name: value for name, value in figures.items() if name not in polished.heldout}
    if candidate.is_rounded and not in_types:
        sections["Types of matrices"] = {"the point's, which its metrics are of": _UNROUNDED}
    samples = own = Samples(loaded.tokenizer, told.samples)
    writer = polished.model
    if trim is not None:
        with watch.stage("smaller vocabulary"):
            model, sections["Vocabulary"] = trim.trimmed(whole, model, lambda line: watch.say([line]))
        subnet, writer = replace(trim.subnet, candidate=candidate), model
        own = Samples(subnet.tokenizer, told.samples)
        if not candidate.vocabulary:
            sections["Metrics with the whole vocabulary"] = figures
            costs = cost_measure(subnet.spec, context=told.evaluators.context, bytes_per_element=model.dtype.itemsize)
            figures = dict(costs.values(blocks))
        elif polished.heldout:  # which is judged with the whole vocabulary, where the row's figures are of the design's
            sections["Metrics with the whole vocabulary"] = polished.heldout
            figures = {name: value for name, value in figures.items() if name not in polished.heldout}
    done = form.export(
        model,
        subnet,
        out,
        card={
            **samples.section(session.finished_model, session.dense, writer, own),
            FRONT_MATTER: {
                **loaded.card,
                **_results(run, figures, candidate.key),
                **({REPOSITORY: settings.push.repo} if settings.push else {}),
            },
            "Metrics": figures,
            **sections,
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
        tolerance=settings.tolerance,
        **({} if settings.vllm is None else {"vllm": settings.vllm}),
        **rounded,
        **({"release": partial(_release, session, front, polished.model, model)} if form.releases else {}),
    )
    shutil.rmtree(begun, ignore_errors=True)
    watch.say(done.remarks())
    if settings.push is not None:
        with watch.stage("push"):
            address = settings.push.upload(out)
        watch.say([f"pushed: {address}"])


_UNROUNDED = "its weights are written as they are before rounding; format=gguf with gguf.type=null has its types"


def _release(session: Session, *models: Any) -> None:
    """Empties models that nothing needs any more, before the process that checks the export has its own in memory."""
    for supernet in (session.supernet, session.newest()):
        supernet.forget()
    for model in (session.loaded.model, *models):
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.data = tensor.new_empty(0)


def _results(run: FinishedRun, figures: Mapping[str, float], key: str) -> dict[str, Any]:
    """What the hub shows as results: quality on text that the search never saw, and scores."""
    heldout = dict.fromkeys(
        (*HELDOUT_QUALITY, LONG_QUALITY, ACCURACY), f"held-out text of the run ({run.summary['text']})"
    )
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="text" if metric.name in heldout else "lm-eval",
            dataset_name=heldout.get(metric.name, metric.name),
            metric_type="perplexity" if metric.name.endswith("ppl") else metric.name,
            metric_name=metric.label,
            metric_value=float(figures[metric.name]),
        )
        for metric in run.metrics
        if (metric.name in heldout or metric.role == "score") and math.isfinite(figures.get(metric.name, math.nan))
    ]
    return {"model_name": key, "eval_results": results} if results else {}
