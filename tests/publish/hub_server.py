"""A stand-in for the Hugging Face Hub: what huggingface_hub asks of it to publish and to fetch a model, and faults.

`with HubServer() as hub:` serves at `hub.url`, what HF_ENDPOINT is set to. Large files go to and come from another
origin than the endpoint, behind signed addresses, as on the Hub. There is no xet storage: set HF_HUB_DISABLE_XET=1.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import parse_qs, unquote, urlsplit


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
        message: In the answer.
    """

    method: str
    path: str
    what: int | Literal["cut", "lose"]
    times: int | None = 1
    skip: int = 0
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


# Repositories
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
ATTRIBUTES = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"


@dataclass(frozen=True)
class Blob:
    """A file's contents, and whether git holds them or a pointer to them."""

    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        return POINTER.format(oid=self.sha256, size=len(self.data)).encode()

    @property
    def oid(self) -> str:
        """As git names it."""
        held = self.pointer if self.lfs else self.data
        return hashlib.sha1(b"blob %d\0" % len(held) + held).hexdigest()

    @property
    def etag(self) -> str:
        """What names the contents: sha256 of a large file, git's name of another."""
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    files: dict[str, Blob]
    title: str
    author: str
    parent: str | None = None
    number: int = 0

    @property
    def sha(self) -> str:
        lines = [f"{path} {blob.oid}" for path, blob in sorted(self.files.items())]
        text = "\n".join([str(self.parent), self.title, self.author, str(self.number), *lines])
        return hashlib.sha1(text.encode()).hexdigest()


@dataclass
class Repository:
    """Commits by their sha, and refs: `refs/heads/main`, `refs/tags/v1`, `refs/pr/1`."""

    name: str
    private: bool
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # large files by sha256, committed or not

    def __post_init__(self) -> None:
        self.add("refs/heads/main", Commit({".gitattributes": Blob(ATTRIBUTES)}, "initial commit", "hub"))

    def add(self, ref: str, commit: Commit) -> str:
        self.commits[commit.sha] = commit
        self.refs[ref] = commit.sha
        return commit.sha

    def resolve(self, revision: str) -> str | None:
        """The sha that a branch, tag, pull request, or sha means."""
        names = (f"refs/heads/{revision}", f"refs/tags/{revision}", revision)
        return next((self.refs[n] for n in names if n in self.refs), revision if revision in self.commits else None)

    def commit(self, ref: str, onto: str, adds: dict[str, Blob], removes: set[str], title: str, author: str) -> str:
        """One commit on top of `onto`, to which `ref` then points."""
        files = {path: blob for path, blob in self.commits[onto].files.items() if path not in removes} | adds
        return self.add(ref, Commit(files, title, author, onto, len(self.commits)))

    def files(self, revision: str = "main") -> dict[str, bytes]:
        """What lies there."""
        return {path: blob.data for path, blob in self.commits[self.resolve(revision) or ""].files.items()}

    def head(self, revision: str = "main") -> Commit:
        return self.commits[self.resolve(revision) or ""]

    def history(self, revision: str = "main") -> list[str]:
        """Titles, newest first."""
        titles, sha = [], self.resolve(revision)
        while sha:
            titles.append(self.commits[sha].title)
            sha = self.commits[sha].parent
        return titles

    def tree(self, sha: str, under: str = "") -> list[dict[str, object]]:
        """Files and folders below a folder, as the Hub lists them."""
        files = {p: b for p, b in sorted(self.commits[sha].files.items()) if p.startswith(f"{under}/" if under else "")}
        folders = {str(f) for p in files for f in PurePosixPath(p).parents if str(f) not in {".", under}}
        return [*({"type": "directory", "oid": "0" * 40, "size": 0, "path": f} for f in sorted(folders))] + [
            describe(path, blob) for path, blob in files.items()
        ]


def describe(path: str, blob: Blob) -> dict[str, object]:
    """A file, as the Hub lists it."""
    entry: dict[str, object] = {"type": "file", "oid": blob.oid, "size": len(blob.data), "path": path}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.sha256, "size": len(blob.data), "pointerSize": len(blob.pointer)}
    return entry


REPO, REV = r"(?P<repo>[^/]+/[^/]+)", r"(?P<rev>[^/]+)"
SIGNATURE = "X-Amz-Signature=0123456789abcdef"


# Who asks, and for what
def sender(ask: Handler) -> User | None:
    token = (ask.headers.get("Authorization") or "").removeprefix("Bearer ")
    if token and token not in ask.hub.users:
        raise Answer(401, "Invalid credentials in Authorization header")
    return ask.hub.users.get(token)


def signed_in(ask: Handler) -> User:
    """Who asks, where someone must."""
    found = sender(ask)
    if found is None:
        raise Answer(401, "Invalid username or password.")
    return found


def owns(ask: Handler, namespace: str) -> bool:
    user = sender(ask)
    return user is not None and namespace in (user.name, *user.organizations)


def readable(ask: Handler, repo: str) -> Repository:
    found = ask.hub.repositories.get(repo)
    if found is None or (found.private and not owns(ask, repo.split("/")[0])):
        raise Answer(401 if sender(ask) is None else 404, "Repository not found", "RepoNotFound")
    return found


def writable(ask: Handler, repo: str) -> Repository:
    found, user = readable(ask, repo), signed_in(ask)
    if user.role == "read" or not owns(ask, repo.split("/")[0]):
        raise Answer(403, "Forbidden: pass `create_pr=1` as a query parameter to create a Pull Request")
    return found


def at(repository: Repository, revision: str) -> str:
    sha = repository.resolve(revision)
    if sha is None:
        raise Answer(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    return sha


# Routes
def whoami(ask: Handler) -> object:
    user = signed_in(ask)
    organizations = [{"type": "org", "name": name, "roleInOrg": "write"} for name in user.organizations]
    access = {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}}
    return {"type": "user", "id": "1", "name": user.name, "orgs": organizations, "auth": access}


def create(ask: Handler) -> object:
    asked, user = json.loads(ask.body), signed_in(ask)
    owner = asked.get("organization") or user.name
    name, address = f"{owner}/{asked['name']}", f"{ask.hub.url}/{owner}/{asked['name']}"
    if user.role == "read" or not owns(ask, owner):
        raise Answer(403, f'You don\'t have the rights to create a model under the namespace "{owner}"')
    if name in ask.hub.repositories:
        raise Answer(409, "You already created this model repo", url=address)
    ask.hub.repositories[name] = Repository(name, asked.get("visibility") == "private")
    return {"url": address, "name": name, "id": "1"}


def validate_yaml(ask: Handler) -> object:
    return {"errors": [], "warnings": []}


def info(ask: Handler, repo: str, rev: str = "main") -> object:
    repository = readable(ask, repo)
    sha = at(repository, rev)
    siblings = [{"rfilename": path} for path in sorted(repository.commits[sha].files)]
    return {"_id": "1", "id": repo, "sha": sha, "private": repository.private, "tags": [], "siblings": siblings}


def list_refs(ask: Handler, repo: str) -> object:
    refs = readable(ask, repo).refs
    groups: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "converts": [], "pullRequests": []}
    for ref, sha in refs.items():
        group = {"heads": "branches", "tags": "tags", "pr": "pullRequests"}[ref.split("/")[1]]
        groups[group].append({"name": ref.split("/", 2)[2], "ref": ref, "targetCommit": sha})
    return groups


def tree(ask: Handler, repo: str, rev: str, folder: str = "") -> object:
    repository = readable(ask, repo)
    entries = repository.tree(at(repository, rev), folder)
    if ask.query.get("recursive", "").lower() != "true":
        entries = [e for e in entries if "/" not in str(e["path"]).removeprefix(f"{folder}/")]
    return entries


def branch(ask: Handler, repo: str, rev: str) -> object:
    repository = writable(ask, repo)
    if rev.startswith("refs/") or re.search(r"\s|\.\.|[~^:?*\[\\]", rev):
        raise Answer(400, f"Invalid reference for a branch: {rev}")
    if f"refs/heads/{rev}" in repository.refs:
        raise Answer(409, "Reference already exists")
    start = (json.loads(ask.body) if ask.body else {}).get("startingPoint", "main")
    repository.refs[f"refs/heads/{rev}"] = at(repository, start)
    return {}


def preupload(ask: Handler, repo: str, rev: str) -> object:
    repository = _to_commit(ask, repo)
    files = repository.commits[at(repository, rev)].files
    answers = []
    for file in json.loads(ask.body)["files"]:
        path = file["path"]
        large = path.endswith(".safetensors")
        answer = {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
        answers.append({**answer, "oid": files[path].etag if path in files else None})
    return {"files": answers}


def _to_commit(ask: Handler, repo: str) -> Repository:
    """Who may read may also open a pull request."""
    if "create_pr" not in ask.query:
        return writable(ask, repo)
    signed_in(ask)
    return readable(ask, repo)


def commit(ask: Handler, repo: str, rev: str) -> object:
    repository, user = _to_commit(ask, repo), signed_in(ask)
    items = [json.loads(line) for line in ask.body.splitlines()]
    header = next(item["value"] for item in items if item["key"] == "header")
    head, parent = at(repository, rev), header.get("parentCommit")
    opens = "create_pr" in ask.query
    if not opens and f"refs/heads/{rev}" not in repository.refs and not rev.startswith("refs/pr/"):
        raise Answer(400, f"{rev} is not a branch")
    if parent and parent != head and not opens:
        raise Answer(412, "A commit has happened since. Please refresh and try again.")
    number = 1 + sum(ref.startswith("refs/pr/") for ref in repository.refs)
    ref = f"refs/pr/{number}" if opens else rev if rev.startswith("refs/pr/") else f"refs/heads/{rev}"
    adds = {i["value"]["path"]: _blob(ask, repository, i) for i in items if i["key"] in {"file", "lfsFile"}}
    removes = {item["value"]["path"] for item in items if item["key"] == "deletedFile"}
    if missing := removes - set(repository.commits[head].files):
        raise Answer(404, f"A file with this name doesn't exist: {missing}", "EntryNotFound")
    sha = repository.commit(ref, parent or head, adds, removes, header["summary"], user.name)
    answer = {"success": True, "commitOid": sha, "commitUrl": f"{ask.hub.url}/{repo}/commit/{sha}"}
    return answer | ({"pullRequestUrl": f"{ask.hub.url}/{repo}/discussions/{number}"} if opens else {})


def _blob(ask: Handler, repository: Repository, item: dict[str, Any]) -> Blob:
    value = item["value"]
    if item["key"] == "lfsFile":
        if value["oid"] not in repository.objects:
            raise Answer(400, f"Your push was rejected because an LFS pointer has no file: {value['path']}")
        return Blob(repository.objects[value["oid"]], lfs=True)
    return Blob(base64.b64decode(value["content"]))


# Large files
def batch(ask: Handler, repo: str) -> object:
    repository, asked = readable(ask, repo), json.loads(ask.body)
    signed_in(ask)
    objects = []
    for oid, size in ((each["oid"], each["size"]) for each in asked["objects"]):
        upload = {"href": f"{ask.hub.storage}/{repo}/{oid}?{SIGNATURE}"}
        new = {"authenticated": True, "actions": {"upload": upload}}
        objects.append({"oid": oid, "size": size} | ({} if oid in repository.objects else new))
    return {"transfer": "basic", "objects": objects}


def put(ask: Handler, repo: str, oid: str) -> object:
    """Storage knows no user, only whether the address is signed."""
    repository = ask.hub.repositories[repo]
    if SIGNATURE not in ask.path or "Authorization" in ask.headers:
        raise Answer(400, "Only one auth mechanism allowed, and the address must be signed")
    if hashlib.sha256(ask.body).hexdigest() != oid:
        raise Answer(400, "XAmzContentSHA256Mismatch")
    repository.objects[oid] = ask.body
    return lambda: ask.send(200, b"", {"ETag": f'"{hashlib.md5(ask.body).hexdigest()}"'})


# Downloads
def resolve(ask: Handler, repo: str, rev: str, path: str) -> object:
    repository = readable(ask, repo)
    sha = at(repository, rev)
    blob = repository.commits[sha].files.get(path)
    if blob is None:
        raise Answer(404, "Entry not found", "EntryNotFound")
    headers = {"X-Repo-Commit": sha, "ETag": f'"{blob.etag}"'}
    if not blob.lfs:
        return lambda: ask.send(200, blob.data, headers)
    headers |= {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
    headers["Location"] = f"{ask.hub.storage}/{repo}/{blob.sha256}?{SIGNATURE}"
    return lambda: ask.send(302, b"", headers)


def get(ask: Handler, repo: str, oid: str) -> object:
    if SIGNATURE not in ask.path or "Authorization" in ask.headers:
        raise Answer(400, "Only one auth mechanism allowed, and the address must be signed")
    data = ask.hub.repositories[repo].objects[oid]
    return lambda: ask.send(200, data, {"ETag": f'"{oid}"'})


OID = r"(?P<oid>[0-9a-f]{64})"
ROUTES: list[tuple[str, str, Callable[..., object]]] = [
    ("GET", r"/api/whoami-v2", whoami),
    ("POST", r"/api/repos/create", create),
    ("POST", r"/api/validate-yaml", validate_yaml),
    ("GET", rf"/api/models/{REPO}", info),
    ("GET", rf"/api/models/{REPO}/revision/{REV}", info),
    ("GET", rf"/api/models/{REPO}/refs", list_refs),
    ("GET", rf"/api/models/{REPO}/tree/{REV}(?:/(?P<folder>.+))?", tree),
    ("POST", rf"/api/models/{REPO}/branch/{REV}", branch),
    ("POST", rf"/api/models/{REPO}/preupload/{REV}", preupload),
    ("POST", rf"/api/models/{REPO}/commit/{REV}", commit),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", batch),
    ("PUT", rf"/storage/{REPO}/{OID}", put),
    ("GET HEAD", rf"/storage/{REPO}/{OID}", get),
    ("GET HEAD", rf"/{REPO}/resolve/{REV}/(?P<path>.+)", resolve),
]


# HTTP
class HubServer:
    """A Hub on 127.0.0.1, on which all .safetensors are large files."""

    def __init__(self) -> None:
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
    disable_nagle_algorithm = True  # an answer goes in several parts, none of which waits for the one before

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
        self.body = self.rfile.read(length // 2 if cut else length)
        headers = {name.lower(): value for name, value in self.headers.items()}
        with self.hub.lock:
            self.hub.requests.append(Request(self.command, self.path, headers, self.body))
        if cut:
            return self._hang_up()
        try:
            if fault and isinstance(fault.what, int):
                return self.answer(fault.what, {"error": fault.message})
            with self.hub.lock:
                reply = self._route(url.path)
            return self._hang_up() if self.what == "lose" else reply()
        except Answer as answer:
            headers = {"X-Error-Message": answer.message} | ({"X-Error-Code": answer.code} if answer.code else {})
            return self.answer(answer.status, {"error": answer.message, **answer.more}, **headers)

    do_GET = do_HEAD = do_POST = do_PUT = _serve  # names that http.server looks for

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
