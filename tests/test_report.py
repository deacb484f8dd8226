"""The front's table: its columns and order, csv round trip, points with a name, the terminal."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from evaluators.metrics import metric_named
from search.run.front import (
    Point,
    dense_row,
    front_table,
    points_table,
    read_front_csv,
    write_front_csv,
)
from search.run.recommended import Advice, landmarks
from search.views.watch.front_table import terminal_table
from space.candidate import Candidate, LayerShape
from space.errors import UserError

KL = metric_named("kl")
LATENCY = metric_named("latency_ms")
OBJECTIVES = (KL, LATENCY)
DENSE: Point = (
    Candidate((LayerShape(4, 2, 256),) * 3),
    {
        "kl": 0.0,
        "heldout_kl": 0.0,
        "heldout_ppl": 10.0,
        "latency_ms": 9.0,
        "latency_e2e_ms": 9.5,
        "params": 2000.0,
        "decoder_params": 1000.0,
        "macs_per_token": 2e4,
        "kv_bytes": 4096.0,
    },
)


def point(index: int, **values: float) -> Point:
    """A pruned point; different indices are different architectures."""
    shape = LayerShape(2, 1, 256 - index)
    return Candidate((shape, LayerShape(0, 0, 0), shape)), {**DENSE[1], "decoder_params": 500.0 - index, **values}


def test_columns_stand_in_the_order_of_the_metrics_and_unknown_ones_between_qualities_and_costs() -> None:
    extra = {"nll": 3.0, "zeta": 1.0, "accuracy": 0.5}
    frame = front_table([(candidate, {**values, **extra}) for candidate, values in (DENSE, point(1))], DENSE)
    assert list(frame.columns) == [
        *("key", "kl", "nll", "heldout_kl", "heldout_ppl", "accuracy", "zeta", "latency_ms", "latency_e2e_ms"),
        *("params", "decoder_params", "decoder_params_removed", "macs_per_token", "kv_bytes"),
        "candidate",
    ]
    assert frame["decoder_params_removed"].tolist() == [0.0, pytest.approx(0.501)]
    assert frame["candidate"].tolist() == [DENSE[0], point(1)[0]]


def test_dense_comes_first_then_ever_faster_points() -> None:
    frame = front_table([point(i, latency_ms=ms, latency_e2e_ms=ms) for i, ms in enumerate((3.0, 7.0, 12.0))], DENSE)
    assert frame["latency_ms"].tolist() == [9.0, 12.0, 7.0, 3.0]
    assert dense_row(frame)["key"] == DENSE[0].key


def test_the_dense_model_is_a_row_once() -> None:
    for points in ([], [DENSE], [point(1)], [DENSE, point(1)]):
        assert front_table(points, DENSE)["key"].tolist().count(DENSE[0].key) == 1
    assert DENSE[0].key not in points_table([point(1)], DENSE)["key"].tolist()


def test_a_candidate_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="distinct candidates"):
        points_table([point(1), point(1)], DENSE)


def test_csv_reads_back_as_it_was_written(tmp_path: Path) -> None:
    frame = front_table([point(1, kl=0.1 + 0.2, latency_ms=1 / 3), point(2, heldout_ppl=math.nan)], DENSE)
    write_front_csv(tmp_path / "front.csv", frame)
    pd.testing.assert_frame_equal(read_front_csv(tmp_path / "front.csv"), frame, check_exact=True)
    assert (tmp_path / "front.csv").read_text().startswith("key,kl,")


def test_a_missing_csv_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no such file\. Give the run directory of a search that has ended"):
        read_front_csv(tmp_path / "front.csv")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(UserError, match=rf"no such file\. That is no run directory.*: {tmp_path / 'run'}\."):
        read_front_csv(tmp_path / "front.csv")
    with pytest.raises(UserError, match=r"has not ended: run run_search\.py on it again"):
        read_front_csv(tmp_path / "run" / "front.csv")


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (",candidate", ",design", "expected the columns candidate"),
        ("[2, 1, 255]", "[2, 1, 255", "candidates as JSON"),
        ("[2, 1, 255]", "[2, 1, -255]", "candidates as JSON.*counts of at least 0"),
        ("[2, 1, 255]", "[2, 255]", "candidates as JSON.*layer 0: expected"),
        ("[2, 1, 255]", '[2, 1, ""255""]', "candidates as JSON.*layer 0: expected"),
        ('{""layers"": [[2', "[[2", "candidates as JSON"),
        ('{""layers""', '{""rows""', "candidates as JSON.*a mapping with layers"),
        ("[2, 1, 255]", "[2, 1, 254]", f"the candidates of their keys, not so at {point(1)[0].key}"),
        ("[2, 1, 255], ", "", f"the candidates of their keys, not so at {point(1)[0].key}"),
        ("0.25", "much", "expected numbers in the columns kl"),
        (DENSE[0].key, "", "a key of its own"),
        (DENSE[0].key, point(1)[0].key, "a key of its own"),
    ],
)
def test_a_garbled_csv_says_what_is_wrong(tmp_path: Path, before: str, after: str, message: str) -> None:
    path = tmp_path / "front.csv"
    write_front_csv(path, front_table([point(1, kl=0.25)], DENSE))
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))
    with pytest.raises(UserError, match=message):
        read_front_csv(path)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00garbage", b"key\n", b'a,b\n"1,2\n3'])
def test_bytes_that_are_no_table_are_an_error_that_names_the_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "front.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"front\.csv.*run_search\.py"):
        read_front_csv(tmp_path / "front.csv")


def test_a_csv_without_the_dense_model_is_refused(tmp_path: Path) -> None:
    write_front_csv(tmp_path / "front.csv", points_table([point(1)], DENSE))
    with pytest.raises(UserError, match="dense model's row"):
        read_front_csv(tmp_path / "front.csv")


def test_landmarks_are_never_the_dense_model() -> None:
    points = [
        point(1, latency_e2e_ms=8.0, params=1900.0, heldout_kl=0.1),
        point(2, latency_e2e_ms=5.0, params=1500.0, heldout_kl=0.2),
        point(3, latency_e2e_ms=2.0, params=1600.0, heldout_kl=3.0),
    ]
    assert marked(front_table(points, DENSE)) == {
        "recommended": points[2][0].key,
        "smallest": points[1][0].key,
        "fastest": points[2][0].key,
    }
    assert marked(front_table([], DENSE)) == {}


def marked(frame: pd.DataFrame) -> dict[str, str]:
    return landmarks(frame, Advice.of(frame, OBJECTIVES, 0.15))


def render(frame: pd.DataFrame) -> list[str]:
    """The terminal table's lines at 120 columns."""
    console = Console(width=120, file=io.StringIO(), force_terminal=False)
    console.print(terminal_table(frame, OBJECTIVES, marked(frame), title="[bold]Front[/bold]"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_the_terminal_table_fits_and_truncates_nothing() -> None:
    values = {"latency_ms": 12345.67, "latency_e2e_ms": 12345.67, "params": 70e9, "kl": 12.3456, "heldout_ppl": 54321.0}
    lines = render(front_table([point(1, **values)], (DENSE[0], {**DENSE[1], "params": 71e9, "latency_ms": 99999.5})))
    assert max(map(len, lines)) <= 120
    text = "\n".join(lines)
    assert "…" not in text
    assert "[bold]Front[/bold]" in text, "a title is text, not markup"
    for expected in (DENSE[0].key, point(1)[0].key, "70.0G", "12345.67", "54321.00", "5432.100×", "50.1%"):
        assert expected in text
    assert "smallest, fastest" in text


def test_the_terminal_table_shows_what_was_not_measured_as_a_dash() -> None:
    measured_only = {name: DENSE[1][name] for name in ("kl", "latency_ms", "decoder_params")}
    lines = render(front_table([], (DENSE[0], measured_only)))
    row = next(line for line in lines if DENSE[0].key in line)
    assert row.split() == [DENSE[0].key, "9.00", "1.00×", "–", "0.0%", "0.0000", "–", "–", "dense"]


def test_counts_are_whole_numbers_in_the_csv(tmp_path: Path) -> None:
    write_front_csv(tmp_path / "front.csv", front_table([point(1)], DENSE))
    frame = pd.read_csv(tmp_path / "front.csv")
    assert all(pd.api.types.is_integer_dtype(frame[name]) for name in ("params", "macs_per_token", "kv_bytes"))
