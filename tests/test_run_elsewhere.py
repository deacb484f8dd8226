"""A search for another device, by the latency table that was measured there, and its front timed by one command."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from helpers_commands import Place, archived, good
from helpers_run import ended

from search.run.directory import FRONT_FILE, PAGE_FILE, REPORT_FILE, SUMMARY_FILE
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


@pytest.fixture(scope="module")
def searched(llama: Place, table: Path) -> subprocess.CompletedProcess[str]:
    """The search by that table, in the run `elsewhere`."""
    return good(ended(llama.search("elsewhere", f"latency.table={table}")))


def test_the_same_is_asked_as_where_the_table_was_measured_and_all_views_say_whose_it_is(
    llama: Place, searched: subprocess.CompletedProcess[str]
) -> None:
    # what is asked there follows from the answers, of which the latencies are the table's
    done = searched
    here, elsewhere = llama.run("run"), llama.run("elsewhere")
    asked = [evaluation.candidate.key for evaluation in archived(here)]
    assert [evaluation.candidate.key for evaluation in archived(elsewhere)] == asked
    assert [e.values["latency_ms"] for e in archived(elsewhere)] == [e.values["latency_ms"] for e in archived(here)]
    assert archived(elsewhere, "timed") == []
    front = read_front_csv(elsewhere / "front.csv")
    assert not [column for column in front if "e2e" in column or column == "tokens_per_s"]
    said = "atencies are sums of a table measured on Imaginary Phone 9, and no point is timed end to end"
    assert json.loads((elsewhere / SUMMARY_FILE).read_text())["end_to_end"] is None
    assert json.loads((here / SUMMARY_FILE).read_text())["end_to_end"] is not None
    for text in (done.stdout, (elsewhere / REPORT_FILE).read_text(), (elsewhere / PAGE_FILE).read_text()):
        assert said in text
        assert "end to end on the device below" not in text
    assert said not in (here / REPORT_FILE).read_text() + (here / PAGE_FILE).read_text()
    assert "python time_front.py run_dir=" in done.stdout


def test_its_front_is_timed_where_the_files_of_the_run_are_and_the_search_goes_on_with_the_times(
    llama: Place, table: Path, searched: subprocess.CompletedProcess[str]
) -> None:
    untimed = "no point is timed end to end"
    run, phone = llama.copy("elsewhere", "timed later"), llama.run("on the phone")
    phone.mkdir()
    for file in run.iterdir():  # without what the supernet needs
        if file.is_file():
            shutil.copy(file, phone)
    asked = (phone / "archive.jsonl").read_bytes()
    done = good(ended(llama.time(phone.name)))
    front = read_front_csv(phone / FRONT_FILE)
    assert front["latency_e2e_ms"].notna().all()
    assert front["peak_bytes"].notna().all()
    assert {"heldout_ppl", "heldout_long_ppl", "latency_e2e_ms_spread"} <= {*front}
    words = "the latency table, by which the search went, on Imaginary Phone 9, torch"
    for text in (done.stdout, (phone / REPORT_FILE).read_text(), (phone / PAGE_FILE).read_text()):
        assert words in text
        assert untimed not in text
    timed = (phone / "archive.jsonl").read_bytes()
    assert timed.startswith(asked)
    assert timed.count(b'"timed_on"') == len(read_front_csv(phone / "confirmed.csv"))
    good(ended(llama.time(phone.name)))
    assert (phone / "archive.jsonl").read_bytes() == timed
    for file in phone.iterdir():
        shutil.copy(file, run)
    # the same search command goes on, with the table that the run has for its own and with the times from the device
    table.unlink(missing_ok=True)
    again = good(ended(llama.search(run.name, f"latency.table={table}")))
    assert words in again.stdout
    assert untimed not in again.stdout
    assert (run / "archive.jsonl").read_bytes() == timed
    assert read_front_csv(run / FRONT_FILE).equals(front)
