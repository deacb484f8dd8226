"""A search of a model that its device does not hold: the same questions and answers, the same front, and an export."""

from __future__ import annotations

import pytest
from helpers_commands import Place, archived, good
from helpers_run import ended

from search.run.directory import CONFIRMED_FILE
from search.run.front import read_front_csv

LIMIT = "model.device_bytes=260_000"  # of weights of 250,000
HEALED = (
    *("distillation=default", "search.distillation=loop", "distillation.tokens=320", "correction=none"),
    *("budget.tokens=6_000", "data.length=16", "data.search_windows=2", "data.heldout_windows=4"),
    *("evaluators.batch_size=1", "supernet.batch_size=1", "model.dtype=float32"),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("deep"), "llama", num_hidden_layers=6)


def test_answers_and_front_are_those_of_a_device_that_holds_the_model(place: Place) -> None:
    table = f"latency.table={place.run('holds') / 'latency.json'}"  # no two timings of which they could differ
    done = [good(ended(place.search("holds", *HEALED))), good(ended(place.search("passes", *HEALED, LIMIT, table)))]
    assert ["its layers wait on the host" in out.stdout for out in done] == [False, True]
    for fidelity in ("search", "healed", "heldout"):
        holds, passes = (archived(place.run(name), fidelity) for name in ("holds", "passes"))
        assert holds
        assert [answer.candidate.key for answer in passes] == [answer.candidate.key for answer in holds]
        for expected, got in zip(holds, passes, strict=True):
            assert got.values == pytest.approx(expected.values, rel=1e-4)
    fronts = [set(read_front_csv(place.run(name) / CONFIRMED_FILE)["key"]) for name in ("holds", "passes")]
    assert fronts[0] == fronts[1]
    exported = good(ended(place.export("passes", "pick=smallest", "polish.minutes=0.02")))
    assert "reloaded in a fresh process" in exported.stdout


def test_what_needs_a_whole_model_or_more_room_is_refused_before_anything_is_written(place: Place) -> None:
    own = ended(place.search("refused", *HEALED, LIMIT, "distillation=own", "distillation.tokens=[96]"))
    assert own.returncode == 1
    assert "distillation=own: expected a model that fits on cpu" in own.stderr
    small = ended(place.search("refused", *HEALED, "model.device_bytes=9_000"))
    assert small.returncode == 1
    assert "model.device_bytes: expected at least" in small.stderr
    assert "the layer at work" in small.stderr
    assert not (place.run("refused") / "config.yaml").exists()
