"""Files of the Hugging Face Hub, from its cache or downloaded; a failure becomes an error of one line and its fix."""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

from cse.errors import UserError

Kind = Literal["model", "dataset"]
SECONDS_TO_ANSWER = 3.0
NOT_THE_HUB = {407, 502, 503, 504}  # what a proxy answers that does not reach it
SECONDS_KEPT = 60.0  # that an answer, or none, is remembered


class HubError(UserError):
    """Something cannot be loaded from the Hub; `reason` is the cause in one line."""

    def __init__(self, what: str, reason: str, fix: str) -> None:
        super().__init__(f"{what} cannot be loaded: {reason}\nfix: {fix}")
        self.reason = reason


def snapshot(
    repo: str,
    *,
    kind: Kind = "model",
    revision: str | None = None,
    allow: Sequence[str] | None = None,
    ignore: Sequence[str] | None = None,
    cached: bool = False,
    what: str = "",
    fix: str = "",
) -> Path:
    """The folder of a repository's files, from the Hub's cache or downloaded.

    Args:
        repo: Id of the repository, owner/name.
        kind: Kind of repository.
        revision: Commit, tag or branch; None: the main branch.
        allow: Patterns of the files to fetch; None: all files.
        ignore: Patterns of the files to leave out.
        cached: Whether to look into the cache only.
        what: Name of the thing in the error; the repository's id by default.
        fix: What the error tells the user to do; to check name and network by default.

    Raises:
        HubError: The repository is not in the cache and cannot be downloaded.
    """
    from huggingface_hub import snapshot_download

    offline = cached or not reachable()
    try:
        found = snapshot_download(
            repo,
            repo_type=kind,
            revision=revision,
            allow_patterns=None if allow is None else list(allow),
            ignore_patterns=None if ignore is None else list(ignore),
            local_files_only=offline,
        )
    except Exception as error:  # each layer has its own exceptions: unreachable, missing, gated, malformed id
        raise explain(what or repr(repo), error, offline=offline, fix=fix) from error
    return Path(found)


def file(
    repo: str, name: str, *, kind: Kind = "model", revision: str | None = None, what: str = "", fix: str = ""
) -> Path:
    """One file of a repository, from the Hub's cache or downloaded; the arguments are those of `snapshot`.

    Raises:
        HubError: The file is not in the cache and cannot be downloaded.
    """
    from huggingface_hub import hf_hub_download

    offline = not reachable()
    try:
        download = hf_hub_download if revision is None else partial(hf_hub_download, revision=revision)
        return Path(download(repo, name, repo_type=kind, local_files_only=offline))
    except Exception as error:  # as above
        raise explain(what or repr(f"{repo}:{name}"), error, offline=offline, fix=fix) from error


def is_repo_id(name: str) -> bool:
    """Tell whether a name can be that of a repository, owner/name, and is not that of a file or folder here."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, not in __all__

    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not Path(name).exists()


def explain(what: str, error: Exception, *, offline: bool = False, fix: str = "") -> HubError:
    """The error to raise if the Hub, its client or the network failed; `offline` says that only the cache was asked."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    reason = f"{type(error).__name__}: {line[:160]}"
    if offline:
        reason = "it is not in the Hub's cache on this machine, and the Hub cannot be reached"
    return HubError(what, reason, fix or "check the name and the network (HF_HUB_OFFLINE, HF_ENDPOINT), or give a path")


@contextmanager
def without_retries() -> Iterator[None]:
    """In this block, libraries use only their caches if the Hub cannot be reached, instead of retrying for 30 seconds.

    It is meant for loaders that fetch by themselves, such as those of datasets and transformers.
    """
    from huggingface_hub import constants

    modules: list[Any] = [constants, *([sys.modules["datasets"].config] if "datasets" in sys.modules else [])]
    before = [module.HF_HUB_OFFLINE for module in modules]
    offline = not reachable()
    try:
        for module in modules:
            module.HF_HUB_OFFLINE = offline or module.HF_HUB_OFFLINE
        yield
    finally:
        for module, value in zip(modules, before, strict=True):
            module.HF_HUB_OFFLINE = value


def reachable() -> bool:
    """Tell whether the Hub answers within seconds, through a proxy if one is set; what it answers does not matter.

    Its client would retry for 30 seconds before it fails, and for longer if the connection is made but nothing comes.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if time.monotonic() - _answers(constants.ENDPOINT)[1] > SECONDS_KEPT:
        _answers.cache_clear()
    return _answers(constants.ENDPOINT)[0]


@functools.lru_cache(maxsize=1)
def _answers(endpoint: str) -> tuple[bool, float]:
    """Tell whether it answered, and when that was known."""
    from huggingface_hub import get_session

    answered = threading.Event()

    def ask() -> None:
        with contextlib.suppress(Exception):  # refused, too slow, a wrong certificate, a proxy that says no
            if get_session().head(endpoint, timeout=SECONDS_TO_ANSWER).status_code not in NOT_THE_HUB:
                answered.set()

    # The look-up of a host name has no timeout of its own.
    thread = threading.Thread(target=ask, name="ask the Hub", daemon=True)
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    return answered.is_set(), time.monotonic()


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds in the header Retry-After, a number or a date; None if it is missing or cannot be read."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=timezone.utc)
        seconds = (moment - datetime.now(timezone.utc)).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
