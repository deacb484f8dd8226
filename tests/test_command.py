"""Arguments that Hydra refuses are told in one line each, and the jobs of a sweep are each for themselves."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from helpers_run import ended, start
from hydra.errors import HydraException

from conf.compose import composed, refusal, require_changes
from search.run.commands import override
from space.errors import UserError


def told(*arguments: str, name: str = "config") -> str:
    with pytest.raises(HydraException) as caught:
        composed(*arguments, name=name)
    return str(refusal(caught.value, arguments, name))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["sede=1"], ["sede: there is no such setting", "Did you mean seed"]),
        (["data.lenght=8"], ["data.lenght", "Did you mean data.length or"]),
        (["tokens=8"], ["Did you mean", "budget.tokens"]),
        (["serch=nsga2"], ["serch", "Did you mean search"]),
        (["search=nsga2", "search.algorithm.populatoin=8"], ["Did you mean search.algorithm.population"]),
        (["search=luck"], ["search: expected one of dp, evolution, greedy, ", "got luck"]),
        (["search=surogate"], ["Did you mean surrogate?"]),
        (["seed=1,2"], ["seed: expected one value, got several, 1,2", "'seed=[1,2]'", "\"seed='1,2'\"", "--multirun"]),
        (["seed"], ["seed: expected an argument such as seed=1"]),
    ],
)
def test_arguments_that_hydra_refuses_are_told_in_one_line_with_what_is_near(
    arguments: list[str], said: list[str]
) -> None:
    message = told(*arguments)
    assert [words for words in said if words not in message] == []
    assert "\n" not in message
    assert not any(words in message for words in ("full_key", "HYDRA_FULL_ERROR", "Lexer", "hydra.cc"))


@pytest.mark.parametrize("value", ["/tmp/é.txt", "a=b.txt", "a#b", "[1] a.txt", "a(1).txt", "it's $HOME", "a, b"])
def test_a_value_that_hydra_cannot_read_is_told_as_it_is_to_be_written(value: str) -> None:
    (argument,) = shlex.split(override("run_dir", value))
    assert composed(argument)["run_dir"] == value
    assert override("run_dir", value) in told(f"run_dir={value}")


@pytest.mark.parametrize("argument", ["+foo=1", "++seed=1", "~budget", "+budget.foo=1"])
def test_settings_are_changed_not_added_or_taken_away(argument: str) -> None:
    with pytest.raises(UserError, match="settings are changed, not added or taken away"):
        require_changes(["seed=1", argument])
    require_changes(["--multirun", "seed=1", "pick=params<=0.5"])


def test_a_reference_that_leads_nowhere_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"references can be resolved, got: .*nothing"):
        composed("name=${nothing}")


def test_refused_jobs_of_a_sweep_are_told_one_by_one_and_the_sweep_fails(tmp_path: Path, session_place: Path) -> None:
    arguments = "--multirun", "search.ask=0,-1", "seed=5"
    done = ended(start("run_search.py", *arguments, cwd=tmp_path, cache=session_place / "cache"))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: job 0 (search.ask=0 seed=5): search.ask: expected at least 1 candidate, got 0.",
        "error: job 1 (search.ask=-1 seed=5): search.ask: expected at least 1 candidate, got -1.",
        "error: refused 2 of the sweep's 2 jobs (0, 1), as said above",
    ]


@pytest.mark.parametrize("arguments", [["sede=1"], ["seed=-1"], ["+seed=1"], ["progress=loud"], ["name=${nothing}"]])
def test_a_mistake_is_one_line_on_standard_error(tmp_path: Path, session_place: Path, arguments: list[str]) -> None:
    done = ended(start("run_search.py", *arguments, cwd=tmp_path, cache=session_place / "cache"))
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert list(tmp_path.iterdir()) == []
