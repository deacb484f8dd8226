"""What a user names is a path of this machine or an id of the hub, and a path holds wherever a later command runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from space.errors import UserError
from space.locations import absolute, is_local, located


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "name", ["/x", "./x", "../x", "~/x", ".", "..", "x/", "models", "models/mine", "a/b/c", "gone/a/b", "x.txt"]
)
def test_a_path_is_what_is_there_or_is_written_like_one(name: str) -> None:
    assert is_local(name, (".txt",))


@pytest.mark.parametrize("name", ["gpt2", "owner/name", "models/yours", "mine", "x.txt"])
def test_anything_else_may_be_an_id_of_the_hub(name: str) -> None:
    assert not is_local(name)


def test_settings_that_say_where_something_is_hold_from_everywhere(here: Path) -> None:
    value = ["models/mine", "owner/name", {"path": "notes.txt", "name": "a"}, {"path": "owner/data"}, 7]
    assert located(value, (".txt",)) == [
        str(here / "models" / "mine"),
        "owner/name",
        {"path": str(here / "notes.txt"), "name": "a"},
        {"path": "owner/data"},
        7,
    ]
    assert located(None) is None
    assert absolute("~/x") == Path.home() / "x"
    with pytest.raises(UserError, match="from the root on"):
        absolute("~nobody-of-this-name/x")
    with pytest.raises(UserError, match="got an empty text"):
        located("")
