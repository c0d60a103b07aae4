"""A model repository on the Hub: its present state, and one commit on top of it. Failures are explained to the user."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cse.assets.hub import reachable, retry_after
from cse.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, ModelInfo

logger = logging.getLogger(__name__)
T = TypeVar("T")
WAITS = (1.0, 2.0, 4.0, 8.0)  # seconds before each retry, unless the Hub says how long to wait
LONGEST_WAIT = 300.0
PASSING = {408, 429, 500, 502, 503, 504}  # statuses of failures that may be temporary
NOTHING_DONE = {429, 503}  # of these, the statuses of a request that had no effect
AGAIN = "the same command does not upload again what is already uploaded"


class Moved(Exception):
    """Someone else committed to the branch after `Repository.look`."""


@dataclass(frozen=True)
class State:
    """The state of a branch: its commit (None if the repository does not exist), paths and README.md."""

    sha: str | None
    files: frozenset[str]
    readme: str | None


class Repository:
    """A repository on the Hub to upload to.

    huggingface_hub retries the upload of large files by itself; this class retries all other requests.

    Args:
        repo: The repository, owner/name.
        private: Whether a repository that is created is private.
        revision: The branch to commit to; it is created from main if it does not exist. None: main.
        create_pr: Open a pull request instead of committing to the branch.

    Raises:
        UserError: There is no token or it cannot write, the Hub cannot be reached, `create_pr` is set and the
            repository does not exist, or `private` is set and the repository is public.
    """

    def __init__(self, repo: str, *, private: bool, revision: str | None, create_pr: bool) -> None:
        from huggingface_hub import HfApi, constants, get_token

        self.repo, self.revision, self.create_pr = repo, revision or "main", create_pr
        if constants.HF_HUB_OFFLINE:
            raise UserError("HF_HUB_OFFLINE is set, so the Hub cannot be reached\nfix: unset it, or give --dry-run")
        token = get_token()
        if not token:
            raise UserError("no token for the Hub was found\nfix: log in with `hf auth login`, or set HF_TOKEN")
        if not reachable():
            raise UserError(
                f"the Hub at {constants.ENDPOINT} does not answer\n"
                "fix: check the network (HF_ENDPOINT, HTTPS_PROXY), or give --dry-run"
            )
        self._private, self._token, self._user = private, token, "you"
        self._api = HfApi(token=token, library_name="cse")
        self.url = f"{self._api.endpoint}/{repo}"
        me = self._ask(self._api.whoami)
        self._user = me["name"]
        if me.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise UserError(f"the token of {self._user} is read-only\nfix: log in with a token that can write")
        self._exists = self._check_existing()

    def look(self) -> State:
        """The state of the branch, or of main if the branch does not exist yet; empty if the repository does not exist.

        Raises:
            UserError: The repository cannot be read.
        """
        if not self._exists:
            return State(None, frozenset(), None)
        base = self.revision if self._ask(self._has_branch) else "main"
        sha = self._head(base)
        tree = self._ask(lambda: list(self._api.list_repo_tree(self.repo, recursive=True, revision=sha)))
        files = frozenset(entry.path for entry in tree)
        return State(sha, files, self._ask(lambda: self._read(sha)) if "README.md" in files else None)

    def commit(
        self, folder: Path, adds: list[str], removes: list[str], message: str, *, onto: State
    ) -> tuple[str, bool]:
        """Upload files and commit them all at once; the repository and the branch are created if they do not exist.

        Returns:
            The address of the branch or pull request, and whether the commit changed anything.

        Raises:
            Moved: Someone else committed to the branch after `onto` was read.
            UserError: The Hub refuses, or the connection is lost for good. The branch is unchanged.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        additions = [CommitOperationAdd(path, str(folder / path)) for path in adds]
        deletions = [CommitOperationDelete(path, is_folder=False) for path in removes]
        parent = self._prepare(onto)
        self._ask(
            lambda: self._api.preupload_lfs_files(
                self.repo, additions, revision=self.revision, create_pr=self.create_pr, free_memory=False
            ),
            again=False,
        )
        return self._ask(lambda: self._commit([*additions, *deletions], message, parent))

    def _prepare(self, onto: State) -> str:
        """Create the repository and the branch if they do not exist; return the commit to build on."""
        sha = onto.sha
        if sha is None:
            self._ask(self._create)
            self._exists = True
            sha = self._head("main")
        if not self._ask(self._has_branch):
            self._ask(lambda: self._api.create_branch(self.repo, branch=self.revision, revision=sha, exist_ok=True))
        return sha

    def _head(self, revision: str) -> str:
        sha = self._ask(lambda: self._api.model_info(self.repo, revision=revision)).sha
        assert sha is not None
        return sha

    def _has_branch(self) -> bool:
        if self.revision == "main":
            return True
        refs = self._api.list_repo_refs(self.repo)
        if any(tag.name == self.revision for tag in refs.tags):
            raise UserError(f"--revision {self.revision} is a tag of {self.repo}\nfix: give the name of a branch")
        return any(branch.name == self.revision for branch in refs.branches)

    def _check_existing(self) -> bool:
        info = self._ask(self._info)
        if info is None and self.create_pr:
            raise UserError(
                f"repository {self.repo} does not exist, so --pr cannot open a pull request\nfix: leave out --pr"
            )
        if info is not None and self._private and not info.private:
            raise UserError(
                f"repository {self.repo} exists and is public, and --private only applies to one that is created\n"
                f"fix: make it private at {self.url}/settings, or give another name"
            )
        return info is not None

    def _info(self) -> ModelInfo | None:
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            return self._api.model_info(self.repo)
        except RepositoryNotFoundError:
            return None

    def _create(self) -> None:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            self._api.create_repo(self.repo, private=self._private or None)
        except HfHubHTTPError as error:
            if error.response.status_code != 409:
                raise
            if not self._check_existing():  # if it exists, an earlier try created it and the answer was lost
                raise UserError(
                    f"repository {self.repo}: the name is taken by a repository that {self._user} cannot see\n"
                    "fix: give another name"
                ) from None

    def _read(self, sha: str) -> str:
        with tempfile.TemporaryDirectory(prefix="cse-readme-") as scratch:
            path = self._api.hf_hub_download(self.repo, "README.md", revision=sha, local_dir=scratch)
            return Path(path).read_text(encoding="utf-8")

    def _commit(
        self, operations: list[CommitOperationAdd | CommitOperationDelete], message: str, parent: str
    ) -> tuple[str, bool]:
        from huggingface_hub.errors import HfHubHTTPError

        try:
            done = self._api.create_commit(
                self.repo,
                operations,
                commit_message=message,
                revision=self.revision,
                create_pr=self.create_pr,
                parent_commit=parent,
            )
        except HfHubHTTPError as error:
            if error.response.status_code == 412:
                raise Moved from None
            raise
        where = self.url if self.revision == "main" else f"{self.url}/tree/{self.revision}"
        return done.pr_url or where, done.oid != parent

    def _ask(self, call: Callable[[], T], *, again: bool = True) -> T:
        """The answer of the Hub; failures that may be temporary are retried.

        Raises:
            UserError: The request failed for good. Neither the message nor the traceback contains the token.
        """
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # the HTTP client's error

        for wait in (*WAITS, None) if again else (None,):
            try:
                return call()
            except (HTTPError, OSError, RuntimeError, ValueError) as error:
                cause = _cause(error)
                said = _said(cause).replace(self._token, "<token>")  # a server may quote the request
                if wait is None or not _passes(cause, opens=self.create_pr):
                    text = self._explain(cause, said)
                    break
                pause = min(_retry_after(cause) or wait, LONGEST_WAIT)
                logger.warning("the Hub: %s; retrying in %.0f s", said, pause)
                time.sleep(pause)
        raise UserError(
            text
        )  # raised here so that the traceback keeps no reference to the request, which holds the token

    def _explain(self, error: BaseException, said: str) -> str:
        status, where = _status(error), f"repository {self.repo}"
        if status == 401:
            return f"the Hub does not accept the token: {said}\nfix: log in again, or set HF_TOKEN to a valid one"
        if status == 403:
            return (
                f"{where}: {self._user} cannot write to it: {said}\n"
                f"fix: push to {self._user}/{self.repo.split('/')[1]}, use a token that can write there, or add --pr"
            )
        if "/xet-" in str(error) and "404" in str(error):
            return f"the Hub at {self._api.endpoint} has no xet storage\nfix: set HF_HUB_DISABLE_XET=1; {AGAIN}"
        if status in PASSING or _is_transport(error):
            fix = (
                f"check whether {self.url}/discussions already lists the pull request; if not, try later"
                if self.create_pr
                else "try later"
            )
            return f"{where}: the Hub cannot be reached, is busy, or closed the connection: {said}\nfix: {fix}; {AGAIN}"
        return f"{where}: {said}\nfix: see {self.url}"


def _cause(error: BaseException) -> BaseException:
    """The original failure, below the errors that huggingface_hub wraps around that of a file or a download."""
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wraps = isinstance(error, (RuntimeError, LocalEntryNotFoundError)) and not isinstance(error, HfHubHTTPError)
    return _cause(error.__cause__) if wraps and error.__cause__ is not None else error


def _status(error: BaseException) -> int | None:
    status: int | None = getattr(getattr(error, "response", None), "status_code", None)
    return status


def _is_transport(error: BaseException) -> bool:
    """Tell whether no answer came: the server was not reached, closed the connection, or was too slow."""
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    return isinstance(error, (HTTPError, ConnectionError, TimeoutError)) and _status(error) is None


def _passes(error: BaseException, *, opens: bool) -> bool:
    """Tell whether to retry. `opens`: the request opens a pull request."""
    # The pull request may exist although the answer was lost; a retry would open a second one.
    status = _status(error)
    if status is not None:
        return status in (NOTHING_DONE if opens else PASSING)
    return _is_transport(error) and not opens


def _retry_after(error: BaseException) -> float | None:
    """Seconds to wait, as the Hub's own rate-limit header or the standard Retry-After header says."""
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]  # public, not in __all__

    headers = getattr(getattr(error, "response", None), "headers", {})
    limit = parse_ratelimit_headers(headers)
    if limit is not None and limit.remaining == 0:
        return float(limit.reset_in_seconds)
    return retry_after(headers)


def _said(error: BaseException) -> str:
    """The status, and the server's message or the first line of the error."""
    status = _status(error)
    lines = str(getattr(error, "server_message", None) or error).strip().splitlines() or [type(error).__name__]
    return (f"{status}, " if status else "") + lines[0][:200]
