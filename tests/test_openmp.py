"""Threads that wait do not take what others could use, in commands; engines run as they do where they serve."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from space.openmp import environment, wait_shortly

SPINS, POLICY = "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (SPINS, POLICY):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


def test_threads_sleep_soon_and_engines_do_not_know() -> None:
    before = dict(os.environ)
    wait_shortly()
    assert int(os.environ[SPINS]) < 100_000
    assert environment() == before


@pytest.mark.parametrize(("name", "value"), [(SPINS, "7"), (POLICY, "passive")])
def test_what_the_environment_says_stays(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    before = dict(os.environ)
    wait_shortly()
    assert dict(os.environ) == before == environment()


def test_a_command_says_so_before_torch_is_there() -> None:
    code = (
        "import os, sys, run_search\n"
        "assert 'torch' not in sys.modules\n"
        "sys.argv = ['run_search.py', '--cfg', 'job']\n"
        "run_search.main()\n"
        f"print(os.environ['{SPINS}'], 'torch' in sys.modules)\n"
    )
    root = Path(__file__).parents[1]
    told = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1].endswith(" False")
