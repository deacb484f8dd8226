"""A run's settings: what is refused of them by name, and what a run stores and opens again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers_space import make_spec

from conf.compose import composed
from conf.sessions import run_session
from conf.settings import instantiated, session_settings, stored_config
from entries.pick_settings import export_settings
from entries.settings import run_settings
from evaluators.model_settings import ModelSettings
from evaluators.settings import Settings
from search.run.directory import FREE_SETTINGS, open_run_directory
from space.errors import UserError

CONF = Path(__file__).parents[1] / "conf"
FEWER = ("space.vocabulary=[0.85]", "objectives=[bpb,latency_ms]")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("distillation.tokens=0", r"distillation\.tokens: expected at least 1"),
        ("search.distillation=on", r"search\.distillation: expected one of off, final, loop, got 'on'"),
        ("data.search_windows=0", r"data\.search_windows: expected at least 1, got 0"),
        ("evaluators.batch_size=0", r"evaluators\.batch_size: expected at least 1, got 0"),
        ("latency.engine=abacus", r"latency\.engine: expected torch, llamacpp or vllm"),
        ("evaluate.picks=-1", r"evaluate\.picks: expected at least 0"),
        ("samples.tokens=0", "samples: expected prompts of some text"),
        ("data.long=1", r"data\.long: expected at least 2 tokens, or null"),
    ],
)
def test_a_value_that_is_refused_is_told_in_the_words_of_who_refuses_it(override: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        session_settings(composed(override))


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["objectives=[kl,speed]"], r"objectives: expected two or three of .*, got kl, speed"),
        (["objectives=[acc,latency_ms]"], r"objectives=\[acc, \.\.\.\]: expected tasks to measure it on"),
        (["objectives=[params,latency_ms]"], "search=surrogate: expected at least one objective that is measured on"),
        (["constraints.latency_ms=-1"], r"constraints\.latency_ms: expected an upper bound above 0, got -1"),
        (["model.path=/no/where"], "Expected model.path to be a directory"),
        (["data.path=/no/where.txt"], "Expected data.path to be a file or directory"),
        (["constraints.kv_bytes=much"], r"constraints\.kv_bytes: expected a number"),
        (["constraints.params={min:0.8,max:0.3}"], r"constraints\.params: expected min at most max"),
        (["constraints.decode_ms=0.5"], "expected bounds on params, .*, got one on decode_ms"),
        (["search=nsga2", "search.distillation=loop"], "search.distillation=loop: expected search=surrogate"),
        (["search.algorithm.promoted=3"], "search=surrogate: expected starts of at least 0, promoted above 0"),
        (["search.algorithm.predictor=oracle"], "predictor: expected auto or one of"),
        (["search=evolution", "search.algorithm.axis=beauty"], "expected an axis among .*, got beauty"),
        (["search=dp", "search.algorithm.axis=beauty"], "expected an axis among .*, got beauty"),
        (["search.ask=0"], r"search\.ask: expected at least 1 candidate, got 0"),
        (["evaluators.fidelities=[0.5,0.25]"], r"evaluators\.fidelities: expected rising fractions"),
        (["budget.minutes=null"], "Budget: expected minutes, evaluations or tokens, got none"),
        (["evaluate.include_path=x"], "got include_path=x but no tasks"),
        (["evaluate.include_path=x", "evaluate.tasks=[y]"], "expected include_path to be a directory, there is none"),
        (["space.deploy=moon"], r"space\.deploy: expected one of any, uniform, .*, got 'moon'"),
        (["space.min_decoder_params=0.9", "space.max_decoder_params=0.1"], r"min_decoder_params: expected at most max"),
        (["space=depth", "space.mlp_widths=true"], r"space\.whole_layers: expected it alone, got it with mlp_widths"),
        (["tracker=neptune"], "tracker: expected none, tensorboard, mlflow, wandb, got neptune"),
        (["compare=[nowhere]"], "nowhere"),
        (["model.dtype=int3"], "Expected dtype to be one of auto, float32, bfloat16, float16"),
        (["seed=-1"], "seed: expected at least 0, got -1"),
        (["seed=abc"], r"seed: expected a whole number, got 'abc'"),
        (["budget.tokens=abc"], r"budget\.tokens: expected a whole number or null, got 'abc'"),
        (["data.search_windows=1.5"], r"data\.search_windows: expected a whole number or null, got 1\.5"),
        (["samples.prompts=[1]"], r"samples\.prompts: expected a list, each text, got \[1\]"),
        (["space.vocabulary=[0.85]"], r"objectives: expected bpb, bits a byte, .*, got kl, latency_ms"),
        (["objectives=[bpb,latency_ms]"], "objectives: expected two or three of .*There is no bpb"),
        ([*FEWER, "latency.engine=llamacpp"], r"latency\.engine=llamacpp: expected torch where space\.vocabulary"),
        ([*FEWER, "evaluate.tasks=[piqa]"], r"evaluate\.tasks: expected none where space\.vocabulary .*, got piqa"),
        ([*FEWER, "space.vocabulary=[-1]"], r"space\.vocabulary: expected a list of parts"),
        (["space.merge_groups=maybe"], r"space\.merge_groups: expected true or false, got 'maybe'"),
    ],
)
def test_a_run_is_refused_by_its_settings_alone(overrides: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run_settings(composed(*overrides), [])


@pytest.mark.parametrize("search", ["nsga2", "surrogate"])
def test_a_run_may_choose_vocabularies(search: str) -> None:
    given = composed(f"search={search}", *FEWER, "constraints.params=0.8")
    settings = run_settings(given, ["seed=0"]).session
    assert [metric.name for metric in settings.metrics] == ["bpb", "latency_ms"]
    assert settings.space(make_spec()).vocabulary == (88,)


@pytest.mark.parametrize("search", sorted(path.stem for path in (CONF / "search").glob("*.yaml")))
def test_a_run_that_is_fine_is_not_refused(search: str) -> None:
    settings = run_settings(composed(f"search={search}", "budget.tokens=2e6", "constraints.params=0.5"), ["seed=0"])
    assert settings.budget.tokens == 2_000_000
    assert isinstance(settings.budget.tokens, int)
    assert (settings.run_dir, settings.arguments) == (None, ["seed=0"])


def test_settings_of_another_version_are_refused() -> None:
    config = composed()
    for changed in (
        config | {"correction": {"_target_": config["correction"]["_target_"], "windows": 4, "batch": 8}},
        {key: value for key, value in config.items() if key != "evaluate"},
        config | {"data": {"path": None}},
    ):
        with pytest.raises(UserError, match="settings of this version"):
            session_settings(changed)


def test_a_run_is_opened_with_what_it_has_stored(tmp_path: Path) -> None:
    config = composed("seed=3", "constraints.kv_bytes=0.5", "correction=none", "space=depth", "distillation=own")
    open_run_directory(tmp_path, config)
    assert stored_config(tmp_path) == config
    session = run_session(tmp_path)
    assert session.paths.run_dir == tmp_path
    assert session.settings.correction is None
    assert session.settings.distillation == replace(instantiated(composed("distillation=own")["distillation"]), seed=3)
    with pytest.raises(UserError, match=f"Expected {tmp_path / 'none'} to hold a run"):
        run_session(tmp_path / "none")


def test_paths_are_taken_from_the_root_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    config = composed("model.path=./mine", "data.path=[a.txt,{path:b/c,name:d}]", "compare=[runs/a]")
    assert config["model"]["path"] == str(tmp_path / "mine")
    assert config["data"]["path"] == [str(tmp_path / "a.txt"), {"path": "b/c", "name": "d"}]
    assert config["compare"] == [str(tmp_path / "runs" / "a")]
    assert (composed()["model"]["path"], composed("model.path=b/c")["model"]["path"]) == (None, "b/c")


def test_a_run_goes_on_about_the_model_and_text_that_it_began_with(tmp_path: Path) -> None:
    stored = composed("model.path=b/c", "model.revision=c0ffee", "model.digest=m", "data.digest=t")
    open_run_directory(tmp_path, stored)
    here, text = tmp_path / "here", tmp_path / "here.txt"
    here.mkdir()
    text.touch()
    elsewhere = f"model.path={here}", f"data.path={text}"

    def session(*overrides: str) -> Settings:
        return run_settings(composed(f"run_dir={tmp_path}", *overrides), []).session

    same, moved = session("model.path=b/c"), session(*elsewhere)
    assert same.model == ModelSettings("b/c", "c0ffee", "m")  # also when the hub has a newer commit
    assert moved.model == ModelSettings(str(here), None, "m")
    assert (moved.text.path, moved.text.digest) == (str(text), "t")
    config = run_settings(composed(f"run_dir={tmp_path}", *elsewhere), []).stored
    open_run_directory(tmp_path, config, free=FREE_SETTINGS)
    with pytest.raises(UserError, match=r"data\.field: 'text' -> 'body'\n  model\.digest: 'm' -> 'x'"):
        open_run_directory(
            tmp_path,
            run_settings(composed(f"run_dir={tmp_path}", "model.digest=x", "data.field=body"), []).stored,
            free=FREE_SETTINGS,
        )


@pytest.mark.parametrize("given", ["none", "null"])
def test_a_part_is_switched_off_by_its_own_settings(given: str) -> None:
    config = composed("run_dir=results/x", f"polish={given}", name="export")
    with pytest.raises(
        UserError, match=r"polish: expected its settings one by one, polish\.NAME=VALUE, got '(none|null)'"
    ):
        export_settings(config, [])
