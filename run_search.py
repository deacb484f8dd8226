"""Search for the Pareto front of pruned versions of a dense model; `--help` shows the settings."""

from __future__ import annotations

import sys
from typing import Any, cast

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from evaluators.base import OPTIMISED, choose_metrics
from evaluators.data import text_of
from evaluators.fidelities import fidelities
from evaluators.latency.bench import EndToEnd, LatencyBench
from evaluators.latency.table import LatencyTable
from evaluators.tasks.harness import Harness
from evaluators.training.tuning import make_tuning
from search.archive import Archive
from search.constraints import constrained, quoted
from search.loop import run_loop
from search.protocol import Task
from search.run.directory import FREE_SETTINGS, new_name, open_run_directory
from search.run.finish import finish
from search.run.finished import FinishedRun, finished_runs
from search.views.pages import write_pages
from search.views.scoring import watched_scores
from search.views.watch.events import Found
from search.views.watch.run import Watch, watched
from space.candidate import Candidate
from space.files import kept
from space.models.embedded import cache_dir


def run(cfg: DictConfig, watch: Watch) -> None:
    """The main job, start to end; resumes when `cfg.run_dir` holds a run."""
    with watch.stage("model and text"):
        loaded = instantiate(cfg.model)()
        spec, data, dense = loaded.spec, cfg.data, Candidate.dense(loaded.spec)
        space, prepare = instantiate(cfg.space)(spec=spec), instantiate(cfg.supernet).supernet
        workload, budget, _ = instantiate(cfg.latency)(), instantiate(cfg.budget), finished_runs(cfg.compare)
        text = text_of(data, loaded.tokenizer, spec.vocab)
        harness = Harness(loaded.tokenizer, **{name: value for name, value in cfg.evaluate.items() if name != "picks"})
        blocks = {p: text.blocks(p, data[f"{p}_windows"], data.length) for p in ("calibration", "search", "heldout")}
    config = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))
    run_dir = open_run_directory(cfg.run_dir or new_name(cfg.name), config, free=FREE_SETTINGS)
    watch.opened(run_dir, spec.name, config, cfg.tracker)
    watch.told(harness.remarks(cfg.objectives))
    with watch.stage("calibration and order of units") as show:
        supernet = prepare(loaded, blocks["calibration"], run_dir / "supernet", lambda n: show(n + 1, spec.layers))
    mode, recipe = cfg.search.distillation, (instantiate(cfg.correction), instantiate(cfg.distillation))
    tuning = make_tuning(mode, supernet, run_dir, *recipe, lambda: text, data.length)
    bench = LatencyBench(supernet, workload, cache_dir() / "latency", loaded.tokenizer)
    with watch.stage("latency table") as show:
        timed = space.block_options, space.samples(workload.fit + workload.check)
        table = LatencyTable.from_json(kept(run_dir / "latency.json", lambda: bench.table(*timed, show).to_json()))
    watch.told([*table.remarks(), *(table.profile(dense) if cfg.profile_only else [])])
    if cfg.profile_only:
        return
    accuracy = harness.measure if "acc" in cfg.objectives else None
    asked = fidelities(supernet, table, blocks["search"], blocks["heldout"], tuning, accuracy, **cfg.evaluators)
    rungs = (*asked.search, *(trained := asked.trained if mode == "loop" else ()))
    objectives = choose_metrics(cfg.objectives, asked.search[-1].metrics)
    space = constrained(space, cfg.constraints, asked.free)
    starts = [dense, *space.uniform_ladder(), *space.depth_ladder(supernet.removal_order)]
    task = Task(space, objectives, cfg.seed, asked.free, starts, len(rungs), len(trained), budget.tokens)
    algorithm, batch = instantiate(cfg.search.algorithm)(task), cfg.search.batch
    settings = {"model": spec.to_json(), "text": text.digest, "dtype": str(loaded.dtype), "latency": table.digest}
    settings |= {"fidelities": [one.fidelity for one in rungs]} | ({OPTIMISED: harness.fidelities} if accuracy else {})
    told = {"sources": text.sources, "latency_table": table.remarks(), "mlp_step": space.mlp_step}
    with Archive(run_dir / "archive.jsonl", settings) as archive:
        with watch.stage("search"):
            run_loop(algorithm, rungs, archive, objectives, budget, batch=batch, on_progress=watch.searched)
        with watch.stage("front: tuning, held-out text and end-to-end timing") as show:
            result = finish(
                archive, objectives, dense, search=asked.search[-1], trained=trained[-1] if trained else None,
                heldout=asked.heldout, tuned=asked.tuned, timed=EndToEnd(bench, table.dense_ms, show), show=show,
                facts={**settings, **told, "latency": {**table.device, "scenario": workload.scenario},
                "arguments": sys.argv[1:]}, reference=space.uniform_ladder(), points=cfg.front_points, run_dir=run_dir,
            )  # fmt: skip
        write_pages(run_dir, archive)
        if tuning:
            tuning.keep(set(result.front["key"]))
        if harness.questions:
            finished, ask = FinishedRun.open(run_dir), lambda show: harness.evaluators(supernet, tuning, show)
            watched_scores(finished, archive, ask, finished.picks(cfg.evaluate.picks), watch)
    watch.send(Found(run_dir, spec.name, objectives, result))


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg: DictConfig) -> None:
    """Runs, and tells of mistakes in one message."""
    with watched(cfg.progress) as watch:
        run(cfg, watch)


if __name__ == "__main__":
    sys.argv[1:] = quoted(sys.argv[1:], "constraints")
    main()
