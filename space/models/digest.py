"""What a checkpoint is known by: a digest of its weights and its configuration, wherever they lie."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path

from space.files import write_whole
from space.locations import CACHE_ADVICE, cache_dir
from space.models.hub import WEIGHT_FILES

# Keys of config.json that do not say what the model computes.
_NOTES = ("_name_or_path", "transformers_version")
_KEPT_BYTES = 1 << 28  # from which size on a file's digest is kept; smaller files are read in a moment


def checkpoint_digest(directory: Path) -> str:
    """16 hex digits over what `config.json` says and all bytes of the weights, equal wherever the directory lies.

    Large files are hashed once, at about 1.5 GB a second, and known again by path, size and times of change.

    Raises:
        UserError: The cache cannot be written.
    """
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    facts = {key: value for key, value in config.items() if key not in _NOTES}
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for file in sorted(directory.glob(WEIGHT_FILES)):
        digest.update(f"{file.name}\0{_of_file(file)}\0".encode())
    return digest.hexdigest()[:16]


def _of_file(file: Path) -> str:
    """The SHA-256 of a file's bytes, from the cache where the file has not changed since."""
    path, state = str(file.resolve()), file.stat()
    if state.st_size < _KEPT_BYTES:
        return _hashed(file)
    facts = {"path": path, "bytes": state.st_size, "changed_ns": [state.st_mtime_ns, state.st_ctime_ns]}
    kept = cache_dir() / "digests" / f"{hashlib.sha256(path.encode()).hexdigest()[:16]}.json"
    with suppress(OSError, ValueError):  # there is none, or none that reads: the file is hashed
        stored = json.loads(kept.read_text(encoding="utf-8"))
        if isinstance(stored, dict) and {**facts, "sha256": stored.get("sha256")} == stored:
            return str(stored["sha256"])
    digest = _hashed(file)
    write_whole(kept, json.dumps({**facts, "sha256": digest}, indent=1) + "\n", advice=CACHE_ADVICE)
    return digest


def _hashed(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
