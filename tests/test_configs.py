"""Every configuration composes, and every part of it instantiates with the keys that it has."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from pkgutil import resolve_name
from typing import Any
from unittest.mock import Mock

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException

from conf.compose import composed
from conf.settings import PARTS, instantiated, session_settings
from entries.settings import dashboard_settings
from evaluators.base import choose_metrics
from evaluators.cost import cost_measure
from evaluators.data.places import TextPlace
from evaluators.latency.workload import LATENCY, Workload
from evaluators.metrics import metric_named, metrics_named
from evaluators.model_settings import ModelSettings
from evaluators.settings import FidelitySettings, Settings, TaskSettings, TextSettings
from evaluators.training.recipes import MODES, CorrectiveRefit, Distillation, Healing, Polish, Recovery
from evaluators.vocabulary.settings import VocabularySettings
from search.constraints import limits_text
from search.executor import LocalExecutor
from search.loop import Budget
from search.protocol import Task
from search.run.commands import quoted
from search.run.recommended import Recommend
from serving.controllers import Controller, Offer
from serving.difficulty import FEATURES, Fit, Look, LossModel
from serving.limits import Limits
from serving.load import Load
from serving.requests import Request
from serving.speeds import Speeds
from space.candidate import Candidate
from space.errors import UserError
from space.formats.registry import format_of
from space.models.loading import load_model
from space.space import SearchSpace
from space.spec import ModelSpec
from space.supernet.recipe import Preparation

CONF = Path(__file__).parents[1] / "conf"
SPEC = ModelSpec(
    name="toy",
    digest="0",
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
OPTIONS = sorted((path.parent.name, path.stem) for path in CONF.glob("*/*.yaml") if path.parent.name != "controller")
CONTROLLERS = sorted(path.stem for path in (CONF / "controller").glob("*.yaml"))
Config = dict[str, Any]


def tiny_space(config: Config) -> SearchSpace:
    space: SearchSpace = instantiated(config["space"] | {"mlp_step": 16})(SPEC)
    return space


def arguments_of(function: Callable[..., Any], *without: str) -> set[str]:
    return set(inspect.signature(function).parameters) - {*without}


def keys_of(part: Config) -> set[str]:
    return {key for key in part if not key.startswith("_")}


def check_model(config: Config) -> None:
    settings = instantiated(config["model"])
    assert isinstance(settings, ModelSettings)
    assert keys_of(config["model"]) == set(asdict(settings)) == arguments_of(load_model, "lengths", "check_spec")


def check_data(config: Config) -> None:
    settings = instantiated(config["data"])
    assert isinstance(settings, TextSettings)
    assert keys_of(config["data"]) == {field.name for field in fields(TextSettings)}


def check_supernet(config: Config) -> None:
    preparation = instantiated(config["supernet"])
    assert isinstance(preparation, Preparation)
    if config["supernet"]["importance"] == "obs":
        assert preparation == Preparation()  # the config and the code have one default


def check_space(config: Config) -> None:
    space = tiny_space(config)
    assert isinstance(space, SearchSpace)
    assert len(space.levels) > 0
    assert keys_of(config["space"]) == arguments_of(SearchSpace, "spec")  # every setting can be seen and changed


def check_evaluators(config: Config) -> None:
    settings = instantiated(config["evaluators"])
    assert settings == FidelitySettings()
    assert cost_measure(SPEC, context=settings.context).values(Candidate.dense(SPEC))["kv_bytes"] > 0


def check_latency(config: Config) -> None:
    workload = instantiated(config["latency"])
    assert isinstance(workload, Workload)
    assert keys_of(config["latency"]) >= set(asdict(workload)) - {"new_tokens"}


def check_correction(config: Config) -> None:
    refit = instantiated(config["correction"])
    assert refit is None or (isinstance(refit, CorrectiveRefit) and keys_of(config["correction"]) == set(asdict(refit)))


def check_distillation(config: Config) -> None:
    distillation = instantiated(config["distillation"])
    if distillation is None:
        return
    assert isinstance(distillation, Healing | Distillation)
    assert keys_of(config["distillation"]) == set(asdict(distillation))
    if isinstance(distillation, Distillation):
        assert distillation.seed == config["seed"]


def check_budget(config: Config) -> None:
    budget = instantiated(config["budget"])
    assert isinstance(budget, Budget)
    assert keys_of(config["budget"]) == set(asdict(budget))


def check_search(config: Config) -> None:
    space, ask = tiny_space(config), config["search"]["ask"]
    starts = [Candidate.dense(SPEC), *space.uniform_ladder()]
    costs = cost_measure(SPEC, context=64)

    def free(candidate: Candidate) -> dict[str, float]:
        size = costs.values(candidate)["params"]
        return {**costs.values(candidate), "latency_ms": size, "refit_error": -size}

    task = Task(space, OBJECTIVES, seed=config["seed"], free=free, starts=starts, fidelities=2)
    algorithm = instantiated(config["search"]["algorithm"])(task)
    asked = algorithm.ask(ask)
    assert 2 <= len({question.candidate.key for question in asked}) == len(asked) <= ask
    assert config["search"]["distillation"] in MODES


def check_executor(config: Config) -> None:
    executor = instantiated(config["executor"], "executor")
    executor.check()
    assert (executor.identity == {}) == isinstance(executor, LocalExecutor)


CHECKS: dict[str, Callable[[Config], None]] = {
    "model": check_model,
    "data": check_data,
    "supernet": check_supernet,
    "space": check_space,
    "evaluators": check_evaluators,
    "latency": check_latency,
    "search": check_search,
    "correction": check_correction,
    "distillation": check_distillation,
    "budget": check_budget,
    "executor": check_executor,
}


def test_every_group_is_checked_here() -> None:
    assert {group for group, _ in OPTIONS} == {*CHECKS, "experiment"}


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_instantiates(group: str, option: str) -> None:
    config = composed(f"{group}={option}")
    for name in CHECKS if group == "experiment" else (group,):
        CHECKS[name](config)
    settings = session_settings(config)
    assert pickle.loads(pickle.dumps(settings)).latency == settings.latency


def test_the_default_composes_with_every_part_and_its_objectives_exist() -> None:
    config = composed()
    for check in CHECKS.values():
        check(config)
    settings = session_settings(config)
    known = [*cost_measure(SPEC, context=settings.evaluators.context).metrics, *OBJECTIVES]
    assert [metric.name for metric in choose_metrics(settings.objectives, known)] == ["kl", "latency_ms"]
    assert settings.training == "loop"
    assert settings.tasks == TaskSettings()
    assert config["front_points"] >= 8
    assert Recommend.of(config) == Recommend()  # the config and the code have one default
    assert (len(settings.samples.prompts), settings.samples.tokens) == (3, 30)
    assert (config["progress"], config["tracker"]) == ("auto", "none")  # "none" is a word here, not YAML's null


def test_every_part_of_a_session_is_a_group_or_a_key() -> None:
    assert {*PARTS, "training", "objectives"} == {field.name for field in fields(Settings)}
    assert set(PARTS.values()) <= set(composed())


def test_constraints_are_on_what_costs_nothing_to_know() -> None:
    serving = composed("latency=serving")
    costs = cost_measure(SPEC, context=64).metrics
    free = {m.name for m in (*costs, *instantiated(serving["latency"]).metrics, *metrics_named("refit_error"))}
    assert set(serving["constraints"]) == free
    assert set(serving["constraints"].values()) == {None}
    given = composed("constraints.latency_ms=0.7", "constraints.params={min:0.5}")["constraints"]
    assert limits_text(given) == "latency_ms<=0.7, params>=0.5"


def test_an_experiment_keeps_what_it_does_not_name() -> None:
    smoke, default = composed("experiment=smoke"), composed()
    assert (smoke["budget"]["tokens"], default["budget"]["tokens"]) == (20_000, None)
    assert smoke["model"] == default["model"]
    assert set(smoke["search"]["algorithm"]) == set(default["search"]["algorithm"])


def test_smoke_has_images_of_the_length_that_they_have() -> None:
    smoke = session_settings(composed("model=image_classifier", "experiment=smoke"))
    assert {*smoke.lengths.values()} == {197}
    assert smoke.text.windows == {"calibration": 16, "search": 2, "heldout": 4}
    smaller = session_settings(composed("model=image_classifier", "experiment=smoke", "data.length=17"))
    assert {*smaller.lengths.values()} == {17}
    assert session_settings(composed("model=classifier", "experiment=smoke")).text.length == 128


def test_the_command_line_has_the_last_word_over_an_experiment() -> None:
    config = composed("experiment=smoke", "correction=none", "budget.tokens=7", "data.length=99")
    assert config["correction"] is None
    assert config["budget"]["tokens"] == 7
    assert config["data"]["length"] == 99
    assert session_settings(config).correction is None


@pytest.mark.parametrize(
    "override",
    [
        *("space=sideways", "search=luck", "model.pth=x", "data.lenght=8", "experiment=none", "sede=1"),
        *("constraints.kl=1", "evaluators.rungs=[0.5]", "search.batch=3"),
    ],
)
def test_an_unknown_option_or_key_is_an_error(override: str) -> None:
    with pytest.raises(HydraException):
        composed(override)


def test_the_export_composes() -> None:
    assert composed("run_dir=results/x", name="export")["pick"] == "recommended"
    (pick,) = quoted(["pick=heldout_ppl<=1.1x"], "pick")
    assert composed("run_dir=results/x", pick, name="export")["pick"] == "heldout_ppl<=1.1x"
    config = composed("run_dir=results/x", "pick='params<=0.6'", name="export")
    chosen = config["run_dir"], config["pick"], config["out"], config["tolerance"]
    assert chosen == ("results/x", "params<=0.6", None, 1e-4)
    assert instantiated(config["recover"]) == Recovery()
    assert instantiated(config["polish"]) == Polish()
    assert keys_of(config["recover"]) == {field.name for field in fields(Recovery)}
    assert instantiated(config["vocabulary"]) == VocabularySettings()
    assert keys_of(config["vocabulary"]) == {field.name for field in fields(VocabularySettings)}
    given = "run_dir=results/x", "recover.tokens=1e9"
    recipe = instantiated(composed(*given, "data@recover.data=web_textbooks", name="export")["recover"])
    assert recipe.data.entries == instantiated(composed("data=web_textbooks")["data"]).entries
    assert [entry.is_local for entry in recipe.data.entries] == [False, False]
    own = instantiated(composed(*given, "recover.data.path=[a.txt,{path:b/c,name:d}]", name="export")["recover"])
    assert own.data == TextPlace([str(Path("a.txt").absolute()), {"path": "b/c", "name": "d"}])
    assert config["gguf"]["type"] is None
    assert format_of(config["format"], "f16").suffix == ""
    assert format_of("gguf", "f16").suffix == "-gguf-f16"


def test_the_settings_of_task_scores_are_those_of_a_run() -> None:
    accepted = {field.name for field in fields(TaskSettings)} - {"picks"}
    places = {"model", "data"}
    alone = composed("run_dir=results/x", "tasks=[piqa,arc_easy]", name="score")
    assert (
        keys_of(composed()["evaluate"]) - {"picks"} == accepted == set(alone) - places - {"run_dir", "pick", "progress"}
    )
    given = TaskSettings(**{name: alone[name] for name in accepted})
    assert given == TaskSettings(tasks=("piqa", "arc_easy"))
    assert TaskSettings(tasks="piqa").tasks == ("piqa",)


def test_the_dashboard_is_for_this_machine_alone_unless_told_otherwise() -> None:
    config = composed("run_dir=results/x", name="dashboard")
    assert (config["host"], config["token"]) == ("127.0.0.1", None)
    assert dashboard_settings(config, []).port == config["port"]
    for port in (-1, 65536):
        with pytest.raises(UserError, match=rf"port: expected a whole number from 0, .* to 65535, got {port}\."):
            dashboard_settings(config | {"port": port}, [])


@pytest.mark.parametrize("option", CONTROLLERS)
def test_every_controller_composes_and_is_made_of_points(option: str, tmp_path: Path) -> None:
    part = composed("run_dir=results/x", f"controller={option}", name="serve")["controller"]
    offers = [Offer("dense", (), 0.0, {}), Offer("s1", ("recommended",), 0.1, {})]
    controller: Controller = instantiated(part, "controller")(offers)
    model = LossModel({"s1": (0.0,) * FEATURES}, {"s1": 1.0})
    fit = model, Fit({"s1": 1}, {"s1": 1})
    controller.begin(Mock(look=lambda prompt: Look(0.1, 0.5, 0.5, 0.5), fit=lambda: fit, place=tmp_path))
    request = Request((1,) * 5, 1, slo=controller.slo)
    assert controller.choose([request], lambda: Load(Speeds(), (), (), 8, 256)).point in ("dense", "s1")
    assert all(isinstance(figure, int | float) for figure in controller.figures().values())
    assert keys_of(part) == arguments_of(resolve_name(part["_target_"]), "offers")


def test_a_server_is_for_this_machine_alone_and_has_the_limits_of_the_code() -> None:
    config = composed("run_dir=results/x", name="serve")
    assert (config["host"], config["token"]) == ("127.0.0.1", None)
    assert instantiated(config["limits"], "limits") == Limits()


@pytest.mark.parametrize("name", ["export", "score", "timing", "serve", "dashboard"])
def test_a_run_has_to_be_named(name: str) -> None:
    with pytest.raises(UserError, match=r"run_dir: expected a value, as it has no default, got none\. Give it"):
        composed(name=name)


@pytest.mark.parametrize("name", ["config", "export", "score", "timing", "serve", "dashboard"])
def test_hydra_litters_nothing(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg: Any = compose(name, return_hydra_config=True)
    assert cfg.hydra.output_subdir is None
    assert cfg.hydra.run.dir == "."
    assert "file" not in (cfg.hydra.job_logging.get("handlers") or {})
