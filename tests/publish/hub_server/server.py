"""The HTTP side: `with HubServer() as hub:` serves at `hub.url`, what HF_ENDPOINT is set to.

Large files go to and come from another origin than the endpoint, behind signed addresses, as on the Hub. There is no
xet storage; a client that has it installed uploads with HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit

from tests.publish.hub_server.messages import Answer, Fault, Request, User
from tests.publish.hub_server.repository import Repository
from tests.publish.hub_server.routes import ROUTES


class HubServer:
    """A Hub on 127.0.0.1.

    Args:
        lfs_over: Files larger than this, and all .safetensors, are large files.
        part_size: Large files above it go in parts of this size; None: none does.
        page: Entries on a page of a listing.
    """

    def __init__(self, *, lfs_over: int = 10_000_000, part_size: int | None = None, page: int = 1000) -> None:
        self.lfs_over, self.part_size, self.page = lfs_over, part_size, page
        self.users: dict[str, User] = {}
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()

    def __enter__(self) -> HubServer:
        handler = type("Handler", (Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.storage = f"http://localhost:{self._server.server_port}/storage"  # to a client, another origin
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def fail(self, method: str, path: str, what: int | Literal["cut", "lose"], **how: Any) -> None:
        """Have something go wrong; see `Fault`."""
        self.faults.append(Fault(method, path, what, **how))

    def asked(self, method: str, path: str) -> list[Request]:
        """The requests that match."""
        return [r for r in self.requests if r.method == method and re.search(path, r.path)]


class Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def _serve(self) -> None:
        url = urlsplit(self.path)
        self.query = {key: values[0] for key, values in parse_qs(url.query).items()}
        with self.hub.lock:
            fault = next((f for f in self.hub.faults if f.strikes(self.command, url.path)), None)
        self.what = fault.what if fault else None
        length = int(self.headers.get("Content-Length") or 0)
        cut = self.what == "cut" and length > 0
        self.body = self.rfile.read(length // 2 if cut else length) if length else self._chunks()
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.hub.lock:
            self.hub.requests.append(Request(self.command, self.path, headers, self.body))
        if cut:
            return self._hang_up()
        try:
            if fault and isinstance(fault.what, int):
                return self.answer(fault.what, {"error": fault.message}, **fault.headers)
            with self.hub.lock:
                reply = self._route(url.path)
            return self._hang_up() if self.what == "lose" else reply()
        except Answer as answer:
            headers = {"X-Error-Message": answer.message} | ({"X-Error-Code": answer.code} if answer.code else {})
            return self.answer(answer.status, {"error": answer.message, **answer.more}, **headers)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # names that http.server looks for

    def _chunks(self) -> bytes:
        """A body that comes in chunks, or none."""
        body = b""
        while self.headers.get("Transfer-Encoding") == "chunked":
            size = int(self.rfile.readline().split(b";")[0], 16)
            body += self.rfile.read(size)
            self.rfile.readline()
            if not size:
                break
        return body

    def _route(self, path: str) -> Callable[[], None]:
        for methods, pattern, route in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in methods:
                result = route(self, **{k: unquote(v) for k, v in found.groupdict(default="").items()})
                return result if callable(result) else partial(self.answer, 200, result)
        raise Answer(404, f"no {self.command} {path} here")

    # Replies

    def answer(self, status: int, content: object, **headers: str) -> None:
        self.send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **headers})

    def send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.what == "cut" else body)
            if self.what == "cut":
                self._hang_up()

    def _hang_up(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)
