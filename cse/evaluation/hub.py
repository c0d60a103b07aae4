"""Files from the Hugging Face Hub at a pinned revision, without minutes of retries where there is no network."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from huggingface_hub import constants, snapshot_download

PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


class HubError(Exception):
    """Files cannot be had; the message says why in one line."""


def snapshot(repo: str, *, kind: str = "model", revision: str | None = None, ignore: Sequence[str] = ()) -> Path:
    """The folder of a repository's files, from the cache or downloaded.

    Raises:
        HubError: It is neither cached nor reachable, or does not exist.
    """
    offline = not reachable()
    try:
        found = snapshot_download(
            repo, repo_type=kind, revision=revision, ignore_patterns=list(ignore), local_files_only=offline
        )
    except (
        Exception
    ) as error:  # unreachable, gone, gated, no id at all: each layer of the client has its own exceptions
        if offline:
            raise HubError(f"{repo} is not in the Hub's cache here, and the Hub cannot be reached") from error
        reason = (str(error).strip() or "no reason given").splitlines()[0][:160]
        raise HubError(f"{repo}: {type(error).__name__}: {reason}") from error
    return Path(found)


@functools.cache
def reachable() -> bool:
    """Whether the Hub's name resolves, or a proxy does it; asked once. The client itself retries for 30 s."""
    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in PROXIES):
        return True
    try:
        socket.getaddrinfo(urlsplit(constants.ENDPOINT).hostname, 443)
    except OSError:
        return False
    return True
