"""load_model and the hub: what is asked of it, and what is said where it does not answer."""

import httpx2
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from space.errors import UserError
from space.models import hub
from space.models.loading import load_model

pytestmark = pytest.mark.usefixtures("no_hub")


def test_hub_not_reachable(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    looked = f"nothing at {tmp_path}/someone/some-model"
    with pytest.raises(UserError, match=rf"{looked}.*not be reached \(Name or service.*leave model\.path unset"):
        load_model("someone/some-model")


def test_hub_not_reachable_but_downloaded_before(checkpoint, monkeypatch):
    commit = checkpoint.rename(checkpoint.with_name("c0ffee"))
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, local_files_only=False, **__: str(commit))
    loaded = load_model("someone/some-model")
    assert (loaded.spec.name, loaded.source, loaded.commit) == ("someone/some-model", "someone/some-model", "c0ffee")
    here = load_model(str(commit))
    assert (here.spec.identity, here.commit) == (loaded.spec.identity, None)  # a copy of it is the same model


def test_hub_model_of_a_wrong_family_is_refused_before_its_weights_are_downloaded(tmp_path, monkeypatch):
    asked = []

    def download(_, *, revision, allow_patterns, ignore_patterns):
        asked.append(allow_patterns)
        (tmp_path / "config.json").write_text('{"model_type": "mamba"}')
        return str(tmp_path)

    monkeypatch.setattr(hub.HfApi, "model_info", lambda *_, **__: type("Info", (), {"sha": "c0ffee"}))
    monkeypatch.setattr(hub, "snapshot_download", download)
    with pytest.raises(UserError, match="mamba"):
        load_model("someone/some-model")
    assert asked == [list(hub.SMALL_FILES)]


def test_hub_does_not_have_it(monkeypatch):
    def absent(*_, **__):
        raise RepositoryNotFoundError("404", response=httpx2.Response(404, request=httpx2.Request("GET", "http://hub")))

    monkeypatch.setattr(hub.HfApi, "model_info", absent)
    with pytest.raises(UserError, match="the hub has no someone/some-model"):
        load_model("someone/some-model")


def test_revision_is_for_hub_ids(saved):
    with pytest.raises(UserError, match=r"model\.revision=main is for hub ids"):
        load_model(str(saved), revision="main")
