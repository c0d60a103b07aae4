"""A model repository on the Hub: its present state, and one commit on top of it. Failures are explained to the user.

huggingface_hub tries again what it transfers. Any other request that fails ends the push, and nothing is half done.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from cse.assets.hub import reachable
from cse.errors import UserError

T = TypeVar("T")
PASSING = {408, 429, 500, 502, 503, 504}  # statuses of failures that may be temporary
AGAIN = "the same command does not upload again what is already uploaded"


class Moved(Exception):
    """Someone else committed to the branch after `Repository.look`."""


@dataclass(frozen=True)
class State:
    """The state of a branch: its commit (None if the repository does not exist), paths and README.md."""

    sha: str | None = None
    files: frozenset[str] = frozenset()
    readme: str | None = None


class Repository:
    """A repository on the Hub to upload to.

    It is created if it does not exist, and so is the branch `revision`, from main. With `create_pr`, a commit opens a
    pull request against main instead.
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
        self._exists = self._ask(self._api.repo_exists, repo)
        if not self._exists and create_pr:
            raise UserError(
                f"repository {repo} does not exist, so --pr cannot open a pull request\nfix: leave out --pr"
            )
        if self._exists and private and not self._ask(self._api.model_info, repo).private:
            raise UserError(
                f"repository {repo} exists and is public, and --private only applies to one that is created\n"
                f"fix: make it private at {self.url}/settings, or give another name"
            )

    def look(self) -> State:
        """The state of the branch, or of main if it does not exist yet; empty if the repository does not exist."""
        if not self._exists:
            return State()
        base = "main"
        if self.revision != "main":
            refs = self._ask(self._api.list_repo_refs, self.repo)
            if any(tag.name == self.revision for tag in refs.tags):
                raise UserError(f"--revision {self.revision} is a tag of {self.repo}\nfix: give the name of a branch")
            base = self.revision if any(branch.name == self.revision for branch in refs.branches) else "main"
        sha = self._head(base)
        files = frozenset(self._ask(self._api.list_repo_files, self.repo, revision=sha))
        return State(sha, files, self._ask(self._read, sha) if "README.md" in files else None)

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

        if not self._exists:
            self._ask(self._api.create_repo, self.repo, private=self._private or None)
            self._exists = True
        parent = onto.sha or self._head("main")
        if self.revision != "main":
            self._ask(self._api.create_branch, self.repo, branch=self.revision, revision=parent, exist_ok=True)
        operations: list[Any] = [CommitOperationAdd(path, folder / path) for path in adds]
        operations += [CommitOperationDelete(path, is_folder=False) for path in removes]
        done = self._ask(
            self._api.create_commit,
            self.repo,
            operations,
            commit_message=message,
            revision=self.revision,
            create_pr=self.create_pr,
            parent_commit=parent,
        )
        where = self.url if self.revision == "main" else f"{self.url}/tree/{self.revision}"
        return done.pr_url or where, done.oid != parent

    def _head(self, revision: str) -> str:
        return str(self._ask(self._api.model_info, self.repo, revision=revision).sha)

    def _read(self, sha: str) -> str:
        with tempfile.TemporaryDirectory(prefix="cse-readme-") as scratch:
            path = self._api.hf_hub_download(self.repo, "README.md", revision=sha, local_dir=scratch)
            return Path(path).read_text(encoding="utf-8")

    def _ask(self, call: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """The answer of the Hub.

        Raises:
            Moved: The branch is no longer at the commit to build on.
            UserError: The request failed. Neither the message nor the traceback contains the token.
        """
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # the HTTP client's error

        try:
            return call(*arguments, **options)
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            moved, text = _status(_cause(error)) == 412, self._explain(_cause(error))
        # Raised here so that the traceback keeps no reference to the request, which holds the token.
        raise Moved if moved else UserError(text)

    def _explain(self, error: BaseException) -> str:
        from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

        status, where = _status(error), f"repository {self.repo}"
        lines = str(getattr(error, "server_message", None) or error).strip().splitlines() or [type(error).__name__]
        said = (f"{status}, " if status else "") + lines[0][:200]
        said = said.replace(self._token, "<token>")  # a server may quote the request
        if status == 401:
            return f"the Hub does not accept the token: {said}\nfix: log in again, or set HF_TOKEN to a valid one"
        if status == 403:
            return (
                f"{where}: {self._user} cannot write to it: {said}\n"
                f"fix: push to {self._user}/{self.repo.split('/')[1]}, use a token that can write there, or add --pr"
            )
        if "/xet-" in str(error) and "404" in str(error):
            return f"the Hub at {self._api.endpoint} has no xet storage\nfix: set HF_HUB_DISABLE_XET=1; {AGAIN}"
        no_answer = status is None and isinstance(error, (HTTPError, ConnectionError, TimeoutError))
        if status in PASSING or no_answer:
            there = f"check whether {self.url}/discussions already lists the pull request; if not, "
            fix = f"{there if self.create_pr else ''}try later"
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
