"""What points lose nested and alone: one design's shared weights are its own, and a run's are those of its front."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest
from helpers_commands import Place, good
from helpers_run import ended, save_tiny

from benchmarks.nested import NESTED, REFIT, alone, healer_of, main, scores, verdicts
from evaluators.latency.workload import Workload
from evaluators.model_settings import ModelSettings
from evaluators.paths import Paths
from evaluators.session import Session
from evaluators.settings import FidelitySettings, Settings, TextSettings
from evaluators.training.recipes import Healing
from search.run.directory import FRONT_FILE
from search.run.front import is_dense, read_front_csv
from space.candidate import Candidate
from space.space import SearchSpace
from space.supernet.recipe import Preparation

CUT = Candidate.from_rows([[4, 2, 16], [6, 3, 48], [0, 0, 32], [6, 3, 0]])
OTHER = Candidate.from_rows([[6, 3, 48], [2, 1, 32], [6, 3, 48], [4, 2, 16]])
TOKENS = 96 * 32


@pytest.fixture
def session(tmp_path: Path) -> Session:
    """Of a run in which nothing is healed yet."""
    model = save_tiny("llama", tmp_path / "tiny-llama")
    settings = Settings(
        model=ModelSettings(path=str(model), dtype="float32", device="cpu"),
        text=TextSettings(
            str(model / "text.txt"), length=32, calibration_windows=8, search_windows=4, heldout_windows=4
        ),
        supernet=Preparation(),
        space=partial(SearchSpace, mlp_step=16),
        evaluators=FidelitySettings(context=64, batch_size=2, cache_bytes=1 << 20),
        latency=Workload(length=8, threads=1, rounds=1, fit=0, check=0, cache=False),
        correction=None,
        distillation=Healing(TOKENS, learning_rate=5e-3),
        training="final",
    )
    (tmp_path / "run").mkdir()
    return Session.open(settings, Paths(tmp_path / "run", tmp_path / "cache"))


def test_a_set_of_one_design_is_healed_as_that_design_alone(session: Session) -> None:
    healer_of(session).heal([CUT])
    kept = {file.name: file.read_bytes() for file in session.paths.healed.iterdir()}
    values = {(design, way): quality for design, way, quality in scores(session, [CUT, OTHER], [TOKENS, TOKENS // 2])}
    assert {way for _, way in values} == {REFIT, NESTED, alone(TOKENS), alone(TOKENS // 2)}
    assert values[CUT, alone(TOKENS)] == values[CUT, NESTED]
    assert values[CUT, NESTED]["heldout_kl"] < 0.98 * values[CUT, REFIT]["heldout_kl"]
    assert values[CUT, alone(TOKENS // 2)] != values[CUT, NESTED]
    assert (
        values[OTHER, alone(TOKENS)]["heldout_kl"] < values[OTHER, NESTED]["heldout_kl"]
    )  # which was taught the other
    assert kept == {file.name: file.read_bytes() for file in session.paths.healed.iterdir()}


def test_of_a_run_that_has_ended_nested_is_what_its_front_says(
    llama: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run, file = llama.run("nested"), tmp_path / "numbers.json"
    good(ended(llama.search(run.name, "distillation=default", "distillation.tokens=384")))
    monkeypatch.setattr(sys, "argv", ["nested", "--run-dir", str(run), "--out", str(file)])
    main()
    numbers = json.loads(file.read_text())
    front = read_front_csv(run / FRONT_FILE).loc[lambda rows: ~is_dense(rows)].set_index("key")
    assert len(front)
    assert set(numbers) == set(front.index)
    for key, ways in numbers.items():
        assert len(ways) == 4
        for name in ("heldout_kl", "heldout_ppl"):
            assert ways[NESTED][name] == pytest.approx(front.loc[key, name], rel=1e-4)
            assert ways[NESTED][name] != ways[REFIT][name]
    assert f"nested: 384 tokens through {len(designs_of(run))} designs, all shared weights" in capsys.readouterr().out


def designs_of(run: Path) -> list[object]:
    return [*json.loads((run / "healed" / "designs.json").read_text())["designs"]]


def test_a_run_that_has_healed_nothing_is_refused(llama: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["nested", "--run-dir", str(llama.run("run"))])
    with pytest.raises(SystemExit, match="distillation=default"):
        main()


def test_trainings_are_set_beside_the_shared_one() -> None:
    means = {REFIT: 1.0, NESTED: 0.8, alone(10): 0.9, alone(1000): 0.6}
    words = verdicts(means)
    assert [each.split(" beside nested")[0] for each in words] == [
        "alone, 10 tokens: +0.1000",
        "alone, 1,000 tokens: -0.2000",
    ]
    assert "takes away 10.0% of what points lose with their refit, nested 20.0%" in words[0]
