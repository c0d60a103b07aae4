"""What comes in, what goes wrong with it, who sent it, and answers other than success."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Request:
    """What came in; names of headers in lower case, `body` as much of it as was read."""

    method: str
    url: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.url).path


@dataclass
class Fault:
    """What goes wrong with requests that match.

    Attributes:
        method: GET, PUT ...
        path: A regular expression.
        what: A status to answer with; `cut` closes the connection in the middle of what is transferred, upload or
            download; `lose` does what was asked and closes without an answer.
        times: How often; None: always.
        skip: Matching requests that pass before.
        headers: Of the answer.
        message: In the answer.
    """

    method: str
    path: str
    what: int | Literal["cut", "lose"]
    times: int | None = 1
    skip: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "made to fail"

    def strikes(self, method: str, path: str) -> bool:
        if method != self.method or not re.search(self.path, path) or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        self.times = None if self.times is None else self.times - 1
        return True


@dataclass(frozen=True)
class User:
    name: str
    role: str = "write"
    organizations: tuple[str, ...] = ()


class Answer(Exception):
    """An answer other than success, from anywhere below a route."""

    def __init__(self, status: int, message: str, code: str | None = None, **more: object) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more
