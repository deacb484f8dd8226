"""The archive: nothing lost by a kill or a full disk, nothing mixed that must not be."""

from __future__ import annotations

import json
import logging
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evaluators.base import Evaluation
from evaluators.metrics import metric_named
from search.archive import Archive
from space.candidate import Candidate, LayerShape
from space.errors import UserError

SETTINGS = {"model": {"digest": "abc", "dtype": "float32"}, "tokens": 4096, "objectives": ("kl", "latency_ms")}
KL = metric_named("kl")
LATENCY = metric_named("latency_ms")


def candidate(mlp_channels: int) -> Candidate:
    return Candidate((LayerShape(2, 1, mlp_channels), LayerShape(0, 0, 8)))


def evaluation(mlp_channels: int, *, fidelity: str = "search", **values: float) -> Evaluation:
    values = values or {"kl": 1 / (1 + mlp_channels), "latency_ms": 0.1 * mlp_channels}
    return Evaluation(candidate(mlp_channels), fidelity, values=values, seconds=0.25, tokens=4096)


def failure(mlp_channels: int) -> Evaluation:
    return Evaluation(candidate(mlp_channels), "search", status="failed", error="RuntimeError: out of memory")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "archive.jsonl"
    with Archive(path, SETTINGS) as archive:
        for e in (evaluation(1), failure(2), evaluation(3), evaluation(1, fidelity="heldout")):
            archive.add(e)
    return path


def test_everything_comes_back_equal_and_in_order(path):
    with Archive(path, SETTINGS) as archive:
        expected = [evaluation(1), failure(2), evaluation(3), evaluation(1, fidelity="heldout")]
        assert archive.evaluations() == expected
        assert archive.evaluations("heldout") == expected[3:]
        assert archive.get(candidate(3).key, "search") == evaluation(3)
        assert archive.get(candidate(3).key, "heldout") is None
        assert len(archive) == 4


def test_an_evaluation_is_made_once(path):
    with Archive(path, SETTINGS) as archive, pytest.raises(AssertionError, match="already"):
        archive.add(evaluation(1))


def test_one_made_after_a_search_takes_the_generation_of_a_search_that_goes_on(path):
    later = replace(evaluation(1), generation=4)
    assert "generation" not in evaluation(1).to_json()
    with Archive(path, SETTINGS) as archive:
        archive.add(later)
        expected = [failure(2), evaluation(3), evaluation(1, fidelity="heldout"), later]
        assert archive.evaluations() == expected
        for again in (later, replace(later, generation=5), replace(evaluation(3, kl=9.0), generation=4)):
            with pytest.raises(AssertionError, match="already"):
                archive.add(again)
    with Archive(path, SETTINGS) as archive:
        assert archive.evaluations() == expected
        assert archive.get(candidate(1).key, "search") == later


def test_the_front_of_nothing_is_empty(path):
    with Archive(path, SETTINGS) as archive:
        assert archive.front((KL, LATENCY), "timed") == []


def test_front_holds_what_succeeded_and_is_not_dominated(path):
    with Archive(path, SETTINGS) as archive:
        worse, equal = evaluation(4, kl=0.5, latency_ms=0.2), evaluation(5, **evaluation(3).values)
        archive.add(worse)
        archive.add(equal)
        assert archive.front((KL, LATENCY), "search") == [evaluation(1), evaluation(3)]


@pytest.mark.parametrize("left", [1, 40, None])
def test_a_last_line_without_its_end_is_cut_off_and_evaluated_again(path, caplog, left):
    whole = path.read_bytes()
    with path.open("ab") as file:
        file.write(json.dumps(evaluation(9).to_json()).encode()[:left])
    with caplog.at_level(logging.WARNING), Archive(path, SETTINGS) as archive:
        assert len(archive) == 4
        assert "line 6" in caplog.text
        assert path.read_bytes() == whole
        archive.add(evaluation(9))
    with Archive(path, SETTINGS) as archive:
        assert archive.evaluations()[-1] == evaluation(9)


def test_a_header_that_was_never_finished_is_written_again(tmp_path):
    path = tmp_path / "archive.jsonl"
    path.write_bytes(b'{"format": 1, "sett')
    with Archive(path, SETTINGS) as archive:
        archive.add(evaluation(1))
    with Archive(path, SETTINGS) as archive:
        assert archive.evaluations() == [evaluation(1)]


def test_a_last_line_of_zeros_is_cut_off(path):
    with path.open("ab") as file:
        file.write(b"\0" * 100 + b"\n")
    with Archive(path, SETTINGS) as archive:
        assert len(archive) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line[:30],
        lambda line: "",
        lambda line: "[1, 2]",
        lambda line: line.replace('"status"', '"state"'),
        lambda line: line.replace("[2, 1, 2]", "[2, 1, 4]"),  # no longer the candidate that the key names
        lambda line: line.replace("[2, 1, 2]", "[2, 1]"),
        lambda line: line.replace('"failed"', '"ok"'),
    ],
)
def test_a_corrupt_line_in_the_middle_is_named_and_the_file_left_alone(path, damage):
    lines = path.read_text().splitlines()
    lines[2] = damage(lines[2])
    path.write_text("\n".join(lines) + "\n")
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"archive\.jsonl, line 3: .*corrupt"):
        Archive(path, SETTINGS)
    assert path.read_bytes() == before


def test_a_line_twice_is_corrupt(path):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1], lines[2]]) + "\n")
    with pytest.raises(UserError, match=r"line 6: .*second evaluation"):
        Archive(path, SETTINGS)


def test_a_corrupt_header_is_named(path):
    path.write_text("garbage\n" + path.read_text())
    with pytest.raises(UserError, match="line 1: expected a header"):
        Archive(path, SETTINGS)


def test_numbers_of_other_settings_are_refused_with_the_difference(path):
    before = path.read_bytes()
    other = {"model": {"digest": "abd", "dtype": "float32"}, "objectives": ["kl", "latency_ms"], "device": "cuda"}
    with pytest.raises(UserError) as caught:
        Archive(path, other)
    lines = [line.strip() for line in str(caught.value).splitlines()[1:-1]]
    assert lines == ["model.digest: 'abc' -> 'abd'", "tokens: 4096 -> (absent)", "device: (absent) -> 'cuda'"]
    assert "new run_dir" in str(caught.value)
    assert path.read_bytes() == before


def test_an_archive_of_another_format_is_refused(path):
    path.write_text(path.read_text().replace('"format": 4', '"format": 3'))
    with pytest.raises(UserError, match="expected an archive of format 4, got format 3"):
        Archive(path, SETTINGS)


def test_a_second_process_is_refused_until_the_first_one_closes(path):
    script = (
        "import sys; from search.archive import Archive; import json; Archive(sys.argv[1], json.loads(sys.argv[2]))"
    )
    command = [sys.executable, "-c", script, str(path), json.dumps(SETTINGS)]
    root = Path(__file__).parents[1]
    with Archive(path, SETTINGS):
        held = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert held.returncode != 0
    assert "another one has it open" in held.stderr
    assert subprocess.run(command, cwd=root, capture_output=True).returncode == 0


def test_a_full_disk_loses_nothing_and_the_same_archive_goes_on(path):
    size = path.stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Archive(path, SETTINGS) as archive:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, limits[1]))  # the write fails after its first 20 bytes
        try:
            with pytest.raises(UserError, match=r"Nothing is lost.*run again with the same run_dir"):
                archive.add(evaluation(9))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert path.stat().st_size == size
        assert archive.get(candidate(9).key, "search") is None
        archive.add(evaluation(9))
    with Archive(path, SETTINGS) as archive:
        assert len(archive) == 5


def test_a_path_that_cannot_be_opened_is_a_clear_error(tmp_path):
    with pytest.raises(UserError, match="choose a new run_dir"):
        Archive(tmp_path, SETTINGS)
