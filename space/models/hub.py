"""The model hub: hub id -> local snapshot directory, and one clear error when the hub can not help."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of the HTTP client that the hub's uses
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from space.errors import UserError
from space.locations import absolute
from space.models.base_card import CARD_FILE

HUB_TIMEOUT_S = 5.0
WEIGHT_FILES = "model*.safetensors"
PROCESSOR_FILE = "preprocessor_config.json"
SMALL_FILES = ("*.json", "*.txt", "*.model", "*.jinja", CARD_FILE)


@contextmanager
def hub_errors(kind: str, repo: str, instead: str) -> Iterator[None]:
    """Turns what the hub client raises into one `UserError`.

    Args:
        kind: What was asked for (`model`, `data set`).
        repo: Its hub id.
        instead: What the user can do without the hub.
    """
    looked = f"there is nothing at {absolute(repo)}"
    try:
        yield
    except HFValidationError as error:
        raise UserError(
            f"Expected a path or the hub id of a {kind}, got {repo!r}, which is neither: {looked}."
        ) from error
    except GatedRepoError as error:
        raise UserError(f"The {kind} {repo} is gated: accept its terms on the hub and log in, or {instead}.") from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise UserError(
            f"Expected a path or the hub id of a {kind}, but {looked}, and the hub has no {repo} of that revision that "
            f"you may read. Check the name, or {instead}."
        ) from error
    except (HTTPError, OSError) as error:
        said = "answered with an error" if isinstance(error, HfHubHTTPError) else "can not be reached"
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{repo!r} is no local path, as {looked}, and the hub {said} ({reason}). Without it: {instead}."
        ) from error


def model_snapshot(
    repo: str, revision: str | None, trust_remote_code: bool, check: Callable[[Path], object], instead: str
) -> Path:
    """Downloads a model into the hub client's cache; the directory is named by the commit.

    Args:
        repo: Hub id.
        revision: Branch, tag or commit; None is the main branch.
        trust_remote_code: Whether Python files are downloaded too.
        check: Called with the directory when it holds the configuration, but not yet the weights; may raise.
        instead: What the user can do without the hub, for the message.

    Raises:
        UserError: The hub is not reachable and the model was not downloaded before, or the hub does not have it.
    """
    small = [*SMALL_FILES, *(["*.py"] if trust_remote_code else [])]
    with hub_errors("model", repo, instead):
        commit, earlier = _commit_or_earlier(repo, revision, ("config.json", WEIGHT_FILES))
        if earlier is not None:
            return earlier
        directory = Path(snapshot_download(repo, revision=commit, allow_patterns=small, ignore_patterns="*/*"))
        check(directory)
        snapshot_download(repo, revision=commit, allow_patterns=WEIGHT_FILES, ignore_patterns="*/*")
    return directory


def config_snapshot(repo: str, revision: str | None, trust_remote_code: bool, instead: str) -> Path:
    """Downloads the configuration of a model alone; arguments and errors as of `model_snapshot`."""
    patterns = ["config.json", PROCESSOR_FILE, *(["*.py"] if trust_remote_code else [])]
    with hub_errors("model", repo, instead):
        commit, earlier = _commit_or_earlier(repo, revision, ("config.json",))
        return earlier or Path(snapshot_download(repo, revision=commit, allow_patterns=patterns, ignore_patterns="*/*"))


def _commit_or_earlier(repo: str, revision: str | None, wanted: Sequence[str]) -> tuple[str | None, Path | None]:
    """The commit that the hub has, or where it is not reachable, an earlier download with all that is wanted."""
    try:
        # One short question first: a download retries for half a minute before it gives up.
        return HfApi().model_info(repo, revision=revision, timeout=HUB_TIMEOUT_S).sha, None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise
    except (HTTPError, OSError) as unreachable:
        return None, _earlier_snapshot(repo, revision, unreachable, wanted)


def _earlier_snapshot(repo: str, revision: str | None, unreachable: Exception, wanted: Sequence[str]) -> Path:
    """The snapshot of an earlier download; raises `unreachable` where there is none with all that is wanted."""
    try:
        directory = Path(snapshot_download(repo, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        raise unreachable from None
    if not all(list(directory.glob(pattern)) for pattern in wanted):
        raise unreachable
    return directory
