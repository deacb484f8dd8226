"""Sends an export to the model hub: what is asked before any work is done for it, and the upload."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of the HTTP client that the hub's uses
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
    validate_repo_id,
)

from space.errors import UserError

_MADE_WITH_A_REPOSITORY = {".gitattributes"}
_ADVICE = "Log in with a token that may write (hf auth login, or the environment variable HF_TOKEN)"


@dataclass(frozen=True)
class Push:
    """Where an export goes on the hub. The token is the hub client's own: it is neither shown nor kept here.

    Attributes:
        repo: Its hub id, `OWNER/NAME`.
        private: Whether the repository is private, where it is made.
    """

    repo: str
    private: bool = True

    def __post_init__(self) -> None:
        try:
            validate_repo_id(self.repo)
        except HFValidationError as error:
            raise UserError(f"push: expected the hub id of a repository, OWNER/NAME, got {self.repo!r}.") from error
        if self.repo.count("/") != 1:
            raise UserError(f"push: expected OWNER/NAME, the owner being you or an organisation, got {self.repo!r}.")

    def require_token(self) -> None:
        """Checks, without the network, that there is a token.

        Raises:
            UserError: There is none.
        """
        if get_token() is None:
            raise UserError(
                f"push={self.repo}: expected a token of the hub, there is none. {_ADVICE}, and export again."
            )

    def require_place(self) -> None:
        """Asks the hub, before any work is done, whether the export can go there.

        Raises:
            UserError: The hub is not reachable, or does not know the token; the token may not write to the owner; or
                the repository has contents.
        """
        owner = self.repo.partition("/")[0]
        api = HfApi(token=True)
        with _hub_errors(f"push={self.repo}: the hub", f"Check the network and the token. {_ADVICE}."):
            user = api.whoami()
            try:
                files = set(api.list_repo_files(self.repo)) - _MADE_WITH_A_REPOSITORY
            except RepositoryNotFoundError:
                files = set()
        owners = [user["name"], *(group["name"] for group in user.get("orgs", ()))]
        if owner not in owners:
            raise UserError(f"push={self.repo}: expected an owner among {', '.join(owners)}, got {owner}.")
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise UserError(f"push={self.repo}: expected a token that may write, this one may read alone. {_ADVICE}.")
        if files:
            raise UserError(
                f"push={self.repo}: expected a repository that is new or empty, but it has {len(files)} files, such as "
                f"{min(files)}. Choose another name."
            )

    def upload(self, directory: Path) -> str:
        """Makes the repository where there is none, and puts the files of a directory into it, in one commit.

        Returns:
            Its address.

        Raises:
            UserError: The hub did not take it; the directory is as it was.
        """
        api, shown = HfApi(token=True), not are_progress_bars_disabled()
        private = " --private" if self.private else ""
        by_hand = f"hf upload {self.repo} {shlex.quote(str(directory))}{private}"
        later = f"The export is whole in {directory}. To upload it later: {by_hand}"
        disable_progress_bars()
        try:
            with _hub_errors(f"push={self.repo}: the hub", later):
                made = api.create_repo(self.repo, private=self.private, exist_ok=True)
                api.upload_folder(repo_id=self.repo, folder_path=directory, commit_message="Export of paretoprune")
        finally:
            if shown:
                enable_progress_bars()
        return str(made)


@contextmanager
def _hub_errors(what: str, advice: str) -> Iterator[None]:
    """Turns what the hub client raises into one `UserError`."""
    try:
        yield
    except (HTTPError, OSError) as error:
        said = "answered with an error" if isinstance(error, HfHubHTTPError) else "cannot be reached"
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(f"{what} {said} ({reason}). {advice}") from error
