"""An export on the hub: what is refused before any work, and that exactly the files of the directory arrive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from helpers_hub import TOKEN, FakeHub, fake_hub

from conf.compose import composed
from entries.pick_settings import export_settings
from space.errors import UserError
from space.formats.push import Push

MINE = "me/my-model"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub on this machine, and a token of it."""
    with fake_hub() as server:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


@pytest.fixture
def export(tmp_path: Path) -> dict[str, bytes]:
    """The files of a directory, the last one in a folder."""
    files = {"README.md": b"---\ntags: [pruned]\n---\n", "model.safetensors": bytes(range(256)), "more/a b.txt": b""}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    return files


@pytest.mark.parametrize("private", [True, False])
def test_the_upload_holds_the_files_of_the_directory(
    hub: FakeHub, export: dict[str, bytes], tmp_path: Path, private: bool
) -> None:
    push = Push(MINE, private)
    push.require_token()
    push.require_place()
    assert hub.files == {}
    assert push.upload(tmp_path) == f"{hub.address}/{MINE}"
    assert hub.files == {MINE: export}
    assert hub.private == {MINE: private}
    assert {token for asked, token in hub.asked if "POST" in asked} == {f"Bearer {TOKEN}"}


def refused(push: Push, words: str) -> None:
    with pytest.raises(UserError, match=words) as refusal:
        push.require_place()
    assert TOKEN not in str(refusal.value)


def test_places_that_are_not_ones_own_or_not_empty_are_refused(hub: FakeHub) -> None:
    refused(Push("someone/my-model"), r"an owner among me, lab, got someone")
    hub.files["lab/taken"] = {".gitattributes": b"", "config.json": b"{}"}
    hub.private["lab/taken"] = False
    refused(Push("lab/taken"), r"new or empty, but it has 1 files, such as config\.json")
    hub.files["lab/taken"].pop("config.json")
    Push("lab/taken").require_place()
    hub.user["auth"]["accessToken"]["role"] = "read"
    refused(Push(MINE), r"a token that may write, this one may read alone")
    assert all(asked.startswith("GET ") for asked, _ in hub.asked)


def test_a_hub_that_cannot_be_reached_is_told(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    refused(Push(MINE), r"push=me/my-model: the hub cannot be reached \(.*\)\. Check the network and the token")


def test_an_upload_that_fails_leaves_the_export_and_tells_how_to_go_on(
    hub: FakeHub, export: dict[str, bytes], tmp_path: Path
) -> None:
    hub.broken = "/commit/"
    with pytest.raises(UserError, match=rf"whole in .* upload it later: hf upload {MINE} \S+ --private"):
        Push(MINE).upload(tmp_path)
    assert hub.files == {MINE: {}}
    assert (tmp_path / "model.safetensors").read_bytes() == export["model.safetensors"]


@pytest.mark.parametrize("repo", ["my-model", "a/b/c", "me/my model", "me/a--b", ""])
def test_what_is_no_hub_id_is_refused(repo: str) -> None:
    with pytest.raises(UserError, match=r"push: expected .*OWNER/NAME"):
        Push(repo)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([f"push={MINE}"], r"expected a token of the hub, there is none\. Log in .*hf auth login.*HF_TOKEN"),
        (["push=me"], r"expected OWNER/NAME"),
        (["push=7"], r"push: expected text or null, got 7"),
        ([f"push={MINE}", "private=perhaps"], r"private: expected true or false, got 'perhaps'"),
    ],
)
def test_an_export_that_cannot_be_pushed_is_refused_by_its_settings_alone(
    settings: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("space.formats.push.get_token", lambda: None)
    config: dict[str, Any] = composed("run_dir=/no/where", *settings, name="export")
    with pytest.raises(UserError, match=words):
        export_settings(config, [])
