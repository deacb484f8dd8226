"""A session makes each part once and when asked, is the same in another process, and mixes no unlike devices."""

from __future__ import annotations

import json
import os
import pickle
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
from helpers_forked import forked
from helpers_run import save_tiny

from evaluators.base import OPTIMISED
from evaluators.latency.workload import Workload
from evaluators.model_settings import ModelSettings
from evaluators.paths import Paths, Show
from evaluators.session import Session
from evaluators.settings import FidelitySettings, Settings, TextSettings
from evaluators.training.recipes import CorrectiveRefit, Distillation
from search.archive import Archive
from space.candidate import Candidate
from space.errors import UserError
from space.space import SearchSpace
from space.supernet.recipe import Preparation

CUT = Candidate.from_rows([[4, 2, 16], [6, 3, 48], [0, 0, 32], [6, 3, 0]])


def answers(settings: Settings, paths: Paths) -> dict[str, dict[str, float]]:
    """What each fidelity of a session of these answers, by its name."""
    session, values = Session.open(settings, paths), {}
    assert session.fidelities.tuned is not None
    for evaluator in (*session.fidelities.search, session.fidelities.heldout, session.fidelities.tuned):
        (answer,) = evaluator.evaluate([CUT])
        assert answer.status == "ok", answer.error
        values[evaluator.fidelity] = dict(answer.values)
    return values


def answer_into(file: Path, settings: Settings, paths: Paths) -> None:
    """What the other process does."""
    torch.set_num_threads(1)
    os.chdir(file.parent)
    file.write_text(json.dumps(answers(settings, paths)))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny("llama", tmp_path_factory.mktemp("model") / "tiny-llama")


@pytest.fixture
def settings(model: Path) -> Settings:
    return Settings(
        model=ModelSettings(path=str(model), dtype="float32", device="cpu"),
        text=TextSettings(
            str(model / "text.txt"), length=32, calibration_windows=8, search_windows=4, heldout_windows=4
        ),
        supernet=Preparation(),
        space=partial(SearchSpace, mlp_step=16),
        evaluators=FidelitySettings(context=64, batch_size=2, cache_bytes=1 << 20),
        latency=Workload(length=8, threads=1, rounds=1, fit=0, check=0, cache=False),
        correction=CorrectiveRefit(8),
        distillation=Distillation((64,), rank=2),
        training="final",
    )


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    (tmp_path / "run").mkdir()
    return Paths(tmp_path / "run", tmp_path / "cache")


def test_what_is_not_asked_for_is_not_made_and_what_is_is_made_once(settings: Settings, paths: Paths) -> None:
    titles: list[str] = []

    @contextmanager
    def stage(title: str) -> Iterator[Show]:
        titles.append(title)
        yield lambda done, of: None

    session = Session.open(settings, paths, stage)
    session.check()
    assert titles == []
    assert list(paths.run_dir.iterdir()) == []
    assert session.objectives[1].name == "latency_ms"
    assert session.fidelities is session.fidelities
    assert session.supernet is session.supernet
    assert titles == ["calibration and order of units", "latency table"]
    assert {path.name for path in paths.run_dir.iterdir()} == {"supernet", "latency.json"}
    assert [path.name for path in paths.cache.iterdir()] == ["supernets"]
    again = Session.open(settings, paths, stage)
    assert again.table == session.table
    assert again.ladder[-1].fidelity == "search"
    assert len(titles) == 2  # what is on disk is not made again


@pytest.mark.parametrize(
    ("latency", "said"),
    [
        (Workload(length=257), "latency.length=257."),
        (Workload(scenario="decode", length=256), "latency.length=256 and the token after it."),
        (Workload(scenario="serving", length=200, new_tokens=57), "latency.length=200 with latency.new_tokens=57."),
    ],
)
def test_lengths_beyond_the_models_positions_are_refused(
    latency: Workload, said: str, settings: Settings, paths: Paths
) -> None:
    text, evaluators = replace(settings.text, length=300), FidelitySettings(context=512)
    longer = replace(settings, text=text, evaluators=evaluators, latency=latency)
    with pytest.raises(UserError, match=re.escape(f"got data.length=300, evaluators.context=512, {said}")):
        Session.open(longer, paths).check()
    assert Workload(scenario="decode", length=255).context == {"latency.length=255 and the token after it": 256}


def test_another_process_opens_it_from_pickled_settings_and_answers_alike(
    settings: Settings, paths: Paths, tmp_path: Path
) -> None:
    expected = answers(settings, paths)
    assert set(expected) == {"search-8", "search", "heldout", "tuned"}
    for file in (paths.run_dir / "tuned").glob("s*.pt"):
        file.unlink()  # the other process tunes it anew
    process = forked(answer_into, tmp_path / "answers.json", settings, paths)
    process.start()
    process.join(600)
    assert process.exitcode == 0
    assert json.loads((tmp_path / "answers.json").read_text()) == expected


def test_settings_that_are_pickled_bring_nothing_of_hydra_along(settings: Settings) -> None:
    assert b"hydra" not in pickle.dumps(settings)
    assert b"omegaconf" not in pickle.dumps(settings)


def test_a_prepared_run_needs_its_text_for_what_is_trained_alone(settings: Settings, paths: Paths) -> None:
    digest = Session.open(settings, paths).text.digest
    assert Session.open(settings, paths).supernet.spec.layers == 4
    gone = replace(settings, text=replace(settings.text, path=str(paths.run_dir / "gone.txt")))
    untrained = Session.open(replace(gone, correction=None, training="off"), paths)
    model = untrained.finished_model(CUT)
    assert model.num_parameters() < untrained.loaded.model.num_parameters()
    with pytest.raises(UserError, match=r"gone\.txt"):
        Session.open(gone, paths).finished_model(CUT)
    known = replace(settings, text=replace(settings.text, digest=digest))
    assert Session.open(known, paths).text.digest == digest
    other = replace(settings, text=replace(settings.text, digest="another"))
    with pytest.raises(UserError, match=f"text of the run, with the digest another, but .*text.txt has {digest}"):
        _ = Session.open(other, paths).text


def test_a_table_of_another_device_is_refused_with_each_difference(settings: Settings, paths: Paths) -> None:
    assert Session.open(settings, paths).table.device["threads"] == 1
    stored = json.loads(paths.latency.read_text())
    stored["device"] |= {"threads": 64, "device": "Imaginary 9000"}
    paths.latency.write_text(json.dumps(stored))
    for make in (lambda s: s.table, lambda s: s.fidelities, lambda s: s.timed(), lambda s: s.identity()):
        with pytest.raises(UserError) as refused:
            make(Session.open(settings, paths))
        lines = [line.strip() for line in str(refused.value).splitlines()]
        assert "threads: 64 -> 1" in lines
        assert any(line.startswith("device: Imaginary 9000 -> ") for line in lines)
        assert not any(line.startswith(("dtype", "engine", "attention")) for line in lines)  # which are the same
        assert "another run_dir" in lines[-1]
    assert json.loads(paths.latency.read_text()) == stored
    assert Session.open(settings, paths).finished_model(CUT) is not None  # which needs no latencies


def test_a_table_from_elsewhere_is_taken_only_if_it_prices_this_space_of_this_model(
    settings: Settings, paths: Paths, tmp_path: Path
) -> None:
    file = tmp_path / "phone.json"

    def told(table: Path = file, **changes: object) -> Session:
        latency = replace(settings.latency, table=str(table), **changes)  # type: ignore[arg-type]
        return Session.open(replace(settings, latency=latency), Paths(Path(mkdtemp(dir=tmp_path)), paths.cache))

    measured = Session.open(settings, paths).table
    text = paths.latency.read_text().replace(measured.device["device"], "Imaginary Phone 9")
    file.write_text(text)
    session = told()
    assert session.table.device["device"] == "Imaginary Phone 9"
    assert session.table.values(CUT) == measured.values(CUT)
    assert session.timed() is None
    assert session.identity()["timed"]["device"] == "Imaginary Phone 9"
    for changes, words in (
        ({"length": 16}, "Give what it is of: latency.length=8"),
        ({"scenario": "decode"}, "latency.scenario=prefill"),
    ):
        with pytest.raises(UserError, match=words):
            _ = told(**changes).table
    for broken, words in (
        (text.replace('"hidden": 36', '"hidden": 40'), "hidden 40, here 36"),
        (text.replace('"6/3"', '"6/2"'), "lacks attention 6/3"),
        ("{}", "latency.json of a run.*profile_only"),
    ):
        file.write_text(broken)
        session = told()
        with pytest.raises(UserError, match=words):
            _ = session.table
        assert not session.paths.latency.exists()
    with pytest.raises(UserError, match=r"nowhere\.json"):
        _ = told(tmp_path / "nowhere.json").table


@pytest.mark.parametrize("change", [{"threads": 2}, {"engine": "abacus 1"}, {"attention": "eager"}, {"dtype": "int8"}])
def test_each_part_of_the_device_counts(change: dict[str, object], settings: Settings, paths: Paths) -> None:
    _ = Session.open(settings, paths).table
    stored = json.loads(paths.latency.read_text())
    stored["device"] |= change
    paths.latency.write_text(json.dumps(stored))
    (name,) = change
    with pytest.raises(UserError, match=f"{name}: {change[name]} -> "):
        _ = Session.open(settings, paths).table


def test_an_archive_is_of_one_device_dtype_text_and_table(settings: Settings, paths: Paths) -> None:
    session = Session.open(settings, paths)
    identity = session.identity()
    assert OPTIMISED not in identity
    assert identity["timed"] == session.bench.clock.describe()
    assert identity["dtype"] == str(torch.float32)
    with Archive(paths.run_dir / "archive.jsonl", identity):
        pass
    for other, said in (
        ({"device": "Imaginary 9000"}, "device: .* -> 'Imaginary 9000'"),
        ({"timed": identity["timed"] | {"threads": 2}}, r"timed\.threads: 1 -> 2"),
        ({"model": identity["model"] | {"digest": "0"}}, r"model\.digest: .* -> '0'"),
        ({"dtype": "torch.bfloat16"}, "dtype: 'torch.float32' -> 'torch.bfloat16'"),
        ({"latency": "another"}, "latency: .* -> 'another'"),
        ({"fidelities": ["search"]}, r"fidelities: \['search-8', 'search'\] -> \['search'\]"),
    ):
        with pytest.raises(UserError, match=said):
            Archive(paths.run_dir / "archive.jsonl", identity | other)
    renamed = identity | {"model": identity["model"] | {"name": "renamed"}}
    Archive(paths.run_dir / "archive.jsonl", renamed).close()
