"""Every configuration composes, and every part of it instantiates with the keys that it has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from evaluators.base import choose_metrics
from evaluators.cost import cost_measure
from evaluators.data import load_texts
from evaluators.latency.workload import LATENCY, Workload
from evaluators.metrics import metric_named
from evaluators.tasks.harness import Harness
from search.protocol import Task
from space.candidate import Candidate
from space.formats.registry import format_of
from space.models.loading import load_model
from space.space import SearchSpace
from space.spec import ModelSpec
from space.supernet.preparation import Preparation

CONF = Path(__file__).parents[1] / "conf"
SPEC = ModelSpec(
    name="toy",
    revision="0",
    family="llama",
    layers=6,
    hidden=32,
    query_heads=6,
    kv_heads=3,
    head_dim=8,
    mlp_channels=64,
    vocab=64,
    tied_embeddings=True,
)
OBJECTIVES = (metric_named("kl"), LATENCY)
OPTIONS = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml"))


@pytest.fixture(autouse=True)
def configured() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> DictConfig:
    return compose("config", overrides=list(overrides))


def tiny_space(cfg: DictConfig) -> SearchSpace:
    space: SearchSpace = instantiate(cfg.space, mlp_step=16)(spec=SPEC)
    return space


def check_model(cfg: DictConfig) -> None:
    loader = instantiate(cfg.model)
    assert isinstance(loader, partial)
    assert loader.func is load_model
    inspect.signature(load_model).bind(**loader.keywords)


def check_data(cfg: DictConfig) -> None:
    windows = {"calibration_windows", "search_windows", "heldout_windows"}
    sizes = windows | {"length"}
    assert all(cfg.data[name] >= 1 for name in sizes)
    rest = {name: value for name, value in cfg.data.items() if name not in sizes}
    inspect.signature(load_texts).bind(**rest)


def check_supernet(cfg: DictConfig) -> None:
    preparation = instantiate(cfg.supernet)
    assert isinstance(preparation, Preparation)
    if OmegaConf.is_dict(cfg.supernet) and cfg.supernet.importance == "obs":
        assert preparation == Preparation()  # the config and the code have one default


def check_space(cfg: DictConfig) -> None:
    space = tiny_space(cfg)
    assert isinstance(space, SearchSpace)
    assert len(space.levels) > 0
    accepted = set(inspect.signature(SearchSpace).parameters) - {"spec"}
    assert set(cfg.space) - {"_target_", "_partial_"} == accepted  # every setting can be seen and changed


def check_evaluators(cfg: DictConfig) -> None:
    assert set(cfg.evaluators) == {"context", "batch", "cache_bytes", "rungs"}
    assert cfg.evaluators.batch >= 1
    assert cost_measure(SPEC, context=cfg.evaluators.context).values(Candidate.dense(SPEC))["kv_bytes"] > 0


def check_latency(cfg: DictConfig) -> None:
    assert isinstance(instantiate(cfg.latency)(), Workload)


def check_search(cfg: DictConfig) -> None:
    space = tiny_space(cfg)
    starts = [Candidate.dense(SPEC), *space.uniform_ladder()]
    costs = cost_measure(SPEC, context=64)

    def free(candidate: Candidate) -> dict[str, float]:
        size = costs.values(candidate)["params"]
        return {**costs.values(candidate), "latency_ms": size, "refit_error": -size}

    task = Task(space, OBJECTIVES, seed=cfg.seed, free=free, starts=starts, rungs=2)
    algorithm = instantiate(cfg.search.algorithm)(task)
    asked = algorithm.ask(cfg.search.batch)
    assert 2 <= len({question.candidate.key for question in asked}) == len(asked) <= cfg.search.batch
    assert instantiate(cfg.budget).fraction(0, 0) == 0


PARTS: dict[str, Callable[[DictConfig], None]] = {
    "model": check_model,
    "data": check_data,
    "supernet": check_supernet,
    "space": check_space,
    "evaluators": check_evaluators,
    "latency": check_latency,
    "search": check_search,
}


def test_every_group_is_checked_here() -> None:
    assert {group for group, _ in OPTIONS} == {*PARTS, "experiment"}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_instantiates(group: str, option: str) -> None:
    cfg = composed(f"+experiment={option}" if group == "experiment" else f"{group}={option}")
    for name in PARTS if group == "experiment" else (group,):
        PARTS[name](cfg)


def test_the_default_composes_with_every_part_and_its_objectives_exist() -> None:
    cfg = composed()
    for check in PARTS.values():
        check(cfg)
    known = [*cost_measure(SPEC, context=cfg.evaluators.context).metrics, *OBJECTIVES]
    assert [metric.name for metric in choose_metrics(cfg.objectives, known)] == ["kl", "latency_ms"]
    assert cfg.front_points >= 8
    assert (cfg.progress, cfg.tracker) == ("auto", "none")  # "none" is a word here, not YAML's null


def test_an_experiment_keeps_what_it_does_not_name() -> None:
    smoke, default = composed("+experiment=smoke"), composed()
    assert smoke.budget.tokens < default.budget.tokens
    assert smoke.model == default.model
    assert set(smoke.search.algorithm) == set(default.search.algorithm)


@pytest.mark.parametrize(
    "override", ["space=sideways", "search=luck", "model.pth=x", "data.lenght=8", "+experiment=none", "sede=1"]
)
def test_an_unknown_option_or_key_is_an_error(override: str) -> None:
    with pytest.raises(HydraException):
        composed(override)


def test_the_export_composes() -> None:
    cfg = compose("export", overrides=["run_dir=results/x", "pick='params<=0.6'"])
    assert (cfg.run_dir, cfg.pick, cfg.out, cfg.tolerance) == ("results/x", "params<=0.6", None, 1e-4)
    assert OmegaConf.is_missing(compose("export"), "run_dir")
    assert format_of(cfg.format, cfg.gguf.type).suffix == ""
    assert format_of("gguf", cfg.gguf.type).suffix == "-gguf-f16"


def test_the_settings_of_task_scores_are_those_of_the_harness() -> None:
    accepted = set(inspect.signature(Harness).parameters) - {"tokenizer"}
    after, alone = composed().evaluate, compose("score", overrides=["run_dir=results/x", "tasks=[piqa,arc_easy]"])
    assert set(after) - {"picks"} == accepted == set(alone) - {"run_dir", "pick", "progress"}
    settings = {name: value for name, value in after.items() if name != "picks"}
    assert Harness(None, **settings).questions == ()
    assert {**settings, "tasks": alone.tasks} == {name: alone[name] for name in settings}
    assert Harness(None, **{name: compose("score")[name] for name in settings}).questions == ()


def test_the_dashboard_is_for_this_machine_alone_unless_told_otherwise() -> None:
    cfg = compose("dashboard", overrides=["run_dir=results/x"])
    assert (cfg.host, cfg.token) == ("127.0.0.1", None)
    assert OmegaConf.is_missing(compose("dashboard"), "run_dir")


@pytest.mark.parametrize("name", ["config", "export", "score", "dashboard"])
def test_hydra_litters_nothing(name: str) -> None:
    cfg: Any = compose(name, return_hydra_config=True)
    assert cfg.hydra.output_subdir is None
    assert cfg.hydra.run.dir == "."
    assert "file" not in (cfg.hydra.job_logging.get("handlers") or {})
