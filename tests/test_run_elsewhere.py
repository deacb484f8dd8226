"""A search for another device, by the latency table that was measured there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers_commands import Place, archived, good
from helpers_run import ended

from search.run.directory import PAGE_FILE, REPORT_FILE, SUMMARY_FILE
from search.run.front import read_front_csv


@pytest.fixture(scope="module")
def table(llama: Place) -> Path:
    """The table of the undisturbed run, as if a phone had measured it."""
    text = (llama.run("run") / "latency.json").read_text()
    stored = json.loads(text)
    stored["device"]["device"] = "Imaginary Phone 9"
    file = llama.directory / "phone.json"
    file.write_text(json.dumps(stored))
    return file


def test_the_same_is_asked_as_where_the_table_was_measured_and_all_views_say_whose_it_is(
    llama: Place, table: Path
) -> None:
    # what is asked there follows from the answers, of which the latencies are the table's
    done = good(ended(llama.search("elsewhere", f"latency.table={table}")))
    here, elsewhere = llama.run("run"), llama.run("elsewhere")
    asked = [evaluation.candidate.key for evaluation in archived(here)]
    assert [evaluation.candidate.key for evaluation in archived(elsewhere)] == asked
    assert [e.values["latency_ms"] for e in archived(elsewhere)] == [e.values["latency_ms"] for e in archived(here)]
    assert archived(elsewhere, "timed") == []
    front = read_front_csv(elsewhere / "front.csv")
    assert not [column for column in front if "e2e" in column or column == "tokens_per_s"]
    said = "atencies are sums of a table measured on Imaginary Phone 9, and no point is timed end to end"
    assert json.loads((elsewhere / SUMMARY_FILE).read_text())["untimed"] == "Imaginary Phone 9"
    assert json.loads((here / SUMMARY_FILE).read_text())["untimed"] is None
    for text in (done.stdout, (elsewhere / REPORT_FILE).read_text(), (elsewhere / PAGE_FILE).read_text()):
        assert said in text
        assert "end to end on the device below" not in text
    assert said not in (here / REPORT_FILE).read_text() + (here / PAGE_FILE).read_text()
    # the same command goes on, with the table that the run has for its own
    table.unlink()
    again = good(ended(llama.search("elsewhere", f"latency.table={table}")))
    assert said in again.stdout
